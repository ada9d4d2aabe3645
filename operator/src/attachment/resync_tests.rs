//! The resync of all attachments against an API server with these answers, and what a new leader admits meanwhile.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use rds_crds::identity::attachment_name;
use rds_crds::names::FINALIZER;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Request, Response};

use super::metrics::AttachmentMetrics;
use super::observations::Observations;
use super::observe::{Outside, Patience};
use super::reconcile::{Place, reconcile};
use super::resync::Resync;
use super::unwanted::Unwanted;
use crate::attachment::SharedHostNqns;
use crate::events::Announcer;
use crate::routeros::Target;
use crate::telemetry::Telemetry;
use crate::world::{Watched, World};

const WISHES: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const VOLUMES: &str = "/api/v1/persistentvolumes";
pub(super) const OURS: &str = "/apis/rds.csi.srvlab.io/v1alpha1";
pub(super) const DRIVER: &str = "rds.csi.srvlab.io";

pub(super) fn typed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// What the API server answers; null is an error.
type Answers = BTreeMap<String, Value>;

/// The same, and what was asked.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<(Answers, Vec<String>)>>);

impl Server {
    pub(super) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().0.insert(path.to_owned(), object);
    }

    fn list(&self, path: &str, items: &[Value]) {
        self.put(
            path,
            json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
        );
    }

    /// What was asked since this was last called.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }

    /// The same, without what only reads.
    fn written(&self) -> Vec<String> {
        self.asked().into_iter().filter(|a| !a.starts_with("GET ")).collect()
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
                let sent = request.into_body().collect_bytes().await.unwrap();
                let mut state = server.0.lock().unwrap();
                state.1.push(format!("{method} {path}"));
                let failed = |code: u16, reason: &str| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": reason, "code": code});
                let (code, answer) = match (method.as_str(), state.0.get(&path)) {
                    ("GET", Some(Value::Null)) => (500, failed(500, "InternalError")),
                    ("GET", Some(found)) => (200, found.clone()),
                    ("GET", None) => (404, failed(404, "NotFound")),
                    ("PUT", Some(Value::Null)) => (409, failed(409, "Conflict")),
                    ("PATCH", _) => (200, state.0[path.trim_end_matches("/status")].clone()),
                    _ => (200, serde_json::from_slice(&sent).unwrap()),
                };
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        Client::new(service, "default")
    }
}

pub(super) struct Bed {
    pub(super) server: Server,
    pub(super) resync: Resync,
    volumes: crate::world::Feed<rds_crds::RdsVolume>,
    attachments: crate::world::Feed<rds_crds::RdsAttachment>,
}

pub(super) fn bed() -> Bed {
    let server = Server::default();
    server.list(WISHES, &[]);
    server.list(VOLUMES, &[]);
    let (volumes, volume_feed) = Watched::new("RdsVolume");
    let (attachments, attachment_feed) = Watched::new("RdsAttachment");
    let (nodes, _) = Watched::new("Node");
    let (leases, _) = Watched::new("Lease");
    let (servers, _) = Watched::new("RdsServer");
    let world = World {
        client: server.client(),
        volumes,
        servers,
        attachments,
        nodes,
        leases,
        namespace: "rds-csi".to_owned(),
        closing: CancellationToken::new(),
    };
    let telemetry = Telemetry::new().unwrap();
    let metrics = AttachmentMetrics::new(&telemetry).unwrap();
    let resync = Resync {
        announcer: Announcer::new(world.client.clone(), "test", metrics.clone()).0,
        shared_host_nqns: SharedHostNqns::default(),
        world,
        driver: DRIVER.to_owned(),
        fleet: Arc::default(),
        triggers: mpsc::unbounded_channel().0,
        metrics,
        telemetry,
        every: Duration::from_secs(300),
        unwanted: Unwanted::default(),
    };
    Bed {
        server,
        resync,
        volumes: volume_feed,
        attachments: attachment_feed,
    }
}

