//! Subsystems, controllers and disks as sysfs shows them now. Nothing is remembered, no device name is put together, and what
//! cannot be read is an error, never an absence (R28, R29).
//!
//! With native multipath a disk is a child of its subsystem, and below each controller there is a hidden path to it; without, the
//! disk is a child of its controller. Both places are looked at, whatever the kernel says of itself.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor};
use rustix::io::Errno;

use super::folder::{Entry, Folder, SysfsError};

const CONTROLLERS: &str = "class/nvme";
const SUBSYSTEMS: &str = "class/nvme-subsystem";
/// Major and minor number of a device.
pub type Number = (u32, u32);

/// The state in which a controller serves.
pub const LIVE: &str = "live";

/// A controller: one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Name of the kernel object, for people.
    pub name: String,
    /// Name and number of the kernel object: the name is given again once it is free, the number is not.
    pub instance: String,
    /// Subsystem NQN.
    pub nqn: String,
    /// State, the whole line: `live`, `connecting`, `deleting (no IO)`, or what a later kernel says.
    pub state: String,
    /// `tcp`, `pcie`, ..
    pub transport: String,
    /// `traddr=..,trsvcid=..`, empty where there is none.
    pub address: String,
    /// Host NQN that it was connected with, if any.
    pub host_nqn: Option<String>,
    /// Host ID that it was connected with, if any.
    pub host_id: Option<String>,
}

impl Controller {
    /// Whether it serves now.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == LIVE
    }
}

/// A disk, as it is at this moment: its name may be another's at the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name of the kernel object.
    pub name: String,
    /// Its device node.
    pub path: PathBuf,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// `uuid.<uuid>` where the target gives one.
    pub wwid: Option<String>,
    /// Namespace.
    pub nsid: u32,
    /// The kernel lets nobody write.
    pub read_only: bool,
    /// Counts the disks of this boot: never given twice.
    pub sequence: Option<u64>,
    /// Device numbers of its partitions.
    pub partitions: Vec<Number>,
    /// Names in `holders/`: device mapper, md and the like on top of it or of a partition.
    pub holders: Vec<String>,
    /// Its connections.
    pub controllers: Vec<Controller>,
}

impl Disk {
    /// Whether a connection of it serves now.
    #[must_use]
    pub fn live(&self) -> bool {
        self.controllers.iter().any(Controller::is_live)
    }

