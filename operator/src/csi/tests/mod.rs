//! The services in process, over a real socket, on an API server that records each call.

mod attach;
mod change;
mod create;
pub(super) mod fake;
mod serve;

use std::time::Duration;

use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
use csi_proto::csi::v1 as csi;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

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
