//! Feeds the reconciler: changes that matter, triggers of the drift scan, requeues. Level-triggered: losing a trigger costs
//! one resync interval.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use rds_crds::RdsVolume;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::queue::{self, Action, Name};
use crate::telemetry::chain;
use crate::world::World;

use super::api::ApiError;
use super::orphan_attachments;
use super::reconcile::{Context, reconcile};

/// A volume that shall be looked at, by name.
pub(crate) type Trigger = mpsc::UnboundedSender<Name>;

/// Runs until `stop`; then finishes what is under way.
pub(crate) async fn run(
    context: Arc<Context>,
    triggers: mpsc::UnboundedReceiver<Name>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let changes = relevant(context.world.volumes.changes());
    let triggers = stream::unfold(triggers, |mut rx| async move { rx.recv().await.map(|name| (name, rx)) });
    let names = stream::select(stream::select(changes, triggers), neighbours(&context.world));
    let lonely = orphan_attachments::run(context.world.clone(), stop.clone());
    let names = names.map(|name| (name, Duration::ZERO));
    let server_of = |name: &Name| context.world.volumes.get(name).map(|volume| volume.spec.server.clone());
    let work = queue::work(names, concurrency.into(), server_of, stop, |name| {
        pass(name, context.clone())
    });
    tokio::join!(work, lonely);
}

async fn pass(name: Name, cx: Arc<Context>) -> Action {
    let Some(volume) = cx.world.volumes.get(&name) else {
        debug!(volume = &*name, "gone from the cache");
        cx.memory.forget(&name);
        return Action::await_change();
    };
    match reconcile(volume, cx.clone()).await {
        Ok(action) => {
            debug!(volume = &*name, ?action, "reconciled");
            action
        }
        Err(error @ ApiError::Conflict(_)) => {
            debug!(volume = &*name, error = chain(&error), "changed meanwhile");
            // The cache is a moment behind; it will have the newer object very soon.
            Action::requeue(Duration::from_millis(rand::random_range(50..150)))
        }
        Err(error @ (ApiError::Api { .. } | ApiError::Read { .. })) => {
            warn!(volume = &*name, error = chain(&error), "reconcile failed");
            Action::requeue(cx.memory.backoff(&name))
        }
    }
}

/// Volumes whose attachments changed, or the nodes that hold them.
fn neighbours(world: &World) -> impl Stream<Item = Name> + use<> {
    let attachments = world.attachments.changes().map(|a| Name::from(a.spec.volume.as_str()));
    let volumes = world.volumes.clone();
    let nodes = world
        .nodes
        .changes()
        .scan(HashMap::<String, u64>::new(), |known, node| {
            let print = node_fingerprint(&node);
            let name = node.name_any();
            let changed = known.insert(name.clone(), print) != Some(print);
            std::future::ready(Some(changed.then_some(name)))
        })
        .filter_map(std::future::ready)
        .flat_map(move |node| stream::iter(volumes.names_of(&node)));
    stream::select(attachments, nodes)
}

fn node_fingerprint(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let status = node.status.as_ref();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| c.type_ == "Ready"))
        .map(|c| c.status.clone());
    let taints: Vec<_> = node
        .spec
        .iter()
        .flat_map(|s| s.taints.iter().flatten())
        .map(|t| t.key.clone())
        .collect();
    let boot = status.and_then(|s| s.node_info.as_ref()).map(|i| i.boot_id.clone());
    (
        &node.metadata.uid,
        node.metadata.deletion_timestamp.is_some(),
        ready,
        taints,
        boot,
    )
        .hash(&mut hasher);
    hasher.finish()
}

/// Only what a person, the CSI services or the API server change: our own status writes wake nobody.
fn relevant(changes: impl Stream<Item = Arc<RdsVolume>>) -> impl Stream<Item = Name> {
    changes
        .scan(HashMap::<Name, u64>::new(), |known, volume| {
            let fingerprint = fingerprint(&volume);
            let name = Name::from(volume.name_any());
            let changed = known.insert(name.clone(), fingerprint) != Some(fingerprint);
            if volume.metadata.deletion_timestamp.is_some() && volume.finalizers().is_empty() {
                known.remove(&name);
            }
            std::future::ready(Some(changed.then_some(name)))
        })
        .filter_map(std::future::ready)
}

fn fingerprint(volume: &RdsVolume) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &volume.metadata;
    (
        &meta.uid,
        meta.generation,
        &meta.finalizers,
        &meta.annotations,
        meta.deletion_timestamp.is_some(),
    )
        .hash(&mut hasher);
    hasher.finish()
}
