//! Tables over admission and over the order of steps.

use std::time::Duration;

use jiff::Timestamp;
use rds_crds::RdsVolume;
use rds_crds::attachment::Intent;
use rds_crds::volume::{AccessMode, Role};

use super::admit::admit;
use super::decide::{AttachmentView, Canary, Did, FencePermission, Owed, Release, Said, Seen, Step, decide};
use super::model::{Ask, FenceView, HolderState, HolderView, Refusal, Verdict, VolumeView, Word};
use super::node_off_claim::NodeOffClaim;
use super::record::{Change, changed};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn volume(block: bool, modes: &[AccessMode]) -> VolumeView {
    VolumeView {
        name: "pvc-1".into(),
        ready: true,
        deleting: false,
        block,
        access_modes: modes.to_vec(),
        generation: 1,
        holders: vec![],
        holders_unknown: false,
        fence: None,
        fenced: vec![],
        migration_timeout: Duration::from_secs(300),
        migration_deadline: None,
        migration_started: None,
        kubevirt_only: false,
    }
}

fn rwo() -> VolumeView {
    volume(false, &[AccessMode::ReadWriteOnce])
}

fn rwx() -> VolumeView {
    volume(true, &[AccessMode::ReadWriteMany])
}

fn holder(node: &str, state: HolderState) -> HolderView {
    HolderView {
        node: node.into(),
        attachment: format!("uid-{node}"),
        role: Role::Primary,
        state,
        word: Word::Intent,
        unpublished: false,
        deferred: false,
    }
}

fn ask(node: &str, mode: AccessMode) -> Ask {
    Ask {
        node: node.into(),
        attachment: format!("uid-{node}"),
        mode,
        read_only: false,
        same_vm: None,
    }
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refuse(why, _) => why,
        Verdict::Admit { .. } | Verdict::Held => panic!("{verdict:?}"),
    }
}

fn text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Refuse(_, text) => text,
        Verdict::Admit { .. } | Verdict::Held => panic!("{verdict:?}"),
    }
}

#[test]
fn r48_a_second_writer_is_refused_whatever_the_first_is() {
    for (state, want) in [
        (HolderState::Alive, Refusal::Conflict),
        (HolderState::Leaving, Refusal::Handoff),
        (HolderState::Lost, Refusal::FencePending),
        (HolderState::Doubtful, Refusal::Conflict),
    ] {
        let mut volume = rwo();
        volume.holders = vec![holder("n1", state)];
        let verdict = admit(&ask("n2", AccessMode::ReadWriteOnce), &volume, at(0));
        assert_eq!(refusal(verdict.clone()), want, "{state:?}");
        assert!(text(verdict).contains("n1"), "the holder is named");
    }
}

#[test]
fn b16_the_recorded_mode_counts_and_not_the_request() {
    let verdict = admit(&ask("n2", AccessMode::ReadWriteMany), &rwo(), at(0));
    assert_eq!(refusal(verdict), Refusal::AccessMode);
    let once = volume(true, &[AccessMode::ReadWriteOnce]);
    assert_eq!(
        refusal(admit(&ask("n2", AccessMode::ReadWriteMany), &once, at(0))),
        Refusal::AccessMode
    );
}

#[test]
fn a_pod_alone_fits_a_volume_for_one_node_and_a_reader_fits_any() {
    use AccessMode::{ReadOnlyMany, ReadWriteMany, ReadWriteOnce, ReadWriteOncePod};
    for (made_for, asked, fits) in [
        (ReadWriteOnce, ReadWriteOncePod, true),
        (ReadWriteOnce, ReadOnlyMany, true),
        (ReadWriteOncePod, ReadWriteOncePod, true),
        (ReadWriteOncePod, ReadWriteOnce, false),
        (ReadOnlyMany, ReadWriteOnce, false),
        (ReadWriteOnce, ReadWriteMany, false),
    ] {
        let verdict = admit(&ask("n1", asked), &volume(true, &[made_for]), at(0));
        assert_eq!(
            matches!(verdict, Verdict::Admit { .. }),
            fits,
            "{made_for:?} {asked:?}: {verdict:?}"
        );
    }
}

