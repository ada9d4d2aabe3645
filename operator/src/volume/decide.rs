//! What to do next with one volume: pure, total, without client and clock.
//!
//! Invariants: an `Unknown` never leads to a step that removes or makes anything (I17); the format ledger says Blank only
//! for a disk that carries the nonce recorded before its create (I1, I13); a generation never goes down (D3); no step ends
//! an export while a holder exists (D4). The beginning is in [`super::creation`], the end in [`super::deletion`].

use rds_crds::Reason;
use rds_crds::volume::CreationOutcome;

use crate::routeros::{Bytes, DiskRow, Generation, OwnerTag};

use super::appliance_view::{ApplianceView, Place, Token, token};
use super::creation::{begin, in_the_way, refused, resume, taken, unwanted};
use super::deletion;
use super::model::{
    Change, CreationRecord, Deviation, Fact, Ledger, Mutation, Problem, Recheck, Report, Seen, ServerState, Step,
};
use super::want::Want;

/// The next step for a volume.
pub(crate) fn decide(want: &Want, ledger: &Ledger, seen: &Seen) -> Step {
    let step = if want.deleting {
        deletion::decide(want, ledger, seen)
    } else {
        live(want, ledger, seen)
    };
    match (&seen.server, &step) {
        (ServerState::Maintenance, Step::Do(_) | Step::Record(_)) => Report {
            keep: ledger.capacity.is_some(),
            ..Report::new(
                Some(false),
                Reason::Maintenance,
                "the server is in maintenance: new work waits until spec.maintenance is taken back",
            )
        }
        .rest(Recheck::Slowly),
        _ => step,
    }
}

/// The next step for a volume that is wanted, or whose deletion is blocked.
pub(super) fn live(want: &Want, ledger: &Ledger, seen: &Seen) -> Step {
    if let ServerState::Unusable(reason, message) = &seen.server {
        let keep = ledger.capacity.is_some();
        return Report {
            keep,
            ..Report::new(Some(false), *reason, message.clone())
        }
        .rest(Recheck::Slowly);
    }
    match &ledger.creation {
        None if want.delete_requested && ledger.generation.is_none() => unwanted(),
        None => begin(want, ledger, seen),
        Some(record) => match record.outcome {
            CreationOutcome::Pending => resume(want, ledger, record, seen),
            CreationOutcome::Refused => match seen.half_made.as_ref().or(failure(seen)) {
                Some(problem) => refused(problem),
                None if want.delete_requested => unwanted(),
                None if in_the_way(want, seen).is_some() => taken(want, seen),
                None => begin(want, ledger, seen),
            },
            CreationOutcome::Created | CreationOutcome::Adopted => steady(want, ledger, record, seen),
        },
    }
}

/// The status was lost, or is older than the disk: what the disk says goes into it.
pub(super) fn recover(row: &DiskRow, tag: &OwnerTag, at_least: Generation) -> Step {
    let exported = row.nqn.clone().filter(|_| row.exported);
    Step::Record(Change::Recover(
        tag.generation.max(at_least),
        tag.nonce.clone(),
        exported,
    ))
}

