//! The compare-and-swap of a volume's status: a pure change of the stored object, written with its resourceVersion.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::RdsVolume;
use rds_crds::condition::whole_seconds;
use rds_crds::volume::{
    Creation, CreationOutcome, Deletion, DeletionPhase, FormatLedger, FormatState, RdsVolumeStatus,
};

use crate::routeros::{Generation, Nonce};

use super::model::Change;
use super::want::Want;

/// The object with the change in its status. `nonce` is used when a creation has none yet.
pub(crate) fn changed(volume: &RdsVolume, want: &Want, change: &Change, nonce: &Nonce, now: Timestamp) -> RdsVolume {
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    let begin = |status: &RdsVolumeStatus| {
        let old = status.creation.as_ref();
        Creation {
            nonce: old.map_or_else(|| nonce.to_string(), |c| c.nonce.clone()),
            started_at: Time(whole_seconds(now)),
            outcome: CreationOutcome::Pending,
            earlier_unknown: old
                .is_some_and(|c| c.outcome == CreationOutcome::Pending || c.earlier_unknown == Some(true))
                .then_some(true),
        }
    };
    let outcome = |status: &mut RdsVolumeStatus, outcome| {
        if let Some(creation) = &mut status.creation {
            // `earlier_unknown` stays: what became of one command says nothing of another that was sent before it.
            creation.outcome = outcome;
        }
    };
    match change {
        Change::BeginCreation => {
            status.creation = Some(begin(status));
            raise(status, Generation(1));
        }
        Change::Created => {
            outcome(status, CreationOutcome::Created);
            // The only place where Blank is written (I1): the disk carries the nonce of this object's own create.
            status.format.get_or_insert(ledger(FormatState::Blank));
        }
        Change::CreationRefused => outcome(status, CreationOutcome::Refused),
        Change::BeginAdoption => {
            status.creation = Some(begin(status));
            raise(status, Generation(1));
            status.format = Some(ledger(FormatState::Foreign));
        }
        Change::Adopted => outcome(status, CreationOutcome::Adopted),
        Change::Recover(generation, nonce, exported) => {
            status.creation = Some(Creation {
                nonce: nonce.to_string(),
                started_at: Time(whole_seconds(now)),
                outcome: CreationOutcome::Adopted,
                earlier_unknown: None,
            });
            raise(status, *generation);
            status.nqn = Some(recovered(&want.base, *generation, nonce, exported.as_deref()));
            // What is on the disk and who uses it is not known any more: never format, fence before admitting.
            status.format = Some(ledger(if want.adopt {
                FormatState::Foreign
            } else {
                FormatState::Unknown
            }));
            status.holders_unknown_since = Some(Time(whole_seconds(now)));
        }
        Change::BeginToggle => {
            raise_by_one(status);
            status.toggling = status.export_generation;
        }
        Change::Toggled => status.toggling = None,
        Change::BeginDeletion => {
            raise_by_one(status);
            status.deletion = Some(Deletion {
                slot: want.id.slot.to_string(),
                path: want.id.path.to_string(),
                phase: DeletionPhase::Retiring,
            });
        }
        Change::Retired => {
            if let Some(deletion) = &mut status.deletion {
                deletion.phase = DeletionPhase::Removing;
            }
        }
    }
    volume
}

/// The NQN of a volume whose status was lost. What is exported stays so: whoever is connected is connected to it (D4). Otherwise a
/// name that nobody knows yet: under an older one, a node that was cut would reconnect by itself (I3).
fn recovered(base: &str, generation: Generation, nonce: &Nonce, exported: Option<&str>) -> String {
    let ours = |nqn: &&str| {
        nqn.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(".g"))
    };
    match (exported.filter(ours), generation.0) {
        (Some(nqn), _) => nqn.to_owned(),
        (None, ..=1) => base.to_owned(),
        (None, n) => format!("{base}.g{n}-{nonce}"),
    }
}

/// A generation never goes down (D3).
fn raise(status: &mut RdsVolumeStatus, generation: Generation) {
    status.export_generation = status.export_generation.max(Some(generation.0));
}

fn raise_by_one(status: &mut RdsVolumeStatus) {
    let next = status.export_generation.map_or(1, |g| g.saturating_add(1));
    raise(status, Generation(next));
}

fn ledger(state: FormatState) -> FormatLedger {
    FormatLedger {
        state,
        attachment_uid: None,
        node: None,
        fs_type: None,
        fs_uuid: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_d4_a_recovered_volume_keeps_what_is_exported_and_opens_no_old_name() {
        let base = "nqn.2000-02.com.mikrotik:pvc-1";
        let g2 = format!("{base}.g2-00000000");
        let nonce: Nonce = "0a1b2c3d".parse().unwrap();
        for (generation, exported, want) in [
            (1, Some(base), base.to_owned()),
            (1, None, base.to_owned()),
            (2, Some(g2.as_str()), g2.clone()),
            (3, Some(g2.as_str()), g2.clone()), // toggled since
            (3, Some(base), base.to_owned()),
            (2, None, format!("{base}.g2-0a1b2c3d")),
            (
                2,
                Some("nqn.2000-02.com.mikrotik:pvc-11"),
                format!("{base}.g2-0a1b2c3d"),
            ),
        ] {
            assert_eq!(
                recovered(base, Generation(generation), &nonce, exported),
                want,
                "{generation} {exported:?}"
            );
        }
    }
}
