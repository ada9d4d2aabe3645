//! What a volume goes through on a node.

use serde_json::json;
use tokio::time::Instant;

use super::host::{DEVICE, GONE, OTHER};
use super::*;
use crate::csi::host::{Device, Flushed, Found, HostError, Kind, Mount, Verdict};

fn formatted(lab: &Lab) {
    lab.api
        .change(|s| s.volume["status"]["format"] = json!({"state": "Formatted", "fsType": "ext4", "fsUUID": api::UID}));
    lab.host.world().content = Ok(Found::Filesystem {
        fs: "ext4".into(),
        uuid: api::UID.into(),
    });
}

fn with_options(options: &[&str]) -> csi::VolumeCapability {
    let mount = MountVolume {
        mount_flags: options.iter().map(|o| (*o).to_owned()).collect(),
        ..MountVolume::default()
    };
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        ..writer()
    }
}

fn mount_of(device: Device, point: &str) -> Mount {
    Mount {
        device,
        point: point.into(),
        root: "/".into(),
        fs: "ext4".into(),
        read_only: false,
        mounted_read_only: false,
    }
}

#[tokio::test]
async fn i12_a_new_volume_is_formatted_once_and_every_call_may_come_twice() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.host.log(), ["probe", "format ext4", "probe", "mount ext4"]);
    assert_eq!(lab.api.condition("Staged"), "True Mounted");
    assert_eq!(lab.api.condition("Healthy"), "True Checked");
    assert_eq!(lab.api.agent("/successes"), 1);
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.host.log(), [""; 0], "staged is staged");
    assert_eq!(lab.api.agent("/successes"), 1);
    for _ in 0..2 {
        lab.publish(publish(writer(), TARGET)).await.unwrap();
    }
    assert_eq!(lab.host.log(), ["bind"]);
    let busy = lab.unstage().await.unwrap_err();
    assert_eq!(busy.code(), Code::FailedPrecondition, "{busy}");
    assert!(busy.message().contains(TARGET), "{busy}");
    assert_eq!(lab.host.log(), [""; 0], "never others' mounts (B67)");
    for _ in 0..2 {
        lab.unpublish(TARGET).await.unwrap();
    }
    assert_eq!(lab.host.log(), ["unmount", "remove"]);
    for _ in 0..2 {
        lab.unstage().await.unwrap();
    }
    assert_eq!(lab.host.log(), ["flush unmount"]);
    assert_eq!(lab.api.condition("Staged"), "False Unstaged");
}

#[tokio::test]
async fn b67_a_mount_seen_twice_is_one_mount_and_another_one_is_not() {
    let lab = Lab::new();
    formatted(&lab);
    for (mirrored, point) in [
        (true, format!("/mnt/large{STAGING}")),
        (false, format!("/mnt/large{STAGING}")),
        (true, "/mnt/elsewhere".into()),
    ] {
        lab.stage(stage(writer())).await.unwrap();
        lab.host.log();
        lab.host.world().mirrored = mirrored;
        lab.host.world().mounts.push(mount_of(DEVICE, &point));
        let ended = lab.unstage().await;
        let seen_twice = point.ends_with(STAGING);
        if mirrored && seen_twice {
            ended.unwrap();
            assert_eq!(lab.host.log(), ["flush unmount"]);
            continue;
        }
        let busy = ended.unwrap_err();
        assert_eq!(busy.code(), Code::FailedPrecondition, "{busy}");
        assert!(busy.message().contains(&point), "{busy}");
        let said = lab.host.log();
        assert_eq!(
            said == ["flush unmount"],
            seen_twice,
            "never others' mounts (B67): {said:?}"
        );
        lab.host.world().mounts.clear();
    }
}

#[tokio::test]
async fn an_existing_filesystem_is_checked_and_mounted_and_never_made_anew() {
    let lab = Lab::new();
    formatted(&lab);
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.host.log(), ["probe", "check ext4", "mount ext4"]);
    lab.unstage().await.unwrap();
    lab.host.log();
    lab.host.world().check = Verdict::Skipped("e2fsck is not there".into());
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.api.condition("Healthy"), "True CheckSkipped");
}

