//! How full a volume is.

use std::path::Path;

use super::disk::{self, ReadError};

/// Bytes and inodes of a filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in all, without the filesystem's own tables.
    pub bytes_total: u64,
    /// Bytes that a pod can still write.
    pub bytes_available: u64,
    /// Bytes in use.
    pub bytes_used: u64,
    /// Inodes in all; 0 where they are made as needed (btrfs).
    pub inodes_total: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Usage of the filesystem at that path.
///
/// # Errors
/// When the kernel does not tell.
pub fn filesystem(path: &Path) -> std::io::Result<Usage> {
    let about = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
    Ok(Usage {
        bytes_total: bytes(about.f_blocks),
        bytes_available: bytes(about.f_bavail),
        bytes_used: bytes(about.f_blocks.saturating_sub(about.f_bfree)),
        inodes_total: about.f_files,
        inodes_free: about.f_ffree,
        inodes_used: about.f_files.saturating_sub(about.f_ffree),
    })
}

/// Size of a block device in bytes, read from the device itself.
///
/// # Errors
/// When it is none, is gone, or is empty.
pub fn block(device: &Path) -> Result<u64, ReadError> {
    disk::size(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_has_bytes_and_inodes() {
        let usage = filesystem(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(
            usage.bytes_total > 0 && usage.bytes_used + usage.bytes_available <= usage.bytes_total,
            "{usage:?}"
        );
        assert_eq!(usage.inodes_used + usage.inodes_free, usage.inodes_total, "{usage:?}");
        assert!(filesystem(Path::new("/nonexistent")).is_err());
        assert!(
            block(Path::new("/dev/null")).is_err(),
            "b73: what is no disk has no size"
        );
    }
}
