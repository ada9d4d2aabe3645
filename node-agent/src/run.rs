//! The process: puts the parts together, and takes them apart in order. Nothing here waits for the API server at start.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attachment::act::Agent;
use crate::attachment::{sweep, watch};
use crate::config::{Config, ManagedPrefix, PREFIX_VARIABLE};
use crate::fabrics::Fabrics;
use crate::lock::HostLock;
use crate::nvme::Kernel;
use crate::nvme::identity::{self, Identity};
use crate::{health, host, lease};

/// How often the host's sessions are looked at: a read of sysfs, no request to anybody.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// Runs until a signal.
///
/// # Errors
/// When a setting is refused, or a part ends that never should.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let prefix = ManagedPrefix::from_variable(std::env::var_os(PREFIX_VARIABLE))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("cannot listen on {}, change --metrics-address", config.metrics_address))?;
    let client = Client::try_default()
        .await
        .context("no way to the API server, set KUBECONFIG or run in a pod")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = "node",
        node = config.node_id,
        managed_nqn_prefix = %prefix,
        endpoint = %config.endpoint,
        metrics_address = %listener.local_addr()?,
        "started: this version has no CSI node service, so nothing is served on the endpoint and nothing is advertised"
    );

    let stop = CancellationToken::new();
    let mut parts: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let serve = health::serve(listener, health::registry()?, stop.clone());
    parts.spawn(async move { ("health server", serve.await.map_err(Into::into)) });
    let work = work(config.clone(), prefix, client, stop.clone());
    parts.spawn(async move { ("attachments", work.await) });

    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        Some(ended) = parts.join_next() => {
            let (part, result) = ended?;
            result.with_context(|| format!("{part} failed"))?;
            bail!("{part} ended without being asked to");
        }
    };
    info!(signal = name, timeout = ?config.shutdown_timeout, "shutdown started");
    stop.cancel();
    let mut left = vec!["attachments", "health server"];
    let drained = tokio::time::timeout(config.shutdown_timeout, async {
        while let Some(ended) = parts.join_next().await {
            let (part, result) = ended?;
            result.with_context(|| format!("{part} failed"))?;
            left.retain(|name| *name != part);
        }
        anyhow::Ok(())
    });
    let drained = drained.await;
    match drained {
        Ok(ended) => {
            ended?;
            info!("shutdown complete");
            Ok(ExitCode::SUCCESS)
        }
        Err(_) => {
            warn!(?left, "shutdown did not complete in time");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What reaches the host's NVMe: the kernel, but for tests.
fn fabrics(config: &Config, prefix: &ManagedPrefix, identity: Identity) -> Arc<dyn Fabrics> {
    #[cfg(debug_assertions)]
    if let Some(url) = &config.fake_fabrics {
        warn!(url, "sessions are those of a simulated appliance: for tests only");
        let used = config.state_dir.join("in-use");
        return Arc::new(crate::fake::Simulated::new(url, &config.node_id, used));
    }
    let (root, kubelet) = (&config.host_root, &config.kubelet_dir);
    Arc::new(Kernel::new(root, kubelet, &prefix.to_string(), identity))
}

/// Lease and attachments, once no earlier agent process is left on the host.
async fn work(config: Config, prefix: ManagedPrefix, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    let host = host::read(&config.host_root, &config.node_id)?;
    let Some(lock) = stop.run_until_cancelled(HostLock::take(&config.state_dir)).await else {
        return Ok(());
    };
    let _lock = lock?;
    let identity = identity::load(&config.state_dir, &host.machine_id)?;
    info!(
        host_nqn = identity.host_nqn,
        host_id = identity.host_id,
        "this machine's name to appliances"
    );
    let sign = lease::Sign {
        node: config.node_id.clone(),
        host_nqn: identity.host_nqn.clone(),
    };
    let sign = lease::run(client.clone(), config.namespace.clone(), sign, stop.clone());
    let fabrics = fabrics(&config, &prefix, identity);
    let agent = Arc::new(Agent::new(client.clone(), fabrics, host, prefix.to_string()));
    let (wake, woken) = mpsc::unbounded_channel();
    let sweep = sweep::run(agent.clone(), SWEEP_EVERY, wake, stop.clone());
    let watch = watch::run(client, agent, woken, stop);
    let (watched, (), ()) = tokio::join!(watch, sweep, sign);
    watched
}