#[test]
fn i3_a_migration_begins_only_beside_a_holder_that_is_alive() {
    for (state, want) in [
        (HolderState::Leaving, Refusal::Handoff),
        (HolderState::Lost, Refusal::FencePending),
        (HolderState::Doubtful, Refusal::Handoff),
    ] {
        let mut volume = rwx();
        volume.holders = vec![holder("n1", state)];
        assert_eq!(
            refusal(admit(&ask("n2", AccessMode::ReadWriteMany), &volume, at(0))),
            want,
            "{state:?}"
        );
    }
    let mut volume = rwx();
    volume.holders = vec![holder("n1", HolderState::Alive)];
    let verdict = admit(&ask("n2", AccessMode::ReadWriteMany), &volume, at(1000));
    assert_eq!(
        verdict,
        Verdict::Admit {
            role: Role::MigrationTarget,
            deadline: Some(at(1300))
        }
    );
}

#[test]
fn r65_r66_r67_limit_and_overdue() {
    let mut volume = rwx();
    volume.holders = vec![holder("n1", HolderState::Alive), holder("n2", HolderState::Alive)];
    (volume.migration_started, volume.migration_deadline) = (Some(at(0)), Some(at(300)));
    let third = ask("n3", AccessMode::ReadWriteMany);
    assert_eq!(
        text(admit(&third, &volume, at(299))),
        "Volume pvc-1 already attached to 2 nodes (migration limit). Wait for migration to complete. Attached nodes: [n1 n2]"
    );
    assert_eq!(
        text(admit(&third, &volume, at(420))),
        "Volume pvc-1 migration timeout exceeded (420s elapsed, 300s max). Previous migration may be stuck. Detach source node to \
         reset, or adjust migrationTimeoutSeconds in StorageClass."
    );
    volume.holders.pop();
    assert!(
        matches!(admit(&third, &volume, at(420)), Verdict::Admit { .. }),
        "detaching one side resets it"
    );
}

#[test]
fn an_overdue_migration_is_refused_once_and_not_anew_with_each_second() {
    let mut world = rwx();
    world.holders = vec![holder("n1", HolderState::Alive), holder("n2", HolderState::Alive)];
    (world.migration_started, world.migration_deadline) = (Some(at(0)), Some(at(300)));
    let mut third = attachment("n3", false, Said::Nothing);
    third.ask.mode = AccessMode::ReadWriteMany;
    let held = |node| attachment(node, false, Said::Admitted(1));
    let mut now = seen(world, vec![third, held("n1"), held("n2")]);
    now.now = at(420);
    let Step::Deny(_, why, text) = decide(&now) else {
        panic!()
    };
    assert!(text.contains("420s elapsed, 300s max"), "{text}");
    now.attachments[0].said = Said::Refused(why.word().to_owned(), text);
    now.now = at(430);
    assert_eq!(decide(&now), Step::Rest(None));
    now.volume.migration_timeout = Duration::from_secs(400);
    assert!(matches!(decide(&now), Step::Deny(_, _, text) if text.contains("430s elapsed, 400s max")));
}

#[test]
fn migration_policy_kubevirt_needs_the_same_machine() {
    let mut volume = rwx();
    volume.kubevirt_only = true;
    volume.holders = vec![holder("n1", HolderState::Alive)];
    let mut second = ask("n2", AccessMode::ReadWriteMany);
    for (same, wanted) in [(None, Refusal::Handoff), (Some(false), Refusal::MigrationPolicy)] {
        second.same_vm = same;
        assert_eq!(refusal(admit(&second, &volume, at(0))), wanted, "{same:?}");
    }
    second.same_vm = Some(true);
    assert!(matches!(admit(&second, &volume, at(0)), Verdict::Admit { .. }));
}

#[test]
fn i4_nobody_enters_while_the_record_may_have_holes() {
    let mut volume = rwo();
    volume.holders_unknown = true;
    assert_eq!(
        refusal(admit(&ask("n2", AccessMode::ReadWriteOnce), &volume, at(0))),
        Refusal::FencePending
    );
    let mut volume = rwo();
    volume.fenced = vec!["n2".into()];
    assert_eq!(
        refusal(admit(&ask("n2", AccessMode::ReadWriteOnce), &volume, at(0))),
        Refusal::FencePending
    );
}

