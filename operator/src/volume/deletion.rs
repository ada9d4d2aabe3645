//! How a volume ends. Data is removed only on a recorded request for this very UID (D2, I11).
//!
//! Order: PersistentVolumes (live), licence by compare-and-swap, token moved and export off, phase by compare-and-swap, disk removed,
//! file removed while no row names it, both read back as gone, finalizer dropped. Any other deletion of the object removes
//! nothing, says why, and the volume goes on working through its PersistentVolume.

use rds_crds::Reason;
use rds_crds::volume::{CreationOutcome, DeletionPhase, DeletionPolicy, RdsVolumeStatus};

use crate::routeros::DiskRow;

use super::appliance_view::{ApplianceView, Place, Token, token};
use super::decide::{failure, live, recover, retry};
use super::model::{Backing, Change, CreationRecord, Fact, Ledger, Mutation, Recheck, Report, Seen, ServerState, Step};
use super::want::Want;

/// The next step for a volume whose object is going away.
pub(super) fn decide(want: &Want, ledger: &Ledger, seen: &Seen) -> Step {
    let nothing_made = match &ledger.creation {
        None => ledger.generation.is_none(),
        Some(record) => record.outcome == CreationOutcome::Refused,
    };
    if let ServerState::Unusable(reason, message) = &seen.server {
        // Without the server object nothing was ever sent for a volume without a record.
        if nothing_made && *reason == Reason::ServerMissing {
            return Step::Forget;
        }
        return blocked(
            want,
            ledger,
            seen,
            *reason,
            format!("{message}; disk and file cannot be looked at until then"),
        );
    }
    if !ledger.holders.is_empty() {
        let why = format!("held by {}: delete the pods that use it", ledger.holders.join(", "));
        return blocked(want, ledger, seen, Reason::InUse, why);
    }
    match (&ledger.creation, ledger.deletion) {
        (Some(record), _) if record.outcome == CreationOutcome::Refused => Step::Forget,
        (Some(record), Some(phase)) => licensed(want, ledger, record, phase, seen),
        (Some(record), None) if record.outcome == CreationOutcome::Pending => unconfirmed(want, ledger, record, seen),
        (Some(record), None) => unlicensed(want, ledger, record, seen),
        (None, _) => never_made(want, ledger, seen),
    }
}

/// No command was recorded. One look tells whether the status was lost; what carries no tag of ours is not ours.
fn never_made(want: &Want, ledger: &Ledger, seen: &Seen) -> Step {
    match &seen.view {
        Fact::NotRead => Step::Look,
        Fact::Unknown(problem) => retry(problem, ledger),
        Fact::Known(view) => match view.place(want) {
            Place::Ours(row, tag) => recover(row, tag, tag.generation),
            Place::Free | Place::FileOnly | Place::Taken(_) => Step::Forget,
        },
    }
}

/// A create command was recorded and its result is not known.
fn unconfirmed(want: &Want, ledger: &Ledger, record: &CreationRecord, seen: &Seen) -> Step {
    match &seen.view {
        Fact::NotRead => Step::Look,
        Fact::Unknown(problem) => retry(problem, ledger),
        Fact::Known(view) => match view.place(want) {
            Place::Ours(_, tag) if tag.nonce == record.nonce => unlicensed(want, ledger, record, seen),
            Place::Ours(row, tag) => recover(row, tag, tag.generation),
            Place::Free | Place::FileOnly | Place::Taken(_) => forget_when_late(record, seen),
        },
    }
}

/// The disk exists, and nobody has given the licence to remove it yet.
fn unlicensed(want: &Want, ledger: &Ledger, record: &CreationRecord, seen: &Seen) -> Step {
    let backing = match &seen.backing {
        Fact::NotRead => return Step::Backing,
        Fact::Unknown(problem) => return blocked(want, ledger, seen, problem.reason, problem.message.clone()),
        Fact::Known(backing) => backing,
    };
    if let Some((reason, why)) = objection(want, backing) {
        return blocked(want, ledger, seen, reason, why);
    }
    match want.policy {
        DeletionPolicy::Delete => Step::Record(Change::BeginDeletion),
        DeletionPolicy::Retain if !ledger.fenced.is_empty() => {
            blocked(want, ledger, seen, Reason::InUse, not_acknowledged(&ledger.fenced))
        }
        DeletionPolicy::Retain => release(want, ledger, record, seen),
    }
}

