//! The services in process, over a real socket, on an API server that records each call.

mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
use csi_proto::csi::v1 as csi;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use self::fake::Bench;

const GI: i64 = 1 << 30;
const PVC: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

fn mount() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn block(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn creation(name: &str, size: i64) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: size,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![mount()],
        ..Default::default()
    }
}

fn expansion(size: i64) -> csi::ControllerExpandVolumeRequest {
    csi::ControllerExpandVolumeRequest {
        volume_id: PVC.into(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: size,
            limit_bytes: 0,
        }),
        ..Default::default()
    }
}

fn deletion(id: &str) -> csi::DeleteVolumeRequest {
    csi::DeleteVolumeRequest {
        volume_id: id.into(),
        ..Default::default()
    }
}

/// With a deadline of its own, as sidecars set one.
fn within<T>(time: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, generation: &Value) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A reconciler that makes, grows and removes at once.
fn good(mut object: Value) -> Option<Value> {
    if object["metadata"]["deletionTimestamp"].is_string() {
        let asked = &object["metadata"]["annotations"]["rds.csi.srvlab.io/delete-requested"];
        return (*asked != object["metadata"]["uid"]).then_some(object);
    }
    let ready = condition(
        "Ready",
        "True",
        "Available",
        "the disk is exported",
        &object["metadata"]["generation"],
    );
    object["status"]["capacity"] = object["spec"]["capacity"].clone();
    object["status"]["conditions"] = json!([ready]);
    Some(object)
}

/// Stalls what it is asked to make or grow; removes what is to be removed.
fn stalled(kind: &'static str, reason: &'static str) -> impl Fn(Value) -> Option<Value> {
    move |mut object| {
        if object["metadata"]["deletionTimestamp"].is_string() {
            return good(object);
        }
        if object["spec"]["capacity"] == object["status"]["capacity"] {
            return good(object);
        }
        let says = condition(
            kind,
            "True",
            reason,
            "because of the test",
            &object["metadata"]["generation"],
        );
        object["status"]["conditions"] = json!([says]);
        Some(object)
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>, wanted: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), wanted, "{status}");
    assert!(status.message().contains(text), "{status}");
}

#[tokio::test]
async fn a_volume_is_made_with_one_write_and_found_again() {
    let mut bench = Bench::new(good).await;
    let mut request = creation(PVC, GI + 1);
    request.parameters = [
        ("csi.storage.k8s.io/pvc/name".into(), "data".into()),
        ("csi.storage.k8s.io/pvc/namespace".into(), "shop".into()),
        ("csi.storage.k8s.io/pv/name".into(), PVC.into()),
        ("migrationTimeoutSeconds".into(), "5".into()),
    ]
    .into();
    let made = bench
        .controller
        .create_volume(request.clone())
        .await
        .unwrap()
        .into_inner()
        .volume
        .unwrap();
    assert_eq!((made.volume_id.as_str(), made.capacity_bytes), (PVC, GI + 4096));
    assert_eq!(made.volume_context["nqn"], format!("nqn.2000-02.com.mikrotik:{PVC}"));
    assert_eq!(
        made.volume_context["volumePath"],
        "/pool/csi/pvc-0a1b2c3d4e5f60718293a4b5c6d7.img"
    );
    assert_eq!(made.volume_context["migrationTimeoutSeconds"], "30");
    assert!(made.accessible_topology.is_empty());
    assert_eq!(bench.calls(), [format!("POST {PVC}")]);
    let object = bench.object(PVC).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["rds.csi.srvlab.io/protect"]));
    assert_eq!(
        object["metadata"]["labels"],
        json!({"rds.csi.srvlab.io/made-by": "csi"})
    );
    assert_eq!(object["spec"]["claim"], json!({"namespace": "shop", "name": "data"}));
    assert_eq!(object["spec"]["deletionPolicy"], "Delete");
    assert!(object["spec"].get("requestName").is_none());

    let again = bench
        .controller
        .create_volume(request)
        .await
        .unwrap()
        .into_inner()
        .volume
        .unwrap();
    assert_eq!(again, made);
    assert_eq!(
        bench.calls(),
        [""; 0],
        "nothing is asked of the API server for what is there"
    );
}