    /// Opens its node, and sees that the node is this disk's.
    ///
    /// # Errors
    /// The kernel's, or ENXIO when the node is that of another device.
    pub fn open(&self, flags: OFlags) -> std::io::Result<OwnedFd> {
        let fd = rustix::fs::open(&self.path, flags | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (self.major, self.minor);
        if same { Ok(fd) } else { Err(Errno::NXIO.into()) }
    }
}

/// Why there is no answer about a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Sysfs.
    #[error("cannot read sysfs: {0}")]
    Sysfs(#[from] SysfsError),
    /// More than one.
    #[error("{nqn} has more than one disk on this node ({names}): none is used; disconnect all but one")]
    Several {
        /// Whose.
        nqn: String,
        /// Which.
        names: String,
    },
    /// An attribute that is there and cannot be understood.
    #[error("disk {name} of {nqn}: {what} in sysfs reads {value:?}, which is not understood")]
    Strange {
        /// Whose.
        nqn: String,
        /// Which.
        name: String,
        /// Attribute.
        what: &'static str,
        /// What it reads.
        value: String,
    },
}

/// The disk of that subsystem, `None` when it shows none.
///
/// # Errors
/// When sysfs cannot be read, or shows more than one.
pub fn disk_of(root: &Path, nqn: &str) -> Result<Option<Disk>, DiskError> {
    let mut all = disks_of(root, nqn)?;
    if all.len() > 1 {
        let names: Vec<&str> = all.iter().map(|disk| disk.name.as_str()).collect();
        return Err(DiskError::Several {
            nqn: nqn.to_owned(),
            names: names.join(", "),
        });
    }
    Ok(all.pop())
}

/// All disks of that subsystem.
///
/// # Errors
/// When sysfs cannot be read.
pub fn disks_of(root: &Path, nqn: &str) -> Result<Vec<Disk>, DiskError> {
    let sys = Folder::sys(root)?;
    let mut all: Vec<Disk> = Vec::new();
    let mut add = |disk: Disk| match all
        .iter_mut()
        .find(|known| (known.major, known.minor) == (disk.major, disk.minor))
    {
        Some(known) => known.controllers.extend(disk.controllers),
        None => all.push(disk),
    };
    let controllers = of_class(&sys, CONTROLLERS, nqn)?;
    let mut connections = Vec::new();
    for (name, folder) in &controllers {
        connections.extend(controller(name, folder)?);
    }
    for (_, folder) in of_class(&sys, SUBSYSTEMS, nqn)? {
        for disk in children(root, nqn, &folder, &connections)? {
            add(disk);
        }
    }
    for (name, folder) in &controllers {
        let own: Vec<Controller> = connections.iter().filter(|c| c.name == *name).cloned().collect();
        for disk in children(root, nqn, folder, &own)? {
            add(disk);
        }
    }
    Ok(all)
}

/// NQNs of all subsystems that show a disk now, and what the kernel calls it, in one look at all of them.
///
/// # Errors
/// When one may be missing.
pub fn with_disk(root: &Path) -> Result<BTreeMap<String, Option<String>>, SysfsError> {
    let sys = Folder::sys(root)?;
    let mut all = BTreeMap::new();
    for kind in [SUBSYSTEMS, CONTROLLERS] {
        for (_, folder) in class(&sys, kind)? {
            let Some(nqn) = folder.read("subsysnqn")? else { continue };
            if all.contains_key(&nqn) {
                continue;
            }
            if let Some(disk) = first_disk(&folder)? {
                all.insert(nqn, wwid(&disk)?);
            }
        }
    }
    Ok(all)
}

fn first_disk(parent: &Folder) -> Result<Option<Folder>, SysfsError> {
    for (name, entry) in parent.names()? {
        if entry != Entry::Folder {
            continue;
        }
        let Some(folder) = parent.folder(&name)? else { continue };
        if dev_and_size(&folder)?.is_some() {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

fn wwid(disk: &Folder) -> Result<Option<String>, SysfsError> {
    Ok(disk.read("wwid")?.filter(|wwid| !wwid.is_empty()))
}

/// Only disks have both; a hidden one is a path to a disk.
fn dev_and_size(folder: &Folder) -> Result<Option<(String, String)>, SysfsError> {
    let (Some(size), Some(dev)) = (folder.read("size")?, folder.read("dev")?) else {
        return Ok(None);
    };
    let hidden = folder.read("hidden")?.is_some_and(|hidden| hidden != "0");
    Ok((!hidden).then_some((dev, size)))
}

/// All controllers of this machine, its own local disks' as well.
///
/// # Errors
/// When the list may not be complete.
pub fn controllers(root: &Path) -> Result<Vec<Controller>, SysfsError> {
    let sys = Folder::sys(root)?;
    let mut all = Vec::new();
    for (name, folder) in class(&sys, CONTROLLERS)? {
        all.extend(controller(&name, &folder)?);
    }
    Ok(all)
}

/// What the kernel has of an NQN besides its disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Names of its subsystem objects. One without any controller is what something still holds of a disk.
    pub subsystems: Vec<String>,
    /// Names of its controllers.
    pub controllers: Vec<String>,
    /// Device numbers of the generic character devices of its namespaces, by which they can be written as well.
    pub generic: Vec<Number>,
}

/// What the kernel has of that NQN.
///
/// # Errors
/// When sysfs cannot be read.
pub fn objects_of(root: &Path, nqn: &str) -> Result<Objects, SysfsError> {
    let sys = Folder::sys(root)?;
    let mut all = Objects::default();
    for (kind, names) in [(SUBSYSTEMS, &mut all.subsystems), (CONTROLLERS, &mut all.controllers)] {
        for (name, folder) in of_class(&sys, kind, nqn)? {
            names.push(name);
            for (child, entry) in folder.names()? {
                if entry != Entry::Folder {
                    continue;
                }
                let Some(child) = folder.folder(child)? else { continue };
                if child.read("size")?.is_none() {
                    all.generic.extend(child.read("dev")?.as_deref().and_then(number));
                }
            }
        }
    }
    Ok(all)
}

/// The controllers of that NQN, each held open, with the NQN read through what is held.
pub(super) fn held(root: &Path, nqn: &str) -> Result<Vec<(String, Folder)>, SysfsError> {
    of_class(&Folder::sys(root)?, CONTROLLERS, nqn)
}

fn class(sys: &Folder, class: &str) -> Result<Vec<(String, Folder)>, SysfsError> {
    // Without this a folder that is not sysfs at all would read as a machine without connections.
    if sys.folder("class")?.is_none() {
        return Err(SysfsError::new("sys/class", Errno::NOENT));
    }
    // The class comes with the kernel module.
    let Some(folder) = sys.folder(class)? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for (name, _) in folder.names()? {
        let held = sys.folder(Path::new(class).join(&name))?;
        all.extend(held.map(|held| (name, held)));
    }
    Ok(all)
}

fn of_class(sys: &Folder, name: &str, nqn: &str) -> Result<Vec<(String, Folder)>, SysfsError> {
    let mut all = Vec::new();
    for (name, folder) in class(sys, name)? {
        if folder.read("subsysnqn")?.as_deref() == Some(nqn) {
            all.push((name, folder));
        }
    }
    Ok(all)
}

/// `None` when it goes, or is not yet told which it is.
fn controller(name: &str, folder: &Folder) -> Result<Option<Controller>, SysfsError> {
    let nqn = folder.read("subsysnqn")?.filter(|nqn| !nqn.is_empty());
    let (Some(nqn), Some(state)) = (nqn, folder.read("state")?) else {
        return Ok(None);
    };
    // Kernels print this for what was not given.
    let given = |text: Option<String>| text.filter(|t| !t.is_empty() && t != "(null)");
    Ok(Some(Controller {
        name: name.to_owned(),
        instance: format!("{name}/{}", folder.number()?),
        nqn,
        state,
        transport: folder.read("transport")?.unwrap_or_default(),
        address: folder.read("address")?.unwrap_or_default(),
        host_nqn: given(folder.read("hostnqn")?),
        host_id: given(folder.read("hostid")?),
    }))
}

fn children(root: &Path, nqn: &str, parent: &Folder, controllers: &[Controller]) -> Result<Vec<Disk>, DiskError> {
    let mut all = Vec::new();
    for (name, entry) in parent.names()? {
        if entry != Entry::Folder {
            continue;
        }
        let Some(folder) = parent.folder(&name)? else { continue };
        let Some((dev, size)) = dev_and_size(&folder)? else {
            continue;
        };
        let strange = |what, value: &str| DiskError::Strange {
            nqn: nqn.to_owned(),
            name: name.clone(),
            what,
            value: value.to_owned(),
        };
        let (major, minor) = number(&dev).ok_or_else(|| strange("dev", &dev))?;
        let blocks: u64 = size.parse().map_err(|_| strange("size", &size))?;
        let nsid = folder.read("nsid")?.unwrap_or_default();
        let read_only = folder.read("ro")?.unwrap_or_default();
        let (partitions, holders) = above(&folder)?;
        all.push(Disk {
            path: root.join("dev").join(&name),
            major,
            minor,
            size_bytes: blocks.checked_mul(512).ok_or_else(|| strange("size", &size))?,
            wwid: wwid(&folder)?,
            nsid: nsid.parse().map_err(|_| strange("nsid", &nsid))?,
            read_only: read_only != "0",
            sequence: folder.read("diskseq")?.and_then(|text| text.parse().ok()),
            partitions,
            holders,
            controllers: controllers.to_vec(),
            name,
        });
    }
    Ok(all)
}

type Above = (Vec<Number>, Vec<String>);

/// Partitions of a disk, and what holds it or one of them.
fn above(disk: &Folder) -> Result<Above, SysfsError> {
    let mut partitions = Vec::new();
    let mut holders = names_in(disk, "holders")?;
    for (name, entry) in disk.names()? {
        if entry != Entry::Folder {
            continue;
        }
        let Some(folder) = disk.folder(&name)? else { continue };
        if folder.read("partition")?.is_none() {
            continue;
        }
        partitions.extend(folder.read("dev")?.as_deref().and_then(number));
        holders.extend(names_in(&folder, "holders")?);
    }
    Ok((partitions, holders))
}

fn names_in(parent: &Folder, name: &str) -> Result<Vec<String>, SysfsError> {
    let folder = parent.folder(name)?;
    let names = folder.map(|folder| folder.names()).transpose()?.unwrap_or_default();
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

/// `259:1`.
pub(super) fn number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
#[path = "sysfs_tests.rs"]
mod tests;
