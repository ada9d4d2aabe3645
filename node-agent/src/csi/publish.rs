//! NodePublishVolume and NodeUnpublishVolume: a bind mount of the staged filesystem, or a device node with the numbers of the disk.
//!
//! A second call adds nothing (I12). A device node is made with mknod and compared with the disk at every publish; nothing is ever
//! bind-mounted out of `/dev` (B62), and no tree is ever removed (B5).

use std::path::Path;

use tracing::{info, warn};

use super::Node;
use super::attached::Attached;
use super::call::Call;
use super::failure::{Failure, shown_path};
use super::host::{Device, Disk, Flush, Kind, asks_read_only};
use super::preflight;
use super::request::{Access, Publish, pod_of};
use crate::crash;

/// Mounts of one target that an unpublish takes off; more are an error.
const STACK: usize = 16;

/// Who asks for a read-only mount.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The pod or the attachment.
    read_only: bool,
    /// The mount options, of the stage too.
    options: bool,
}

impl Node {
    /// One call.
    pub(super) async fn publish(&self, call: &Call, request: Publish) -> Result<(), Failure> {
        let attached = self.usable(call.volume()).await?;
        attached.fits(&request.capability.access)?;
        let read_only = request.read_only || attached.read_only();
        let disk = self.disk_of(call, &attached).await?;
        let done = match &request.capability.access {
            Access::Filesystem { flags, .. } => {
                let asked = Asked {
                    read_only,
                    options: asks_read_only(&attached.volume.spec.mount_options) || asks_read_only(flags),
                };
                self.publish_mount(call, &attached, disk, &request, asked).await
            }
            Access::Block => {
                self.publish_node(call, attached.clone(), disk, &request, read_only)
                    .await
            }
        };
        // Who uses the volume is told by the loop, from what it sees.
        self.wake(&attached.name());
        done
    }

    async fn publish_mount(
        &self,
        call: &Call,
        attached: &Attached,
        disk: Option<Disk>,
        request: &Publish,
        asked: Asked,
    ) -> Result<(), Failure> {
        let staged = self.top(call, &request.staging).await?;
        let (Some(staged), Some(disk)) = (staged, disk) else {
            return Err(not_staged(call, request));
        };
        if staged.device != disk.device {
            return Err(Failure::NotNow(format!(
                "what is mounted at {} is device {}, and volume {} is {} now: the connection was lost and made anew. Delete the pods \
                 that use the volume on this node, so that it is unstaged",
                shown_path(&request.staging),
                staged.device,
                call.volume(),
                disk.device
            )));
        }
        if staged.read_only && !asked.read_only && !asked.options {
            return Err(self
                .turned_read_only(call, attached, request, "as its mount shows")
                .await);
        }
        let read_only = asked.read_only || staged.read_only;
        if let Some(top) = self.top(call, &request.target).await? {
            if top.device == disk.device && top.read_only == read_only {
                return Ok(());
            }
            return Err(Failure::Conflict(format!(
                "{} is a mount of device {} already ({}), not of volume {} as asked for: unpublish it first",
                shown_path(&request.target),
                top.device,
                if top.read_only { "read-only" } else { "read-write" },
                call.volume()
            )));
        }
        match self.kind(call, &request.target).await? {
            Kind::Missing | Kind::Folder => {}
            Kind::File(_) | Kind::Block(_) | Kind::Other => {
                return Err(Failure::Invalid(format!(
                    "target_path {} is no folder: a filesystem is not mounted over it (R47). Remove it",
                    shown_path(&request.target)
                )));
            }
        }
        self.may_begin(call, attached, &disk, &request.target).await?;
        if !read_only && let Some(why) = self.refuses_writes(call, &disk, &request.staging).await? {
            return Err(self.turned_read_only(call, attached, request, &why).await);
        }
        let (host, from, to, device) = (
            self.host.clone(),
            request.staging.clone(),
            request.target.clone(),
            disk.device,
        );
        call.run("the bind mount", move || {
            host.make_folder(&to)?;
            host.bind(&from, &to, read_only)?;
            crash::after("publish-mount");
            let top = host.mounts()?.into_iter().rfind(|m| m.point == to);
            if top
                .as_ref()
                .is_none_or(|m| m.device != device || m.read_only != read_only)
            {
                host.unmount(&to, device, Flush::No)?;
                return Err(Failure::Unavailable(format!(
                    "the mount at {} is not what was asked for: {top:?}; it was taken back, call again",
                    shown_path(&to)
                )));
            }
            Ok(())
        })
        .await?;
        info!(volume = call.volume(), target = %request.target.display(), read_only, "published");
        Ok(())
    }

    /// Not of every filesystem that the kernel has given up do the mounts tell it.
    async fn refuses_writes(&self, call: &Call, disk: &Disk, staging: &Path) -> Result<Option<String>, Failure> {
        let (host, disk, at) = (self.host.clone(), disk.clone(), staging.to_owned());
        call.run("the look whether it takes writes", move || {
            Ok(host.refuses_writes(&disk, &at)?)
        })
        .await
    }

