//! The HTTP control interface on loopback: what the library can do, for people and for tests in other languages.
//!
//! It has no authentication, so it must not listen anywhere but on loopback.

use crate::faults::Fault;
use crate::knobs::Knobs;
use crate::session::{Dead, SessionId};
use crate::simulator::{Simulator, exec_as_admin, live_exports};
use axum::extract::{Json, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, body::Bytes};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

fn failed(status: StatusCode, error: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": error.to_string() }))).into_response()
}

/// All routes.
pub fn router(sim: Arc<Simulator>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/host-key",
            get(async |Shared(sim): Shared<Arc<Simulator>>| sim.host_key_line() + "\n"),
        )
        .route(
            "/client-key",
            get(async |Shared(sim): Shared<Arc<Simulator>>| sim.client_private_key()),
        )
        .route("/log", get(log).delete(clear_log))
        .route(
            "/disks",
            get(async |Shared(sim): Shared<Arc<Simulator>>| Json(json!(sim.disks()))),
        )
        .route(
            "/files",
            get(async |Shared(sim): Shared<Arc<Simulator>>| Json(json!(sim.files()))),
        )
        .route(
            "/exports",
            get(async |Shared(sim): Shared<Arc<Simulator>>| Json(json!(live_exports(&sim.appliance())))),
        )
        .route("/knobs", get(knobs).put(turn_knobs))
        .route("/faults", get(faults).put(add_faults).delete(clear_faults))
        .route("/sessions", get(sessions).post(connect))
        .route("/sessions/{id}", delete(disconnect))
        .route("/sessions/{id}/write", post(write))
        .route("/writes", get(writes))
        .route("/writers", get(writers))
        .route("/exec", post(exec))
        .route("/reboot", post(reboot))
        .with_state(sim)
}

async fn log(Shared(sim): Shared<Arc<Simulator>>) -> Response {
    Json(sim.log()).into_response()
}

async fn clear_log(Shared(sim): Shared<Arc<Simulator>>) -> StatusCode {
    sim.clear_log();
    StatusCode::NO_CONTENT
}

async fn knobs(Shared(sim): Shared<Arc<Simulator>>) -> Response {
    Json(sim.appliance().knobs().as_ref().clone()).into_response()
}

/// Takes any part of the knobs; the rest stays as it is.
async fn turn_knobs(Shared(sim): Shared<Arc<Simulator>>, Json(part): Json<Value>) -> Response {
    let merged = (|| -> Result<Knobs, serde_json::Error> {
        let mut all = serde_json::to_value(sim.appliance().knobs().as_ref())?;
        if let (Some(all), Some(part)) = (all.as_object_mut(), part.as_object()) {
            all.extend(part.clone());
        }
        serde_json::from_value(all)
    })();
    match merged {
        Ok(new) => {
            sim.knobs(|k| *k = new.clone());
            Json(new).into_response()
        }
        Err(error) => failed(StatusCode::BAD_REQUEST, error),
    }
}

async fn faults(Shared(sim): Shared<Arc<Simulator>>) -> Response {
    Json(sim.faults()).into_response()
}

/// Takes one fault or a list, and adds it to those in force.
async fn add_faults(Shared(sim): Shared<Arc<Simulator>>, body: Bytes) -> Response {
    let list = serde_json::from_slice::<Vec<Fault>>(&body).or_else(|error| {
        // The error of the form that was meant.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(error);
        }
        serde_json::from_slice::<Fault>(&body).map(|f| vec![f])
    });
    let list = match list {
        Ok(list) => list,
        Err(error) => return failed(StatusCode::BAD_REQUEST, error),
    };
    for fault in list {
        if let Err(error) = sim.appliance().add_fault(fault) {
            return failed(StatusCode::BAD_REQUEST, error);
        }
    }
    Json(sim.faults()).into_response()
}

async fn clear_faults(Shared(sim): Shared<Arc<Simulator>>) -> StatusCode {
    sim.clear_faults();
    StatusCode::NO_CONTENT
}

async fn sessions(Shared(sim): Shared<Arc<Simulator>>) -> Response {
    Json(sim.sessions()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    nqn: String,
    host: String,
}

/// 201 with a new session, 200 with the one that is there, 409 when refused.
async fn connect(Shared(sim): Shared<Arc<Simulator>>, Json(who): Json<Connect>) -> Response {
    match sim.appliance().connect(&who.nqn, &who.host) {
        Ok((id, new)) => {
            let status = if new { StatusCode::CREATED } else { StatusCode::OK };
            (status, Json(json!(sim.session(id)))).into_response()
        }
        Err(why) => {
            let body = json!({ "error": why.to_string(), "refused": why });
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
    }
}

async fn disconnect(Shared(sim): Shared<Arc<Simulator>>, Path(id): Path<SessionId>) -> Response {
    if sim.disconnect(id) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        failed(StatusCode::NOT_FOUND, Dead::NoSession)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    tag: String,
}

/// 204 when it arrived, 410 when the session is dead, 404 when there is none.
async fn write(Shared(sim): Shared<Arc<Simulator>>, Path(id): Path<SessionId>, Json(what): Json<Tag>) -> Response {
    match sim.write(id, &what.tag) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(why) => {
            let status = match why {
                Dead::NoSession => StatusCode::NOT_FOUND,
                Dead::Lost | Dead::Ended => StatusCode::GONE,
            };
            (status, Json(json!({ "error": why.to_string(), "dead": why }))).into_response()
        }
    }
}

#[derive(Deserialize)]
struct Image {
    path: String,
}

async fn writes(Shared(sim): Shared<Arc<Simulator>>, Query(image): Query<Image>) -> Response {
    Json(sim.writes(&image.path)).into_response()
}

async fn writers(Shared(sim): Shared<Arc<Simulator>>, Query(image): Query<Image>) -> Response {
    Json(sim.live_writers(&image.path)).into_response()
}

/// Runs the body as a line of `admin`.
async fn exec(Shared(sim): Shared<Arc<Simulator>>, line: String) -> Response {
    let outcome = exec_as_admin(sim.appliance(), line).await;
    Json(json!({ "output": outcome.output, "failed": outcome.failed })).into_response()
}

async fn reboot(Shared(sim): Shared<Arc<Simulator>>) -> StatusCode {
    sim.reboot().await;
    StatusCode::NO_CONTENT
}
