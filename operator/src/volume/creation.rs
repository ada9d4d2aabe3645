//! How a volume begins: room is measured, the record is written, one command makes the disk or adopts it; what is not known
//! afterwards is looked at. Pure.
//!
//! Invariants: the record comes before its command (I13); nothing that is there already is taken over (I11); that nothing was
//! made is concluded only when no earlier command can still run (I17).

use rds_crds::Reason;

use crate::routeros::{DiskRow, Generation, Ownership};

use super::appliance_view::{ApplianceView, Place, Token, token};
use super::decide::{exported, failure, no_room, recover, retry};
use super::model::{Change, CreationRecord, Fact, Ledger, Mutation, Problem, Recheck, Report, Seen, Step};
use super::want::Want;

/// Nothing was sent yet, or the appliance refused and proved that it did nothing.
pub(super) fn begin(want: &Want, ledger: &Ledger, seen: &Seen) -> Step {
    // A generation without a creation: somebody emptied part of the status. Look before anything else.
    if want.adopt || (ledger.creation.is_none() && ledger.generation.is_some()) {
        match &seen.view {
            Fact::NotRead => return Step::Look,
            Fact::Unknown(problem) => return retry(problem, ledger),
            Fact::Known(view) => match view.place(want) {
                Place::Ours(row, tag) => return recover(row, tag, tag.generation),
                Place::Free if want.adopt => {
                    let why = format!(
                        "there is no disk {} with the file {} to adopt",
                        want.id.slot, want.id.path
                    );
                    return Report::stalled(Reason::Invalid, why).rest(Recheck::Slowly);
                }
                Place::FileOnly | Place::Taken(_) if want.adopt => return adoptable(want, view),
                Place::Free | Place::FileOnly | Place::Taken(_) => {}
            },
        }
    }
    match &seen.room {
        Fact::NotRead => Step::MeasureRoom,
        Fact::Unknown(problem) => retry(problem, ledger),
        Fact::Known(room) if *room < want.size => {
            Report::stalled(Reason::PoolFull, no_room(want.size, *room)).rest(Recheck::Slowly)
        }
        Fact::Known(_) => Step::Record(Change::BeginCreation),
    }
}

/// An existing disk is bound only with exactly this slot, path and size, and without anybody's tag (I11).
fn adoptable(want: &Want, view: &ApplianceView) -> Step {
    let no = |why: String| Report::stalled(Reason::Taken, why).rest(Recheck::Slowly);
    let Some(row) = view.rows.iter().find(|r| r.is_at(&want.id.slot, &want.id.path)) else {
        let found: Vec<String> = view
            .rows
            .iter()
            .map(|r| format!("{} with {}", r.slot, r.path.as_deref().unwrap_or("no file")))
            .collect();
        let found = if found.is_empty() {
            "a file without a disk".to_owned()
        } else {
            found.join(", ")
        };
        return no(format!(
            "no disk has both the slot {} and the file {}; found: {found}",
            want.id.slot, want.id.path
        ));
    };
    if row.kind != "file" {
        return no(format!(
            "the disk {} is of type {}; only file disks can be adopted",
            row.slot, row.kind
        ));
    }
    if !matches!(row.owner, Ownership::Untagged) {
        return no(format!(
            "the disk {} belongs to {}; take its comment off first if that is wrong",
            row.slot, row.owner
        ));
    }
    if row.size != Some(want.size) {
        let size = row
            .size
            .map_or_else(|| "an unknown number of".to_owned(), |s| s.to_string());
        return no(format!(
            "the disk {} has {size} bytes, spec.capacity says {}: write the exact size",
            row.slot, want.size
        ));
    }
    if view.second_row(want).is_some() || view.conflicting_nqn(want).is_some() {
        return no(format!(
            "another disk uses the file {} or the NQN {}",
            want.id.path, want.id.nqn
        ));
    }
    if let Some(why) = other_export(want, row) {
        return no(why);
    }
    Step::Record(Change::BeginAdoption)
}

/// An export of a disk to adopt that is not the wanted one. To change it would cut whoever uses it (D4).
fn other_export(want: &Want, row: &DiskRow) -> Option<String> {
    (row.exported && !exported(want, row)).then(|| {
        let nqn = row.nqn.as_deref().unwrap_or("no NQN");
        let port = row.port.map_or("none".to_owned(), |p| p.to_string());
        format!(
            "the disk {} is exported as {nqn} on port {port}, not as {} on port {}, and to change that would cut whoever uses it: stop its users and switch that export off, or write its NQN and port into spec.nqn and spec.connection.port",
            row.slot, want.id.nqn, want.port
        )
    })
}

