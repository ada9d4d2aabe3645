//! One folder of sysfs, held open: what is read and written through it belongs to one kernel object, even when a later object
//! takes over its name.
//!
//! Links are followed within sysfs and not beyond (R29). An attribute that is not there, or whose object is going, is `None`; any
//! other error is one.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::Errno;

/// Attributes are a page at most.
const PAGE: u64 = 4096;

/// Why sysfs cannot be read: what is missing is not absent, it is unknown.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct SysfsError {
    /// What was read or written.
    pub path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl SysfsError {
    pub(super) fn new(path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self {
            path: path.into(),
            source: source.into(),
        }
    }
}

fn gone(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NODEV | Errno::NXIO)
}

/// A folder of sysfs.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The root of sysfs below `root`.
    pub(super) fn sys(root: &Path) -> Result<Self, SysfsError> {
        let path = root.join("sys");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(e) => Err(SysfsError::new(path, e)),
        }
    }

    /// A folder below this one, through links that stay below it.
    pub(super) fn folder(&self, name: impl AsRef<Path>) -> Result<Option<Self>, SysfsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = self.path.join(name.as_ref());
        loop {
            return match openat2(&self.fd, name.as_ref(), flags, Mode::empty(), stay) {
                Ok(fd) => Ok(Some(Self { fd, path })),
                // A rename somewhere made the kernel unsure of where it is.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(e) if gone(e) => Ok(None),
                Err(e) => Err(SysfsError::new(path, e)),
            };
        }
    }

    /// The number of the kernel object behind this folder. Sysfs counts them up (kernfs, `idr_alloc_cyclic` and a generation above it):
    /// no later object of this boot has it.
    pub(super) fn number(&self) -> Result<u64, SysfsError> {
        let stat = fstat(&self.fd).map_err(|e| SysfsError::new(&self.path, e))?;
        Ok(stat.st_ino)
    }

    /// Names in this folder, with whether each is a folder itself and not a link to one.
    pub(super) fn names(&self) -> Result<Vec<(String, Entry)>, SysfsError> {
        let failed = |e: Errno| SysfsError::new(&self.path, e);
        let mut all = Vec::new();
        let entries = match Dir::read_from(&self.fd) {
            Ok(entries) => entries,
            Err(e) if gone(e) => return Ok(all),
            Err(e) => return Err(failed(e)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if gone(e) => continue,
                Err(e) => return Err(failed(e)),
            };
            // The kernel's names are plain; any other is not the kernel's.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Directory => Entry::Folder,
                FileType::Unknown => match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Entry::Folder,
                    Ok(_) => Entry::Other,
                    Err(e) if gone(e) => continue,
                    Err(e) => return Err(failed(e)),
                },
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice => Entry::Other,
            };
            all.push((name.to_owned(), kind));
        }
        all.sort();
        Ok(all)
    }

    /// An attribute without the white space around it.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, SysfsError> {
        let Some(file) = self.open(name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match file.take(PAGE).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(e) if e.raw_os_error().is_some_and(|e| gone(Errno::from_raw_os_error(e))) => Ok(None),
            Err(e) => Err(SysfsError::new(self.path.join(name), e)),
        }
    }

    /// Writes an attribute at once; `None` when it is not there any more.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<Option<()>, SysfsError> {
        let Some(mut file) = self.open(name, OFlags::WRONLY)? else {
            return Ok(None);
        };
        match file.write(value.as_bytes()) {
            Ok(written) if written == value.len() => Ok(Some(())),
            Ok(_) => Err(SysfsError::new(self.path.join(name), ErrorKind::WriteZero)),
            Err(e) if e.raw_os_error().is_some_and(|e| gone(Errno::from_raw_os_error(e))) => Ok(None),
            Err(e) => Err(SysfsError::new(self.path.join(name), e)),
        }
    }

    fn open(&self, name: &str, access: OFlags) -> Result<Option<File>, SysfsError> {
        match openat(
            &self.fd,
            name,
            access | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(e) if gone(e) => Ok(None),
            Err(e) => Err(SysfsError::new(self.path.join(name), e)),
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// A folder that is really there, not a link to one.
    Folder,
    /// Anything else.
    Other,
}
