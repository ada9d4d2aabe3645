//! Growing a mounted filesystem to the size of its disk. Nothing here makes anything smaller (I15).

use std::path::Path;
use std::time::Duration;

use rds_crds::volume::FsType;

use super::child::{self, ChildError, Kind, Tools};
use super::disk::{self, Disk, ReadError};
use super::signature::{self, Region, Regions};

/// Time for growing within one call; afterwards it goes on without us.
pub const LIMIT: Duration = Duration::from_secs(120);
/// What the tools may leave unused at the end: a last group that has no room for its own tables.
const SLACK: u64 = 16 << 20;

/// Sizes of a filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Before.
    pub before: u64,
    /// Now, read back.
    pub after: u64,
    /// Of its disk.
    pub disk: u64,
}

/// Why it did not grow.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// The disk cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The size of the filesystem cannot be told.
    #[error("cannot tell the size of the {fs} on {device}: {why}")]
    Size {
        /// The kind.
        fs: &'static str,
        /// The device.
        device: String,
        /// Why.
        why: String,
    },
    /// The tool is missing, or is at work.
    #[error("the filesystem on {0} did not grow: {1}")]
    Tool(String, ChildError),
    /// The tool failed.
    #[error("{program} failed on {device} ({how}): {words}")]
    Failed {
        /// Which.
        program: &'static str,
        /// The device.
        device: String,
        /// Exit code.
        how: String,
        /// What it said.
        words: String,
    },
    /// The tool said yes, and the size says no.
    #[error("{program} said it was done, but the filesystem on {device} has {after} of the disk's {disk} bytes")]
    Unverified {
        /// Which.
        program: &'static str,
        /// The device.
        device: String,
        /// Size now.
        after: u64,
        /// Size of the disk.
        disk: u64,
    },
}

/// Whether the mounted filesystem is smaller than its disk.
///
/// # Errors
/// When either size cannot be told.
pub fn needs_grow(fs: FsType, device: &Path, mountpoint: &Path) -> Result<bool, GrowError> {
    let disk = disk::size(device)?;
    let now = size(&Tools::default(), fs, device, mountpoint)?;
    Ok(now.saturating_add(SLACK) <= disk)
}

/// Grows the filesystem mounted at `mountpoint` to the size of its disk; nothing to do is success.
///
/// # Errors
/// When it has not the disk's size afterwards.
pub fn grow(fs: FsType, device: &Path, mountpoint: &Path) -> Result<Grown, GrowError> {
    grow_with(&Tools::default(), fs, device, mountpoint, LIMIT)
}

/// [`grow`] with these tools and this limit.
///
/// # Errors
/// See [`grow`].
pub fn grow_with(
    tools: &Tools,
    fs: FsType,
    device: &Path,
    mountpoint: &Path,
    limit: Duration,
) -> Result<Grown, GrowError> {
    let open = Disk::open(device)?;
    let (disk, rdev) = (open.size(), open.rdev());
    drop(open);
    let name = || device.display().to_string();
    let before = size(tools, fs, device, mountpoint)?;
    if before >= disk {
        return Ok(Grown {
            before,
            after: before,
            disk,
        });
    }
    let (program, words) = match fs {
        // Given a size in blocks it could shrink; without one it takes the disk's.
        FsType::Ext3 | FsType::Ext4 => ("resize2fs", vec![device.as_os_str()]),
        FsType::Xfs => ("xfs_growfs", vec!["-d".as_ref(), mountpoint.as_os_str()]),
        FsType::Btrfs => (
            "btrfs",
            vec![
                "filesystem".as_ref(),
                "resize".as_ref(),
                "max".as_ref(),
                mountpoint.as_os_str(),
            ],
        ),
    };
    let ended =
        child::run(tools, program, &words, Kind::Writes(rdev), limit).map_err(|e| GrowError::Tool(name(), e))?;
    if ended.code != Some(0) {
        return Err(GrowError::Failed {
            program,
            device: name(),
            how: ended.how(),
            words: ended.words(),
        });
    }
    let after = size(tools, fs, device, mountpoint)?;
    if after < before || after.saturating_add(SLACK) <= disk {
        return Err(GrowError::Unverified {
            program,
            device: name(),
            after,
            disk,
        });
    }
    Ok(Grown { before, after, disk })
}

/// Size of a mounted filesystem as it knows it itself.
fn size(tools: &Tools, fs: FsType, device: &Path, mountpoint: &Path) -> Result<u64, GrowError> {
    let failed = |why: String| GrowError::Size {
        fs: fs.as_str(),
        device: device.display().to_string(),
        why,
    };
    match fs {
        // Through the page cache: the kernel's copy of the superblock is there, the disk's may be older.
        FsType::Ext3 | FsType::Ext4 => {
            let bytes = disk::cached(device, 4096).map_err(|e| failed(e.to_string()))?;
            let regions = Regions {
                size: u64::MAX,
                all: vec![Region { offset: 0, bytes }],
            };
            let found = signature::superblocks(&regions).into_iter().next();
            found
                .map(|s| s.size)
                .ok_or_else(|| failed("it has no superblock".to_owned()))
        }
        // What statfs gives is without the log.
        FsType::Xfs => {
            let words = ["-n".as_ref(), mountpoint.as_os_str()];
            let ended =
                child::run(tools, "xfs_growfs", &words, Kind::Reads, LIMIT).map_err(|e| failed(e.to_string()))?;
            xfs_size(&ended.stdout).ok_or_else(|| failed(format!("xfs_growfs -n: {}, {}", ended.how(), ended.words())))
        }
        FsType::Btrfs => {
            let about = rustix::fs::statvfs(mountpoint).map_err(|e| failed(e.to_string()))?;
            Ok(about.f_blocks.saturating_mul(about.f_frsize))
        }
    }
}

/// Bytes of the data section in `xfs_growfs -n`: `data     =    bsize=4096   blocks=102400, imaxpct=25`.
fn xfs_size(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("data "))?;
    let number = |key: &str| -> Option<u64> {
        line.split([' ', ','])
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?
            .parse()
            .ok()
    };
    number("bsize")?.checked_mul(number("blocks")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_xfs_is_its_data_section() {
        let text = "meta-data=/dev/loop0             isize=512    agcount=4, agsize=25600 blks\n\
                    data     =                       bsize=4096   blocks=102400, imaxpct=25\n\
                    \x20        =                       sunit=0      swidth=0 blks\n\
                    log      =internal log           bsize=4096   blocks=16384, version=2\n";
        assert_eq!(xfs_size(text), Some(102_400 * 4096));
        assert_eq!(xfs_size("data "), None);
        assert_eq!(xfs_size(""), None);
    }
}
