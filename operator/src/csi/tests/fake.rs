//! An API server that holds RdsVolumes, RdsAttachments and Nodes, enough for the CSI services: create, get, list, merge patch,
//! delete with preconditions, finalizers. It records each call, feeds the watch caches, and lets a "reconciler" act after each
//! write. All kinds share one name space: tests give their objects different names.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::identity_client::IdentityClient;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Method, Request, Response};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::csi::{Csi, SOCKET_MODE, Settings};
use crate::telemetry::Telemetry;
use crate::world::{Feed, Watched, World};

/// What acts on an object after each write of it: `None` removes it.
type Reconciler = Box<dyn Fn(Value) -> Option<Value> + Send>;

struct Feeds {
    volumes: Feed<RdsVolume>,
    attachments: Feed<RdsAttachment>,
    nodes: Feed<Node>,
    leases: Feed<Lease>,
}

fn typed<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap()
}

impl Feeds {
    fn fill(&mut self) {
        macro_rules! fill {
            ($($feed:ident)*) => {$(
                self.$feed.take(Event::Init);
                self.$feed.take(Event::InitDone);
            )*};
        }
        fill!(volumes attachments nodes leases);
    }

    fn apply(&mut self, object: &Value) {
        match object["kind"].as_str().unwrap() {
            "RdsVolume" => self.volumes.take(Event::Apply(typed(object))),
            "RdsAttachment" => self.attachments.take(Event::Apply(typed(object))),
            "Node" => self.nodes.take(Event::Apply(typed(object))),
            other => panic!("no cache of {other}"),
        }
    }

    fn delete(&mut self, object: &Value) {
        match object["kind"].as_str().unwrap() {
            "RdsVolume" => self.volumes.take(Event::Delete(typed(object))),
            "RdsAttachment" => self.attachments.take(Event::Delete(typed(object))),
            other => panic!("no {other} is deleted here"),
        }
    }
}

struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    feeds: Feeds,
    reconciler: Reconciler,
    writes: u64,
}

/// The API server, the services on a socket, and clients of them.
pub(in crate::csi) struct Bench {
    state: Arc<Mutex<State>>,
    pub(in crate::csi) controller: ControllerClient<Channel>,
    pub(in crate::csi) identity: IdentityClient<Channel>,
    pub(in crate::csi) world: World,
    pub(in crate::csi) telemetry: Telemetry,
    pub(in crate::csi) stop: CancellationToken,
    pub(in crate::csi) served: tokio::task::JoinHandle<()>,
    servers: Arc<Mutex<Feed<RdsServer>>>,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// With filled caches and one server `default`.
    pub(in crate::csi) async fn new(reconciler: impl Fn(Value) -> Option<Value> + Send + 'static) -> Self {
        let bench = Self::cold(reconciler).await;
        bench.fill();
        bench.server(json!({"available": "10Ti"}));
        bench
    }

    /// The same, and nodes `n1` and `n2`.
    pub(in crate::csi) async fn with_nodes(reconciler: impl Fn(Value) -> Option<Value> + Send + 'static) -> Self {
        let bench = Self::new(reconciler).await;
        for name in ["n1", "n2"] {
            bench.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}));
        }
        bench
    }

    /// With caches that were never filled.
    pub(in crate::csi) async fn cold(reconciler: impl Fn(Value) -> Option<Value> + Send + 'static) -> Self {
        let (volumes, volume_feed) = Watched::new("RdsVolume");
        let (attachments, attachment_feed) = Watched::new("RdsAttachment");
        let (nodes, node_feed) = Watched::new("Node");
        let (leases, lease_feed) = Watched::new("Lease");
        let (servers, server_feed) = Watched::new("RdsServer");
        let reconciler: Reconciler = Box::new(reconciler);
        let state = State {
            objects: BTreeMap::new(),
            calls: Vec::new(),
            feeds: Feeds {
                volumes: volume_feed,
                attachments: attachment_feed,
                nodes: node_feed,
                leases: lease_feed,
            },
            reconciler,
            writes: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = shared.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or(Value::Null);
                let (code, answer) = handle(&state, &parts.method, &parts.uri, body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        let world = World {
            client: Client::new(service, "default"),
            volumes,
            servers,
            attachments,
            nodes,
            leases,
            namespace: "rds-csi".to_owned(),
            closing: CancellationToken::new(),
        };

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let listener = csi_proto::server::socket::bind(&path, SOCKET_MODE).unwrap();
        let settings = Settings {
            driver_name: "rds.csi.srvlab.io".into(),
            call_timeout: Duration::from_secs(20),
        };
        let (telemetry, stop) = (Telemetry::new().unwrap(), CancellationToken::new());
        let services = Csi::new(world.clone(), settings, telemetry.clone());
        let served = services.serve(listener, stop.clone());
        let served = tokio::spawn(async move { served.await.unwrap() });
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://csi")
            .connect_with_connector(connector)
            .await
            .unwrap();
        Self {
            state,
            controller: ControllerClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
            world,
            telemetry,
            stop,
            served,
            servers: Arc::new(Mutex::new(server_feed)),
            _directory: directory,
        }
    }

    pub(in crate::csi) fn fill(&self) {
        self.state.lock().unwrap().feeds.fill();
        self.servers.lock().unwrap().take(Event::Init);
        self.servers.lock().unwrap().take(Event::InitDone);
    }

    /// Sets the status of server `default`.
    pub(in crate::csi) fn server(&self, status: Value) {
        self.server_with("default", json!({"status": status}));
    }

    /// A server with these parts of it set, as the watch brings it, also if it cannot be read.
    pub(in crate::csi) fn server_with(&self, name: &str, more: Value) {
        let mut server = json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name},
            "spec": {"management": {"address": "10.0.0.1", "user": "csi"}, "secretRef": {"name": "s"},
                     "storage": {"address": "10.1.0.1"}, "basePath": "/pool/csi"},
        });
        merge(&mut server, &more);
        self.servers
            .lock()
            .unwrap()
            .take(Event::Apply(serde_json::from_value(server).unwrap()));
    }

    /// Puts an object there, as if somebody else had written it.
    pub(in crate::csi) fn put(&self, object: Value) {
        let mut state = self.state.lock().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        state.feeds.apply(&object);
        state.objects.insert(name, object);
    }

    /// Puts an object there that the caches have not seen yet.
    pub(in crate::csi) fn put_unseen(&self, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.state.lock().unwrap().objects.insert(name, object);
    }

    /// Takes an object away, as the last finalizer's end does.
    pub(in crate::csi) fn take(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        let object = state.objects.remove(name).unwrap();
        state.feeds.delete(&object);
    }

    pub(in crate::csi) fn object(&self, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(name).cloned()
    }

    pub(in crate::csi) fn objects(&self) -> usize {
        self.state.lock().unwrap().objects.len()
    }

    /// Calls since the last time, as `VERB name`.
    pub(in crate::csi) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub(in crate::csi) fn reconciler(&self, reconciler: impl Fn(Value) -> Option<Value> + Send + 'static) {
        self.state.lock().unwrap().reconciler = Box::new(reconciler);
    }
}

