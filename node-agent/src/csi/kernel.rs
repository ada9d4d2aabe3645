//! [`Host`] with the kernel behind it: sysfs by [`crate::nvme`], disks by [`crate::filesystem`], mounts by [`crate::mount`].

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Dev, Mode, OFlags, major, minor};

use super::host::{Device, Disk, Flush, Flushed, Found, Host, HostError, Kind, Mount, MountAs, Usage, Verdict};
use super::record;
use crate::filesystem::check::Journal;
use crate::filesystem::format::FormatError;
use crate::filesystem::probe::ProbeError;
use crate::filesystem::{FsType, check, disk, format, grow, probe, stats};
use crate::mount::options::Options;
use crate::mount::place::{self, Place, PlaceError};
use crate::mount::{self, Access, MountError, Mounts, Outcome, Unmount, UnmountError};
use crate::nvme::sysfs;

/// Limit of each step of an unmount that may hang; the call that waits for it may end sooner.
const UNMOUNT: Duration = Duration::from_secs(60);
/// Limit of the look whether a filesystem takes writes, which may have to wait for those of others.
const REFUSES_WRITES: Duration = Duration::from_secs(30);
/// Limit of a check; what repairs is not killed then.
pub(crate) const CHECK: Duration = Duration::from_secs(600);
/// Folders below a folder in which nodes are looked for.
const DEPTH: usize = 4;

type Result<T> = std::result::Result<T, HostError>;

/// This machine.
#[derive(Debug)]
pub struct Kernel {
    root: PathBuf,
    kubelet: PathBuf,
    mounts: Mounts,
    rescan: Rescan,
}

/// Asks the kernel to look at the namespaces of an NQN again.
#[derive(Debug)]
struct Rescan(crate::nvme::Kernel);

impl Kernel {
    /// With the host's /proc and /sys below `root`.
    #[must_use]
    pub fn new(root: &Path, kubelet: &Path, nvme: crate::nvme::Kernel) -> Self {
        Self {
            root: root.to_owned(),
            kubelet: kubelet.to_owned(),
            mounts: Mounts::new(root, kubelet),
            rescan: Rescan(nvme),
        }
    }

    /// The NVMe disk with these numbers, of whatever NQN.
    fn by_number(&self, device: Device) -> Result<Option<sysfs::Disk>> {
        let mut nqns: Vec<String> = sysfs::controllers(&self.root)
            .map_err(host)?
            .into_iter()
            .map(|c| c.nqn)
            .collect();
        nqns.sort();
        nqns.dedup();
        for nqn in nqns {
            let all = sysfs::disks_of(&self.root, &nqn).map_err(host)?;
            if let Some(disk) = all
                .into_iter()
                .find(|d| (d.major, d.minor) == (device.major, device.minor))
            {
                return Ok(Some(disk));
            }
        }
        Ok(None)
    }

    /// Opens the disk, not exclusively: while that is held, the kernel gives neither its name nor its number to another one. The look
    /// after the open is what proves whose it is.
    fn hold(&self, disk: &Disk) -> Result<OwnedFd> {
        let fail = |e: rustix::io::Errno| HostError::Host(format!("{}: {e}; call again", disk.path.display()));
        let fd = rustix::fs::open(&disk.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
        let same = of(rustix::fs::fstat(&fd).map_err(fail)?.st_rdev) == disk.device;
        match self.disk(&disk.nqn)? {
            Some(now) if same && now.is_still(disk) => Ok(fd),
            Some(_) | None => Err(HostError::Host(format!(
                "{} is not the disk of {} any more: call again",
                disk.path.display(),
                disk.nqn
            ))),
        }
    }

    /// An error on a disk whose connection is live is the volume's; otherwise the connection is to blame.
    fn blame(&self, disk: &Disk, why: impl std::fmt::Display) -> HostError {
        match self.disk(&disk.nqn) {
            Ok(Some(now)) if now.live && now.device == disk.device => HostError::Volume(why.to_string()),
            Ok(_) => HostError::Host(format!("{why}; the connection of {} is not live", disk.nqn)),
            Err(e) => HostError::Host(format!("{why}; {e}")),
        }
    }

    fn state(&self, device: Device) -> mount::Disk {
        match self.by_number(device) {
            Ok(Some(disk)) if disk.live() => mount::Disk::Live,
            Ok(Some(disk)) => {
                let states: Vec<&str> = disk.controllers.iter().map(|c| c.state.as_str()).collect();
                mount::Disk::NotLive(states.join(", "))
            }
            Ok(None) if matches!(self.alive(device), Ok(None)) => mount::Disk::Gone,
            Ok(None) => mount::Disk::NotLive("unknown".to_owned()),
            Err(e) => mount::Disk::NotLive(e.to_string()),
        }
    }
}

impl Host for Kernel {
    fn disk(&self, nqn: &str) -> Result<Option<Disk>> {
        let found = sysfs::disk_of(&self.root, nqn).map_err(host)?;
        Ok(found.map(|disk| Disk {
            nqn: nqn.to_owned(),
            device: Device {
                major: disk.major,
                minor: disk.minor,
            },
            size: disk.size_bytes,
            live: disk.live(),
            read_only: disk.read_only,
            identity: disk.wwid,
            connections: disk.controllers.into_iter().map(|c| c.instance).collect(),
            sequence: disk.sequence,
            path: disk.path,
        }))
    }

