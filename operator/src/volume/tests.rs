//! The decisions against the model: what is made, kept, refused and removed, and that no crash, lost reply or late command
//! changes where it ends.

use proptest::prelude::*;
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::volume::{CreationOutcome, DeletionPolicy, Fenced, FormatState, Holder, Role};
use rds_crds::{Reason, Size};

use crate::routeros::{Bytes, DiskRow, Generation, Nonce, Ownership};

use super::model::{Deviation, PersistentVolumeSeen, Recheck, Report, ServerState, is_toggling};
use super::testbed::{Bed, End, Fate, GI, MAX_EXEC_AGE, row};

fn report(end: End) -> Report {
    match end {
        End::Rest(report, _) => *report,
        End::Forgotten | End::Crashed => panic!("{end:?} instead of a rest"),
    }
}

fn made() -> Bed {
    let mut bed = Bed::new();
    assert_eq!(report(bed.pass()).ready, Some(true));
    bed
}

fn held(bed: &mut Bed) {
    let since = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
    let holder = Holder {
        node: "n1".into(),
        attachment_uid: "a".into(),
        role: Role::Primary,
        since,
        deferred: None,
    };
    bed.volume.status.get_or_insert_default().holders = vec![holder];
}

fn now(bed: &Bed) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::from_second(bed.now).unwrap())
}

fn pv(bound: bool, retain: bool) -> PersistentVolumeSeen {
    PersistentVolumeSeen {
        name: "pv-1".into(),
        bound,
        retain,
    }
}

#[test]
fn create_is_one_exec_without_a_read() {
    let bed = made();
    assert_eq!((bed.execs, bed.looks), (1, 0));
    assert_eq!(bed.format(), Some(FormatState::Blank));
    let status = bed.volume.status.as_ref().unwrap();
    assert!(is_true(&status.conditions, kind::READY) && is_true(&status.conditions, kind::EXPORTED));
    assert_eq!(status.capacity, Some(Size(10 * GI)));
    assert_eq!(
        status.explain.as_deref(),
        Some("10Gi on default, exported; nothing to do")
    );
}

#[test]
fn an_unchanged_world_needs_nothing() {
    let mut bed = made();
    let before = bed.volume.clone();
    assert!(matches!(bed.pass(), End::Rest(_, Recheck::Later)));
    assert_eq!(bed.volume, before, "no second status");
    assert_eq!(bed.execs, 1);
}

#[test]
fn grow_is_one_exec_and_deletion_two() {
    let mut bed = made();
    bed.volume.spec.capacity = Size(1536 * GI);
    bed.room = Some(Bytes(u64::MAX));
    assert_eq!(report(bed.pass()).expand_pending, None);
    assert_eq!((bed.execs, bed.looks), (2, 0));
    assert_eq!(
        bed.volume.status.as_ref().unwrap().capacity,
        Some(Size(1_649_267_441_664)),
        "B42: exact bytes"
    );
    bed.request_deletion();
    assert_eq!(bed.pass(), End::Forgotten);
    assert_eq!((bed.execs, bed.looks), (4, 0));
    assert!(bed.is_empty());
}

#[test]
fn i15_a_failed_growth_can_be_taken_back() {
    let mut bed = made();
    bed.volume.spec.capacity = Size(2048 * GI);
    bed.room = Some(Bytes(500 * GI));
    let full = report(bed.pass());
    assert_eq!(full.expand_pending.as_ref().map(|p| p.0), Some(Reason::PoolFull));
    assert_eq!(full.ready, Some(true), "the volume goes on working");
    assert_eq!(bed.execs, 1, "nothing was sent");
    bed.volume.spec.capacity = Size(200 * GI);
    assert_eq!(report(bed.pass()).expand_pending, None);
    assert_eq!(bed.volume.status.as_ref().unwrap().capacity, Some(Size(200 * GI)));
}

/// csi-resizer asks for no other size before this one is done.
#[test]
fn a_growth_for_which_there_is_no_room_is_tried_again_soon() {
    let mut bed = made();
    bed.volume.spec.capacity = Size(2048 * GI);
    bed.room = Some(Bytes(500 * GI));
    assert!(matches!(bed.pass(), End::Rest(_, Recheck::Backoff)), "by its own sums");
    bed.room = Some(Bytes(u64::MAX));
    let said = bed.pass_with(&mut [Fate::Refused(Reason::Refused)].into_iter(), usize::MAX);
    assert!(
        matches!(said, End::Rest(_, Recheck::Backoff)),
        "by the appliance's word"
    );
    assert_eq!(report(bed.pass()).expand_pending, None);
}

