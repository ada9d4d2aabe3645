//! What to do next about the self-test of one server: pure, total, level-triggered.
//!
//! The verdict is written before anything is cleaned up, and what is there without a run is cleaned up: a crash at any step either
//! goes on or ends with nothing left. No evidence within the time is no verdict.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::Reason;
use rds_crds::attachment::{OldName, SessionAfterFence};
use rds_crds::condition::whole_seconds;
use rds_crds::server::{FenceTest, FenceTestRun, Fencing};

use crate::attachment::TestResult;

use super::model::{Attachment, Canary, Seen, Step, Word, Write};

/// A test that takes longer ends without a verdict.
const LIMIT: SignedDuration = SignedDuration::from_secs(120);
/// Pause after the first test that was no success, doubled with each, and the longest.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

const PEOPLE: &str = "spec.fencing Auto cuts nobody here: a volume of a lost node waits for the node's word, its reboot, or \
                      rds.csi.srvlab.io/node-is-off";

/// The next step.
pub(super) fn decide(seen: &Seen) -> Step {
    match &seen.record.run {
        Some(run) => running(seen, run),
        None => idle(seen),
    }
}

/// Whether the condition is a verdict about the version that runs.
fn verdict(seen: &Seen) -> Option<bool> {
    let tested = seen.record.version.as_ref()?;
    let same = seen.version.as_ref() == Some(tested);
    seen.said.as_ref().filter(|_| same)?.status
}

fn idle(seen: &Seen) -> Step {
    if seen.asked && seen.deleting {
        return Step::DropRequest;
    }
    if !seen.deleting
        && let Some(write) = standing(seen)
    {
        return Step::Write(Box::new(write));
    }
    if let Some(attachment) = seen.attachments.iter().find(|a| !a.going) {
        return Step::RemoveAttachment(attachment.name.clone());
    }
    match &seen.canary {
        Some(canary) if !canary.going => return Step::RemoveVolume,
        Some(_) => return Step::Rest,
        None if !seen.attachments.is_empty() => return Step::Rest,
        None => {}
    }
    match due(seen) {
        Some((node, version)) => begin(seen, node, version),
        None => Step::Rest,
    }
}

/// What the condition has to say while no test runs, if it says something else.
fn standing(seen: &Seen) -> Option<Write> {
    if verdict(seen).is_some() {
        return None;
    }
    let mut record = seen.record.clone();
    let word = match (&seen.record.version, &seen.version) {
        (Some(tested), Some(runs)) if tested != runs => {
            // The pause was for the other version.
            let fresh = seen.said.as_ref().is_some_and(|w| w.status.is_some());
            if fresh {
                (record.failures, record.not_before) = (None, None);
            } else if ended_without_verdict(seen) {
                return None;
            }
            Word::new(
                None,
                Reason::VersionChanged,
                format!(
                    "RouterOS {runs} runs and the self-test was about {tested}: it has to be repeated. Until then {PEOPLE}"
                ),
            )
        }
        _ if ended_without_verdict(seen) => return None,
        _ => Word::new(
            None,
            Reason::NotTested,
            format!("{}. Until then {PEOPLE}", untested(seen)),
        ),
    };
    (seen.said.as_ref() != Some(&word)).then_some(Write {
        word: Some(word),
        record,
        event: None,
    })
}

fn ended_without_verdict(seen: &Seen) -> bool {
    let inconclusive = |w: &Word| w.status.is_none() && w.reason == Reason::Inconclusive.as_str();
    seen.said.as_ref().is_some_and(inconclusive)
}

fn untested(seen: &Seen) -> String {
    match (seen.fencing, seen.unusable) {
        (Fencing::Plan | Fencing::Assume, _) if !seen.asked => format!(
            "spec.fencing is {:?}, so the self-test runs only when it is asked for: annotate the RdsServer with \
             rds.csi.srvlab.io/test-fencing",
            seen.fencing
        ),
        (_, Some(why)) => format!("the self-test waits: {why}"),
        (_, None) => "the self-test begins once a node is Ready and its agent is alive".to_owned(),
    }
}

