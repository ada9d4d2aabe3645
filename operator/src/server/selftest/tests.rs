//! The self-test against a world that does what it is told, and against worlds that do not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rds_crds::Reason;
use rds_crds::attachment::{FenceEvidence, OldName, SessionAfterFence};
use rds_crds::server::{FenceTest, Fencing};

use crate::attachment::TestResult;

use super::decide::decide;
use super::model::{Attachment, Canary, Seen, Step, Word};

const VERSION: &str = "7.24.4 (stable)";

/// What the nodes and the appliance of a world do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Works,
    Leaves,
    OldName,
    NeverConnects,
    SilentAfterCut,
    NeverAnswered,
    Reboots,
    LosesSessionFirst,
    NeverCut,
    NeverAcknowledges,
}

struct World {
    seen: Seen,
    nature: Nature,
    said: Vec<(TestResult, Reason)>,
    steps: Vec<Step>,
}

fn begin(nature: Nature) -> World {
    World {
        nature,
        said: vec![],
        steps: vec![],
        seen: Seen {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            deleting: false,
            unusable: None,
            fencing: Fencing::Auto,
            version: Some(VERSION.into()),
            record: FenceTest::default(),
            said: None,
            asked: false,
            nodes: vec!["n1".into(), "n2".into()],
            canary: None,
            attachments: vec![],
        },
    }
}

impl World {
    /// Takes one step, and lets the world do its part.
    fn step(&mut self) -> Step {
        let step = decide(&self.seen);
        match &step {
            Step::Write(write) => {
                if let Some(word) = &write.word {
                    self.seen.said = Some(word.clone());
                }
                self.seen.record = write.record.clone();
                self.said
                    .extend(write.event.iter().map(|(result, reason, _)| (*result, *reason)));
            }
            Step::DropRequest => self.seen.asked = false,
            Step::MakeVolume => {
                self.seen.canary = Some(Canary {
                    ready: true,
                    problem: String::new(),
                    going: false,
                    generation: 1,
                    fencing: false,
                    asked: None,
                    fenced: vec![],
                });
            }
            Step::MakeAttachment(node) => self.seen.attachments.push(Attachment {
                name: format!("canary-{node}"),
                uid: format!("uid-{node}"),
                node: node.clone(),
                going: false,
                connected: self.nature != Nature::NeverConnects,
                words: "Refused: no".into(),
                boot_id: "boot".into(),
                evidence: None,
            }),
            Step::AskCut(node) => self.cut(node),
            Step::RemoveAttachment(_) => self.seen.attachments.clear(),
            Step::RemoveVolume => self.seen.canary = None,
            Step::Rest => {}
        }
        if self.nature == Nature::LosesSessionFirst && self.cutting() {
            self.seen.attachments[0].connected = false;
        }
        self.steps.push(step.clone());
        step
    }

    fn cutting(&self) -> bool {
        self.seen
            .record
            .run
            .as_ref()
            .is_some_and(|r| r.attachment_uid.is_some())
            && !self.seen.attachments.is_empty()
    }

    fn cut(&mut self, node: &str) {
        let Some(canary) = &mut self.seen.canary else { return };
        canary.asked = Some(node.into());
        if self.nature == Nature::NeverCut {
            return;
        }
        canary.generation = 2;
        if self.nature == Nature::NeverAcknowledges {
            canary.fenced = vec![node.into()];
        }
        let (session, old_name) = match self.nature {
            Nature::Leaves => (SessionAfterFence::Live, None),
            Nature::OldName => (SessionAfterFence::Dead, Some(OldName::Accepted)),
            Nature::NeverAnswered => (SessionAfterFence::Dead, None),
            Nature::Works
            | Nature::NeverConnects
            | Nature::SilentAfterCut
            | Nature::Reboots
            | Nature::LosesSessionFirst
            | Nature::NeverCut
            | Nature::NeverAcknowledges => (SessionAfterFence::Dead, Some(OldName::Refused)),
        };
        let boot = if self.nature == Nature::Reboots {
            "later"
        } else {
            "boot"
        };
        self.seen.attachments[0].evidence = (self.nature != Nature::SilentAfterCut).then(|| FenceEvidence {
            generation: 1,
            boot_id: boot.into(),
            session,
            old_name,
        });
    }

