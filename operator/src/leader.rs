//! Leader election, and what only the leader does.
//!
//! Any replica serves CSI; only the holder of the Lease talks to RouterOS and decides. Losing the Lease cancels the
//! reconcilers; the process ends only if they have not stopped in 5 s, as the CSI sidecars would die with it and forget their
//! work. Safety does not rest on this: every mutation follows a compare-and-swap and tests its token on the appliance (I18).

mod lease_term;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::lease_term::LeaseTerm;
use crate::attachment::AttachmentMetrics;
use crate::config::Config;
use crate::events::Announcer;
use crate::routeros::{ClusterId, RouterosMetrics};
use crate::server::fleet::Fleet;
use crate::telemetry::{Telemetry, chain};
use crate::world::World;
use crate::{attachment, server, volume};

/// How long cancelled reconcilers may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Pause between a renewal that failed and the next try.
const AGAIN: Duration = Duration::from_millis(500);

/// What the reconcilers work with.
#[derive(Clone)]
pub struct Setup {
    /// The shared view of the API server.
    pub world: World,
    /// Settings of the process.
    pub config: Arc<Config>,
    /// Metrics of the management connections.
    pub metrics: RouterosMetrics,
    /// Series about attachments, and about what was posted as events.
    pub attachments: AttachmentMetrics,
    /// The other series.
    pub telemetry: Telemetry,
    /// Client for the Lease alone, with timeouts shorter than the Lease, so that a renewal can be tried again.
    pub lease_client: Client,
}

/// Stands for election until `stop`, and runs the reconcilers while elected.
pub async fn run(mut setup: Setup, stop: CancellationToken) -> anyhow::Result<()> {
    let lease_term = LeaseTerm::new(&setup.config.identity());
    setup.lease_client = lease_term.listen(setup.lease_client);
    // A manager tells changes only, and one whose holder gave up by itself believes that it still leads: it would renew the Lease
    // for ever and never speak again. So each term has a manager of its own.
    while let Some(manager) = manager(&setup, &stop).await {
        term(&setup, &manager, &lease_term, &stop).await?;
        if stop.is_cancelled() {
            // A successor need not wait for the Lease to expire.
            if let Ok(Err(error)) = timeout(Duration::from_secs(2), manager.release()).await {
                warn!(error = chain(&error), "the Lease was not given back; it expires");
            }
            break;
        }
    }
    Ok(())
}

/// Waits to be elected, and leads until the Lease is lost.
async fn term(
    setup: &Setup,
    manager: &LeaseManager,
    lease_term: &LeaseTerm,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !elected(manager, lease_term, stop).await {
        return Ok(());
    }
    info!("elected");
    let reconcilers = tokio::spawn(reconcile(setup.clone(), stop.clone()));
    lead(reconcilers, manager, lease_term, stop).await
}

/// Waits for a Lease that is ours and not over; false if `stop` came first.
async fn elected(manager: &LeaseManager, lease_term: &LeaseTerm, stop: &CancellationToken) -> bool {
    let mut holder = false;
    while !stop.is_cancelled() {
        if holder && lease_term.lasts() {
            return true;
        }
        let changed = tokio::select! {
            () = stop.cancelled() => break,
            // A Lease in our name may be left from a former life, and over: the manager renews it, and has told all that it tells.
            () = lease_term.begun(), if holder => continue,
            changed = manager.changed() => changed,
        };
        match changed {
            Ok(now) => holder = now,
            Err(error) => {
                warn!(error = chain(&error), "cannot read the Lease");
                stop.run_until_cancelled(sleep(Duration::from_secs(1))).await;
            }
        }
    }
    false
}

/// The lease manager; its first request is repeated until the API server answers.
async fn manager(setup: &Setup, stop: &CancellationToken) -> Option<LeaseManager> {
    let config = &setup.config;
    loop {
        let built = LeaseManagerBuilder::new(setup.lease_client.clone(), &config.lease_name)
            .with_namespace(&config.namespace)
            .with_identity(config.identity())
            .with_duration(config.lease_duration.as_secs())
            .with_grace(config.lease_grace.as_secs())
            .build();
        match stop.run_until_cancelled(built).await? {
            Ok(manager) => return Some(manager),
            Err(error) => warn!(error = chain(&error), "cannot prepare the Lease"),
        }
        stop.run_until_cancelled(sleep(Duration::from_secs(1))).await?;
    }
}

