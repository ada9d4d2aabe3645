//! The decisions row by row; `explore` plays them against a world.

mod identity;

use super::decide::*;
use super::model::*;

const BASE: &str = "nqn.2000-02.com.mikrotik:pvc-1";
const G2: &str = "nqn.2000-02.com.mikrotik:pvc-1.g2-0a1b2c3d";

fn host() -> Host {
    Host {
        node: "n1".into(),
        boot_id: "boot".into(),
        system_uuid: "system".into(),
        machine_id: "machine".into(),
        node_uid: Some("node-uid".into()),
    }
}

fn grant(nqn: &str, generation: u32) -> Admission {
    Admission::Granted(Grant {
        nqn: nqn.into(),
        address: "192.0.2.1".into(),
        port: 4420,
        generation,
    })
}

fn session(nqn: &str, generation: impl Into<Option<u32>>, used: Use) -> SessionSeen {
    SessionSeen {
        nqn: nqn.into(),
        generation: generation.into(),
        state: "live".into(),
        disk: true,
        identity: None,
        connection: "nvme0/7".into(),
        used,
    }
}

/// Admitted to generation 1, nothing done yet.
fn admitted() -> Seen {
    Seen {
        host: host(),
        prefix: "nqn.2000-02.com.mikrotik:pvc-".into(),
        attachment: AttachmentSeen {
            node: "n1".into(),
            deleting: false,
            read_only: false,
            admission: grant(BASE, 1),
            said: Said::default(),
        },
        volume: Fact::Present(VolumeSeen {
            generation: 1,
            nqn: Some(BASE.into()),
            holds: true,
            fenced: false,
            canary: None,
        }),
        sessions: Sessions::Known(vec![]),
        leftover: Use::Unused,
        unreported: None,
        users: None,
        in_flight: InFlight::None,
        failure: None,
        may_retry: true,
        watched: false,
        asked: None,
    }
}

fn with_intent() -> Seen {
    let mut seen = admitted();
    seen.attachment.said.intent = seen.host.intent(1);
    seen
}

fn connected() -> Seen {
    let mut seen = with_intent();
    seen.sessions = Sessions::Known(vec![session(BASE, 1, Use::Unused)]);
    settled(seen)
}

fn leaving(mut seen: Seen) -> Seen {
    seen.attachment.deleting = true;
    seen
}

fn volume(seen: &mut Seen, change: impl FnOnce(&mut VolumeSeen)) {
    if let Fact::Present(volume) = &mut seen.volume {
        change(volume);
    }
}

/// Says what there is to say.
fn settled(mut seen: Seen) -> Seen {
    if let Step::Report(report) = decide(&seen) {
        seen.attachment.said.report = report;
        assert!(
            !matches!(decide(&seen), Step::Report(_)),
            "said once, it is said: {seen:?}"
        );
    }
    seen
}

fn report(seen: &Seen) -> Report {
    let step = decide(seen);
    let Step::Report(report) = step else {
        panic!("{step:?} for {seen:?}");
    };
    report
}

#[test]
fn i13_the_intent_comes_before_the_connect() {
    let seen = admitted();
    assert_eq!(decide(&seen), Step::RecordIntent(seen.host.intent(1).unwrap()));
    assert!(matches!(decide(&with_intent()), Step::Connect(g) if g.nqn == BASE));
    let said = connected().attachment.said.report;
    assert_eq!(said.connected.unwrap().reason, Reason::Connected);
    assert_eq!(said.used_by, Some(vec![]), "nothing uses it");
    assert_eq!(decide(&connected()), Step::Rest(Wait::Settled));
}

#[test]
fn an_intent_of_another_boot_machine_or_generation_is_none() {
    for change in [
        |h: &mut Host| h.boot_id = "later".into(),
        |h: &mut Host| h.node_uid = Some("made anew".into()),
    ] {
        let mut seen = with_intent();
        change(&mut seen.host);
        assert_eq!(decide(&seen), Step::RecordIntent(seen.host.intent(1).unwrap()));
    }
    let mut seen = with_intent();
    seen.attachment.admission = grant(G2, 2);
    volume(&mut seen, |v| v.generation = 2);
    assert_eq!(decide(&seen), Step::RecordIntent(seen.host.intent(2).unwrap()));
    let mut seen = admitted();
    seen.host.node_uid = None;
    assert!(
        matches!(decide(&seen), Step::Rest(Wait::Answer(_))),
        "the Node was not read"
    );
}

