//! Requests to the CSI Controller: what the sidecars would ask, and what they would never ask.

use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi_proto::csi::v1 as csi;

/// How a volume is used: with a filesystem, or as a raw disk.
#[must_use]
pub fn capability(mode: Mode, block: bool) -> csi::VolumeCapability {
    let access_type = match block {
        true => AccessType::Block(BlockVolume {}),
        false => AccessType::Mount(MountVolume::default()),
    };
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(access_type),
    }
}

/// CreateVolume, 1 GiB on that RdsServer.
#[must_use]
pub fn create(name: &str, server: &str, capabilities: Vec<csi::VolumeCapability>) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: 1 << 30,
            limit_bytes: 0,
        }),
        volume_capabilities: capabilities,
        parameters: [("server".to_owned(), server.to_owned())].into(),
        ..Default::default()
    }
}

/// ControllerPublishVolume.
#[must_use]
pub fn publish(volume: &str, node: &str, capability: csi::VolumeCapability) -> csi::ControllerPublishVolumeRequest {
    csi::ControllerPublishVolumeRequest {
        volume_id: volume.into(),
        node_id: node.into(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

/// ControllerUnpublishVolume.
#[must_use]
pub fn unpublish(volume: &str, node: &str) -> csi::ControllerUnpublishVolumeRequest {
    csi::ControllerUnpublishVolumeRequest {
        volume_id: volume.into(),
        node_id: node.into(),
        ..Default::default()
    }
}
