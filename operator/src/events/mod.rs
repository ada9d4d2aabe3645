//! Kubernetes Events: one for each transition that a user cares about, never one per retry.

mod poster;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource};
use rds_crds::condition::{find_condition, kind};
use rds_crds::identity::is_canary;
use rds_crds::names::ANNOTATION_RESET_BREAKER;
use rds_crds::volume::{CircuitBreakerStatus, FormatLedger, FormatState, RdsVolumeStatus};
use rds_crds::{RdsServer, RdsVolume, Reason};
use tokio::sync::mpsc;
use tracing::{debug, info};

pub(crate) use self::poster::Poster;
use crate::agent_reports::News;
use crate::attachment::decide::Release;
use crate::attachment::model::Refusal;
use crate::attachment::{AttachmentMetrics, FenceResult, MigrationResult, TestResult, Turn, release_note};
use crate::volume::Change;

/// Takes events; [`Poster::run`] posts them. A queue, so that nobody waits for an event to be written.
#[derive(Clone)]
pub(crate) struct Announcer {
    queue: mpsc::Sender<(Event, ObjectReference)>,
    attachments: AttachmentMetrics,
}

/// Events that may wait; more are dropped, as events are news and not state.
const QUEUE: usize = 4096;

/// Conditions that are worth a warning while they are True.
const WARNINGS: [&str; 4] = [
    kind::STALLED,
    kind::DRIFTED,
    kind::EXPAND_PENDING,
    kind::DELETION_BLOCKED,
];