/// The disk was made once. Keep it as wanted, report what differs, never make it anew.
fn steady(want: &Want, ledger: &Ledger, record: &CreationRecord, seen: &Seen) -> Step {
    let generation = ledger.generation.unwrap_or(Generation(1));
    let view = match &seen.view {
        // A growth needs no reading first: the command tests token and size on the appliance, and reads back (I15).
        Fact::NotRead
            if seen.last.is_none()
                && ledger.capacity.is_some_and(|have| have < want.size)
                && ledger.deletion.is_none()
                && !ledger.fence =>
        {
            match &seen.room {
                Fact::NotRead => return Step::MeasureRoom,
                Fact::Known(room) if ledger.capacity.is_some_and(|have| want.size.0 - have.0 <= room.0) => {
                    return Step::Do(Mutation::Grow);
                }
                Fact::Known(_) | Fact::Unknown(_) => return Step::List,
            }
        }
        // After a refusal the listing is old news.
        Fact::NotRead if seen.last.is_some() => return Step::Look,
        Fact::NotRead => return Step::List,
        Fact::Unknown(problem) => {
            return Report {
                keep: true,
                ..Report::new(None, problem.reason, problem.message.clone())
            }
            .rest(Recheck::Backoff);
        }
        Fact::Known(view) => view,
    };
    let place = view.place(want);
    let (row, tag) = match &place {
        Place::Ours(row, tag) => (*row, *tag),
        Place::Free | Place::FileOnly => {
            let file = if matches!(place, Place::FileOnly) {
                "; its file is still there"
            } else {
                "; its file is gone too"
            };
            let why = format!(
                "the disk {} is gone from the appliance{file}. Restore it by hand with the same slot, file and comment, or restore from backup",
                want.id.slot
            );
            return twice(seen, Deviation::DiskMissing, Report::stalled(Reason::DiskMissing, why));
        }
        Place::Taken(why) => {
            let why = format!(
                "{why}: nothing is changed there. Put the comment of the disk back as status.disk.comment shows it"
            );
            return twice(seen, Deviation::TagLost, Report::stalled(Reason::TagLost, why));
        }
    };
    match token(tag, generation, &record.nonce) {
        Token::Current if ledger.toggling => return Step::Record(Change::Toggled),
        Token::Current => {}
        // A recorded step that the appliance has not taken yet: a fence, which has its own controller, ..
        Token::Behind if ledger.fence || ledger.deletion.is_some() => {}
        // .. or a toggle of the export.
        Token::Behind if ledger.toggling => return behind(ledger, seen, row),
        Token::Behind => return went_back(want, ledger, seen, row),
        Token::Ahead | Token::Stranger => {
            return recover(row, tag, generation);
        }
    }
    in_order(want, ledger, seen, view, row)
}

/// The record is one toggle ahead of the appliance: take it, unless somebody holds the volume (D4). Until it is read back nobody is
/// admitted: it may run late, and whoever is connected then is cut.
fn behind(ledger: &Ledger, seen: &Seen, row: &DiskRow) -> Step {
    let report = |ready, reason, why: String| Report {
        expand_pending: Some((reason, why.clone())),
        disk: Some(row.clone()),
        ..Report::new(Some(ready), if ready { Reason::Available } else { reason }, why)
    };
    match (&seen.last, ledger.users()) {
        (Some((Mutation::Toggle, Some(problem))), _) => {
            let why = format!(
                "the export is switched off and on for the new size, and nobody is admitted before that was read back: {}",
                problem.message
            );
            report(false, problem.reason, why).rest(Recheck::Backoff)
        }
        (_, Some(users)) => report(true, Reason::NeedsDetach, needs_detach(&users)).rest(Recheck::Slowly),
        (_, None) => Step::Do(Mutation::Toggle),
    }
}

/// The disk is of an older generation than the record, and nothing is under way: an older configuration of the appliance came back,
/// or somebody edited the comment. Under an old name a node that was cut would be let in again (I3), and no fence finds its token.
///
/// A toggle puts token and name right at once. Under another name than that of the record nobody is connected rightly; where the name
/// is right, whoever uses the volume is left alone (D4).
fn went_back(want: &Want, ledger: &Ledger, seen: &Seen, row: &DiskRow) -> Step {
    let what = format!(
        "the disk {} is of an older generation than recorded, as if an older configuration of the appliance had come back",
        row.slot
    );
    if let (true, Some(users)) = (exported(want, row), ledger.users()) {
        let why = format!("{what}; used by {users}: stop the pods that use it, then it is put right");
        return Report {
            disk: Some(row.clone()),
            drifted: Some((Reason::EditedByOthers, why)),
            ..Report::new(Some(true), Reason::Available, "")
        }
        .rest(Recheck::Slowly);
    }
    let report = |reason, why: String| Report {
        disk: Some(row.clone()),
        drifted: Some((Reason::ExportLost, why.clone())),
        deviation: Some(Deviation::ExportLost),
        ..Report::new(Some(false), reason, why)
    };
    match &seen.last {
        Some((Mutation::Toggle, Some(problem))) => {
            let why = format!("{what}; to put it right failed: {}", problem.message);
            report(problem.reason, why).rest(Recheck::Backoff)
        }
        _ if seen.seen_before == Some(Deviation::ExportLost) => Step::Do(Mutation::Toggle),
        _ => {
            let why = format!("{what}; seen once, put right when seen again");
            report(Reason::ExportLost, why).rest(Recheck::In(SECOND_LOOK))
        }
    }
}