#[test]
fn readers_join_readers_and_a_writer_waits_for_the_lost_one() {
    let mut volume = volume(false, &[AccessMode::ReadOnlyMany, AccessMode::ReadWriteOnce]);
    let mut reader = holder("n1", HolderState::Lost);
    reader.role = Role::Reader;
    volume.holders = vec![reader];
    let verdict = admit(&ask("n2", AccessMode::ReadOnlyMany), &volume, at(0));
    assert_eq!(
        verdict,
        Verdict::Admit {
            role: Role::Reader,
            deadline: None
        }
    );
    assert_eq!(
        refusal(admit(&ask("n2", AccessMode::ReadWriteOnce), &volume, at(0))),
        Refusal::FencePending
    );
}

fn seen(volume: VolumeView, attachments: Vec<AttachmentView>) -> Seen {
    Seen {
        volume,
        attachments,
        fence_permission: FencePermission::Granted,
        acknowledged: vec![],
        cut_now: None,
        node_off_claim: None,
        canary: None,
        just_opened: false,
        did: None,
        appliance_failed: false,
        now: at(0),
    }
}

fn attachment(node: &str, deleting: bool, said: Said) -> AttachmentView {
    AttachmentView {
        ask: ask(node, AccessMode::ReadWriteOnce),
        deleting,
        said,
        confirms_connection: false,
        unrecorded: false,
    }
}

#[test]
fn i4_a_holder_leaves_only_after_permission_was_withdrawn_and_on_its_final_word() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Leaving)];
    let mut now = seen(world, vec![attachment("n1", true, Said::Admitted(1))]);
    now.volume.holders[0].word = Word::Disconnected;
    assert_eq!(decide(&now), Step::Withdraw("uid-n1".into()));
    now.attachments[0].said = Said::Withdrawn;
    assert_eq!(decide(&now), Step::Release("uid-n1".into(), Release::Disconnected));
    for word in [Word::Silent, Word::Intent] {
        now.volume.holders[0].word = word;
        assert_eq!(
            decide(&now),
            Step::Rest(None),
            "{word:?}: admitted without an intent may be connected"
        );
    }
    now.volume.holders.clear();
    assert_eq!(decide(&now), Step::Forget("uid-n1".into()));
}

#[test]
fn a_final_word_does_not_release_an_attachment_that_is_still_wanted() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Alive)];
    world.holders[0].word = Word::Disconnected;
    assert_eq!(
        decide(&seen(world, vec![attachment("n1", false, Said::Admitted(1))])),
        Step::Rest(None)
    );
}

#[test]
fn a_fence_goes_on_from_its_recorded_phase() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Lost)];
    let mut now = seen(world, vec![]);
    assert_eq!(decide(&now), Step::BeginFence("n1".into(), "uid-n1".into()));
    now.volume.fence = Some(FenceView {
        node: "n1".into(),
        attachment: "uid-n1".into(),
        cut: false,
    });
    assert_eq!(decide(&now), Step::Cut);
    now.did = Some(Did::Cut);
    assert_eq!(decide(&now), Step::RecordCut);
    now.volume.fence.as_mut().unwrap().cut = true;
    assert_eq!(
        decide(&now),
        Step::Reopen,
        "after a crash the second command follows, not the first"
    );
    now.did = Some(Did::Reopened);
    assert_eq!(decide(&now), Step::EndFence);
    now.did = None;
    now.appliance_failed = true;
    assert!(matches!(decide(&now), Step::Rest(Some(_))), "unknown is not fenced");
}

/// Nothing is recorded that cannot be carried out: the node may come back before, and need not be cut then.
#[test]
fn no_fence_begins_while_the_appliance_cannot_be_asked() {
    let mut world = rwx();
    world.holders = vec![holder("n1", HolderState::Lost)];
    let mut now = seen(world, vec![]);
    now.appliance_failed = true;
    let Step::Rest(Some(owed)) = decide(&now) else {
        panic!("{:?}", decide(&now))
    };
    assert!(!owed.deferred && owed.why.contains("maintenance"), "{owed:?}");
    now.appliance_failed = false;
    assert!(matches!(decide(&now), Step::BeginFence(..)));
}

