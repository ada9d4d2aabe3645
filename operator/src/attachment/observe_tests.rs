//! What is read live before anybody counts as lost or as rebooted: here the caches lag behind, and the API server knows better.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use rds_crds::identity::attachment_name;
use rds_crds::{RdsServer, RdsVolume};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Request, Response};

use super::model::{HolderView, Standing, VolumeView, Word};
use super::observe::{Clock, Outside, Patience, seen};
use crate::world::{Watched, World};

const NODE: &str = "/api/v1/nodes/n1";
const WISHES: &str = "/apis/storage.k8s.io/v1/volumeattachments";

fn typed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn record_path() -> String {
    format!(
        "/apis/rds.csi.srvlab.io/v1alpha1/rdsattachments/{}",
        attachment_name("pvc-1", "n1")
    )
}

fn record(going: bool) -> Value {
    let mut object = json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
        "metadata": {"name": attachment_name("pvc-1", "n1"), "uid": "u1"},
        "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
        "status": {"agent": {"intent": {"bootID": "b1", "systemUUID": "s", "machineID": "m", "nodeUID": "n1", "generation": 1}}},
    });
    if going {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    object
}

fn node(boot: &str, taints: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "n1"}, "spec": {"taints": taints},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"bootID": boot, "systemUUID": "s", "machineID": "m", "architecture": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "operatingSystem": "", "osImage": ""},
        },
    })
}

fn off() -> Value {
    json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}])
}

fn wishes(deleting: bool) -> Value {
    let mut wish = json!({"metadata": {"name": "w"}, "spec": {
        "attacher": "rds.csi.srvlab.io", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-1"}}});
    if deleting {
        wish["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachmentList", "metadata": {}, "items": [wish]})
}

/// The holder n1, as a decision sees it: by these caches, and by an API server with these answers. Null is one that fails.
async fn holder(cached: Option<Value>, cached_node: Value, live: &[(&str, Value)]) -> Result<HolderView, kube::Error> {
    let held = json!({"exportGeneration": 1, "holders": [
        {"node": "n1", "attachmentUID": "u1", "role": "Primary", "since": "2026-01-01T00:00:00Z"}]});
    let volume = volume(held, cached, cached_node, live).await?;
    Ok(volume.holders.into_iter().next().unwrap())
}

/// The volume with that status, as a decision sees it.
async fn volume(
    status: Value,
    cached: Option<Value>,
    cached_node: Value,
    live: &[(&str, Value)],
) -> Result<VolumeView, kube::Error> {
    let live: BTreeMap<String, Value> = live.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let live = Arc::new(live);
    let service = tower::service_fn(move |request: Request<Body>| {
        let live = live.clone();
        async move {
            let path = request.uri().path();
            let failed = |code: u16, reason: &str| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": reason, "code": code});
                (code, status)
            };
            let (code, answer) = match live.get(path) {
                Some(Value::Null) => failed(500, "InternalError"),
                Some(found) => (200, found.clone()),
                None if path.ends_with("persistentvolumes") || path == WISHES => (
                    200,
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []}),
                ),
                None => failed(404, "NotFound"),
            };
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
        }
    });
    let (volumes, _volumes) = Watched::new("RdsVolume");
    let (attachments, mut attachment_feed) = Watched::new("RdsAttachment");
    let (nodes, mut node_feed) = Watched::new("Node");
    let (leases, mut lease_feed) = Watched::new("Lease");
    let (servers, _servers) = Watched::new("RdsServer");
    if let Some(object) = cached {
        attachment_feed.take(Event::Apply(typed(object)));
    }
    node_feed.take(Event::Apply(typed(cached_node)));
    lease_feed.take(Event::Apply(typed(json!({
        "metadata": {"name": "rds-node-n1", "namespace": "rds-csi"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"},
    }))));
    let world = World {
        client: Client::new(service, "default"),
        volumes,
        servers,
        attachments,
        nodes,
        leases,
        closing: CancellationToken::new(),
    };
    let volume: RdsVolume = typed(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1", "uid": "v"},
        "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "status": status,
    }));
    let server: RdsServer = typed(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
        "spec": {"management": {"address": "a", "user": "u"}, "secretRef": {"name": "s"}, "storage": {"address": "a"},
                 "basePath": "/p"},
    }));
    let (clock, minute) = (Clock::default(), Duration::from_secs(60));
    let outside = Outside {
        world: &world,
        clock: &clock,
        patience: Patience {
            grace: minute,
            lease: minute,
        },
        driver: "rds.csi.srvlab.io",
    };
    let seen = seen(&volume, &server, true, &outside, Timestamp::now()).await?;
    Ok(seen.volume)
}

