//! Requests that nobody should make: the code of the specification, a text that says what to do, and nothing done.

use serde_json::json;

use super::host::GONE;
use super::*;
use crate::csi::host::{Found, Kind, Mount};

type Change = fn(&Lab);

/// What is expected: the code, and a word of the message.
async fn expect(lab: &Lab, what: &str, done: Result<(), Status>, wanted: Code, word: &str) {
    let got = done.expect_err(what);
    assert_eq!(got.code(), wanted, "{what}: {got}");
    assert!(got.message().contains(word), "{what}: {got}");
    let mounts = lab.host.world().mounts.iter().filter(|m| m.device != GONE).count();
    assert_eq!(mounts, 0, "{what}: something is mounted");
    let touched = lab.host.log().into_iter().filter(|l| l != "probe").count();
    assert_eq!(touched, 0, "{what}: something was done");
}

#[tokio::test]
async fn table_of_stage_requests() {
    let with = |change: fn(&mut csi::NodeStageVolumeRequest)| {
        let mut request = stage(writer());
        change(&mut request);
        request
    };
    for (what, request, wanted, word) in [
        (
            "no volume",
            with(|r| r.volume_id.clear()),
            Code::InvalidArgument,
            "volume_id",
        ),
        (
            "no path",
            with(|r| r.staging_target_path.clear()),
            Code::InvalidArgument,
            "staging_target_path",
        ),
        (
            "no capability",
            with(|r| r.volume_capability = None),
            Code::InvalidArgument,
            "volume_capability",
        ),
        (
            "path with ..",
            with(|r| r.staging_target_path = "/k/../etc".into()),
            Code::InvalidArgument,
            "..",
        ),
        (
            "path elsewhere",
            with(|r| r.staging_target_path = "/etc/x".into()),
            Code::InvalidArgument,
            "kubelet",
        ),
        (
            "kubelet's folder itself",
            with(|r| r.staging_target_path = "/k".into()),
            Code::InvalidArgument,
            "kubelet",
        ),
        (
            "forged handle",
            with(|r| r.volume_id = "../../x".into()),
            Code::NotFound,
            "volumeHandle",
        ),
        (
            "unknown volume",
            with(|r| r.volume_id = "pvc-2".into()),
            Code::NotFound,
            "volumeHandle",
        ),
        (
            "as a device",
            with(|r| r.volume_capability = Some(raw())),
            Code::FailedPrecondition,
            "volumeMode",
        ),
        (
            "two writers of a filesystem",
            with(|r| r.volume_capability = Some(mounted(Mode::MultiNodeMultiWriter))),
            Code::InvalidArgument,
            "volumeMode: Block",
        ),
        (
            "a refused mount option",
            with(|r| {
                let mount = MountVolume {
                    mount_flags: vec!["suid,evil".into()],
                    ..MountVolume::default()
                };
                let mut capability = writer();
                capability.access_type = Some(AccessType::Mount(mount));
                r.volume_capability = Some(capability);
            }),
            Code::InvalidArgument,
            "is refused",
        ),
    ] {
        let lab = Lab::new();
        let done = lab.stage(request).await;
        expect(&lab, what, done, wanted, word).await;
    }
}

