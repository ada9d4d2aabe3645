//! What to do next about one attachment on this node: pure, total, level-triggered.
//!
//! Order matters. A session that the target has cut goes first (key 3). Then a wish to leave, then a grant. The intent is
//! recorded before the connect (I13); `Disconnected` is said only when nothing of the volume is left here and nothing can
//! still come (I4, I7); whatever is Unknown destroys nothing and connects nothing; NQNs outside of the prefix are never
//! touched (I6).

use rds_crds::attachment::Intent;

use super::canary::{self, Next};
use super::loss::cut_off;
use super::model::{
    Admission, Fact, Grant, InFlight, Reason, Report, Seen, SessionSeen, Sessions, Use, VolumeSeen, Word,
};

/// One small idempotent step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Compare-and-swap: this run of this machine is about to connect.
    RecordIntent(Intent),
    /// Connect there, now.
    Connect(Grant),
    /// See whether the target still answers to that name; a session that comes of it ends at once.
    Ask(Grant),
    /// Say this.
    Report(Report),
    /// End the session, for this reason and no other.
    Disconnect(String, DisconnectKey),
    /// That loss, of which nobody could be told, is said now.
    ForgetLoss(String),
    /// Compare-and-swap: the last word.
    DeclareDisconnected(Last, Report),
    /// Nothing now.
    Rest(Wait),
}

/// What opens the door to ending a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisconnectKey {
    /// Key 1: an attachment of this node that is going, and proven unused.
    Unused,
    /// Key 2: nothing in the cluster speaks of it, and proven unused.
    Orphan,
    /// Key 3: its generation is below the volume's, so the target has cut it.
    Fenced,
}

/// The last word of an agent about an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Last {
    /// There was an intent; nothing is left of it.
    Clean,
    /// There was none, and there will be none.
    NeverConnected,
}

/// What a rest waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Nothing: all is said.
    Settled,
    /// The end of a use of the device; nothing wakes us for it.
    Use,
    /// It is another node's.
    NotOurs,
    /// Earlier agent processes to be gone.
    Predecessor,
    /// The end of a connect.
    ConnectRuns,
    /// The time of the next try.
    Backoff,
    /// An answer: what was asked.
    Answer(String),
    /// The operator: its grant is not the one that the volume records.
    Operator,
}

/// The next step.
#[must_use]
pub fn decide(seen: &Seen) -> Step {
    if seen.attachment.node != seen.host.node {
        return Step::Rest(Wait::NotOurs);
    }
    match seen.in_flight {
        InFlight::Unknown => return Step::Rest(Wait::Predecessor),
        InFlight::Running => return Step::Rest(Wait::ConnectRuns),
        InFlight::None => {}
    }
    let sessions = match &seen.sessions {
        Sessions::Known(all) => all,
        Sessions::Unknown(why) => return Step::Rest(Wait::Answer(why.clone())),
    };
    let volume = match &seen.volume {
        Fact::Present(volume) => Some(volume),
        Fact::Absent => None,
        Fact::Unknown(why) => return Step::Rest(Wait::Answer(why.clone())),
    };
    let look = Look { seen, sessions, volume };
    if let Some(step) = look.canary() {
        return step;
    }
    if let Some(step) = look.unreported().or_else(|| look.fenced()) {
        return step;
    }
    let going = seen.attachment.deleting || seen.attachment.said.disconnected;
    match (&seen.attachment.admission, volume) {
        (Admission::Withdrawn, _) => look.leave(),
        (Admission::Granted(_) | Admission::None, _) if going => look.leave(),
        (Admission::Granted(grant), Some(volume)) => look.join(grant, volume),
        (Admission::Granted(_), None) => look.settle(look.report(None)),
        (Admission::None, volume) => look.record_ungranted_session(volume),
    }
}

/// D5: while a fence is owed, only pods that used the volume before may use it.
///
/// # Errors
/// When the pod would be a new user.
pub fn new_use(fence_pending: bool, users: &[String], pod: &str) -> Result<(), FenceOwed> {
    if fence_pending && !users.iter().any(|user| user == pod) {
        return Err(FenceOwed);
    }
    Ok(())
}

/// Why a pod may not use a volume now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another node that holds this volume is lost and may still write: no new pod may use it until that node is cut; see \
     condition FencePending of the RdsVolume"
)]
pub struct FenceOwed;

/// Key 3, for a session that no attachment of this node speaks of any more.
#[must_use]
pub fn cut_at_target(prefix: &str, session: &SessionSeen, volume: &VolumeSeen) -> bool {
    session.nqn.starts_with(prefix)
        && volume.nqn.as_ref() != Some(&session.nqn)
        && session.generation.is_some_and(|here| here < volume.generation)
}