    /// Until a run has ended and nothing of it is left.
    fn settle(&mut self) {
        for _ in 0..400 {
            let rests = self.step() == Step::Rest;
            if rests && self.seen.record.run.is_none() {
                assert!(
                    self.seen.canary.is_none() && self.seen.attachments.is_empty(),
                    "left: {:?}",
                    self.seen
                );
                return;
            }
            self.pass(Duration::from_secs(1));
        }
        panic!("no end: {:?}", self.seen);
    }

    fn pass(&mut self, time: Duration) {
        self.seen.now = later(self.seen.now, time);
    }

    fn word(&self) -> (Option<bool>, &str) {
        let word = self.seen.said.as_ref().unwrap();
        (word.status, word.reason.as_str())
    }
}

fn later(now: Timestamp, time: Duration) -> Timestamp {
    now.checked_add(SignedDuration::try_from(time).unwrap()).unwrap()
}

#[test]
fn i18_only_positive_evidence_proves_a_fence() {
    for (nature, status, reason, result) in [
        (Nature::Works, Some(true), Reason::Proven, TestResult::Proven),
        (
            Nature::NeverAcknowledges,
            Some(true),
            Reason::Proven,
            TestResult::Proven,
        ),
        (Nature::Leaves, Some(false), Reason::SessionSurvived, TestResult::Failed),
        (
            Nature::OldName,
            Some(false),
            Reason::OldNameAccepted,
            TestResult::Failed,
        ),
        (
            Nature::NeverConnects,
            None,
            Reason::Inconclusive,
            TestResult::Inconclusive,
        ),
        (
            Nature::SilentAfterCut,
            None,
            Reason::Inconclusive,
            TestResult::Inconclusive,
        ),
        (
            Nature::NeverAnswered,
            None,
            Reason::Inconclusive,
            TestResult::Inconclusive,
        ),
        (Nature::Reboots, None, Reason::Inconclusive, TestResult::Inconclusive),
        (
            Nature::LosesSessionFirst,
            None,
            Reason::Inconclusive,
            TestResult::Inconclusive,
        ),
        (Nature::NeverCut, None, Reason::Inconclusive, TestResult::Inconclusive),
    ] {
        let mut world = begin(nature);
        world.settle();
        assert_eq!(world.word(), (status, reason.as_str()), "{nature:?}");
        assert_eq!(
            world.said,
            [(TestResult::Begun, Reason::Testing), (result, reason)],
            "{nature:?}"
        );
        let tested = status.map(|_| VERSION.to_owned());
        assert_eq!(world.seen.record.version, tested, "{nature:?}");
        assert_eq!(world.step(), Step::Rest, "{nature:?}: nothing more to do now");
    }
}

#[test]
fn a_proof_is_repeated_after_a_change_of_the_version_and_not_before() {
    let mut world = begin(Nature::Works);
    world.settle();
    world.pass(Duration::from_secs(1_000_000));
    assert_eq!(world.step(), Step::Rest);
    world.seen.version = Some("7.25 (stable)".into());
    world.seen.nodes.clear();
    assert!(matches!(world.step(), Step::Write(_)));
    assert_eq!(world.word(), (None, "VersionChanged"));
    assert_eq!(world.step(), Step::Rest, "nobody to test with");
    world.seen.nodes = vec!["n1".into()];
    world.settle();
    assert_eq!(world.word(), (Some(true), "Proven"));
    assert_eq!(world.seen.record.version.as_deref(), Some("7.25 (stable)"));

    let mut world = begin(Nature::Works);
    while world.seen.canary.is_none() {
        world.step();
    }
    world.seen.version = Some("7.25 (stable)".into());
    world.step();
    assert_eq!(world.said[1].0, TestResult::Inconclusive, "upgraded under the test");
    world.settle();
}

