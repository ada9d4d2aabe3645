//! The process: puts the parts together, and takes them apart in order. Nothing here waits for the API server at start.

use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use csi_proto::server::socket::bind_anew;
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attachment::act::Agent;
use crate::attachment::host_calls::Users;
use crate::attachment::{sweep, watch};
use crate::config::{Config, ManagedPrefix, PREFIX_VARIABLE};
use crate::csi;
use crate::fabrics::Fabrics;
use crate::filesystem::child::{WRITERS, Writers};
use crate::health::Served;
use crate::lock::HostLock;
use crate::nvme::Kernel;
use crate::nvme::identity::{self, Identity};
use crate::unreported_losses::UnreportedLosses;
use crate::{health, host, lease};

/// Silence after which a request counts as lost. A watch is silent while nothing changes, but no longer than 290 s, and 5 s more
/// (`kube_runtime::watcher`).
const SILENCE: Duration = Duration::from_secs(305);
/// How often the host's sessions are looked at: a read of sysfs, no request to anybody.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// For programs that write to disks when the process is to end: as long as a call gives the slowest of them. The pod's
/// `terminationGracePeriodSeconds` is longer.
const WRITERS_WITHIN: Duration = csi::kernel::CHECK;

/// Runs until a signal.
///
/// # Errors
/// When a setting is refused, or a part ends that never should.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let in_time = until_signal(config).await;
    let written = no_writer(&WRITERS, WRITERS_WITHIN).await;
    if in_time? && written {
        info!("shutdown complete");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Whether all parts ended in time.
async fn until_signal(config: Config) -> anyhow::Result<bool> {
    let prefix = ManagedPrefix::from_variable(std::env::var_os(PREFIX_VARIABLE))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("cannot listen on {}, change --metrics-address", config.metrics_address))?;
    let client = client().await?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = "node",
        node = config.node_id,
        managed_nqn_prefix = %prefix,
        endpoint = %config.endpoint,
        metrics_address = %listener.local_addr()?,
        "started"
    );

    let stop = CancellationToken::new();
    let mut parts: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let (registry, served) = (health::registry()?, Served::default());
    let metrics = csi::Metrics::new(&registry)?;
    let serve = health::serve(listener, registry, served.clone(), stop.clone());
    parts.spawn(async move { ("health server", serve.await.map_err(Into::into)) });
    let work = work(config.clone(), prefix, client, metrics, served, stop.clone());
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
    // No call that is under way begins one any more.
    WRITERS.close();
    let mut left = vec!["attachments", "health server"];
    let drained = tokio::time::timeout(config.shutdown_timeout, async {
        while let Some(ended) = parts.join_next().await {
            let (part, result) = ended?;
            result.with_context(|| format!("{part} failed"))?;
            left.retain(|name| *name != part);
        }
        anyhow::Ok(())
    });
    match drained.await {
        Ok(ended) => ended.map(|()| true),
        Err(_) => {
            warn!(?left, "shutdown did not complete in time");
            Ok(false)
        }
    }
}

/// Has no program begin that writes to a disk, and waits for those at work: with this process its container ends, and all that runs
/// in there is killed. Whether none is left.
async fn no_writer(writers: &'static Writers, within: Duration) -> bool {
    let at_work = writers.close();
    if at_work.is_empty() {
        return true;
    }
    info!(?at_work, ?within, "waits for programs that write to disks");
    let left = tokio::task::spawn_blocking(move || writers.wait(within)).await;
    match left.as_deref() {
        Ok([]) => {
            info!("no program writes to a disk any more");
            true
        }
        Ok(left) => {
            warn!(
                ?left,
                "programs still write to disks, and will be killed: look at these filesystems"
            );
            false
        }
        Err(_) => false,
    }
}

/// The way to the API server. kube waits without end for an answer: of an API server that lost its power the watch would never
/// hear again, and no attachment would be seen any more. The timer begins anew with each byte and each request.
async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no way to the API server, set KUBECONFIG or run in a pod")?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
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

