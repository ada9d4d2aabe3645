//! Serves /livez, /readyz and /metrics.
//!
//! Liveness is progress: each loop that must not stand still holds a [`Heartbeat`], and /livez fails when one is older
//! than its owner promised. Readiness is a set of named conditions, all of which must hold. An appliance that does not
//! answer is neither: it shows in RdsServer conditions and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Telemetry;

/// What this process says of itself; clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    beats: BTreeMap<&'static str, Beat>,
    ready: BTreeMap<&'static str, bool>,
}

struct Beat {
    last: Instant,
    max_age: Duration,
}

/// The progress of one loop. Dropped when the loop ends in order: it is no longer expected then.
pub struct Heartbeat {
    health: Health,
    name: &'static str,
}

/// One condition of readiness, false at first.
#[derive(Clone)]
pub struct Readiness {
    health: Health,
    name: &'static str,
}

impl Health {
    /// Promises a sign of life at least every `max_age`, the first one now.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str, max_age: Duration) -> Heartbeat {
        self.with(|state| {
            state.beats.insert(
                name,
                Beat {
                    last: Instant::now(),
                    max_age,
                },
            )
        });
        Heartbeat {
            health: self.clone(),
            name,
        }
    }

    /// Adds a condition without which this process is not ready.
    #[must_use]
    pub fn readiness(&self, name: &'static str) -> Readiness {
        self.with(|state| state.ready.insert(name, false));
        Readiness {
            health: self.clone(),
            name,
        }
    }

    /// The loops that stand still at `now`; empty means alive.
    #[must_use]
    pub fn stuck(&self, now: Instant) -> Vec<String> {
        self.with(|state| {
            let late = |beat: &Beat| now.saturating_duration_since(beat.last) > beat.max_age;
            let say = |(name, beat): (&&str, &Beat)| {
                format!(
                    "{name}: no progress for {} s",
                    now.saturating_duration_since(beat.last).as_secs()
                )
            };
            state.beats.iter().filter(|(_, beat)| late(beat)).map(say).collect()
        })
    }

    /// The conditions of readiness that do not hold; empty means ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.with(|state| {
            state
                .ready
                .iter()
                .filter(|(_, holds)| !**holds)
                .map(|(name, _)| *name)
                .collect()
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Heartbeat {
    /// Progress was made.
    pub fn beat(&self) {
        self.health.with(|state| {
            if let Some(beat) = state.beats.get_mut(self.name) {
                beat.last = Instant::now();
            }
        });
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // A panic is not an end in order: the stale beat stays and fails /livez.
        if !std::thread::panicking() {
            self.health.with(|state| state.beats.remove(self.name));
        }
    }
}

impl Readiness {
    /// Whether the condition holds from now on.
    pub fn set(&self, holds: bool) {
        self.health.with(|state| state.ready.insert(self.name, holds));
    }
}

/// Serves until `stop`; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let alive = health.clone();
    let livez = async move || answer(&alive.stuck(Instant::now()));
    let readyz = async move || {
        answer(
            &health
                .missing()
                .into_iter()
                .map(|name| format!("{name}: not yet"))
                .collect::<Vec<_>>(),
        )
    };
    let metrics = async move || {
        telemetry
            .render()
            .map(|text| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
            .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
    };
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn answer(problems: &[String]) -> (StatusCode, String) {
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liveness_is_progress() {
        let health = Health::default();
        let watch = health.heartbeat("watch of RdsVolumes", Duration::from_secs(10));
        let now = Instant::now();
        assert!(health.stuck(now).is_empty());
        let late = health.stuck(now + Duration::from_secs(20));
        assert_eq!(late.len(), 1);
        assert!(late[0].starts_with("watch of RdsVolumes: no progress for"), "{late:?}");
        drop(watch);
        assert!(
            health.stuck(now + Duration::from_secs(20)).is_empty(),
            "a loop that ended is not expected"
        );
    }

    #[test]
    fn readiness_needs_every_condition() {
        let health = Health::default();
        let (caches, socket) = (health.readiness("caches"), health.readiness("CSI socket"));
        caches.set(true);
        assert_eq!(health.missing(), ["CSI socket"]);
        socket.set(true);
        assert!(health.missing().is_empty());
    }
}
