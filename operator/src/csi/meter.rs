//! The series of attaching and detaching, by the names of the Go driver (K16, R55).

use std::time::Instant;

use rds_crds::volume::Role;

use super::attach::Attached;
use super::detach::Left;
use super::failure::Failure;
use crate::telemetry::Telemetry;

/// One call that is measured from its start.
pub(super) struct Meter<'a> {
    telemetry: &'a Telemetry,
    started: Instant,
}

impl<'a> Meter<'a> {
    pub(super) fn start(telemetry: &'a Telemetry) -> Self {
        Self {
            telemetry,
            started: Instant::now(),
        }
    }

    /// The end of a ControllerPublishVolume.
    pub(super) fn attached(self, done: Result<&Attached, &Failure>) {
        let operation = match done.map(|attached| attached.role) {
            Ok(Some(Role::MigrationTarget)) => Some("attach_secondary"),
            Ok(Some(Role::Primary | Role::Reader) | None) => Some("attach"),
            Err(_) => None,
        };
        let status = self.took(operation);
        self.telemetry.attachment_attaches.with_label_values(&[status]).inc();
    }

    /// The end of a ControllerUnpublishVolume.
    pub(super) fn detached(self, done: Result<&Left, &Failure>) {
        let operation = match done {
            Ok(Left::Others) => Some("detach_partial"),
            Ok(Left::Nobody) => Some("detach"),
            Err(_) => None,
        };
        let status = self.took(operation);
        self.telemetry.attachment_detaches.with_label_values(&[status]).inc();
    }

    fn took(&self, operation: Option<&str>) -> &'static str {
        let Some(operation) = operation else { return "failure" };
        self.telemetry
            .attachment_operation_seconds
            .with_label_values(&[operation])
            .observe(self.started.elapsed().as_secs_f64());
        "success"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r55_attach_and_detach_are_counted_and_timed() {
        let telemetry = Telemetry::new().unwrap();
        let failure = Failure::Held("held".into());
        for role in [Role::Primary, Role::MigrationTarget] {
            let attached = Attached {
                role: Some(role),
                ..Attached::default()
            };
            Meter::start(&telemetry).attached(Ok(&attached));
        }
        Meter::start(&telemetry).attached(Err(&failure));
        Meter::start(&telemetry).detached(Ok(&Left::Others));
        Meter::start(&telemetry).detached(Ok(&Left::Nobody));
        Meter::start(&telemetry).detached(Err(&failure));
        let text = telemetry.render().unwrap();
        for line in [
            r#"rds_csi_attachment_attach_total{status="success"} 2"#,
            r#"rds_csi_attachment_attach_total{status="failure"} 1"#,
            r#"rds_csi_attachment_detach_total{status="success"} 2"#,
            r#"rds_csi_attachment_detach_total{status="failure"} 1"#,
            r#"rds_csi_attachment_operation_duration_seconds_count{operation="attach"} 1"#,
            r#"rds_csi_attachment_operation_duration_seconds_count{operation="attach_secondary"} 1"#,
            r#"rds_csi_attachment_operation_duration_seconds_count{operation="detach"} 1"#,
            r#"rds_csi_attachment_operation_duration_seconds_count{operation="detach_partial"} 1"#,
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