    fn rescan(&self, nqn: &str) -> Result<()> {
        self.rescan.0.rescan(nqn).map_err(host)
    }

    fn alive(&self, device: Device) -> Result<Option<bool>> {
        let path = self.root.join("sys/dev/block").join(device.to_string());
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(HostError::Host(format!("{}: {e}", path.display()))),
            Ok(_) => {}
        }
        // What is no disk of ours has no connection that could be down.
        Ok(Some(self.by_number(device)?.is_none_or(|disk| disk.live())))
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let table = self.mounts.table().map_err(host)?;
        let mounts = table.entries.into_iter().map(|entry| {
            // A btrfs whose node is gone keeps the number of its own, which no device has: gone.
            let device = of(entry.disk().unwrap_or(entry.device));
            Mount {
                device,
                read_only: entry.read_only(),
                mounted_read_only: entry.mounted_read_only(),
                point: entry.mount_point,
                root: entry.root,
                fs: entry.fs,
            }
        });
        Ok(mounts.collect())
    }

    fn kind(&self, path: &Path) -> Result<Kind> {
        let place = match Place::open(&self.kubelet, path, false) {
            Ok(place) => place,
            Err(PlaceError::Missing(_)) => return Ok(Kind::Missing),
            Err(PlaceError::Link(_)) => return Ok(Kind::Other),
            Err(e) => return Err(host(e)),
        };
        Ok(match place.kind().map_err(host)? {
            place::Kind::Nothing => Kind::Missing,
            place::Kind::Folder => Kind::Folder,
            place::Kind::Block(device) => Kind::Block(of(device)),
            place::Kind::File(size) => Kind::File(size == 0),
            place::Kind::Other => Kind::Other,
        })
    }

    fn nodes(&self, folder: &Path) -> Result<Vec<(PathBuf, Device)>> {
        let mut all = Vec::new();
        nodes_below(folder, DEPTH, &mut all)?;
        Ok(all)
    }

    fn volume_of(&self, node: &Path, driver: &str) -> Result<Option<String>> {
        record::volume_of(node, driver).map_err(host)
    }

    fn set_read_only(&self, disk: &Disk) -> Result<()> {
        mount::set_read_only(&disk.path, Access::ReadOnly).map_err(|e| self.blame(disk, e))
    }

    fn probe(&self, disk: &Disk, uid: &str) -> Result<Found> {
        match probe::probe(&disk.path, uid) {
            Ok(probe::Found::Blank) => Ok(Found::Blank),
            Ok(probe::Found::Filesystem(found)) if found.unfinished => Ok(Found::Foreign(format!(
                "an unfinished {} that is not ours",
                found.fs.as_str()
            ))),
            Ok(probe::Found::Filesystem(found)) => Ok(Found::Filesystem {
                fs: found.fs.as_str().to_owned(),
                uuid: found.uuid,
            }),
            Ok(probe::Found::OurUnfinished(_)) => Ok(Found::Unfinished),
            Ok(probe::Found::Foreign(what)) => Ok(Found::Foreign(what)),
            Err(e @ ProbeError::Read(_)) => Err(self.blame(disk, e)),
            Err(e @ (ProbeError::Blkid { .. } | ProbeError::AtWork { .. })) => Err(host(e)),
        }
    }

