//! Mounts of volumes below kubelet's folder, by system calls.
//!
//! The mount table is the truth: every call reads it, adds nothing when what is wanted is there (I12), and refuses when something
//! else is. A folder is only ever removed with rmdir, a file only when it is a device node or empty; no tree is ever removed (B5).
//! Paths lead through no symbolic link and stay below kubelet's folder.
//!
//! Everything blocks and runs on threads of its callers. A disk that does not answer may hold a call for ever; what must not
//! hang has a limit and says so.

mod bind;
mod block;
mod device;
pub mod mountinfo;
pub mod options;
pub mod place;
mod unmount;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::Dev;

pub use self::block::set_read_only;
use self::mountinfo::{Entry, Table, TableError};
use self::options::BadOption;
use self::place::PlaceError;
pub use self::unmount::{Disk, Outcome, Unmount, UnmountError};

/// So many mounts of one device refuse another (R46).
pub const STORM: usize = 100;

/// Whether a call had anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is there now.
    Now,
    /// It was there.
    Already,
}

/// Whether pods may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They may.
    ReadWrite,
    /// They may not, and neither may the kernel: no journal is replayed.
    ReadOnly,
}

/// Why something is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The path is refused.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The mount table cannot be read: nothing is mounted without it (B64).
    #[error(transparent)]
    Table(#[from] TableError),
    /// A mount option is refused.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// The device is not there.
    #[error("{0}: {1}; see whether the volume is connected")]
    Device(PathBuf, std::io::Error),
    /// Something else is mounted there.
    #[error("{target} has {there} mounted, not {wanted}: unmount it first")]
    Occupied {
        /// Where.
        target: PathBuf,
        /// What is there.
        there: String,
        /// What should be.
        wanted: String,
    },
    /// Something else than a mount is in the way.
    #[error("{target} is {there}, {wanted} is wanted: remove it")]
    InTheWay {
        /// Where.
        target: PathBuf,
        /// What is there.
        there: &'static str,
        /// What should be.
        wanted: &'static str,
    },
    /// The source of a bind mount is no mount of a volume.
    #[error("{0} is not mounted: stage the volume first")]
    NotStaged(PathBuf),
    /// Too many mounts of that device.
    #[error(
        "{device} is mounted {count} times, the limit is {STORM}: something mounts it again and again; unmount the surplus on this \
         node (grep ' {device} ' /proc/self/mountinfo) and restart its pods"
    )]
    Storm {
        /// The device number.
        device: String,
        /// How often.
        count: usize,
    },
    /// Device nodes do not work there.
    #[error("{0} is on a filesystem mounted with nodev: remount it with dev, raw block volumes need it")]
    NoDev(PathBuf),
    /// The kernel refused.
    #[error("{what} on {target}: {error}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Where.
        target: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The mounts of this node.
#[derive(Clone, Debug)]
pub struct Mounts {
    host_root: PathBuf,
    kubelet: PathBuf,
}

impl Mounts {
    /// With the host's /proc and /sys below `host_root`, and kubelet's folder at the path that kubelet itself has for it.
    #[must_use]
    pub fn new(host_root: impl Into<PathBuf>, kubelet: impl Into<PathBuf>) -> Self {
        Self {
            host_root: host_root.into(),
            kubelet: kubelet.into(),
        }
    }

    /// The mount table, read now.
    ///
    /// # Errors
    /// When it cannot be read whole, or not in time.
    pub fn table(&self) -> Result<Table, TableError> {
        Table::read(&self.host_root)
    }

    /// What is mounted at `target`, uppermost.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn mounted(&self, target: &Path) -> Result<Option<Entry>, TableError> {
        Ok(self.table()?.top(target).cloned())
    }

    /// Refuses when a device has too many mounts already (R46, B63: counted by device number).
    fn no_storm(table: &Table, device: Dev) -> Result<(), MountError> {
        let count = table.of(device).count();
        if count >= STORM {
            return Err(MountError::Storm {
                device: numbers(device),
                count,
            });
        }
        Ok(())
    }
}

/// A device number as in the mount table.
#[must_use]
pub fn numbers(device: Dev) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// Runs a call that may hang; `None` when the limit passed. It then goes on alone, and its result is lost.
fn limited<T: Send + 'static>(name: &str, limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = channel();
    let thread = crate::thread::spawn(name, move || {
        let _ = done.send(call());
    });
    thread.ok()?;
    result.recv_timeout(limit).ok()
}