/// Why the deletion of the object is no licence to remove (or release) the disk.
fn objection(want: &Want, backing: &Backing) -> Option<(Reason, String)> {
    if want.delete_requested {
        // The provisioner asks only for volumes whose claim is gone; a bound or retained one is a mistake of somebody's.
        let pv = backing.volumes.iter().find(|pv| pv.bound || pv.retain)?;
        let why = if pv.bound {
            "is bound to a claim: delete that claim"
        } else {
            "has the reclaim policy Retain: delete it first"
        };
        return Some((
            Reason::PersistentVolumeExists,
            format!("PersistentVolume {} {why}", pv.name),
        ));
    }
    if let Some(pv) = backing.volumes.first() {
        let how = if pv.bound {
            "delete its PersistentVolumeClaim instead"
        } else {
            "delete the PersistentVolume first"
        };
        return Some((
            Reason::PersistentVolumeExists,
            format!(
                "PersistentVolume {} uses it; nothing was removed and it goes on working: {how}",
                pv.name
            ),
        ));
    }
    (want.made_by_csi && want.policy == DeletionPolicy::Delete).then(|| {
        let why = "no DeleteVolume was asked for, so the data stays. To keep disk and file set spec.deletionPolicy to Retain; to remove them annotate the RdsVolume with rds.csi.srvlab.io/delete-requested: <its uid>";
        (Reason::NotRequested, why.to_owned())
    })
}

/// The disk stays, and with the object would go the record of who was cut from it. Exported again under the first name, as by an
/// adoption under the same name, it would let such a node in again (I3).
fn not_acknowledged(fenced: &[String]) -> String {
    let nodes = fenced.join(", ");
    format!(
        "cut off from it and not acknowledged by {nodes}: the disk stays, and exported under the same name again it would let that node in to \
         write. Make sure that the machine is off or has been started anew since the cut, then delete its Node object (a kubelet makes it \
         again when it starts)"
    )
}

/// Retain removes only our tag.
fn release(want: &Want, ledger: &Ledger, record: &CreationRecord, seen: &Seen) -> Step {
    match &seen.last {
        Some((Mutation::Release, None)) => return forget_when_late(record, seen),
        Some((Mutation::Release, Some(problem))) if problem.unknown => return retry(problem, ledger),
        Some(_) | None => {}
    }
    let view = match &seen.view {
        Fact::NotRead => return Step::Look,
        Fact::Unknown(problem) => return retry(problem, ledger),
        Fact::Known(view) => view,
    };
    match view.place(want) {
        Place::Ours(row, tag) => match (
            token(tag, ledger.generation.unwrap_or(tag.generation), &record.nonce),
            failure(seen),
        ) {
            (Token::Ahead | Token::Stranger, _) => recover(row, tag, tag.generation),
            (Token::Current | Token::Behind, Some(problem)) => retry(problem, ledger),
            (Token::Current | Token::Behind, None) => Step::Do(Mutation::Release),
        },
        Place::Free | Place::FileOnly | Place::Taken(_) => forget_when_late(record, seen),
    }
}

/// The licence is recorded: carry on from whatever the appliance shows.
fn licensed(want: &Want, ledger: &Ledger, record: &CreationRecord, phase: DeletionPhase, seen: &Seen) -> Step {
    match &seen.last {
        Some((Mutation::Retire, None)) if phase == DeletionPhase::Retiring => return Step::Record(Change::Retired),
        Some((Mutation::Remove | Mutation::RemoveFile, None)) => return forget_when_late(record, seen),
        Some((_, Some(problem))) if problem.unknown => return deleting(problem.reason, &problem.message),
        Some(_) | None => {}
    }
    let first = match phase {
        DeletionPhase::Retiring => Mutation::Retire,
        DeletionPhase::Removing => Mutation::Remove,
    };
    let view = match &seen.view {
        Fact::NotRead if seen.own_record && failure(seen).is_none() => return Step::Do(first),
        Fact::NotRead => return Step::Look,
        Fact::Unknown(problem) => return deleting(problem.reason, &problem.message),
        Fact::Known(view) => view,
    };
    if let Some(problem) = failure(seen).filter(|p| !matches!(p.reason, Reason::Taken | Reason::Refused)) {
        return deleting(problem.reason, &problem.message);
    }
    match view.place(want) {
        Place::Ours(row, tag) => match token(tag, ledger.generation.unwrap_or(tag.generation), &record.nonce) {
            Token::Current if row.exported => exported_again(seen),
            Token::Current if phase == DeletionPhase::Retiring => Step::Record(Change::Retired),
            Token::Current => again_or_say(seen, Mutation::Remove),
            Token::Behind => again_or_say(seen, Mutation::Retire),
            Token::Ahead | Token::Stranger => recover(row, tag, tag.generation),
        },
        Place::Free => forget_when_late(record, seen),
        Place::Taken(why) if view.rows.iter().any(|row| is_in_our_place(want, row)) => stranger(&why),
        Place::FileOnly | Place::Taken(_) => leftover(want, record, view, seen),
    }
}