fn needs_detach(users: &str) -> String {
    format!(
        "this appliance resizes a disk only while its export is off, and {users} uses it: stop the pods that use the volume"
    )
}

/// The row carries the current token: compare export and size.
fn in_order(want: &Want, ledger: &Ledger, seen: &Seen, view: &ApplianceView, row: &DiskRow) -> Step {
    let drifted = drift(want, ledger, view, row);
    let ok = Report {
        disk: Some(row.clone()),
        drifted,
        ..Report::new(Some(true), Reason::Available, "")
    };
    if let (Some(measured), Some(known)) = (row.size, ledger.capacity)
        && measured < known
    {
        let why = format!(
            "the disk {} has {measured} bytes and had {known}: somebody made it smaller. Stop its users and restore from backup",
            row.slot
        );
        return Report {
            disk: Some(row.clone()),
            drifted: Some((Reason::Shrunk, why.clone())),
            ..Report::stalled(Reason::Shrunk, why)
        }
        .rest(Recheck::Slowly);
    }
    if !exported(want, row) && !ledger.fence && ledger.deletion.is_none() {
        return lost_export(want, ledger, seen, row);
    }
    match row.size {
        // Under a fence the token is on its way: nothing else is sent.
        Some(size) if size < want.size && !ledger.fence => grow(want, ledger, seen, size, ok),
        _ => ok.rest(Recheck::Later),
    }
}

/// Repair needs two observations, no fence in progress and the token of this generation. A renamed export is left alone
/// while somebody may be connected to it (D4).
fn lost_export(want: &Want, ledger: &Ledger, seen: &Seen, row: &DiskRow) -> Step {
    let what = match &row.nqn {
        Some(nqn) if row.exported => format!(
            "the disk {} is exported as {nqn} instead of {} on port {}",
            row.slot, want.id.nqn, want.port
        ),
        _ => format!("the disk {} is not exported", row.slot),
    };
    let report = |reason, why: String| Report {
        disk: Some(row.clone()),
        drifted: Some((Reason::ExportLost, why.clone())),
        ..Report::new(Some(false), reason, why)
    };
    if let (true, Some(users)) = (row.exported, ledger.users()) {
        let why = format!("{what}; held by {users}: stop the pods that use it, then it is repaired");
        return report(Reason::ExportLost, why).rest(Recheck::Slowly);
    }
    if let Some(problem) = failure(seen).filter(|_| matches!(seen.last, Some((Mutation::Export, _)))) {
        return report(
            problem.reason,
            format!("{what}; the repair failed: {}", problem.message),
        )
        .rest(Recheck::Backoff);
    }
    if seen.seen_before == Some(Deviation::ExportLost) {
        return Step::Do(Mutation::Export);
    }
    let mut report = report(
        Reason::ExportLost,
        format!("{what}; seen once, repaired when seen again"),
    );
    report.deviation = Some(Deviation::ExportLost);
    report.rest(Recheck::In(SECOND_LOOK))
}

/// Seconds between the two observations that a conclusion needs.
pub(crate) const SECOND_LOOK: std::time::Duration = std::time::Duration::from_secs(3);