#[test]
fn d4_a_toggle_to_resize_waits_for_holders_and_moves_the_token() {
    let mut bed = made();
    bed.resize_by_toggle = true;
    bed.volume.spec.capacity = Size(20 * GI);
    held(&mut bed);
    assert_eq!(
        report(bed.pass()).expand_pending.map(|p| p.0),
        Some(Reason::NeedsDetach)
    );
    assert_eq!(bed.rows[0].size, Some(Bytes(10 * GI)));
    bed.volume.status.as_mut().unwrap().holders.clear();
    assert_eq!(report(bed.pass()).expand_pending, None);
    assert_eq!((bed.rows[0].size, bed.generation()), (Some(Bytes(20 * GI)), Some(2)));
}

/// The command may run when somebody is connected: it would cut him.
#[test]
fn d4_a_toggle_that_may_still_run_lets_nobody_in() {
    let mut bed = made();
    bed.resize_by_toggle = true;
    bed.volume.spec.capacity = Size(20 * GI);
    let toggling = |bed: &Bed| is_toggling(bed.volume.status.as_ref().unwrap());
    let said = report(bed.pass_with(&mut [Fate::Fine, Fate::Late].into_iter(), usize::MAX));
    assert_eq!((said.ready, toggling(&bed)), (Some(false), true));
    bed.unreachable = true;
    assert!(
        report(bed.pass()).keep && toggling(&bed),
        "the record stays whatever can be seen"
    );
    bed.unreachable = false;
    assert_eq!(report(bed.pass()).ready, Some(true));
    assert!(!toggling(&bed), "it was read back");
    let before = bed.rows.clone();
    bed.run_late();
    assert_eq!(bed.rows, before, "and the late one finds another token");
}

#[test]
fn d4_who_is_not_on_record_is_not_cut_to_resize() {
    let mut bed = made();
    bed.resize_by_toggle = true;
    bed.volume.status.as_mut().unwrap().holders_unknown_since = Some(now(&bed));
    bed.volume.spec.capacity = Size(20 * GI);
    let pending = report(bed.pass()).expand_pending.unwrap();
    assert_eq!(pending.0, Reason::NeedsDetach);
    assert!(pending.1.contains("not on record"), "{}", pending.1);
    assert_eq!(bed.generation(), Some(1));
}

/// An older configuration of the appliance came back: the disk is exported under a name that a cut node still knows.
#[test]
fn i3_an_appliance_that_went_back_is_brought_forward() {
    let went_back = |users: bool, name: &str| {
        let mut bed = made();
        let status = bed.volume.status.as_mut().unwrap();
        status.export_generation = Some(4);
        status.nqn = Some(format!("{}{name}", bed.rows[0].nqn.clone().unwrap()));
        if users {
            held(&mut bed);
        }
        bed
    };
    for users in [true, false] {
        let mut bed = went_back(users, ".g4-0a1b2c3d");
        let said = report(bed.pass());
        assert_eq!(
            (said.ready, said.reason, bed.execs),
            (Some(false), Reason::ExportLost, 1),
            "once is no proof"
        );
        assert_eq!(report(bed.pass()).ready, Some(true));
        let status = bed.volume.status.as_ref().unwrap();
        assert_eq!(bed.rows[0].nqn, status.nqn, "users {users}");
        assert_eq!(bed.rows[0].owner.tag().unwrap().generation, Generation(4));
    }
    // Under the right name somebody may be connected: nobody is cut, and it is said.
    let mut bed = went_back(true, "");
    for _ in 0..3 {
        let said = report(bed.pass());
        assert_eq!(
            (said.ready, said.drifted.unwrap().0),
            (Some(true), Reason::EditedByOthers)
        );
    }
    assert_eq!(bed.execs, 1);
    bed.volume.status.as_mut().unwrap().holders.clear();
    bed.settle();
    assert_eq!(bed.rows[0].owner.tag().unwrap().generation, Generation(4));
}

/// A disk whose comment or slot somebody has edited is still there, and still exported.
#[test]
fn i7_a_deletion_is_not_over_while_something_has_our_slot_or_file() {
    type Edit = fn(&mut DiskRow);
    let edits: [Edit; 3] = [
        |r| r.owner = Ownership::Untagged,
        |r| r.owner = Ownership::Foreign("edited".into()),
        |r| r.slot = "renamed".into(),
    ];
    for edit in edits {
        let mut bed = made();
        let before = bed.rows[0].clone();
        edit(&mut bed.rows[0]);
        bed.request_deletion();
        for _ in 0..2 {
            assert_eq!(report(bed.pass()).deletion_blocked.map(|b| b.0), Some(Reason::TagLost));
        }
        assert_eq!((bed.rows.len(), bed.files.len()), (1, 1));
        bed.rows[0] = before;
        assert_eq!((bed.settle(), bed.is_empty()), (End::Forgotten, true));
    }
    // Somebody else's disk that has neither slot nor file of ours does not hold up anything.
    let mut bed = made();
    let mut thief = bed.rows[0].clone();
    (thief.slot, thief.path, thief.owner) = ("other".into(), Some("/pool/csi/other.img".into()), Ownership::Untagged);
    bed.rows = vec![thief];
    bed.files.clear();
    bed.request_deletion();
    assert_eq!((bed.settle(), bed.rows.len()), (End::Forgotten, 1));
}

