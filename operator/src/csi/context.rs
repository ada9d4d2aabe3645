//! What Kubernetes is told of a volume: the VolumeContext that travels in the PV (K8), sizes as measured.
//!
//! Informational: nodes use what the attachment says. Keys and defaults are those of the Go driver, so that its nodes and
//! tools read ours.

use std::collections::HashMap;

use csi_proto::csi::v1::{Topology, Volume};
use kube::ResourceExt;
use rds_crds::{RdsServer, RdsVolume};

use super::parameters::MIGRATION_DEFAULT;

/// Default port of NVMe/TCP.
const NVME_PORT: u16 = 4420;

/// The VolumeContext. Keys whose value is not known are left out.
#[must_use]
pub fn volume_context(volume: &RdsVolume, server: Option<&RdsServer>) -> HashMap<String, String> {
    let spec = &volume.spec;
    let status = volume.status.clone().unwrap_or_default();
    let connection = spec.connection.clone().unwrap_or_default();
    let storage = server.map(|s| &s.spec.storage);
    let port = status
        .port
        .or(connection.port)
        .or_else(|| storage.and_then(|s| s.port))
        .unwrap_or(NVME_PORT);
    let known = [
        ("rdsAddress", server.map(|s| s.spec.management.address.clone())),
        (
            "nvmeAddress",
            status
                .address
                .or(connection.address)
                .or_else(|| storage.map(|s| s.address.clone())),
        ),
        ("nvmePort", Some(port.to_string())),
        ("nqn", spec.nqn.clone().or(status.nqn)),
        ("volumePath", spec.path.clone().or(status.path)),
        ("ctrlLossTmo", Some(connection.ctrl_loss_tmo.unwrap_or(-1).to_string())),
        (
            "reconnectDelay",
            Some(connection.reconnect_delay.unwrap_or(5).to_string()),
        ),
        ("keepAliveTmo", Some(connection.keep_alive_tmo.unwrap_or(0).to_string())),
        ("ioQueues", connection.io_queues.map(|n| n.to_string())),
        (
            "migrationTimeoutSeconds",
            Some(spec.migration_timeout_seconds.unwrap_or(MIGRATION_DEFAULT).to_string()),
        ),
    ];
    known
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

/// The measured size; 0, which CSI reads as unknown, before it was measured.
#[must_use]
pub fn measured(volume: &RdsVolume) -> i64 {
    let size = volume.status.as_ref().and_then(|s| s.capacity).unwrap_or_default();
    i64::try_from(size.bytes()).unwrap_or(i64::MAX)
}

/// The volume as CSI tells it.
#[must_use]
pub fn volume(volume: &RdsVolume, server: Option<&RdsServer>, accessible_topology: Vec<Topology>) -> Volume {
    Volume {
        capacity_bytes: measured(volume),
        volume_id: volume.name_any(),
        volume_context: volume_context(volume, server),
        content_source: None,
        accessible_topology,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn k8_keys_and_defaults() {
        let server: RdsServer = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "default"},
            "spec": {"management": {"address": "10.0.0.1", "user": "csi"}, "secretRef": {"name": "s"},
                     "storage": {"address": "10.1.0.1"}, "basePath": "/pool/csi"},
        }))
        .unwrap();
        let made: RdsVolume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1"},
            "spec": {"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"],
                     "nqn": "nqn.2000-02.com.mikrotik:pvc-1", "path": "/pool/csi/pvc-1.img"},
            "status": {"capacity": "1Gi"},
        }))
        .unwrap();
        let told = volume(&made, Some(&server), Vec::new());
        assert_eq!(told.capacity_bytes, 1 << 30);
        let expected = [
            ("rdsAddress", "10.0.0.1"),
            ("nvmeAddress", "10.1.0.1"),
            ("nvmePort", "4420"),
            ("nqn", "nqn.2000-02.com.mikrotik:pvc-1"),
            ("volumePath", "/pool/csi/pvc-1.img"),
            ("ctrlLossTmo", "-1"),
            ("reconnectDelay", "5"),
            ("keepAliveTmo", "0"),
            ("migrationTimeoutSeconds", "300"),
        ];
        assert_eq!(
            told.volume_context,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }
}