#[tokio::test]
async fn d6_no_mount_while_the_operator_is_silent() {
    let lab = Lab::new();
    lab.api.change(|s| s.operator = false);
    let waits = lab.stage(stage(writer())).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable);
    assert!(waits.message().contains("operator"), "{waits}");
    assert_eq!(lab.host.log(), ["probe"]);
    assert_eq!(
        lab.api.agent("/failures"),
        json!(null),
        "that is no failure of the volume"
    );
    // Its answer comes later, as after a restart of everything.
    lab.api.change(|s| {
        s.operator = true;
        s.volume["status"]["format"] = json!({"state": "Intent", "attachmentUID": "a", "node": "n1", "fsType": "ext4"});
    });
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.host.log(), ["probe", "format ext4", "probe", "mount ext4"]);
}

#[tokio::test]
async fn i1_what_cannot_be_read_or_is_not_blank_is_never_formatted() {
    for (content, code) in [
        (Err(HostError::Volume("read error at 4096".into())), Code::Internal),
        (Ok(Found::Foreign("a LUKS header".into())), Code::FailedPrecondition),
    ] {
        let lab = Lab::new();
        lab.host.world().content = content;
        let refused = lab.stage(stage(writer())).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(lab.host.log(), ["probe"]);
        assert_eq!(lab.api.agent("/failures"), 1);
        assert_eq!(lab.api.agent("/failuresInRow"), 1);
        assert!(
            lab.api.condition("Healthy").starts_with("False"),
            "{}",
            lab.api.condition("Healthy")
        );
        lab.host.world().content = Ok(Found::Blank);
        lab.stage(stage(writer())).await.unwrap();
        assert_eq!(lab.api.agent("/failures"), 1, "it only grows");
        assert_eq!(
            lab.api.agent("/failuresInRow"),
            json!(null),
            "a success ends the row (R36)"
        );
        assert_eq!(lab.api.condition("Healthy"), "True Checked");
    }
}

#[tokio::test]
async fn i9_a_damaged_filesystem_is_not_mounted() {
    let lab = Lab::new();
    formatted(&lab);
    lab.host.world().check = Verdict::Damaged("e2fsck says 4".into());
    let refused = lab.stage(stage(writer())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("Repair it"), "{refused}");
    assert_eq!(lab.host.log(), ["probe", "check ext4"]);
    assert_eq!(lab.api.condition("Healthy"), "False Damaged");
}

#[tokio::test]
async fn i3_a_reader_writes_nothing() {
    let lab = Lab::new();
    formatted(&lab);
    lab.api
        .change(|s| s.attachment.as_mut().unwrap()["spec"]["readOnly"] = json!(true));
    let reader = mounted(Mode::MultiNodeReaderOnly);
    lab.host.world().check = Verdict::Dirty;
    let refused = lab.stage(stage(reader.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("once read-write"), "{refused}");
    assert_eq!(lab.host.log(), ["read-only", "probe", "look"]);
    lab.host.world().check = Verdict::Good;
    lab.stage(stage(reader.clone())).await.unwrap();
    assert_eq!(lab.host.log(), ["probe", "look", "mount-ro ext4"]);
    lab.publish(publish(reader, TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["bind-ro"]);
}

#[tokio::test]
async fn a_filesystem_that_the_kernel_made_read_only_is_not_given_to_a_writer() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.log();
    lab.host.world().mounts[0].read_only = true;
    let refused = lab.publish(publish(writer(), TARGET)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("has become read-only"), "{refused}");
    assert_eq!(lab.host.log(), [""; 0]);
    assert_eq!(lab.api.condition("Healthy"), "False TurnedReadOnly");
    let reader = csi::NodePublishVolumeRequest {
        readonly: true,
        ..publish(writer(), TARGET)
    };
    lab.publish(reader).await.unwrap();
    let mut flags = publish(writer(), &TARGET.replace("pod-1", "pod-2"));
    flags.volume_capability = Some(with_options(&["noatime,ro"]));
    lab.publish(flags).await.unwrap();
    lab.api.change(|s| s.volume["spec"]["mountOptions"] = json!(["ro"]));
    let third = TARGET.replace("pod-1", "pod-3");
    lab.publish(publish(writer(), &third)).await.unwrap();
    assert_eq!(lab.host.log(), ["bind-ro", "bind-ro", "bind-ro"]);
}

#[tokio::test]
async fn a_filesystem_that_was_shut_down_without_a_word_in_the_mounts_is_not_given_to_a_writer() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    lab.host.log();
    let second = TARGET.replace("pod-1", "pod-2");
    lab.host.world().refuses_writes = Err(HostError::Host("no answer within 30s".into()));
    let waits = lab.publish(publish(writer(), &second)).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert_eq!(
        lab.api.condition("Healthy"),
        "True Checked",
        "no answer is no error of it"
    );
    lab.host.world().refuses_writes = Ok(Some("Input/output error".into()));
    let refused = lab.publish(publish(writer(), &second)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("Input/output error"), "{refused}");
    assert_eq!(lab.api.condition("Healthy"), "False TurnedReadOnly");
    assert_eq!(lab.host.log(), [""; 0]);
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    let reader = csi::NodePublishVolumeRequest {
        readonly: true,
        ..publish(writer(), &second)
    };
    lab.publish(reader).await.unwrap();
    assert_eq!(
        lab.host.log(),
        ["bind-ro"],
        "what is published stays, and readers may read"
    );
}

