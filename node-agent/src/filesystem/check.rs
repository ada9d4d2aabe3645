//! Checks of an existing filesystem before it is mounted (I9, R40).
//!
//! ext3, ext4: `e2fsck -p` without force; it replays the journal, which is not damage (B71). xfs: the mount replays, so nothing
//! runs before it; [`after_failed_mount`] looks deeper, on a clean log only. btrfs: the superblock. A check that writes is never
//! stopped; one that only reads is, when its time is up.

use std::path::Path;
use std::time::Duration;

use rds_crds::volume::FsType;

use super::child::{self, ChildError, Kind, Tools};
use super::disk::{self, Disk, ReadError};
use super::signature::{self, Region, Regions};

/// Time for a check within one call.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be mounted.
    Good,
    /// It had errors that could be repaired without a person; it may be mounted.
    Repaired(String),
    /// Nothing was checked; it may be mounted, and the reason is to be told.
    Skipped(String),
    /// A check is at work on the disk: it cannot be mounted now, ask again.
    Running(String),
    /// It must not be mounted. What is wrong, and the remedy (R43).
    Damaged(String),
}

/// Checks before a mount. The device is not mounted.
///
/// # Errors
/// When the disk cannot be read.
pub fn check(device: &Path, fs: FsType, limit: Duration) -> Result<Verdict, ReadError> {
    check_with(&Tools::default(), device, fs, limit)
}

/// [`check`] with these tools.
///
/// # Errors
/// See [`check`].
pub fn check_with(tools: &Tools, device: &Path, fs: FsType, limit: Duration) -> Result<Verdict, ReadError> {
    let disk = Disk::open(device)?;
    let read = |offset, length| disk.read(offset, length).map(|bytes| Region { offset, bytes });
    let regions = Regions {
        size: disk.size(),
        all: vec![read(0, 128 << 10)?],
    };
    let errors = signature::superblocks(&regions)
        .iter()
        .any(|superblock| superblock.fs == fs && superblock.errors);
    match fs {
        FsType::Ext3 | FsType::Ext4 => {
            // Held meanwhile, so that the device's name cannot come to mean another disk; e2fsck wants the disk exclusively, which this
            // handle does not hinder.
            let verdict = ext(tools, device, disk.rdev(), errors, limit);
            drop(disk);
            verdict
        }
        FsType::Xfs if errors => Ok(Verdict::Damaged(remedy(
            device,
            fs,
            "its superblock says that a repair was begun and not finished",
        ))),
        FsType::Xfs => Ok(Verdict::Good),
        FsType::Btrfs => Ok(match signature::btrfs_damage(&regions) {
            Some(damage) => Verdict::Damaged(remedy(device, fs, damage)),
            None if errors => Verdict::Damaged(remedy(device, fs, "its superblock says that it has errors")),
            None => Verdict::Good,
        }),
    }
}

fn ext(tools: &Tools, device: &Path, rdev: u64, errors: bool, limit: Duration) -> Result<Verdict, ReadError> {
    let fs = FsType::Ext4;
    if !disk::is_free(device).map_err(|e| ReadError::Open(device.to_owned(), e))? {
        let who = child::writer_on(rdev).unwrap_or_else(|| "another program, or a mount,".to_owned());
        return Ok(Verdict::Running(format!(
            "{who} holds {}; try again later",
            device.display()
        )));
    }
    match child::run(
        tools,
        "e2fsck",
        &["-p".as_ref(), device.as_os_str()],
        Kind::Writes(rdev),
        limit,
    ) {
        Ok(ended) => Ok(match ended.code {
            Some(0) => Verdict::Good,
            Some(1) => Verdict::Repaired(ended.words()),
            Some(_) | None => Verdict::Damaged(remedy(
                device,
                fs,
                &format!("e2fsck -p could not repair it ({}): {}", ended.how(), ended.words()),
            )),
        }),
        Err(e @ (ChildError::Running(..) | ChildError::Earlier(_) | ChildError::Ending(_))) => {
            Ok(Verdict::Running(e.to_string()))
        }
        Err(e @ (ChildError::Missing(_) | ChildError::Start(..) | ChildError::Stopped(..))) => Ok(if errors {
            Verdict::Damaged(remedy(
                device,
                fs,
                &format!("its superblock says that it has errors, and it was not checked: {e}"),
            ))
        } else {
            Verdict::Skipped(e.to_string())
        }),
    }
}