/// Watches over the reconcilers until the Lease is lost or they end with `stop`.
async fn lead(
    mut reconcilers: JoinHandle<anyhow::Result<()>>,
    manager: &LeaseManager,
    lease_term: &LeaseTerm,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let ask = |pause: Duration| async move {
        sleep(pause).await;
        manager.changed().await
    };
    let mut asking = pin!(ask(Duration::ZERO));
    loop {
        tokio::select! {
            ended = &mut reconcilers => {
                ended.context("the reconcilers died")??;
                if stop.is_cancelled() { return Ok(()) }
                bail!("the reconcilers ended by themselves");
            }
            // Whatever the requests do: this does not depend on their ever ending.
            () = lease_term.over() => break,
            changed = &mut asking => match changed {
                Ok(true) => asking.set(ask(Duration::ZERO)),
                Ok(false) => break,
                Err(error) => {
                    warn!(error = chain(&error), "cannot renew the Lease");
                    asking.set(ask(AGAIN));
                }
            },
        }
    }
    warn!("the Lease is lost: reconcilers are cancelled");
    reconcilers.abort();
    match timeout(STOP_WITHIN, reconcilers).await {
        Ok(_) => Ok(()),
        Err(_) => bail!("the reconcilers did not stop within {STOP_WITHIN:?} of losing the Lease"),
    }
}

/// All reconcilers, until `stop`; then they finish what is under way.
async fn reconcile(setup: Setup, stop: CancellationToken) -> anyhow::Result<()> {
    let Setup {
        world,
        config,
        metrics,
        attachments,
        telemetry,
        ..
    } = setup;
    let Some(cluster) = cluster_id(&world.client, &stop).await else {
        return Ok(());
    };
    if stop.run_until_cancelled(world.synced()).await.is_none() {
        return Ok(());
    }
    let fleet = Arc::new(Fleet::default());
    let (announcer, poster) = Announcer::new(world.client.clone(), &config.identity(), attachments.clone());
    let (triggers, triggered) = mpsc::unbounded_channel();
    let resync = attachment::Resync {
        world: world.clone(),
        driver: config.driver_name.clone(),
        fleet: fleet.clone(),
        triggers: triggers.clone(),
        telemetry,
        metrics: attachments,
        announcer: announcer.clone(),
        shared_host_nqns: attachment::SharedHostNqns::default(),
        every: config.attachment_reconcile_interval,
        unwanted: attachment::Unwanted::default(),
    };
    let servers = server::Context {
        world: world.clone(),
        fleet: fleet.clone(),
        cluster: cluster.clone(),
        announcer: announcer.clone(),
        namespace: config.namespace.clone(),
        inventory_interval: config.inventory_interval,
        metrics: Some(metrics),
        triggers: triggers.clone(),
        memory: Mutex::new(HashMap::new()),
    };
    let patience = attachment::Patience {
        grace: config.attachment_grace_period,
        lease: config.agent_lease_period,
    };
    let selftest = server::selftest::Context {
        world: world.clone(),
        observations: attachment::Observations::default(),
        patience,
        announcer: announcer.clone(),
        triggers,
    };
    let volumes = volume::Context {
        persistent_volumes: volume::PersistentVolumes::new(&world.client),
        world,
        fleet,
        cluster,
        announcer,
        max_exec_age: config.max_exec_age,
        inventory_interval: config.inventory_interval,
        resync_interval: config.resync_interval,
        memory: volume::Memory::default(),
        observations: attachment::Observations::default(),
        patience,
        driver: config.driver_name.clone(),
    };
    tokio::join!(
        server::run(Arc::new(servers), stop.clone()),
        volume::run(Arc::new(volumes), triggered, config.concurrency, stop.clone()),
        resync.run(stop.clone()),
        server::selftest::run(selftest, stop.clone()),
        poster.run(stop.clone()),
    );
    Ok(())
}