#[tokio::test]
async fn r37_an_open_breaker_touches_nothing() {
    let lab = Lab::new();
    lab.api.change(|s| {
        s.volume["status"]["circuitBreaker"] = json!({"state": "Open", "consecutiveFailures": 3, "lastFailure": "mkfs",
            "retryAt": "2026-01-01T00:05:00Z"});
    });
    let refused = lab.stage(stage(writer())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("after 3 failures"), "{refused}");
    assert_eq!(lab.host.log(), [""; 0]);
}

#[tokio::test]
async fn d5_no_new_use_while_a_fence_is_owed() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    lab.host.log();
    lab.api.change(|s| {
        s.volume["status"]["conditions"] = json!([{"type": "FencePending", "status": "True", "reason": "Deferred",
            "message": "node n2 is lost", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    });
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    let other = TARGET.replace("pod-1", "pod-2");
    let refused = lab.publish(publish(writer(), &other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(lab.host.log(), [""; 0]);
    // What goes, goes; but nothing begins anew.
    lab.unpublish(TARGET).await.unwrap();
    lab.unstage().await.unwrap();
    lab.host.log();
    assert_eq!(code(&lab.stage(stage(writer())).await), Code::Unavailable);
    assert_eq!(lab.host.log(), [""; 0]);
}

#[tokio::test]
async fn i7_unstage_waits_for_a_target_that_is_away_and_says_a_loss_loudly() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.log();
    lab.host.world().disk.as_mut().unwrap().live = false;
    let waits = lab.unstage().await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable);
    assert_eq!(lab.host.log(), [""; 0], "an unmount would hang");
    lab.host.world().disk = None;
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["unmount"], "there is nothing to write to");
    assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
    // The word stands.
    lab.host.world().disk = Fake::new().world().disk.clone();
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
    // Another loss is said beside it.
    lab.host.world().flushed = Flushed::Lost("syncfs: EIO".into());
    lab.unstage().await.unwrap();
    let said = lab.api.agent("/conditions").to_string();
    assert!(
        said.contains("device was gone") && said.contains("syncfs: EIO"),
        "{said}"
    );
}

#[tokio::test]
async fn what_was_mounted_read_only_has_nothing_to_lose() {
    let lab = Lab::new();
    formatted(&lab);
    lab.api
        .change(|s| s.attachment.as_mut().unwrap()["spec"]["readOnly"] = json!(true));
    let reader = mounted(Mode::MultiNodeReaderOnly);
    lab.stage(stage(reader.clone())).await.unwrap();
    let disk = lab.host.world().disk.take();
    lab.unstage().await.unwrap();
    assert_eq!(lab.api.condition("Healthy"), "True Checked");
    assert!(lab.host.world().mounts.is_empty());
    // The same where the next stage finds it, and where the kernel tells of it.
    lab.host.world().disk = disk;
    lab.stage(stage(reader.clone())).await.unwrap();
    lab.host.world().mounts[0].device = GONE;
    lab.stage(stage(reader)).await.unwrap();
    lab.host.world().flushed = Flushed::Lost("the disk went".into());
    lab.unstage().await.unwrap();
    assert_eq!(lab.api.condition("Healthy"), "True Checked");
}

#[tokio::test]
async fn i7_what_became_read_only_after_an_error_had_something_to_lose() {
    for again in [false, true] {
        let lab = Lab::new();
        lab.stage(stage(writer())).await.unwrap();
        let mut lost = mount_of(GONE, STAGING);
        lost.read_only = true;
        lab.host.world().mounts = vec![lost];
        if again {
            lab.stage(stage(writer())).await.unwrap();
        } else {
            lab.unstage().await.unwrap();
        }
        assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
    }
}

#[tokio::test]
async fn i7_what_the_kernel_says_of_a_loss_is_told_and_a_held_device_is_not_free() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.world().flushed = Flushed::Lost("syncfs: EIO".into());
    lab.host.world().held = true;
    let waits = lab.unstage().await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
    let again = lab.unstage().await.unwrap_err();
    assert_eq!(again.code(), Code::Unavailable, "not in mountinfo proves nothing");
    lab.host.world().held = false;
    lab.unstage().await.unwrap();
}

