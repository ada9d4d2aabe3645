//! From watch caches and live reads to [`Seen`].
//!
//! Invariant: a holder counts as lost, and a person's word that its node is off is believed, only after a live list of
//! VolumeAttachments has shown that nobody wants it attached, and on a Node and a Lease that were read live (I8).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::identity::{attachment_name, is_canary};
use rds_crds::names::{ANNOTATION_FENCE_NOW, ANNOTATION_NODE_IS_OFF};
use rds_crds::volume::{AccessMode, FencePhase, Fenced, MigrationPolicy, RdsVolumeStatus, Role, VolumeMode};
use rds_crds::{RdsAttachment, RdsServer, RdsVolume, Reason};

use crate::volume::is_toggling;
use crate::world::World;

use super::decide::{AttachmentView, Canary, Said, Seen};
use super::evidence::{confirms_connection, may_be_connected, same_vm, unpublished};
use super::fence_permission::{FENCE_WINDOW, fence_permission};
use super::holder_state::{NodeFacts, Pulse, holder_state, replaced, word};
use super::model::{Ask, FenceView, HolderState, HolderView, VolumeView};
use super::node_off_claim::{Named, judge, node_of};
use super::nodes::{lease_key, live_facts, live_pulse, node_facts, pulse};
use super::observations::Observations;

/// Condition of an RdsAttachment: whether it may be used.
pub(crate) const ADMITTED: &str = "Admitted";
/// Condition of an RdsAttachment's agent: the connection is gone, for good.
pub(crate) const DISCONNECTED: &str = "Disconnected";
/// Condition of an RdsAttachment's agent: no session of an older generation of the volume is left on its node.
pub(crate) const CLEARED: &str = "Cleared";
/// Reason of `Admitted=False` once the detach was asked for.
pub(crate) const WITHDRAWN: &str = "Withdrawn";
/// The same, once a person has said that the node is off.
pub(crate) const NODE_OFF: &str = Reason::NodeIsOff.as_str();

/// A node that is alive says within so long that it is connected, once its RdsAttachment was made again. Generous: to cut it costs
/// its pods what they write, and to wait costs nothing that a lost object store has not cost already.
const SPEAK: SignedDuration = SignedDuration::from_secs(30);

/// Times that evidence needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a Node has to be gone.
    pub grace: Duration,
    /// How long an agent's Lease has to be silent.
    pub lease: Duration,
}

async fn live_attachment(
    outside: &Outside<'_>,
    volume: &str,
    node: &str,
    uid: &str,
) -> Result<Option<RdsAttachment>, kube::Error> {
    let all = Api::<RdsAttachment>::all(outside.world.client.clone());
    let found = all.get_opt(&attachment_name(volume, node)).await?;
    Ok(found.filter(|a| a.metadata.uid.as_deref() == Some(uid)))
}

/// The parts of the outside that the decision needs beside the volume.
pub(crate) struct Outside<'a> {
    pub(crate) world: &'a World,
    pub(crate) observations: &'a Observations,
    pub(crate) patience: Patience,
    pub(crate) driver: &'a str,
}

