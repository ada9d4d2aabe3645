//! Mounting a filesystem straight on its staging path, once.

use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rds_crds::volume::FsType;
use rustix::fs::Dev;
use rustix::mount::MountFlags;

use super::options::Options;
use super::place::{Kind, Place, by_handle};
use super::{Access, Done, MountError, Mounts, numbers};

impl Mounts {
    /// Mounts the filesystem of `device` on the folder `target`, which is made when it is missing.
    ///
    /// # Errors
    /// When it is not mounted there afterwards as it is wanted; [`MountError::Occupied`] when something else is.
    pub fn mount_device(
        &self,
        device: &Path,
        target: &Path,
        fs: FsType,
        access: Access,
        options: &[String],
    ) -> Result<Done, MountError> {
        let options = Options::parse(fs, options)?;
        let disk = disk_number(device)?;
        let place = Place::open(&self.kubelet, target, true)?;
        let read_only = access == Access::ReadOnly || options.flags.contains(MountFlags::RDONLY);
        let table = self.table()?;
        if let Some(there) = table.top(target) {
            if there.is_on(disk) && there.root == Path::new("/") && there.read_only() == read_only {
                return Ok(Done::Already);
            }
            return Err(MountError::Occupied {
                target: target.to_owned(),
                there: super::bind::told(there),
                wanted: format!(
                    "{} of {} ({})",
                    fs.as_str(),
                    numbers(disk),
                    if read_only { "read-only" } else { "read-write" }
                ),
            });
        }
        Self::no_storm(&table, disk)?;
        let folder = folder(&place)?;
        let mut flags = options.flags;
        let mut data = options.data;
        if access == Access::ReadOnly {
            flags |= MountFlags::RDONLY;
            // The device may be written by nobody: a replay of the journal is a write.
            data.push(no_replay(fs).to_owned());
        }
        let what = || {
            format!(
                "mount the {} of {} with `{}`",
                fs.as_str(),
                device.display(),
                data.join(",")
            )
        };
        let failed = |error: std::io::Error| MountError::Kernel {
            what: what(),
            target: target.to_owned(),
            error,
        };
        let text = CString::new(data.join(",")).map_err(|e| failed(e.into()))?;
        rustix::mount::mount(device, by_handle(&folder), fs.as_str(), flags, text.as_c_str())
            .map_err(|e| failed(e.into()))?;
        // The node's name may have come to mean another disk since it was looked up: the table has the number.
        match self.table()?.top(target) {
            Some(there) if there.is_on(disk) => Ok(Done::Now),
            Some(_) | None => {
                let _ = rustix::mount::unmount(place.through(), rustix::mount::UnmountFlags::NOFOLLOW);
                Err(failed(std::io::Error::other(
                    "another disk than the volume's was mounted, and unmounted again",
                )))
            }
        }
    }
}

const fn no_replay(fs: FsType) -> &'static str {
    match fs {
        FsType::Ext3 | FsType::Ext4 => "noload",
        FsType::Xfs => "norecovery",
        FsType::Btrfs => "rescue=nologreplay",
    }
}

/// Device number of a block device node.
pub(super) fn disk_number(device: &Path) -> Result<Dev, MountError> {
    let about = std::fs::metadata(device).map_err(|e| MountError::Device(device.to_owned(), e))?;
    if !about.file_type().is_block_device() {
        return Err(MountError::Device(
            device.to_owned(),
            std::io::Error::other("not a block device"),
        ));
    }
    Ok(about.rdev())
}

/// The folder at a place, made when nothing is there. What is a file stays one (R47).
pub(super) fn folder(place: &Place) -> Result<std::os::fd::OwnedFd, MountError> {
    if place.kind()? == Kind::Nothing {
        match rustix::fs::mkdirat(place.parent(), place.name(), rustix::fs::Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(place.fail(e).into()),
        }
    }
    match place.kind()? {
        Kind::Folder => Ok(place.handle()?),
        there @ (Kind::Nothing | Kind::Block(_) | Kind::File(_) | Kind::Other) => Err(MountError::InTheWay {
            target: place.path.clone(),
            there: there.told(),
            wanted: "a folder",
        }),
    }
}
