//! What the Node service asks of the host: [`Host`] has the kernel behind it, and in tests a model of one.
//!
//! Every call blocks and runs on a thread of its own. Nothing is remembered between calls: a device is looked up by its NQN each time
//! (I5), and mountinfo is the truth about mounts.

use std::fmt;
use std::path::{Path, PathBuf};

/// Major and minor number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The disk behind an NQN, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The NQN.
    pub nqn: String,
    /// Its device node.
    pub path: PathBuf,
    /// Its numbers.
    pub device: Device,
    /// Its size as the kernel shows it.
    pub size: u64,
    /// At least one controller is live.
    pub live: bool,
    /// The kernel refuses to write.
    pub read_only: bool,
    /// What the kernel calls it.
    pub identity: Option<String>,
    /// The connections that it comes by, each by a name that no other one of this boot has.
    pub connections: Vec<String>,
    /// Counts the disks of this boot, where the kernel does: never given twice.
    pub sequence: Option<u64>,
}

impl Disk {
    /// Whether this is that very disk by that very connection, so that what was read of the one is true of the other. Names and
    /// numbers alone do not tell: the kernel gives them again.
    #[must_use]
    pub fn is_still(&self, before: &Self) -> bool {
        let of = |d: &Self| (d.nqn.clone(), d.path.clone(), d.device, d.sequence);
        of(self) == of(before) && self.identity == before.identity && self.connections == before.connections
    }
}

/// A mount, from mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device of its superblock.
    pub device: Device,
    /// Where.
    pub point: PathBuf,
    /// The folder of the filesystem that is shown there: `/` unless it is a bind mount of a part.
    pub root: PathBuf,
    /// Filesystem.
    pub fs: String,
    /// This mount point, or the whole filesystem, is read-only, or was made so by the kernel after an error.
    pub read_only: bool,
    /// The filesystem was mounted read-only: by this mount nothing was ever written.
    pub mounted_read_only: bool,
}

/// What is at a path; symbolic links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Missing,
    /// A folder.
    Folder,
    /// A regular file; whether it is empty.
    File(bool),
    /// A block device node.
    Block(Device),
    /// Anything else.
    Other,
}

/// What a complete reading of a disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, everywhere.
    Blank,
    /// A filesystem.
    Filesystem {
        /// Its type.
        fs: String,
        /// Its UUID.
        uuid: String,
    },
    /// The beginnings of an mkfs of ours.
    Unfinished,
    /// Something else; what it is.
    Foreign(String),
}

/// What a check of a filesystem said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In order.
    Good,
    /// It is in order now.
    Repaired,
    /// It was not checked, and why.
    Skipped(String),
    /// It has a journal to replay, which a reader must not do.
    Dirty,
    /// It must not be mounted, and why.
    Damaged(String),
}

/// Usage of a filesystem or device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Size in bytes.
    pub bytes: u64,
    /// Of them used, and free for users; `None` for a device.
    pub used: Option<(u64, u64)>,
    /// Inodes: all, used, free; `None` where there is no such number.
    pub inodes: Option<(u64, u64, u64)>,
}

/// How a filesystem is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountAs {
    /// Type.
    pub fs: String,
    /// Options as asked for; refused ones were refused before.
    pub options: Vec<String>,
    /// Without any write, that of a journal included.
    pub read_only: bool,
}

impl MountAs {
    /// Whether the mount shows as read-only: for the device's sake, or as the options ask.
    #[must_use]
    pub fn shows_read_only(&self) -> bool {
        self.read_only || asks_read_only(&self.options)
    }
}

/// Whether mount options ask for a read-only mount.
#[must_use]
pub fn asks_read_only(options: &[String]) -> bool {
    options.iter().any(|o| o.split(',').any(|word| word.trim() == "ro"))
}

/// Why something on the host failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The volume is to blame.
    #[error("{0}")]
    Volume(String),
    /// It is in use.
    #[error("{0}")]
    InUse(String),
    /// The host does not answer, or not in time.
    #[error("{0}")]
    Host(String),
}

type Result<T> = std::result::Result<T, HostError>;

/// The host's disks, filesystems and mounts.
pub trait Host: Send + Sync + fmt::Debug {
    /// The disk of that NQN; `None` is proof that there is none.
    ///
    /// # Errors
    /// When it cannot be told.
    fn disk(&self, nqn: &str) -> Result<Option<Disk>>;

    /// Asks the kernel to read the size anew.
    ///
    /// # Errors
    /// When it refuses.
    fn rescan(&self, nqn: &str) -> Result<()>;

    /// Whether the kernel knows the device, and all that is needed to write to it is live: `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be told.
    fn alive(&self, device: Device) -> Result<Option<bool>>;