#[tokio::test]
async fn any_name_makes_a_volume_and_another_request_of_that_name_is_refused() {
    let mut bench = Bench::new(good).await;
    let mut ids = BTreeSet::new();
    for name in [
        "x",
        "a\"; /disk remove [find]",
        "$(reboot)\n",
        "Ünïcode",
        &"n".repeat(200),
    ] {
        let made = bench
            .controller
            .create_volume(creation(name, GI))
            .await
            .unwrap()
            .into_inner()
            .volume
            .unwrap();
        assert!(made.volume_id.starts_with("v-"), "{}", made.volume_id);
        assert_eq!(bench.object(&made.volume_id).unwrap()["spec"]["requestName"], name);
        ids.insert(made.volume_id);
    }
    assert_eq!(ids.len(), 5);

    code(
        bench.controller.create_volume(creation("x", 2 * GI)).await,
        Code::AlreadyExists,
        "its size is 1Gi, not 2Gi",
    );
    let mut other = creation("x", GI);
    other.volume_capabilities = vec![block(Mode::SingleNodeWriter)];
    code(
        bench.controller.create_volume(other).await,
        Code::AlreadyExists,
        "volumeMode",
    );
    let mut other = creation("x", GI);
    other.parameters = [("ctrlLossTmo".into(), "60".into())].into();
    code(
        bench.controller.create_volume(other).await,
        Code::AlreadyExists,
        "connection",
    );
    assert_eq!(bench.objects(), 5);
}

#[tokio::test]
async fn bad_creations_reach_nobody() {
    let mut bench = Bench::new(good).await;
    let with = |change: fn(&mut csi::CreateVolumeRequest)| {
        let mut request = creation(PVC, GI);
        change(&mut request);
        request
    };
    for (request, wanted, text) in [
        (with(|r| r.name.clear()), Code::InvalidArgument, "name is empty"),
        (with(|r| r.name = "n".repeat(257)), Code::InvalidArgument, "at most 256"),
        (
            with(|r| r.volume_capabilities.clear()),
            Code::InvalidArgument,
            "volume_capabilities is empty",
        ),
        (
            with(|r| {
                r.capacity_range = Some(csi::CapacityRange {
                    required_bytes: 0,
                    limit_bytes: 1,
                })
            }),
            Code::OutOfRange,
            "raise the limit",
        ),
        (
            with(|r| r.volume_content_source = Some(csi::VolumeContentSource::default())),
            Code::InvalidArgument,
            "not supported yet",
        ),
        (
            with(|r| drop(r.mutable_parameters.insert("a".into(), "b".into()))),
            Code::InvalidArgument,
            "mutable parameter `a`",
        ),
        (
            with(|r| drop(r.parameters.insert("typo".into(), "b".into()))),
            Code::InvalidArgument,
            "`typo` is not known",
        ),
        (
            with(|r| drop(r.parameters.insert("server".into(), "gone".into()))),
            Code::InvalidArgument,
            "`gone` does not exist",
        ),
        (
            with(|r| drop(r.parameters.insert("volumePath".into(), "/pool".into()))),
            Code::InvalidArgument,
            "outside the base path",
        ),
    ] {
        code(bench.controller.create_volume(request).await, wanted, text);
    }
    assert_eq!(bench.objects(), 0);
    assert_eq!(bench.calls(), ["GET gone"]);
}

#[tokio::test]
async fn a_refusal_is_final_only_when_nothing_is_left() {
    for (reason, wanted) in [
        ("PoolFull", Code::ResourceExhausted),
        ("Taken", Code::AlreadyExists),
        ("Invalid", Code::InvalidArgument),
    ] {
        let mut bench = Bench::new(stalled("Stalled", reason)).await;
        code(
            bench.controller.create_volume(creation(PVC, GI)).await,
            wanted,
            "because of the test",
        );
        assert_eq!(bench.objects(), 0, "{reason}");
        let calls = bench.calls();
        assert_eq!(
            calls[..3],
            [format!("POST {PVC}"), format!("PATCH {PVC}"), format!("DELETE {PVC}")]
        );
    }

    // The same, but the deletion does not come to its end: retryable, and the object stays.
    let mut bench = Bench::new(|object| {
        let going = object["metadata"]["deletionTimestamp"].is_string();
        if going {
            Some(object)
        } else {
            stalled("Stalled", "PoolFull")(object)
        }
    })
    .await;
    let asked = within(Duration::from_secs(2), creation(PVC, GI));
    code(
        bench.controller.create_volume(asked).await,
        Code::Aborted,
        "not cleaned up yet",
    );
    assert_eq!(bench.objects(), 1);
    code(
        bench.controller.create_volume(creation(PVC, GI)).await,
        Code::Aborted,
        "still being deleted",
    );
}