/// A disk that is exported is not removed; the export that somebody switched on again is taken off again.
#[test]
fn i7_a_disk_that_is_exported_again_is_retired_again() {
    let exported_after = |steps: usize| {
        let mut bed = made();
        let before = bed.rows[0].clone();
        bed.request_deletion();
        bed.pass_with(&mut std::iter::empty(), steps);
        let row = &mut bed.rows[0];
        (row.exported, row.nqn, row.port) = (true, before.nqn, before.port);
        bed
    };
    // After the command, and after its record.
    for steps in [2, 3] {
        let mut bed = exported_after(steps);
        assert_eq!(
            (bed.settle(), bed.is_empty()),
            (End::Forgotten, true),
            "after {steps} steps"
        );
        assert_eq!(bed.generation(), Some(3));
    }
    // Once a pass, however stubborn the other hand is.
    let mut bed = made();
    bed.meddled = true;
    bed.request_deletion();
    for generation in [2, 3, 4] {
        assert_eq!(report(bed.pass()).deletion_blocked.map(|b| b.0), Some(Reason::Refused));
        assert_eq!((bed.generation(), bed.rows.len()), (Some(generation), 1));
    }
    bed.meddled = false;
    assert_eq!((bed.settle(), bed.is_empty()), (End::Forgotten, true));
}

#[test]
fn i7_the_file_of_a_recovered_volume_goes_with_it() {
    let mut bed = made();
    bed.volume.status = None;
    assert_eq!(report(bed.settle()).ready, Some(true));
    bed.rows.clear();
    bed.request_deletion();
    assert_eq!((bed.settle(), bed.is_empty()), (End::Forgotten, true));
}

/// Too many waited before it, so it was never sent: that is no refusal, and no person has to help.
#[test]
fn a_create_that_was_not_sent_is_tried_again_soon() {
    let mut bed = Bed::new();
    let end = bed.pass_with(&mut [Fate::Refused(Reason::Unreachable)].into_iter(), usize::MAX);
    assert!(
        matches!(&end, End::Rest(said, Recheck::Backoff) if !said.stalled),
        "{end:?}"
    );
    assert_eq!(report(bed.pass()).ready, Some(true));
}

#[test]
fn i11_whatever_is_in_the_way_is_left_alone() {
    let strangers = |bed: &Bed| {
        let want = bed.want();
        let base = row(&want, Bytes(GI), Ownership::Foreign("mine".into()));
        let mut elsewhere = base.clone();
        elsewhere.slot = "other".into();
        let mut other_file = base.clone();
        other_file.path = Some("/pool/csi/other.img".into());
        let mut only_nqn = elsewhere.clone();
        only_nqn.path = Some("/pool/csi/other.img".into());
        vec![base, elsewhere, other_file, only_nqn]
    };
    for stranger in strangers(&Bed::new()) {
        let mut bed = Bed::new();
        bed.rows.push(stranger.clone());
        let said = report(bed.pass());
        assert_eq!((said.reason, said.stalled), (Reason::Taken, true), "{stranger:?}");
        assert_eq!(bed.rows, vec![stranger]);
        bed.request_deletion();
        assert_eq!(
            bed.pass(),
            End::Forgotten,
            "nothing was made, so nothing holds the object"
        );
        assert_eq!(bed.rows.len(), 1);
    }
    let mut bed = Bed::new();
    bed.files.push(bed.want().id.path.to_string());
    assert_eq!(report(bed.pass()).reason, Reason::Taken);
    bed.request_deletion();
    assert_eq!(
        (bed.pass(), bed.files.len()),
        (End::Forgotten, 1),
        "a file that was there before is not ours"
    );
}

