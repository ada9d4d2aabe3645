//! Every fault during every mutating command: no duplicate, no leak that a look cannot see, no false success, no false absence.

use std::time::Duration;

use rds_operator::routeros::*;
use routeros_sim::{Fault, FaultKind};

use crate::rig::{GIB, Rig, Volume};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    Grow,
    Export,
    Toggle,
    Retire,
    Remove,
    RemoveFile,
    Release,
    Adopt,
}

const OPS: [Op; 9] = [
    Op::Create,
    Op::Grow,
    Op::Export,
    Op::Toggle,
    Op::Retire,
    Op::Remove,
    Op::RemoveFile,
    Op::Release,
    Op::Adopt,
];

impl Op {
    /// Brings the appliance to where the command makes sense.
    async fn prepare(self, rig: &Rig, v: &Volume) {
        if !matches!(self, Op::Create | Op::RemoveFile | Op::Adopt) {
            rig.client.create(&v.create(GIB)).await.unwrap();
        }
        match self {
            Op::Export => rig.edit(v, |d| d.export.on = false),
            Op::Remove => drop(rig.client.retire(&v.guard(1), Generation(2)).await.unwrap()),
            Op::RemoveFile => drop(rig.state(|s| s.add_file(v.path.as_str(), ".img file", GIB, GIB, ""))),
            Op::Adopt => drop(rig.state(|s| s.add_file_disk(v.slot.as_str(), v.path.as_str(), GIB, ""))),
            Op::Create | Op::Grow | Op::Toggle | Op::Retire | Op::Release => {}
        }
    }

    async fn run(self, c: &Client, v: &Volume) -> Result<(), RdsError> {
        let (g1, next) = (v.guard(1), Generation(2));
        match self {
            Op::Create => c.create(&v.create(GIB)).await.map(drop),
            Op::Grow => c.grow(&g1, Bytes(2 * GIB)).await.map(drop),
            Op::Export => c.export(&g1, &v.nqn, 4420).await.map(drop),
            Op::Toggle => c.toggle_export(&g1, next, &v.nqn, 4420).await.map(drop),
            Op::Retire => c.retire(&g1, next).await.map(drop),
            Op::Remove => c.remove(&v.guard(2)).await.map(drop),
            Op::RemoveFile => c.remove_file(&v.slot, &v.path).await.map(drop),
            Op::Release => c.release(&g1).await.map(drop),
            Op::Adopt => {
                let request = Adopt {
                    id: v.id(),
                    size: Bytes(GIB),
                    port: 4420,
                    tag: v.tag(1),
                };
                c.adopt(&request).await.map(drop)
            }
        }
    }

    /// Whether its whole effect is there.
    fn is_done(self, v: &Volume, look: &Look) -> bool {
        let exported = |g| look.row_of(&v.tag(g)).is_some_and(|r| r.exported);
        match self {
            Op::Create | Op::Export | Op::Adopt => exported(1),
            Op::Grow => look.row_of(&v.tag(1)).is_some_and(|r| r.size == Some(Bytes(2 * GIB))),
            Op::Toggle => exported(2),
            Op::Retire => look.row_of(&v.tag(2)).is_some_and(|r| !r.exported),
            Op::Remove | Op::RemoveFile => look.is_absent(),
            Op::Release => look.row().is_some_and(|r| r.owner.tag().is_none()),
        }
    }
}