fn grow(want: &Want, ledger: &Ledger, seen: &Seen, size: Bytes, ok: Report) -> Step {
    let pending = |reason, why: String, again| {
        Report {
            expand_pending: Some((reason, why)),
            ..ok.clone()
        }
        .rest(again)
    };
    match &seen.last {
        // A refusal too: csi-resizer asks for no other size before this one is done, so that a claim would wait for minutes after
        // room was made.
        Some((Mutation::Grow | Mutation::Toggle, Some(problem))) => {
            return pending(problem.reason, problem.message.clone(), Recheck::Backoff);
        }
        Some((Mutation::Grow, None)) => match ledger.users() {
            None => return Step::Record(Change::BeginToggle),
            Some(users) => return pending(Reason::NeedsDetach, needs_detach(&users), Recheck::Slowly),
        },
        Some((Mutation::Toggle, None)) => {
            let why = format!("the disk kept its size of {size} bytes after growing and toggling the export");
            return pending(Reason::Refused, why, Recheck::Slowly);
        }
        Some(_) | None => {}
    }
    let more = Bytes(want.size.0 - size.0);
    match &seen.room {
        Fact::NotRead => Step::MeasureRoom,
        Fact::Unknown(problem) => pending(problem.reason, problem.message.clone(), Recheck::Backoff),
        Fact::Known(room) if *room < more => pending(Reason::PoolFull, no_room(more, *room), Recheck::Backoff),
        Fact::Known(_) => Step::Do(Mutation::Grow),
    }
}

/// Whether the row is exported as wanted.
pub(super) fn exported(want: &Want, row: &DiskRow) -> bool {
    row.exported && row.nqn.as_deref() == Some(want.id.nqn.as_str()) && row.port.is_none_or(|port| port == want.port)
}

/// What differs from what we made, beside export and size.
fn drift(want: &Want, ledger: &Ledger, view: &ApplianceView, row: &DiskRow) -> Option<(Reason, String)> {
    let mut all = Vec::new();
    if let Some(other) = view.second_row(want) {
        all.push(format!(
            "the disk {} uses the same file: two disks over one file destroy it, remove that one",
            other.slot
        ));
    }
    if let Some(other) = view.conflicting_nqn(want) {
        all.push(format!("the disk {} exports the same NQN", other.slot));
    }
    if row.mount_filesystem == Some(true) {
        all.push("mount-filesystem is on: RouterOS may mount the guest's filesystem; set it to no".to_owned());
    }
    if row.shared {
        all.push("SMB, NFS or media sharing is on: switch it off".to_owned());
    }
    if row.disabled {
        all.push("the disk is disabled: enable it".to_owned());
    }
    if let (Some(measured), Some(known)) = (row.size, ledger.capacity)
        && measured > known
        && measured > want.size
    {
        all.push(format!(
            "the disk grew to {measured} bytes, more than spec.capacity asks for"
        ));
    }
    (!all.is_empty()).then(|| (Reason::EditedByOthers, all.join("; ")))
}

fn twice(seen: &Seen, deviation: Deviation, report: Report) -> Step {
    if seen.seen_before == Some(deviation) {
        let drifted = Some((report.reason, report.message.clone()));
        return Report {
            drifted,
            deviation: Some(deviation),
            ..report
        }
        .rest(Recheck::Slowly);
    }
    // Once is no proof: another administrator may be in the middle of something.
    Report {
        keep: true,
        stalled: false,
        deviation: Some(deviation),
        ..report
    }
    .rest(Recheck::In(SECOND_LOOK))
}

/// The problem of the last step on the appliance.
pub(super) fn failure(seen: &Seen) -> Option<&Problem> {
    seen.last.as_ref().and_then(|(_, problem)| problem.as_ref())
}

/// Something that may pass: say so and come again. The status of a volume that works already is left alone.
pub(super) fn retry(problem: &Problem, ledger: &Ledger) -> Step {
    Report {
        keep: ledger.capacity.is_some(),
        ..Report::new(Some(false), problem.reason, problem.message.clone())
    }
    .rest(Recheck::Backoff)
}

pub(super) fn no_room(need: Bytes, room: Bytes) -> String {
    format!(
        "the pool has room for {room} bytes and {need} are needed: free space, lower spec.limits.reserved or raise overcommitPercent of the server"
    )
}