    /// All mounts, in the order of the kernel.
    ///
    /// # Errors
    /// When the table cannot be read whole, or not in time.
    fn mounts(&self) -> Result<Vec<Mount>>;

    /// What is at that path.
    ///
    /// # Errors
    /// When it cannot be told.
    fn kind(&self, path: &Path) -> Result<Kind>;

    /// Block device nodes below a folder, however deep, and their devices.
    ///
    /// # Errors
    /// When the folder cannot be read whole.
    fn nodes(&self, folder: &Path) -> Result<Vec<(PathBuf, Device)>>;

    /// The volume of that driver that a published device node is for, as kubelet has recorded it; `None` where it has not.
    ///
    /// # Errors
    /// When the record cannot be read.
    fn volume_of(&self, node: &Path, driver: &str) -> Result<Option<String>>;

    /// Makes the kernel refuse every write to the disk.
    ///
    /// # Errors
    /// When that cannot be proven afterwards.
    fn set_read_only(&self, disk: &Disk) -> Result<()>;

    /// Reads the disk. Any error of reading is an error, never blank (I1).
    ///
    /// # Errors
    /// When not all could be read.
    fn probe(&self, disk: &Disk, uid: &str) -> Result<Found>;

    /// Makes a filesystem with that UUID. The caller has read the Intent of the ledger just now (I2).
    ///
    /// # Errors
    /// When mkfs fails.
    fn format(&self, disk: &Disk, fs: &str, uid: &str, options: &[String]) -> Result<()>;

    /// Checks an existing filesystem that is not mounted.
    ///
    /// # Errors
    /// When the check itself cannot run.
    fn check(&self, disk: &Disk, fs: &str) -> Result<Verdict>;

    /// Looks, without a write, whether a reader may mount it: its journal has to be empty.
    ///
    /// # Errors
    /// When that cannot be looked at.
    fn check_reader(&self, disk: &Disk, fs: &str) -> Result<Verdict>;

    /// Why these options are refused, if they are.
    ///
    /// # Errors
    /// The option and what to do.
    fn judge_options(&self, fs: &str, options: &[String]) -> std::result::Result<(), String>;

    /// Mounts the disk there.
    ///
    /// # Errors
    /// When nothing is mounted.
    fn mount(&self, disk: &Disk, at: &Path, how: &MountAs) -> Result<()>;

    /// Why the filesystem mounted there takes no writes any more, though the mounts may not show it; `None` when it does.
    ///
    /// # Errors
    /// When that cannot be told in time, or the disk is not live.
    fn refuses_writes(&self, disk: &Disk, at: &Path) -> Result<Option<String>>;

    /// Shows the mount at `from` at `to` as well.
    ///
    /// # Errors
    /// When nothing is mounted there, or not as asked.
    fn bind(&self, from: &Path, to: &Path, read_only: bool) -> Result<()>;

    /// Writes out what is in memory of the mount there, which stays.
    ///
    /// # Errors
    /// When that cannot be done now.
    fn write_out(&self, at: &Path, device: Device) -> Result<Flushed>;

    /// Writes out what is in memory, and unmounts the topmost mount there; nothing mounted is success. Possible loss of data is
    /// told, not hidden.
    ///
    /// # Errors
    /// When it is still mounted.
    fn unmount(&self, at: &Path, device: Device, flush: Flush) -> Result<Flushed>;

    /// Whether nothing in the kernel holds the device: an exclusive open.
    ///
    /// # Errors
    /// When it cannot be told.
    fn free(&self, disk: &Disk) -> Result<bool>;

    /// Makes a folder; one that is there is success.
    ///
    /// # Errors
    /// When it is not there afterwards.
    fn make_folder(&self, at: &Path) -> Result<()>;

    /// Makes a block device node, complete or not at all.
    ///
    /// # Errors
    /// When it is not there afterwards.
    fn make_node(&self, at: &Path, device: Device, read_only: bool) -> Result<()>;

    /// Removes an empty folder, an empty file or a device node; nothing there is success. Never a tree.
    ///
    /// # Errors
    /// When it is still there.
    fn remove(&self, at: &Path) -> Result<()>;

    /// Grows the filesystem mounted there to the size of its disk.
    ///
    /// # Errors
    /// When it has not grown.
    fn grow(&self, disk: &Disk, fs: &str, at: &Path) -> Result<()>;

    /// Usage of the filesystem mounted there.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn usage(&self, at: &Path) -> Result<Usage>;
}

/// Whether to write out before an unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The device is live: yes, and say whether it worked.
    Yes,
    /// The device is gone, or it is only one of several mounts of it.
    No,
}

/// What became of data in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All of it was written, as far as was asked.
    Clean,
    /// The kernel reported that some was not.
    Lost(String),
}
