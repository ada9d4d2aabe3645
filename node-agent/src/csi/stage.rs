//! NodeStageVolume: the disk is found, read, formatted if that is allowed, checked, and mounted straight on the staging path.
//!
//! Whatever was done by an earlier call, of this process or of one that died, is found and not done again (I12). Each step is decided
//! by [`plan`](super::plan) on what was read live for it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rds_crds::attachment::AgentFormat;
use tracing::{info, warn};

use super::Node;
use super::attached::Attached;
use super::call::Call;
use super::failure::{Failure, shown_path};
use super::host::{Disk, Flush, Found, Host, Kind, Mount, MountAs, Verdict};
use super::request::{Access, Stage};
use super::{plan, preflight};
use crate::attachment::model::Reason;
use crate::crash;

/// Steps of one call; a sound plan needs fewer than ten, and waits.
const MAX_STEPS: usize = 4000;

/// What one call has found out.
#[derive(Default)]
struct Pass {
    found: Option<Found>,
    made: bool,
    checked: Option<Verdict>,
}

impl Node {
    /// One call.
    pub(super) async fn stage(&self, call: &Call, request: Stage) -> Result<(), Failure> {
        let attached = self.usable(call.volume()).await?;
        attached.fits(&request.capability.access)?;
        let read_only = attached.read_only();
        match &request.capability.access {
            Access::Block => self.stage_block(call, attached).await,
            Access::Filesystem { fs, flags } => {
                let wanted = fs.clone().unwrap_or_else(|| attached.fs().to_owned());
                let mut options = attached.volume.spec.mount_options.clone();
                options.extend(flags.iter().cloned());
                self.host.judge_options(&wanted, &options).map_err(Failure::Invalid)?;
                let how = MountAs {
                    fs: wanted,
                    options,
                    read_only,
                };
                if let Some(mount) = self.standing(call, &request).await? {
                    return self.already(call, &attached, &request, &mount, &how).await;
                }
                preflight::fence(&attached.volume, &[], None)?;
                preflight::breaker(&attached.volume, &attached.object, Timestamp::now())?;
                let name = attached.name();
                let uid = attached.uid().to_owned();
                let done = self.mount_volume(call, attached, &request, how).await;
                self.count(&name, &uid, done).await
            }
        }
    }

    /// The mount on the staging path, if it is alive; one whose device is gone is cleared first.
    async fn standing(&self, call: &Call, request: &Stage) -> Result<Option<Mount>, Failure> {
        for _ in 0..8 {
            // The table comes before any look at the path: on a dead mount that look fails.
            let Some(top) = self.top(call, &request.staging).await? else {
                self.a_folder(call, request).await?;
                return Ok(None);
            };
            let (host, device) = (self.host.clone(), top.device);
            if call
                .run("the look at the device", move || Ok(host.alive(device)?))
                .await?
                .is_some()
            {
                return Ok(Some(top));
            }
            warn!(volume = call.volume(), %device, "a mount whose device is gone is taken off the staging path");
            self.metrics.stale_mount();
            if !top.mounted_read_only {
                self.report_loss(call, "a mount was left on this node whose device is gone")
                    .await?;
            }
            let (host, at) = (self.host.clone(), request.staging.clone());
            call.run("unmount", move || Ok(host.unmount(&at, device, Flush::No)?))
                .await?;
            crash::after("clear-stale-mount");
            // Until it is staged anew it is not, whatever comes of this call.
            self.say_unstaged(call).await;
        }
        Err(Failure::Unavailable(format!(
            "too many mounts whose devices are gone are stacked on {}: call again",
            shown_path(&request.staging)
        )))
    }

    async fn a_folder(&self, call: &Call, request: &Stage) -> Result<(), Failure> {
        match self.kind(call, &request.staging).await? {
            Kind::Missing | Kind::Folder => Ok(()),
            Kind::File(_) | Kind::Block(_) | Kind::Other => Err(Failure::Invalid(format!(
                "staging_target_path {} is no folder: nothing is mounted over it. Look what it is and remove it",
                shown_path(&request.staging)
            ))),
        }
    }

