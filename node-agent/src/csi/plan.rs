//! What a Stage does next, given what was read: pure, total, one small step at a time.
//!
//! Invariants: mkfs runs only with an Intent of this very attachment, read after a complete probe that found nothing but our own
//! (I1, I2); nothing is mounted before the ledger says Formatted (D6), but for adopted disks; the filesystem's UUID is compared with
//! the ledger before every mount (I5); what is Unknown is never formatted.

use rds_crds::volume::{FormatLedger, FormatState};

use super::failure::Failure;
use super::host::{Found, Verdict};

/// Everything that a step of staging a filesystem looks at.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The volume, for messages.
    pub volume: &'a str,
    /// Its UID: what its filesystem's UUID has to be.
    pub uid: &'a str,
    /// UID of this node's attachment.
    pub attachment: &'a str,
    /// The filesystem of the request.
    pub wanted: &'a str,
    /// No write of any kind.
    pub read_only: bool,
    /// The ledger, read live for this step; absent means Unknown.
    pub ledger: Option<&'a FormatLedger>,
    /// What this attachment has asked for: the type.
    pub asked: Option<&'a str>,
    /// What it has reported: the UUID.
    pub reported: Option<&'a str>,
    /// What a complete reading of the disk found, in this pass.
    pub found: Option<&'a Found>,
    /// This pass made the filesystem.
    pub made: bool,
    /// What its check said, in this pass.
    pub checked: Option<&'a Verdict>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the whole disk.
    Probe,
    /// Record that this node wants to make the filesystem.
    Ask,
    /// The operator has to record it.
    AwaitIntent,
    /// Make the filesystem, now.
    Format,
    /// Record what was made.
    Report,
    /// The operator has to record it.
    AwaitFormatted,
    /// Check it.
    Check,
    /// Mount it.
    Mount,
    /// Never, as things are.
    Refuse(Failure),
}

/// The next step.
#[must_use]
pub fn next(seen: &Seen<'_>) -> Step {
    let Some(found) = seen.found else {
        // Refused without touching the disk.
        return early(seen).unwrap_or(Step::Probe);
    };
    if let Some(step) = early(seen) {
        return step;
    }
    match state(seen.ledger) {
        FormatState::Unknown => unknown(seen, found),
        FormatState::Blank => blank(seen, found),
        FormatState::Intent => intent(seen, found),
        FormatState::Formatted => formatted(seen, found),
        FormatState::Foreign => foreign(seen, found),
        // Refused above.
        FormatState::UsedAsBlock => Step::Refuse(as_block(seen)),
    }
}

/// Refusals for which the disk need not be read.
fn early(seen: &Seen<'_>) -> Option<Step> {
    let name = seen.volume;
    let recorded = seen.ledger.and_then(|l| l.fs_type.as_deref());
    match state(seen.ledger) {
        FormatState::UsedAsBlock => Some(Step::Refuse(as_block(seen))),
        FormatState::Formatted | FormatState::Intent if recorded.is_some_and(|fs| fs != seen.wanted) => {
            let has = recorded.unwrap_or_default();
            Some(Step::Refuse(Failure::Invalid(format!(
                "volume {name} has the filesystem {has}, the request asks for {}: set csi.storage.k8s.io/fstype of the \
                 StorageClass, or fsType of the PersistentVolume, to {has}; a volume never changes its filesystem",
                seen.wanted
            ))))
        }
        FormatState::Blank | FormatState::Intent if seen.read_only => Some(Step::Refuse(Failure::NotNow(format!(
            "volume {name} has no filesystem yet and is attached read-only: use it once read-write, then read-only"
        )))),
        FormatState::Blank
        | FormatState::Intent
        | FormatState::Formatted
        | FormatState::Foreign
        | FormatState::Unknown => None,
    }
}

fn as_block(seen: &Seen<'_>) -> Failure {
    Failure::NotNow(format!(
        "volume {} was used as a raw block device: it is never mounted as a filesystem. Use it with volumeMode: Block",
        seen.volume
    ))
}

fn blank(seen: &Seen<'_>, found: &Found) -> Step {
    match found {
        Found::Blank if seen.asked == Some(seen.wanted) => Step::AwaitIntent,
        Found::Blank => Step::Ask,
        Found::Filesystem { .. } | Found::Unfinished | Found::Foreign(_) => Step::Refuse(not_blank(seen, found)),
    }
}

/// Never mounted, so what is left of ours may be made anew, and what was made whole is reported; of others, nothing may.
fn intent(seen: &Seen<'_>, found: &Found) -> Step {
    let ours = match found {
        Found::Blank | Found::Unfinished => true,
        Found::Filesystem { uuid, fs } => uuid.eq_ignore_ascii_case(seen.uid) && fs == seen.wanted,
        Found::Foreign(_) => false,
    };
    if !ours {
        return Step::Refuse(not_blank(seen, found));
    }
    let mine = seen.ledger.and_then(|l| l.attachment_uid.as_deref()) == Some(seen.attachment);
    match (mine, seen.reported) {
        (true, Some(uuid)) if uuid.eq_ignore_ascii_case(seen.uid) => Step::AwaitFormatted,
        // Without the mark of an unfinished one it was made whole, though the agent died then, and it was never mounted.
        (true, _) if matches!(found, Found::Filesystem { .. }) => Step::Report,
        (true, _) if seen.made => Step::Refuse(Failure::Volume(format!(
            "mkfs.{} of volume {} reported success, and the disk shows {}: look at the kernel's log of this node and at the disk",
            seen.wanted,
            seen.volume,
            told(found)
        ))),
        (true, _) => Step::Format,
        // Another attachment's, which has left: the operator hands it over.
        (false, _) if seen.asked == Some(seen.wanted) => Step::AwaitIntent,
        (false, _) => Step::Ask,
    }
}

