//! D1: commands that run long after their channel died change nothing.

use std::time::Duration;

use rds_operator::routeros::*;
use routeros_sim::{Fault, FaultKind};

use crate::rig::{GIB, Rig, Volume};

const LATE: u64 = 1500;

async fn settle() {
    tokio::time::sleep(Duration::from_millis(LATE + 500)).await;
}

fn late(rig: &Rig, matching: &str) {
    rig.fault(Fault::once(
        matching,
        FaultKind::Late {
            ms: LATE,
            connection: false,
        },
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_a_grow_to_20_gib_after_one_to_30_gib_changes_nothing() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    c.create(&v.create(10 * GIB)).await.unwrap();
    late(&rig, "rds-size");
    assert!(c.grow(&v.guard(1), Bytes(20 * GIB)).await.unwrap_err().is_unknown());
    c.grow(&v.guard(1), Bytes(30 * GIB)).await.unwrap();
    let before = rig.snapshot();
    settle().await;
    assert_eq!(rig.snapshot(), before);
    assert_eq!(
        c.look(&v.id()).await.unwrap().row().unwrap().size,
        Some(Bytes(30 * GIB))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_whatever_is_late_after_the_token_moved_changes_nothing() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    c.create(&v.create(GIB)).await.unwrap();
    rig.fault(Fault {
        matching: "rds-".into(),
        count: Some(5),
        skip: 0,
        kind: FaultKind::Late {
            ms: LATE,
            connection: false,
        },
    });
    let g = v.guard(1);
    for result in [
        c.grow(&g, Bytes(2 * GIB)).await,
        c.export(&g, &v.nqn, 4420).await,
        c.toggle_export(&g, Generation(2), &v.nqn, 4420).await,
        c.retire(&g, Generation(3)).await,
        c.release(&g).await,
    ] {
        assert!(result.unwrap_err().is_unknown());
    }
    c.retire(&g, Generation(5)).await.unwrap();
    let before = rig.snapshot();
    settle().await;
    assert_eq!(rig.snapshot(), before);
    // A removal that is late after the removal, and a removal of the file after somebody else took the name.
    late(&rig, "rds-exported");
    assert!(c.remove(&v.guard(5)).await.unwrap_err().is_unknown());
    c.remove(&v.guard(5)).await.unwrap();
    late(&rig, "rds-named");
    assert!(c.remove_file(&v.slot, &v.path).await.unwrap_err().is_unknown());
    rig.state(|s| s.add_file_disk("somebody", v.path.as_str(), GIB, "by hand"));
    let before = rig.snapshot();
    settle().await;
    assert_eq!(rig.snapshot(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_that_runs_after_the_deletion_is_seen_and_told_from_a_new_one() {
    let rig = Rig::start().await;
    let (c, v) = (&rig.client, Volume::new(1));
    late(&rig, "/disk/add");
    assert!(c.create(&v.create(GIB)).await.unwrap_err().is_unknown());
    // Tried again before the late one runs: the late one finds the slot taken.
    c.create(&v.create(GIB)).await.unwrap();
    let before = rig.snapshot();
    settle().await;
    assert_eq!(rig.snapshot(), before);
    c.retire(&v.guard(1), Generation(2)).await.unwrap();
    c.remove(&v.guard(2)).await.unwrap();
    // After the deletion it makes a disk: no leak unseen, and its old nonce tells it from one made now.
    late(&rig, "/disk/add");
    assert!(c.create(&v.create(GIB)).await.unwrap_err().is_unknown());
    settle().await;
    let inventory = c.inventory(Duration::ZERO).await.unwrap();
    let orphan = inventory.disks.iter().find(|d| d.slot == v.slot.as_str()).unwrap();
    assert!(orphan.carries(&v.tag(1)));
    let again = c
        .create(&CreateDisk {
            tag: v.other_tag(),
            ..v.create(GIB)
        })
        .await
        .unwrap_err();
    assert!(matches!(&again, RdsError::Taken { by, .. } if by.tag().is_some_and(|t| !t.same_token(&v.other_tag()))));
}