/// Node and version of a test that may begin now.
fn due(seen: &Seen) -> Option<(String, String)> {
    if seen.deleting || seen.unusable.is_some() {
        return None;
    }
    let paused = seen.record.not_before.as_ref().is_some_and(|t| seen.now < t.0);
    let by_itself = seen.fencing == Fencing::Auto && verdict(seen) != Some(true) && !paused;
    if !seen.asked && !by_itself {
        return None;
    }
    // Another node than last time, if there is one.
    let after = |last: &String| seen.nodes.iter().find(|n| *n > last);
    let node = seen.record.node.as_ref().and_then(after).or(seen.nodes.first())?;
    Some((node.clone(), seen.version.clone()?))
}

fn begin(seen: &Seen, node: String, version: String) -> Step {
    let note = format!("node {node} connects to a canary, which is then cut, on RouterOS {version}");
    let word = verdict(seen)
        .is_none()
        .then(|| Word::new(None, Reason::Testing, format!("{note}. Until then {PEOPLE}")));
    Step::write(Write {
        word,
        record: FenceTest {
            run: Some(FenceTestRun {
                node,
                version,
                started_at: Time(whole_seconds(seen.now)),
                attachment_uid: None,
            }),
            ..seen.record.clone()
        },
        event: Some((TestResult::Begun, Reason::Testing, note)),
    })
}

/// How far a run has got.
enum Progress {
    Do(Step),
    Wait(String),
    End(Outcome),
}

/// How a run ends.
enum Outcome {
    Proven,
    Survived,
    OldName,
    Inconclusive(String),
}

fn running(seen: &Seen, run: &FenceTestRun) -> Step {
    if seen.deleting {
        let record = FenceTest {
            run: None,
            ..seen.record.clone()
        };
        return Step::write(Write {
            word: None,
            record,
            event: None,
        });
    }
    if seen.asked {
        return Step::DropRequest;
    }
    if seen.version.as_ref().is_some_and(|v| *v != run.version) {
        return end(
            seen,
            run,
            Outcome::Inconclusive("RouterOS was upgraded meanwhile".to_owned()),
        );
    }
    let late = seen.now.duration_since(run.started_at.0) >= LIMIT;
    match progress(seen, run, late) {
        Progress::End(outcome) => end(seen, run, outcome),
        Progress::Wait(what) if late => end(seen, run, Outcome::Inconclusive(format!("waited in vain for {what}"))),
        Progress::Do(_) if late => end(seen, run, Outcome::Inconclusive("it took too long".to_owned())),
        Progress::Do(step) => step,
        Progress::Wait(_) => Step::Rest,
    }
}

fn progress(seen: &Seen, run: &FenceTestRun, late: bool) -> Progress {
    let lost = |what: &str| Progress::End(Outcome::Inconclusive(what.to_owned()));
    let Some(canary) = &seen.canary else {
        return match run.attachment_uid {
            Some(_) => lost("somebody removed the canary"),
            None => Progress::Do(Step::MakeVolume),
        };
    };
    if canary.going {
        return lost("somebody removed the canary");
    }
    let attachment = seen.attachments.iter().find(|a| a.node == run.node && !a.going);
    match (&run.attachment_uid, attachment) {
        (None, attachment) => prepare(seen, run, canary, attachment),
        (Some(uid), Some(attachment)) if attachment.uid == *uid => judge(run, canary, attachment, late),
        (Some(_), _) => lost("somebody removed the RdsAttachment of the canary"),
    }
}

/// Up to a session that is live.
fn prepare(seen: &Seen, run: &FenceTestRun, canary: &Canary, attachment: Option<&Attachment>) -> Progress {
    if canary.generation > 1 || canary.fencing {
        return Progress::End(Outcome::Inconclusive("the canary was cut before its time".to_owned()));
    }
    if !canary.ready {
        return Progress::Wait(format!("the canary to be made: {}", canary.problem));
    }
    match attachment {
        None => Progress::Do(Step::MakeAttachment(run.node.clone())),
        Some(attachment) if attachment.connected => {
            let run = FenceTestRun {
                attachment_uid: Some(attachment.uid.clone()),
                ..run.clone()
            };
            Progress::Do(Step::write(Write {
                word: None,
                record: FenceTest {
                    run: Some(run),
                    ..seen.record.clone()
                },
                event: None,
            }))
        }
        Some(attachment) => Progress::Wait(format!(
            "node {} to connect to the canary: {}",
            run.node, attachment.words
        )),
    }
}