    /// Something is mounted there already: this very volume in this very way, or an error.
    async fn already(
        &self,
        call: &Call,
        attached: &Attached,
        request: &Stage,
        mount: &Mount,
        how: &MountAs,
    ) -> Result<(), Failure> {
        let disk = self.disk_of(call, attached).await?;
        let at = shown_path(&request.staging);
        let Some(disk) = disk.filter(|d| d.device == mount.device) else {
            return Err(Failure::Conflict(format!(
                "another device ({}) is mounted at {at}, not that of volume {}: nothing is changed. Unmount it, or delete the pod that \
                 uses it",
                mount.device,
                call.volume()
            )));
        };
        if mount.fs != how.fs {
            return Err(Failure::Conflict(format!(
                "volume {} is staged at {at} with {}, and {} is asked for: unstage it first",
                call.volume(),
                mount.fs,
                how.fs
            )));
        }
        if mount.read_only != how.shows_read_only() {
            let (is, asked) = if mount.read_only {
                ("read-only", "read-write")
            } else {
                ("read-write", "read-only")
            };
            return Err(Failure::Conflict(format!(
                "volume {} is staged {is} at {at} and {asked} is asked for: unstage it first",
                call.volume()
            )));
        }
        if !attached.staged() {
            self.say_staged(attached, &disk, Reason::Mounted, None).await?;
        }
        Ok(())
    }

    async fn mount_volume(
        &self,
        call: &Call,
        attached: Attached,
        request: &Stage,
        how: MountAs,
    ) -> Result<(), Failure> {
        let (mut attached, mut disk) = self.connected(call, attached).await?;
        self.prepare(call, &disk, request, &how).await?;
        let mut pass = Pass::default();
        let mut wait = Duration::ZERO;
        for _ in 0..MAX_STEPS {
            let said = attached.said();
            let seen = plan::Seen {
                volume: call.volume(),
                uid: attached.volume_uid(),
                attachment: attached.uid(),
                wanted: &how.fs,
                read_only: how.read_only,
                ledger: attached.ledger(),
                asked: said.requested.as_deref(),
                reported: said.fs_uuid.as_deref(),
                found: pass.found.as_ref(),
                made: pass.made,
                checked: pass.checked.as_ref(),
            };
            let step = plan::next(&seen);
            match step {
                plan::Step::Probe => pass.found = Some(self.probe(call, &disk, &attached).await?),
                plan::Step::Ask => {
                    let asked = AgentFormat {
                        requested: Some(how.fs.clone()),
                        ..AgentFormat::default()
                    };
                    self.say_format(&attached, "stage-ask", asked).await?;
                    crash::after("stage-ask");
                    attached = self.usable(call.volume()).await?;
                }
                plan::Step::AwaitIntent => attached = self.again(call, &mut wait, "the intent to format it").await?,
                plan::Step::Format => {
                    // The disk under that NQN may have changed since: it is looked up anew, and the ledger was read for this step.
                    (attached, disk) = self.connected(call, attached).await?;
                    self.make(call, &disk, &attached, &how).await?;
                    pass = Pass {
                        made: true,
                        ..Pass::default()
                    };
                }
                plan::Step::Report => {
                    let made = AgentFormat {
                        requested: Some(how.fs.clone()),
                        fs_uuid: Some(attached.volume_uid().to_owned()),
                        used_as_block: None,
                    };
                    self.say_format(&attached, "stage-report", made).await?;
                    crash::after("stage-report");
                    attached = self.usable(call.volume()).await?;
                }
                plan::Step::AwaitFormatted => {
                    attached = self.again(call, &mut wait, "that it is formatted").await?;
                }
                plan::Step::Check | plan::Step::Mount => {
                    let read = disk;
                    (attached, disk) = self.connected(call, attached).await?;
                    self.prepare(call, &disk, request, &how).await?;
                    if !disk.is_still(&read) {
                        // The waits above are long. What was read, made and checked was another disk's, or may have been.
                        warn!(volume = call.volume(), before = ?read, now = ?disk, "the disk was connected anew: it is read anew");
                        pass = Pass::default();
                    } else if step == plan::Step::Check {
                        pass.checked = Some(self.check(call, &disk, &how).await?);
                    } else {
                        return self.mount_at(call, &attached, &disk, request, &how, &pass).await;
                    }
                }
                plan::Step::Refuse(failure) => return Err(failure),
            }
        }
        Err(Failure::Unavailable(format!(
            "staging volume {} does not come to an end: call again",
            call.volume()
        )))
    }