/// Its agent would refuse every new use on all other nodes otherwise (D5), as long as one of the old ones lasts.
#[test]
fn a_lost_reader_holds_up_other_readers_as_little_as_it_writes() {
    let mut world = volume(false, &[AccessMode::ReadOnlyMany, AccessMode::ReadWriteOnce]);
    world.holders = vec![holder("n1", HolderState::Lost), holder("n2", HolderState::Alive)];
    world.holders.iter_mut().for_each(|h| h.role = Role::Reader);
    let mut leaving = attachment("n1", true, Said::Withdrawn);
    leaving.ask.mode = AccessMode::ReadOnlyMany;
    let mut reads = attachment("n3", false, Said::Nothing);
    reads.ask.mode = AccessMode::ReadOnlyMany;
    let mut now = seen(world, vec![leaving, reads]);
    assert_eq!(decide(&now), Step::Defer("uid-n1".into()));
    now.volume.holders[0].deferred = true;
    assert_eq!(decide(&now), Step::Forget("uid-n1".into()), "Unpublish answers at once");
    now.attachments.remove(0);
    assert!(matches!(decide(&now), Step::Admit(ask, Role::Reader, None) if ask.node == "n3"));
    now.attachments.clear();
    let owed = |now: &Seen| {
        let step = decide(now);
        let Step::Rest(Some(owed)) = step else {
            panic!("{step:?}")
        };
        owed
    };
    assert!(owed(&now).deferred && owed(&now).harmless);
    // A writer changes that.
    let mut writes = attachment("n3", false, Said::Nothing);
    let Step::Deny(_, why, text) = decide(&seen(now.volume.clone(), vec![writes.clone()])) else {
        panic!("a writer got in beside a lost reader")
    };
    writes.said = Said::Refused(why.word().into(), text);
    now.attachments.push(writes);
    assert!(owed(&now).deferred && !owed(&now).harmless);
}

#[test]
fn d4_a_live_peer_is_never_cut_without_a_persons_word() {
    let mut world = rwx();
    world.holders = vec![holder("n1", HolderState::Lost), holder("n2", HolderState::Alive)];
    let mut now = seen(world, vec![attachment("n1", true, Said::Withdrawn)]);
    assert_eq!(decide(&now), Step::Defer("uid-n1".into()), "what it says is kept first");
    now.volume.holders[0].deferred = true;
    assert_eq!(
        decide(&now),
        Step::Forget("uid-n1".into()),
        "Unpublish for the lost node answers at once"
    );
    now.attachments.clear();
    let Step::Rest(Some(owed)) = decide(&now) else {
        panic!("{:?}", decide(&now))
    };
    assert!(owed.deferred && owed.why.contains("fence-now"));
    now.cut_now = Some("n1".into());
    assert_eq!(decide(&now), Step::BeginFence("n1".into(), "uid-n1".into()));
    now.cut_now = None;
    now.volume.holders[1].unpublished = true;
    assert_eq!(
        decide(&now),
        Step::BeginFence("n1".into(), "uid-n1".into()),
        "the peer has no publish left"
    );
    now.volume.holders[1].unpublished = false;
    for state in [HolderState::Doubtful, HolderState::Leaving] {
        now.volume.holders[1].state = state;
        assert!(matches!(decide(&now), Step::Rest(Some(_))), "{state:?}");
    }
}

#[test]
fn d4_the_detach_of_every_lost_holder_ends_beside_a_live_peer() {
    let mut world = rwx();
    world.holders = ["n1", "n2"].map(|node| holder(node, HolderState::Lost)).into();
    world.holders.push(holder("n3", HolderState::Alive));
    let going = |node: &str| attachment(node, true, Said::Withdrawn);
    let mut now = seen(world, vec![going("n1"), going("n2")]);
    for (at, node) in ["n1", "n2"].into_iter().enumerate() {
        let uid = format!("uid-{node}");
        assert_eq!(decide(&now), Step::Defer(uid.clone()));
        now.volume.holders[at].deferred = true;
        assert_eq!(decide(&now), Step::Forget(uid));
        now.attachments.remove(0);
    }
    assert!(matches!(decide(&now), Step::Rest(Some(Owed { deferred: true, .. }))));
    now.cut_now = Some("n2".into());
    let named = Step::BeginFence("n2".into(), "uid-n2".into());
    assert_eq!(decide(&now), named, "whom a person names, also behind another one");
    // A holder that is not lost keeps its object.
    now.cut_now = None;
    now.attachments = vec![going("n3")];
    now.volume.holders[2].state = HolderState::Leaving;
    assert!(matches!(decide(&now), Step::Rest(Some(_))));
}