/// From the live session to the evidence.
fn judge(run: &FenceTestRun, canary: &Canary, attachment: &Attachment, late: bool) -> Progress {
    let node = &run.node;
    let wait = |what: &str| Progress::Wait(what.to_owned());
    if canary.fencing {
        return wait("the appliance to answer to the two commands of the cut");
    }
    if canary.generation == 1 {
        return match &canary.asked {
            Some(asked) if asked == node => wait("the canary to be cut"),
            // A session that ends before the cut would look as if the cut had ended it.
            _ if !attachment.connected => Progress::End(Outcome::Inconclusive(format!(
                "node {node} lost its session before the cut"
            ))),
            _ => Progress::Do(Step::AskCut(node.clone())),
        };
    }
    let Some(evidence) = &attachment.evidence else {
        return Progress::Wait(format!("node {node} to say what became of its session"));
    };
    if evidence.generation != 1 || evidence.boot_id != attachment.boot_id || evidence.boot_id.is_empty() {
        return Progress::End(Outcome::Inconclusive(format!("node {node} was rebooted meanwhile")));
    }
    let outcome = match (evidence.session, evidence.old_name) {
        (SessionAfterFence::Live, _) => Outcome::Survived,
        (SessionAfterFence::Dead, Some(OldName::Accepted)) => Outcome::OldName,
        (SessionAfterFence::Dead, Some(OldName::Refused)) => Outcome::Proven,
        (SessionAfterFence::Dead, None) => {
            return Progress::Wait(format!("node {node} to be answered when it asks for the old name"));
        }
    };
    // What is left on the node goes while the canary is there to name it.
    if canary.fenced.contains(node) && !late {
        return Progress::Wait(format!("node {node} to acknowledge the cut"));
    }
    Progress::End(outcome)
}

fn end(seen: &Seen, run: &FenceTestRun, outcome: Outcome) -> Step {
    let FenceTestRun { node, version, .. } = run;
    let failures = seen.record.failures.unwrap_or(0).saturating_add(1);
    let pause = PAUSE
        .saturating_mul(2u32.saturating_pow(failures - 1))
        .min(LONGEST_PAUSE);
    let next = SignedDuration::try_from(pause).unwrap_or(LIMIT);
    let mut record = FenceTest {
        version: Some(version.clone()),
        ended_at: Some(Time(whole_seconds(seen.now))),
        node: Some(node.clone()),
        failures: Some(failures),
        not_before: seen.now.checked_add(next).ok().map(|t| Time(whole_seconds(t))),
        run: None,
    };
    let (word, result, reason) = match outcome {
        Outcome::Proven => {
            (record.failures, record.not_before) = (None, None);
            let note = format!(
                "RouterOS {version}: the session of node {node} ended with its export, and the old name was refused"
            );
            (
                Word::new(Some(true), Reason::Proven, note),
                TestResult::Proven,
                Reason::Proven,
            )
        }
        Outcome::Survived => {
            let what = format!("the session of node {node} stayed live after its export was switched off");
            let word = Word::new(
                Some(false),
                Reason::SessionSurvived,
                format!("RouterOS {version}: {what}. {PEOPLE}"),
            );
            (word, TestResult::Failed, Reason::SessionSurvived)
        }
        Outcome::OldName => {
            let what = format!("node {node} was let in under a name that had been cut");
            let word = Word::new(
                Some(false),
                Reason::OldNameAccepted,
                format!("RouterOS {version}: {what}. {PEOPLE}"),
            );
            (word, TestResult::Failed, Reason::OldNameAccepted)
        }
        Outcome::Inconclusive(why) => {
            record.version.clone_from(&seen.record.version);
            let note = format!("RouterOS {version}, node {node}: {why}. {PEOPLE}");
            (
                Word::new(None, Reason::Inconclusive, note),
                TestResult::Inconclusive,
                Reason::Inconclusive,
            )
        }
    };
    let note = word.message.clone();
    // A test without result takes no verdict back.
    let keeps = result == TestResult::Inconclusive && verdict(seen).is_some();
    if keeps && verdict(seen) == Some(true) {
        (record.failures, record.not_before) = (None, None);
    }
    Step::write(Write {
        word: (!keeps).then_some(word),
        record,
        event: Some((result, reason, note)),
    })
}

/// Whether a test could begin, so that it is worth to look for nodes.
pub(super) fn wants_nodes(seen: &Seen) -> bool {
    let due = Seen {
        nodes: vec![String::new()],
        ..seen.clone()
    };
    seen.record.run.is_none() && self::due(&due).is_some()
}