    fn format(&self, disk: &Disk, fs: &str, uid: &str, options: &[String]) -> Result<()> {
        let _held = self.hold(disk)?;
        let plan = format::Plan {
            device: &disk.path,
            fs: kind_of(fs)?,
            volume: uid,
            options,
            limit: format::LIMIT,
        };
        match format::make(&plan) {
            Ok(_) => Ok(()),
            Err(e @ (FormatError::Tool(..) | FormatError::Unknown(..) | FormatError::Busy(_))) => Err(host(e)),
            Err(FormatError::Probe(e @ (ProbeError::Blkid { .. } | ProbeError::AtWork { .. }))) => Err(host(e)),
            Err(
                e @ (FormatError::Option(_)
                | FormatError::Uuid(_)
                | FormatError::TooSmall { .. }
                | FormatError::Probe(ProbeError::Read(_))
                | FormatError::Read(_)
                | FormatError::NotBlank { .. }
                | FormatError::Write(..)
                | FormatError::Failed { .. }
                | FormatError::Unverified { .. }),
            ) => Err(self.blame(disk, e)),
        }
    }

    fn check(&self, disk: &Disk, fs: &str) -> Result<Verdict> {
        let _held = self.hold(disk)?;
        match check::check(&disk.path, kind_of(fs)?, CHECK) {
            Ok(check::Verdict::Good) => Ok(Verdict::Good),
            Ok(check::Verdict::Repaired(_)) => Ok(Verdict::Repaired),
            Ok(check::Verdict::Skipped(why)) => Ok(Verdict::Skipped(why)),
            Ok(check::Verdict::Running(why)) => Err(HostError::Host(why)),
            // Errors of a connection that was lost meanwhile are no damage.
            Ok(check::Verdict::Damaged(why)) => match self.blame(disk, why) {
                HostError::Volume(why) => Ok(Verdict::Damaged(why)),
                e @ (HostError::InUse(_) | HostError::Host(_)) => Err(e),
            },
            Err(e) => Err(self.blame(disk, e)),
        }
    }

    fn check_reader(&self, disk: &Disk, fs: &str) -> Result<Verdict> {
        Ok(match check::journal(&disk.path, kind_of(fs)?, CHECK) {
            Journal::Clean => Verdict::Good,
            Journal::Dirty => Verdict::Dirty,
            Journal::Unknown(why) => Verdict::Skipped(why),
        })
    }

    fn judge_options(&self, fs: &str, options: &[String]) -> std::result::Result<(), String> {
        let kind: FsType = kind_of(fs).map_err(|e| e.to_string())?;
        Options::parse(kind, options).map(|_| ()).map_err(|e| e.to_string())
    }

    fn mount(&self, disk: &Disk, at: &Path, how: &MountAs) -> Result<()> {
        let access = if how.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let kind = kind_of(&how.fs)?;
        let _held = self.hold(disk)?;
        match self.mounts.mount_device(&disk.path, at, kind, access, &how.options) {
            Ok(_) => Ok(()),
            Err(e @ MountError::Kernel { .. }) => {
                // A clean log after a failed mount is what may be looked into without harm.
                let why = match check::after_failed_mount(&disk.path, kind, CHECK) {
                    check::Verdict::Damaged(why) => format!("{e}: the filesystem is damaged: {why}"),
                    check::Verdict::Good
                    | check::Verdict::Repaired(_)
                    | check::Verdict::Skipped(_)
                    | check::Verdict::Running(_) => e.to_string(),
                };
                Err(self.blame(disk, why))
            }
            Err(e) => Err(refused(e)),
        }
    }

    fn refuses_writes(&self, disk: &Disk, at: &Path) -> Result<Option<String>> {
        let live = || match self.disk(&disk.nqn)? {
            Some(now) if now.live && now.is_still(disk) => Ok(()),
            Some(_) | None => Err(HostError::Host(format!(
                "the connection of {} is not live; call again",
                disk.nqn
            ))),
        };
        // Without a connection the look would only wait for it; and what failed while it was lost says nothing of the filesystem.
        live()?;
        let refused = self.mounts.refuses_writes(at, REFUSES_WRITES).map_err(host)?;
        if refused.is_some() {
            live()?;
        }
        Ok(refused)
    }

    fn bind(&self, from: &Path, to: &Path, read_only: bool) -> Result<()> {
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        self.mounts
            .bind(from, to, access, &Options::default())
            .map(|_| ())
            .map_err(refused)
    }

    fn write_out(&self, at: &Path, device: Device) -> Result<Flushed> {
        let node = self.by_number(device)?.map(|d| d.path);
        let state = || self.state(device);
        let done = self.mounts.write_out(&Unmount {
            target: at,
            device: node.as_deref(),
            disk: &state,
            limit: UNMOUNT,
        });
        Ok(done.map_err(host)?.map_or(Flushed::Clean, Flushed::Lost))
    }

