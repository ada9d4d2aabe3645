//! The operator's process: puts the parts together, and takes them apart in order.
//!
//! telemetry -> API client -> watch caches -> leader and reconcilers -> CSI server -> health. Nothing here waits for the
//! API server or an appliance at start (B80): what is not there yet shows in /readyz, Probe and conditions.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use csi_proto::server::socket::bind;
use rds_operator::attachment::AttachmentMetrics;
use rds_operator::clients::Clients;
use rds_operator::config::Config;
use rds_operator::csi::{Csi, SOCKET_MODE, Settings};
use rds_operator::health::{self, Health};
use rds_operator::leader::{self, Setup};
use rds_operator::routeros::RouterosMetrics;
use rds_operator::shutdown::{self, Signals, Stage};
use rds_operator::telemetry::{self, Telemetry};
use rds_operator::world::World;
use tokio::net::TcpListener;
use tracing::{error, info};

/// Threads at most: it waits nearly all the time, and on a machine with a hundred processors each would keep memory of its own.
const THREADS: usize = 4;

#[derive(Parser)]
#[command(version, about = "Reconciles RDS storage and serves the CSI Controller")]
struct Cli {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the mutating steps of a volume's life, of an attachment's, or of the self-test, one a line, for the crash tests.
    #[command(hide = true)]
    Steps {
        /// Of what.
        #[arg(value_parser = ["volume", "attachment", "report", "self-test"], default_value = "volume")]
        of: String,
    },
}

fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let config = config
        .checked()
        .unwrap_or_else(|why| Cli::command().error(ErrorKind::ValueValidation, why).exit());
    if let Some(Command::Steps { of }) = command {
        let steps = match of.as_str() {
            "attachment" => rds_operator::crash::attachment_steps(),
            "report" => rds_operator::crash::report_steps(),
            "self-test" => rds_operator::crash::self_test_steps(),
            _ => rds_operator::crash::steps(),
        };
        steps.into_iter().for_each(|step| println!("{step}"));
        return ExitCode::SUCCESS;
    }
    telemetry::start_log(config.log_format);
    let threads = std::thread::available_parallelism().map_or(THREADS, |n| n.get().min(THREADS));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error!(error = telemetry::chain(&e), "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(config)).unwrap_or_else(|e| {
        error!(error = telemetry::chain(e.as_ref()), "the operator ends");
        ExitCode::FAILURE
    });
    // Whatever is stuck must not outlive the decision to exit (R2).
    runtime.shutdown_background();
    code
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let signals = Signals::take()?;
    let telemetry = Telemetry::new()?;
    let health = Health::default();
    let (mut csi, mut work, mut base) = (
        Stage::new("csi"),
        Stage::new("reconcilers"),
        Stage::new("watches and health"),
    );

    let metrics_listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("cannot listen on {}, change --metrics-address", config.metrics_address))?;
    let metrics_address = metrics_listener.local_addr()?;
    let (probe, series, stop) = (health.clone(), telemetry.clone(), base.stop());
    base.spawn("health server", async move {
        Ok(health::serve(metrics_listener, probe, series, stop).await?)
    });

    let clients = Clients::infer(config.lease_grace).await?;
    let (world, loops) = World::new(&clients, &config.namespace, &health, &telemetry, &base.stop());
    for (name, watch) in loops {
        base.spawn(name, watch);
    }

    let metrics = RouterosMetrics::new(telemetry.registry())?;
    let setup = Setup {
        world: world.clone(),
        config: Arc::new(config.clone()),
        metrics,
        attachments: AttachmentMetrics::new(&telemetry)?,
        telemetry: telemetry.clone(),
        lease_client: clients.lease,
    };
    work.spawn("leader", leader::run(setup, work.stop()));

    let served = health.readiness("CSI socket");
    let listener = bind(config.endpoint.path(), SOCKET_MODE)?;
    let settings = Settings {
        driver_name: config.driver_name.clone(),
        call_timeout: config.call_timeout,
    };
    let (services, stop) = (Csi::new(world.clone(), settings, telemetry.clone()), csi.stop());
    csi.spawn("CSI server", async move { Ok(services.serve(listener, stop).await?) });
    served.set(true);

    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = "controller",
        driver = config.driver_name,
        endpoint = %config.endpoint,
        %metrics_address,
        namespace = config.namespace,
        identity = config.identity(),
        "started"
    );
    let mut stages = [csi, work, base];
    let code = shutdown::run(signals, &mut stages, &world.closing, config.shutdown_timeout).await;
    // The next process replaces a stale socket too; this spares sidecars a connection to nobody.
    let _ = std::fs::remove_file(config.endpoint.path());
    Ok(code)
}