/// The appliance made the file and then refused the disk. The file would be in the way for good.
#[test]
fn a_create_that_stops_half_way_leaves_nothing() {
    let mut bed = Bed::new();
    let said = report(bed.pass_with(&mut [Fate::Half].into_iter(), usize::MAX));
    assert_eq!(
        (said.reason, said.message.as_str(), said.stalled),
        (Reason::Refused, "stopped half-way", true)
    );
    assert!(bed.is_empty() && bed.execs == 2, "{:?}", bed.files);
    assert_eq!(report(bed.pass()).ready, Some(true));
    // A file that cannot be removed stays, and is in the way as before.
    for fate in [Fate::Refused(Reason::Refused), Fate::Dropped] {
        let mut bed = Bed::new();
        let said = report(bed.pass_with(&mut [Fate::Half, fate].into_iter(), usize::MAX));
        assert_eq!((said.message.as_str(), bed.files.len()), ("stopped half-way", 1));
        assert_eq!(report(bed.pass()).reason, Reason::Taken);
        assert_eq!((bed.rows.len(), bed.files.len()), (0, 1));
    }
    // An earlier create may still run, or have made the file: it stays, and whoever looks later finds it.
    let mut bed = Bed::new();
    bed.pass_with(&mut [Fate::Dropped].into_iter(), usize::MAX);
    bed.pass_with(&mut [Fate::Half].into_iter(), usize::MAX);
    assert_eq!((bed.execs, bed.files.len()), (2, 1));
}

#[test]
fn a_full_pool_is_final_and_leaves_nothing() {
    let mut bed = Bed::new();
    bed.room = Some(Bytes(GI));
    let said = report(bed.pass());
    assert_eq!((said.reason, said.stalled, bed.execs), (Reason::PoolFull, true, 0));
    let mut bed = Bed::new();
    let said = bed.pass_with(&mut [Fate::Refused(Reason::PoolFull)].into_iter(), usize::MAX);
    assert_eq!(report(said).reason, Reason::PoolFull);
    assert_eq!(
        bed.volume.status.as_ref().unwrap().creation.as_ref().unwrap().outcome,
        CreationOutcome::Refused
    );
    bed.request_deletion();
    assert_eq!(bed.pass(), End::Forgotten);
}

/// An appliance that has just started shows its pool later than itself.
#[test]
fn a_pool_that_does_not_show_is_waited_for() {
    let mut bed = Bed::new();
    bed.room = None;
    let End::Rest(said, again) = bed.pass() else {
        panic!("no rest")
    };
    assert_eq!(
        (said.reason, said.stalled, bed.execs),
        (Reason::PoolNotHealthy, false, 0)
    );
    assert_eq!(again, Recheck::Backoff);
    bed.room = Some(Bytes(1 << 40));
    assert_eq!(report(bed.pass()).ready, Some(true));
}

/// DeleteVolume writes its request, then deletes: in between nothing is begun, or the deletion had to wait for it.
#[test]
fn a_refused_volume_whose_deletion_is_requested_is_not_tried_again() {
    for refused in [true, false] {
        let mut bed = Bed::new();
        if refused {
            bed.pass_with(&mut [Fate::Refused(Reason::PoolFull)].into_iter(), usize::MAX);
        }
        let creation = |bed: &Bed| bed.volume.status.as_ref().and_then(|s| s.creation.clone());
        let (before, execs) = (creation(&bed), bed.execs);
        bed.request_deletion();
        bed.volume.metadata.deletion_timestamp = None;
        let said = report(bed.pass());
        assert!(said.keep && said.reason == Reason::Deleting, "{said:?}");
        assert_eq!((creation(&bed), bed.execs), (before, execs));
        bed.request_deletion();
        assert_eq!(bed.pass(), End::Forgotten);
    }
}

#[test]
fn d2_no_deletion_of_the_object_alone_removes_data() {
    let mut bed = made();
    bed.pvs = vec![pv(true, false)];
    bed.delete();
    let said = report(bed.pass());
    assert_eq!(
        said.deletion_blocked.as_ref().map(|b| b.0),
        Some(Reason::PersistentVolumeExists)
    );
    assert!(
        said.deletion_blocked.unwrap().1.contains("pv-1"),
        "the message names the PersistentVolume"
    );
    assert_eq!(
        (said.ready, bed.rows.len(), bed.rows[0].exported),
        (Some(true), 1, true)
    );
    bed.volume.spec.capacity = Size(20 * GI);
    report(bed.pass());
    assert_eq!(bed.rows[0].size, Some(Bytes(20 * GI)), "it goes on working: it grows");
    bed.pvs = vec![pv(false, false)];
    bed.request_deletion();
    assert_eq!(bed.pass(), End::Forgotten, "and ends through its PersistentVolume");
    assert!(bed.is_empty());
}

