//! Feeds the reconciler: changes that matter, triggers of the drift scan, requeues. Level-triggered: losing a trigger costs
//! one resync interval.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::ResourceExt;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::reflector::ObjectRef;
use rds_crds::RdsVolume;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::telemetry::chain;

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
    let queue = stream::select(changes, triggers)
        .map(Ok::<_, std::convert::Infallible>)
        .take_until(stop.cancelled_owned());
    let store = context.world.volumes.store();
    let config = Config::default().concurrency(concurrency);
    controller::applier(
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
    })
    .await;
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
