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
            creation.outcome = outcome;
            creation.earlier_unknown = None;
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
        Change::Recover(generation, nonce) => {
            status.creation = Some(Creation {
                nonce: nonce.to_string(),
                started_at: Time(whole_seconds(now)),
                outcome: CreationOutcome::Adopted,
                earlier_unknown: None,
            });
            raise(status, *generation);
            // What is on the disk and who uses it is not known any more: never format, fence before admitting.
            status.format = Some(ledger(if want.adopt {
                FormatState::Foreign
            } else {
                FormatState::Unknown
            }));
            status.holders_unknown_since = Some(Time(whole_seconds(now)));
        }
        Change::BeginToggle => raise_by_one(status),
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