#[test]
fn d2_table_of_deletions() {
    use DeletionPolicy::{Delete, Retain};
    // made by CSI, requested, policy, PersistentVolume -> what blocks, or whether the data is removed
    for (csi, requested, policy, pv, want) in [
        (true, true, Some(Delete), None, Ok(true)),
        (true, true, Some(Delete), Some(pv(false, false)), Ok(true)),
        (
            true,
            true,
            Some(Delete),
            Some(pv(true, false)),
            Err(Reason::PersistentVolumeExists),
        ),
        (
            true,
            true,
            Some(Delete),
            Some(pv(false, true)),
            Err(Reason::PersistentVolumeExists),
        ),
        (true, false, Some(Delete), None, Err(Reason::NotRequested)),
        (
            true,
            false,
            Some(Delete),
            Some(pv(false, false)),
            Err(Reason::PersistentVolumeExists),
        ),
        (true, false, Some(Retain), None, Ok(false)),
        (true, true, Some(Retain), None, Ok(false)),
        (false, false, None, None, Ok(false)),
        (false, false, Some(Retain), None, Ok(false)),
        (
            false,
            false,
            Some(Retain),
            Some(pv(true, true)),
            Err(Reason::PersistentVolumeExists),
        ),
        (false, false, Some(Delete), None, Ok(true)),
        (
            false,
            false,
            Some(Delete),
            Some(pv(false, true)),
            Err(Reason::PersistentVolumeExists),
        ),
    ] {
        let mut bed = if csi { Bed::new() } else { Bed::by_hand(policy) };
        bed.volume.spec.deletion_policy = policy;
        report(bed.pass());
        bed.pvs = pv.clone().into_iter().collect();
        if requested {
            bed.request_deletion()
        } else {
            bed.delete()
        }
        let case = format!("csi {csi} requested {requested} {policy:?} {pv:?}");
        match (bed.pass(), want) {
            (End::Forgotten, Ok(true)) => assert!(bed.is_empty(), "{case}"),
            (End::Forgotten, Ok(false)) => {
                assert_eq!((bed.rows.len(), bed.files.len()), (1, 1), "{case}");
                assert_eq!(
                    bed.rows[0].owner,
                    Ownership::Untagged,
                    "{case}: only our tag is removed"
                );
            }
            (End::Rest(said, _), Err(reason)) => {
                assert_eq!(said.deletion_blocked.map(|b| b.0), Some(reason), "{case}");
                assert!(bed.rows[0].exported && bed.rows[0].owner.tag().is_some(), "{case}");
            }
            (end, want) => panic!("{case}: {end:?} instead of {want:?}"),
        }
    }
}

#[test]
fn d2_a_request_for_another_uid_is_no_request() {
    let mut bed = made();
    bed.request_deletion();
    let annotations = bed.volume.metadata.annotations.as_mut().unwrap();
    annotations.values_mut().for_each(|v| *v = "another".into());
    assert_eq!(
        report(bed.pass()).deletion_blocked.map(|b| b.0),
        Some(Reason::NotRequested)
    );
}

#[test]
fn i11_nothing_is_removed_under_a_holder() {
    let mut bed = made();
    held(&mut bed);
    bed.request_deletion();
    let said = report(bed.pass());
    assert_eq!(said.deletion_blocked.as_ref().map(|b| b.0), Some(Reason::InUse));
    assert!(said.deletion_blocked.unwrap().1.contains("n1"));
    assert!(bed.rows[0].exported);
}

/// With the object goes the record of who was cut. A disk that stays can come back under the name that such a node still knows.
#[test]
fn i3_a_disk_that_a_cut_node_may_still_know_is_not_let_go() {
    let cut = |policy| {
        let mut bed = Bed::by_hand(Some(policy));
        report(bed.pass());
        let at = now(&bed);
        let fenced = Fenced {
            node: "n1".into(),
            generation: 1,
            at,
        };
        bed.volume.status.as_mut().unwrap().fenced = vec![fenced];
        bed.delete();
        bed
    };
    let mut bed = cut(DeletionPolicy::Retain);
    for _ in 0..2 {
        let said = report(bed.pass());
        let (reason, why) = said.deletion_blocked.unwrap();
        assert!(reason == Reason::InUse && why.contains("n1"), "{why}");
        assert_eq!(said.ready, Some(true), "it goes on working");
        assert!(bed.rows[0].owner.tag().is_some());
    }
    bed.volume.status.as_mut().unwrap().fenced.clear();
    assert_eq!(bed.settle(), End::Forgotten);
    assert_eq!(bed.rows[0].owner, Ownership::Untagged);
    // What is removed comes back to nobody.
    let mut bed = cut(DeletionPolicy::Delete);
    assert_eq!((bed.settle(), bed.is_empty()), (End::Forgotten, true));
}

