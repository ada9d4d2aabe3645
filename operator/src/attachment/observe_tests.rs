//! What is read live before anybody counts as lost or as rebooted: here the caches lag behind, and the API server knows better.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
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

use super::decide::Seen;
use super::model::{HolderState, HolderView, VolumeView, Word};
use super::node_off_claim::NodeOffClaim;
use super::observations::Observations;
use super::observe::{Outside, Patience, seen};
use crate::world::{Watched, World};

const NODE: &str = "/api/v1/nodes/n1";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/rds-csi/leases/rds-node-n1";
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
    let mut va = json!({"metadata": {"name": "w"}, "spec": {
        "attacher": "rds.csi.srvlab.io", "nodeName": "n1", "source": {"persistentVolumeName": "pvc-1"}}});
    if deleting {
        va["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachmentList", "metadata": {}, "items": [va]})
}

fn lease(renewed: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "rds-node-n1", "namespace": "rds-csi"},
           "spec": {"renewTime": format!("2026-01-01T{renewed}:00.000000Z")}})
}

/// The holder n1, as a decision sees it: by these caches, and by an API server with these answers. Null is one that fails.
async fn holder(cached: Option<Value>, cached_node: Value, live: &[(&str, Value)]) -> Result<HolderView, kube::Error> {
    let volume = volume(held(), cached, cached_node, live).await?;
    Ok(volume.holders.into_iter().next().unwrap())
}

fn held() -> Value {
    json!({"exportGeneration": 1, "holders": [
        {"node": "n1", "attachmentUID": "u1", "role": "Primary", "since": "2026-01-01T00:00:00Z"}]})
}

/// The volume with that status, as a decision sees it.
async fn volume(
    status: Value,
    cached: Option<Value>,
    cached_node: Value,
    live: &[(&str, Value)],
) -> Result<VolumeView, kube::Error> {
    let caches = Caches {
        attachment: cached,
        node: Some(cached_node),
        lease: Some(lease("00:00")),
    };
    let seen = look(&Observations::default(), status, None, caches, live, &Asked::default()).await;
    Ok(seen?.volume)
}

#[derive(Clone)]
struct Caches {
    attachment: Option<Value>,
    node: Option<Value>,
    lease: Option<Value>,
}

/// The paths that were read.
type Asked = Arc<Mutex<Vec<String>>>;

/// What a decision sees of the volume with that status, and with that word about a node that is off.
async fn look(
    observations: &Observations,
    status: Value,
    word: Option<&str>,
    caches: Caches,
    live: &[(&str, Value)],
    asked: &Asked,
) -> Result<Seen, kube::Error> {
    let live: BTreeMap<String, Value> = live.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let (live, asked) = (Arc::new(live), asked.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (live, asked) = (live.clone(), asked.clone());
        async move {
            let path = request.uri().path();
            asked.lock().unwrap().push(path.to_owned());
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
    if let Some(object) = caches.attachment {
        attachment_feed.take(Event::Apply(typed(object)));
    }
    if let Some(object) = caches.node {
        node_feed.take(Event::Apply(typed(object)));
    }
    if let Some(object) = caches.lease {
        lease_feed.take(Event::Apply(typed(object)));
    }
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
    let volume: RdsVolume = typed(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
        "metadata": {"name": "pvc-1", "uid": "v", "annotations": word.map(|w| json!({"rds.csi.srvlab.io/node-is-off": w}))},
        "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "status": status,
    }));
    let server: RdsServer = typed(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
        "spec": {"management": {"address": "a", "user": "u"}, "secretRef": {"name": "s"}, "storage": {"address": "a"},
                 "basePath": "/p"},
    }));
    let minute = Duration::from_secs(60);
    let outside = Outside {
        world: &world,
        observations,
        patience: Patience {
            grace: minute,
            lease: minute,
        },
        driver: "rds.csi.srvlab.io",
    };
    seen(&volume, &server, true, &outside, Timestamp::now()).await
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
    let there = (NODE, node("b1", off()));
    let lost = [there.clone(), (WISHES, wishes(true))];
    assert_eq!(seen(&[there]).await.unwrap().state, HolderState::Lost);
    assert_eq!(seen(&lost).await.unwrap().state, HolderState::Lost);
    assert_eq!(
        seen(&[(WISHES, wishes(false))]).await.unwrap().state,
        HolderState::Doubtful
    );
    // No answer is no empty list (R59).
    assert!(seen(&[(WISHES, Value::Null)]).await.is_err());
}

