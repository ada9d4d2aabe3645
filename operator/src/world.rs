//! What this process knows of the API server: one watch cache a kind, shared by the CSI services and the reconcilers.
//!
//! Each watch has its own backoff (one shared backoff would starve the healthy ones), survives malformed objects, and
//! shows progress in /livez. Waiting for a change of one object costs nothing for the others: waiters are kept by name.
//! Invariant: "absent" is never concluded from here; who needs that asks the API server.

mod index;
mod packed;
mod watched;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::index::Words;
pub use self::watched::{Feed, Kept, WaitEnded, Watched};
use crate::health::{Health, Heartbeat, Readiness};
use crate::telemetry::{Telemetry, chain};

/// A watch without success for three times its own timeout (290 s) is stuck.
const WATCH_MAX_AGE: Duration = Duration::from_secs(870);
/// An idle watch is silent; it counts as well when it has not failed for this long.
const QUIET_IS_WELL: Duration = Duration::from_secs(120);

/// Objects in one answer of a list. An RdsVolume comes as 11 KB, most of it managed fields, and takes some times that while it is
/// read: with the 500 of kube's default the start would need more memory than ten thousand volumes at rest.
const PAGE: u32 = 50;

/// A watch loop, to be spawned by `main`.
pub type Loop = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// The shared view; clones share it.
#[derive(Clone)]
pub struct World {
    /// Client of the API server, for writes and for reads that must be fresh.
    pub client: Client,
    /// All RdsVolumes.
    pub volumes: Watched<RdsVolume>,
    /// All RdsServers.
    pub servers: Watched<RdsServer>,
    /// All RdsAttachments.
    pub attachments: Watched<RdsAttachment>,
    /// All Nodes.
    pub nodes: Watched<Node>,
    /// The Leases in the operator's namespace, those of the node agents among them.
    pub leases: Watched<Lease>,
    /// Cancelled when waiting calls shall answer now, as the process ends.
    pub closing: CancellationToken,
}

impl World {
    /// The view and the watch loops that feed it; each runs until `stop`.
    pub fn new(
        client: Client,
        namespace: &str,
        health: &Health,
        telemetry: &Telemetry,
        stop: &CancellationToken,
    ) -> (Self, Vec<(&'static str, Loop)>) {
        let mut loops = Vec::new();
        let mut watch = Watches {
            client: &client,
            health,
            telemetry,
            stop,
            loops: &mut loops,
        };
        let world = Self {
            volumes: watch.add("RdsVolume", "watch of RdsVolumes", "cache of RdsVolumes", Api::all),
            servers: watch.add("RdsServer", "watch of RdsServers", "cache of RdsServers", Api::all),
            attachments: watch.add(
                "RdsAttachment",
                "watch of RdsAttachments",
                "cache of RdsAttachments",
                Api::all,
            ),
            nodes: watch.add("Node", "watch of Nodes", "cache of Nodes", Api::all),
            leases: watch.add("Lease", "watch of Leases", "cache of Leases", |c| {
                Api::namespaced(c, namespace)
            }),
            client: client.clone(),
            closing: CancellationToken::new(),
        };
        (world, loops)
    }

    /// Whether every cache has been filled once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.volumes.is_synced()
            && self.servers.is_synced()
            && self.attachments.is_synced()
            && self.nodes.is_synced()
            && self.leases.is_synced()
    }

    /// Waits until every cache has been filled once.
    pub async fn synced(&self) {
        self.volumes.synced().await;
        self.servers.synced().await;
        self.attachments.synced().await;
        self.nodes.synced().await;
        self.leases.synced().await;
    }

    /// Waits for something about one volume, and for that UID only; see [`Watched::wait`]. The judge sees `None` while
    /// the cache holds no object of that name and UID.
    pub async fn wait_for_volume<T>(
        &self,
        name: &str,
        uid: &str,
        deadline: Instant,
        mut judge: impl FnMut(Option<&RdsVolume>) -> Option<T>,
    ) -> Result<T, WaitEnded> {
        let same = |v: &&RdsVolume| v.metadata.uid.as_deref() == Some(uid);
        self.volumes
            .wait(name, deadline, &self.closing, |seen| judge(seen.filter(same)))
            .await
    }
}