#[test]
fn i1_a_disk_without_the_recorded_nonce_is_never_blank() {
    // The status was emptied: same object, same disk, nothing remembered.
    let mut bed = made();
    bed.volume.status = None;
    assert_eq!(report(bed.settle()).ready, Some(true));
    assert_eq!(bed.format(), Some(FormatState::Unknown));
    assert!(bed.volume.status.as_ref().unwrap().holders_unknown_since.is_some());
    assert_eq!(bed.rows.len(), 1);
}

#[test]
fn d3_a_generation_of_the_appliance_is_never_lowered() {
    let mut bed = made();
    let tag = bed.rows[0].owner.tag().unwrap().at(Generation(7));
    bed.rows[0].owner = Ownership::Tagged(Box::new(tag));
    report(bed.settle());
    assert_eq!((bed.generation(), bed.format()), (Some(7), Some(FormatState::Unknown)));
}

#[test]
fn a_lost_export_is_repaired_when_seen_twice() {
    let mut bed = made();
    (bed.rows[0].exported, bed.rows[0].nqn) = (false, None);
    let first = report(bed.pass());
    assert_eq!(
        (first.reason, first.deviation, bed.execs),
        (Reason::ExportLost, Some(Deviation::ExportLost), 1)
    );
    assert_eq!(report(bed.pass()).ready, Some(true));
    assert!(bed.rows[0].exported);
}

#[test]
fn d4_a_renamed_export_is_left_alone_under_a_holder() {
    let mut bed = made();
    held(&mut bed);
    bed.rows[0].nqn = Some("nqn.2000-02.com.mikrotik:else".into());
    for _ in 0..3 {
        assert_eq!(report(bed.pass()).reason, Reason::ExportLost);
    }
    assert_eq!(bed.execs, 1);
}

#[test]
fn a_missing_disk_is_reported_and_never_made_anew() {
    let mut bed = made();
    bed.rows.clear();
    assert!(!report(bed.pass()).stalled, "once is no proof");
    let said = report(bed.pass());
    assert_eq!((said.reason, said.stalled, bed.execs), (Reason::DiskMissing, true, 1));
    let status = bed.volume.status.as_ref().unwrap();
    assert_eq!(
        find_condition(&status.conditions, kind::PROVISIONED).unwrap().status,
        "False"
    );
}

#[test]
fn foreign_edits_are_reported() {
    let mut bed = made();
    let mut second = bed.rows[0].clone();
    (second.slot, second.owner, second.nqn) = ("intruder".into(), Ownership::Untagged, None);
    bed.rows.push(second);
    assert!(report(bed.pass()).drifted.unwrap().1.contains("intruder"));
    bed.rows.truncate(1);
    bed.rows[0].mount_filesystem = Some(true);
    assert!(
        report(bed.pass()).drifted.unwrap().1.contains("mount-filesystem"),
        "B11"
    );
    bed.rows[0].mount_filesystem = Some(false);
    bed.rows[0].size = Some(Bytes(GI));
    assert_eq!(report(bed.pass()).reason, Reason::Shrunk);
    assert_eq!(bed.volume.status.as_ref().unwrap().capacity, Some(Size(10 * GI)), "I15");
    bed.rows[0].owner = Ownership::Foreign("taken over".into());
    bed.pass();
    assert_eq!(report(bed.pass()).reason, Reason::TagLost);
}

#[test]
fn adoption_needs_slot_path_size_and_no_tag() {
    let adopt = |change: &dyn Fn(&mut DiskRow)| {
        let mut bed = Bed::by_hand(None);
        bed.volume.spec.adopt = Some(true);
        let want = bed.want();
        bed.volume.spec.slot = Some(want.id.slot.to_string());
        bed.volume.spec.path = Some(want.id.path.to_string());
        let mut found = row(&want, want.size, Ownership::Untagged);
        (found.exported, found.nqn, found.port) = (false, None, None);
        change(&mut found);
        bed.files.push(found.path.clone().unwrap());
        bed.rows.push(found);
        bed
    };
    let mut bed = adopt(&|_| {});
    assert_eq!(report(bed.settle()).ready, Some(true));
    assert_eq!(bed.format(), Some(FormatState::Foreign), "never formatted");
    bed.delete();
    assert_eq!(
        (bed.pass(), bed.rows.len(), bed.files.len()),
        (End::Forgotten, 1, 1),
        "adopted data stays"
    );
    let nqn = Bed::by_hand(None).want().id.nqn.to_string();
    let export =
        |r: &mut DiskRow, nqn: &str, port| (r.exported, r.nqn, r.port) = (true, Some(nqn.to_owned()), Some(port));
    type Edit<'a> = &'a dyn Fn(&mut DiskRow);
    let edits: [Edit<'_>; 6] = [
        &|r| r.size = Some(Bytes(GI)),
        &|r| r.owner = Ownership::Foreign("somebody".into()),
        &|r| r.path = Some("/pool/csi/else.img".into()),
        &|r| r.kind = "raid".into(),
        &|r| export(r, "nqn.2000-02.com.mikrotik:old", 4420),
        &|r| export(r, &nqn, 4421),
    ];
    for change in edits {
        let mut bed = adopt(change);
        let before = bed.rows.clone();
        assert!(report(bed.settle()).stalled);
        assert_eq!((bed.rows, bed.execs), (before, 0));
    }
    // Exported as wanted it is taken as it is.
    assert_eq!(report(adopt(&|r| export(r, &nqn, 4420)).settle()).ready, Some(true));
    // Exported elsewhere after it was tagged: that export is left alone, until somebody has switched it off.
    let mut bed = adopt(&|_| {});
    bed.pass_with(&mut std::iter::empty(), 2);
    assert!(bed.rows[0].owner.tag().is_some());
    export(&mut bed.rows[0], &nqn, 4421);
    let (before, execs) = (bed.rows.clone(), bed.execs);
    let said = report(bed.pass());
    assert!(said.stalled && said.message.contains("4421"), "{said:?}");
    assert_eq!((&bed.rows, bed.execs), (&before, execs));
    bed.rows[0].exported = false;
    assert_eq!(report(bed.settle()).ready, Some(true));
}