    /// Nobody asked for it: the kernel stops writing after an error. A pod that wants to write would only find out later.
    async fn turned_read_only(&self, call: &Call, attached: &Attached, request: &Publish, told: &str) -> Failure {
        let why = format!(
            "the filesystem of volume {} has become read-only at {} ({told}): the kernel does that after an error, see its log on node \
             {}. Delete the pods that use the volume there: it is checked before it is mounted again",
            call.volume(),
            shown_path(&request.staging),
            self.agent.node()
        );
        self.say_read_only(attached, &why).await;
        Failure::NotNow(why)
    }

    async fn publish_node(
        &self,
        call: &Call,
        attached: Attached,
        disk: Option<Disk>,
        request: &Publish,
        read_only: bool,
    ) -> Result<(), Failure> {
        let Some(disk) = disk.filter(|d| d.live).filter(|_| attached.staged()) else {
            return Err(not_staged(call, request));
        };
        match self.kind(call, &request.target).await? {
            // It may be what an earlier call left that came to no good end: what follows makes it whole.
            Kind::Block(device) if device == disk.device => {}
            Kind::Block(device) => self.clear_old_node(call, &request.target, device).await?,
            Kind::Missing => {}
            Kind::Folder | Kind::File(_) | Kind::Other => {
                return Err(Failure::Invalid(format!(
                    "target_path {} is there and is no device: nothing is put over it. Remove it",
                    shown_path(&request.target)
                )));
            }
        }
        self.may_begin(call, &attached, &disk, &request.target).await?;
        let attached = self.give_as_block(call, attached).await?;
        self.protect(call, &disk, attached.read_only()).await?;
        let (host, to, device) = (self.host.clone(), request.target.clone(), disk.device);
        call.run("the device node", move || {
            host.make_node(&to, device, read_only)?;
            crash::after("publish-node");
            Ok(())
        })
        .await?;
        info!(volume = call.volume(), target = %request.target.display(), device = %disk.device, read_only, "published");
        Ok(())
    }

    /// The target is this volume's alone, and a node holds no data. One of another number is of an earlier connection, whether or not
    /// the kernel has given that number to another disk since: after a reboot they are dealt anew, and nodes are still there.
    async fn clear_old_node(&self, call: &Call, target: &Path, device: Device) -> Result<(), Failure> {
        info!(volume = call.volume(), target = %target.display(), %device, "a device node of an earlier connection is removed");
        let (host, at) = (self.host.clone(), target.to_owned());
        call.run("the removal of an old device node", move || Ok(host.remove(&at)?))
            .await
    }

    /// D5: while a fence is owed only pods that use the volume now may use it.
    async fn may_begin(&self, call: &Call, attached: &Attached, disk: &Disk, target: &Path) -> Result<(), Failure> {
        let pod = pod_of(&self.settings.kubelet_dir, target);
        let (host, kubelet, device) = (self.host.clone(), self.settings.kubelet_dir.clone(), disk.device);
        let users = call
            .run("the look at the users", move || {
                Ok(super::users::of(host.as_ref(), &kubelet, device)?)
            })
            .await?;
        preflight::fence(&attached.volume, &users, pod.as_deref())
    }

    /// One call. It needs no API server: what is at the target is taken away, and nothing else.
    pub(super) async fn unpublish(&self, call: &Call, target: &Path) -> Result<(), Failure> {
        for _ in 0..STACK {
            let Some(top) = self.top(call, target).await? else {
                break;
            };
            let (host, at) = (self.host.clone(), target.to_owned());
            call.run("unmount", move || {
                host.unmount(&at, top.device, Flush::No)?;
                crash::after("unpublish-unmount");
                Ok(())
            })
            .await?;
        }
        if let Some(top) = self.top(call, target).await? {
            return Err(Failure::Unavailable(format!(
                "{} still is a mount of device {}: call again",
                shown_path(target),
                top.device
            )));
        }
        match self.kind(call, target).await? {
            Kind::Missing => {}
            Kind::Folder | Kind::File(true) | Kind::Block(_) => {
                let (host, at) = (self.host.clone(), target.to_owned());
                call.run("the removal of the target", move || {
                    host.remove(&at)?;
                    crash::after("unpublish-remove");
                    Ok(())
                })
                .await?;
                info!(volume = call.volume(), target = %target.display(), "unpublished");
            }
            Kind::File(false) | Kind::Other => {
                warn!(volume = call.volume(), target = %target.display(), "not ours");
                return Err(Failure::NotNow(format!(
                    "{} is neither an empty folder nor a device node: it is not removed. Look what it is",
                    shown_path(target)
                )));
            }
        }
        self.wake(&self.attachment_name(call.volume()));
        Ok(())
    }
}

fn not_staged(call: &Call, request: &Publish) -> Failure {
    Failure::NotNow(format!(
        "volume {} is not staged at {}: NodeStageVolume comes first",
        call.volume(),
        shown_path(&request.staging)
    ))
}