pub(super) struct Look<'a> {
    pub(super) seen: &'a Seen,
    pub(super) sessions: &'a [SessionSeen],
    pub(super) volume: Option<&'a VolumeSeen>,
}

impl Look<'_> {
    fn managed(&self, nqn: &str) -> bool {
        nqn.starts_with(&self.seen.prefix)
    }

    /// What the self-test wants to know of a canary that was cut, before anything of it is torn down.
    fn canary(&self) -> Option<Step> {
        Some(match canary::next(self.seen, self.sessions, self.volume?)? {
            Next::Watch => Step::Rest(Wait::Use),
            Next::Say(evidence) => {
                let mut report = self.report(None);
                report.evidence = Some(evidence);
                Step::Report(report)
            }
            Next::End(nqn) => {
                let session = self.sessions.iter().find(|s| s.nqn == nqn)?;
                self.disconnect(session, DisconnectKey::Fenced)
            }
            Next::Ask(_) if self.seen.failure.is_some() && !self.seen.may_retry => Step::Rest(Wait::Backoff),
            Next::Ask(old) => Step::Ask(old),
        })
    }

    /// A session that the target has cut: the loss is said first, for a crash would forget it; then the controller goes,
    /// used or not, since what it holds back can never be written.
    fn fenced(&self) -> Option<Step> {
        let volume = self.volume?;
        let mut all = self.sessions.iter();
        let old = all.find(|s| cut_at_target(&self.seen.prefix, s, volume))?;
        if let Some(step) = self.loss_to_say(&cut_off(&old.nqn)) {
            return Some(step);
        }
        Some(self.disconnect(old, DisconnectKey::Fenced))
    }

    fn disconnect(&self, session: &SessionSeen, key: DisconnectKey) -> Step {
        if let Some(failure) = &self.seen.failure {
            let waiting = Word {
                status: false,
                reason: failure.reason,
                message: failure.message.clone(),
            };
            let said = &self.seen.attachment.said;
            if !said.disconnected && said.report.waiting.as_ref() != Some(&waiting) {
                let mut report = self.report(None);
                report.waiting = Some(waiting);
                return Step::Report(report);
            }
            if !self.seen.may_retry {
                return Step::Rest(Wait::Backoff);
            }
        }
        Step::Disconnect(session.nqn.clone(), key)
    }

    /// Out: unused is proven, then the session ends, then nothing is left, then it is said. Once said, only what contradicts it
    /// is ended.
    fn leave(&self) -> Step {
        let wait = |reason, message| Word {
            status: false,
            reason,
            message,
        };
        let mut report = self.report(None);
        if let Some(foreign) = self.sessions.iter().find(|s| !self.managed(&s.nqn)) {
            report.waiting = Some(wait(Reason::NotManaged, self.not_managed(&foreign.nqn)));
            return self.settle(report);
        }
        let uses = self.sessions.iter().map(|s| &s.used).chain([&self.seen.leftover]);
        for used in uses {
            let message = match used {
                Use::Unused => continue,
                Use::Used(by) => format!("the device is in use on node {}: {by}", self.seen.host.node),
                Use::Unknown(why) => format!("it is not proven that nothing uses the device: {why}"),
            };
            report.waiting = Some(wait(Reason::InUse, message));
            return self.settle_until_unused(report);
        }
        if let Some(session) = self.sessions.first() {
            return self.disconnect(session, DisconnectKey::Unused);
        }
        let said = &self.seen.attachment.said;
        if said.disconnected {
            return self.settle(report);
        }
        if let Some(step) = self.other_machine_intent(report.clone(), |report, word| report.waiting = Some(word)) {
            return step;
        }
        let last = match said.intent {
            Some(_) => Last::Clean,
            None => Last::NeverConnected,
        };
        Step::DeclareDisconnected(last, report)
    }

    /// Connected without a grant: the object that granted it is gone, or the operator's record of it. That it is this machine is
    /// recorded, so that the operator can take it for a holder again and no other machine of this name joins it.
    fn record_ungranted_session(&self, volume: Option<&VolumeSeen>) -> Step {
        let said = &self.seen.attachment.said;
        let current = |v: &&VolumeSeen| {
            // An export that was only toggled keeps its name, and the number in it.
            let of = |s: &SessionSeen| s.generation == Some(v.generation) || v.nqn.as_ref() == Some(&s.nqn);
            let this = |s: &SessionSeen| self.managed(&s.nqn) && of(s) && s.state == "live";
            !v.fenced && !self.sessions.is_empty() && self.sessions.iter().all(this)
        };
        let intent = volume
            .filter(current)
            .filter(|_| said.intent.is_none())
            .and_then(|v| self.seen.host.intent(v.generation));
        intent.map_or_else(|| self.settle(self.report(None)), Step::RecordIntent)
    }

    /// In: only as the volume itself records it, for this attachment and this generation.
    fn join(&self, grant: &Grant, volume: &VolumeSeen) -> Step {
        let said = &self.seen.attachment.said;
        let connected = |reason, message| Word {
            status: false,
            reason,
            message,
        };
        if !self.managed(&grant.nqn) {
            let word = connected(Reason::NotManaged, self.not_managed(&grant.nqn));
            return self.settle(self.report(Some(word)));
        }
        // A node that was cut acknowledges that first; what it said then goes before the next intent.
        if volume.fenced || said.report.cleared {
            return self.settle(self.report(None));
        }
        if !volume.holds || volume.generation != grant.generation {
            return Step::Rest(Wait::Operator);
        }
        if let Some(other) = self.sessions.iter().find(|s| s.nqn != grant.nqn) {
            let message = format!(
                "a session of another generation is left on node {}: {}. It has to go before {} is connected",
                self.seen.host.node, other.nqn, grant.nqn
            );
            return self.settle(self.report(Some(connected(Reason::OtherGeneration, message))));
        }
        if let Some(step) = self.other_machine_intent(self.report(None), |report, word| report.connected = Some(word)) {
            return step;
        }
        let Some(intent) = self.seen.host.intent(grant.generation) else {
            return Step::Rest(Wait::Answer(format!("the Node {}", self.seen.host.node)));
        };
        if said.intent.as_ref() != Some(&intent) {
            return Step::RecordIntent(intent);
        }
        if !self.sessions.is_empty() {
            return self.settle(self.report(None));
        }
        // The kernel has dropped the controller under a mount: never a silent new one beneath it.
        let lost = match &self.seen.leftover {
            Use::Unused => None,
            Use::Used(by) => Some(format!("the device is gone and still in use: {by}. Restart the pod")),
            Use::Unknown(why) => Some(format!(
                "the device is gone, and whether it is still in use is not known: {why}"
            )),
        };
        if let Some(message) = lost {
            return self.settle_until_unused(self.report(Some(connected(Reason::DeviceLost, message))));
        }
        if let Some(failure) = &self.seen.failure {
            let word = connected(failure.reason, failure.message.clone());
            let report = self.report(Some(word));
            if report != said.report {
                return Step::Report(report);
            }
            if !self.seen.may_retry {
                return Step::Rest(Wait::Backoff);
            }
        }
        Step::Connect(grant.clone())
    }

    /// Another machine of this name may be connected: this one neither joins it nor speaks for it, until that one was cut,
    /// which moves the generation (I3, I4).
    fn other_machine_intent(&self, mut report: Report, say: impl Fn(&mut Report, Word)) -> Option<Step> {
        let intent = self.seen.attachment.said.intent.as_ref()?;
        self.volume.filter(|v| v.generation <= intent.generation)?;
        let node = &self.seen.host.node;
        match self.seen.host.recorded(intent) {
            Some(true) => None,
            Some(false) => {
                let message = format!(
                    "another machine of the name {node} (boot {}, machine {}) has recorded that it connects, and may still write: \
                     delete the pods that use the volume on {node}, then that machine is cut at the target",
                    intent.boot_id, intent.machine_id
                );
                say(
                    &mut report,
                    Word {
                        status: false,
                        reason: Reason::OtherMachine,
                        message,
                    },
                );
                Some(self.settle(report))
            }
            None => Some(Step::Rest(Wait::Answer(format!("the Node {node}")))),
        }
    }

    fn not_managed(&self, nqn: &str) -> String {
        format!(
            "{nqn} does not begin with {}, the prefix that this agent may touch: set nqn-prefix in ConfigMap rds-csi-config if it is \
             ours",
            self.seen.prefix
        )
    }

    fn settle(&self, mut report: Report) -> Step {
        // The last word stands.
        if self.seen.attachment.said.disconnected {
            report.waiting = None;
        }
        if report == self.seen.attachment.said.report {
            Step::Rest(Wait::Settled)
        } else {
            Step::Report(report)
        }
    }

    fn settle_until_unused(&self, report: Report) -> Step {
        match self.settle(report) {
            Step::Rest(_) => Step::Rest(Wait::Use),
            step @ (Step::RecordIntent(_)
            | Step::Connect(_)
            | Step::Ask(_)
            | Step::Report(_)
            | Step::Disconnect(..)
            | Step::ForgetLoss(_)
            | Step::DeclareDisconnected(..)) => step,
        }
    }
}