#[test]
fn maintenance_queues_new_work() {
    let mut bed = Bed::new();
    bed.state = ServerState::Maintenance;
    assert_eq!((report(bed.pass()).reason, bed.execs), (Reason::Maintenance, 0));
    let mut bed = made();
    bed.state = ServerState::Maintenance;
    bed.request_deletion();
    assert_eq!((report(bed.pass()).reason, bed.rows.len()), (Reason::Maintenance, 1));
}

#[test]
fn i17_an_unknown_add_holds_the_object_until_it_cannot_run_any_more() {
    let mut bed = Bed::new();
    bed.pass_with(&mut [Fate::Late].into_iter(), usize::MAX);
    bed.request_deletion();
    assert_eq!(
        report(bed.pass()).deletion_blocked.unwrap().0,
        Reason::WaitingForLateCommands
    );
    bed.run_late();
    assert_eq!(bed.rows.len(), 1, "the add ran after the deletion was asked for");
    assert_eq!(
        (bed.settle(), bed.is_empty()),
        (End::Forgotten, true),
        "and its disk is removed all the same"
    );
    // An older unknown add counts, even when a newer one was refused.
    let mut bed = Bed::new();
    bed.pass_with(&mut [Fate::Late].into_iter(), usize::MAX);
    bed.pass_with(&mut [Fate::Refused(Reason::PoolFull)].into_iter(), usize::MAX);
    bed.request_deletion();
    assert_eq!(
        report(bed.pass()).deletion_blocked.unwrap().0,
        Reason::WaitingForLateCommands
    );
    bed.now += i64::try_from(MAX_EXEC_AGE.as_secs()).unwrap();
    assert_eq!(bed.pass(), End::Forgotten);
}

/// The appliance starts in the middle of a deletion, and its pool is mounted later than it answers.
#[test]
fn i17_a_deletion_waits_until_the_pool_is_mounted() {
    for steps in 0..5 {
        let mut bed = made();
        bed.request_deletion();
        if steps > 0 {
            bed.pass_with(&mut std::iter::empty(), steps);
        }
        if bed.is_empty() {
            continue;
        }
        bed.mounted = false;
        for _ in 0..3 {
            let said = report(bed.pass());
            assert_eq!(
                said.deletion_blocked.map(|b| b.0),
                Some(Reason::ResultUnknown),
                "after {steps} steps"
            );
        }
        assert_eq!(bed.files.len(), 1, "after {steps} steps");
        bed.mounted = true;
        assert_eq!(
            (bed.settle(), bed.is_empty()),
            (End::Forgotten, true),
            "after {steps} steps"
        );
    }
}

#[test]
fn d1_a_late_smaller_growth_changes_nothing() {
    let mut bed = made();
    bed.volume.spec.capacity = Size(20 * GI);
    bed.pass_with(&mut [Fate::Late].into_iter(), usize::MAX);
    bed.volume.spec.capacity = Size(30 * GI);
    report(bed.pass());
    bed.run_late();
    assert_eq!(bed.rows[0].size, Some(Bytes(30 * GI)));
}

