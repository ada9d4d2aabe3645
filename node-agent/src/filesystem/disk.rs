//! Reads of a device that go to the device: O_DIRECT, whole or not at all.
//!
//! Invariant: bytes that are handed out were read just now, without error, in full (I1). A read of 0 bytes from a block device
//! means that the disk is gone; it is an error, never an end.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, Mode, OFlags};

/// No logical block of a disk is larger; all offsets and lengths are multiples of it.
const ALIGN: u64 = 4096;

/// Why a device could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such device, or it cannot be opened.
    #[error("cannot open {0}: {1}; see whether the volume is connected")]
    Open(PathBuf, std::io::Error),
    /// It is not a disk.
    #[error("{0} is not a block device; nothing is read from it or written to it")]
    NotADisk(PathBuf),
    /// It has no bytes.
    #[error("{0} has size 0; see whether the volume is connected")]
    Empty(PathBuf),
    /// An I/O error.
    #[error(
        "cannot read {length} bytes at {offset} of {device}: {error}; nothing can be said about the disk before they can be read"
    )]
    Read {
        /// The device.
        device: PathBuf,
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// Fewer bytes than the device has there: it is gone.
    #[error("{device} ended after {got} of {length} bytes at {offset}: the disk went away")]
    Short {
        /// The device.
        device: PathBuf,
        /// Where.
        offset: u64,
        /// How much was asked for.
        length: u64,
        /// How much came.
        got: u64,
    },
}

/// A device opened for reading.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    size: u64,
    rdev: Dev,
}

impl Disk {
    /// Opens a block device.
    ///
    /// # Errors
    /// When it is none, is empty, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| ReadError::Open(path.to_owned(), e.into()))?;
        let mut file = File::from(opened);
        let fail = |e| ReadError::Open(path.to_owned(), e);
        let about = file.metadata().map_err(fail)?;
        if !about.file_type().is_block_device() {
            return Err(ReadError::NotADisk(path.to_owned()));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if size == 0 {
            return Err(ReadError::Empty(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            size,
            rdev: about.rdev(),
            file,
        })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Device number.
    #[must_use]
    pub fn rdev(&self) -> Dev {
        self.rdev
    }

    /// All bytes from `offset` to `offset + length`, or to the end of the device.
    ///
    /// # Errors
    /// When not all of them were read.
    pub fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, ReadError> {
        let end = offset.saturating_add(length).min(self.size);
        let start = offset.min(end);
        let from = start / ALIGN * ALIGN;
        let wanted = end - from;
        let mut bytes = self.aligned(from, wanted)?;
        bytes.drain(..usize::try_from(start - from).unwrap_or(usize::MAX).min(bytes.len()));
        Ok(bytes)
    }

    /// `wanted` bytes at the aligned offset `from`.
    fn aligned(&self, from: u64, wanted: u64) -> Result<Vec<u8>, ReadError> {
        let fail = |error| ReadError::Read {
            device: self.path.clone(),
            offset: from,
            length: wanted,
            error,
        };
        let align = usize::try_from(ALIGN).unwrap_or(usize::MAX);
        let too_much = || fail(std::io::Error::from(ErrorKind::OutOfMemory));
        let length = usize::try_from(wanted).map_err(|_| too_much())?;
        let room = length.next_multiple_of(align);
        // O_DIRECT wants memory at a multiple of the block size: take more than needed, begin where it fits.
        let mut memory = vec![0_u8; room + align];
        let skip = memory.as_ptr().align_offset(align);
        let buffer = memory.get_mut(skip..skip + room).ok_or_else(too_much)?;
        let mut got = 0;
        while got < length {
            match self.file.read_at(&mut buffer[got..], from + got as u64) {
                Ok(0) => {
                    return Err(ReadError::Short {
                        device: self.path.clone(),
                        offset: from,
                        length: wanted,
                        got: got as u64,
                    });
                }
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        memory.drain(..skip);
        memory.truncate(length);
        Ok(memory)
    }
}

/// Size of a block device in bytes, through the page cache's view of it.
///
/// # Errors
/// When it is no block device, or is empty.
pub fn size(path: &Path) -> Result<u64, ReadError> {
    Disk::open(path).map(|disk| disk.size())
}

/// Whether nobody holds the device exclusively: mounted, mkfs at work, or an umount that hangs.
///
/// # Errors
/// When that cannot be told, a device that is gone included.
pub fn is_free(path: &Path) -> Result<bool, std::io::Error> {
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The first bytes of a device as the kernel has them now, which may be newer than the disk's.
pub(super) fn cached(path: &Path, length: u64) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = Vec::new();
    File::open(path)?.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_b12_a_missing_device_is_an_error() {
        let error = Disk::open(Path::new("/nonexistent/disk")).unwrap_err();
        assert!(matches!(error, ReadError::Open(..)), "{error}");
    }

    #[test]
    fn files_and_folders_are_no_disks() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let error = Disk::open(file.path()).unwrap_err();
        assert!(matches!(error, ReadError::NotADisk(_)), "{error}");
        assert!(Disk::open(Path::new("/")).is_err());
    }
}