/// Collects the loops of the watches.
struct Watches<'a> {
    client: &'a Client,
    health: &'a Health,
    telemetry: &'a Telemetry,
    stop: &'a CancellationToken,
    loops: &'a mut Vec<(&'static str, Loop)>,
}

impl Watches<'_> {
    fn add<K>(
        &mut self,
        kind: &'static str,
        watch: &'static str,
        cache: &'static str,
        api: impl FnOnce(Client) -> Api<DeserializeGuard<K>>,
    ) -> Watched<K>
    where
        K: Kept + Clone + Debug,
    {
        let (watched, feeder) = Watched::new(kind);
        let context = Context {
            beat: self.health.heartbeat(watch, WATCH_MAX_AGE),
            ready: self.health.readiness(cache),
            telemetry: self.telemetry.clone(),
            stop: self.stop.clone(),
        };
        self.loops
            .push((watch, Box::pin(feed(feeder, api(self.client.clone()), context))));
        watched
    }
}

/// What nobody reads from the cache: it would be half of its memory.
fn slim<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

struct Context {
    beat: Heartbeat,
    ready: Readiness,
    telemetry: Telemetry,
    stop: CancellationToken,
}

/// The loop of one watch.
async fn feed<K>(mut feed: Feed<K>, api: Api<DeserializeGuard<K>>, context: Context) -> anyhow::Result<()>
where
    K: Kept + Clone + Debug,
{
    let Context {
        beat,
        ready,
        telemetry,
        stop,
    } = context;
    let kind = feed.cache().kind();
    let mut events = watcher(api, watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(slim)
        .boxed();
    let mut tick = interval(Duration::from_secs(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.next() => match event {
                None => anyhow::bail!("the watch of {kind} ended"),
                Some(Ok(event)) => {
                    failed = None;
                    let filled = matches!(event, Event::InitDone);
                    feed.take(event);
                    if filled {
                        info!(kind, objects = feed.cache().count(), "cache filled");
                        sample(&telemetry, feed.cache());
                        ready.set(true);
                    }
                    beat.beat();
                }
                Some(Err(e)) => {
                    if failed.is_none() {
                        warn!(kind, error = chain(&e), "the watch failed, it is tried again");
                    }
                    failed = Some(Instant::now());
                    telemetry.watch_failures.with_label_values(&[kind]).inc();
                }
            },
            _ = tick.tick() => {
                if failed.is_none_or(|at| at.elapsed() > QUIET_IS_WELL) && feed.cache().is_synced() {
                    beat.beat();
                }
                sample(&telemetry, feed.cache());
            }
        }
    }
}

/// What a cache holds, once it knows: before that its series is absent, for 0 would be invented (B82).
fn sample<K: Kept>(telemetry: &Telemetry, cache: &Watched<K>) {
    if !cache.is_synced() {
        return;
    }
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let kind = &[cache.kind()];
    telemetry
        .cached_objects
        .with_label_values(kind)
        .set(count(cache.count()));
    telemetry
        .malformed_objects
        .with_label_values(kind)
        .set(count(cache.malformed().len()));
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    #[test]
    fn the_cache_keeps_only_what_is_read() {
        let mut volume = serde_json::from_value::<RdsVolume>(serde_json::json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "a"},
            "spec": {"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap();
        volume.meta_mut().managed_fields = Some(Vec::new());
        let last = "kubectl.kubernetes.io/last-applied-configuration".to_owned();
        volume
            .annotations_mut()
            .extend([(last, "{}".to_owned()), ("kept".to_owned(), "1".to_owned())]);
        slim(&mut volume);
        assert!(volume.meta().managed_fields.is_none());
        assert_eq!(volume.annotations().keys().collect::<Vec<_>>(), ["kept"]);
    }
}