/// Crashes after every mutating step, in each of three lives: the end is always that of the undisturbed run.
#[test]
fn a_crash_after_any_step_changes_no_end() {
    for crash in 1..12 {
        let mut bed = Bed::new();
        bed.pass_with(&mut std::iter::empty(), crash);
        assert_eq!(report(bed.settle()).ready, Some(true), "create, crash after {crash}");
        assert_eq!((bed.rows.len(), bed.format()), (1, Some(FormatState::Blank)));
        bed.volume.spec.capacity = Size(20 * GI);
        bed.resize_by_toggle = crash % 2 == 0;
        bed.pass_with(&mut std::iter::empty(), crash);
        report(bed.settle());
        assert_eq!(bed.rows[0].size, Some(Bytes(20 * GI)), "grow, crash after {crash}");
        bed.request_deletion();
        bed.pass_with(&mut std::iter::empty(), crash);
        assert_eq!(
            (bed.settle(), bed.is_empty()),
            (End::Forgotten, true),
            "delete, crash after {crash}"
        );
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Fine),
        2 => Just(Fate::Lost),
        2 => Just(Fate::Dropped),
        2 => Just(Fate::Late),
        1 => Just(Fate::Refused(Reason::Refused)),
        1 => Just(Fate::Refused(Reason::PoolFull)),
    ]
}

/// The second try made the disk; the first one, of which nothing was heard, runs after the deletion.
#[test]
fn d1_an_earlier_create_keeps_the_object_until_it_cannot_run() {
    let mut bed = Bed::new();
    bed.pass_with(&mut std::iter::once(Fate::Late), usize::MAX);
    assert!(matches!(bed.pass(), End::Rest(..)));
    assert!(!bed.is_empty(), "the second try made it");
    bed.request_deletion();
    let End::Rest(report, Recheck::In(wait)) = bed.pass() else {
        panic!("forgotten while a command may still run");
    };
    assert!(bed.is_empty());
    assert_eq!(report.deletion_blocked.unwrap().0, Reason::WaitingForLateCommands);
    bed.run_late();
    bed.now += i64::try_from(wait.as_secs()).unwrap();
    assert_eq!(bed.settle(), End::Forgotten);
    assert!(bed.is_empty(), "what the late one made is found and removed");
}

proptest! {
    /// Any mixture of lost, dropped, late and refused commands and of crashes, through a whole life.
    #[test]
    fn no_fault_makes_a_duplicate_a_leak_or_a_false_blank(
        fates in prop::collection::vec((fate(), 1usize..8, any::<bool>()), 0..12),
        toggle in any::<bool>(),
        wiped in prop::option::of(0usize..12),
    ) {
        let mut bed = Bed::new();
        bed.resize_by_toggle = toggle;
        let third = fates.len().div_ceil(3).max(1);
        for (i, (fate, crash, late)) in fates.iter().enumerate() {
            if i == third {
                bed.volume.spec.capacity = Size(20 * GI);
            }
            if i == 2 * third {
                bed.request_deletion();
            }
            if wiped == Some(i) {
                bed.volume.status = None;
            }
            if bed.pass_with(&mut std::iter::once(*fate), *crash) == End::Forgotten {
                // Nothing that was sent may still make anything.
                bed.now += i64::try_from(MAX_EXEC_AGE.as_secs()).unwrap();
                if wiped.is_none() {
                    prop_assert!(bed.is_empty());
                    bed.run_late();
                    prop_assert!(bed.is_empty(), "a late command leaked");
                }
                return Ok(());
            }
            prop_assert!(bed.rows.len() <= 1, "a duplicate");
            if *late {
                bed.run_late();
            }
            if wiped.is_some_and(|w| w <= i) && !bed.rows.is_empty() && bed.format() == Some(FormatState::Blank) {
                let nonce: Nonce = bed.volume.status.as_ref().unwrap().creation.as_ref().unwrap().nonce.parse().unwrap();
                prop_assert_eq!(&bed.rows[0].owner.tag().unwrap().nonce, &nonce, "Blank without proof");
            }
        }
        bed.run_late();
        bed.request_deletion();
        let end = bed.settle();
        prop_assert_eq!(end, End::Forgotten);
        prop_assert!(bed.is_empty());
    }

    /// An appliance that is away leads to no step that removes, makes or concludes anything.
    #[test]
    fn i17_unknown_never_leads_to_a_destructive_step(deleting in any::<bool>(), was_made in any::<bool>()) {
        let mut bed = if was_made { made() } else { Bed::new() };
        let before = (bed.rows.clone(), bed.files.clone());
        bed.unreachable = true;
        if deleting {
            bed.request_deletion();
        }
        for _ in 0..3 {
            prop_assert!(bed.pass() != End::Forgotten || !was_made && bed.execs == 0);
        }
        prop_assert_eq!((bed.rows.clone(), bed.files.clone()), before);
        let status = bed.volume.status.clone().unwrap_or_default();
        prop_assert!(find_condition(&status.conditions, kind::STALLED).is_none(), "an outage is no verdict");
    }
}