/// Everything that a decision looks at; an API server that does not answer is an error, never an empty list.
pub(crate) async fn seen(
    volume: &RdsVolume,
    server: &RdsServer,
    ready: bool,
    outside: &Outside<'_>,
    now: Timestamp,
) -> Result<Seen, kube::Error> {
    let name = volume.name_any();
    let mut attachments = outside.world.attachments.of_volume(&name);
    attachments.sort_by_key(|a| (a.metadata.creation_timestamp.clone(), a.name_any()));
    let status = volume.status.clone().unwrap_or_default();
    let mut holders = Vec::new();
    let mut wanted: Option<Vec<String>> = None;
    let claim = volume.annotations().get(ANNOTATION_NODE_IS_OFF);
    let mut named = None;
    for holder in &status.holders {
        let uid = &holder.attachment_uid;
        let cached = attachments.iter().find(|a| a.metadata.uid.as_deref() == Some(uid));
        // Without its object a holder can never say that it has left: that needs more than a cache.
        let live = match cached {
            Some(_) => None,
            None => live_attachment(outside, &name, &holder.node, uid).await?,
        };
        let object = cached.map(|a| &**a).or(live.as_ref());
        let going = object.is_none_or(|a| a.metadata.deletion_timestamp.is_some());
        let agent = object.and_then(|a| a.status.as_ref()).and_then(|s| s.agent.as_ref());
        let recorded = holder.deferred.as_ref();
        // Its object was let go by ourselves: the record speaks for it.
        let parted = object.is_none() && recorded.is_some();
        let intent = match parted {
            true => recorded.and_then(|d| d.intent.as_ref()),
            false => agent.and_then(|a| a.intent.as_ref()),
        };
        let mut facts = node_facts(outside.world, outside.observations, &holder.node);
        // Which of two boots is the later one only a Node shows that was read after the intent.
        if facts.gone_for.is_none() && intent.is_some_and(|i| i.boot_id != facts.boot_id) {
            facts = live_facts(outside, &holder.node).await?;
        }
        let mut pulse = pulse(outside.world, outside.observations, &holder.node, outside.patience);
        // One that parted was lost when its detach was answered, and nothing that its node does now changes that: who wants the volume
        // there wants it anew.
        let judged = |facts: &NodeFacts, pulse: Pulse| {
            let mute = object.is_none() || replaced(intent, status.export_generation.unwrap_or(1), facts);
            match parted {
                true => HolderState::Lost,
                false => holder_state(facts, pulse, going, mute, outside.patience.grace),
            }
        };
        let mut is = judged(&facts, pulse);
        let asked_about = claim.is_some_and(|word| node_of(word) == holder.node);
        if wanted.is_none() && ((is == HolderState::Lost && !parted) || asked_about) {
            wanted = Some(wanted_nodes(&outside.world.client, outside.driver, &name).await?);
        }
        let still_wanted = wanted.as_ref().is_some_and(|nodes| nodes.contains(&holder.node));
        let seems_lost = is == HolderState::Lost && !parted && !still_wanted;
        // A fence that was begun goes on whatever is seen now.
        if status.fence.is_none() && (seems_lost || (asked_about && pulse == Pulse::Stale)) {
            facts = live_facts(outside, &holder.node).await?;
            pulse = live_pulse(outside, &holder.node).await?;
            is = judged(&facts, pulse);
        }
        if is == HolderState::Lost && !parted && still_wanted {
            is = HolderState::Doubtful;
        }
        if asked_about {
            let shown = Some(&facts.boot_id).filter(|boot| !boot.is_empty());
            // What a new leader finds may be the last renewal of a machine that is off: only one that it has seen refutes the word.
            let seen_alive = outside.observations.has_changed(&lease_key(&holder.node));
            named = Some(Named {
                attachment: uid.clone(),
                pulse: match pulse {
                    Pulse::Fresh if !seen_alive => Pulse::Unknown,
                    Pulse::Fresh | Pulse::Stale | Pulse::Unknown => pulse,
                },
                detach_wanted: going && !still_wanted,
                boot_id: intent.map(|i| &i.boot_id).or(shown).cloned(),
            });
        }
        let disconnected = agent.is_some_and(|a| is_true(&a.conditions, DISCONNECTED));
        holders.push(HolderView {
            node: holder.node.clone(),
            attachment: uid.clone(),
            role: holder.role,
            state: is,
            word: word(intent, disconnected, &facts),
            unpublished: unpublished(agent, &status.conditions, now),
            deferred: recorded.is_some_and(|d| d.intent.as_ref() == intent),
        });
    }
    let second = status
        .holders
        .iter()
        .find(|h| h.role == Role::MigrationTarget)
        .filter(|_| status.holders.len() > 1);
    let timeout = Duration::from_secs(u64::from(volume.spec.migration_timeout_seconds.unwrap_or(300)));
    let started = second.map(|h| h.since.0);
    let view = VolumeView {
        // While a toggle of the export may run, whoever connects may be cut by it.
        ready: ready && is_true(&status.conditions, kind::READY) && !is_toggling(&status),
        deleting: status.deletion.is_some(),
        block: volume.spec.volume_mode == Some(VolumeMode::Block),
        access_modes: volume.spec.access_modes.clone(),
        generation: status.export_generation.unwrap_or(1),
        holders,
        holders_unknown: status.holders_unknown_since.is_some(),
        fence: status.fence.as_ref().map(|f| FenceView {
            node: f.node.clone(),
            attachment: f.attachment_uid.clone(),
            cut: f.phase == FencePhase::Reopening,
        }),
        fenced: status.fenced.iter().map(|f| f.node.clone()).collect(),
        migration_timeout: timeout,
        migration_deadline: started.and_then(|s| s.checked_add(timeout).ok()),
        migration_started: started,
        kubevirt_only: volume.spec.migration_policy == Some(MigrationPolicy::Kubevirt),
        name,
    };
    let mut views = Vec::new();
    for attachment in &attachments {
        let confirmed =
            confirms_connection(&outside.world.client, attachment, view.generation, &status.holders).await?;
        let mut seen = attachment_view(attachment, confirmed, &status);
        seen.unrecorded = unrecorded(outside, attachment, &view).await?;
        if let [holder] = view.holders.as_slice()
            && view.kubevirt_only
            && !seen.deleting
            && seen.ask.node != holder.node
        {
            seen.ask.same_vm = same_vm(&outside.world.client, &view.name, [&holder.node, &seen.ask.node]).await;
        }
        views.push(seen);
    }
    let cut_now = volume.annotations().get(ANNOTATION_FENCE_NOW).cloned();
    let lost = view.holders.iter().filter(|h| h.state == HolderState::Lost);
    let lost: Vec<&str> = lost.map(|h| h.node.as_str()).collect();
    let volumes = outside.world.volumes.cut();
    let volumes = volumes.iter().map(std::sync::Arc::as_ref);
    Ok(Seen {
        fence_permission: fence_permission(
            server,
            volumes,
            outside.observations.fence_quota.nodes(),
            &lost,
            cut_now.as_deref(),
            now,
        ),
        attachments: views,
        acknowledged: acknowledged(&status.fenced, &attachments, outside, now),
        canary: is_canary(volume).then(|| Canary {
            going: volume.metadata.deletion_timestamp.is_some(),
        }),
        node_off_claim: claim.map(|word| judge(word, named.as_ref())),
        cut_now,
        just_opened: status
            .holders_unknown_since
            .is_some_and(|since| now.duration_since(since.0) < SPEAK),
        did: None,
        appliance_failed: false,
        now,
        volume: view,
    })
}