/// Identity of this cluster on the appliance: the UID of the namespace kube-system. Asked for until there is an answer.
async fn cluster_id(client: &Client, stop: &CancellationToken) -> Option<ClusterId> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match stop.run_until_cancelled(namespaces.get("kube-system")).await? {
            Ok(namespace) => match namespace.uid() {
                Some(uid) => return Some(ClusterId::of(&uid)),
                None => warn!("the namespace kube-system shows no uid"),
            },
            Err(error) => warn!(
                error = chain(&error),
                "cannot read the namespace kube-system, whose uid names this cluster"
            ),
        }
        stop.run_until_cancelled(sleep(Duration::from_secs(2))).await?;
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::time::Instant;
    use tower::service_fn;

    use super::*;

    /// An API server with one Lease, of which the last renewal is remembered.
    #[derive(Clone)]
    struct Server(Arc<Mutex<(Value, Instant, Way)>>);

    /// How it answers.
    #[derive(Clone, Copy)]
    enum Way {
        Well,
        Never,
        /// Taken, and answered with an error at once.
        Refusing,
    }

    impl Server {
        fn new(spec: &Value) -> Self {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec});
            Self(Arc::new(Mutex::new((lease, Instant::now(), Way::Well))))
        }

        fn turn(&self, way: Way) {
            self.0.lock().unwrap().2 = way;
        }

        fn renewed(&self) -> Instant {
            self.0.lock().unwrap().1
        }

        fn client(&self) -> Client {
            let server = self.0.clone();
            let service = service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect_bytes().await?;
                    let way = server.lock().unwrap().2;
                    match way {
                        Way::Well => {}
                        Way::Never => std::future::pending().await,
                        Way::Refusing => {
                            let mut answer = Response::new(Body::from(b"{}".to_vec()));
                            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                            return Ok(answer);
                        }
                    }
                    let mut kept = server.lock().unwrap();
                    if head.method == Method::PATCH {
                        let patch: Value = serde_json::from_slice(&body).unwrap();
                        for (key, value) in patch["spec"].as_object().unwrap() {
                            kept.0["spec"][key] = value.clone();
                        }
                        kept.1 = Instant::now();
                    }
                    Ok::<_, kube::Error>(Response::new(Body::from(kept.0.to_string().into_bytes())))
                }
            });
            Client::new(service, "default")
        }
    }

    async fn managed(server: &Server) -> (LeaseManager, LeaseTerm) {
        let lease_term = LeaseTerm::new("me");
        let built = LeaseManagerBuilder::new(lease_term.listen(server.client()), "l")
            .with_identity("me")
            .with_duration(15)
            .with_grace(5)
            .build();
        (built.await.unwrap(), lease_term)
    }

    #[tokio::test(start_paused = true)]
    async fn the_lead_ends_within_its_lease_however_the_renewal_fails() {
        for way in [Way::Never, Way::Refusing] {
            let (server, stop) = (Server::new(&json!({})), CancellationToken::new());
            let (manager, lease_term) = managed(&server).await;
            assert!(elected(&manager, &lease_term, &stop).await);
            let reconcilers = tokio::spawn(std::future::pending());
            let turned = async {
                sleep(Duration::from_secs(3605)).await;
                server.turn(way);
            };
            let (led, ()) = tokio::join!(lead(reconcilers, &manager, &lease_term, &stop), turned);
            led.unwrap();
            let led = server.renewed().elapsed();
            assert!(led > Duration::from_secs(12), "{led:?}: renewals were tried");
            assert!(led < Duration::from_secs(15), "{led:?}: the Lease was over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_a_former_life_is_renewed_before_anything_is_done_with_it() {
        let old =
            json!({"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15});
        let (server, stop) = (Server::new(&old), CancellationToken::new());
        let (manager, lease_term) = managed(&server).await;
        assert!(elected(&manager, &lease_term, &stop).await);
        assert_ne!(server.0.lock().unwrap().0["spec"]["renewTime"], old["renewTime"]);
        assert!(lease_term.lasts());
    }
}