/// Lease, attachments and CSI services, once no earlier agent process is left on the host.
async fn work(
    config: Config,
    prefix: ManagedPrefix,
    client: Client,
    metrics: csi::Metrics,
    served: Served,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let host = host::read(&config.host_root, &config.node_id)?;
    let Some(lock) = stop.run_until_cancelled(HostLock::take(&config.state_dir)).await else {
        return Ok(());
    };
    // It goes with the process and not before: a program that writes to a disk may be left, and only this process knows of it.
    let _lock = ManuallyDrop::new(lock?);
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
    let nvme = Kernel::new(
        &config.host_root,
        &config.kubelet_dir,
        &prefix.to_string(),
        identity.clone(),
    );
    let kernel = csi::kernel::Kernel::new(&config.host_root, &config.kubelet_dir, nvme);
    let fabrics = fabrics(&config, &prefix, identity);
    let unreported = UnreportedLosses::load(&config.state_dir)?;
    let agent = Arc::new(Agent::new(
        client.clone(),
        fabrics,
        host,
        prefix.to_string(),
        unreported,
    ));
    let (wake, woken) = mpsc::unbounded_channel();
    let serve = serve(
        &config,
        agent.clone(),
        Arc::new(kernel),
        wake.clone(),
        metrics,
        served,
        stop.clone(),
    );
    let sweep = sweep::run(agent.clone(), SWEEP_EVERY, wake, stop.clone());
    let watch = watch::run(client, agent, woken, stop.clone());
    let quiet = async {
        tokio::join!(sweep, sign);
        Ok(())
    };
    tokio::try_join!(watch, serve, quiet).map(|_| ())
}

/// The CSI services, and their registration with kubelet.
async fn serve(
    config: &Config,
    agent: Arc<Agent>,
    host: Arc<dyn csi::host::Host>,
    wake: mpsc::UnboundedSender<String>,
    metrics: csi::Metrics,
    served: Served,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    #[cfg(debug_assertions)]
    if config.fake_fabrics.is_some() {
        // Sessions of a simulated appliance have no disks: there is nothing to serve.
        served.yes();
        return Ok(());
    }
    let (disks, kubelet) = (host.clone(), config.kubelet_dir.clone());
    agent.ask_for_users(Users(Arc::new(move |nqn: &str| {
        let disk = disks.disk(nqn).ok()??;
        csi::users::of(disks.as_ref(), &kubelet, disk.device).ok()
    })));
    let settings = csi::Settings {
        driver_name: config.driver_name.clone(),
        kubelet_dir: config.kubelet_dir.clone(),
        max_volumes: config.max_volumes,
        zone: config.zone.clone(),
    };
    let endpoint = config.endpoint.path();
    let listener = bind_anew(endpoint, csi::SOCKET_MODE)?;
    let services = csi::Node::new(agent, host, settings, wake, metrics).serve(listener, stop.clone());
    served.yes();
    let registration = async {
        let plugin = csi::registration::Plugin {
            driver: config.driver_name.clone(),
            endpoint: config.kubelet_endpoint.clone().unwrap_or_else(|| endpoint.to_owned()),
        };
        csi::registration::run(plugin, config.registration_dir.clone(), stop.clone()).await
    };
    let services = async { services.await.context("the CSI services ended") };
    let ended = tokio::try_join!(services, registration).map(|_| ());
    std::fs::remove_file(endpoint).ok();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::{format, grow};

    #[test]
    fn r5_the_pod_has_time_for_its_slowest_writer() {
        let pod = include_str!("../../config/node-agent/daemonset.yaml");
        let mut lines = pod.lines().map(str::trim);
        let grace = lines.find_map(|l| l.strip_prefix("terminationGracePeriodSeconds: "));
        let grace = Duration::from_secs(grace.unwrap().parse().unwrap());
        let shutdown = Duration::from_secs(30);
        assert!(grace > shutdown + WRITERS_WITHIN, "{grace:?}");
        for limit in [format::LIMIT, grow::LIMIT] {
            assert!(limit <= WRITERS_WITHIN);
        }
    }
}