#[test]
fn i3_another_machine_of_this_name_is_neither_joined_nor_spoken_for() {
    for change in [
        |h: &mut Host| h.machine_id = "other".into(),
        |h: &mut Host| h.system_uuid = "other".into(),
        |h: &mut Host| h.node_uid = Some("replaced".into()),
    ] {
        let mut seen = with_intent();
        seen.host.boot_id = "another".into();
        change(&mut seen.host);
        assert_eq!(report(&seen).connected.unwrap().reason, Reason::OtherMachine);
        assert_eq!(decide(&settled(seen.clone())), Step::Rest(Wait::Settled));
        let gone = leaving(seen.clone());
        assert_eq!(report(&gone).waiting.unwrap().reason, Reason::OtherMachine);
        assert_eq!(decide(&settled(gone)), Step::Rest(Wait::Settled));
        // What was cut is over: the generation has moved on.
        volume(&mut seen, |v| v.generation = 2);
        assert!(matches!(decide(&leaving(seen.clone())), Step::DeclareDisconnected(..)));
        seen.attachment.admission = grant(G2, 2);
        assert_eq!(decide(&seen), Step::RecordIntent(seen.host.intent(2).unwrap()));
    }
    let mut seen = with_intent();
    (seen.host.boot_id, seen.host.node_uid) = ("another".into(), None);
    for seen in [leaving(seen.clone()), seen] {
        assert!(
            matches!(decide(&seen), Step::Rest(Wait::Answer(_))),
            "the Node was not read"
        );
    }
}

#[test]
fn i4_only_what_the_volume_records_is_connected() {
    for change in [
        |s: &mut Seen| volume(s, |v| v.holds = false),
        |s: &mut Seen| volume(s, |v| v.generation = 2),
        |s: &mut Seen| volume(s, |v| v.fenced = true),
        |s: &mut Seen| s.volume = Fact::Absent,
        |s: &mut Seen| s.volume = Fact::Unknown("timeout".into()),
        |s: &mut Seen| s.attachment.admission = Admission::None,
        |s: &mut Seen| s.attachment.admission = Admission::Withdrawn,
        |s: &mut Seen| s.attachment.deleting = true,
        |s: &mut Seen| s.attachment.node = "n2".into(),
        |s: &mut Seen| s.attachment.said.disconnected = true,
        |s: &mut Seen| s.sessions = Sessions::Unknown("timeout".into()),
        |s: &mut Seen| s.in_flight = InFlight::Running,
        |s: &mut Seen| s.in_flight = InFlight::Unknown,
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session(G2, 2, Use::Unused)]),
        |s: &mut Seen| s.leftover = Use::Used("a mount".into()),
        |s: &mut Seen| s.attachment.admission = grant("nqn.2014-08.org.nvmexpress:root", 1),
    ] {
        for mut seen in [admitted(), with_intent()] {
            let intended = seen.attachment.said.intent.is_some();
            change(&mut seen);
            let step = decide(&seen);
            assert!(!matches!(step, Step::Connect(_)), "{step:?} for {seen:?}");
            // The kernel's leftovers do not matter to the record of what is about to happen.
            let leftover = seen.leftover != Use::Unused;
            assert!(
                !matches!(step, Step::RecordIntent(_)) || (leftover && !intended),
                "{step:?} for {seen:?}"
            );
        }
    }
}

#[test]
fn i4_disconnected_is_said_when_nothing_is_left_and_nothing_can_come() {
    let declares = |seen: &Seen, last| matches!(decide(seen), Step::DeclareDisconnected(said, _) if said == last);
    assert!(declares(&leaving(admitted()), Last::NeverConnected));
    assert!(declares(&leaving(with_intent()), Last::Clean));
    let mut withdrawn = with_intent();
    withdrawn.attachment.admission = Admission::Withdrawn;
    assert!(declares(&withdrawn, Last::Clean));
    let mut gone = leaving(with_intent());
    gone.volume = Fact::Absent;
    assert!(declares(&gone, Last::Clean), "a volume that is gone wedges nobody");
    for change in [
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session(BASE, 1, Use::Unused)]),
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session(G2, 2, Use::Unused)]),
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session("nqn.x:foreign", None, Use::Unused)]),
        |s: &mut Seen| s.sessions = Sessions::Unknown("timeout".into()),
        |s: &mut Seen| s.volume = Fact::Unknown("timeout".into()),
        |s: &mut Seen| s.in_flight = InFlight::Running,
        |s: &mut Seen| s.in_flight = InFlight::Unknown,
        |s: &mut Seen| s.leftover = Use::Used("a mount".into()),
        |s: &mut Seen| s.leftover = Use::Unknown("timeout".into()),
    ] {
        let mut seen = leaving(with_intent());
        change(&mut seen);
        let step = decide(&seen);
        assert!(!matches!(step, Step::DeclareDisconnected(..)), "{step:?} for {seen:?}");
    }
}

