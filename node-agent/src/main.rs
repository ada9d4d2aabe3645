//! Node agent of the RDS storage operator.
//!
//! One process on each node; holds no RouterOS credential. This version runs, is healthy and stops cleanly, and advertises
//! nothing: no CSI service is served and nothing registers with kubelet, so no volume can be asked of it. The managed NQN
//! prefix is judged before anything else (R13).

mod config;
mod health;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, LogFormat, ManagedPrefix, PREFIX_VARIABLE};

fn main() -> ExitCode {
    let config = Config::parse();
    start_log(config.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            error!(error = %e, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(config)) {
        Ok(code) => code,
        Err(e) => {
            error!(error = format!("{e:#}"), "the agent ends");
            ExitCode::FAILURE
        }
    };
    // A stuck blocking call must not outlive the decision to exit (R2).
    runtime.shutdown_background();
    code
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let prefix = ManagedPrefix::from_variable(std::env::var_os(PREFIX_VARIABLE))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(config.metrics_address)
        .await
        .with_context(|| format!("cannot listen on {}, change --metrics-address", config.metrics_address))?;
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
    let mut served = tokio::spawn(health::serve(listener, health::registry()?, stop.clone()));
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        ended = &mut served => {
            ended?.context("the health server failed")?;
            anyhow::bail!("the health server ended without being asked to");
        }
    };
    info!(signal = name, timeout = ?config.shutdown_timeout, "shutdown started");
    stop.cancel();
    match tokio::time::timeout(config.shutdown_timeout, served).await {
        Ok(ended) => {
            ended?.context("the health server failed")?;
            info!("shutdown complete");
            Ok(ExitCode::SUCCESS)
        }
        Err(_) => {
            warn!(left = "health server", "shutdown did not complete in time");
            Ok(ExitCode::FAILURE)
        }
    }
}