#[tokio::test]
async fn i7_a_loss_is_stored_before_the_mount_goes_and_however_late() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.log();
    lab.host.world().flushed = Flushed::Lost("syncfs: EIO".into());
    lab.api.change(|s| s.down = true);
    assert_eq!(code(&lab.unstage().await), Code::DeadlineExceeded);
    assert_eq!(code(&lab.unstage().await), Code::Aborted, "the volume waits for that");
    assert_eq!(lab.host.log(), [""; 0], "it is still mounted");
    lab.api.change(|s| s.down = false);
    while code(&lab.unstage().await) == Code::Aborted {
        tokio::task::yield_now().await;
    }
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["flush unmount"]);
    assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
}

#[tokio::test]
async fn i7_a_loss_without_an_attachment_is_kept_for_the_next_one() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.host.world().flushed = Flushed::Lost("syncfs: EIO".into());
    lab.api.change(|s| s.attachment = None);
    // A folder of that name cannot be replaced by a file.
    let full = lab.state.path().join("unreported-losses.json.new");
    std::fs::create_dir(&full).unwrap();
    lab.host.log();
    assert_eq!(code(&lab.unstage().await), Code::DeadlineExceeded);
    assert_eq!(lab.host.log(), [""; 0], "it is still mounted");
    std::fs::remove_dir(&full).unwrap();
    while code(&lab.unstage().await) == Code::Aborted {
        tokio::task::yield_now().await;
    }
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["flush unmount"]);
    let kept = UnreportedLosses::load(lab.state.path())
        .unwrap()
        .of(VOLUME, api::UID)
        .unwrap();
    assert!(
        kept.contains("syncfs: EIO") && kept.contains("node n1 had no RdsAttachment"),
        "{kept}"
    );
}

#[tokio::test]
async fn a_stale_mount_is_cleared_by_the_next_stage() {
    let lab = Lab::new();
    formatted(&lab);
    lab.host.world().mounts.push(mount_of(GONE, STAGING));
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.host.log(), ["unmount", "probe", "check ext4", "mount ext4"]);
    assert_eq!(lab.api.condition("Healthy"), "False PossibleDataLoss");
}

