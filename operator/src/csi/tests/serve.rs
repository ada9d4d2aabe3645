//! Lists, capacity, identity, and the end of the server.

use std::collections::BTreeSet;
use std::time::Duration;

use csi::volume_capability::access_mode::Mode;
use csi_proto::csi::v1 as csi;
use serde_json::json;
use tonic::Code;

use super::fake::Bench;
use super::{GI, PVC, block, code, condition, creation, good, mount};

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
    let told = bench.controller.get_capacity(other).await.unwrap().into_inner();
    assert_eq!(
        told.available_capacity, 0,
        "nothing can be made on a server that does not exist"
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
    assert_eq!(
        features,
        crate::csi::controller::FEATURES.into_iter().map(|f| f as i32).collect()
    );
    let c = &mut bench.controller;
    code(
        c.controller_publish_volume(csi::ControllerPublishVolumeRequest::default())
            .await,
        Code::InvalidArgument,
        "volume_id is empty",
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
