//! From a [`Report`] to the status that people and GitOps tools read: kstatus conditions and one plain line.
//!
//! Names only the fields that server-side apply owns, never those of [`rds_crds::volume::CAS_STATUS_FIELDS`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::condition::{Saying, clear_condition, find_condition, kind, set_condition};
use rds_crds::volume::{DiskFacts, Migration, RdsVolumeStatus, Role};
use rds_crds::{RdsVolume, Reason, Size};

use super::decide::exported;
use super::model::Report;
use super::want::Want;

/// The part of the status that server-side apply owns, as it should be now. `want` is absent when the spec cannot be read.
pub(crate) fn applied(volume: &RdsVolume, want: Option<&Want>, report: &Report, now: Timestamp) -> RdsVolumeStatus {
    let old = volume.status.clone().unwrap_or_default();
    let generation = volume.metadata.generation;
    let mut conditions = old.conditions.clone();
    let mut say = |kind: &str, status: Option<bool>, reason: Reason, message: &str| {
        set_condition(
            &mut conditions,
            Saying {
                kind,
                status,
                reason: reason.as_str(),
                message: message.to_owned(),
            },
            generation,
            now,
        );
    };
    let disk = report.disk.as_ref();
    if !report.keep {
        let ready_message = if report.message.is_empty() {
            "the disk is exported"
        } else {
            report.message.as_str()
        };
        say(kind::READY, report.ready, report.reason, ready_message);
        if let (Some(row), Some(want)) = (disk, want) {
            say(
                kind::PROVISIONED,
                Some(true),
                Reason::Available,
                "the disk exists and carries this volume's tag",
            );
            match exported(want, row) {
                true => say(
                    kind::EXPORTED,
                    Some(true),
                    Reason::Available,
                    "exported under status.nqn",
                ),
                false => say(kind::EXPORTED, Some(false), Reason::ExportLost, &report.message),
            }
        } else if report.reason == Reason::DiskMissing {
            say(kind::PROVISIONED, Some(false), report.reason, &report.message);
            say(kind::EXPORTED, Some(false), report.reason, &report.message);
        }
        if report.stalled {
            say(kind::STALLED, Some(true), report.reason, &report.message);
        }
    }
    // A fence that runs shows; once it is over, the pass over the attachments takes the word back.
    let said = find_condition(&old.conditions, kind::FENCE_PENDING)
        .is_some_and(|c| c.status == "True" && c.reason == Reason::Cutting.as_str());
    if let Some(fence) = old.fence.as_ref().filter(|_| !said) {
        let who = match fence.node.as_str() {
            "" => "everybody".to_owned(),
            node => format!("node {node}"),
        };
        let message = format!("{who} is being cut at the appliance; until then nobody else gets the volume");
        say(kind::FENCE_PENDING, Some(true), Reason::Cutting, &message);
    }
    for (kind, said) in [
        (kind::DRIFTED, &report.drifted),
        (kind::EXPAND_PENDING, &report.expand_pending),
        (kind::DELETION_BLOCKED, &report.deletion_blocked),
    ] {
        if let Some((reason, message)) = said {
            say(kind, Some(true), *reason, message);
        }
    }
    if !report.keep {
        if !report.stalled {
            clear_condition(&mut conditions, kind::STALLED);
        }
        for (kind, said) in [
            (kind::DRIFTED, &report.drifted),
            (kind::EXPAND_PENDING, &report.expand_pending),
        ] {
            if said.is_none() {
                clear_condition(&mut conditions, kind);
            }
        }
    }
    if report.deletion_blocked.is_none() {
        clear_condition(&mut conditions, kind::DELETION_BLOCKED);
    }
    let measured = disk.and_then(|row| row.size).map(|size| Size(size.0));
    let identity = |new: Option<String>, old: Option<String>| new.or(old);
    let mut status = RdsVolumeStatus {
        observed_generation: if report.keep {
            old.observed_generation
        } else {
            generation
        },
        conditions,
        // A smaller disk is an alarm, not a new measure: the last good size stays (I15).
        capacity: measured.max(old.capacity),
        slot: identity(want.map(|w| w.id.slot.to_string()), old.slot),
        path: identity(want.map(|w| w.id.path.to_string()), old.path),
        nqn: identity(want.map(|w| w.id.nqn.to_string()), old.nqn),
        address: identity(want.map(|w| w.address.clone()), old.address),
        port: want.map(|w| w.port).or(old.port),
        claim: identity(want.map(|w| w.label.clone()).filter(|l| !l.is_empty()), old.claim),
        disk: disk
            .map(|row| DiskFacts {
                comment: row.owner.tag().map(ToString::to_string),
                exported: Some(row.exported),
                mount_filesystem: row.mount_filesystem,
            })
            .or(old.disk),
        circuit_breaker: old.circuit_breaker,
        namespace: old.namespace,
        ..RdsVolumeStatus::default()
    };
    tell_holders(volume, &mut status);
    let used = old
        .explain
        .as_deref()
        .and_then(|line| line.split_once(USE))
        .map(|(_, line)| line.to_owned());
    status.explain = Some(explain(volume, &status, report));
    explain_use(&mut status, used);
    status
}

/// Between what is said of the disk and what is said of its use.
const USE: &str = " | ";

/// The line says so of the use of the volume, and the same as before of its disk.
pub(crate) fn explain_use(status: &mut RdsVolumeStatus, used: Option<String>) {
    let disk = status
        .explain
        .as_deref()
        .map(|line| line.split_once(USE).map_or(line, |(disk, _)| disk));
    status.explain = match (disk, used) {
        (Some(disk), Some(used)) => Some(format!("{disk}{USE}{used}")),
        (Some(disk), None) => Some(disk.to_owned()),
        (None, used) => used,
    };
}

