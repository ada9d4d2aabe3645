//! Leader election, and what only the leader does.
//!
//! Any replica serves CSI; only the holder of the Lease talks to RouterOS and decides. Losing the Lease cancels the
//! reconcilers; the process ends only if they have not stopped in 5 s, as the CSI sidecars would die with it and forget their
//! work. Safety does not rest on this: every mutation follows a compare-and-swap and tests its token on the appliance (I18).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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
    /// Client for the Lease alone, with timeouts shorter than the Lease: an API server that does not answer must not
    /// keep a leader in its belief.
    pub lease_client: Client,
}

/// Stands for election until `stop`, and runs the reconcilers while elected.
pub async fn run(setup: Setup, stop: CancellationToken) -> anyhow::Result<()> {
    // A manager tells changes only, and one whose holder gave up by itself believes that it still leads: it would renew the Lease
    // for ever and never speak again. So each term has a manager of its own.
    while let Some(manager) = manager(&setup, &stop).await {
        term(&setup, &manager, &stop).await?;
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
async fn term(setup: &Setup, manager: &LeaseManager, stop: &CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let elected = tokio::select! {
            () = stop.cancelled() => break,
            elected = manager.changed() => elected,
        };
        match elected {
            Ok(true) => return lead(setup, manager, stop).await,
            Ok(false) => {}
            Err(error) => {
                warn!(error = chain(&error), "cannot read the Lease");
                stop.run_until_cancelled(sleep(Duration::from_secs(1))).await;
            }
        }
    }
    Ok(())
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

/// For how long the Lease could not be renewed.
struct Failing {
    since: Option<Instant>,
    /// A renewal is due that long after the one before.
    every: Duration,
    patience: Duration,
}

impl Failing {
    fn new(duration: Duration, grace: Duration) -> Self {
        Self {
            since: None,
            every: duration.saturating_sub(grace),
            patience: grace.saturating_sub(Duration::from_millis(1500)),
        }
    }

    /// A call that was made at `asked` ended in an error now: whether the lead has to be given up. The manager says nothing of a
    /// renewal that went well; but a call only lasts as long as from one to the next if there was one, as requests end sooner.
    fn too_long(&mut self, asked: Instant, now: Instant) -> bool {
        if now.duration_since(asked) >= self.every {
            self.since = None;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= self.patience
    }
}

/// Runs the reconcilers until the Lease is lost or `stop`.
async fn lead(setup: &Setup, manager: &LeaseManager, stop: &CancellationToken) -> anyhow::Result<()> {
    info!("elected");
    let mut reconcilers: JoinHandle<anyhow::Result<()>> = tokio::spawn(reconcile(setup.clone(), stop.clone()));
    let mut failing = Failing::new(setup.config.lease_duration, setup.config.lease_grace);
    loop {
        let asked = Instant::now();
        tokio::select! {
            ended = &mut reconcilers => {
                ended.context("the reconcilers died")??;
                if stop.is_cancelled() { return Ok(()) }
                bail!("the reconcilers ended by themselves");
            }
            changed = manager.changed() => match changed {
                Ok(true) => failing.since = None,
                Ok(false) => break,
                Err(error) => {
                    warn!(error = chain(&error), "cannot renew the Lease");
                    if failing.too_long(asked, Instant::now()) {
                        break;
                    }
                    sleep(Duration::from_millis(500)).await;
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
    let rounds = attachment::Rounds {
        world: world.clone(),
        driver: config.driver_name.clone(),
        fleet: fleet.clone(),
        triggers: triggers.clone(),
        telemetry,
        metrics: attachments,
        announcer: announcer.clone(),
        clones: attachment::Clones::default(),
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
        clock: attachment::Clock::default(),
        patience,
        announcer: announcer.clone(),
        triggers,
    };
    let volumes = volume::Context {
        census: volume::Registrar::new(&world.client),
        world,
        fleet,
        cluster,
        announcer,
        max_exec_age: config.max_exec_age,
        inventory_interval: config.inventory_interval,
        resync_interval: config.resync_interval,
        memory: volume::Memory::default(),
        clock: attachment::Clock::default(),
        patience,
        driver: config.driver_name.clone(),
    };
    tokio::join!(
        server::run(Arc::new(servers), stop.clone()),
        volume::run(Arc::new(volumes), triggered, config.concurrency, stop.clone()),
        rounds.run(stop.clone()),
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
    use super::*;

    #[tokio::test]
    async fn only_failures_in_a_row_end_the_lead() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut failing = Failing::new(Duration::from_secs(15), Duration::from_secs(5));
        assert!(!failing.too_long(at(0), at(12_500)), "the first one");
        assert!(!failing.too_long(at(13_000), at(15_500)), "3 s of failures");
        assert!(failing.too_long(at(15_500), at(16_500)), "4 s, the Lease has 1 s to go");
        // An hour of renewals later there is a single one again.
        assert!(!failing.too_long(at(17_000), at(3_600_000)));
        assert!(!failing.too_long(at(3_600_500), at(3_602_000)));
    }
}