#[tokio::test]
async fn what_may_still_come_true_is_retryable() {
    // A person has to act: said at once.
    let mut bench = Bench::new(stalled("Stalled", "AuthenticationFailed")).await;
    code(
        bench.controller.create_volume(creation(PVC, GI)).await,
        Code::Unavailable,
        "because of the test",
    );
    assert_eq!(bench.objects(), 1, "it stays, to go on later");

    // Not ready in time: the reason that is seen is told.
    let mut bench = Bench::new(|mut object| {
        object["status"]["explain"] = json!("waits for the appliance");
        Some(object)
    })
    .await;
    let asked = || within(Duration::from_secs(1), creation(PVC, GI));
    code(
        bench.controller.create_volume(asked()).await,
        Code::DeadlineExceeded,
        "waits for the appliance",
    );
    // B53: an outage is Unavailable.
    let down = condition("Reachable", "False", "Unreachable", "no answer", &json!(1));
    bench.server(json!({"conditions": [down]}));
    code(
        bench.controller.create_volume(asked()).await,
        Code::Unavailable,
        "waits for the appliance",
    );
    // Its own status of an older generation, or a mere "not ready", is no verdict.
    bench.reconciler(|mut object| {
        let old = condition("Stalled", "True", "PoolFull", "old", &json!(0));
        let unsure = condition("Ready", "False", "Taken", "perhaps our own", &json!(1));
        object["status"]["conditions"] = json!([old, unsure]);
        Some(object)
    });
    bench.server(json!({}));
    code(
        bench
            .controller
            .create_volume(within(Duration::from_secs(1), creation("x", GI)))
            .await,
        Code::DeadlineExceeded,
        "not ready yet",
    );
}

#[tokio::test]
async fn one_call_a_volume_at_a_time() {
    let bench = Bench::new(Some).await;
    let (mut one, mut two) = (bench.controller.clone(), bench.controller.clone());
    let first = async {
        one.create_volume(within(Duration::from_secs(1), creation(PVC, GI)))
            .await
    };
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        two.create_volume(creation(PVC, GI)).await
    };
    let (first, second) = tokio::join!(first, second);
    code(first, Code::DeadlineExceeded, PVC);
    code(second, Code::Aborted, "another call");
}

#[tokio::test]
async fn d2_a_deletion_is_recorded_for_its_uid_and_waits_until_it_is_gone() {
    let mut bench = Bench::new(good).await;
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    bench.calls();
    bench.controller.delete_volume(deletion(PVC)).await.unwrap();
    let calls = ["GET", "PATCH", "DELETE", "GET"].map(|verb| format!("{verb} {PVC}"));
    assert_eq!(bench.calls(), calls);
    assert_eq!(bench.objects(), 0);

    bench.controller.delete_volume(deletion(PVC)).await.unwrap();
    assert_eq!(
        bench.calls(),
        [format!("GET {PVC}")],
        "gone is gone, after a fresh read"
    );
    for id in ["no such volume", "../../pods", "A", &"x".repeat(300)] {
        bench.controller.delete_volume(deletion(id)).await.unwrap();
    }
    assert_eq!(bench.calls(), [""; 0], "what cannot be a name is asked of nobody");
    code(
        bench.controller.delete_volume(deletion("")).await,
        Code::InvalidArgument,
        "volume_id is empty",
    );
}

#[tokio::test]
async fn b28_a_volume_in_use_is_not_deleted() {
    let mut bench = Bench::new(good).await;
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    bench.calls();
    let mut object = bench.object(PVC).unwrap();
    let holder = json!({"node": "worker-3", "attachmentUID": "1", "role": "Primary", "since": "2026-01-01T00:00:00Z"});
    object["status"]["holders"] = json!([holder]);
    bench.put(object);
    code(
        bench.controller.delete_volume(deletion(PVC)).await,
        Code::FailedPrecondition,
        "worker-3",
    );
    assert_eq!(bench.calls(), [format!("GET {PVC}")]);
}

#[tokio::test]
async fn a_deletion_that_takes_long_says_what_it_waits_for() {
    let mut bench = Bench::new(good).await;
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    bench.reconciler(|mut object| {
        let blocked = condition(
            "DeletionBlocked",
            "True",
            "WaitingForLateCommands",
            "waits 90 s",
            &json!(1),
        );
        object["status"]["conditions"] = json!([blocked]);
        Some(object)
    });
    let asked = within(Duration::from_secs(1), deletion(PVC));
    code(
        bench.controller.delete_volume(asked).await,
        Code::DeadlineExceeded,
        "WaitingForLateCommands: waits 90 s",
    );
}

