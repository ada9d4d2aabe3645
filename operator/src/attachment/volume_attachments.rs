//! What Kubernetes holds for attached: VolumeAttachments with their volumes, and what csi-attacher asks for them. Pure.

use std::collections::BTreeMap;

use csi_proto::csi::v1 as csi;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;

/// A VolumeAttachment that is attached.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) va: VolumeAttachment,
    /// `None`: somebody has removed it by force.
    pub(super) volume: Option<PersistentVolume>,
    /// Name of the RdsVolume.
    pub(super) handle: String,
}

/// Those of this driver that are attached. One without a PersistentVolume of this driver is nobody's here; where that object is
/// missing, its volume has the name of it, as every one has that was provisioned.
pub(super) fn wanted(driver: &str, all: Vec<VolumeAttachment>, volumes: Vec<PersistentVolume>) -> Vec<Wanted> {
    let volumes: BTreeMap<String, PersistentVolume> = volumes.into_iter().map(|v| (v.name_any(), v)).collect();
    let ours = all.into_iter().filter(|a| a.spec.attacher == driver && is_attached(a));
    let known = ours.filter_map(|va| {
        let name = va.spec.source.persistent_volume_name.clone()?;
        let volume = volumes.get(&name).cloned();
        let handle = match &volume {
            Some(volume) => {
                let source = volume.spec.as_ref()?.csi.as_ref().filter(|c| c.driver == driver)?;
                source.volume_handle.clone()
            }
            None => name,
        };
        Some(Wanted { va, volume, handle })
    });
    known.collect()
}

pub(super) fn is_attached(va: &VolumeAttachment) -> bool {
    va.status.as_ref().is_some_and(|s| s.attached)
}

/// What csi-attacher asks for such a volume.
pub(super) fn request(volume: &PersistentVolume, handle: &str, node: &str) -> csi::ControllerPublishVolumeRequest {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
    let spec = volume.spec.clone().unwrap_or_default();
    let source = spec.csi.unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    let mode = match (has("ReadWriteMany"), has("ReadOnlyMany"), has("ReadWriteOnce")) {
        (true, _, _) => Mode::MultiNodeMultiWriter,
        (false, true, true) => Mode::MultiNodeSingleWriter,
        (false, true, false) => Mode::MultiNodeReaderOnly,
        (false, false, _) if has("ReadWriteOncePod") => Mode::SingleNodeSingleWriter,
        (false, false, _) => Mode::SingleNodeMultiWriter,
    };
    let access_type = if spec.volume_mode.as_deref() == Some("Block") {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: source.fs_type.unwrap_or_default(),
            mount_flags: spec.mount_options.unwrap_or_default(),
            ..MountVolume::default()
        })
    };
    csi::ControllerPublishVolumeRequest {
        volume_id: handle.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(access_type),
        }),
        readonly: source.read_only.unwrap_or_default(),
        ..csi::ControllerPublishVolumeRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use rds_crds::volume::{AccessMode, RdsVolumeSpec};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_this_driver_has_attached_counts() {
        let va = |name: &str, attacher: &str, volume: serde_json::Value, attached: bool| -> VolumeAttachment {
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"attached": attached},
                "spec": {"attacher": attacher, "nodeName": "n1", "source": volume}}))
            .unwrap()
        };
        let of = |name: &str| json!({"persistentVolumeName": name});
        let volume = |name: &str, spec: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let all = vec![
            va("plain", "d", of("pv-1"), true),
            va("not yet", "d", of("pv-1"), false),
            va("of another driver", "e", of("pv-1"), true),
            va("inline", "d", json!({"inlineVolumeSpec": {}}), true),
            va("volume of another driver", "d", of("pv-2"), true),
            va("no CSI volume", "d", of("pv-3"), true),
            va("volume removed by force", "d", of("pv-4"), true),
        ];
        let volumes = vec![
            volume("pv-1", json!({"csi": {"driver": "d", "volumeHandle": "by-hand"}})),
            volume("pv-2", json!({"csi": {"driver": "e", "volumeHandle": "theirs"}})),
            volume("pv-3", json!({})),
        ];
        let found = wanted("d", all, volumes);
        let found: Vec<_> = found
            .iter()
            .map(|w| (w.va.name_any(), w.handle.as_str(), w.volume.is_some()))
            .collect();
        assert_eq!(
            found,
            [
                ("plain".to_owned(), "by-hand", true),
                ("volume removed by force".to_owned(), "pv-4", false)
            ]
        );
    }

    #[test]
    fn a_restored_attachment_is_the_one_that_publish_would_make() {
        let volume = |modes: serde_json::Value, mode: &str, read_only: bool| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pvc-1"}, "spec": {
                "accessModes": modes, "volumeMode": mode, "mountOptions": ["noatime"],
                "csi": {"driver": "d", "volumeHandle": "pvc-1", "fsType": "ext4", "readOnly": read_only},
            }}))
            .unwrap()
        };
        let spec = |modes: serde_json::Value, mode: &str| -> RdsVolumeSpec {
            serde_json::from_value(json!({"server": "s", "capacity": "1Gi", "accessModes": modes, "volumeMode": mode}))
                .unwrap()
        };
        for (modes, mode, read_only, wanted) in [
            (
                json!(["ReadWriteOnce"]),
                "Filesystem",
                false,
                (AccessMode::ReadWriteOnce, None),
            ),
            (
                json!(["ReadWriteOnce"]),
                "Filesystem",
                true,
                (AccessMode::ReadWriteOnce, Some(true)),
            ),
            (
                json!(["ReadWriteOncePod"]),
                "Filesystem",
                false,
                (AccessMode::ReadWriteOncePod, None),
            ),
            (
                json!(["ReadOnlyMany"]),
                "Filesystem",
                false,
                (AccessMode::ReadOnlyMany, Some(true)),
            ),
            (
                json!(["ReadWriteMany"]),
                "Block",
                false,
                (AccessMode::ReadWriteMany, None),
            ),
        ] {
            let asked = request(&volume(modes.clone(), mode, read_only), "pvc-1", "n1");
            let made = crate::csi::attachment(asked, &spec(modes, mode)).unwrap();
            assert_eq!((made.spec.access_mode, made.spec.read_only), wanted);
            assert_eq!(made.finalizers(), [rds_crds::names::FINALIZER]);
            assert_eq!((made.spec.volume.as_str(), made.spec.node.as_str()), ("pvc-1", "n1"));
        }
    }
}
