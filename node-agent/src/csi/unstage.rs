//! NodeUnstageVolume: what is in memory is written, the mount goes, and the device is proven free, in this order.
//!
//! OK means gone (I7). A device that is there but not live waits: its data can still be written when the appliance is back, and an
//! unmount would only hang. A device that is gone for good takes its unwritten data with it: that is said loudly, and then the mount goes.

use std::path::Path;
use std::time::Duration;

use kube::ResourceExt;
use rds_crds::attachment::AgentStatus;
use tracing::{info, warn};

use super::Node;
use super::call::Call;
use super::failure::{Failure, shown_path};
use super::host::{Device, Flush, Flushed, Kind, Mount};
use super::status_writer::unstaged;
use crate::crash;

/// Mounts that may be stacked on a staging path.
const STACK: usize = 8;
/// Until a loss that could not be said is said again; then twice as long, up to the other.
const SAY_AGAIN: Duration = Duration::from_millis(100);
const SAY_AGAIN_AT_MOST: Duration = Duration::from_secs(10);

impl Node {
    /// One call.
    pub(super) async fn unstage(&self, call: &Call, staging: &Path) -> Result<(), Failure> {
        for _ in 0..STACK {
            let all = self.mounts(call).await?;
            let Some(top) = all.iter().rfind(|m| m.point == *staging) else {
                break;
            };
            self.take_off(call, &all, top).await?;
        }
        if let Some(top) = self.top(call, staging).await? {
            return Err(Failure::Unavailable(format!(
                "{} still is a mount of device {}: call again",
                shown_path(staging),
                top.device
            )));
        }
        // An unmount that hangs has left mountinfo already: only an exclusive open proves that nothing is left.
        self.proven_free(call, staging).await?;
        match self.kind(call, staging).await? {
            Kind::Missing | Kind::Folder => {}
            Kind::File(_) | Kind::Block(_) | Kind::Other => {
                return Err(Failure::NotNow(format!(
                    "{} is no folder: it is left alone. Look what it is and remove it",
                    shown_path(staging)
                )));
            }
        }
        self.say_unstaged(call).await;
        Ok(())
    }

    async fn take_off(&self, call: &Call, all: &[Mount], top: &Mount) -> Result<(), Failure> {
        let device = top.device;
        // The same disk at other places: only pods' mounts can be that, and they come first. Never others' mounts (B67).
        let elsewhere = |m: &&Mount| {
            m.device == device && m.point != top.point && !mirrors(&m.point, &top.point, &self.settings.kubelet_dir)
        };
        if let Some(other) = all.iter().find(elsewhere) {
            return Err(Failure::NotNow(format!(
                "volume {} is still mounted at {}: unpublish it there first",
                call.volume(),
                shown_path(&other.point)
            )));
        }
        let host = self.host.clone();
        let alive = call
            .run("the look at the device", move || Ok(host.alive(device)?))
            .await?;
        let flush = match alive {
            Some(true) => Flush::Yes,
            Some(false) => {
                return Err(Failure::Unavailable(format!(
                    "the appliance of volume {} does not answer this node now: unmounting would hang, and data in memory would be lost. \
                     It goes on by itself once the connection is back; see condition Connected of the RdsAttachment",
                    call.volume()
                )));
            }
            None => {
                // Said first: after the unmount nothing would tell.
                if !top.mounted_read_only {
                    self.lost(call, "its device was gone before it was unmounted").await?;
                }
                Flush::No
            }
        };
        // Whoever asked may be gone when a disk that does not answer is given up at last: afterwards nothing tells of the loss.
        let (node, own, at) = (self.clone(), call.clone(), top.point.clone());
        let (host, point, nothing_written) = (self.host.clone(), at.clone(), top.mounted_read_only);
        let work = async move {
            // Where nothing was ever written, nothing can be lost.
            let mut told = nothing_written;
            if flush == Flush::Yes {
                let (host, point) = (host.clone(), point.clone());
                let flushed = blocking("the sync", move || Ok(host.write_out(&point, device)?)).await?;
                if let Flushed::Lost(why) = flushed
                    && !told
                {
                    // The kernel may tell of it once only, and whoever dies after the unmount tells nobody.
                    node.lost_for_sure(&own, &why).await;
                    told = true;
                }
            }
            let flushed = blocking("unmount", move || {
                let flushed = host.unmount(&point, device, flush)?;
                crash::after("unstage-unmount");
                Ok(flushed)
            });
            match flushed.await? {
                Flushed::Clean => {}
                Flushed::Lost(_) if told => {}
                Flushed::Lost(why) => node.lost_for_sure(&own, &why).await,
            }
            info!(volume = own.volume(), at = %at.display(), "unmounted");
            Ok(())
        };
        call.see_through("unmount", work).await
    }

    async fn lost(&self, call: &Call, why: &str) -> Result<(), Failure> {
        self.metrics.possible_loss();
        self.report_loss(call, why).await
    }

