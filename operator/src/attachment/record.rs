//! The compare-and-swaps of the protocol: pure changes of the stored RdsVolume, written with its resourceVersion.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::RdsVolume;
use rds_crds::attachment::Intent;
use rds_crds::condition::whole_seconds;
use rds_crds::volume::{Deferred, Fence, FencePhase, Fenced, Holder, RdsVolumeStatus, Role};

use super::model::Ask;

/// A change of the record of admission or of the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Becomes a holder.
    Admit(Ask, Role),
    /// The holder of the first UID is the attachment of the second one.
    Succeed(String, String),
    /// Is no holder any more.
    Release(String),
    /// The detach of that holder is answered before it was cut. What its agent had recorded outlives its object.
    Defer(String, Option<Intent>),
    /// The fence with the next generation and its NQN.
    BeginFence {
        /// Whom it cuts.
        node: String,
        /// UID of its RdsAttachment.
        attachment: String,
        /// What is exported afterwards.
        nqn: String,
    },
    /// The old export was read back as off.
    RecordCut,
    /// The new export was read back as on.
    EndFence,
    /// Nodes that need not be remembered as cut any more.
    Acknowledged(Vec<String>),
    /// The record of holders may have holes.
    OpenRecord,
}

impl Change {
    /// All names, for the crash test.
    pub(crate) const NAMES: [&str; 9] = [
        "record-admission",
        "record-succession",
        "record-release",
        "record-begin-fence",
        "record-cut",
        "record-end-fence",
        "record-acknowledged",
        "record-holes",
        "record-deferral",
    ];

    /// The name of its crash point.
    pub(crate) fn name(&self) -> &'static str {
        let [
            admission,
            succession,
            release,
            begin,
            cut,
            end,
            acknowledged,
            holes,
            deferral,
        ] = Self::NAMES;
        match self {
            Self::Admit(..) => admission,
            Self::Succeed(..) => succession,
            Self::Release(_) => release,
            Self::Defer(..) => deferral,
            Self::BeginFence { .. } => begin,
            Self::RecordCut => cut,
            Self::EndFence => end,
            Self::Acknowledged(_) => acknowledged,
            Self::OpenRecord => holes,
        }
    }
}

/// The object with the change in its status.
#[must_use]
pub fn changed(volume: &RdsVolume, change: &Change, now: Timestamp) -> RdsVolume {
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    let now = Time(whole_seconds(now));
    match change {
        Change::Admit(ask, role) => status.holders.push(Holder {
            node: ask.node.clone(),
            attachment_uid: ask.attachment.clone(),
            role: *role,
            since: now,
            deferred: None,
        }),
        Change::Succeed(old, new) => {
            let theirs = status.holders.iter_mut().filter(|h| h.attachment_uid == *old);
            theirs.for_each(|h| {
                h.attachment_uid.clone_from(new);
                h.deferred = None;
            });
        }
        Change::Release(attachment) => release(status, attachment),
        Change::Defer(attachment, intent) => {
            let theirs = status.holders.iter_mut().filter(|h| h.attachment_uid == *attachment);
            theirs.for_each(|h| {
                h.deferred = Some(Deferred {
                    at: now.clone(),
                    intent: intent.clone(),
                });
            });
        }
        Change::BeginFence { node, attachment, nqn } => {
            status.export_generation = status.export_generation.map(|g| g.saturating_add(1));
            status.fence = Some(Fence {
                node: node.clone(),
                attachment_uid: attachment.clone(),
                phase: FencePhase::Cutting,
                nqn: nqn.clone(),
                started_at: now,
            });
        }
        Change::RecordCut => {
            if let Some(fence) = &mut status.fence {
                fence.phase = FencePhase::Reopening;
            }
        }
        Change::EndFence => {
            if let Some(fence) = status.fence.take() {
                release(status, &fence.attachment_uid);
                // A fence of nobody in particular closes the holes in the record: every session of before is cut.
                status.holders_unknown_since = None;
                let last = status.export_generation.unwrap_or(1).saturating_sub(1);
                status.fenced.retain(|f| f.node != fence.node);
                if !fence.node.is_empty() {
                    status.fenced.push(Fenced {
                        node: fence.node,
                        generation: last,
                        at: now,
                    });
                }
            }
        }
        Change::OpenRecord => {
            status.holders_unknown_since.get_or_insert(now);
        }
        Change::Acknowledged(nodes) => status.fenced.retain(|f| !nodes.contains(&f.node)),
    }
    volume
}

/// Whoever stays alone is the one writer.
fn release(status: &mut RdsVolumeStatus, attachment: &str) {
    status.holders.retain(|h| h.attachment_uid != attachment);
    if let [one] = status.holders.as_mut_slice()
        && one.role == Role::MigrationTarget
    {
        one.role = Role::Primary;
    }
}