#[test]
fn i4_what_is_in_use_or_may_be_stays_and_is_reported() {
    for used in [Use::Used("pod a".into()), Use::Unknown("timeout".into())] {
        let mut seen = leaving(connected());
        seen.sessions = Sessions::Known(vec![session(BASE, 1, used)]);
        let said = report(&seen);
        assert_eq!(
            said.waiting.as_ref().map(|w| (w.status, w.reason)),
            Some((false, Reason::InUse))
        );
        assert_eq!(said.used_by, None, "by whom is not known");
        let pods = Some(vec!["pod-1".to_owned()]);
        for (users, want) in [(None, None), (Some(vec![]), None), (pods.clone(), pods)] {
            let mut seen = seen.clone();
            seen.users = users;
            seen.attachment.said.report = Report::default();
            assert_eq!(report(&seen).used_by, want);
        }
        seen.attachment.said.report = said;
        assert_eq!(decide(&seen), Step::Rest(Wait::Use));
    }
    let free = leaving(connected());
    assert_eq!(decide(&free), Step::Disconnect(BASE.into(), DisconnectKey::Unused));
}

#[test]
fn the_last_word_stands() {
    let mut seen = connected();
    seen.attachment.said.disconnected = true;
    assert_eq!(
        decide(&seen),
        Step::Disconnect(BASE.into(), DisconnectKey::Unused),
        "a late one is ended"
    );
    seen.sessions = Sessions::Known(vec![session(BASE, 1, Use::Used("pod".into()))]);
    let seen = settled(seen);
    assert_eq!(decide(&seen), Step::Rest(Wait::Use));
    assert_eq!(seen.attachment.said.report.waiting, None);
}

/// Key 3: the target has cut it, so it goes, used or not, wanted or not.
#[test]
fn a_fenced_session_is_reported_and_then_torn_down() {
    for used in [Use::Unused, Use::Used("pod".into()), Use::Unknown("timeout".into())] {
        for base in [connected(), leaving(connected()), admitted()] {
            let mut seen = base;
            seen.sessions = Sessions::Known(vec![session(BASE, 1, used.clone())]);
            volume(&mut seen, |v| {
                (v.generation, v.holds, v.fenced) = (2, false, true);
                v.nqn = Some(G2.into());
            });
            let said = report(&seen);
            assert_eq!(said.healthy.as_ref().map(|w| w.reason), Some(Reason::PossibleDataLoss));
            assert!(!said.cleared);
            seen.attachment.said.report = said;
            assert_eq!(decide(&seen), Step::Disconnect(BASE.into(), DisconnectKey::Fenced));
            seen.sessions = Sessions::Known(vec![]);
            let step = decide(&seen);
            let (Step::Report(said) | Step::DeclareDisconnected(_, said)) = step else {
                panic!("{step:?}");
            };
            assert!(said.cleared, "now the fence is acknowledged");
            assert_eq!(
                said.healthy.map(|w| w.reason),
                Some(Reason::PossibleDataLoss),
                "nobody takes a loss back"
            );
        }
    }
}

#[test]
fn i7_a_loss_that_nobody_was_told_of_is_said_first_and_then_forgotten() {
    for base in [admitted(), connected(), leaving(connected())] {
        let mut seen = base;
        volume(&mut seen, |v| v.fenced = true);
        seen.unreported = Some("cut in the night".into());
        let said = report(&seen);
        let healthy = said.healthy.clone().unwrap();
        assert_eq!(
            (healthy.status, healthy.reason, healthy.message.as_str()),
            (false, Reason::PossibleDataLoss, "cut in the night")
        );
        assert_eq!(decide(&seen), Step::Report(said.clone()), "until it is stored");
        seen.attachment.said.report = said;
        assert_eq!(decide(&seen), Step::ForgetLoss("cut in the night".into()));
        seen.unreported = Some("and once more".into());
        assert_eq!(
            report(&seen).healthy.unwrap().message,
            "cut in the night; and once more",
            "none hides another"
        );
        seen.unreported = None;
        let after = settled(seen).attachment.said.report.healthy;
        assert_eq!(after.map(|w| w.reason), Some(Reason::PossibleDataLoss));
    }
    let mut last = leaving(connected());
    last.sessions = Sessions::Known(vec![]);
    last.attachment.said.disconnected = true;
    let without = decide(&last);
    last.unreported = Some("cut in the night".into());
    assert_eq!(
        decide(&last),
        without,
        "the next attachment says it: this one may go unheard"
    );
}