    /// Says it until it is stored: the next call would find nothing any more that tells of it.
    async fn lost_for_sure(&self, call: &Call, why: &str) {
        self.metrics.possible_loss();
        let mut wait = SAY_AGAIN;
        while let Err(failure) = self.report_loss(call, why).await {
            warn!(
                volume = call.volume(),
                "{failure}: a loss of data is not said yet, the volume waits for that"
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(SAY_AGAIN_AT_MOST);
        }
    }

    async fn proven_free(&self, call: &Call, staging: &Path) -> Result<(), Failure> {
        let name = self.attachment_name(call.volume());
        let nqn = match self.agent.remembered(&name) {
            Some(nqn) => Some(nqn),
            // Soon after a start the loop has not read it yet. Without any answer the door still proves it before a disconnect.
            None => {
                let read = self.agent.attachments().get_opt(&name).await;
                read.ok().flatten().and_then(|a| a.status?.nqn)
            }
        };
        let Some(nqn) = nqn else { return Ok(()) };
        let Some(disk) = self.disk(call, nqn).await? else {
            return Ok(());
        };
        let mounted = self.mounts(call).await?.into_iter().find(|m| m.device == disk.device);
        if let Some(other) = mounted {
            return Err(Failure::NotNow(format!(
                "volume {} is still mounted at {}: unpublish it there first",
                call.volume(),
                shown_path(&other.point)
            )));
        }
        for node in self.nodes_of(call, disk.device).await? {
            if self.cleared_of_another(call, &node, disk.device).await? {
                continue;
            }
            return Err(Failure::NotNow(format!(
                "volume {} is still published as a device at {}: unpublish it first",
                call.volume(),
                shown_path(&node)
            )));
        }
        let host = self.host.clone();
        if call.run("the exclusive open", move || Ok(host.free(&disk)?)).await? {
            return Ok(());
        }
        Err(Failure::Unavailable(format!(
            "the kernel still holds the device of volume {} after {} was unmounted: an unmount may hang. Call again; if this lasts, \
             look at the connection to the appliance",
            call.volume(),
            shown_path(staging)
        )))
    }

    async fn nodes_of(&self, call: &Call, device: Device) -> Result<Vec<std::path::PathBuf>, Failure> {
        let (host, kubelet) = (self.host.clone(), self.settings.kubelet_dir.clone());
        call.run("the look at device nodes", move || {
            let all = host.nodes(&kubelet.join("plugins/kubernetes.io/csi/volumeDevices/publish"))?;
            Ok(all
                .into_iter()
                .filter(|(_, d)| *d == device)
                .map(|(path, _)| path)
                .collect())
        })
        .await
    }

    /// A device node in another volume's folder that has this disk's number is left from before: numbers are dealt anew at each boot,
    /// and after a loss. It holds no data, nobody may mean this disk by it, and it would count as a use of it for ever: it goes. True
    /// if it has; what is open by it is still a use.
    async fn cleared_of_another(&self, call: &Call, node: &Path, device: Device) -> Result<bool, Failure> {
        let (host, at, driver) = (self.host.clone(), node.to_owned(), self.settings.driver_name.clone());
        let look = move || Ok(host.volume_of(&at, &driver)?);
        let whose = call.run("the look at a device node", look).await?;
        let Some(other) = whose.filter(|volume| volume != call.volume()) else {
            return Ok(false);
        };
        // A publish of that volume may just have made it anew.
        let theirs = self.in_flight.enter(&other, call.deadline)?;
        let (host, at) = (self.host.clone(), node.to_owned());
        let remove = move || {
            if host.kind(&at)? == Kind::Block(device) {
                host.remove(&at)?;
            }
            Ok(())
        };
        theirs.run("the removal of an old device node", remove).await?;
        warn!(volume = call.volume(), node = %node.display(), of = other, "a device node of an earlier boot or connection was removed");
        Ok(true)
    }

    /// A volume without an attachment has nobody to tell; an API server that is away must not hold a pod's end up.
    pub(super) async fn say_unstaged(&self, call: &Call) {
        let name = self.attachment_name(call.volume());
        let done = async {
            let Some(object) = self.agent.attachments().get_opt(&name).await? else {
                return Ok(());
            };
            let (uid, now) = (object.uid().unwrap_or_default(), jiff::Timestamp::now());
            let change = |agent: &mut AgentStatus| unstaged(agent, now);
            self.agent.amend(&name, &uid, "unstage-say", change).await.map(|_| ())
        };
        if let Err(e) = done.await {
            let error: kube::Error = e;
            warn!(
                volume = call.volume(),
                error = crate::chain(&error),
                "unstaged, and cannot say so"
            );
        }
        self.wake(&name);
    }
}

/// Runs on a thread of its own.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(died) => Err(Failure::Unavailable(format!("{what} died: {died}; call again"))),
    }
}

/// Where kubelet's folder is itself a bind mount, as of a folder on a larger disk, each of its mounts is to be seen below both, and
/// goes from both at once. kubelet passes over such mounts as well; should one stay, the proof behind the unmount finds it.
fn mirrors(point: &Path, staging: &Path, kubelet_dir: &Path) -> bool {
    staging
        .strip_prefix(kubelet_dir)
        .is_ok_and(|rest| point.ends_with(rest))
}