/// Who was cut and has said since that nothing of it is left, or whose Node is gone for good. A node that is gone is remembered
/// until it counts no more for the limit of nodes per time.
fn acknowledged(
    fenced: &[Fenced],
    attachments: &[std::sync::Arc<RdsAttachment>],
    outside: &Outside<'_>,
    now: Timestamp,
) -> Vec<String> {
    let cleared = |node: &String| {
        attachments.iter().filter(|a| a.spec.node == *node).any(|a| {
            let agent = a.status.as_ref().and_then(|s| s.agent.as_ref());
            agent.is_some_and(|s| is_true(&s.conditions, CLEARED))
        })
    };
    let gone = |node: &String| {
        let facts = node_facts(outside.world, outside.observations, node);
        facts.gone_for.is_some_and(|gone| gone >= outside.patience.grace)
    };
    let counts = |f: &Fenced| now.as_second() - f.at.0.as_second() < FENCE_WINDOW;
    fenced
        .iter()
        .filter(|f| cleared(&f.node) || (gone(&f.node) && !counts(f)))
        .map(|f| f.node.clone())
        .collect()
}

fn attachment_view(attachment: &RdsAttachment, confirms_connection: bool, volume: &RdsVolumeStatus) -> AttachmentView {
    let status = attachment.status.as_ref();
    let said = status.and_then(|s| find_condition(&s.conditions, ADMITTED));
    AttachmentView {
        ask: Ask {
            node: attachment.spec.node.clone(),
            attachment: attachment.metadata.uid.clone().unwrap_or_default(),
            mode: attachment.spec.access_mode,
            read_only: attachment.spec.read_only == Some(true)
                || attachment.spec.access_mode == AccessMode::ReadOnlyMany,
            same_vm: None,
        },
        deleting: attachment.metadata.deletion_timestamp.is_some(),
        said: match said {
            None => Said::Nothing,
            Some(c) if c.status == "True" => Said::Admitted(told(attachment, volume).unwrap_or(0)),
            Some(c) if c.reason == WITHDRAWN => Said::Withdrawn,
            Some(c) if c.reason == NODE_OFF => Said::NodeOff,
            Some(c) => Said::Refused(c.reason.clone(), c.message.clone()),
        },
        confirms_connection,
        unrecorded: false,
    }
}