#[tokio::test]
async fn table_of_what_a_node_has_no_right_to() {
    let cases: [(&str, Change, Code, &str); 7] = [
        (
            "no RdsAttachment",
            |lab| lab.api.change(|s| s.attachment = None),
            Code::NotFound,
            "not attached",
        ),
        (
            "an RdsAttachment of another volume",
            |lab| {
                lab.api
                    .change(|s| s.attachment.as_mut().unwrap()["spec"]["volume"] = json!("pvc-2"))
            },
            Code::NotFound,
            "not attached",
        ),
        (
            "being detached",
            |lab| {
                lab.api.change(|s| {
                    s.attachment.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                });
            },
            Code::FailedPrecondition,
            "being detached",
        ),
        (
            "not admitted",
            |lab| {
                lab.api.change(|s| {
                    let admitted = &mut s.attachment.as_mut().unwrap()["status"]["conditions"][0];
                    *admitted = json!({"type": "Admitted", "status": "False", "reason": "Handoff", "message": "n2 leaves",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"});
                });
            },
            Code::Unavailable,
            "Handoff",
        ),
        (
            "an intent of an earlier boot",
            |lab| {
                lab.api
                    .change(|s| s.attachment.as_mut().unwrap()["status"]["agent"]["intent"]["bootID"] = json!("old"));
            },
            Code::Unavailable,
            "connection",
        ),
        (
            "no disk",
            |lab| lab.host.world().disk = None,
            Code::Unavailable,
            "connection",
        ),
        (
            "a disk under another NQN",
            |lab| lab.host.world().disk.as_mut().unwrap().nqn = "nqn.2000-02.com.mikrotik:pvc-2".into(),
            Code::Unavailable,
            "connection",
        ),
    ];
    for (what, change, wanted, word) in cases {
        let lab = Lab::new();
        change(&lab);
        let done = lab.stage(stage(writer())).await;
        expect(&lab, what, done, wanted, word).await;
    }
}

#[tokio::test]
async fn contexts_of_a_request_reach_nothing() {
    let lab = Lab::new();
    let mut forged = stage(writer());
    for (key, value) in [
        ("nqn", "nqn.2014-08.org.example:root"),
        ("nvmeAddress", "203.0.113.9"),
        ("fs_type", "xfs"),
    ] {
        forged.volume_context.insert(key.into(), value.into());
        forged.publish_context.insert(key.into(), value.into());
    }
    lab.stage(forged).await.unwrap();
    assert_eq!(
        lab.host.log(),
        ["probe", "format ext4", "probe", "mount ext4"],
        "all as the attachment says"
    );
}

#[tokio::test]
async fn another_filesystem_than_on_the_disk() {
    let lab = Lab::new();
    lab.api
        .change(|s| s.volume["status"]["format"] = json!({"state": "Formatted", "fsType": "xfs", "fsUUID": api::UID}));
    lab.host.world().content = Ok(Found::Filesystem {
        fs: "xfs".into(),
        uuid: api::UID.into(),
    });
    let done = lab.stage(stage(writer())).await;
    expect(&lab, "ext4 for an xfs", done, Code::InvalidArgument, "fsType").await;
    assert_eq!(
        lab.api.agent("/failures"),
        json!(null),
        "the request is wrong, not the volume"
    );
}

#[tokio::test]
async fn paths_that_are_something_else() {
    let lab = Lab::new();
    for kind in [Kind::File(true), Kind::File(false), Kind::Block(GONE), Kind::Other] {
        lab.host.world().paths.insert(STAGING.into(), kind);
        let done = lab.stage(stage(writer())).await;
        expect(
            &lab,
            "staging path is no folder",
            done,
            Code::InvalidArgument,
            "no folder",
        )
        .await;
    }
    lab.host.world().paths.remove(std::path::Path::new(STAGING));
    let stranger = Mount {
        device: GONE,
        point: STAGING.into(),
        root: "/".into(),
        fs: "ext4".into(),
        read_only: false,
        mounted_read_only: false,
    };
    // Another device that is alive: that of the disk, under a volume whose disk is another one.
    let mut other = lab.host.world().disk.clone().unwrap();
    other.device = GONE;
    other.nqn = "nqn.2000-02.com.mikrotik:pvc-2".into();
    lab.host.world().disk = Some(other);
    lab.host.world().mounts.push(stranger);
    let done = lab.stage(stage(writer())).await;
    expect(
        &lab,
        "another device is mounted there",
        done,
        Code::AlreadyExists,
        "another device",
    )
    .await;
}

#[tokio::test]
async fn table_of_publish_requests() {
    let with = |change: fn(&mut csi::NodePublishVolumeRequest)| {
        let mut request = publish(writer(), TARGET);
        change(&mut request);
        request
    };
    for (what, request, wanted, word) in [
        (
            "no volume",
            with(|r| r.volume_id.clear()),
            Code::InvalidArgument,
            "volume_id",
        ),
        (
            "no target",
            with(|r| r.target_path.clear()),
            Code::InvalidArgument,
            "target_path",
        ),
        (
            "no capability",
            with(|r| r.volume_capability = None),
            Code::InvalidArgument,
            "volume_capability",
        ),
        (
            "no staging path",
            with(|r| r.staging_target_path.clear()),
            Code::FailedPrecondition,
            "staged first",
        ),
        (
            "target elsewhere",
            with(|r| r.target_path = "/etc".into()),
            Code::InvalidArgument,
            "kubelet",
        ),
        ("not staged", with(|_| {}), Code::FailedPrecondition, "not staged"),
        (
            "as a device",
            with(|r| r.volume_capability = Some(raw())),
            Code::FailedPrecondition,
            "volumeMode",
        ),
        (
            "unknown volume",
            with(|r| r.volume_id = "pvc-2".into()),
            Code::NotFound,
            "volumeHandle",
        ),
    ] {
        let lab = Lab::new();
        let done = lab.publish(request).await;
        expect(&lab, what, done, wanted, word).await;
    }
}

#[tokio::test]
async fn r47_targets_that_are_something_else_stay_as_they_are() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.log();
    for kind in [Kind::File(true), Kind::File(false), Kind::Block(GONE), Kind::Other] {
        lab.host.world().paths.insert(TARGET.into(), kind);
        let refused = lab.publish(publish(writer(), TARGET)).await;
        assert_eq!(code(&refused), Code::InvalidArgument, "{kind:?}");
        assert_eq!(lab.host.log(), [""; 0], "{kind:?}");
    }
    let read_only = csi::NodePublishVolumeRequest {
        readonly: true,
        ..publish(writer(), &TARGET.replace("pod-1", "pod-3"))
    };
    lab.publish(read_only.clone()).await.unwrap();
    let writable = csi::NodePublishVolumeRequest {
        readonly: false,
        ..read_only
    };
    assert_eq!(
        code(&lab.publish(writable).await),
        Code::AlreadyExists,
        "published otherwise"
    );

    let block = Lab::block();
    block.stage(stage(raw())).await.unwrap();
    for kind in [Kind::Folder, Kind::File(true), Kind::Other] {
        block.host.world().paths.insert(NODE_TARGET.into(), kind);
        let refused = block.publish(publish(raw(), NODE_TARGET)).await;
        assert_eq!(code(&refused), Code::InvalidArgument, "{kind:?}");
    }
    assert_eq!(block.host.log(), [""; 0]);
}

#[tokio::test]
async fn unpublish_and_unstage_take_away_only_what_is_theirs() {
    let lab = Lab::new();
    for bad in ["", "/etc", "/k", "/k/../etc", "relative"] {
        assert_eq!(code(&lab.unpublish(bad).await), Code::InvalidArgument, "{bad}");
    }
    for kind in [Kind::File(false), Kind::Other] {
        lab.host.world().paths.insert(TARGET.into(), kind);
        assert_eq!(code(&lab.unpublish(TARGET).await), Code::FailedPrecondition, "{kind:?}");
        lab.host.world().paths.insert(STAGING.into(), kind);
        assert_eq!(code(&lab.unstage().await), Code::FailedPrecondition, "{kind:?}");
    }
    assert_eq!(lab.host.log(), [""; 0]);
}

#[tokio::test]
async fn what_is_advertised() {
    let lab = Lab::new();
    let info = lab
        .node
        .node_get_info(Request::new(csi::NodeGetInfoRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("n1", 128));
    let zone = info.accessible_topology.unwrap().segments;
    assert_eq!(zone["topology.rds.csi.srvlab.io/zone"], "default");
}
