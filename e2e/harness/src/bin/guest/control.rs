//! The way in for the host: `POST /sh` runs a line of shell as root. The port is forwarded from loopback of the host only, and this is
//! a machine of a test.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::process::Command;

/// What every guest answers.
pub(crate) fn router() -> Router {
    Router::new().route("/sh", post(sh))
}

/// The same for guests that have no health of their own.
pub(crate) fn with_health() -> Router {
    router().route("/healthz", get(|| async { "ok\n" }))
}

async fn sh(line: String) -> (StatusCode, String) {
    let done = Command::new("bash").args(["-c", &line]).output().await;
    match done {
        Ok(done) if done.status.success() => (StatusCode::OK, String::from_utf8_lossy(&done.stdout).into_owned()),
        Ok(done) => {
            let (out, error) = (
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr),
            );
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{}: {error}{out}", done.status),
            )
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Serves until the machine ends.
pub(crate) async fn serve(router: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:80").await?;
    Ok(axum::serve(listener, router).await?)
}
