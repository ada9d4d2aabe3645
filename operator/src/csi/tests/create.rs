//! CreateVolume.

use std::collections::BTreeSet;
use std::time::Duration;

use csi::volume_capability::access_mode::Mode;
use csi_proto::csi::v1 as csi;
use serde_json::json;
use tonic::Code;

use super::fake::Bench;
use super::{GI, PVC, block, code, condition, creation, good, stalled, within};

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
            with(|r| r.volume_capabilities = vec![block(Mode::MultiNodeReaderOnly)]),
            Code::InvalidArgument,
            "would stay empty for ever",
        ),
        (
            with(|r| r.volume_capabilities = vec![block(Mode::SingleNodeWriter), block(Mode::MultiNodeReaderOnly)]),
            Code::InvalidArgument,
            "ReadOnlyMany together with ReadWriteOnce is refused",
        ),
        (
            with(|r| {
                r.volume_capabilities = vec![block(Mode::SingleNodeReaderOnly), block(Mode::SingleNodeSingleWriter)]
            }),
            Code::InvalidArgument,
            "ReadOnlyMany together with ReadWriteOncePod is refused",
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
    let look = format!("GET {PVC}");
    let calls: Vec<_> = bench.calls().into_iter().filter(|call| *call != look).collect();
    assert_eq!(
        calls,
        ["GET gone"],
        "beside the proof that nothing of that name is there"
    );
}

#[tokio::test]
async fn readers_may_come_beside_a_live_migration() {
    let mut bench = Bench::new(good).await;
    let mut request = creation(PVC, GI);
    request.volume_capabilities = vec![block(Mode::MultiNodeMultiWriter), block(Mode::MultiNodeReaderOnly)];
    bench.controller.create_volume(request).await.unwrap();
    let modes = &bench.object(PVC).unwrap()["spec"]["accessModes"];
    assert_eq!(*modes, json!(["ReadOnlyMany", "ReadWriteMany"]));
}

/// Requests for [`PVC`] that are refused before anything is written, and a word of each refusal.
fn refused() -> [(csi::CreateVolumeRequest, &'static str); 5] {
    let with = |change: fn(&mut csi::CreateVolumeRequest)| {
        let mut request = creation(PVC, GI);
        change(&mut request);
        request
    };
    [
        (with(|r| r.volume_capabilities.clear()), "volume_capabilities is empty"),
        (
            with(|r| drop(r.parameters.insert("typo".into(), "b".into()))),
            "`typo` is not known",
        ),
        (
            with(|r| drop(r.parameters.insert("server".into(), "gone".into()))),
            "`gone` does not exist",
        ),
        (
            with(|r| drop(r.parameters.insert("server".into(), "rack".into()))),
            "is reachable from",
        ),
        (
            with(|r| drop(r.parameters.insert("server".into(), "going".into()))),
            "is being deleted: use another one",
        ),
    ]
    .map(|(mut request, text)| {
        let place = [("zone".to_owned(), "here".to_owned())].into();
        request.accessibility_requirements = Some(csi::TopologyRequirement {
            requisite: vec![csi::Topology { segments: place }],
            preferred: Vec::new(),
        });
        (request, text)
    })
}

#[tokio::test]
async fn no_refusal_is_final_while_something_of_that_name_is_there() {
    let mut bench = Bench::new(good).await;
    bench.server_with("rack", json!({"spec": {"topology": {"zone": "there"}}}));
    bench.server_with(
        "going",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    // Nothing is there: the same are final, of whatever code.
    for (request, text) in refused() {
        let status = bench.controller.create_volume(request).await.unwrap_err();
        assert!(status.message().contains(text), "{status}");
        assert!(![Code::Aborted, Code::Unavailable].contains(&status.code()), "{status}");
    }
    bench.controller.create_volume(creation(PVC, GI)).await.unwrap();
    let made = bench.object(PVC).unwrap();
    for (request, text) in refused() {
        code(
            bench.controller.create_volume(request.clone()).await,
            Code::Aborted,
            text,
        );
        code(
            bench.controller.create_volume(request).await,
            Code::Aborted,
            "of an earlier call is there",
        );
    }
    assert_eq!(bench.object(PVC).unwrap(), made, "it is left alone");
    // The caches have not seen it yet, or not its end.
    bench.take(PVC);
    bench.put_unseen(made.clone());
    bench.calls();
    let [(request, text), ..] = refused();
    code(
        bench.controller.create_volume(request.clone()).await,
        Code::Aborted,
        text,
    );
    assert_eq!(bench.calls(), [format!("GET {PVC}")]);
    let mut going = made;
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.put(going);
    code(
        bench.controller.create_volume(request.clone()).await,
        Code::Aborted,
        "still being deleted",
    );
    bench.take(PVC);
    code(
        bench.controller.create_volume(request).await,
        Code::InvalidArgument,
        text,
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_read_is_there() {
    let mut bench = Bench::new(good).await;
    bench.server_with("bad", json!({"spec": {"limits": {"reserved": "10GB"}}}));
    bench.calls();
    let mut request = creation(PVC, GI);
    request.parameters = [("server".into(), "bad".into())].into();
    for text in ["`bad` exists", "`10GB` is not a size", "kubectl edit rdsserver bad"] {
        code(
            bench.controller.create_volume(request.clone()).await,
            Code::Unavailable,
            text,
        );
    }
    // It may be the one that has this address.
    request.parameters = [("rdsAddress".into(), "10.0.0.9".into())].into();
    code(
        bench.controller.create_volume(request.clone()).await,
        Code::Unavailable,
        "`bad` exists",
    );
    assert_eq!(bench.calls(), [""; 0]);
    bench.server_with("bad", json!({"spec": {"limits": {"reserved": "10G"}}}));
    code(
        bench.controller.create_volume(request).await,
        Code::InvalidArgument,
        "no RdsServer has",
    );
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
    let asked = within(Duration::from_secs(6), creation(PVC, GI));
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
    let asked = || within(Duration::from_secs(4), creation(PVC, GI));
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
            .create_volume(within(Duration::from_secs(4), creation("x", GI)))
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
        one.create_volume(within(Duration::from_secs(4), creation(PVC, GI)))
            .await
    };
    let second = async {
        while bench.object(PVC).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        two.create_volume(creation(PVC, GI)).await
    };
    let (first, second) = tokio::join!(first, second);
    code(first, Code::DeadlineExceeded, PVC);
    code(second, Code::Aborted, "another call");
}
