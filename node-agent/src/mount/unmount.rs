//! Taking a mount away: synced first, verified afterwards, and with the loss of data said aloud.
//!
//! `umount` of a filesystem whose disk is gone returns 0, and a mount whose `umount` hangs has left the mount table already. So
//! success is: the disk is live, syncfs and fsync of the root said 0, the disk is still there, `umount` returned, and nobody holds
//! the disk any more (I7). On a disk that is not live neither a sync nor an umount is begun: both hang in the kernel.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dev};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mountinfo::{Entry, TableError};
use super::place::{Kind, Place, PlaceError};
use super::{Mounts, STORM, limited, numbers};
use crate::filesystem::disk;

/// What the caller knows of the volume's disk, looked up at the moment it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Its controller is live.
    Live,
    /// It is there, and its controller is not live: the kernel's word for its state.
    NotLive(String),
    /// It is gone for good.
    Gone,
}

/// What became of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone and its data is on the disk.
    Clean,
    /// It was not mounted, and nobody holds the disk.
    NotMounted,
    /// It is gone, and what was not written by then is lost. To be told: an event, a condition, a metric; never a success in
    /// silence.
    PossibleDataLoss(String),
}

/// Why a mount is not gone, or that is not known.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The path is refused.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The mount table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Another volume's.
    #[error("{target} has {there} mounted, which is not this volume's: it is left alone")]
    Foreign {
        /// Where.
        target: PathBuf,
        /// What.
        there: String,
    },
    /// The disk does not answer now.
    #[error("the connection of {0} is `{1}`: nothing is synced or unmounted before it is live again or gone")]
    NotLive(PathBuf, String),
    /// The sync takes long.
    #[error("the data of {0} was not on the disk after {1:?}: try again later; is the appliance slow or away?")]
    Slow(PathBuf, Duration),
    /// `umount` takes long.
    #[error("umount of {0} did not end within {1:?}: it goes on in the kernel; try again later")]
    Hangs(PathBuf, Duration),
    /// Files are open.
    #[error("{0} is in use: a process has files open there; end it")]
    Busy(PathBuf),
    /// Nothing is mounted any more, and yet somebody holds the disk.
    #[error(
        "{0} is held although it is not mounted at {1}: an umount that hangs, a mount elsewhere, or another program; it is not \
         free yet, try again later"
    )]
    StillHeld(PathBuf, PathBuf),
    /// It cannot be told whether somebody holds the disk.
    #[error("cannot tell whether {0} is free: {1}")]
    Unknown(PathBuf, std::io::Error),
    /// Not empty, or not ours to remove.
    #[error("{0} is {1}: it is not removed; look at it and remove it by hand")]
    Left(PathBuf, &'static str),
    /// The kernel refused.
    #[error("cannot unmount {0}: {1}")]
    Kernel(PathBuf, std::io::Error),
}

/// What to unmount.
pub struct Unmount<'a> {
    /// The staging path.
    pub target: &'a Path,
    /// Where the volume's disk is now, if it is.
    pub device: Option<&'a Path>,
    /// Asked before the sync, after it and after the umount.
    pub disk: &'a dyn Fn() -> Disk,
    /// For each step that may hang.
    pub limit: Duration,
}