#[tokio::test]
async fn r38_what_could_not_be_staged_anew_is_not_said_to_be_staged() {
    let lab = Lab::new();
    formatted(&lab);
    // The kernel has dropped the disk under the mount, and it is not back.
    lab.stage(stage(writer())).await.unwrap();
    lab.host.world().mounts[0].device = GONE;
    let disk = lab.host.world().disk.take();
    assert_eq!(code(&lab.stage(stage(writer())).await), Code::Unavailable);
    assert_eq!(
        lab.api.condition("Staged"),
        "False Unstaged",
        "whoever would try it is seen"
    );
    lab.host.world().disk = disk;
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(lab.api.condition("Staged"), "True Mounted");
    // It is gone, and nobody could say so.
    lab.host.world().mounts.clear();
    lab.host.world().content = Err(HostError::Volume("read: EIO".into()));
    assert_eq!(code(&lab.stage(stage(writer())).await), Code::Internal);
    assert_eq!(lab.api.agent("/failures"), 1);
    assert_eq!(
        lab.api.condition("Staged"),
        "False Unstaged",
        "in the write that counts"
    );
}

#[tokio::test]
async fn a_block_volume_is_published_as_a_node_and_never_formatted() {
    let lab = Lab::block();
    let early = lab.publish(publish(raw(), NODE_TARGET)).await;
    assert_eq!(code(&early), Code::FailedPrecondition, "not staged");
    for _ in 0..2 {
        lab.stage(stage(raw())).await.unwrap();
    }
    assert_eq!(lab.host.log(), [""; 0], "staging mounts nothing");
    assert_eq!(lab.api.condition("Staged"), "True RawDevice");
    lab.api
        .change(|s| assert_eq!(s.volume["status"]["format"]["state"], "UsedAsBlock"));
    for _ in 0..2 {
        lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    }
    assert_eq!(lab.host.log(), ["node"]);
    let busy = lab.unstage().await.unwrap_err();
    assert!(busy.message().contains(NODE_TARGET), "{busy}");
    lab.unpublish(NODE_TARGET).await.unwrap();
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["remove"]);
    assert_eq!(lab.api.condition("Staged"), "False Unstaged");
}

#[tokio::test]
async fn the_numbers_of_a_device_node_are_verified_at_every_publish() {
    let lab = Lab::block();
    lab.stage(stage(raw())).await.unwrap();
    lab.host.world().paths.insert(NODE_TARGET.into(), Kind::Block(GONE));
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["remove", "node"], "an old one goes");
    let mut other = lab.host.world().disk.clone().unwrap();
    other.device = OTHER;
    lab.host.world().disk = Some(other);
    lab.host.world().paths.insert(NODE_TARGET.into(), Kind::Block(DEVICE));
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["remove", "node"], "connected anew under other numbers");
}

#[tokio::test]
async fn i3_a_node_that_an_earlier_call_left_is_made_whole() {
    let lab = Lab::block();
    lab.stage(stage(raw())).await.unwrap();
    lab.host.world().nodes_work = Err(HostError::Host("mounted with nodev".into()));
    for _ in 0..2 {
        let refused = lab.publish(publish(raw(), NODE_TARGET)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    lab.host.world().nodes_work = Ok(());
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["node"]);
    // A reader's device is protected, whoever made the node.
    lab.api
        .change(|s| s.attachment.as_mut().unwrap()["spec"]["readOnly"] = json!(true));
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["read-only"]);
}

#[tokio::test]
async fn b9_a_node_with_the_number_of_another_volumes_disk_is_made_anew() {
    let lab = Lab::block();
    lab.stage(stage(raw())).await.unwrap();
    // The node has rebooted, and two disks have changed their numbers.
    lab.host.world().others.insert(OTHER);
    lab.host.world().paths.insert(NODE_TARGET.into(), Kind::Block(OTHER));
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["remove", "node"]);
    let published = lab.host.world().paths[std::path::Path::new(NODE_TARGET)];
    assert_eq!(published, Kind::Block(DEVICE));
}