/// An appliance of which nothing is ever asked.
pub(super) fn nowhere() -> crate::routeros::Client {
    let target = Target {
        name: "s".into(),
        address: "a".into(),
        port: 22,
        user: "u".into(),
        private_key: "".to_owned().into(),
        host_keys: vec![],
        base_path: "/p/q".parse().unwrap(),
        limits: Default::default(),
    };
    crate::routeros::Client::connect(&target, None)
}

fn va(volume: &str, node: &str) -> Value {
    json!({"metadata": {"name": format!("{volume}-{node}"), "uid": "w", "creationTimestamp": "2026-01-01T12:00:00Z"},
        "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}},
        "status": {"attached": true}})
}

fn bound(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "csi": {"driver": DRIVER, "volumeHandle": name, "fsType": "ext4"}}})
}

fn volume(name: &str, mut status: Value) -> Value {
    status["exportGeneration"] = json!(1);
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
        "metadata": {"name": name, "uid": name, "resourceVersion": "7"},
        "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}, "status": status})
}

fn held_by(node: &str) -> Value {
    json!({"holders": [{"node": node, "attachmentUID": "u", "role": "Primary", "since": "2026-01-01T00:00:00Z"}]})
}

fn cut(node: &str, at: &str) -> Value {
    json!({"fenced": [{"node": node, "generation": 1, "at": at}]})
}

fn record(volume: &str, node: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
        "metadata": {"name": attachment_name(volume, node), "uid": "u", "resourceVersion": "3", "finalizers": [FINALIZER]},
        "spec": {"volume": volume, "node": node, "accessMode": "ReadWriteOnce"}})
}

impl Bed {
    /// These are attached for Kubernetes, to node n1.
    fn attached(&self, names: &[&str]) {
        let wishes: Vec<Value> = names.iter().map(|name| va(name, "n1")).collect();
        let bound: Vec<Value> = names.iter().map(|name| bound(name)).collect();
        self.server.list(WISHES, &wishes);
        self.server.list(VOLUMES, &bound);
        for va in wishes {
            let name = va["metadata"]["name"].as_str().unwrap().to_owned();
            self.server.put(&format!("{WISHES}/{name}"), va);
        }
    }

    fn is_open(&self, volume: &str) -> bool {
        self.resync.fleet.gate.is_open(volume)
    }
}

fn path_of(volume: &str) -> String {
    format!("{OURS}/rdsvolumes/{volume}")
}

fn status_of(volume: &str) -> String {
    format!("PUT {}/status", path_of(volume))
}

fn made() -> String {
    format!("POST {OURS}/rdsattachments")
}

#[tokio::test]
async fn a_healthy_cluster_waits_for_one_list_and_nothing_else() {
    let mut bed = bed();
    bed.attached(&["a"]);
    bed.volumes.take(Event::Apply(typed(volume("a", held_by("n1")))));
    bed.attachments.take(Event::Apply(typed(record("a", "n1"))));
    assert!(!bed.is_open("a"), "nothing was looked at yet");
    assert_eq!(bed.resync.rebuild().await.unwrap(), (0, 0));
    assert!(bed.is_open("a") && bed.is_open("made-later") && bed.resync.fleet.gate.is_wide_open());
    let mut asked = bed.server.asked();
    asked.sort();
    assert_eq!(asked, [format!("GET {VOLUMES}"), format!("GET {WISHES}")]);
}

/// Somebody has taken the finalizer of its VolumeAttachment off: csi-attacher never asks for the detach.
#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_detached_in_the_end() {
    let mut bed = bed();
    let mut object = record("a", "n1");
    object["metadata"]["labels"] = json!({"rds.csi.srvlab.io/made-by": "csi"});
    bed.volumes.take(Event::Apply(typed(volume("a", held_by("n1")))));
    bed.attachments.take(Event::Apply(typed(object)));
    bed.resync.rebuild().await.unwrap();
    assert_eq!(bed.server.written(), [""; 0]);
    tokio::time::advance(Duration::from_secs(601)).await;
    bed.server.put(WISHES, Value::Null);
    bed.resync.rebuild().await.unwrap_err();
    assert_eq!(bed.server.written(), [""; 0], "no list, no word");
    bed.server.list(WISHES, &[]);
    bed.resync.rebuild().await.unwrap();
    let path = format!("{OURS}/rdsattachments/{}", attachment_name("a", "n1"));
    assert_eq!(bed.server.written(), [format!("DELETE {path}")]);
}