#[test]
fn who_is_deferred_was_not_removed_by_force() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Doubtful)];
    let mut asks = attachment("n2", false, Said::Nothing);
    let Verdict::Refuse(why, text) = admit(&asks.ask, &world, at(0)) else {
        panic!()
    };
    asks.said = Said::Refused(why.word().to_owned(), text);
    let mut now = seen(world, vec![asks]);
    assert!(matches!(decide(&now), Step::Rest(Some(Owed { why, .. })) if why.contains("removed by force")));
    now.volume.holders[0].deferred = true;
    assert_eq!(decide(&now), Step::Rest(None));
}

#[test]
fn a_deferral_is_kept_in_the_record_until_its_node_has_a_new_attachment() {
    let intent = Intent {
        boot_id: "b1".into(),
        system_uuid: "s".into(),
        machine_id: "m".into(),
        node_uid: "u".into(),
        generation: 1,
    };
    let spec = serde_json::json!({"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteMany"]});
    let mut volume = RdsVolume::new("v", serde_json::from_value(spec).unwrap());
    for node in ["n1", "n2"] {
        let admitted = Change::Admit(ask(node, AccessMode::ReadWriteMany), Role::Primary);
        volume = changed(&volume, &admitted, at(0));
    }
    let deferrals = |volume: &RdsVolume| -> Vec<Option<Option<Intent>>> {
        let holders = &volume.status.as_ref().unwrap().holders;
        holders
            .iter()
            .map(|h| h.deferred.as_ref().map(|d| d.intent.clone()))
            .collect()
    };
    volume = changed(&volume, &Change::Defer("uid-n1".into(), Some(intent.clone())), at(1));
    assert_eq!(deferrals(&volume), [Some(Some(intent)), None]);
    volume = changed(&volume, &Change::Succeed("uid-n1".into(), "uid-new".into()), at(2));
    assert_eq!(deferrals(&volume), [None, None]);
}

#[test]
fn i19_without_licence_nothing_is_cut() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Lost)];
    let mut now = seen(
        world,
        vec![
            attachment("n1", true, Said::Withdrawn),
            attachment("n2", false, Said::Nothing),
        ],
    );
    now.fence_permission = FencePermission::Withheld("FenceProven is not True".into());
    assert!(matches!(decide(&now), Step::Deny(uid, Refusal::FencePending, _) if uid == "uid-n2"));
    now.attachments.truncate(1);
    let Step::Rest(Some(owed)) = decide(&now) else { panic!() };
    assert!(!owed.deferred && owed.why.contains("FenceProven"));
    now.volume.holders[0].word = Word::Rebooted;
    assert_eq!(
        decide(&now),
        Step::Release("uid-n1".into(), Release::Rebooted),
        "its reboot frees it all the same"
    );
}

#[test]
fn admission_is_said_once_and_again_after_a_new_generation() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Alive)];
    let mut now = seen(world, vec![attachment("n1", false, Said::Nothing)]);
    assert_eq!(decide(&now), Step::Grant("uid-n1".into()));
    now.attachments[0].said = Said::Admitted(1);
    assert_eq!(decide(&now), Step::Rest(None));
    now.volume.generation = 2;
    assert_eq!(decide(&now), Step::Grant("uid-n1".into()));
}

#[test]
fn i4_holes_in_the_record_are_closed_by_the_nodes_own_word_or_by_a_cut_of_everybody() {
    let mut world = rwo();
    world.holders_unknown = true;
    let refused = Said::Refused("FencePending".into(), String::new());
    assert_eq!(
        decide(&seen(world.clone(), vec![])),
        Step::Rest(None),
        "nobody asks: nobody is cut"
    );
    let mut asking = seen(world.clone(), vec![attachment("n2", false, refused.clone())]);
    assert_eq!(decide(&asking), Step::BeginFence(String::new(), String::new()));
    asking.just_opened = true;
    assert!(
        !matches!(decide(&asking), Step::BeginFence(..)),
        "who is connected may not have had the time to say so"
    );
    asking.just_opened = false;
    asking.fence_permission = FencePermission::Withheld("not proven".into());
    let Step::Deny(_, Refusal::FencePending, text) = decide(&asking) else {
        panic!("{:?}", decide(&asking))
    };
    asking.attachments[0].said = Said::Refused("FencePending".into(), text);
    assert!(matches!(decide(&asking), Step::Rest(Some(Owed { why, .. })) if why.contains("not proven")));

    // Who is connected already gets its place in the record again, and then stands in the way of the other.
    let mut both = seen(
        world,
        vec![
            attachment("n1", false, Said::Admitted(1)),
            attachment("n2", false, refused),
        ],
    );
    both.attachments[0].confirms_connection = true;
    assert!(matches!(decide(&both), Step::Admit(ask, Role::Primary, None) if ask.node == "n1"));
    both.volume.holders = vec![holder("n1", HolderState::Alive)];
    assert!(matches!(decide(&both), Step::Deny(uid, Refusal::Conflict, _) if uid == "uid-n2"));
    // It leaves: now all of before are cut, and only then the other gets in.
    both.attachments.remove(0);
    both.volume.holders.clear();
    assert_eq!(decide(&both), Step::BeginFence(String::new(), String::new()));
}

