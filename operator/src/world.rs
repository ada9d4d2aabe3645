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
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::index::IndexKeys;
pub use self::watched::{Feed, Kept, WaitEnded, Watched};
use crate::clients::{Clients, heard};
use crate::health::{Health, Heartbeat, Readiness};
use crate::telemetry::{Telemetry, chain};

/// A watch is asked for anew every 290 s. One to which nothing was answered for three times that is stuck.
const WATCH_MAX_AGE: Duration = Duration::from_secs(870);

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
    /// The operator's own namespace.
    pub namespace: String,
    /// Cancelled when waiting calls shall answer now, as the process ends.
    pub closing: CancellationToken,
}

impl World {
    /// The view and the watch loops that feed it; each runs until `stop`.
    pub fn new(
        clients: &Clients,
        namespace: &str,
        health: &Health,
        telemetry: &Telemetry,
        stop: &CancellationToken,
    ) -> (Self, Vec<(&'static str, Loop)>) {
        let mut loops = Vec::new();
        let mut watch = Watches {
            client: &clients.watches,
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
            client: clients.main.clone(),
            namespace: namespace.to_owned(),
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
        let answered = Arc::new(Notify::new());
        let client = heard(self.client.clone(), answered.clone());
        let context = Context {
            answered,
            beat: self.health.heartbeat(watch, WATCH_MAX_AGE),
            ready: self.health.readiness(cache),
            telemetry: self.telemetry.clone(),
            stop: self.stop.clone(),
        };
        self.loops.push((watch, Box::pin(feed(feeder, api(client), context))));
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
    /// An idle watch is silent, also about having been taken up: so the answers to its requests are heard of.
    answered: Arc<Notify>,
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
        answered,
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
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = answered.notified() => {
                failing = false;
                beat.beat();
            }
            event = events.next() => match event {
                None => anyhow::bail!("the watch of {kind} ended"),
                Some(Ok(event)) => {
                    failing = false;
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
                    if !failing {
                        warn!(kind, error = chain(&e), "the watch failed, it is tried again");
                    }
                    failing = true;
                    telemetry.watch_failures.with_label_values(&[kind]).inc();
                }
            },
            _ = tick.tick() => sample(&telemetry, feed.cache()),
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
    use axum::body::Body;
    use futures::stream;
    use http::{Request, Response};
    use kube::ResourceExt;
    use tokio::time::sleep;
    use tower::service_fn;

    use super::*;

    /// An API server with nothing in it, whose watches are taken up and stay silent, or are not even answered.
    fn server(answers: bool) -> Client {
        let service = service_fn(move |request: Request<kube::client::Body>| async move {
            if !request.uri().query().is_some_and(|q| q.contains("watch=true")) {
                let list = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"LeaseList","metadata":{"resourceVersion":"1"},"items":[]}"#;
                return Ok(Response::new(Body::from(list)));
            }
            if !answers {
                std::future::pending::<()>().await;
            }
            let silent = stream::once(async {
                sleep(Duration::from_secs(290)).await;
                Ok::<_, std::io::Error>("")
            });
            Ok::<_, std::io::Error>(Response::new(Body::from_stream(silent)))
        });
        Client::new(service, "default")
    }

    async fn stuck_after_an_hour(answers: bool) -> Vec<String> {
        let (health, stop) = (Health::default(), CancellationToken::new());
        let telemetry = Telemetry::new().unwrap();
        let mut loops = Vec::new();
        let mut watches = Watches {
            client: &server(answers),
            health: &health,
            telemetry: &telemetry,
            stop: &stop,
            loops: &mut loops,
        };
        let cache: Watched<Lease> = watches.add("Lease", "watch of Leases", "cache of Leases", Api::all);
        let running: Vec<_> = loops.into_iter().map(|(_, watch)| tokio::spawn(watch)).collect();
        sleep(Duration::from_secs(3600)).await;
        assert!(cache.is_synced(), "the list was answered");
        let stuck = health.stuck(Instant::now());
        running.into_iter().for_each(|watch| watch.abort());
        stuck
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_never_answered_is_no_progress() {
        assert_eq!(stuck_after_an_hour(false).await.len(), 1);
        assert_eq!(
            stuck_after_an_hour(true).await,
            Vec::<String>::new(),
            "silent, and at work"
        );
    }

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
