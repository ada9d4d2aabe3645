//! NodeExpandVolume and NodeGetVolumeStats.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::Node;
use super::attached::Attached;
use super::call::Call;
use super::failure::{Failure, shown_path};
use super::host::{Disk, Kind, Usage};
use crate::crash;

/// Between two looks at the size.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a volume was found.
enum Place {
    Mounted(String),
    Node,
}

impl Node {
    /// One call: waits until the kernel shows at least `wanted` bytes, then grows the filesystem. A size never shrinks (I15).
    pub(super) async fn expand(
        &self,
        call: &Call,
        path: PathBuf,
        wanted: Option<u64>,
        limit: Option<u64>,
    ) -> Result<u64, Failure> {
        let attached = self.usable(call.volume()).await?;
        let mut disk = self.disk_at(call, &attached, &path).await?;
        let place = self.place(call, &disk, &path).await?;
        let measured = attached
            .volume
            .status
            .as_ref()
            .and_then(|s| s.capacity)
            .map(rds_crds::Size::bytes);
        let wanted = wanted.or(measured).unwrap_or(disk.size);
        if let Some(limit) = limit.filter(|limit| disk.size > *limit) {
            return Err(Failure::OutOfRange(format!(
                "volume {} has {} bytes, more than the limit of {limit}: a volume never shrinks",
                call.volume(),
                disk.size
            )));
        }
        let mut asked = false;
        while disk.size < wanted {
            if !asked {
                let (host, nqn) = (self.host.clone(), disk.nqn.clone());
                call.run("the rescan", move || Ok(host.rescan(&nqn)?)).await?;
                asked = true;
            } else if call.over() {
                return Err(Failure::Unavailable(format!(
                    "the kernel of node {} shows {} bytes for volume {}, and {wanted} are wanted: the appliance has not told of its new \
                     size. See condition ExpandPending of the RdsVolume; the call is retried",
                    self.agent.node(),
                    disk.size,
                    call.volume()
                )));
            } else {
                call.pause(LOOK_EVERY).await;
            }
            disk = self.disk_at(call, &attached, &path).await?;
        }
        if let Place::Mounted(fs) = place
            && !attached.read_only()
        {
            let (host, disk, at) = (self.host.clone(), disk.clone(), path.clone());
            call.run("growing the filesystem", move || Ok(host.grow(&disk, &fs, &at)?))
                .await?;
            crash::after("expand-grow");
        }
        info!(volume = call.volume(), bytes = disk.size, "expanded");
        self.say_size(&attached, disk.size).await?;
        Ok(disk.size)
    }

    async fn disk_at(&self, call: &Call, attached: &Attached, path: &Path) -> Result<Disk, Failure> {
        self.disk_of(call, attached).await?.ok_or_else(|| {
            Failure::NotFound(format!(
                "volume {} is not published at {}: it has no device on this node",
                call.volume(),
                shown_path(path)
            ))
        })
    }

    async fn place(&self, call: &Call, disk: &Disk, path: &Path) -> Result<Place, Failure> {
        if let Some(top) = self.top(call, path).await?
            && top.device == disk.device
        {
            return Ok(Place::Mounted(top.fs));
        }
        match self.kind(call, path).await? {
            Kind::Block(device) if device == disk.device => Ok(Place::Node),
            Kind::Missing | Kind::Folder | Kind::File(_) | Kind::Block(_) | Kind::Other => Err(Failure::NotFound(
                format!("volume {} is not at {}", call.volume(), shown_path(path)),
            )),
        }
    }

    /// One call. Kubelet asks often: nothing of this asks the API server.
    pub(super) async fn stats(&self, call: &Call, path: PathBuf) -> Result<Usage, Failure> {
        let none = || {
            Failure::NotFound(format!(
                "volume {} is not at {} on node {}",
                call.volume(),
                shown_path(&path),
                self.agent.node()
            ))
        };
        let nqn = self
            .agent
            .remembered(&self.attachment_name(call.volume()))
            .ok_or_else(none)?;
        let disk = self.disk(call, nqn).await?.ok_or_else(none)?;
        match self.place(call, &disk, &path).await? {
            Place::Node => Ok(Usage {
                bytes: disk.size,
                ..Usage::default()
            }),
            Place::Mounted(_) => {
                let host = self.host.clone();
                call.run("statfs", move || Ok(host.usage(&path)?)).await
            }
        }
    }
}