#[test]
fn key_3_needs_a_generation_that_is_known_to_be_lower() {
    for (nqn, generation, now) in [
        (BASE, Some(1), Fact::Absent),
        (BASE, Some(1), Fact::Unknown("timeout".into())),
        (BASE, Some(1), Fact::Present(1)),
        (G2, Some(2), Fact::Present(1)),
        (G2, None, Fact::Present(9)),
        ("nqn.2014-08.org.nvmexpress:root", Some(1), Fact::Present(9)),
    ] {
        let mut seen = connected();
        seen.sessions = Sessions::Known(vec![session(nqn, generation, Use::Unused)]);
        seen.volume = match now {
            Fact::Present(generation) => Fact::Present(VolumeSeen {
                generation,
                nqn: Some(G2.into()),
                holds: true,
                fenced: false,
                canary: None,
            }),
            Fact::Absent => Fact::Absent,
            Fact::Unknown(why) => Fact::Unknown(why),
        };
        assert!(!matches!(decide(&seen), Step::Disconnect(..)), "{seen:?}");
    }
}

#[test]
fn an_export_that_was_only_toggled_keeps_its_name_and_its_sessions() {
    let mut seen = admitted();
    seen.attachment.admission = grant(BASE, 3);
    volume(&mut seen, |v| v.generation = 3);
    seen.attachment.said.intent = seen.host.intent(3);
    assert!(matches!(decide(&seen), Step::Connect(g) if g.nqn == BASE));
    seen.sessions = Sessions::Known(vec![session(BASE, 1, Use::Used("pod".into()))]);
    assert_eq!(decide(&settled(seen)), Step::Rest(Wait::Settled));
}

/// A word about an earlier fence must not answer for the next one.
#[test]
fn an_acknowledgement_goes_before_the_next_intent() {
    let mut seen = admitted();
    volume(&mut seen, |v| v.fenced = true);
    let mut seen = settled(seen);
    assert!(seen.attachment.said.report.cleared);
    volume(&mut seen, |v| v.fenced = false);
    assert!(!report(&seen).cleared);
    assert!(matches!(decide(&settled(seen)), Step::RecordIntent(_)));
}

#[test]
fn i6_what_is_not_managed_is_never_touched() {
    let foreign = "nqn.2014-08.org.nvmexpress:root";
    for used in [Use::Unused, Use::Used("root".into())] {
        for base in [connected(), leaving(connected()), leaving(admitted())] {
            let mut seen = base;
            seen.sessions = Sessions::Known(vec![session(foreign, Some(1), used.clone())]);
            seen.attachment.admission = grant(foreign, 2);
            volume(&mut seen, |v| v.generation = 2);
            let seen = settled(seen);
            assert!(matches!(decide(&seen), Step::Rest(_)), "{seen:?}");
        }
    }
}

#[test]
fn a_failure_is_said_once_and_tried_again_later() {
    let mut seen = with_intent();
    seen.failure = Some(Failure {
        reason: Reason::Refused,
        message: "refused".into(),
    });
    seen.may_retry = false;
    assert_eq!(report(&seen).connected.map(|w| w.reason), Some(Reason::Refused));
    let mut seen = settled(seen);
    assert_eq!(decide(&seen), Step::Rest(Wait::Backoff));
    seen.may_retry = true;
    assert!(matches!(decide(&seen), Step::Connect(_)));
    let mut seen = leaving(connected());
    seen.failure = Some(Failure {
        reason: Reason::DisconnectFailed,
        message: "stuck".into(),
    });
    seen.may_retry = false;
    assert_eq!(report(&seen).waiting.map(|w| w.reason), Some(Reason::DisconnectFailed));
    assert_eq!(decide(&settled(seen)), Step::Rest(Wait::Backoff));
}

#[test]
fn a_lost_device_is_not_connected_beneath_its_mount() {
    let mut seen = connected();
    seen.sessions = Sessions::Known(vec![]);
    seen.leftover = Use::Used("a mount".into());
    assert_eq!(report(&seen).connected.map(|w| w.reason), Some(Reason::DeviceLost));
    seen.leftover = Use::Unused;
    assert!(matches!(decide(&seen), Step::Connect(_)), "nobody was beneath it");
}