#[tokio::test]
async fn b9_what_is_left_in_the_folder_of_another_volume_does_not_hold_this_one() {
    let lab = Lab::block();
    lab.stage(stage(raw())).await.unwrap();
    let theirs = NODE_TARGET.replace("pvc-1", "pvc-2");
    lab.host
        .world()
        .paths
        .insert(theirs.clone().into(), Kind::Block(DEVICE));
    let unstage = |what: &'static str| {
        let (lab, theirs) = (&lab, theirs.clone());
        async move {
            let refused = lab.unstage().await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused}");
            assert!(refused.message().contains(&theirs), "{what}: {refused}");
            assert_eq!(lab.host.log(), [""; 0], "{what}");
        }
    };
    unstage("nobody knows whose it is").await;
    lab.host.world().volumes.insert(theirs.clone().into(), VOLUME.into());
    unstage("another PersistentVolume of this volume").await;
    lab.host.world().volumes.insert(theirs.clone().into(), "pvc-2".into());
    let busy = lab.node.in_flight.enter("pvc-2", Instant::now()).unwrap();
    assert_eq!(
        code(&lab.unstage().await),
        Code::Aborted,
        "it may be made anew just now"
    );
    drop(busy);
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["remove"]);
    assert_eq!(lab.api.condition("Staged"), "False Unstaged");
}

#[tokio::test]
async fn i15_expand_waits_for_the_kernel_and_grows_what_is_mounted() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    lab.host.log();
    let waits = lab.expand(TARGET, 2 << 30).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert_eq!(lab.host.log(), ["rescan"]);
    lab.host.world().grows_to = Some(2 << 30);
    assert_eq!(lab.expand(TARGET, 2 << 30).await.unwrap(), 2 << 30);
    assert_eq!(lab.host.log(), ["rescan", "grow ext4"]);
    assert_eq!(lab.api.agent("/size"), "2Gi");
    let nowhere = TARGET.replace("pod-1", "pod-9");
    assert_eq!(lab.expand(&nowhere, 1).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_growth_waits_for_a_disk_that_is_away() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    lab.host.log();
    let nowhere = TARGET.replace("pod-1", "pod-9");
    // kubelet takes NotFound for the end of it.
    let disk = lab.host.world().disk.take();
    for path in [TARGET, &nowhere] {
        let waits = lab.expand(path, 1).await.unwrap_err();
        assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    }
    // Connected anew by another number: the pod's mount is of the device that is gone.
    lab.host.world().disk = disk;
    lab.host.world().disk.as_mut().unwrap().device = OTHER;
    let waits = lab.expand(TARGET, 1).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    lab.host.world().paths.insert(NODE_TARGET.into(), Kind::Block(GONE));
    let waits = lab.expand(NODE_TARGET, 1).await.unwrap_err();
    assert_eq!(waits.code(), Code::Unavailable, "{waits}");
    assert_eq!(lab.expand(&nowhere, 1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(lab.host.log(), [""; 0]);
}

#[tokio::test]
async fn b73_stats_of_both_kinds_without_the_api_server() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.api.change(|s| s.down = true);
    let ask = |path: &str| csi::NodeGetVolumeStatsRequest {
        volume_id: VOLUME.into(),
        volume_path: path.into(),
        ..Default::default()
    };
    let told = lab
        .node
        .node_get_volume_stats(soon(ask(STAGING)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(told.usage.len(), 2);
    assert_eq!(
        (told.usage[0].total, told.usage[0].used, told.usage[0].available),
        (100, 40, 60)
    );
    let none = lab.node.node_get_volume_stats(soon(ask(TARGET))).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    lab.host.world().paths.insert(NODE_TARGET.into(), Kind::Block(DEVICE));
    let told = lab
        .node
        .node_get_volume_stats(soon(ask(NODE_TARGET)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((told.usage.len(), told.usage[0].total), (1, 1 << 30));
}

#[tokio::test]
async fn b53_an_api_server_that_is_away_is_unavailable_and_the_end_of_a_pod_does_not_need_it() {
    let lab = Lab::new();
    lab.stage(stage(writer())).await.unwrap();
    lab.publish(publish(writer(), TARGET)).await.unwrap();
    lab.api.change(|s| s.down = true);
    assert_eq!(code(&lab.stage(stage(writer())).await), Code::Unavailable);
    assert_eq!(code(&lab.publish(publish(writer(), TARGET)).await), Code::Unavailable);
    lab.unpublish(TARGET).await.unwrap();
    lab.unstage().await.unwrap();
    assert!(lab.host.world().mounts.is_empty());
}