impl Announcer {
    pub(crate) fn new(client: Client, instance: &str, attachments: AttachmentMetrics) -> (Self, Poster) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let poster = Poster::new(client, instance, attachments.clone(), queue);
        let announcer = Self {
            queue: sender,
            attachments,
        };
        (announcer, poster)
    }

    /// A compare-and-swap that users care about.
    pub(crate) fn recorded(&self, volume: &RdsVolume, change: &Change) {
        let (reason, note) = match change {
            Change::Created => ("Provisioned", "the disk was made and exported"),
            Change::Adopted => ("Adopted", "the existing disk was bound"),
            Change::BeginDeletion => ("Deleting", "disk and file are being removed"),
            Change::Recover(..) => (
                "StatusRecovered",
                "the appliance knew more than the status: holders are unknown, the volume is never formatted",
            ),
            Change::BeginCreation
            | Change::CreationRefused
            | Change::BeginAdoption
            | Change::BeginToggle
            | Change::Toggled
            | Change::Retired => return,
        };
        let type_ = if matches!(change, Change::Recover(..)) {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.post(volume, type_, reason, note.to_owned());
    }

    /// What the conditions say now and did not say before.
    pub(crate) fn transitions(&self, volume: &RdsVolume, before: Option<&RdsVolumeStatus>) {
        let Some(now) = &volume.status else { return };
        let old = before.map(|s| s.conditions.as_slice()).unwrap_or_default();
        for kind in WARNINGS {
            let is = find_condition(&now.conditions, kind).filter(|c| c.status == "True");
            let was = find_condition(old, kind).filter(|c| c.status == "True");
            if let Some(c) = is.filter(|c| was.is_none_or(|w| w.reason != c.reason)) {
                self.post(volume, EventType::Warning, &c.reason, c.message.clone());
            }
        }
        let grown = before
            .and_then(|s| s.capacity)
            .zip(now.capacity)
            .filter(|(from, to)| to > from);
        if let Some((from, to)) = grown {
            self.post(
                volume,
                EventType::Normal,
                "Expanded",
                format!("the disk grew from {from} to {to}"),
            );
        }
    }

    /// A holder was let go.
    pub(crate) fn released(&self, volume: &RdsVolume, why: Release) {
        let type_ = match why {
            Release::NodeIsOff => {
                self.attachments.person(true);
                info!(target: "audit", volume = volume.metadata.name, what = "released without a cut: a person vouched that the node is off");
                EventType::Warning
            }
            Release::Disconnected | Release::Rebooted => EventType::Normal,
        };
        self.post(volume, type_, "VolumeDetached", release_note(why).to_owned());
    }

    /// A node may use the volume now.
    pub(crate) fn attached(&self, volume: &RdsVolume, node: &str) {
        let note = format!("node {node} may connect");
        self.post_about(volume, EventType::Normal, "VolumeAttached", Some(node), note);
    }

    /// A node that may be connected was not in the record of holders, and is again.
    pub(crate) fn recalled(&self, volume: &RdsVolume, node: &str) {
        self.attachments.recalled();
        info!(target: "audit", volume = volume.metadata.name, node, what = "a holder was missing in the record");
        let note = format!(
            "node {node} may be connected and was missing in status.holders: it is recorded again. Nobody edits that list by hand; to \
             release a node that is off use the annotation node-is-off"
        );
        self.post_about(volume, EventType::Warning, "HolderRecalled", Some(node), note);
    }

    /// Somebody was told why it gets the volume not, or not yet.
    pub(crate) fn denied(&self, volume: &RdsVolume, why: Refusal, text: &str) {
        match why {
            Refusal::Conflict => self.post(volume, EventType::Warning, "AttachmentConflict", text.to_owned()),
            Refusal::MigrationLimit | Refusal::MigrationPolicy | Refusal::AccessMode => {
                self.post(volume, EventType::Warning, "AttachmentRefused", text.to_owned());
            }
            Refusal::Handoff => self.attachments.waited(),
            // These have an event of their own, once for all who wait.
            Refusal::FencePending | Refusal::MigrationOverdue | Refusal::VolumeNotReady | Refusal::Deleting => {}
        }
    }

    /// A migration began or ended. `late`: its time was over, which was said and counted then.
    pub(crate) fn migration(&self, volume: &RdsVolume, turn: &Turn, late: bool) {
        let (Turn::Started { target, .. } | Turn::Completed { target, .. } | Turn::Aborted { target, .. }) = turn;
        let (type_, reason, note) = match turn {
            Turn::Started { source, target } => (
                EventType::Normal,
                "MigrationStarted",
                format!("node {target} got the volume beside node {source}"),
            ),
            Turn::Completed {
                source,
                target,
                seconds,
            } => {
                self.attachments.migration_took(*seconds);
                if !late {
                    self.attachments.migrated(MigrationResult::Success);
                }
                let note = format!("node {source} let go after {seconds} s: node {target} is the one writer");
                (EventType::Normal, "MigrationCompleted", note)
            }
            Turn::Aborted {
                source,
                target,
                seconds,
            } => {
                self.attachments.migration_took(*seconds);
                if !late {
                    self.attachments.migrated(MigrationResult::Failed);
                }
                let note = format!("node {target} let go after {seconds} s: node {source} stays the one writer");
                (EventType::Warning, "MigrationFailed", note)
            }
        };
        self.post_about(volume, type_, reason, Some(target), note);
    }

    /// A migration takes longer than it may.
    pub(crate) fn migration_overdue(&self, volume: &RdsVolume, note: &str) {
        self.attachments.migrated(MigrationResult::Timeout);
        self.post(volume, EventType::Warning, "MigrationFailed", note.to_owned());
    }

    /// A person's word that a node is off was not believed.
    pub(crate) fn not_believed(&self, volume: &RdsVolume, why: &str) {
        self.attachments.person(false);
        info!(target: "audit", volume = volume.metadata.name, what = "a person's word was refused", why);
        self.post(volume, EventType::Warning, "NodeIsOffRefused", why.to_owned());
    }

    /// A lost node is about to be cut at the target. Each fence leaves an event and an audit line (I19).
    pub(crate) fn fencing(&self, volume: &RdsVolume, node: &str) {
        info!(target: "audit", volume = volume.metadata.name, node, what = "fence begins");
        let note = match node {
            _ if is_canary(volume) => format!("the self-test of fencing cuts node {node} from its canary"),
            "" => "the record of who uses the volume was lost: all former connections are being cut at the target"
                .to_owned(),
            _ => format!("node {node} is lost: it is being cut at the target"),
        };
        self.post(volume, EventType::Warning, "Fencing", note);
    }

    /// A lost node was cut and that was read back.
    pub(crate) fn fenced(&self, volume: &RdsVolume, node: &str) {
        info!(target: "audit", volume = volume.metadata.name, node, what = "fence done");
        if is_canary(volume) {
            return;
        }
        self.attachments.ended(FenceResult::Done);
        if !node.is_empty() {
            self.attachments.cleared();
            self.post(
                volume,
                EventType::Normal,
                "StaleAttachmentCleared",
                format!("node {node} holds the volume no longer"),
            );
        }
        self.post(
            volume,
            EventType::Warning,
            "Fenced",
            match node {
                "" => "all former connections were cut at the target; what they had not written is lost".to_owned(),
                _ => format!("node {node} was cut at the target; its unwritten data is lost"),
            },
        );
    }

    /// A command of a fence failed, or its result is not known; it is tried again.
    pub(crate) fn fence_failed(&self, volume: &RdsVolume) {
        info!(target: "audit", volume = volume.metadata.name, what = "fence did not get on");
        if !is_canary(volume) {
            self.attachments.ended(FenceResult::Failed);
        }
    }

    /// The circuit breaker of the volume has turned.
    pub(crate) fn breaker(&self, volume: &RdsVolume, news: News, status: &CircuitBreakerStatus) {
        self.attachments.breaker(news);
        let last = status.last_failure.as_deref().unwrap_or("not recorded");
        let (type_, reason, note) = match news {
            News::Opened => (
                EventType::Warning,
                "CircuitBreakerOpened",
                format!(
                    "{} failures in a row: nothing is tried before {}. Last: {last}. To reset it: kubectl annotate rdsvolume {} \
                     {ANNOTATION_RESET_BREAKER}=true",
                    status.consecutive_failures,
                    status.retry_at.as_ref().map(|t| t.0.to_string()).unwrap_or_default(),
                    volume.metadata.name.as_deref().unwrap_or_default()
                ),
            ),
            News::Trial => (
                EventType::Normal,
                "CircuitBreakerTrial",
                "one node may try again".to_owned(),
            ),
            News::Closed => (EventType::Normal, "CircuitBreakerClosed", "a try succeeded".to_owned()),
            News::Reset => (
                EventType::Normal,
                "CircuitBreakerReset",
                "reset on a person's word".to_owned(),
            ),
        };
        self.post(volume, type_, reason, note);
    }

    /// A node says that something is wrong with the volume.
    pub(crate) fn ill(&self, volume: &RdsVolume, reason: &str, note: String) {
        self.post(volume, EventType::Warning, reason, note);
    }

    /// A node names itself to appliances as another one does.
    pub(crate) fn cloned(&self, node: &Node, note: &str) {
        self.post(node, EventType::Warning, "HostNQNShared", note.to_owned());
    }

    /// A fence is owed and waits.
    pub(crate) fn fence_pending(&self, volume: &RdsVolume, note: &str) {
        info!(target: "audit", volume = volume.metadata.name, what = "fence withheld", note);
        self.attachments.ended(FenceResult::Withheld);
        self.post(volume, EventType::Warning, kind::FENCE_PENDING, note.to_owned());
    }

    /// The self-test of fencing has begun, or has ended with this.
    pub(crate) fn self_test(&self, server: &RdsServer, result: TestResult, reason: Reason, note: &str) {
        info!(target: "audit", server = server.metadata.name, what = "self-test of fencing", %reason, note);
        self.attachments.tested(result);
        let type_ = match result {
            TestResult::Begun | TestResult::Proven => EventType::Normal,
            TestResult::Failed | TestResult::Inconclusive => EventType::Warning,
        };
        self.post(server, type_, reason.as_str(), note.to_owned());
    }

    /// The format ledger says something new.
    pub(crate) fn format(&self, volume: &RdsVolume, entry: &FormatLedger) {
        let fs = entry.fs_type.as_deref().unwrap_or("filesystem");
        let (reason, note) = match entry.state {
            FormatState::Intent => {
                let node = entry.node.as_deref().unwrap_or_default();
                ("Formatting", format!("node {node} may make an {fs} on the empty disk"))
            }
            FormatState::Formatted => (
                "Formatted",
                format!("the disk has its {fs}; it is never formatted again"),
            ),
            FormatState::UsedAsBlock => (
                "UsedAsBlock",
                "the disk is given to pods as a raw device; it is never formatted".to_owned(),
            ),
            FormatState::Unknown | FormatState::Blank | FormatState::Foreign => return,
        };
        self.post(volume, EventType::Normal, reason, note);
    }

    /// A server that became ready, or is not any more.
    pub(crate) fn server(&self, server: &RdsServer, ready: bool, reason: &str, note: &str) {
        let type_ = if ready { EventType::Normal } else { EventType::Warning };
        self.post(server, type_, reason, note.to_owned());
    }

    fn post(&self, about: &impl Resource<DynamicType = ()>, type_: EventType, reason: &str, note: String) {
        self.post_about(about, type_, reason, None, note);
    }

    /// A node tells events of one reason apart.
    fn post_about(
        &self,
        about: &impl Resource<DynamicType = ()>,
        type_: EventType,
        reason: &str,
        node: Option<&str>,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: "Reconcile".to_owned(),
            secondary: node.map(|name| ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            }),
        };
        if self.queue.try_send((event, about.object_ref(&()))).is_err() {
            debug!(reason, "an event was dropped: too many wait");
        }
    }
}

