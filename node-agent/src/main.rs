//! The agent's process: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use rds_node_agent::config::{Config, LogFormat};
use tracing::error;

fn main() -> ExitCode {
    let config = Config::parse();
    start_log(config.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(rds_node_agent::thread::STACK)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            error!(error = %e, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(rds_node_agent::run::run(config)) {
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