#[tokio::test]
async fn b54_a_volume_grows_to_what_is_measured_and_always_asks_for_the_node() {
    let mut bench = Bench::new(good).await;
    code(
        bench.controller.controller_expand_volume(expansion(2 * GI)).await,
        Code::NotFound,
        "does not exist",
    );
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    bench.calls();
    for _ in 0..2 {
        let grown = bench
            .controller
            .controller_expand_volume(expansion(2 * GI + 1))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (grown.capacity_bytes, grown.node_expansion_required),
            (2 * GI + 4096, true)
        );
    }
    assert_eq!(
        bench.calls(),
        ["GET", "PATCH", "GET"].map(|verb| format!("{verb} {PVC}"))
    );
    let mut limited = expansion(GI);
    limited.capacity_range.as_mut().unwrap().limit_bytes = GI;
    code(
        bench.controller.controller_expand_volume(limited).await,
        Code::OutOfRange,
        "never shrinks",
    );
    code(
        bench.controller.controller_expand_volume(expansion(0)).await,
        Code::InvalidArgument,
        "required_bytes is 0",
    );
}

#[tokio::test]
async fn a_failed_expansion_is_put_back_and_can_be_lowered() {
    let mut bench = Bench::new(good).await;
    let ti = 1024 * GI;
    bench.controller.create_volume(creation(PVC, ti)).await.unwrap();
    bench.reconciler(stalled("ExpandPending", "PoolFull"));
    code(
        bench.controller.controller_expand_volume(expansion(2 * ti)).await,
        Code::OutOfRange,
        "because of the test",
    );
    let capacity = || bench.object(PVC).unwrap()["spec"]["capacity"].clone();
    assert_eq!(capacity(), "1Ti", "nothing of the request can happen later");
    bench.reconciler(good);
    let grown = bench
        .controller
        .controller_expand_volume(expansion(ti + ti / 5))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(grown.capacity_bytes, (ti + ti / 5 + 4095) / 4096 * 4096);
}

#[tokio::test]
async fn an_expansion_that_needs_a_detach_or_a_manifest_says_so() {
    let mut bench = Bench::new(good).await;
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    bench.reconciler(stalled("ExpandPending", "NeedsDetach"));
    let asked = bench.controller.controller_expand_volume(expansion(2 * GI)).await;
    code(asked, Code::FailedPrecondition, "because of the test");
    assert_eq!(
        bench.object(PVC).unwrap()["spec"]["capacity"],
        "2Gi",
        "it grows once the pods have stopped"
    );

    let mut object = bench.object(PVC).unwrap();
    let owner = json!({"manager": "kustomize-controller", "operation": "Apply", "apiVersion": "rds.csi.srvlab.io/v1alpha1",
                       "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:capacity": {}}}});
    object["metadata"]["managedFields"] = json!([owner]);
    bench.put(object);
    bench.calls();
    let asked = bench.controller.controller_expand_volume(expansion(3 * GI)).await;
    code(
        asked,
        Code::InvalidArgument,
        "`kustomize-controller`, not to the CSI driver: raise it in the manifest",
    );
    assert_eq!(bench.calls(), [format!("GET {PVC}")]);
}

#[tokio::test]
async fn volumes_are_listed_and_checked() {
    let mut bench = Bench::new(good).await;
    for n in 0..5 {
        bench
            .controller
            .create_volume(creation(&format!("volume-{n}"), GI))
            .await
            .unwrap();
    }
    let (mut token, mut ids, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let asked = csi::ListVolumesRequest {
            max_entries: 2,
            starting_token: token,
        };
        let page = bench.controller.list_volumes(asked).await.unwrap().into_inner();
        ids.extend(page.entries.into_iter().map(|e| e.volume.unwrap().volume_id));
        (token, pages) = (page.next_token, pages + 1);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((ids.len(), pages), (5, 3));
    assert!(ids.is_sorted());
    let bad = csi::ListVolumesRequest {
        max_entries: 0,
        starting_token: "invalid-token".into(),
    };
    code(
        bench.controller.list_volumes(bad).await,
        Code::Aborted,
        "not one of ours",
    );

    let check = |id: &str, capabilities| csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities,
        ..Default::default()
    };
    let answer = bench
        .controller
        .validate_volume_capabilities(check(&ids[0], vec![mount()]))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().confirmed.unwrap().volume_capabilities, [mount()]);
    let many = vec![block(Mode::MultiNodeMultiWriter)];
    let answer = bench
        .controller
        .validate_volume_capabilities(check(&ids[0], many))
        .await
        .unwrap()
        .into_inner();
    assert!(
        answer.confirmed.is_none() && answer.message.contains("volumeMode"),
        "{answer:?}"
    );
    for (request, wanted) in [
        (check("", vec![mount()]), Code::InvalidArgument),
        (check(&ids[0], vec![]), Code::InvalidArgument),
        (check("pvc-none", vec![mount()]), Code::NotFound),
    ] {
        code(bench.controller.validate_volume_capabilities(request).await, wanted, "");
    }
}