#[test]
fn d4_a_second_side_of_a_migration_waits_for_holes_without_a_cut() {
    let mut world = rwx();
    world.holders_unknown = true;
    world.holders = vec![holder("n1", HolderState::Alive)];
    let mut ask = attachment("n2", false, Said::Nothing);
    ask.ask.mode = AccessMode::ReadWriteMany;
    let mut now = seen(world, vec![attachment("n1", false, Said::Admitted(1)), ask]);
    let Step::Deny(_, Refusal::FencePending, text) = decide(&now) else {
        panic!("{:?}", decide(&now))
    };
    now.attachments[1].said = Said::Refused("FencePending".into(), text);
    assert!(matches!(decide(&now), Step::Rest(Some(Owed { why, .. })) if why.contains("n2 gets in when")));
}

#[test]
fn i4_a_holder_whose_object_was_removed_by_force_is_succeeded_only_by_its_own_machine() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Leaving)];
    let mut again = attachment("n1", false, Said::Nothing);
    again.ask.attachment = "uid-new".into();
    let mut now = seen(world, vec![again]);
    let Step::Deny(_, Refusal::Handoff, text) = decide(&now) else {
        panic!("{:?}", decide(&now))
    };
    now.attachments[0].said = Said::Refused("Handoff".into(), text);
    assert!(matches!(decide(&now), Step::Rest(Some(Owed { why, .. })) if why.contains("removed by force")));
    now.cut_now = Some("n1".into());
    assert_eq!(decide(&now), Step::BeginFence("n1".into(), "uid-n1".into()));
    now.attachments[0].confirms_connection = true;
    assert_eq!(decide(&now), Step::Succeed("uid-n1".into(), "uid-new".into()));
    // While the old object is there, it is a plain hand-over on one node.
    now.attachments.push(attachment("n1", true, Said::Withdrawn));
    now.cut_now = None;
    assert!(!matches!(decide(&now), Step::Succeed(..)), "{:?}", decide(&now));
}

#[test]
fn i4_a_persons_word_releases_without_a_cut_and_ends_a_deferred_fence() {
    let mut world = rwx();
    world.holders = vec![holder("n1", HolderState::Lost), holder("n2", HolderState::Alive)];
    let mut now = seen(world, vec![attachment("n1", true, Said::Admitted(1))]);
    now.fence_permission = FencePermission::Withheld("Plan".into());
    now.node_off_claim = Some(NodeOffClaim::Believed("uid-n1".into()));
    assert_eq!(decide(&now), Step::Withdraw("uid-n1".into()), "permission goes first");
    now.attachments[0].said = Said::Withdrawn;
    assert_eq!(
        decide(&now),
        Step::SayNodeOff("uid-n1".into()),
        "then its own word counts no longer"
    );
    now.attachments[0].said = Said::NodeOff;
    assert_eq!(decide(&now), Step::Release("uid-n1".into(), Release::NodeIsOff));
    now.node_off_claim = Some(NodeOffClaim::Refused("it is on".into()));
    assert_eq!(decide(&now), Step::RefuseNodeOffClaim("it is on".into()));
    for claim in [Some(NodeOffClaim::NotYet), None] {
        now.node_off_claim = claim;
        assert_eq!(decide(&now), Step::Defer("uid-n1".into()), "still deferred");
    }
    now.volume.fence = Some(FenceView {
        node: "n1".into(),
        attachment: "uid-n1".into(),
        cut: false,
    });
    now.node_off_claim = Some(NodeOffClaim::Believed("uid-n1".into()));
    assert_eq!(decide(&now), Step::Cut, "a cut that has begun goes on");
}