/// Whoever connects while the export is toggled may be cut by it; a toggle of an older generation cannot run any more.
#[tokio::test]
async fn d4_nobody_is_admitted_while_a_toggle_may_run() {
    let ready = async |toggling: Value, said: &str| {
        let conditions = json!([{"type": "Ready", "status": said, "reason": "Available", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = json!({"exportGeneration": 2, "toggling": toggling, "conditions": conditions});
        volume(status, None, node("b1", json!([])), &[]).await.unwrap().ready
    };
    assert!(ready(Value::Null, "True").await);
    assert!(!ready(json!(2), "True").await);
    assert!(ready(json!(1), "True").await);
    assert!(!ready(Value::Null, "False").await);
}

#[tokio::test]
async fn i8_who_is_wanted_by_a_volume_attachment_is_never_lost() {
    let seen = async |live: &[(&str, Value)]| holder(Some(record(true)), node("b1", off()), live).await;
    assert_eq!(seen(&[]).await.unwrap().standing, Standing::Lost);
    assert_eq!(seen(&[(WISHES, wishes(true))]).await.unwrap().standing, Standing::Lost);
    assert_eq!(
        seen(&[(WISHES, wishes(false))]).await.unwrap().standing,
        Standing::Doubtful
    );
    // No answer is no empty list (R59).
    assert!(seen(&[(WISHES, Value::Null)]).await.is_err());
}

#[tokio::test]
async fn i8_an_attachment_that_the_cache_has_not_seen_is_not_gone() {
    let path = record_path();
    let seen = async |live: &[(&str, Value)]| holder(None, node("b1", json!([])), live).await;
    let there = seen(&[(&path, record(false))]).await.unwrap();
    assert_eq!((there.standing, there.word), (Standing::Alive, Word::Intent));
    let mut another = record(false);
    another["metadata"]["uid"] = json!("u2");
    for live in [vec![], vec![(path.as_str(), another)]] {
        assert_eq!(seen(&live).await.unwrap().standing, Standing::Lost, "{live:?}");
    }
    assert!(seen(&[(&path, Value::Null)]).await.is_err());
}

/// The intent names boot b1; the cache may still show the boot before that.
#[tokio::test]
async fn i4_a_reboot_is_read_from_a_fresh_node_only() {
    let seen = async |shown: &str, live: Value| {
        let live = [(NODE, live)];
        holder(Some(record(true)), node(shown, json!([])), &live).await
    };
    let word = async |shown: &str, live: &str| seen(shown, node(live, json!([]))).await.unwrap().word;
    assert_eq!(
        word("b0", "b1").await,
        Word::Intent,
        "the cache is older than the intent"
    );
    assert_eq!(word("b0", "b2").await, Word::Rebooted);
    assert_eq!(word("b1", "b2").await, Word::Intent, "nothing is concluded yet");
    assert!(seen("b0", Value::Null).await.is_err());
    let gone = holder(Some(record(true)), node("b0", json!([])), &[]).await.unwrap();
    assert_eq!(gone.word, Word::Intent, "a Node that has just gone proves no reboot");
}