/// The API refuses notes over 1 KiB.
fn cut(mut note: String) -> String {
    while note.len() > 1000 {
        note.pop();
    }
    note
}

#[cfg(test)]
mod tests {
    /// Words of this file that look like a reason: in quotes, CamelCase, with nothing else.
    fn reasons() -> Vec<&'static str> {
        let text = include_str!("mod.rs");
        let code = text.split("#[cfg(test)]").next().unwrap();
        let camel = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.len() > 3
                && word.chars().all(|c| c.is_ascii_alphabetic())
                && word.chars().any(|c| c.is_ascii_lowercase())
        };
        code.split('"').skip(1).step_by(2).filter(camel).collect()
    }

    #[test]
    fn every_reason_of_an_event_is_documented() {
        let page = include_str!("../../../docs/labels-annotations.md");
        let no_reasons = ["Reconcile", "Node", "True"];
        let reasons: Vec<_> = reasons().into_iter().filter(|r| !no_reasons.contains(r)).collect();
        assert!(
            reasons.contains(&"Expanded") && reasons.contains(&"VolumeDetached"),
            "{reasons:?}"
        );
        for reason in reasons {
            assert!(
                page.contains(&format!("`{reason}`")),
                "docs/labels-annotations.md lacks {reason}"
            );
        }
    }
}
