//! Feeds the reconciler: changes that matter, triggers of the drift scan, requeues. Level-triggered: losing a trigger costs
//! one resync interval.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use rds_crds::RdsVolume;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::telemetry::chain;
use crate::world::World;

use super::api::ApiError;
use super::reconcile::{Context, reconcile};

/// A volume that shall be looked at, by name.
pub(crate) type Trigger = mpsc::UnboundedSender<String>;

/// Runs until `stop`; then finishes what is under way.
pub(crate) async fn run(
    context: Arc<Context>,
    triggers: mpsc::UnboundedReceiver<String>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let changes = relevant(context.world.volumes.changes());
    let triggers = stream::unfold(triggers, |mut rx| async move {
        rx.recv().await.map(|name| (ObjectRef::new(&name), rx))
    });
    let queue = stream::select(stream::select(changes, triggers), neighbours(&context.world))
        .map(Ok::<_, std::convert::Infallible>)
        .take_until(stop.clone().cancelled_owned());
    let store = context.world.volumes.store();
    let lonely = release_lonely(context.world.clone(), stop.clone());
    let config = Config::default().concurrency(concurrency);
    let work = controller::applier(
        |volume, cx| Box::pin(reconcile(volume, cx)),
        error_policy,
        context,
        store,
        queue,
        config,
    )
    .for_each(|result| async move {
        match result {
            Ok((volume, action)) => debug!(%volume, ?action, "reconciled"),
            Err(controller::Error::ObjectNotFound(volume)) => debug!(%volume, "gone from the cache"),
            Err(controller::Error::ReconcilerFailed(error, volume)) => match &error {
                ApiError::Conflict(_) => debug!(%volume, "changed meanwhile"),
                ApiError::Api { .. } => warn!(%volume, error = chain(&error), "reconcile failed"),
            },
            Err(error) => warn!(error = chain(&error), "the queue of volumes failed"),
        }
    });
    tokio::join!(work, lonely);
}

/// Volumes whose attachments changed, or the nodes that hold them.
fn neighbours(world: &World) -> impl Stream<Item = ObjectRef<RdsVolume>> + use<> {
    let attachments = world.attachments.changes().map(|a| ObjectRef::new(&a.spec.volume));
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
        .flat_map(move |node| {
            let held: Vec<_> = volumes
                .all()
                .iter()
                .filter(|v| holds(v, &node))
                .map(|v| ObjectRef::new(&v.name_any()))
                .collect();
            stream::iter(held)
        });
    stream::select(attachments, nodes)
}

fn holds(volume: &RdsVolume, node: &str) -> bool {
    volume
        .status
        .as_ref()
        .is_some_and(|s| s.holders.iter().any(|h| h.node == node) || s.fenced.iter().any(|f| f.node == node))
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

/// Attachments of volumes that do not exist hold nothing: their deletion goes through once a live read has said so.
async fn release_lonely(world: World, stop: CancellationToken) {
    let mut changes = std::pin::pin!(world.attachments.changes());
    while let Some(Some(attachment)) = stop.run_until_cancelled(changes.next()).await {
        if attachment.metadata.deletion_timestamp.is_none() || world.volumes.get(&attachment.spec.volume).is_some() {
            continue;
        }
        let volumes: Api<RdsVolume> = Api::all(world.client.clone());
        match volumes.get_opt(&attachment.spec.volume).await {
            Ok(None) => {
                let store = crate::attachment::Store::new(&world.client);
                if let Err(error) = store.release_object(&attachment).await {
                    warn!(
                        attachment = attachment.name_any(),
                        error = chain(&error),
                        "cannot let it go"
                    );
                }
            }
            Ok(Some(_)) => {}
            Err(error) => warn!(
                attachment = attachment.name_any(),
                error = chain(&error),
                "cannot read its volume"
            ),
        }
    }
}

fn error_policy(volume: Arc<RdsVolume>, error: &ApiError, cx: Arc<Context>) -> Action {
    match error {
        // The cache is a moment behind; it will have the newer object very soon.
        ApiError::Conflict(_) => Action::requeue(Duration::from_millis(rand::random_range(50..150))),
        ApiError::Api { .. } => Action::requeue(cx.memory.backoff(&volume.name_any())),
    }
}

/// Only what a person, the CSI services or the API server change: our own status writes wake nobody.
fn relevant(changes: impl Stream<Item = Arc<RdsVolume>>) -> impl Stream<Item = ObjectRef<RdsVolume>> {
    changes
        .scan(HashMap::<String, u64>::new(), |known, volume| {
            let fingerprint = fingerprint(&volume);
            let name = volume.name_any();
            let changed = known.insert(name.clone(), fingerprint) != Some(fingerprint);
            if volume.metadata.deletion_timestamp.is_some() && volume.finalizers().is_empty() {
                known.remove(&name);
            }
            std::future::ready(Some(changed.then(|| ObjectRef::new(&name))))
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
