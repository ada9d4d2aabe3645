//! What kubelet has recorded of a raw block volume: which volume the device nodes of a PersistentVolume are for.
//!
//! The folder of published nodes bears the name of the PersistentVolume, which need not be the volume's. kubelet writes the record
//! before it publishes, and it outlives a reboot as the nodes do.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Of more than we look at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    driver_name: String,
    volume_handle: String,
}

/// Of a node at `<folder>/publish/<PersistentVolume>/<pod>`.
fn record_of(node: &Path) -> Option<PathBuf> {
    let published = node.parent()?;
    let folder = published.parent().filter(|f| f.ends_with("volumeDevices/publish"))?;
    Some(folder.parent()?.join(published.file_name()?).join("data/vol_data.json"))
}

/// The volume of that driver whose node is at that path; `None` where no record says so.
///
/// # Errors
/// When there is a record that cannot be read.
pub(super) fn volume_of(node: &Path, driver: &str) -> Result<Option<String>, Error> {
    let Some(path) = record_of(node) else { return Ok(None) };
    let said = |e: Error| Error::new(e.kind(), format!("cannot read {}: {e}", path.display()));
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(said)?,
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| said(e.into()))?;
    let ours = record.driver_name == driver && !record.volume_handle.is_empty();
    Ok(ours.then_some(record.volume_handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_of_a_node_is_what_kubelet_has_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let devices = folder.path().join("plugins/kubernetes.io/csi/volumeDevices");
        let node = devices.join("publish/claimed/pod-1");
        let ask = |node: &Path| volume_of(node, "driver");
        assert_eq!(ask(&node).unwrap(), None, "no record");
        let record = devices.join("claimed/data/vol_data.json");
        std::fs::create_dir_all(record.parent().unwrap()).unwrap();
        let say = |driver: &str, volume: &str| {
            let text = format!(
                r#"{{"attachmentID": "csi-1", "driverName": "{driver}", "nodeName": "n", "specVolID": "claimed", "volumeHandle": "{volume}"}}"#
            );
            std::fs::write(&record, text).unwrap();
        };
        say("driver", "pvc-1");
        assert_eq!(ask(&node).unwrap().as_deref(), Some("pvc-1"));
        for elsewhere in ["publish/pod-1", "claimed/dev/pod-1", "publish/claimed/pod-1/x"] {
            assert_eq!(ask(&devices.join(elsewhere)).unwrap(), None, "{elsewhere}");
        }
        say("another", "pvc-1");
        assert_eq!(ask(&node).unwrap(), None, "another driver's");
        say("driver", "");
        assert_eq!(ask(&node).unwrap(), None);
        std::fs::write(&record, "{").unwrap();
        assert!(ask(&node).is_err(), "half a record is none");
    }
}