fn formatted(seen: &Seen<'_>, found: &Found) -> Step {
    let recorded = seen.ledger.and_then(|l| l.fs_uuid.as_deref()).unwrap_or(seen.uid);
    match found {
        Found::Filesystem { fs, uuid } if fs == seen.wanted && uuid.eq_ignore_ascii_case(recorded) => checked(seen),
        Found::Filesystem { fs, uuid } => Step::Refuse(Failure::Refused(format!(
            "the disk of volume {} has the filesystem {fs} with UUID {uuid}, and {} with UUID {recorded} was recorded: these \
             are not its data. Nothing is changed; look which disk the appliance exports under this NQN",
            seen.volume, seen.wanted
        ))),
        Found::Blank | Found::Unfinished | Found::Foreign(_) => Step::Refuse(Failure::Refused(format!(
            "volume {} was formatted with {} before, and now the disk shows {}: nothing is changed and it is never formatted \
             again. Look which disk the appliance exports, repair it, or restore from backup",
            seen.volume,
            seen.wanted,
            told(found)
        ))),
    }
}

/// The status was lost. The filesystem with the volume's UID is its own proof; anything else needs a person.
fn unknown(seen: &Seen<'_>, found: &Found) -> Step {
    match found {
        Found::Filesystem { fs, uuid } if uuid.eq_ignore_ascii_case(seen.uid) && fs == seen.wanted => {
            let said =
                seen.reported.is_some_and(|r| r.eq_ignore_ascii_case(seen.uid)) && seen.asked == Some(seen.wanted);
            if said { Step::AwaitFormatted } else { Step::Report }
        }
        Found::Filesystem { .. } | Found::Blank | Found::Unfinished | Found::Foreign(_) => {
            Step::Refuse(Failure::Refused(format!(
                "it is not known what is on the disk of volume {} (its status was lost or restored), and the disk shows {}: it \
                 is never formatted. If the data is wanted, adopt the disk with a new RdsVolume (spec.adopt); else delete it",
                seen.volume,
                told(found)
            )))
        }
    }
}

fn foreign(seen: &Seen<'_>, found: &Found) -> Step {
    match found {
        Found::Filesystem { fs, .. } if fs == seen.wanted => checked(seen),
        Found::Filesystem { fs, .. } => Step::Refuse(Failure::Invalid(format!(
            "the adopted disk of volume {} has the filesystem {fs}, the request asks for {}: set fsType of the \
             PersistentVolume to {fs}",
            seen.volume, seen.wanted
        ))),
        Found::Blank | Found::Unfinished | Found::Foreign(_) => Step::Refuse(Failure::Refused(format!(
            "the adopted disk of volume {} shows {}: an adopted disk is never formatted. Make a filesystem on it by hand, or \
             use it with volumeMode: Block",
            seen.volume,
            told(found)
        ))),
    }
}

/// Once found, an existing filesystem is checked; a reader only looks whether there is a journal to replay (I9).
fn checked(seen: &Seen<'_>) -> Step {
    if seen.made {
        return Step::Mount;
    }
    match seen.checked {
        None => Step::Check,
        Some(Verdict::Dirty) => Step::Refuse(Failure::NotNow(format!(
            "the filesystem of volume {} was not unmounted cleanly, and a reader cannot replay its journal: mount it once read-write, \
             then read-only",
            seen.volume
        ))),
        Some(Verdict::Good | Verdict::Repaired | Verdict::Skipped(_)) => Step::Mount,
        Some(Verdict::Damaged(why)) => Step::Refuse(Failure::Damaged(format!(
            "the filesystem of volume {} is damaged and is not mounted: {why}. Repair it from a node with the volume attached, or \
             restore from backup; after three tries in a row the circuit breaker opens",
            seen.volume
        ))),
    }
}

fn not_blank(seen: &Seen<'_>, found: &Found) -> Failure {
    Failure::Refused(format!(
        "the disk of volume {} was never formatted by us, and shows {}: it is not formatted (I1). Look who wrote to it; if the data \
         is wanted, adopt the disk with a new RdsVolume (spec.adopt), else delete the volume and make another",
        seen.volume,
        told(found)
    ))
}

fn told(found: &Found) -> String {
    match found {
        Found::Blank => "nothing at all".to_owned(),
        Found::Unfinished => "an unfinished filesystem".to_owned(),
        Found::Filesystem { fs, uuid } => format!("the filesystem {fs} with UUID {uuid}"),
        Found::Foreign(what) => what.clone(),
    }
}

fn state(ledger: Option<&FormatLedger>) -> FormatState {
    ledger.map_or(FormatState::Unknown, |l| l.state)
}

/// A step of using a volume as a raw block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockStep {
    /// Record that it is used so.
    Say,
    /// The operator has to record it.
    AwaitRecord,
    /// Go on.
    Use,
    /// Never.
    Refuse(Failure),
}

/// The next step of using a volume as a raw block device: recorded before the first publish, so that it is never formatted.
#[must_use]
pub fn block(volume: &str, ledger: Option<&FormatLedger>, said: bool) -> BlockStep {
    match state(ledger) {
        FormatState::UsedAsBlock | FormatState::Foreign => BlockStep::Use,
        FormatState::Blank | FormatState::Unknown if said => BlockStep::AwaitRecord,
        FormatState::Blank | FormatState::Unknown => BlockStep::Say,
        FormatState::Intent | FormatState::Formatted => BlockStep::Refuse(Failure::NotNow(format!(
            "volume {volume} has a filesystem: it is not given out as a raw block device. Use it with volumeMode: Filesystem"
        ))),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
