//! From watch caches to [`Seen`].

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::attachment::kind as said;
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::identity::{canary_name, is_canary};
use rds_crds::names::{ANNOTATION_FENCE_NOW, ANNOTATION_TEST_FENCING};
use rds_crds::server::FenceTest;
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};

use crate::attachment::alive_nodes;

use super::Context;
use super::decide::wants_nodes;
use super::model::{Attachment, Canary, Seen, Word};

/// What the caches have about a server and its canary.
pub(super) fn seen(server: &RdsServer, record: FenceTest, cx: &Context, now: Timestamp) -> Seen {
    let status = server.status.clone().unwrap_or_default();
    let name = canary_name(server.metadata.uid.as_deref().unwrap_or_default());
    let unusable = if server.spec.maintenance == Some(true) {
        Some("the RdsServer is in maintenance")
    } else if !is_true(&status.conditions, kind::READY) {
        Some("the RdsServer is not Ready")
    } else {
        None
    };
    let canary = cx.world.volumes.get(&name).filter(|v| is_canary(v));
    let attachments = cx.world.attachments.of_volume(&name);
    let mut seen = Seen {
        now,
        deleting: server.metadata.deletion_timestamp.is_some(),
        unusable,
        fencing: server.spec.fencing.unwrap_or_default(),
        version: status.version,
        said: find_condition(&status.conditions, kind::FENCE_PROVEN).map(|c| Word {
            status: match c.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            },
            reason: c.reason.clone(),
            message: c.message.clone(),
        }),
        asked: server.annotations().contains_key(ANNOTATION_TEST_FENCING),
        nodes: Vec::new(),
        canary: canary.as_deref().map(of_volume),
        attachments: attachments.iter().map(|a| of_attachment(a)).collect(),
        record,
    };
    if wants_nodes(&seen) {
        seen.nodes = alive_nodes(&cx.world, &cx.observations, cx.patience);
    }
    seen
}

fn of_volume(volume: &RdsVolume) -> Canary {
    let status = volume.status.clone().unwrap_or_default();
    let ready = find_condition(&status.conditions, kind::READY);
    Canary {
        ready: ready.is_some_and(|c| c.status == "True"),
        problem: ready.map(|c| c.message.clone()).unwrap_or_default(),
        going: volume.metadata.deletion_timestamp.is_some(),
        generation: status.export_generation.unwrap_or(1),
        fencing: status.fence.is_some(),
        asked: volume.annotations().get(ANNOTATION_FENCE_NOW).cloned(),
        fenced: status.fenced.into_iter().map(|f| f.node).collect(),
    }
}

fn of_attachment(attachment: &RdsAttachment) -> Attachment {
    let status = attachment.status.clone().unwrap_or_default();
    let agent = status.agent.unwrap_or_default();
    let connected = find_condition(&agent.conditions, said::CONNECTED);
    let words = connected
        .or(find_condition(&status.conditions, said::ADMITTED))
        .map(|c| format!("{}: {}", c.reason, c.message));
    let first = agent.intent.as_ref().is_some_and(|i| i.generation == 1);
    Attachment {
        name: attachment.name_any(),
        uid: attachment.metadata.uid.clone().unwrap_or_default(),
        node: attachment.spec.node.clone(),
        going: attachment.metadata.deletion_timestamp.is_some(),
        connected: first && connected.is_some_and(|c| c.status == "True"),
        words: words.unwrap_or_else(|| "its agent has said nothing yet".to_owned()),
        boot_id: agent.intent.map(|i| i.boot_id).unwrap_or_default(),
        evidence: agent.fence_test,
    }
}