/// Looks until the appliance answers; nothing but outages may be in the way.
async fn look(rig: &Rig, v: &Volume) -> Look {
    for _ in 0..200 {
        match rig.client.look(&v.id()).await {
            Ok(look) => return look,
            Err(error) => assert_eq!(error.class(), Class::Transient, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the appliance does not come back");
}

/// What a controller does with what it sees, until nothing is left.
async fn clean_up(rig: &Rig, v: &Volume) {
    for _ in 0..10 {
        let seen = look(rig, v).await;
        assert!(
            seen.slot_rows().count() <= 1 && seen.path_rows().count() <= 1,
            "no duplicate: {seen:?}"
        );
        let Some(row) = seen.row() else {
            if seen.is_absent() {
                return;
            }
            rig.client.remove_file(&v.slot, &v.path).await.unwrap();
            continue;
        };
        let Some(tag) = row.owner.tag().cloned() else {
            // Ours by the test's own knowledge; no command of the client would remove it.
            rig.state(|s| {
                let id = s.disks.slot(v.slot.as_str()).map(|d| d.id).unwrap();
                s.disks.remove(id);
                s.files.remove(v.path.file_name());
            });
            continue;
        };
        let next = tag.generation.next().unwrap();
        let guard = Guard {
            tag: tag.clone(),
            ..v.guard(1)
        };
        if row.exported {
            rig.client.retire(&guard, next).await.unwrap();
        } else {
            rig.client.remove(&guard).await.unwrap();
        }
    }
    panic!("not clean after ten steps");
}

async fn each_op(kind: FaultKind, settle: Duration) {
    let rig = Rig::start().await;
    let empty = rig.snapshot();
    for (n, op) in OPS.into_iter().enumerate() {
        let v = Volume::new(n);
        op.prepare(&rig, &v).await;
        let before = look(&rig, &v).await;
        rig.fault(Fault::once("rds-", kind.clone()));
        let result = op.run(&rig.client, &v).await;
        rig.clear_faults();
        tokio::time::sleep(settle).await;
        let after = look(&rig, &v).await;
        let done = op.is_done(&v, &after);
        let same = after.rows == before.rows && after.file == before.file;
        println!(
            "{kind:?} {op:?}: {} done={done} same={same}",
            result.as_ref().map_or_else(|e| e.to_string(), |()| "ok".into())
        );
        match &result {
            Ok(()) => assert!(done, "false success of {op:?}: {after:?}"),
            Err(error) if error.is_unknown() => assert!(done || same, "{op:?} half done: {error}: {after:?}"),
            Err(error) if error.is_partial() => {
                let seen = error.look().expect("a partial result shows itself");
                assert_eq!(
                    (&seen.file, seen.path_rows().count()),
                    (&after.file, after.path_rows().count()),
                    "{op:?}"
                );
            }
            Err(error) => assert!(same, "{op:?} is a definitive no, and yet: {error}: {after:?}"),
        }
        clean_up(&rig, &v).await;
        assert_eq!(rig.snapshot(), empty, "{kind:?} {op:?} leaks");
    }
}

macro_rules! faults {
    ($($name:ident: $kind:expr, $settle:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            each_op($kind, Duration::from_millis($settle)).await;
        }
    )* }
}

faults! {
    lost_reply: FaultKind::LostReply, 0;
    hang_after_execution: FaultKind::Hang { execute: true }, 0;
    hang_instead_of_execution: FaultKind::Hang { execute: false }, 0;
    cut_at_once: FaultKind::Cut { after_bytes: 0 }, 0;
    cut_in_the_middle: FaultKind::Cut { after_bytes: 300 }, 0;
    truncated_early: FaultKind::Truncate { bytes: 25 }, 0;
    truncated_late: FaultKind::Truncate { bytes: 700 }, 0;
    empty_reply: FaultKind::EmptyReply, 0;
    executed_late: FaultKind::Late { ms: 300, connection: false }, 500;
    executed_late_on_a_dead_connection: FaultKind::Late { ms: 300, connection: true }, 500;
    slower_than_the_deadline: FaultKind::Slow { ms: 1800 }, 1200;
    reply_slower_than_the_deadline: FaultKind::SlowReply { ms: 1800 }, 0;
    wrong_exit_status: FaultKind::ExitStatus { code: Some(1) }, 0;
    no_exit_status: FaultKind::ExitStatus { code: None }, 0;
    full_pool: FaultKind::PoolFull, 0;
    an_add_that_stops_half_way: FaultKind::HalfAdd, 0;
    no_permission: FaultKind::NoPermission, 0;
    an_error_line: FaultKind::Error { text: "failure: no such item".into() }, 0;
    another_language: FaultKind::Error { text: "Ошибка: диск занят".into() }, 0;
    reboot: FaultKind::Reboot, 0;
}
