//! What a pass over a server does while the API server does not answer well.

use http::{Request, Response, StatusCode};
use kube::client::Body;
use secrecy::SecretString;
use tower::service_fn;

use crate::attachment::AttachmentMetrics;
use crate::clients::Clients;
use crate::health::Health;
use crate::routeros::{Limits, Target};
use crate::telemetry::Telemetry;

use super::*;

/// An API server that answers everything with an error, to what touches a ready server.
fn context(code: u16) -> Context {
    let service = service_fn(move |_: Request<Body>| async move {
        let reason = if code == 404 { "NotFound" } else { "InternalError" };
        let status = json!({"kind": "Status", "status": "Failure", "message": "m", "reason": reason, "code": code});
        let mut response = Response::new(Body::from(status.to_string().into_bytes()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        Ok::<_, kube::Error>(response)
    });
    let client = Client::new(service, "rds-csi");
    let clients = Clients {
        main: client.clone(),
        watches: client.clone(),
        lease: client.clone(),
    };
    let telemetry = Telemetry::new().unwrap();
    let stop = CancellationToken::new();
    let (world, _) = World::new(&clients, "rds-csi", &Health::default(), &telemetry, &stop);
    let (announcer, _) = Announcer::new(client, "me", AttachmentMetrics::new(&telemetry).unwrap());
    Context {
        world,
        fleet: Arc::new(Fleet::default()),
        cluster: "0123456789ab".parse().unwrap(),
        announcer,
        namespace: "rds-csi".to_owned(),
        inventory_interval: Duration::from_secs(60),
        metrics: None,
        triggers: tokio::sync::mpsc::unbounded_channel().0,
        memory: Mutex::default(),
    }
}

fn ready_server() -> RdsServer {
    serde_json::from_value(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer",
        "metadata": {"name": "default", "uid": "s", "finalizers": [FINALIZER]},
        "spec": {
            "management": {"address": "192.0.2.1", "user": "csi"}, "secretRef": {"name": "k"},
            "storage": {"address": "192.0.2.2"}, "basePath": "/pool/csi",
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Available", "message": "",
                                   "lastTransitionTime": "2026-11-01T00:00:00Z"}]},
    }))
    .unwrap()
}

fn usable(cx: &Context) -> Arc<Handle> {
    let target = Target {
        name: "default".to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 22,
        user: "csi".to_owned(),
        private_key: SecretString::from(String::new()),
        host_keys: Vec::new(),
        base_path: "/pool/csi".parse().unwrap(),
        limits: Limits::default(),
    };
    let handle = cx.fleet.ensure("default", [0; 32], || RouterOs::connect(&target, None));
    handle.conclude(Fitness::Usable);
    handle
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_for_a_moment_changes_nothing() {
    let cx = Arc::new(context(503));
    let handle = usable(&cx);
    for _ in 0..BEARABLE {
        // Nothing is written either, or this were the error of that.
        assert!(reconcile(Arc::new(ready_server()), cx.clone()).await.is_ok());
    }
    assert_eq!(handle.fitness(), Fitness::Usable);
    assert!(
        reconcile(Arc::new(ready_server()), cx.clone()).await.is_err(),
        "what lasts is told"
    );
    assert_eq!(handle.fitness(), Fitness::Usable, "and was never found wrong");

    let cx = context(404);
    let handle = usable(&cx);
    assert!(look(&ready_server(), "default", &cx).await.is_err());
    assert!(matches!(handle.fitness(), Fitness::Unusable(Reason::SecretInvalid, _)));
}