#[tokio::test]
async fn i8_an_attachment_that_the_cache_has_not_seen_is_not_gone() {
    let path = record_path();
    let seen = async |live: &[(&str, Value)]| holder(None, node("b1", json!([])), live).await;
    let there = seen(&[(&path, record(false))]).await.unwrap();
    assert_eq!((there.state, there.word), (HolderState::Alive, Word::Intent));
    let mut another = record(false);
    another["metadata"]["uid"] = json!("u2");
    let there = (NODE, node("b1", json!([])));
    for live in [vec![there.clone()], vec![there.clone(), (path.as_str(), another)]] {
        assert_eq!(seen(&live).await.unwrap().state, HolderState::Lost, "{live:?}");
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

fn unready() -> Value {
    let mut node = node("b1", json!([]));
    node["status"]["conditions"][0]["status"] = json!("False");
    node
}

/// A watch of Leases that stands still makes every agent look dead, one of Nodes keeps what has passed.
#[tokio::test(start_paused = true)]
async fn i8_nobody_is_lost_by_caches_that_stand_still() {
    let minute = Duration::from_secs(60);
    let caches = |node: Value| Caches {
        attachment: Some(record(true)),
        node: Some(node),
        lease: Some(lease("00:00")),
    };
    let (same, later, nothing) = (lease("00:00"), lease("00:05"), Asked::default());
    for (cached, live, renewed, want) in [
        (unready(), unready(), same.clone(), HolderState::Lost),
        (unready(), unready(), later.clone(), HolderState::Doubtful),
        (unready(), node("b1", json!([])), later.clone(), HolderState::Leaving),
        (unready(), node("b1", json!([])), same.clone(), HolderState::Doubtful),
        (node("b1", off()), node("b1", off()), same.clone(), HolderState::Lost),
        (
            node("b1", off()),
            node("b1", json!([])),
            later.clone(),
            HolderState::Leaving,
        ),
    ] {
        let observations = Observations::default();
        let pass = async |live: &[(&str, Value)]| {
            let seen = look(&observations, held(), None, caches(cached.clone()), live, &nothing).await;
            seen.map(|s| s.volume.holders[0].state)
        };
        let answers = [(NODE, live.clone()), (LEASE, renewed.clone())];
        pass(&[(NODE, cached.clone()), (LEASE, same.clone())]).await.unwrap();
        tokio::time::advance(minute).await;
        assert_eq!(pass(&answers).await.unwrap(), want, "{cached} {live} {renewed}");
        for broken in [NODE, LEASE] {
            let answers = answers.clone().map(|(path, answer)| match path == broken {
                true => (path, Value::Null),
                false => (path, answer),
            });
            assert!(pass(&answers).await.is_err(), "no answer is no evidence");
        }
    }
}

/// The Lease that is read live has to be silent for the whole period itself; one that is not there counts from now.
#[tokio::test(start_paused = true)]
async fn i8_a_live_renewal_counts_from_when_it_was_read() {
    let caches = Caches {
        attachment: Some(record(true)),
        node: Some(unready()),
        lease: Some(lease("00:00")),
    };
    for renewed in [Some(lease("00:05")), None] {
        let observations = Observations::default();
        let answers: Vec<_> = [Some((NODE, unready())), renewed.map(|l| (LEASE, l))]
            .into_iter()
            .flatten()
            .collect();
        let pass = async || {
            let seen = look(&observations, held(), None, caches.clone(), &answers, &Asked::default()).await;
            seen.unwrap().volume.holders[0].state
        };
        pass().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pass().await, HolderState::Doubtful);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(pass().await, HolderState::Doubtful);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pass().await, HolderState::Lost, "it has fallen silent since");
    }
}

#[tokio::test(start_paused = true)]
async fn i8_a_node_that_is_there_is_not_gone() {
    let caches = Caches {
        attachment: Some(record(true)),
        node: None,
        lease: None,
    };
    let there = vec![(NODE, node("b1", json!([])))];
    for (live, want) in [(vec![], HolderState::Lost), (there, HolderState::Doubtful)] {
        let observations = Observations::default();
        let pass = async || {
            let seen = look(&observations, held(), None, caches.clone(), &live, &Asked::default()).await;
            seen.unwrap().volume.holders[0].state
        };
        pass().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pass().await, want, "{live:?}");
    }
}

