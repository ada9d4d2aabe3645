//! Filesystems on the volumes of this node: what is on a disk, making one, checking, growing and measuring it.
//!
//! Everything here blocks, for up to minutes, and runs on threads of its callers. It refuses to write to a disk that it did not
//! read in full and find blank (I1), and it knows nothing of ledgers: whether a filesystem may be made is its caller's to prove
//! (I2).

pub mod check;
pub mod child;
pub mod disk;
pub mod format;
pub mod grow;
pub mod mkfs_options;
pub mod probe;
pub mod signature;
pub mod stats;

pub use rds_crds::volume::FsType;