#[test]
fn what_fails_is_tried_again_ever_more_rarely_on_another_node_and_at_once_for_a_new_version() {
    let mut world = begin(Nature::Leaves);
    let mut pauses = vec![];
    let mut nodes = vec![];
    for _ in 0..9 {
        world.settle();
        nodes.push(world.seen.record.node.clone().unwrap());
        let until = world.seen.record.not_before.as_ref().unwrap().0;
        let ended = world.seen.record.ended_at.as_ref().unwrap().0;
        pauses.push(until.duration_since(ended).as_secs());
        world.seen.now = until;
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    assert_eq!(nodes[..3], ["n1", "n2", "n1"]);
    world.settle();
    assert_eq!(world.step(), Step::Rest, "it waits");
    world.nature = Nature::Works;
    world.seen.version = Some("7.25 (stable)".into());
    world.settle();
    assert_eq!(world.word(), (Some(true), "Proven"));
    assert_eq!(
        (world.seen.record.failures, world.seen.record.not_before.clone()),
        (None, None)
    );
}

#[test]
fn a_person_asks_and_a_test_without_result_takes_no_proof_back() {
    for fencing in [Fencing::Plan, Fencing::Assume] {
        let mut world = begin(Nature::Works);
        world.seen.fencing = fencing;
        world.settle();
        assert_eq!(world.word(), (None, "NotTested"), "{fencing:?} by itself: never");
        world.seen.asked = true;
        world.settle();
        assert_eq!(world.word(), (Some(true), "Proven"));
        assert!(!world.seen.asked, "acted upon once");
    }
    let mut world = begin(Nature::Works);
    world.settle();
    (world.nature, world.seen.asked) = (Nature::NeverConnects, true);
    world.settle();
    assert_eq!(world.said.last().unwrap().0, TestResult::Inconclusive);
    assert_eq!(world.word(), (Some(true), "Proven"));
    (world.nature, world.seen.asked) = (Nature::Leaves, true);
    world.settle();
    assert_eq!(world.word(), (Some(false), "SessionSurvived"));
}

#[test]
fn nothing_begins_where_nothing_can_be_tested_and_the_reason_is_said_once() {
    type Change = fn(&mut Seen);
    let changes: [(Change, &str); 4] = [
        (|s| s.nodes.clear(), "once a node is Ready"),
        (|s| s.unusable = Some("the RdsServer is not Ready"), "not Ready"),
        (|s| s.version = None, "once a node"),
        (|s| s.fencing = Fencing::Plan, "Plan"),
    ];
    for (change, why) in changes {
        let mut world = begin(Nature::Works);
        change(&mut world.seen);
        assert!(matches!(world.step(), Step::Write(_)), "{why}");
        let Some(Word { message, .. }) = &world.seen.said else {
            panic!()
        };
        assert!(message.contains(why) && message.contains("cuts nobody"), "{message}");
        assert_eq!(world.step(), Step::Rest, "{why}");
    }
    let mut world = begin(Nature::Works);
    (world.seen.deleting, world.seen.asked) = (true, true);
    assert_eq!(world.step(), Step::DropRequest);
    assert_eq!(world.step(), Step::Rest);
}

/// The process may end after any step, forget all, and find only what is stored; and the server may go at any time.
#[test]
fn a_crash_or_a_deletion_at_any_step_leaves_nothing_behind() {
    for stop in 0..12 {
        let mut world = begin(Nature::Works);
        for _ in 0..stop {
            world.step();
        }
        world.seen.deleting = true;
        for _ in 0..12 {
            world.step();
        }
        assert!(
            world.seen.canary.is_none() && world.seen.attachments.is_empty(),
            "{stop}: {:?}",
            world.steps
        );
        assert!(world.seen.record.run.is_none());

        // A leftover of a run that the record has lost.
        let mut world = begin(Nature::Works);
        for _ in 0..stop {
            world.step();
        }
        world.seen.record.run = None;
        world.settle();
        assert_eq!(world.word(), (Some(true), "Proven"), "{stop}");
    }
}