/// A word releases without a cut: while the agent renews its Lease there would be two writers.
#[tokio::test(start_paused = true)]
async fn i8_a_word_that_a_node_is_off_is_judged_by_a_live_lease() {
    let caches = Caches {
        attachment: Some(record(true)),
        node: Some(node("b1", json!([]))),
        lease: Some(lease("00:00")),
    };
    let there = (NODE, node("b1", json!([])));
    for (renewed, believed) in [("00:00", true), ("00:05", false)] {
        let observations = Observations::default();
        let pass = async |live: &[(&str, Value)]| {
            let seen = look(
                &observations,
                held(),
                Some("n1/b1"),
                caches.clone(),
                live,
                &Asked::default(),
            )
            .await;
            seen.map(|s| s.node_off_claim)
        };
        let answers = [there.clone(), (LEASE, lease(renewed))];
        assert_eq!(pass(&answers).await.unwrap(), Some(NodeOffClaim::NotYet));
        tokio::time::advance(Duration::from_secs(60)).await;
        match pass(&answers).await.unwrap() {
            Some(NodeOffClaim::Believed(uid)) => assert!(believed && uid == "u1"),
            Some(NodeOffClaim::Refused(why)) => assert!(!believed && why.contains("renews its Lease"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(pass(&[there.clone(), (LEASE, Value::Null)]).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_live_while_nobody_is_lost_or_asked_about() {
    for (going, node) in [
        (false, node("b1", json!([]))),
        (false, unready()),
        (true, node("b1", json!([]))),
    ] {
        let (observations, asked) = (Observations::default(), Asked::default());
        let caches = Caches {
            attachment: Some(record(going)),
            node: Some(node),
            lease: Some(lease("00:00")),
        };
        for _ in 0..2 {
            look(&observations, held(), None, caches.clone(), &[], &asked)
                .await
                .unwrap();
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
    }
}

/// Its detach is answered, and its object is gone by our own hand: the record speaks for it.
#[tokio::test(start_paused = true)]
async fn i4_a_deferred_holder_stays_lost_and_its_reboot_is_still_told() {
    let mut status = held();
    status["holders"][0]["deferred"] = json!({"at": "2026-01-01T00:00:00Z", "intent": {
        "bootID": "b1", "systemUUID": "s", "machineID": "m", "nodeUID": "n1", "generation": 1}});
    let status = &status;
    let pass = async |object: Option<Value>,
                      boot: &str,
                      live: &[(&str, Value)],
                      observations: &Observations,
                      word: Option<&str>| {
        let caches = Caches {
            attachment: object,
            node: Some(node(boot, json!([]))),
            lease: Some(lease("00:00")),
        };
        look(observations, status.clone(), word, caches, live, &Asked::default())
            .await
            .unwrap()
    };
    let observations = Observations::default();
    // Its node is well, and wants the volume anew: it has never let go.
    let seen = pass(None, "b1", &[(WISHES, wishes(false))], &observations, None).await;
    let holder = &seen.volume.holders[0];
    assert_eq!(
        (holder.state, holder.word, holder.deferred),
        (HolderState::Lost, Word::Intent, true)
    );
    let later = [(NODE, node("b2", json!([])))];
    let seen = pass(None, "b2", &later, &observations, None).await;
    assert_eq!(seen.volume.holders[0].word, Word::Rebooted);
    tokio::time::advance(Duration::from_secs(60)).await;
    let off = [(NODE, node("b1", json!([]))), (LEASE, lease("00:00"))];
    let seen = pass(None, "b1", &off, &observations, Some("n1/b1")).await;
    assert_eq!(seen.node_off_claim, Some(NodeOffClaim::Believed("u1".into())));
    let seen = pass(None, "b1", &off, &observations, Some("n1/b0")).await;
    assert!(matches!(seen.node_off_claim, Some(NodeOffClaim::Refused(why)) if why.contains("recorded boot")));
    // While its object is there, that counts; and it goes only once all that it says is recorded.
    let mut object = record(true);
    assert!(
        pass(Some(object.clone()), "b1", &off, &observations, None)
            .await
            .volume
            .holders[0]
            .deferred
    );
    object["status"]["agent"]["intent"]["bootID"] = json!("b2");
    let seen = pass(Some(object), "b2", &off, &observations, None).await;
    assert!(!seen.volume.holders[0].deferred);
}