fn failed(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("{reason} (from the fake)");
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

fn handle(state: &Arc<Mutex<State>>, method: &Method, uri: &Uri, body: Value) -> (u16, Value) {
    let mut guard = state.lock().unwrap();
    let this = &mut *guard;
    let last = uri.path().rsplit('/').next().unwrap().to_owned();
    let name = if *method == Method::POST {
        body["metadata"]["name"].as_str().unwrap().to_owned()
    } else {
        last
    };
    this.calls.push(format!("{method} {name}"));
    if name == "rdsattachments" {
        let of_kind = this.objects.values().filter(|object| object["kind"] == "RdsAttachment");
        let items: Vec<_> = of_kind.cloned().collect();
        return (
            200,
            json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachmentList",
                            "metadata": {}, "items": items}),
        );
    }
    if *method != Method::GET && *method != Method::DELETE {
        assert!(
            uri.query()
                .unwrap_or_default()
                .contains("fieldManager=rds-csi-controller"),
            "{uri}"
        );
    }
    let found = this.objects.get(&name).cloned();
    let mut written = match (method, found) {
        (&Method::GET, Some(object)) => return (200, object),
        (&Method::POST, Some(_)) => return failed(409, "AlreadyExists"),
        (&Method::POST, None) => {
            let mut object = body;
            object["metadata"]["uid"] = json!(format!("uid-{}", this.writes));
            object["metadata"]["generation"] = json!(1);
            object
        }
        (_, None) => return failed(404, "NotFound"),
        (&Method::PATCH, Some(old)) => {
            let meta = &body["metadata"];
            for key in ["uid", "resourceVersion"] {
                if !meta[key].is_null() && meta[key] != old["metadata"][key] {
                    return failed(409, "Conflict");
                }
            }
            let mut object = old.clone();
            merge(&mut object, &body);
            if object["spec"] != old["spec"] {
                object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap() + 1);
            }
            object
        }
        (&Method::DELETE, Some(old)) => {
            let wanted = &body["preconditions"]["uid"];
            assert!(wanted.is_string(), "a deletion without a uid: {body}");
            if *wanted != old["metadata"]["uid"] {
                return failed(409, "Conflict");
            }
            let mut object = old;
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object
        }
        (other, Some(_)) => panic!("unexpected {other}"),
    };
    this.writes += 1;
    written["metadata"]["resourceVersion"] = json!(this.writes.to_string());
    this.objects.insert(name.clone(), written.clone());
    // Later, as a reconciler would: the answer is on its way first.
    let later = state.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut guard = later.lock().unwrap();
        let this = &mut *guard;
        let Some(object) = this.objects.remove(&name) else {
            return;
        };
        this.feeds.apply(&object);
        match (this.reconciler)(object.clone()) {
            None => this.feeds.delete(&object),
            Some(mut object) => {
                this.writes += 1;
                object["metadata"]["resourceVersion"] = json!(this.writes.to_string());
                this.feeds.apply(&object);
                this.objects.insert(name, object);
            }
        }
    });
    (if *method == Method::POST { 201 } else { 200 }, written)
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}
