//! Logs and metrics. Owns the private registry (R76: nothing registers globally, so two operators fit into one process).
//!
//! Series keep the names of the Go driver where the meaning is the same (K16). Labels come from closed sets: never a
//! volume, never free text.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Buckets of operations on volumes, in seconds (K16), and finer ones below: our creates take well under 100 ms.
const OPERATION_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets of attaching and detaching, in seconds (K16), and coarser ones above: a call waits for the node to let go.
const ATTACHMENT_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The metrics of the operator; clones share the series.
#[derive(Clone)]
pub struct Telemetry {
    registry: Registry,
    /// `rds_csi_volume_operations_total{operation,status}`; status is `success` or `failure`.
    pub volume_operations: IntCounterVec,
    /// `rds_csi_volume_operation_duration_seconds{operation}`.
    pub volume_operation_seconds: HistogramVec,
    /// `rds_csi_attachment_attach_total{status}`: ControllerPublishVolume by outcome.
    pub attachment_attaches: IntCounterVec,
    /// `rds_csi_attachment_detach_total{status}`: ControllerUnpublishVolume by outcome.
    pub attachment_detaches: IntCounterVec,
    /// `rds_csi_attachment_reconcile_total{action}`: what the reconciler did about an attachment by itself (R61).
    pub attachment_rounds: IntCounterVec,
    /// `rds_csi_attachment_conflicts_total`: calls refused since another node holds the volume.
    pub attachment_conflicts: IntCounter,
    /// `rds_csi_attachment_operation_duration_seconds{operation}`: successful ones only (R55).
    pub attachment_operation_seconds: HistogramVec,
    /// `rds_csi_rpcs_total{method,code}`: every CSI call, by gRPC code.
    pub rpcs: IntCounterVec,
    /// `rds_csi_rpcs_in_flight{method}`.
    pub rpcs_in_flight: IntGaugeVec,
    /// `rds_csi_watch_failures_total{kind}`.
    pub watch_failures: IntCounterVec,
    /// `rds_csi_cached_objects{kind}`.
    pub cached_objects: IntGaugeVec,
    /// `rds_csi_malformed_objects{kind}`: stored objects that cannot be read and are left alone.
    pub malformed_objects: IntGaugeVec,
    /// `rds_csi_shared_host_nqn_nodes`: nodes whose agent names itself to appliances as another node's does.
    pub shared_host_nqns: IntGaugeVec,
}

impl Telemetry {
    /// A registry of its own with all series.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let series = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let series = HistogramVec::new(options, &["operation"])?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        let attachment_conflicts = IntCounter::new(
            "rds_csi_attachment_conflicts_total",
            "Attachments refused since another node holds the volume",
        )?;
        registry.register(Box::new(attachment_conflicts.clone()))?;
        gauge(
            "rds_csi_build_info",
            "Always 1; the labels say which build this is",
            &["component", "version"],
        )?
        .with_label_values(&["rds-operator", env!("CARGO_PKG_VERSION")])
        .set(1);
        Ok(Self {
            volume_operations: counter(
                "rds_csi_volume_operations_total",
                "Operations on volumes by outcome",
                &["operation", "status"],
            )?,
            volume_operation_seconds: histogram(
                "rds_csi_volume_operation_duration_seconds",
                "Time of operations on volumes, with waiting",
                OPERATION_BUCKETS,
            )?,
            attachment_attaches: counter(
                "rds_csi_attachment_attach_total",
                "Attachments of volumes to nodes by outcome",
                &["status"],
            )?,
            attachment_detaches: counter(
                "rds_csi_attachment_detach_total",
                "Detachments of volumes from nodes by outcome",
                &["status"],
            )?,
            attachment_rounds: counter(
                "rds_csi_attachment_reconcile_total",
                "What the reconciler did about an attachment by itself",
                &["action"],
            )?,
            attachment_conflicts,
            attachment_operation_seconds: histogram(
                "rds_csi_attachment_operation_duration_seconds",
                "Time of successful attachments and detachments, with waiting",
                ATTACHMENT_BUCKETS,
            )?,
            rpcs: counter(
                "rds_csi_rpcs_total",
                "CSI calls by method and gRPC code",
                &["method", "code"],
            )?,
            rpcs_in_flight: gauge("rds_csi_rpcs_in_flight", "CSI calls under way", &["method"])?,
            watch_failures: counter(
                "rds_csi_watch_failures_total",
                "Failures of watches on the API server",
                &["kind"],
            )?,
            cached_objects: gauge("rds_csi_cached_objects", "Objects in the watch cache", &["kind"])?,
            malformed_objects: gauge(
                "rds_csi_malformed_objects",
                "Stored objects that cannot be read; they are left alone",
                &["kind"],
            )?,
            shared_host_nqns: gauge(
                "rds_csi_shared_host_nqn_nodes",
                "Nodes whose agents name themselves to appliances as another one does",
                &[],
            )?,
            registry,
        })
    }

    /// The registry, for the series of other modules.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All series in the text format of Prometheus.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Starts the log on stderr. Call once, first of all.
pub fn start_log(format: LogFormat) {
    // kube logs each failed request as an error of its own; who asked says it better.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client::client::builder=off"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .init(),
        LogFormat::Text => log.init(),
    }
}

/// An error with the chain of its sources, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r76_two_in_one_process_do_not_meet() {
        let (one, two) = (Telemetry::new().unwrap(), Telemetry::new().unwrap());
        one.rpcs.with_label_values(&["Probe", "Ok"]).inc();
        assert!(
            one.render()
                .unwrap()
                .contains(r#"rds_csi_rpcs_total{code="Ok",method="Probe"} 1"#)
        );
        assert!(!two.render().unwrap().contains("rds_csi_rpcs_total{"));
    }

    #[test]
    fn b61_every_series_is_in_the_document() {
        let text = include_str!("../../docs/metrics.md");
        let sources = [
            include_str!("telemetry.rs"),
            include_str!("routeros/metrics.rs"),
            include_str!("attachment/metrics.rs"),
        ];
        let quoted = sources.iter().flat_map(|source| source.split('"'));
        let names: Vec<_> = quoted
            .filter(|s| s.starts_with("rds_csi_") && !s.contains(['{', ' ']))
            .collect();
        assert!(names.len() >= 15, "{names:?}");
        for name in names.into_iter().filter(|name| *name != "rds_csi_") {
            assert!(text.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
        }
    }
}
