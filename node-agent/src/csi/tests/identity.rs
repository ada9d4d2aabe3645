//! A disk that becomes another one while it is connected is given to nobody, and one that is not recorded yet is waited for.

use serde_json::{Value, json};

use super::api::{CONNECTION, IDENTITY, UID};
use super::host::{DEVICE, OTHER as ANOTHER};
use super::*;

const OTHER: &str = "uuid.6c1dc5a0-0000-4000-8000-00000000000b";

fn becomes(lab: &Lab, identity: Option<&str>, connection: &str) {
    let mut world = lab.host.world();
    let disk = world.disk.as_mut().unwrap();
    disk.identity = identity.map(str::to_owned);
    disk.connections = vec![connection.into()];
}

fn record(lab: &Lab, namespace: Value) {
    lab.api
        .change(|s| s.attachment.as_mut().unwrap()["status"]["agent"]["namespace"] = namespace);
}

fn refused(done: Result<(), Status>) {
    let status = done.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    for words in [VOLUME, NQN, IDENTITY, OTHER, "delete the pods"] {
        assert!(status.message().contains(words), "{status}");
    }
}

#[tokio::test]
async fn i5_another_disk_within_a_connection_is_neither_staged_nor_published() {
    let lab = Lab::new();
    becomes(&lab, Some(OTHER), CONNECTION);
    refused(lab.stage(stage(writer())).await);
    assert_eq!(lab.host.log(), [""; 0], "not even read");
    assert!(lab.api.agent("/failures").is_null(), "no failure for the breaker");
    becomes(&lab, Some(IDENTITY), CONNECTION);
    lab.stage(stage(writer())).await.unwrap();
    lab.host.log();
    becomes(&lab, Some(OTHER), CONNECTION);
    refused(lab.stage(stage(writer())).await);
    refused(lab.publish(publish(writer(), TARGET)).await);
    assert_eq!(lab.host.log(), [""; 0]);
    lab.unstage().await.unwrap();
    assert_eq!(lab.host.log(), ["flush unmount"], "out it always goes");

    let lab = Lab::block();
    lab.stage(stage(raw())).await.unwrap();
    lab.publish(publish(raw(), NODE_TARGET)).await.unwrap();
    assert_eq!(lab.host.log(), ["node"]);
    becomes(&lab, Some(OTHER), CONNECTION);
    refused(lab.stage(stage(raw())).await);
    refused(lab.publish(publish(raw(), NODE_TARGET)).await);
    lab.unpublish(NODE_TARGET).await.unwrap();
    refused(lab.publish(publish(raw(), NODE_TARGET)).await);
    assert_eq!(lab.host.log(), ["remove"]);
}

#[tokio::test]
async fn a_disk_is_used_once_its_identity_is_recorded() {
    let lab = Lab::new();
    let waits = |status: Status| {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("identity"), "{status}");
    };
    record(&lab, Value::Null);
    waits(lab.stage(stage(writer())).await.unwrap_err());
    // A new connection may show another one; the loop records it.
    record(
        &lab,
        json!({"generation": 1, "identity": IDENTITY, "bootID": "b", "connection": "nvme0/6"}),
    );
    becomes(&lab, Some(OTHER), CONNECTION);
    waits(lab.stage(stage(writer())).await.unwrap_err());
    assert_eq!(lab.host.log(), [""; 0]);
    record(
        &lab,
        json!({"generation": 1, "identity": OTHER, "bootID": "b", "connection": CONNECTION}),
    );
    becomes(&lab, None, CONNECTION);
    waits(lab.stage(stage(writer())).await.unwrap_err());
    becomes(&lab, Some(OTHER), CONNECTION);
    lab.stage(stage(writer())).await.unwrap();
}

/// The connection is lost and made anew; the kernel gives the disk another number.
fn connected_anew(lab: &Lab) {
    let connection = "nvme1/9";
    becomes(lab, Some(IDENTITY), connection);
    {
        let mut world = lab.host.world();
        // The number of before belongs to another volume's disk by now.
        world.others.insert(DEVICE);
        let disk = world.disk.as_mut().unwrap();
        (disk.device, disk.path, disk.sequence) = (ANOTHER, "/dev/nvme1n1".into(), Some(2));
    }
    record(
        lab,
        json!({"generation": 1, "identity": IDENTITY, "bootID": "b", "connection": connection}),
    );
}

fn mounted_devices(lab: &Lab) -> Vec<crate::csi::host::Device> {
    lab.host.world().mounts.iter().map(|m| m.device).collect()
}

#[tokio::test]
async fn i5_what_was_read_before_a_wait_is_read_anew_where_the_disk_was_connected_anew() {
    let lab = Lab::new();
    lab.api.change(|s| {
        s.operator = false;
        s.volume["status"]["format"] = json!({"state": "Intent", "attachmentUID": "a", "node": "n1", "fsType": "ext4"});
    });
    let staged = lab.node.node_stage_volume(within("60S", stage(writer())));
    let meanwhile = async {
        while lab.api.agent("/format/fsUUID") != UID {
            tokio::task::yield_now().await;
        }
        // It waits for the operator, with the disk probed and made.
        connected_anew(&lab);
        lab.api.change(|s| {
            s.volume["status"]["format"] = json!({"state": "Formatted", "fsType": "ext4", "fsUUID": UID});
        });
    };
    let (staged, ()) = tokio::join!(staged, meanwhile);
    staged.unwrap();
    assert_eq!(
        lab.host.log(),
        ["probe", "format ext4", "probe", "probe", "check ext4", "mount ext4"]
    );
    assert_eq!(mounted_devices(&lab), [ANOTHER], "never by the number of before");
}

#[tokio::test]
async fn i5_a_mount_of_another_disk_is_taken_back_whatever_its_number() {
    let lab = Lab::new();
    lab.host.world().others.insert(ANOTHER);
    lab.host.world().mounts_instead = Some(ANOTHER);
    let refused = lab.stage(stage(writer())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("it was taken back"), "{refused}");
    assert_eq!(
        lab.host.log(),
        ["probe", "format ext4", "probe", "mount ext4", "flush unmount"]
    );
    assert!(mounted_devices(&lab).is_empty());
    assert!(lab.api.agent("/failures").is_null(), "the volume is not to blame");
    lab.stage(stage(writer())).await.unwrap();
    assert_eq!(mounted_devices(&lab), [DEVICE]);
}