    async fn make(&self, call: &Call, disk: &Disk, attached: &Attached, how: &MountAs) -> Result<(), Failure> {
        info!(volume = call.volume(), fs = how.fs, disk = %disk.path.display(), "formats");
        let options = attached.volume.spec.mkfs_options.clone();
        let (host, disk, fs, uid) = (
            self.host.clone(),
            disk.clone(),
            how.fs.clone(),
            attached.volume_uid().to_owned(),
        );
        call.run("mkfs", move || Ok(host.format(&disk, &fs, &uid, &options)?))
            .await?;
        crash::after("stage-format");
        Ok(())
    }

    async fn mount_at(
        &self,
        call: &Call,
        attached: &Attached,
        disk: &Disk,
        request: &Stage,
        how: &MountAs,
        pass: &Pass,
    ) -> Result<(), Failure> {
        let (host, disk_, at, as_) = (self.host.clone(), disk.clone(), request.staging.clone(), how.clone());
        call.run("mount", move || mount_exactly(host.as_ref(), &disk_, &at, &as_))
            .await?;
        let said = pass.checked.as_ref().map(|verdict| match verdict {
            Verdict::Skipped(why) => (Reason::CheckSkipped, why.clone()),
            Verdict::Repaired => (Reason::Checked, "the check repaired small things".to_owned()),
            Verdict::Good | Verdict::Dirty | Verdict::Damaged(_) => {
                (Reason::Checked, "the filesystem is in order".to_owned())
            }
        });
        info!(volume = call.volume(), at = %request.staging.display(), fs = how.fs, "staged");
        self.say_staged(attached, disk, Reason::Mounted, said).await
    }

    /// Before anything of the disk is read.
    async fn prepare(&self, call: &Call, disk: &Disk, request: &Stage, how: &MountAs) -> Result<(), Failure> {
        self.not_elsewhere(call, disk, request).await?;
        self.protect(call, disk, how.read_only).await
    }

    /// The same disk mounted at another staging path would be two uses that know nothing of each other.
    async fn not_elsewhere(&self, call: &Call, disk: &Disk, request: &Stage) -> Result<(), Failure> {
        let device = disk.device;
        let all = self.mounts(call).await?;
        match all.iter().find(|m| m.device == device && m.point != request.staging) {
            None => Ok(()),
            Some(other) => Err(Failure::Conflict(format!(
                "volume {} is mounted at {} already: unstage it there first",
                call.volume(),
                shown_path(&other.point)
            ))),
        }
    }

    /// Readers get a device that the kernel refuses to write, before anything is read (I3).
    pub(super) async fn protect(&self, call: &Call, disk: &Disk, read_only: bool) -> Result<(), Failure> {
        if !read_only || disk.read_only {
            return Ok(());
        }
        let (host, disk) = (self.host.clone(), disk.clone());
        call.run("setting the device read-only", move || Ok(host.set_read_only(&disk)?))
            .await
    }

    async fn probe(&self, call: &Call, disk: &Disk, attached: &Attached) -> Result<Found, Failure> {
        let (host, disk, uid) = (self.host.clone(), disk.clone(), attached.volume_uid().to_owned());
        call.run("reading the disk", move || Ok(host.probe(&disk, &uid)?)).await
    }