#[tokio::test]
async fn r59_no_list_opens_nothing() {
    let bed = bed();
    bed.server.put(WISHES, Value::Null);
    assert!(bed.resync.rebuild().await.is_err());
    assert!(!bed.is_open("a"));
}

#[tokio::test]
async fn i4_only_what_nothing_explains_is_a_hole_in_the_record() {
    for (what, status, hole) in [
        ("an empty record", json!({}), true),
        ("it holds", held_by("n1"), false),
        ("another one holds", held_by("n2"), true),
        ("cut since", cut("n1", "2026-01-01T12:00:01Z"), false),
        ("cut before it was attached", cut("n1", "2026-01-01T11:59:59Z"), true),
        ("another one was cut", cut("n2", "2026-01-01T12:00:01Z"), true),
        (
            "known already",
            json!({"holdersUnknownSince": "2026-01-01T00:00:00Z"}),
            false,
        ),
    ] {
        let bed = bed();
        bed.attached(&["a"]);
        bed.server.put(&path_of("a"), volume("a", status));
        assert_eq!(bed.resync.rebuild().await.unwrap(), (1, 0), "{what}");
        let written = bed.server.written();
        assert_eq!(written.contains(&status_of("a")), hole, "{what}: {written:?}");
        assert_eq!(written.last(), Some(&made()), "{what}: its object comes last");
        assert!(bed.is_open("a"), "{what}");
    }
}

#[tokio::test]
async fn i4_whom_this_leader_has_let_go_is_no_hole() {
    // Its agent said so, its machine was rebooted, or a person vouched: Kubernetes need not know.
    let bed = bed();
    bed.attached(&["a"]);
    bed.server.put(&path_of("a"), volume("a", json!({})));
    let (before, after) = (["n1".to_owned()], []);
    bed.resync.fleet.gate.passed("a", &before, &after);
    assert_eq!(bed.resync.rebuild().await.unwrap(), (1, 0));
    assert_eq!(bed.server.written(), [made()]);
}

#[tokio::test]
async fn i4_a_detach_that_ends_meanwhile_is_no_hole() {
    let path = format!("{WISHES}/a-n1");
    for (what, now) in [
        ("going", json!({"deletionTimestamp": "2026-01-01T12:01:00Z"})),
        ("another one", json!({"uid": "w2"})),
    ] {
        let bed = bed();
        bed.attached(&["a"]);
        bed.server.put(&path_of("a"), volume("a", json!({})));
        let mut late = va("a", "n1");
        for (key, value) in now.as_object().unwrap() {
            late["metadata"][key] = value.clone();
        }
        bed.server.put(&path, late);
        assert_eq!(bed.resync.rebuild().await.unwrap(), (0, 0), "{what}");
        assert!(bed.server.written().is_empty() && bed.is_open("a"), "{what}");
    }
    let bed = bed();
    bed.attached(&["a"]);
    bed.server.put(&path_of("a"), volume("a", json!({})));
    bed.server.0.lock().unwrap().0.remove(&path);
    assert_eq!(bed.resync.rebuild().await.unwrap(), (0, 0), "gone");
    assert!(bed.server.written().is_empty());
}

