//! ControllerPublishVolume, ControllerUnpublishVolume, and the nodes in ListVolumes.

use std::time::Duration;

use csi::volume_capability::access_mode::Mode;
use csi_proto::csi::v1 as csi;
use rds_crds::identity::attachment_name;
use serde_json::{Value, json};
use tonic::Code;

use super::fake::Bench;
use super::{PVC, block, code, condition, mount, within};

fn publish(node: &str) -> csi::ControllerPublishVolumeRequest {
    csi::ControllerPublishVolumeRequest {
        volume_id: PVC.into(),
        node_id: node.into(),
        volume_capability: Some(mount()),
        ..Default::default()
    }
}

fn unpublish(node: &str) -> csi::ControllerUnpublishVolumeRequest {
    csi::ControllerUnpublishVolumeRequest {
        volume_id: PVC.into(),
        node_id: node.into(),
        ..Default::default()
    }
}

fn volume(status: Value) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
           "metadata": {"name": PVC, "uid": "v", "generation": 1},
           "spec": {"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}, "status": status})
}

fn attachment(node: &str) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
           "metadata": {"name": attachment_name(PVC, node), "uid": format!("uid-{node}"), "generation": 1},
           "spec": {"volume": PVC, "node": node, "accessMode": "ReadWriteOnce"}})
}

fn says(mut object: Value, status: &str, reason: &str) -> Option<Value> {
    let told = condition("Admitted", status, reason, "because of the test", &json!(1));
    object["status"]["conditions"] = json!([told]);
    Some(object)
}