/// The generation that the attachment was told to connect to; `None` where it was told something else with it than the volume
/// records, so that it has to be told again.
fn told(attachment: &RdsAttachment, volume: &RdsVolumeStatus) -> Option<u32> {
    let status = attachment.status.as_ref()?;
    let uid = attachment.metadata.uid.as_deref();
    let role = volume
        .holders
        .iter()
        .find(|h| Some(h.attachment_uid.as_str()) == uid)
        .map(|h| h.role);
    let same = status.nqn == volume.nqn && status.address == volume.address && status.port == volume.port;
    status.export_generation.filter(|_| same && status.role == role)
}

/// Whether the attachment's node may be connected without being recorded. What was released rightly says so on the object, which
/// the cache may not show yet: it is read live.
async fn unrecorded(
    outside: &Outside<'_>,
    attachment: &RdsAttachment,
    volume: &VolumeView,
) -> Result<bool, kube::Error> {
    let uid = attachment.metadata.uid.clone().unwrap_or_default();
    if volume.holders.iter().any(|h| h.attachment == uid) {
        return Ok(false);
    }
    let node = &attachment.spec.node;
    let cached = node_facts(outside.world, outside.observations, node);
    if !may_be_connected(attachment, volume.generation, &cached) {
        return Ok(false);
    }
    let Some(live) = live_attachment(outside, &volume.name, node, &uid).await? else {
        return Ok(false);
    };
    Ok(may_be_connected(
        &live,
        volume.generation,
        &live_facts(outside, node).await?,
    ))
}

/// Nodes that a VolumeAttachment which is not going away wants the volume on: a live list.
async fn wanted_nodes(client: &Client, driver: &str, volume: &str) -> Result<Vec<String>, kube::Error> {
    let pvs = Api::<PersistentVolume>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let names: Vec<String> = pvs
        .items
        .iter()
        .filter(|pv| {
            pv.spec
                .as_ref()
                .and_then(|s| s.csi.as_ref())
                .is_some_and(|c| c.volume_handle == volume)
        })
        .map(ResourceExt::name_any)
        .collect();
    let all = Api::<VolumeAttachment>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let wants = |a: &&VolumeAttachment| {
        a.metadata.deletion_timestamp.is_none()
            && a.spec.attacher == driver
            && a.spec
                .source
                .persistent_volume_name
                .as_ref()
                .is_some_and(|pv| pv == volume || names.contains(pv))
    };
    Ok(all
        .items
        .iter()
        .filter(wants)
        .map(|a| a.spec.node_name.clone())
        .collect())
}
