//! Which pods use a disk, from mounts and device nodes below kubelet's folder: nothing is remembered, so a restart loses nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::host::{Device, Host, HostError};
use super::request::pod_of;

/// UIDs of the pods that have the device published, in order.
///
/// # Errors
/// When not all could be read.
pub fn of(host: &dyn Host, kubelet: &Path, device: Device) -> Result<Vec<String>, HostError> {
    let mounts = host.mounts()?;
    let mounted = mounts.iter().filter(|m| m.device == device).map(|m| m.point.clone());
    let nodes = host.nodes(&kubelet.join("plugins/kubernetes.io/csi/volumeDevices/publish"))?;
    let nodes = nodes.into_iter().filter(|(_, d)| *d == device).map(|(path, _)| path);
    let all: BTreeSet<String> = mounted.chain(nodes).filter_map(|path| pod_of(kubelet, &path)).collect();
    Ok(all.into_iter().collect())
}
