//! Publishing a raw block volume: a device node of its own at the target.
//!
//! Not a bind mount out of /dev: with the shared propagation of kubelet's folder that multiplied mounts until nodes died (B62),
//! and it shows up in the mount table as devtmpfs. A node's number is compared at every publish, as numbers are used again (B9).

use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, StatVfsMountFlags};
use rustix::io::Errno;

use super::place::{Kind, Place, by_handle};
use super::{Access, Done, MountError, Mounts, device, numbers};
use crate::filesystem::child::{self, Tools};

/// For a child that sets one flag.
const LIMIT: Duration = Duration::from_secs(30);

impl Mounts {
    /// Makes a node of `device` at `target`.
    ///
    /// # Errors
    /// When there is none afterwards with the device's number; [`MountError::Occupied`] when there is one of another.
    pub fn bind_block(&self, device: &Path, target: &Path, access: Access) -> Result<Done, MountError> {
        let disk = device::disk_number(device)?;
        let place = Place::open(&self.kubelet, target, true)?;
        // Before anything is made: a node that cannot be opened would count as a use of the disk.
        nodes_work(&place)?;
        let occupied = |there: String| MountError::Occupied {
            target: target.to_owned(),
            there,
            wanted: format!("a node of {}", numbers(disk)),
        };
        if let Some(there) = self.table()?.top(target) {
            return Err(occupied(super::bind::told(there)));
        }
        match place.kind()? {
            Kind::Nothing => {}
            // A file that an earlier driver bound a device to.
            Kind::File(0) => remove_file(&place)?,
            Kind::Block(number) if number == disk => {
                usable(&place, disk, access)?;
                return Ok(Done::Already);
            }
            Kind::Block(number) => return Err(occupied(format!("a node of {}", numbers(number)))),
            there @ (Kind::Folder | Kind::File(_) | Kind::Other) => {
                return Err(MountError::InTheWay {
                    target: target.to_owned(),
                    there: there.told(),
                    wanted: "a device node",
                });
            }
        }
        match rustix::fs::mknodat(place.parent(), place.name(), FileType::BlockDevice, mode(access), disk) {
            // Another call was quicker: the number decides.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(place.fail(e).into()),
        }
        match place.kind()? {
            Kind::Block(number) if number == disk => {}
            Kind::Block(number) => return Err(occupied(format!("a node of {}", numbers(number)))),
            there @ (Kind::Nothing | Kind::Folder | Kind::File(_) | Kind::Other) => {
                return Err(occupied(there.told().to_owned()));
            }
        }
        usable(&place, disk, access)?;
        Ok(Done::Now)
    }

    /// The number of the device node at `target`, if there is one.
    ///
    /// # Errors
    /// When the path is refused or cannot be looked at.
    pub fn block_at(&self, target: &Path) -> Result<Option<rustix::fs::Dev>, MountError> {
        Ok(match Place::open(&self.kubelet, target, false)?.kind()? {
            Kind::Block(number) => Some(number),
            Kind::Nothing | Kind::Folder | Kind::File(_) | Kind::Other => None,
        })
    }
}

/// Device nodes can be opened there.
fn nodes_work(place: &Place) -> Result<(), MountError> {
    let parent = rustix::fs::statvfs(by_handle(place.parent())).map_err(|e| place.fail(e))?;
    if parent.f_flag.contains(StatVfsMountFlags::NODEV) {
        return Err(MountError::NoDev(place.path.clone()));
    }
    Ok(())
}

/// The number and the mode are right; the umask counts at making.
fn usable(place: &Place, disk: rustix::fs::Dev, access: Access) -> Result<(), MountError> {
    let handle = place.handle()?;
    let about = rustix::fs::fstat(&handle).map_err(|e| place.fail(e))?;
    if about.st_rdev != disk {
        return Err(MountError::Occupied {
            target: place.path.clone(),
            there: format!("a node of {}", numbers(about.st_rdev)),
            wanted: format!("a node of {}", numbers(disk)),
        });
    }
    // chmod knows no O_PATH descriptor: by its name in /proc.
    rustix::fs::chmod(by_handle(&handle), mode(access)).map_err(|e| place.fail(e).into())
}

/// Those of the Go driver: readable for a group, writable only when the volume is.
fn mode(access: Access) -> Mode {
    match access {
        Access::ReadWrite => Mode::from_raw_mode(0o660),
        Access::ReadOnly => Mode::from_raw_mode(0o440),
    }
}

pub(super) fn remove_file(place: &Place) -> Result<(), MountError> {
    match rustix::fs::unlinkat(place.parent(), place.name(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(place.fail(e).into()),
    }
}

/// Has the kernel refuse all writes to a device, a journal replay included (I3). Set before anything reads it.
///
/// # Errors
/// When it is not read-only afterwards.
pub fn set_read_only(device: &Path, access: Access) -> Result<(), MountError> {
    let failed = |why: String| MountError::Device(device.to_owned(), std::io::Error::other(why));
    let tools = Tools::default();
    let run = |flag: &str| {
        let words = [flag.as_ref(), device.as_os_str()];
        let ended =
            child::run(&tools, "blockdev", &words, child::Kind::Reads, LIMIT).map_err(|e| failed(e.to_string()))?;
        match ended.code {
            Some(0) => Ok(ended.stdout.trim().to_owned()),
            Some(_) | None => Err(failed(format!("blockdev {flag}: {}, {}", ended.how(), ended.words()))),
        }
    };
    let (flag, wanted) = match access {
        Access::ReadOnly => ("--setro", "1"),
        Access::ReadWrite => ("--setrw", "0"),
    };
    run(flag)?;
    let now = run("--getro")?;
    if now == wanted {
        return Ok(());
    }
    Err(failed(format!("blockdev {flag} had no effect: --getro says {now}")))
}
