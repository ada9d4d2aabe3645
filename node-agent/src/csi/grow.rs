//! NodeExpandVolume and NodeGetVolumeStats.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::Node;
use super::attached::Attached;
use super::call::Call;
use super::failure::{Failure, shown_path};
use super::host::{Device, Disk, Kind, Usage};
use crate::crash;

/// Between two looks at the size.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is at a path of a volume.
enum Place {
    /// Its filesystem, of this type.
    Mounted(String),
    /// A node of its disk.
    Node,
    /// A mount or a node of another device: of an earlier connection, as its disk has none or another number now.
    Earlier,
    /// None of these.
    Nothing,
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
        let (mut disk, place) = self.disk_at(call, &attached, &path).await?;
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
            let found = self.disk_of(call, &attached).await?;
            disk = found.ok_or_else(|| away(call, &path))?;
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

    /// The volume's disk and what of it is at the path. NotFound is final to kubelet, which then gives the growth up: it is said only
    /// where nothing is that could come back.
    async fn disk_at(&self, call: &Call, attached: &Attached, path: &Path) -> Result<(Disk, Place), Failure> {
        let disk = self.disk_of(call, attached).await?;
        let place = self.place(call, disk.as_ref(), path).await?;
        match (disk, place) {
            (Some(disk), place @ (Place::Mounted(_) | Place::Node)) => Ok((disk, place)),
            (None, _) if attached.has_nqn() => Err(away(call, path)),
            (_, Place::Mounted(_) | Place::Node | Place::Earlier) => Err(away(call, path)),
            (_, Place::Nothing) => Err(Failure::NotFound(format!(
                "volume {} is not at {}",
                call.volume(),
                shown_path(path)
            ))),
        }
    }

    async fn place(&self, call: &Call, disk: Option<&Disk>, path: &Path) -> Result<Place, Failure> {
        let own = |device: Device| disk.is_some_and(|disk| disk.device == device);
        // The table comes before any look at the path: on a dead mount that look fails.
        if let Some(top) = self.top(call, path).await? {
            return Ok(if own(top.device) {
                Place::Mounted(top.fs)
            } else {
                Place::Earlier
            });
        }
        Ok(match self.kind(call, path).await? {
            Kind::Block(device) if own(device) => Place::Node,
            Kind::Block(_) => Place::Earlier,
            Kind::Missing | Kind::Folder | Kind::File(_) | Kind::Other => Place::Nothing,
        })
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
        match self.place(call, Some(&disk), &path).await? {
            Place::Earlier | Place::Nothing => Err(none()),
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

/// Its connection is to come back, or the pod has to be started again.
fn away(call: &Call, path: &Path) -> Failure {
    Failure::Unavailable(format!(
        "the disk of volume {} that is used at {} is not there now: it is connected anew once the appliance answers. If a pod uses a \
         device that is gone, delete the pod; see condition Connected of the RdsAttachment",
        call.volume(),
        shown_path(path)
    ))
}
