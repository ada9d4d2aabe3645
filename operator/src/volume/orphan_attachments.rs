//! Attachments of volumes that do not exist hold nothing: their deletion goes through once a live read has said so.
//!
//! They are looked at when they change, and again and again: of a volume that goes after its attachment was deleted nothing changes any
//! more in the attachment, and a live read may fail.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::{Api, ResourceExt};
use rds_crds::{RdsAttachment, RdsVolume};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::telemetry::chain;
use crate::world::World;

const AGAIN: Duration = Duration::from_secs(300);

/// Lets them go until `stop`.
pub(super) async fn run(world: World, stop: CancellationToken) {
    let mut changes = std::pin::pin!(world.attachments.changes());
    let mut again = interval_at(Instant::now() + AGAIN, AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due: Vec<Arc<RdsAttachment>> = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(attachment) => vec![attachment],
                None => return,
            },
            _ = again.tick() => world.attachments.iter().filter(|a| is_lonely(&world, a)).map(Arc::new).collect(),
        };
        for attachment in due.iter().filter(|a| is_lonely(&world, a)) {
            if stop.run_until_cancelled(let_go(&world, attachment)).await.is_none() {
                return;
            }
        }
    }
}

fn is_lonely(world: &World, attachment: &RdsAttachment) -> bool {
    attachment.metadata.deletion_timestamp.is_some() && !world.volumes.has(&attachment.spec.volume)
}

async fn let_go(world: &World, attachment: &RdsAttachment) {
    let (name, volumes) = (attachment.name_any(), Api::<RdsVolume>::all(world.client.clone()));
    match volumes.get_opt(&attachment.spec.volume).await {
        Ok(None) => {
            let store = crate::attachment::Store::new(&world.client);
            if let Err(error) = store.release_object(attachment).await {
                warn!(attachment = name, error = chain(&error), "cannot let it go");
            }
        }
        Ok(Some(_)) => {}
        Err(error) => warn!(attachment = name, error = chain(&error), "cannot read its volume"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use kube::Client;
    use kube::client::Body;
    use kube::runtime::watcher::Event;
    use rds_crds::names::FINALIZER;
    use serde_json::json;
    use tonic::codegen::http::{Method, Request, Response};

    use super::*;
    use crate::world::Watched;

    /// Asked for the volume, the API server fails once and then knows of none.
    #[tokio::test(start_paused = true)]
    async fn a_look_that_failed_is_repeated_without_a_change() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut log = log.lock().unwrap();
            log.push(request.method().clone());
            let code: u16 = match (request.method() == Method::GET, log.len()) {
                (true, 1) => 500,
                (true, _) => 404,
                (false, _) => 200,
            };
            let answer = match code {
                200 => lonely(),
                404 => failed(404, "NotFound"),
                _ => failed(code, "InternalError"),
            };
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            async move { Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap()) }
        });
        let (volumes, _volumes) = Watched::new("RdsVolume");
        let (attachments, mut feed) = Watched::new("RdsAttachment");
        let (nodes, _nodes) = Watched::new("Node");
        let (leases, _leases) = Watched::new("Lease");
        let (servers, _servers) = Watched::new("RdsServer");
        feed.take(Event::Apply(serde_json::from_value(lonely()).unwrap()));
        let world = World {
            client: Client::new(service, "default"),
            namespace: "rds-csi".into(),
            volumes,
            servers,
            attachments,
            nodes,
            leases,
            closing: CancellationToken::new(),
        };
        let stop = CancellationToken::new();
        let work = tokio::spawn(run(world, stop.clone()));
        tokio::time::sleep(AGAIN * 3 / 2).await;
        stop.cancel();
        work.await.unwrap();
        assert_eq!(*asked.lock().unwrap(), [Method::GET, Method::GET, Method::PATCH]);
    }

    fn failed(code: u16, reason: &str) -> serde_json::Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": reason, "code": code})
    }

    fn lonely() -> serde_json::Value {
        json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "finalizers": [FINALIZER],
                "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
        })
    }
}