impl Mounts {
    /// Takes the mount of a volume at its staging path away, its data first. The folder stays.
    ///
    /// # Errors
    /// When it is not gone, or the disk not free: the call is to be repeated.
    pub fn syncfs_then_unmount(&self, what: &Unmount<'_>) -> Result<Outcome, UnmountError> {
        let target = what.target;
        let mut loss: Option<String> = None;
        let mut found = false;
        // An earlier driver stacked mounts (B7): all of this disk go.
        for _ in 0..STORM {
            let Some(there) = self.table()?.top(target).cloned() else {
                return self.nothing_mounted(what, found, loss);
            };
            found = true;
            let place = Place::open(&self.kubelet, target, false)?;
            loss = self.write_out_at(what, &there, &place)?.or(loss);
            match self.state(what, &there)? {
                Disk::NotLive(state) => return Err(UnmountError::NotLive(target.to_owned(), state)),
                Disk::Live => umount(target, &place, what.limit)?,
                Disk::Gone => {
                    loss = Some(gone(target));
                    match umount(target, &place, what.limit) {
                        Ok(()) => {}
                        // There is no disk that could still be written: the name goes now, the rest with its last user.
                        Err(UnmountError::Busy(_) | UnmountError::Hangs(..)) => self.detach(target, &place)?,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Err(UnmountError::Foreign {
            target: target.to_owned(),
            there: format!("more than {STORM} mounts"),
        })
    }

    /// Writes the data of what is mounted there out, and changes nothing else: what of it is lost is known while it is still mounted.
    ///
    /// # Errors
    /// When that cannot be done now: the call is to be repeated.
    pub fn write_out(&self, what: &Unmount<'_>) -> Result<Option<String>, UnmountError> {
        let Some(there) = self.table()?.top(what.target).cloned() else {
            return Ok(None);
        };
        let place = Place::open(&self.kubelet, what.target, false)?;
        self.write_out_at(what, &there, &place)
    }

    fn write_out_at(&self, what: &Unmount<'_>, there: &Entry, place: &Place) -> Result<Option<String>, UnmountError> {
        let target = what.target;
        match self.state(what, there)? {
            Disk::NotLive(state) => Err(UnmountError::NotLive(target.to_owned(), state)),
            Disk::Gone => Ok(Some(gone(target))),
            Disk::Live => Ok(sync(target, place, what.limit)?
                .err()
                .map(|error| format!("not all data of {} could be written: {error}", target.display()))),
        }
    }

    /// Not in the mount table proves nothing: an `umount` that hangs has left it already.
    fn nothing_mounted(&self, what: &Unmount<'_>, found: bool, loss: Option<String>) -> Result<Outcome, UnmountError> {
        let target = what.target;
        if let Some(loss) = loss {
            return Ok(Outcome::PossibleDataLoss(loss));
        }
        let Some(device) = what.device else {
            return Ok(Outcome::NotMounted);
        };
        let free = {
            let device = device.to_owned();
            limited("exclusive", what.limit, move || disk::is_free(&device))
        };
        match free {
            Some(Ok(true)) if !found => Ok(Outcome::NotMounted),
            Some(Ok(true)) => match (what.disk)() {
                Disk::Live => Ok(Outcome::Clean),
                Disk::Gone => Ok(Outcome::PossibleDataLoss(gone(target))),
                Disk::NotLive(state) => Err(UnmountError::NotLive(target.to_owned(), state)),
            },
            Some(Ok(false)) => Err(UnmountError::StillHeld(device.to_owned(), target.to_owned())),
            None => Err(UnmountError::Hangs(target.to_owned(), what.limit)),
            // The node went while it was unmounted.
            Some(Err(e)) if matches!((what.disk)(), Disk::Gone) => {
                if found {
                    return Ok(Outcome::PossibleDataLoss(format!("{} ({e})", gone(target))));
                }
                Ok(Outcome::NotMounted)
            }
            Some(Err(e)) => Err(UnmountError::Unknown(device.to_owned(), e)),
        }
    }

    /// State of the disk of that very mount, which is not the volume's disk of today when the connection was lost in between.
    fn state(&self, what: &Unmount<'_>, there: &Entry) -> Result<Disk, UnmountError> {
        let Some(number) = there.disk().filter(|_| !self.is_stale(there)) else {
            return Ok(Disk::Gone);
        };
        let ours = what
            .device
            .and_then(|device| super::device::disk_number(device).ok())
            .is_some_and(|ours| ours == number);
        if ours {
            return Ok((what.disk)());
        }
        Err(UnmountError::Foreign {
            target: what.target.to_owned(),
            there: super::bind::told(there),
        })
    }

    /// Whether the kernel has a disk of that number: the one sign that was seen in all cases of a loss.
    fn exists(&self, number: Dev) -> bool {
        let path = self.host_root.join("sys/dev/block").join(numbers(number));
        // Anything but "no such entry" means that it may exist.
        !matches!(std::fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether the disk of that mount is gone while it is mounted: what is seen there is what the kernel still remembers. It is
    /// cleared by [`Mounts::syncfs_then_unmount`] with no device, never mounted over.
    #[must_use]
    pub fn is_stale(&self, there: &Entry) -> bool {
        there.disk().is_none_or(|number| !self.exists(number))
    }

    fn detach(&self, target: &Path, place: &Place) -> Result<(), UnmountError> {
        // A hanging umount has taken it out of the table by now.
        if self.table()?.top(target).is_none() {
            return Ok(());
        }
        match rustix::mount::unmount(place.through(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(e) => Err(UnmountError::Kernel(target.to_owned(), e.into())),
        }
    }

    /// Takes a bind mount or a device node at a publish target away, and the empty folder or file with it. What is not ours to
    /// remove stays and is an error.
    ///
    /// # Errors
    /// When it is not gone.
    pub fn unmount(&self, target: &Path, limit: Duration) -> Result<Outcome, UnmountError> {
        let place = match Place::open(&self.kubelet, target, false) {
            Ok(place) => place,
            Err(PlaceError::Missing(_)) => return Ok(Outcome::NotMounted),
            Err(e) => return Err(e.into()),
        };
        // The table comes before any look at the target: on a dead mount that look fails.
        let mut found = false;
        for _ in 0..STORM {
            if self.table()?.top(target).is_none() {
                remove(&place)?;
                return Ok(if found { Outcome::Clean } else { Outcome::NotMounted });
            }
            found = true;
            umount(target, &place, limit)?;
        }
        Err(UnmountError::Foreign {
            target: target.to_owned(),
            there: format!("more than {STORM} mounts"),
        })
    }

    /// Removes an empty folder that nothing is mounted on: the staging path after unstage. A missing one is success.
    ///
    /// # Errors
    /// When it is not empty, or not a folder.
    pub fn remove_folder(&self, target: &Path) -> Result<(), UnmountError> {
        let place = match Place::open(&self.kubelet, target, false) {
            Ok(place) => place,
            Err(PlaceError::Missing(_)) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if let Some(there) = self.table()?.top(target) {
            return Err(UnmountError::Foreign {
                target: target.to_owned(),
                there: super::bind::told(there),
            });
        }
        match place.kind()? {
            Kind::Nothing => Ok(()),
            Kind::Folder => remove(&place),
            there @ (Kind::Block(_) | Kind::File(_) | Kind::Other) => {
                Err(UnmountError::Left(target.to_owned(), there.told()))
            }
        }
    }
}

fn gone(target: &Path) -> String {
    format!(
        "the disk of {} went away while it was mounted: what was not written by then is lost",
        target.display()
    )
}

/// Writes all data of the filesystem out. No single call reports every loss, so both are made; the inner result is theirs.
fn sync(target: &Path, place: &Place, limit: Duration) -> Result<std::io::Result<()>, UnmountError> {
    let own = place.again()?;
    limited("sync", limit, move || -> std::io::Result<()> {
        let root = File::open(own.through())?;
        // Both, whatever the first says.
        let all = rustix::fs::syncfs(&root);
        let folder = rustix::fs::fsync(&root);
        all?;
        Ok(folder?)
    })
    .ok_or_else(|| UnmountError::Slow(target.to_owned(), limit))
}

fn umount(target: &Path, place: &Place, limit: Duration) -> Result<(), UnmountError> {
    let path = place.through();
    match limited("umount", limit, move || {
        rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)
    }) {
        // EINVAL: not a mount any more. The table is read again by whoever calls.
        Some(Ok(()) | Err(Errno::INVAL)) => Ok(()),
        Some(Err(Errno::BUSY)) => Err(UnmountError::Busy(target.to_owned())),
        Some(Err(e)) => Err(UnmountError::Kernel(target.to_owned(), e.into())),
        None => Err(UnmountError::Hangs(target.to_owned(), limit)),
    }
}

/// rmdir or unlink, never more (B5).
fn remove(place: &Place) -> Result<(), UnmountError> {
    let flags = match place.kind()? {
        Kind::Nothing => return Ok(()),
        Kind::Folder => AtFlags::REMOVEDIR,
        // Nodes are ours; so are empty files, which an earlier driver bound devices to.
        Kind::Block(_) | Kind::File(0) => AtFlags::empty(),
        there @ (Kind::File(_) | Kind::Other) => return Err(UnmountError::Left(place.path.clone(), there.told())),
    };
    match rustix::fs::unlinkat(place.parent(), place.name(), flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) => Err(UnmountError::Left(place.path.clone(), "a folder with files in it")),
        Err(Errno::BUSY) => Err(UnmountError::Busy(place.path.clone())),
        Err(e) => Err(place.fail(e).into()),
    }
}