fn ending(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn granted(mut object: Value) -> Option<Value> {
    object["status"] = json!({"nqn": "nqn.x:1", "address": "10.1.0.1", "port": 4420, "role": "Primary"});
    says(object, "True", "Admitted")
}

/// Admits at once, and lets go at once.
fn admits(object: Value) -> Option<Value> {
    if ending(&object) { None } else { granted(object) }
}

/// Refuses.
fn denies(reason: &'static str) -> impl Fn(Value) -> Option<Value> {
    move |object| {
        if ending(&object) {
            None
        } else {
            says(object, "False", reason)
        }
    }
}

async fn bench(reconciler: impl Fn(Value) -> Option<Value> + Send + 'static) -> Bench {
    let bench = Bench::with_nodes(reconciler).await;
    bench.put(volume(json!({"capacity": "1Gi"})));
    bench
}

#[tokio::test]
async fn k9_a_volume_is_attached_and_detached_in_one_write_each() {
    let mut bench = bench(admits).await;
    let id = attachment_name(PVC, "n1");
    let answer = bench.controller.controller_publish_volume(publish("n1")).await.unwrap();
    let context = answer.into_inner().publish_context;
    for (key, value) in [
        ("nvme_nqn", "nqn.x:1"),
        ("nvme_address", "10.1.0.1"),
        ("nvme_port", "4420"),
        ("fs_type", "ext4"),
    ] {
        assert_eq!(context[key], value);
    }
    assert_eq!(bench.calls(), [format!("POST {id}")]);
    let object = bench.object(&id).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["rds.csi.srvlab.io/protect"]));
    assert_eq!(
        object["spec"],
        json!({"volume": PVC, "node": "n1", "accessMode": "ReadWriteOnce"})
    );

    let again = bench.controller.controller_publish_volume(publish("n1")).await.unwrap();
    assert_eq!(again.into_inner().publish_context, context);
    assert_eq!(bench.calls(), [format!("GET {id}")], "the same again, by a fresh read");

    bench
        .controller
        .controller_unpublish_volume(unpublish("n1"))
        .await
        .unwrap();
    assert_eq!(
        bench.calls(),
        ["GET", "DELETE", "GET"].map(|verb| format!("{verb} {id}"))
    );
    bench
        .controller
        .controller_unpublish_volume(unpublish("n1"))
        .await
        .unwrap();
    assert_eq!(bench.calls(), [format!("GET {id}")], "what is gone is detached");
    let text = bench.telemetry.render().unwrap();
    for line in [
        r#"rds_csi_attachment_attach_total{status="success"} 2"#,
        r#"rds_csi_attachment_detach_total{status="success"} 2"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn r48_a_conflict_is_said_at_once_and_its_attachment_stays() {
    let mut bench = bench(denies("Conflict")).await;
    let started = std::time::Instant::now();
    for _ in 0..2 {
        code(
            bench.controller.controller_publish_volume(publish("n2")).await,
            Code::FailedPrecondition,
            "because of the test",
        );
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(
        bench.object(&attachment_name(PVC, "n2")).is_some(),
        "it shows why a pod waits"
    );
    let text = bench.telemetry.render().unwrap();
    assert!(text.contains("rds_csi_attachment_conflicts_total 2"), "{text}");
    assert!(
        text.contains(r#"rds_csi_attachment_attach_total{status="failure"} 2"#),
        "{text}"
    );
    // Once the holder has left, the same wish is granted.
    bench.reconciler(admits);
    bench.put(granted(bench.object(&attachment_name(PVC, "n2")).unwrap()).unwrap());
    bench.controller.controller_publish_volume(publish("n2")).await.unwrap();
}

#[tokio::test]
async fn a_handoff_is_waited_for_while_the_call_that_makes_it_passes() {
    let mut bench = bench(denies("Handoff")).await;
    bench.put(attachment("n1"));
    let mut client = bench.controller.clone();
    let waiting = tokio::spawn(async move { client.controller_publish_volume(publish("n2")).await });
    let id = attachment_name(PVC, "n2");
    while bench.object(&id).is_none_or(|o| o["status"]["conditions"].is_null()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench
        .controller
        .controller_unpublish_volume(unpublish("n1"))
        .await
        .unwrap();
    assert!(!waiting.is_finished());
    bench.put(granted(bench.object(&id).unwrap()).unwrap());
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn b26_what_is_waited_for_in_vain_is_named_with_a_code_that_is_retried() {
    let mut bench = bench(denies("Handoff")).await;
    for (reason, wanted) in [
        ("Handoff", Code::Aborted),
        ("FencePending", Code::Aborted),
        ("VolumeNotReady", Code::Unavailable),
    ] {
        bench.put(says(attachment("n1"), "False", reason).unwrap());
        let call = within(Duration::from_secs(4), publish("n1"));
        code(bench.controller.controller_publish_volume(call).await, wanted, reason);
    }
    bench.put(attachment("n1"));
    let call = within(Duration::from_secs(4), publish("n1"));
    code(
        bench.controller.controller_publish_volume(call).await,
        Code::DeadlineExceeded,
        "holds the Lease",
    );
}

#[tokio::test]
async fn bad_requests_write_nothing() {
    let mut bench = bench(admits).await;
    bench.put_unseen(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3", "uid": "n3"}}));
    let long = "n".repeat(300);
    for (change, wanted, text) in [
        (
            csi::ControllerPublishVolumeRequest {
                volume_id: String::new(),
                ..publish("n1")
            },
            Code::InvalidArgument,
            "volume_id is empty: say which",
        ),
        (publish(""), Code::InvalidArgument, "node_id is empty: say the name"),
        (
            csi::ControllerPublishVolumeRequest {
                volume_capability: None,
                ..publish("n1")
            },
            Code::InvalidArgument,
            "volume_capability is missing: say how",
        ),
        (
            csi::ControllerPublishVolumeRequest {
                volume_capability: Some(block(Mode::SingleNodeWriter)),
                ..publish("n1")
            },
            Code::InvalidArgument,
            "volumeMode Filesystem, not Block: correct",
        ),
        (
            csi::ControllerPublishVolumeRequest {
                volume_id: "pvc-none".into(),
                ..publish("n1")
            },
            Code::NotFound,
            "volume pvc-none does not exist: check",
        ),
        (
            csi::ControllerPublishVolumeRequest {
                volume_id: "No Such/Volume".into(),
                ..publish("n1")
            },
            Code::NotFound,
            "does not exist",
        ),
        (publish("n9"), Code::NotFound, "node n9 does not exist: the node id"),
        (
            publish("Not/A\nNode"),
            Code::InvalidArgument,
            "node_id `Not/A\\nNode` cannot be the name of a node",
        ),
        (publish(&long), Code::InvalidArgument, "cannot be the name of a node"),
    ] {
        code(bench.controller.controller_publish_volume(change).await, wanted, text);
    }
    let calls = bench.calls();
    assert_eq!(calls, ["GET pvc-none", "GET n9"], "what cannot exist is not asked for");
    // A node that the cache has not seen yet.
    bench.controller.controller_publish_volume(publish("n3")).await.unwrap();
}

#[tokio::test]
async fn r75_an_attachment_that_is_used_otherwise_is_named_with_both_sides() {
    let mut bench = bench(admits).await;
    bench.controller.controller_publish_volume(publish("n1")).await.unwrap();
    let read_only = csi::ControllerPublishVolumeRequest {
        readonly: true,
        ..publish("n1")
    };
    code(
        bench.controller.controller_publish_volume(read_only).await,
        Code::AlreadyExists,
        "as ReadWriteOnce read-write already, not as ReadWriteOnce read-only",
    );
}

#[tokio::test]
async fn an_attachment_that_is_ending_has_to_go_before_its_node_gets_another() {
    let mut bench = bench(|object| if ending(&object) { Some(object) } else { granted(object) }).await;
    let mut old = attachment("n1");
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.put(granted(old).unwrap());
    let call = within(Duration::from_secs(4), publish("n1"));
    code(
        bench.controller.controller_publish_volume(call).await,
        Code::Aborted,
        "still being detached from node n1",
    );
    let mut client = bench.controller.clone();
    let waiting = tokio::spawn(async move { client.controller_publish_volume(publish("n1")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.take(&attachment_name(PVC, "n1"));
    waiting.await.unwrap().unwrap();
    let uid = &bench.object(&attachment_name(PVC, "n1")).unwrap()["metadata"]["uid"];
    assert_ne!(uid, "uid-n1");
}

#[tokio::test]
async fn i4_a_detach_is_answered_only_once_the_attachment_is_gone() {
    let mut bench = bench(Some).await;
    bench.put(granted(attachment("n1")).unwrap());
    let call = within(Duration::from_secs(6), unpublish("n1"));
    code(
        bench.controller.controller_unpublish_volume(call).await,
        Code::Aborted,
        "node n1 has not said that it is disconnected",
    );
    let owed = condition("FencePending", "True", "Lost", "node n1 is lost", &json!(1));
    bench.put(volume(json!({"conditions": [owed]})));
    let call = within(Duration::from_secs(6), unpublish("n1"));
    code(
        bench.controller.controller_unpublish_volume(call).await,
        Code::Aborted,
        "node n1 is lost",
    );
    assert!(bench.object(&attachment_name(PVC, "n1")).is_some());
    let mut client = bench.controller.clone();
    bench.put(granted(attachment("n1")).unwrap());
    let waiting = tokio::spawn(async move { client.controller_unpublish_volume(unpublish("n1")).await });
    let id = attachment_name(PVC, "n1");
    while bench
        .object(&id)
        .is_none_or(|o| o["metadata"]["deletionTimestamp"].is_null())
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!waiting.is_finished());
    bench.take(&attachment_name(PVC, "n1"));
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn b27_an_empty_node_means_every_node() {
    let mut bench = bench(admits).await;
    bench.put(granted(attachment("n1")).unwrap());
    bench.put_unseen(granted(attachment("n2")).unwrap());
    let mut other = attachment("n1");
    other["metadata"]["name"] = json!("other-volume-00000000");
    other["spec"]["volume"] = json!("other-volume");
    bench.put(other);
    bench
        .controller
        .controller_unpublish_volume(unpublish(""))
        .await
        .unwrap();
    for node in ["n1", "n2"] {
        assert!(bench.object(&attachment_name(PVC, node)).is_none(), "{node}");
    }
    assert!(bench.object("other-volume-00000000").is_some());
    let none = csi::ControllerUnpublishVolumeRequest::default();
    code(
        bench.controller.controller_unpublish_volume(none).await,
        Code::InvalidArgument,
        "volume_id is empty",
    );
    let unknown = csi::ControllerUnpublishVolumeRequest {
        volume_id: "no such".into(),
        ..unpublish("n1")
    };
    bench.controller.controller_unpublish_volume(unknown).await.unwrap();
}

#[tokio::test]
async fn b18_nothing_is_attached_before_the_caches_are_filled() {
    let mut bench = Bench::cold(admits).await;
    code(
        bench.controller.controller_publish_volume(publish("n1")).await,
        Code::Unavailable,
        "not filled yet",
    );
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn a_node_that_was_cut_is_never_listed_as_having_the_volume() {
    let mut bench = bench(admits).await;
    let since = "2026-01-01T00:00:00Z";
    let holder =
        |node: &str| json!({"node": node, "attachmentUID": format!("uid-{node}"), "role": "Reader", "since": since});
    for node in ["n1", "n2"] {
        bench.put(granted(attachment(node)).unwrap());
    }
    for (holders, fenced, wanted) in [
        (json!([holder("n1"), holder("n2")]), json!([]), vec!["n1", "n2"]),
        (json!([holder("n1")]), json!([]), vec!["n1"]),
        (
            json!([holder("n1"), holder("n2")]),
            json!([{"node": "n2", "generation": 1, "at": since}]),
            vec!["n1"],
        ),
        (json!([]), json!([]), vec![]),
    ] {
        bench.put(volume(json!({"capacity": "1Gi", "holders": holders, "fenced": fenced})));
        let listed = bench
            .controller
            .list_volumes(csi::ListVolumesRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(listed.entries[0].status.clone().unwrap().published_node_ids, wanted);
    }
    bench.put(volume(
        json!({"capacity": "1Gi", "holders": [holder("n1")], "fenced": []}),
    ));
    bench.put(says(attachment("n1"), "False", "Conflict").unwrap());
    let listed = bench
        .controller
        .list_volumes(csi::ListVolumesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(listed.entries[0].status.clone().unwrap().published_node_ids.is_empty());
}

#[tokio::test]
async fn i4_a_holder_without_its_object_is_not_detached() {
    let mut bench = bench(admits).await;
    let holders = json!([{"node": "n1", "attachmentUID": "u", "role": "Primary", "since": "2026-01-01T00:00:00Z"}]);
    bench.put(volume(json!({"capacity": "1Gi", "holders": holders})));
    code(
        bench.controller.controller_unpublish_volume(unpublish("n1")).await,
        Code::Aborted,
        "removed by force",
    );
    bench
        .controller
        .controller_unpublish_volume(unpublish("n2"))
        .await
        .unwrap();
}