/// What was mounted from a disk that went is lost, also when a disk comes back; and what is not proven is not said.
#[test]
fn a_live_session_without_a_disk_is_not_connected() {
    let without = |used| {
        let mut seen = connected();
        let mut session = session(BASE, 1, used);
        session.disk = false;
        seen.sessions = Sessions::Known(vec![session]);
        seen
    };
    for used in [Use::Unused, Use::Unknown("timeout".into())] {
        let seen = without(used);
        let said = report(&seen);
        let word = said.connected.unwrap();
        assert_eq!((word.status, word.reason), (false, Reason::NoDisk));
        assert!(word.message.contains(BASE), "{}", word.message);
        assert_eq!(said.healthy, None);
        assert_eq!(
            decide(&settled(seen)),
            Step::Rest(Wait::Settled),
            "it is not connected again"
        );
    }
    let mut seen = settled(without(Use::Used("a mount".into())));
    let lost = seen.attachment.said.report.healthy.clone();
    assert_eq!(
        lost.as_ref().map(|w| (w.status, w.reason)),
        Some((false, Reason::PossibleDataLoss))
    );
    assert_eq!(decide(&seen), Step::Rest(Wait::Settled));
    seen.sessions = Sessions::Known(vec![session(BASE, 1, Use::Used("a stale mount".into()))]);
    let said = report(&seen);
    assert_eq!(said.connected.map(|w| w.reason), Some(Reason::Connected));
    assert_eq!(said.healthy, lost, "nobody takes a loss back");
    // A reader had nothing to lose.
    let mut seen = without(Use::Used("a mount".into()));
    seen.attachment.read_only = true;
    assert_eq!(report(&seen).healthy, None);
    // While the kernel tries again it may show none: that is no loss yet.
    let mut seen = without(Use::Used("a mount".into()));
    if let Sessions::Known(all) = &mut seen.sessions {
        all[0].state = "connecting".into();
    }
    let said = report(&seen);
    assert_eq!(said.connected.map(|w| w.reason), Some(Reason::Reconnecting));
    assert_eq!(said.healthy, None);
}

#[test]
fn d5_no_new_use_while_a_fence_is_owed() {
    let users = ["a".to_owned()];
    assert_eq!(new_use(true, &users, "a"), Ok(()));
    assert_eq!(new_use(true, &users, "b"), Err(FenceOwed));
    assert_eq!(new_use(false, &[], "b"), Ok(()));
}

/// The decisions know no API server, no runtime and no clock.
#[test]
fn decisions_are_pure() {
    for (file, text) in [
        ("decide.rs", include_str!("decide.rs")),
        ("model.rs", include_str!("model.rs")),
        ("report.rs", include_str!("report.rs")),
    ] {
        for line in text.lines().filter(|l| l.trim_start().starts_with("use ")) {
            for impure in ["kube", "k8s_openapi", "tokio", "jiff", "std::time", "crate::"] {
                assert!(!line.contains(impure), "{file}: {line}");
            }
        }
        for word in ["Instant", "SystemTime", "Timestamp", "async "] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

#[test]
fn the_operator_knows_every_reason() {
    let words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words, rds_crds::attachment::AGENT_REASONS);
}

#[test]
fn every_reason_is_explained() {
    let page = include_str!("../../../docs/node-agent.md");
    let explained: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("| `")).collect();
    for reason in Reason::ALL {
        let word = reason.as_str();
        assert!(
            explained.iter().any(|line| line.starts_with(&format!("{word}`"))),
            "docs/node-agent.md lacks {word}"
        );
        assert_eq!(Reason::from_word(word), Some(*reason));
    }
}

#[test]
fn i4_who_is_connected_without_a_grant_owns_up_and_connects_nothing() {
    let mut seen = admitted();
    seen.attachment.admission = Admission::None;
    assert!(
        !matches!(decide(&seen), Step::RecordIntent(_)),
        "there is nothing to own up to"
    );
    seen.sessions = Sessions::Known(vec![session(BASE, 1, Use::Unused)]);
    assert_eq!(decide(&seen), Step::RecordIntent(seen.host.intent(1).unwrap()));
    // The export was toggled since, as a growth may need: the name stays, its number is older.
    let mut toggled = seen.clone();
    volume(&mut toggled, |v| v.generation = 3);
    assert_eq!(decide(&toggled), Step::RecordIntent(seen.host.intent(3).unwrap()));
    for change in [
        |s: &mut Seen| s.host.node_uid = None,
        |s: &mut Seen| s.volume = Fact::Absent,
        |s: &mut Seen| {
            volume(s, |v| {
                v.generation = 2;
                v.nqn = Some(G2.into());
            });
        },
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session(G2, 2, Use::Unused)]),
        |s: &mut Seen| s.sessions = Sessions::Known(vec![session(&format!("{BASE}.g2"), None, Use::Unused)]),
        |s: &mut Seen| s.attachment.deleting = true,
    ] {
        let mut other = seen.clone();
        change(&mut other);
        assert!(!matches!(decide(&other), Step::RecordIntent(_)), "{other:?}");
    }
}