#[tokio::test]
async fn i4_a_volume_that_cannot_be_judged_stays_closed_and_holds_up_nobody() {
    let mut bed = bed();
    let all = ["no-answer", "no-wish", "no-volume", "well", "rebuilt"];
    bed.attached(&all);
    bed.server.put(&path_of("no-answer"), Value::Null);
    bed.server.put(&path_of("no-wish"), volume("no-wish", json!({})));
    bed.server.put(&format!("{WISHES}/no-wish-n1"), Value::Null);
    bed.server.put(&path_of("rebuilt"), volume("rebuilt", json!({})));
    bed.volumes.take(Event::Apply(typed(volume("well", held_by("n1")))));
    bed.attachments.take(Event::Apply(typed(record("well", "n1"))));
    assert_eq!(bed.resync.rebuild().await.unwrap(), (1, 3));
    let open: Vec<&str> = all.into_iter().filter(|v| bed.is_open(v)).collect();
    assert_eq!(open, ["well", "rebuilt"]);
    assert!(bed.is_open("of nobody"));
    bed.server.asked();

    // Each of them opens once it can be judged.
    bed.server
        .put(&path_of("no-answer"), volume("no-answer", held_by("n1")));
    bed.server.put(&format!("{WISHES}/no-wish-n1"), va("no-wish", "n1"));
    bed.server.put(&path_of("no-volume"), volume("no-volume", json!({})));
    bed.attachments.take(Event::Apply(typed(record("rebuilt", "n1"))));
    assert_eq!(bed.resync.rebuild().await.unwrap(), (3, 0));
    assert!(bed.resync.fleet.gate.is_wide_open());
    let written = bed.server.written();
    assert!(!written.contains(&status_of("no-answer")), "{written:?}");
    assert!(written.contains(&status_of("no-wish")) && written.contains(&status_of("no-volume")));
}

#[tokio::test]
async fn i4_a_persistentvolume_that_was_removed_by_force_hides_no_hole() {
    let bed = bed();
    bed.attached(&["a"]);
    bed.server.list(VOLUMES, &[]);
    bed.server.put(&path_of("a"), volume("a", json!({})));
    assert_eq!(
        bed.resync.rebuild().await.unwrap(),
        (0, 1),
        "nothing says what to make again"
    );
    assert_eq!(bed.server.written(), [status_of("a")]);
    assert!(bed.is_open("a"), "it is judged all the same");
}

#[tokio::test]
async fn i4_an_object_that_csi_attacher_made_again_hides_no_hole_from_a_new_leader() {
    let mut bed = bed();
    bed.attached(&["a"]);
    bed.server.put(&path_of("a"), volume("a", json!({})));
    let path = format!("{OURS}/rdsattachments/{}", attachment_name("a", "n1"));
    bed.server.put(&path, record("a", "n1"));
    bed.attachments.take(Event::Apply(typed(record("a", "n1"))));
    assert_eq!(bed.resync.rebuild().await.unwrap(), (0, 0));
    assert_eq!(bed.server.written(), [status_of("a")]);
    // Once the gate is open, what is there is there.
    assert_eq!(bed.resync.rebuild().await.unwrap(), (0, 0));
    assert!(bed.server.written().is_empty());
}

#[tokio::test]
async fn a_new_leader_makes_a_publish_wait_and_does_not_refuse_it() {
    let mut bed = bed();
    let free = volume(
        "a",
        json!({"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
    );
    bed.attachments.take(Event::Apply(typed(record("a", "n1"))));
    let path = format!("{OURS}/rdsattachments/{}", attachment_name("a", "n1"));
    bed.server.put(&path, record("a", "n1"));
    let world = &bed.resync.world;
    let server = typed(
        json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
        "spec": {"management": {"address": "a", "user": "u"}, "secretRef": {"name": "s"}, "storage": {"address": "a"},
                 "basePath": "/p"}}),
    );
    let observations = Observations::default();
    let minute = Duration::from_secs(60);
    let outside = Outside {
        world,
        observations: &observations,
        patience: Patience {
            grace: minute,
            lease: minute,
        },
        driver: DRIVER,
    };
    let client = nowhere();
    let place = Place {
        server: &server,
        client: Some(&client),
        guard: None,
        port: 4420,
        base: "nqn".to_owned(),
        gate: &bed.resync.fleet.gate,
    };
    let (announcer, _poster) = Announcer::new(world.client.clone(), "test", bed.resync.metrics.clone());
    let pass = async || reconcile(&mut typed(free.clone()), &place, &outside, &announcer).await;
    let again = pass().await.unwrap();
    assert!(again.is_some(), "it is looked at again");
    assert!(bed.server.written().is_empty(), "it was answered while nobody can know");
    bed.resync.rebuild().await.unwrap();
    pass().await.unwrap();
    let written = bed.server.written();
    assert_eq!(written.first(), Some(&status_of("a")), "{written:?}");
}