/// The disk has the token of the deletion and is exported all the same: somebody switched it on again, and it would never be removed so.
/// It is retired anew, under a further generation; once a pass, or two who disagree would keep each other busy.
fn exported_again(seen: &Seen) -> Step {
    match failure(seen) {
        _ if !seen.own_record => Step::Record(Change::BeginDeletion),
        Some(problem) => deleting(problem.reason, &problem.message),
        None => deleting(
            Reason::Refused,
            "the disk is exported again; its export is switched off once more",
        ),
    }
}

fn is_in_our_place(want: &Want, row: &DiskRow) -> bool {
    row.slot == want.id.slot.as_str() || row.names(&want.id.path)
}

/// Something has our slot or file and does not carry our tag there. If it is our disk with an edited comment, its data is still there and
/// it may still be exported: that is not gone, and nobody may be told so (I7).
fn stranger(why: &str) -> Step {
    let why = format!(
        "{why}: nothing is removed there. If it is the disk of this volume, put slot and comment back as status.disk shows them, and it \
         is removed; if it is not, give it another slot and file, and the object goes"
    );
    let report = Report {
        deletion_blocked: Some((Reason::TagLost, why.clone())),
        ..Report::new(Some(false), Reason::Deleting, why)
    };
    report.rest(Recheck::Slowly)
}

/// The disk is gone. The file goes only if a create of this object's own made it, which carried its tag then, and no row names it.
fn leftover(want: &Want, record: &CreationRecord, view: &ApplianceView, seen: &Seen) -> Step {
    let named = view.rows.iter().any(|row| row.names(&want.id.path));
    // A record that was recovered from the appliance says Adopted, too.
    if view.file && !named && !want.adopt {
        return again_or_say(seen, Mutation::RemoveFile);
    }
    forget_when_late(record, seen)
}

fn again_or_say(seen: &Seen, step: Mutation) -> Step {
    match &seen.last {
        Some((last, Some(problem))) if *last == step => deleting(problem.reason, &problem.message),
        _ => Step::Do(step),
    }
}

/// After an unknown `add` the finalizer stays until no command can be left that might still run.
fn forget_when_late(record: &CreationRecord, seen: &Seen) -> Step {
    if record.outcome != CreationOutcome::Pending && !record.earlier_unknown {
        return Step::Forget;
    }
    let Some(wait) = record.may_still_run(seen.now, seen.max_exec_age) else {
        return Step::Forget;
    };
    let why = "the result of a create command is not known and it may still run; the object stays until it cannot";
    let report = Report {
        deletion_blocked: Some((Reason::WaitingForLateCommands, why.to_owned())),
        ..Report::new(Some(false), Reason::Deleting, why)
    };
    report.rest(Recheck::In(wait))
}

fn deleting(reason: Reason, message: &str) -> Step {
    let report = Report {
        deletion_blocked: Some((reason, message.to_owned())),
        ..Report::new(Some(false), Reason::Deleting, message)
    };
    report.rest(Recheck::Backoff)
}

/// The deletion waits; the volume goes on working.
fn blocked(want: &Want, ledger: &Ledger, seen: &Seen, reason: Reason, why: String) -> Step {
    match live(want, ledger, seen) {
        Step::Rest(report, again) => Step::Rest(
            Box::new(Report {
                deletion_blocked: Some((reason, why)),
                ..*report
            }),
            again,
        ),
        step @ (Step::Look
        | Step::List
        | Step::Backing
        | Step::MeasureRoom
        | Step::Record(_)
        | Step::Do(_)
        | Step::Forget) => step,
    }
}

/// The next step for a volume whose spec or status cannot be read, or whose server does not exist.
pub(super) fn unreadable(status: Option<&RdsVolumeStatus>, deleting: bool, reason: Reason, why: String) -> Step {
    let nothing_made = status.is_none_or(|s| match &s.creation {
        None => s.export_generation.is_none(),
        Some(creation) => creation.outcome == CreationOutcome::Refused,
    });
    if deleting && nothing_made {
        return Step::Forget;
    }
    let blocked = deleting.then(|| (reason, format!("{why}; disk and file cannot be looked at until then")));
    Report {
        deletion_blocked: blocked,
        ..Report::stalled(reason, why)
    }
    .rest(Recheck::Slowly)
}
