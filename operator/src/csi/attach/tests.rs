//! Requests, conditions and messages, as tables.

use csi_proto::csi::v1::VolumeCapability;
use csi_proto::csi::v1::volume_capability::{AccessMode as Access, AccessType, BlockVolume};
use serde_json::{Value, json};
use tonic::Code;

use super::*;

fn wish(mode: Mode, readonly: bool) -> Wish {
    let capability = VolumeCapability {
        access_mode: Some(Access { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    };
    ControllerPublishVolumeRequest {
        volume_id: "pvc-1".into(),
        node_id: "n1".into(),
        volume_capability: Some(capability),
        readonly,
        ..Default::default()
    }
    .try_into()
    .unwrap()
}

fn block(modes: &[&str]) -> RdsVolumeSpec {
    serde_json::from_value(json!({
        "server": "default", "capacity": "1Gi", "volumeMode": "Block", "accessModes": modes,
    }))
    .unwrap()
}

#[test]
fn modes_of_the_request_become_modes_of_the_attachment() {
    use AccessMode::{ReadOnlyMany, ReadWriteMany, ReadWriteOnce, ReadWriteOncePod};
    for (mode, flag, made, wanted) in [
        (Mode::SingleNodeWriter, false, "ReadWriteOnce", (ReadWriteOnce, false)),
        (Mode::SingleNodeWriter, true, "ReadWriteOnce", (ReadWriteOnce, true)),
        (
            Mode::SingleNodeMultiWriter,
            false,
            "ReadWriteOnce",
            (ReadWriteOnce, false),
        ),
        (
            Mode::SingleNodeSingleWriter,
            false,
            "ReadWriteOncePod",
            (ReadWriteOncePod, false),
        ),
        (
            Mode::SingleNodeReaderOnly,
            false,
            "ReadWriteOnce",
            (ReadWriteOnce, true),
        ),
        (
            Mode::SingleNodeReaderOnly,
            false,
            "ReadWriteOncePod",
            (ReadWriteOncePod, true),
        ),
        (Mode::SingleNodeReaderOnly, false, "ReadOnlyMany", (ReadOnlyMany, true)),
        (Mode::MultiNodeReaderOnly, false, "ReadOnlyMany", (ReadOnlyMany, true)),
        (
            Mode::MultiNodeMultiWriter,
            false,
            "ReadWriteMany",
            (ReadWriteMany, false),
        ),
    ] {
        assert_eq!(
            wish(mode, flag).usage(&block(&[made])).unwrap(),
            wanted,
            "{mode:?} {flag} {made}"
        );
    }
    let mut files = block(&["ReadWriteOnce"]);
    files.volume_mode = None;
    let failure = wish(Mode::SingleNodeWriter, false).usage(&files).unwrap_err();
    assert_eq!(failure.code(), Code::InvalidArgument);
    assert!(
        failure
            .to_string()
            .contains("volumeMode Filesystem, not Block: correct"),
        "{failure}"
    );
}

fn attachment(meta: Value, conditions: Value) -> RdsAttachment {
    let mut object = json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
        "metadata": {"name": "pvc-1-0", "uid": "u"},
        "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
        "status": {"conditions": conditions, "nqn": "nqn.x:pvc-1", "address": "10.1.0.1", "port": 4420, "role": "Primary"},
    });
    if meta.is_string() {
        object["metadata"]["deletionTimestamp"] = meta;
    }
    serde_json::from_value(object).unwrap()
}

fn says(status: &str, reason: &str) -> RdsAttachment {
    let said = json!([{"type": "Admitted", "status": status, "reason": reason, "message": "what and how",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    attachment(Value::Null, said)
}

#[test]
fn b26_answers_follow_from_the_condition() {
    let admitted = Attached {
        role: Some(Role::Primary),
        nqn: "nqn.x:pvc-1".into(),
        address: "10.1.0.1".into(),
        port: 4420,
    };
    assert_eq!(judge(&says("True", "Admitted")), Some(Seen::Admitted(admitted)));
    assert_eq!(
        judge(&says("False", "Conflict")),
        Some(Seen::Conflict("what and how".into()))
    );
    for (reason, code) in [
        ("MigrationLimit", Code::FailedPrecondition),
        ("MigrationOverdue", Code::FailedPrecondition),
        ("MigrationPolicy", Code::FailedPrecondition),
        ("AccessMode", Code::InvalidArgument),
        ("Deleting", Code::Aborted),
    ] {
        let Some(Seen::Refused(failure)) = judge(&says("False", reason)) else {
            panic!("{reason} waits");
        };
        assert_eq!(
            (failure.code(), failure.to_string().as_str()),
            (code, "what and how"),
            "{reason}"
        );
    }
    for (reason, code) in [
        ("Handoff", Code::Aborted),
        ("FencePending", Code::Aborted),
        ("VolumeNotReady", Code::Unavailable),
        ("SomethingNewer", Code::Aborted),
    ] {
        let said = says("False", reason);
        assert_eq!(judge(&said), None, "{reason} is waited for");
        let failure = not_yet("pvc-1", "n1", Some(&said));
        let text = failure.to_string();
        assert_eq!(failure.code(), code, "{reason}");
        assert!(
            text.contains("pvc-1")
                && text.contains("n1")
                && text.contains("what and how")
                && text.contains("call again"),
            "{text}"
        );
    }
    assert_eq!(
        judge(&attachment(json!("2026-01-01T00:00:00Z"), json!([]))),
        Some(Seen::Ending)
    );
    assert_eq!(judge(&attachment(Value::Null, json!([]))), None);
    let silent = not_yet("pvc-1", "n1", None);
    assert_eq!(silent.code(), Code::DeadlineExceeded);
    assert!(
        silent.to_string().contains("check that an operator holds the Lease"),
        "{silent}"
    );
}

#[test]
fn an_admission_without_its_address_is_not_one_yet() {
    let mut half = says("True", "Admitted");
    half.status.as_mut().unwrap().nqn = None;
    assert_eq!(judge(&half), None);
}

#[test]
fn k9_the_publish_context_has_the_keys_of_the_go_driver() {
    let Some(Seen::Admitted(attached)) = judge(&says("True", "Admitted")) else {
        panic!("not admitted");
    };
    let mut spec = block(&["ReadWriteOnce"]);
    let expected = [
        ("nvme_nqn", "nqn.x:pvc-1"),
        ("nvme_address", "10.1.0.1"),
        ("nvme_port", "4420"),
    ];
    let expected: HashMap<_, _> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(attached.context(&spec), expected);
    spec.volume_mode = Some(VolumeMode::Filesystem);
    assert_eq!(attached.context(&spec)["fs_type"], "ext4");
}

#[test]
fn r75_a_difference_names_both_sides() {
    let one = wish(Mode::SingleNodeWriter, false)
        .object(&block(&["ReadWriteOnce"]))
        .unwrap();
    let two = wish(Mode::SingleNodeWriter, true)
        .object(&block(&["ReadWriteOnce"]))
        .unwrap();
    assert_eq!(difference(&one.spec, &one.spec), None);
    let failure = difference(&one.spec, &two.spec).unwrap();
    let text = failure.to_string();
    assert_eq!(failure.code(), Code::AlreadyExists);
    assert!(
        text.contains("ReadWriteOnce read-write") && text.contains("not as ReadWriteOnce read-only"),
        "{text}"
    );
    assert!(text.contains("detach it there first"), "{text}");
    let mut other = one.spec.clone();
    other.node = "n2".into();
    let text = difference(&other, &one.spec).unwrap().to_string();
    assert!(text.contains("n1") && text.contains("n2"), "{text}");
}
