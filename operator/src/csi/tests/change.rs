//! DeleteVolume and ControllerExpandVolume.

use std::time::Duration;

use serde_json::json;
use tonic::Code;

use super::fake::Bench;
use super::{GI, PVC, code, condition, creation, deletion, expansion, good, stalled, within};

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
    let asked = within(Duration::from_secs(4), deletion(PVC));
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
    let mut huge = expansion(GI);
    huge.volume_id = "x".repeat(1 << 20);
    code(
        bench.controller.controller_expand_volume(huge).await,
        Code::NotFound,
        "xx.. does not exist",
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