/// A second look at a filesystem that could not be mounted. It only reads.
#[must_use]
pub fn after_failed_mount(device: &Path, fs: FsType, limit: Duration) -> Verdict {
    after_failed_mount_with(&Tools::default(), device, fs, limit)
}

/// [`after_failed_mount`] with these tools.
#[must_use]
pub fn after_failed_mount_with(tools: &Tools, device: &Path, fs: FsType, limit: Duration) -> Verdict {
    match fs {
        FsType::Ext3 | FsType::Ext4 | FsType::Btrfs => Verdict::Skipped(format!(
            "there is no further check of a {} that only reads",
            fs.as_str()
        )),
        FsType::Xfs => match journal_with(tools, device, fs, limit) {
            Journal::Dirty => Verdict::Skipped(format!(
                "the log of {} is dirty: xfs_repair cannot judge it before a mount has replayed it",
                device.display()
            )),
            Journal::Unknown(why) => Verdict::Skipped(why),
            Journal::Clean => {
                let words = ["-n".as_ref(), device.as_os_str()];
                match child::run(tools, "xfs_repair", &words, Kind::Reads, limit) {
                    Ok(ended) => match ended.code {
                        Some(0) => Verdict::Good,
                        Some(1) => {
                            Verdict::Damaged(remedy(device, fs, &format!("xfs_repair -n found: {}", ended.words())))
                        }
                        Some(_) | None => {
                            Verdict::Skipped(format!("xfs_repair -n: {}, {}", ended.how(), ended.words()))
                        }
                    },
                    Err(e) => Verdict::Skipped(e.to_string()),
                }
            }
        },
    }
}

/// Whether a filesystem must be mounted read-write once before it may be mounted read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Nothing to replay.
    Clean,
    /// Something to replay: a read-only mount would show an old and inconsistent state.
    Dirty,
    /// It cannot be told.
    Unknown(String),
}

/// Looks at the journal without writing.
#[must_use]
pub fn journal(device: &Path, fs: FsType, limit: Duration) -> Journal {
    journal_with(&Tools::default(), device, fs, limit)
}

/// [`journal`] with these tools.
#[must_use]
pub fn journal_with(tools: &Tools, device: &Path, fs: FsType, limit: Duration) -> Journal {
    match fs {
        FsType::Ext3 | FsType::Ext4 | FsType::Btrfs => {
            let read = Disk::open(device).and_then(|disk| {
                Ok(Regions {
                    size: disk.size(),
                    all: vec![Region {
                        offset: 0,
                        bytes: disk.read(0, 128 << 10)?,
                    }],
                })
            });
            match read.map(|regions| signature::superblocks(&regions)) {
                Err(e) => Journal::Unknown(e.to_string()),
                Ok(all) => match all.iter().find_map(|superblock| superblock.dirty) {
                    Some(true) => Journal::Dirty,
                    Some(false) => Journal::Clean,
                    None => Journal::Unknown(format!("{} has no {}", device.display(), fs.as_str())),
                },
            }
        }
        FsType::Xfs => match child::run(
            tools,
            "xfs_logprint",
            &["-t".as_ref(), device.as_os_str()],
            Kind::Reads,
            limit,
        ) {
            Ok(ended) if ended.stdout.contains("state: <CLEAN>") => Journal::Clean,
            Ok(ended) if ended.stdout.contains("state: <DIRTY>") => Journal::Dirty,
            Ok(ended) => Journal::Unknown(format!("xfs_logprint: {}, {}", ended.how(), ended.words())),
            Err(e) => Journal::Unknown(e.to_string()),
        },
    }
}

fn remedy(device: &Path, fs: FsType, damage: &str) -> String {
    let tool = match fs {
        FsType::Ext3 | FsType::Ext4 => "e2fsck -f",
        FsType::Xfs => "xfs_repair",
        FsType::Btrfs => "btrfs check --repair (read its manual first)",
    };
    format!(
        "the {} on {} is damaged: {damage}. It is not mounted. Make a copy or a snapshot of the disk, repair it with {tool} on a node \
         that is connected to it, then reset the volume's circuit breaker",
        fs.as_str(),
        device.display()
    )
}
