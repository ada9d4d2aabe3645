//! Serves /livez, /readyz and /metrics. Owns the agent's private metrics registry (R76): nothing registers globally.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A registry with the series that say which build runs.
pub fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let build = IntGaugeVec::new(
        Opts::new("rds_csi_build_info", "Always 1; the labels say which build this is"),
        &["component", "version"],
    )?;
    build
        .with_label_values(&["rds-node-agent", env!("CARGO_PKG_VERSION")])
        .set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}

/// Whether the CSI services are there.
#[derive(Clone, Debug, Default)]
pub struct Served(Arc<AtomicBool>);

impl Served {
    /// They are.
    pub fn yes(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves until `stop`; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    served: Served,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let metrics = move || async move {
        TextEncoder::new()
            .encode_to_string(&registry.gather())
            .map(|text| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
            .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
    };
    let ready = move || async move {
        if served.0.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else {
            let why = "the CSI services are not served yet: an earlier agent process is not gone, or this one ends\n";
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
    };
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