/// A create command was recorded; perhaps it was sent, perhaps it ran, perhaps it still will.
pub(super) fn resume(want: &Want, ledger: &Ledger, record: &CreationRecord, seen: &Seen) -> Step {
    let generation = ledger.generation.unwrap_or(Generation(1));
    let command = if want.adopt { Mutation::Adopt } else { Mutation::Create };
    if let Some(step) = clean_up(want, record, seen) {
        return step;
    }
    // One that was not sent, as too many waited before it or the way was cut, was not refused either.
    if let Some(problem) = failure(seen).filter(|p| p.unknown || p.reason == Reason::Unreachable) {
        return retry(problem, ledger);
    }
    let view = match &seen.view {
        Fact::NotRead if seen.own_record && seen.last.is_none() => return Step::Do(command),
        Fact::NotRead => return Step::Look,
        Fact::Unknown(problem) => return retry(problem, ledger),
        Fact::Known(view) => view,
    };
    match view.place(want) {
        Place::Ours(row, tag) => match token(tag, generation, &record.nonce) {
            Token::Current if !exported(want, row) => match failure(seen) {
                Some(problem) if matches!(seen.last, Some((Mutation::Export, _))) => refused(problem),
                _ => match other_export(want, row).filter(|_| want.adopt) {
                    Some(why) => Report::stalled(Reason::Taken, why).rest(Recheck::Slowly),
                    None => Step::Do(Mutation::Export),
                },
            },
            Token::Current if want.adopt => Step::Record(Change::Adopted),
            Token::Current => Step::Record(Change::Created),
            Token::Behind | Token::Ahead | Token::Stranger => recover(row, tag, generation),
        },
        Place::Free if want.adopt => give_up(want, record, seen),
        Place::Free => match failure(seen) {
            // It was free a moment ago and is free now, so whoever had it has gone.
            Some(problem) if problem.reason == Reason::Taken => retry(problem, ledger),
            Some(_) => give_up(want, record, seen),
            None if seen.own_record => Step::Do(Mutation::Create),
            // The record is renewed first: the age of the new command counts from now.
            None => Step::Record(Change::BeginCreation),
        },
        Place::FileOnly | Place::Taken(_)
            if want.adopt && failure(seen).is_none() && matches!(adoptable(want, view), Step::Record(_)) =>
        {
            Step::Do(Mutation::Adopt)
        }
        Place::FileOnly | Place::Taken(_) => give_up(want, record, seen),
    }
}

/// The create of this pass stopped half-way and left nothing but the file, which it had found free and made itself. The file would be
/// in the way of every further try, and carries no tag by which anybody could know it later: it goes now.
fn clean_up(want: &Want, record: &CreationRecord, seen: &Seen) -> Option<Step> {
    seen.half_made.as_ref()?;
    match (&seen.last, &seen.view) {
        // Whatever became of it: the create was refused.
        (Some((Mutation::RemoveFile, _)), _) => Some(Step::Record(Change::CreationRefused)),
        (Some((Mutation::Create, _)), Fact::Known(view))
            if is_first_command(record, seen) && view.place(want) == Place::FileOnly =>
        {
            Some(Step::Do(Mutation::RemoveFile))
        }
        _ => None,
    }
}

/// No create command was sent before the one of this pass.
fn is_first_command(record: &CreationRecord, seen: &Seen) -> bool {
    seen.own_record && !record.earlier_unknown
}

/// Its deletion was requested and follows in a moment: nothing is begun that the deletion would have to wait for.
pub(super) fn unwanted() -> Step {
    Report {
        keep: true,
        ..Report::new(Some(false), Reason::Deleting, "its deletion was requested")
    }
    .rest(Recheck::Slowly)
}

/// The appliance shows that nothing of this volume is there and that nothing can be made. Only when no earlier command can
/// still run is that recorded as refused; until then a deletion waits for it.
fn give_up(want: &Want, record: &CreationRecord, seen: &Seen) -> Step {
    if is_first_command(record, seen) || record.may_still_run(seen.now, seen.max_exec_age).is_none() {
        return Step::Record(Change::CreationRefused);
    }
    match failure(seen) {
        Some(problem) => refused(problem),
        None => taken(want, seen),
    }
}

pub(super) fn in_the_way(want: &Want, seen: &Seen) -> Option<String> {
    match &seen.view {
        Fact::Known(view) => match view.place(want) {
            Place::FileOnly => Some(format!("the file {} exists and belongs to no disk", want.id.path)),
            Place::Taken(why) => Some(why),
            Place::Free | Place::Ours(..) => None,
        },
        Fact::NotRead | Fact::Unknown(_) => None,
    }
}

pub(super) fn taken(want: &Want, seen: &Seen) -> Step {
    let why = in_the_way(want, seen).unwrap_or_default();
    let message = format!(
        "{why}. Nothing was changed: give the volume another name, slot or path, or remove what is in the way if it is yours"
    );
    Report::stalled(Reason::Taken, message).rest(Recheck::Slowly)
}

pub(super) fn refused(problem: &Problem) -> Step {
    Report::stalled(problem.reason, problem.message.clone()).rest(Recheck::Slowly)
}