    fn unmount(&self, at: &Path, device: Device, flush: Flush) -> Result<Flushed> {
        let gone = self.alive(device)?.is_none();
        let done = if flush == Flush::No && !gone {
            self.mounts.unmount(at, UNMOUNT)
        } else {
            let node = self.by_number(device)?.map(|d| d.path);
            let state = || self.state(device);
            self.mounts.syncfs_then_unmount(&Unmount {
                target: at,
                device: node.as_deref(),
                disk: &state,
                limit: UNMOUNT,
            })
        };
        match done {
            Ok(Outcome::Clean | Outcome::NotMounted) => Ok(Flushed::Clean),
            Ok(Outcome::PossibleDataLoss(why)) => Ok(Flushed::Lost(why)),
            Err(e @ (UnmountError::Busy(_) | UnmountError::Left(..) | UnmountError::Foreign { .. })) => {
                Err(HostError::InUse(e.to_string()))
            }
            Err(e) => Err(host(e)),
        }
    }

    fn free(&self, disk: &Disk) -> Result<bool> {
        disk::is_free(&disk.path).map_err(|e| HostError::Host(format!("{}: {e}", disk.path.display())))
    }

    fn make_folder(&self, at: &Path) -> Result<()> {
        match std::fs::create_dir(at) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(HostError::Host(format!("cannot make {}: {e}", at.display())))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn make_node(&self, at: &Path, device: Device, read_only: bool) -> Result<()> {
        let disk = self
            .by_number(device)?
            .ok_or_else(|| HostError::Host(format!("device {device} is gone; call again")))?;
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        self.mounts
            .bind_block(&disk.path, at, access)
            .map(|_| ())
            .map_err(refused)
    }

    fn remove(&self, at: &Path) -> Result<()> {
        match self.mounts.unmount(at, UNMOUNT) {
            Ok(_) => Ok(()),
            Err(e @ UnmountError::Left(..)) => Err(HostError::InUse(e.to_string())),
            Err(e) => Err(host(e)),
        }
    }

    fn grow(&self, disk: &Disk, fs: &str, at: &Path) -> Result<()> {
        grow::grow(kind_of(fs)?, &disk.path, at)
            .map(|_| ())
            .map_err(|e| self.blame(disk, e))
    }

    fn usage(&self, at: &Path) -> Result<Usage> {
        let found = stats::filesystem(at).map_err(|e| HostError::Host(format!("{}: {e}", at.display())))?;
        let inodes = (found.inodes_total > 0).then_some((found.inodes_total, found.inodes_used, found.inodes_free));
        Ok(Usage {
            bytes: found.bytes_total,
            used: Some((found.bytes_used, found.bytes_available)),
            inodes,
        })
    }
}

fn nodes_below(folder: &Path, depth: usize, all: &mut Vec<(PathBuf, Device)>) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let failed = |e: std::io::Error| HostError::Host(format!("cannot read {}: {e}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(entries) => entries,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let about = match std::fs::symlink_metadata(&path) {
            // Gone since.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e)),
            Ok(about) => about,
        };
        if about.file_type().is_block_device() {
            all.push((path, of(about.rdev())));
        } else if about.is_dir() && depth > 1 {
            nodes_below(&path, depth - 1, all)?;
        }
    }
    Ok(())
}

fn of(device: Dev) -> Device {
    Device {
        major: major(device),
        minor: minor(device),
    }
}

fn kind_of(fs: &str) -> Result<FsType> {
    let all = [FsType::Ext4, FsType::Ext3, FsType::Xfs, FsType::Btrfs];
    all.into_iter().find(|kind| kind.as_str() == fs).ok_or_else(|| {
        HostError::Host(format!(
            "the filesystem {fs} is not served: use ext4, ext3, xfs or btrfs"
        ))
    })
}

fn host(e: impl std::fmt::Display) -> HostError {
    HostError::Host(e.to_string())
}

/// A mount that was refused for what is there already.
fn refused(e: MountError) -> HostError {
    match e {
        MountError::Occupied { .. } | MountError::InTheWay { .. } | MountError::NotStaged(_) => {
            HostError::InUse(e.to_string())
        }
        MountError::Place(_)
        | MountError::Table(_)
        | MountError::Option(_)
        | MountError::Device(..)
        | MountError::Storm { .. }
        | MountError::NoDev(_)
        | MountError::Kernel { .. } => host(e),
    }
}