#[test]
fn d4_a_live_holder_is_cut_only_on_a_canary() {
    let mut world = volume(true, &[AccessMode::ReadWriteOnce]);
    world.holders = vec![holder("n1", HolderState::Alive)];
    let mut now = seen(world, vec![attachment("n1", false, Said::Admitted(1))]);
    now.fence_permission = FencePermission::Withheld("not proven yet: this is how it is proven".into());
    now.cut_now = Some("n1".into());
    assert_eq!(decide(&now), Step::Rest(None), "no canary");
    let begin = Step::BeginFence("n1".into(), "uid-n1".into());
    now.canary = Some(Canary { going: false });
    assert_eq!(decide(&now), begin);
    now.cut_now = None;
    assert_eq!(decide(&now), Step::Rest(None), "not before it is asked for");
    now.canary = Some(Canary { going: true });
    assert_eq!(decide(&now), begin, "one that goes waits for nobody");
    now.appliance_failed = true;
    assert_eq!(decide(&now), Step::Rest(None));
    now.appliance_failed = false;
    (now.volume.generation, now.canary) = (2, Some(Canary { going: false }));
    now.volume.holders.clear();
    assert!(matches!(decide(&now), Step::Deny(_, Refusal::FencePending, _)));
    now.attachments[0].said = Said::Refused("FencePending".into(), String::new());
    assert_eq!(decide(&now), Step::Rest(None), "nobody is let in again");
}

/// Somebody emptied `holders`: whoever may be connected is in the record again before anybody is let in, let go or cut.
#[test]
fn i4_a_holder_that_was_taken_out_by_hand_comes_back_first() {
    let waiting = || attachment("n0", false, Said::Refused("Conflict".into(), String::new()));
    for (deleting, said) in [
        (false, Said::Admitted(1)),
        (true, Said::Admitted(1)),
        (true, Said::Withdrawn),
        (false, Said::Refused("Conflict".into(), "written by hand".into())),
    ] {
        let mut held = attachment("n1", deleting, said);
        held.unrecorded = true;
        let mut now = seen(rwo(), vec![waiting(), held]);
        assert!(
            matches!(decide(&now), Step::Recall(ask, Role::Primary) if ask.node == "n1"),
            "{:?}",
            decide(&now)
        );
        now.attachments[1].ask.read_only = true;
        assert!(matches!(decide(&now), Step::Recall(_, Role::Reader)));
    }
    // It has not connected so far, and was told that it may: it goes first all the same.
    let told = attachment("n1", false, Said::Admitted(1));
    let now = seen(rwo(), vec![waiting(), told]);
    assert!(matches!(decide(&now), Step::Admit(ask, Role::Primary, None) if ask.node == "n1"));
    // Where its node is recorded under the UID of an object that was removed by force, it takes that place once it is connected.
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Doubtful)];
    world.holders[0].attachment = "uid-old".into();
    let mut again = attachment("n1", false, Said::Nothing);
    again.unrecorded = true;
    let mut now = seen(world, vec![again]);
    assert!(
        matches!(decide(&now), Step::Deny(_, Refusal::Handoff, _)),
        "{:?}",
        decide(&now)
    );
    now.attachments[0].confirms_connection = true;
    assert_eq!(decide(&now), Step::Succeed("uid-old".into(), "uid-n1".into()));
    // Beside another one it is recorded as what it is: a second writer, and nobody else gets in.
    let mut world = rwo();
    world.holders = vec![holder("n2", HolderState::Alive)];
    let mut second = attachment("n1", true, Said::Withdrawn);
    second.unrecorded = true;
    assert!(matches!(
        decide(&seen(world, vec![second])),
        Step::Recall(_, Role::MigrationTarget)
    ));
}

/// Somebody wrote `Admitted=True` by hand: that admits nobody.
#[test]
fn i3_an_admission_that_nobody_recorded_is_taken_back() {
    let mut world = rwo();
    world.holders = vec![holder("n1", HolderState::Alive)];
    let now = seen(
        world,
        vec![
            attachment("n1", false, Said::Admitted(1)),
            attachment("n2", false, Said::Admitted(1)),
        ],
    );
    assert!(matches!(decide(&now), Step::Deny(uid, Refusal::Conflict, _) if uid == "uid-n2"));
}
