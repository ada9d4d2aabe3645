//! The compare-and-swaps of the volume's status, by the shipped `changed`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::attachment;
use rds_crds::volume::{self, Deferred, FencePhase, Fenced, RdsVolumeSpec, RdsVolumeStatus, Role};
use rds_crds::{RdsVolume, volume::Holder as Stored};
use rds_operator::attachment::model::Ask;
use rds_operator::attachment::record::{Change, changed};
use serde_json::json;

use crate::eyes::intent_of;
use crate::world::{Fence, Holder, Intent, Record};

/// A change, small enough to be remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Swap {
    Admit(Holder),
    Succeed(u8, u8),
    Release(u8),
    Defer(u8, Option<Intent>),
    BeginFence(Option<u8>, Option<u8>),
    RecordCut,
    EndFence,
    Acknowledge(Vec<u8>),
}

thread_local! {
    static DONE: RefCell<HashMap<(Record, Swap), Record>> = RefCell::default();
}

/// The record with the change.
pub(crate) fn swapped(record: &Record, swap: &Swap) -> Record {
    let key = (record.clone(), swap.clone());
    if let Some(known) = DONE.with_borrow(|all| all.get(&key).cloned()) {
        return known;
    }
    let Some(stored) = store(record) else {
        return record.clone();
    };
    let next = changed(&stored, &change(record, swap), Timestamp::UNIX_EPOCH);
    let new = load(&next, record);
    DONE.with_borrow_mut(|all| all.insert(key, new.clone()));
    new
}

fn change(record: &Record, swap: &Swap) -> Change {
    match swap {
        Swap::Admit(holder) => {
            let ask = Ask {
                node: holder.node.to_string(),
                attachment: holder.attachment.to_string(),
                mode: volume::AccessMode::ReadWriteOnce,
                read_only: holder.reads,
                same_vm: None,
            };
            Change::Admit(ask, role(holder))
        }
        Swap::Succeed(old, new) => Change::Succeed(old.to_string(), new.to_string()),
        Swap::Release(attachment) => Change::Release(attachment.to_string()),
        Swap::Defer(attachment, intent) => Change::Defer(attachment.to_string(), intent.map(intent_of)),
        Swap::BeginFence(node, attachment) => Change::BeginFence {
            node: text(*node),
            attachment: text(*attachment),
            nqn: (record.generation + 1).to_string(),
        },
        Swap::RecordCut => Change::RecordCut,
        Swap::EndFence => Change::EndFence,
        Swap::Acknowledge(nodes) => Change::Acknowledged(nodes.iter().map(ToString::to_string).collect()),
    }
}

pub(crate) fn text(id: Option<u8>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

pub(crate) fn role(holder: &Holder) -> Role {
    match (holder.reads, holder.second) {
        (true, _) => Role::Reader,
        (false, true) => Role::MigrationTarget,
        (false, false) => Role::Primary,
    }
}

/// Without it nothing is ever written, and nothing is reached.
static EMPTY: LazyLock<Option<RdsVolume>> = LazyLock::new(|| {
    let spec = json!({"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]});
    Some(RdsVolume::new("v", serde_json::from_value::<RdsVolumeSpec>(spec).ok()?))
});

fn store(record: &Record) -> Option<RdsVolume> {
    let now = Time(Timestamp::UNIX_EPOCH);
    let mut volume = EMPTY.clone()?;
    volume.status = Some(RdsVolumeStatus {
        export_generation: Some(u32::from(record.generation)),
        holders: record
            .holders
            .iter()
            .map(|h| Stored {
                node: h.node.to_string(),
                attachment_uid: h.attachment.to_string(),
                role: role(h),
                since: now.clone(),
                deferred: h.deferred.map(|intent| Deferred {
                    at: now.clone(),
                    intent: intent.map(intent_of),
                }),
            })
            .collect(),
        fence: record.fence.map(|f| volume::Fence {
            node: text(f.node),
            attachment_uid: text(f.attachment),
            phase: match f.cut {
                true => FencePhase::Reopening,
                false => FencePhase::Cutting,
            },
            nqn: f.nqn.to_string(),
            started_at: now.clone(),
        }),
        fenced: record
            .fenced
            .iter()
            .map(|node| Fenced {
                node: node.to_string(),
                generation: 0,
                at: now.clone(),
            })
            .collect(),
        holders_unknown_since: record.unknown.then(|| now.clone()),
        ..RdsVolumeStatus::default()
    });
    Some(volume)
}

fn stored_intent(intent: &attachment::Intent) -> Option<Intent> {
    let (machine, boot) = intent.boot_id.split_once('-')?;
    Some(Intent {
        machine: machine.parse().ok()?,
        boot: boot.parse().ok()?,
        generation: u8::try_from(intent.generation).ok()?,
    })
}

fn load(volume: &RdsVolume, before: &Record) -> Record {
    let id = |text: &str| text.parse::<u8>().ok();
    let status = volume.status.clone().unwrap_or_default();
    Record {
        generation: status.export_generation.and_then(|g| u8::try_from(g).ok()).unwrap_or(0),
        holders: status
            .holders
            .iter()
            .filter_map(|h| {
                Some(Holder {
                    node: id(&h.node)?,
                    attachment: id(&h.attachment_uid)?,
                    second: h.role == Role::MigrationTarget,
                    reads: h.role == Role::Reader,
                    deferred: h.deferred.as_ref().map(|d| d.intent.as_ref().and_then(stored_intent)),
                })
            })
            .collect(),
        fence: status.fence.as_ref().map(|f| Fence {
            node: id(&f.node),
            attachment: id(&f.attachment_uid),
            cut: f.phase == FencePhase::Reopening,
            nqn: id(&f.nqn).unwrap_or(0),
        }),
        fenced: status.fenced.iter().filter_map(|f| id(&f.node)).collect(),
        unknown: status.holders_unknown_since.is_some(),
        ..before.clone()
    }
}