#[tokio::test]
async fn capacity_is_that_of_the_server_of_the_storage_class() {
    let mut bench = Bench::new(good).await;
    let ti = 1024 * GI;
    let asked = csi::GetCapacityRequest::default();
    let told = bench.controller.get_capacity(asked.clone()).await.unwrap().into_inner();
    assert_eq!(
        (
            told.available_capacity,
            told.maximum_volume_size,
            told.minimum_volume_size
        ),
        (10 * ti, Some(10 * ti), Some(GI))
    );
    bench.server(json!({"available": "100Ti"}));
    let told = bench.controller.get_capacity(asked.clone()).await.unwrap().into_inner();
    assert_eq!(
        (told.available_capacity, told.maximum_volume_size),
        (100 * ti, Some(16 * ti))
    );
    bench.server(json!({}));
    code(
        bench.controller.get_capacity(asked.clone()).await,
        Code::Unavailable,
        "not known yet",
    );
    let other = csi::GetCapacityRequest {
        parameters: [("server".into(), "other".into())].into(),
        ..asked
    };
    code(
        bench.controller.get_capacity(other).await,
        Code::InvalidArgument,
        "`other` does not exist",
    );
}

#[tokio::test]
async fn b61_what_is_advertised_works_and_the_rest_says_that_it_does_not() {
    let mut bench = Bench::new(good).await;
    let info = bench
        .identity
        .get_plugin_info(csi::GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.name, "rds.csi.srvlab.io");
    let plugin = bench
        .identity
        .get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {})
        .await
        .unwrap();
    assert_eq!(plugin.into_inner().capabilities.len(), 3);
    let features = bench
        .controller
        .controller_get_capabilities(csi::ControllerGetCapabilitiesRequest {})
        .await;
    let features: BTreeSet<_> = features
        .unwrap()
        .into_inner()
        .capabilities
        .into_iter()
        .map(|c| match c.r#type.unwrap() {
            csi::controller_service_capability::Type::Rpc(rpc) => rpc.r#type,
        })
        .collect();
    assert_eq!(features, super::controller::FEATURES.map(|f| f as i32).into());
    let c = &mut bench.controller;
    code(
        c.controller_publish_volume(csi::ControllerPublishVolumeRequest::default())
            .await,
        Code::Unimplemented,
        "attach",
    );
    code(
        c.create_snapshot(csi::CreateSnapshotRequest::default()).await,
        Code::Unimplemented,
        "snapshots",
    );
    code(
        c.controller_get_volume(csi::ControllerGetVolumeRequest::default())
            .await,
        Code::Unimplemented,
        "ListVolumes",
    );
    code(
        c.controller_modify_volume(csi::ControllerModifyVolumeRequest::default())
            .await,
        Code::Unimplemented,
        "modify",
    );
}

#[tokio::test]
async fn probe_is_about_this_process_only() {
    let mut bench = Bench::cold(good).await;
    let probe = async |b: &mut Bench| b.identity.probe(csi::ProbeRequest {}).await.unwrap().into_inner().ready;
    assert_eq!(probe(&mut bench).await, Some(false));
    code(
        bench.controller.create_volume(creation(PVC, GI)).await,
        Code::Unavailable,
        "not filled yet",
    );
    bench.fill();
    bench.server(json!({"conditions": [condition("Reachable", "False", "Unreachable", "no answer", &json!(1))]}));
    assert_eq!(
        probe(&mut bench).await,
        Some(true),
        "an appliance that is down is no reason"
    );
}

#[tokio::test]
async fn r3_b79_a_call_under_way_is_finished_when_the_server_stops() {
    let bench = Bench::new(|object| {
        std::thread::sleep(Duration::from_millis(50));
        good(object)
    })
    .await;
    let mut client = bench.controller.clone();
    let call = tokio::spawn(async move { client.create_volume(creation(PVC, GI)).await });
    while bench.objects() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.stop.cancel();
    assert_eq!(call.await.unwrap().unwrap().into_inner().volume.unwrap().volume_id, PVC);
    tokio::time::timeout(Duration::from_secs(5), bench.served)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn r3_a_call_that_waits_too_long_for_a_shutdown_is_told_to_come_again() {
    let bench = Bench::new(Some).await;
    let mut client = bench.controller.clone();
    let call = tokio::spawn(async move { client.create_volume(creation(PVC, GI)).await });
    while bench.objects() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.stop.cancel();
    bench.world.closing.cancel();
    code(call.await.unwrap(), Code::Unavailable, "shutting down");
}