    async fn check(&self, call: &Call, disk: &Disk, how: &MountAs) -> Result<Verdict, Failure> {
        let (host, disk, fs, read_only) = (self.host.clone(), disk.clone(), how.fs.clone(), how.read_only);
        let check = move || match read_only {
            true => Ok(host.check_reader(&disk, &fs)?),
            false => Ok(host.check(&disk, &fs)?),
        };
        let verdict = call.run("the check of the filesystem", check).await?;
        crash::after("stage-check");
        Ok(verdict)
    }

    async fn stage_block(&self, call: &Call, attached: Attached) -> Result<(), Failure> {
        if attached.staged() && self.disk_of(call, &attached).await?.is_some_and(|d| d.live) {
            return Ok(());
        }
        preflight::fence(&attached.volume, &[], None)?;
        preflight::breaker(&attached.volume, &attached.object, Timestamp::now())?;
        let (name, uid) = (attached.name(), attached.uid().to_owned());
        let done = async {
            let (attached, disk) = self.connected(call, attached).await?;
            self.protect(call, &disk, attached.read_only()).await?;
            let attached = self.give_as_block(call, attached).await?;
            info!(volume = call.volume(), "staged as a raw device");
            self.say_staged(&attached, &disk, Reason::RawDevice, None).await
        };
        let done = done.await;
        self.count(&name, &uid, done).await
    }

    /// Recorded before the first use as a raw device: from then on it is never formatted.
    pub(super) async fn give_as_block(&self, call: &Call, mut attached: Attached) -> Result<Attached, Failure> {
        let mut wait = Duration::ZERO;
        for _ in 0..MAX_STEPS {
            let said = attached.said().used_as_block == Some(true);
            match plan::block(call.volume(), attached.ledger(), said) {
                plan::BlockStep::Use => return Ok(attached),
                plan::BlockStep::Refuse(failure) => return Err(failure),
                plan::BlockStep::AwaitRecord => {
                    attached = self.again(call, &mut wait, "its use as a raw device").await?
                }
                plan::BlockStep::Say => {
                    let used = AgentFormat {
                        used_as_block: Some(true),
                        ..AgentFormat::default()
                    };
                    self.say_format(&attached, "stage-block", used).await?;
                    crash::after("stage-block");
                    attached = self.usable(call.volume()).await?;
                }
            }
        }
        Err(Failure::Unavailable(format!(
            "staging volume {} does not come to an end: call again",
            call.volume()
        )))
    }
}

/// Mounts the disk, and takes the mount back if it is not that of this very disk: its name may have come to mean another one.
fn mount_exactly(host: &dyn Host, disk: &Disk, at: &Path, how: &MountAs) -> Result<(), Failure> {
    host.make_folder(at)?;
    host.mount(disk, at, how)?;
    crash::after("stage-mount");
    let Some(top) = host.mounts()?.into_iter().rfind(|m| m.point == at) else {
        return Err(Failure::Unavailable(format!(
            "what was mounted at {} is gone from there: call again",
            shown_path(at)
        )));
    };
    let now = host.disk(&disk.nqn)?;
    let ours = top.device == disk.device && now.as_ref().is_some_and(|now| now.is_still(disk));
    if ours && top.read_only == how.shows_read_only() {
        return Ok(());
    }
    // By the device that is there: with the one that was meant, a wrong mount would be left alone as somebody else's.
    if let Err(e) = host.unmount(at, top.device, Flush::Yes) {
        return Err(Failure::Unavailable(format!(
            "the mount at {} is not what was asked for ({top:?}), and cannot be taken back now: {e}",
            shown_path(at)
        )));
    }
    let why = format!(
        "the mount at {} is not what was asked for: {top:?}, the disk is {now:?}; it was taken back",
        shown_path(at)
    );
    if ours {
        Err(Failure::Volume(why))
    } else {
        Err(Failure::Unavailable(why))
    }
}