/// One plain line: what is wanted, what is seen, what blocks, what happens next.
fn explain(volume: &RdsVolume, status: &RdsVolumeStatus, report: &Report) -> String {
    let seen = match status.capacity {
        Some(size) if size == volume.spec.capacity => format!("{size} on {}", volume.spec.server),
        Some(size) => format!("{size} on {}, wanted {}", volume.spec.server, volume.spec.capacity),
        None => format!("no disk yet on {}, wanted {}", volume.spec.server, volume.spec.capacity),
    };
    let blocks = [&report.deletion_blocked, &report.expand_pending, &report.drifted]
        .into_iter()
        .flatten()
        .next();
    match blocks {
        Some((_, message)) => format!("{seen}; {message}"),
        None if report.message.is_empty() && report.ready == Some(true) => format!("{seen}, exported; nothing to do"),
        None => format!("{seen}; {}", report.message),
    }
}

/// Whether the applied fields of the stored status differ from these.
pub(crate) fn differs(volume: &RdsVolume, new: &RdsVolumeStatus) -> bool {
    volume.status.is_none() || applied_part(volume) != *new
}

/// The stored status without the fields that only a compare-and-swap may write.
pub(crate) fn applied_part(volume: &RdsVolume) -> RdsVolumeStatus {
    RdsVolumeStatus {
        creation: None,
        export_generation: None,
        toggling: None,
        holders: Vec::new(),
        holders_unknown_since: None,
        fence: None,
        fenced: Vec::new(),
        format: None,
        deletion: None,
        ..volume.status.clone().unwrap_or_default()
    }
}

/// What is said of the record of admission beside it: the nodes in one word, and a migration while there is one.
pub(crate) fn tell_holders(volume: &RdsVolume, status: &mut RdsVolumeStatus) {
    let holders = volume.status.as_ref().map(|s| s.holders.as_slice()).unwrap_or_default();
    let nodes: Vec<&str> = holders.iter().map(|h| h.node.as_str()).collect();
    status.nodes = (!nodes.is_empty()).then(|| nodes.join(","));
    let target = holders.iter().find(|h| h.role == Role::MigrationTarget);
    let source = holders.iter().find(|h| h.role == Role::Primary);
    status.migration = source.zip(target).map(|(source, target)| {
        let allowed = i64::from(volume.spec.migration_timeout_seconds.unwrap_or(300));
        let deadline =
            Timestamp::from_second(target.since.0.as_second().saturating_add(allowed)).unwrap_or(Timestamp::MAX);
        Migration {
            source: source.node.clone(),
            target: target.node.clone(),
            started_at: target.since.clone(),
            deadline: Time(deadline),
        }
    });
}

#[cfg(test)]
mod tests {
    use rds_crds::volume::CAS_STATUS_FIELDS;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_compare_and_swap_owns_is_never_applied() {
        let at = "2026-01-01T00:00:00Z";
        let volume: RdsVolume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1"},
            "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
            "status": {
                "explain": "stays",
                "creation": {"nonce": "0123456789abcdef", "startedAt": at, "outcome": "Created"},
                "exportGeneration": 2, "toggling": 2, "holdersUnknownSince": at,
                "holders": [{"node": "n", "attachmentUID": "u", "role": "Primary", "since": at}],
                "fence": {"node": "n", "attachmentUID": "u", "phase": "Cutting", "nqn": "q", "startedAt": at},
                "fenced": [{"node": "n", "generation": 1, "at": at}],
                "format": {"state": "Blank"},
                "deletion": {"slot": "s", "path": "/p", "phase": "Retiring"},
            },
        }))
        .unwrap();
        let fields = |status: &RdsVolumeStatus| -> Vec<String> {
            let status = serde_json::to_value(status).unwrap();
            status.as_object().unwrap().keys().cloned().collect()
        };
        let stored = fields(volume.status.as_ref().unwrap());
        for field in CAS_STATUS_FIELDS {
            assert!(stored.iter().any(|f| f == field), "{field} is not in the example");
        }
        assert_eq!(fields(&applied_part(&volume)), ["explain"]);
    }

    /// The pass over the attachments says why a fence that was begun takes its time; this pass does not speak over it.
    #[test]
    fn what_is_said_of_a_fence_that_was_begun_stays() {
        let volume = |conditions: serde_json::Value| -> RdsVolume {
            let object = json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1", "uid": "v"},
                "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
                "status": {"exportGeneration": 2, "conditions": conditions, "fence": {"node": "n1", "attachmentUID": "u",
                    "phase": "Cutting", "nqn": "q", "startedAt": "2026-01-01T00:00:00Z"}},
            });
            serde_json::from_value(object).unwrap()
        };
        let pending = |reason: &str| {
            json!([{"type": kind::FENCE_PENDING, "status": "True", "reason": reason, "message": "the appliance is away",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        let said = |conditions| {
            let report = Report::new(None, Reason::Unreachable, "away");
            let next = applied(&volume(conditions), None, &report, Timestamp::UNIX_EPOCH);
            let said = find_condition(&next.conditions, kind::FENCE_PENDING).unwrap();
            (said.reason.clone(), said.message.clone())
        };
        let cutting = Reason::Cutting.as_str();
        assert_eq!(
            said(pending(cutting)),
            (cutting.to_owned(), "the appliance is away".to_owned())
        );
        for before in [json!([]), pending("Waiting")] {
            let (reason, message) = said(before);
            assert!(
                reason == cutting && message.contains("node n1 is being cut"),
                "{reason}: {message}"
            );
        }
    }
}
