//! Making a filesystem, once in a volume's life, on a disk that was just now seen to be blank.
//!
//! Invariant: nothing is written before [`probe`] said Blank, or found remains of our own (I1). No force flag is
//! ever given, so that mkfs.xfs and mkfs.btrfs refuse by themselves what we may have missed; mkfs.ext4 without a terminal does
//! not, and is never relied on.
//!
//! An unfinished mkfs is told by a mark on the disk itself, at a place that no mkfs writes to ([`probe::mark_at`]): its kind and
//! the volume's UID, written before mkfs starts and cleared when mkfs has ended well. So remains can be told from a filesystem
//! that was in use and lost its superblock, whatever the ledger says. To do it again, first the superblocks of the remains are
//! zeroed: then there is nothing that mkfs would have to be forced over.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rds_crds::volume::FsType;
use rustix::fs::{Mode, OFlags};

use super::child::{self, ChildError, Ended, Kind, Tools};
use super::disk::{self, Disk, ReadError};
use super::mkfs_options::{self, BadOption};
use super::probe::{self, Found, ProbeError};
use super::signature::{self, Superblock};

/// mkfs.xfs refuses less.
pub const XFS_MINIMUM: u64 = 300 << 20;
/// More than mkfs of a large volume takes over a slow network; afterwards it goes on without us.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Where remains may have a superblock that mkfs would refuse to overwrite: ext and xfs, btrfs.
const SUPERBLOCKS: [u64; 2] = [0, signature::BTRFS[0]];

/// What to make.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// On which disk.
    pub device: &'a Path,
    /// Which kind.
    pub fs: FsType,
    /// UID of the RdsVolume: it becomes the filesystem's UUID.
    pub volume: &'a str,
    /// `spec.mkfsOptions`.
    pub options: &'a [String],
    /// After this long the answer is [`FormatError::Unknown`], and mkfs goes on: the next call finds what it made.
    pub limit: Duration,
}

/// Why there is no new filesystem.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// An argument that is not accepted.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// The UID of the volume is not a UUID.
    #[error("`{0}` is not a UUID: the UID of an RdsVolume is")]
    Uuid(String),
    /// Too small.
    #[error("xfs needs 300 MiB, {device} has {size} bytes: expand the volume or use ext4")]
    TooSmall {
        /// The device.
        device: PathBuf,
        /// Its size.
        size: u64,
    },
    /// mkfs is not installed, or could not be started.
    #[error("no {0} was made: {1}")]
    Tool(&'static str, ChildError),
    /// The disk could not be looked at.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The disk could not be opened.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Somebody holds the disk.
    #[error("{0} is in use (mounted, or held by another program): it is not formatted")]
    Busy(PathBuf),
    /// It is not blank.
    #[error(
        "{device} is not blank ({found}): it is not formatted; see what it is, and make a new volume if it is not needed"
    )]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What is there.
        found: String,
    },
    /// An I/O error of our own writes.
    #[error("cannot write to {0}: {1}")]
    Write(PathBuf, std::io::Error),
    /// mkfs failed.
    #[error("{program} failed on {device} ({how}): {words}")]
    Failed {
        /// Which.
        program: &'static str,
        /// The device.
        device: PathBuf,
        /// Exit code.
        how: String,
        /// What it said.
        words: String,
    },
    /// mkfs is at work longer than its time: neither success nor failure.
    #[error("no result yet on {0}: {1}")]
    Unknown(PathBuf, ChildError),
    /// mkfs said yes, and the disk says otherwise.
    #[error("{program} said it was done, but {device} has {found}")]
    Unverified {
        /// Which.
        program: &'static str,
        /// The device.
        device: PathBuf,
        /// What is there.
        found: String,
    },
}

/// Makes a filesystem. The caller has the ledger's Intent for this volume, read fresh (I2).
///
/// # Errors
/// When there is none afterwards, or when that cannot be told.
pub fn make(plan: &Plan<'_>) -> Result<Superblock, FormatError> {
    make_with(&Tools::default(), plan)
}

/// [`make`] with these tools.
///
/// # Errors
/// See [`make`].
pub fn make_with(tools: &Tools, plan: &Plan<'_>) -> Result<Superblock, FormatError> {
    let program = program(plan.fs);
    let volume = plan.volume.to_lowercase();
    if !is_uuid(&volume) {
        return Err(FormatError::Uuid(plan.volume.to_owned()));
    }
    mkfs_options::check(plan.fs, plan.options)?;
    if !tools.has(program) {
        return Err(FormatError::Tool(
            plan.fs.as_str(),
            ChildError::Missing(program.to_owned()),
        ));
    }
    let disk = Disk::open(plan.device)?;
    if plan.fs == FsType::Xfs && disk.size() < XFS_MINIMUM {
        return Err(FormatError::TooSmall {
            device: plan.device.to_owned(),
            size: disk.size(),
        });
    }
    if !disk::is_free(plan.device).map_err(|e| ReadError::Open(plan.device.to_owned(), e))? {
        return Err(FormatError::Busy(plan.device.to_owned()));
    }
    let found = probe::probe_with(tools, plan.device, &volume)?;
    if found != Found::Blank && found != Found::OurUnfinished(plan.fs) {
        return Err(FormatError::NotBlank {
            device: plan.device.to_owned(),
            found: described(&found),
        });
    }
    let mark = probe::mark(plan.fs, &volume);
    block(plan.device, probe::mark_at(disk.size()), |block| {
        block.copy_from_slice(&mark);
    })?;
    if found != Found::Blank {
        for at in SUPERBLOCKS.into_iter().filter(|at| at + 4096 <= disk.size()) {
            block(plan.device, at, |block| block.fill(0))?;
        }
    }
    let disk = run_mkfs(tools, plan, &volume, disk)?;
    let found = probe::probe_with(tools, plan.device, &volume)?;
    drop(disk);
    match found {
        Found::Filesystem(made) if made.fs == plan.fs && made.uuid == volume && !made.errors => Ok(made),
        found @ (Found::Blank | Found::Filesystem(_) | Found::OurUnfinished(_) | Found::Foreign(_)) => {
            Err(FormatError::Unverified {
                program,
                device: plan.device.to_owned(),
                found: described(&found),
            })
        }
    }
}

/// Runs mkfs, and clears the mark once it has ended well: also after its time, when nobody waits for it any more, or the next call
/// would make the filesystem once more, and so on for ever. The disk is held open meanwhile, so that the device's name and number
/// cannot come to mean another one. That handle is not exclusive, and does not disturb mkfs, which opens the disk exclusively.
fn run_mkfs(tools: &Tools, plan: &Plan<'_>, volume: &str, disk: Disk) -> Result<Disk, FormatError> {
    let (program, rdev, device) = (program(plan.fs), disk.rdev(), plan.device.to_owned());
    let mark = probe::mark(plan.fs, volume);
    let then = move |ended: &Ended| {
        let cleared = match ended.code {
            Some(0) => clear(&device, probe::mark_at(disk.size()), &mark),
            Some(_) | None => Ok(()),
        };
        (cleared, disk)
    };
    let words = arguments(plan, volume);
    let ended = child::run_then(tools, program, &words, Kind::Writes(rdev), plan.limit, then);
    let (ended, (cleared, disk)) = ended.map_err(|e| match e {
        ChildError::Running(..) | ChildError::Earlier(_) => FormatError::Unknown(plan.device.to_owned(), e),
        ChildError::Missing(_) | ChildError::Start(..) | ChildError::Stopped(..) | ChildError::Ending(_) => {
            FormatError::Tool(plan.fs.as_str(), e)
        }
    })?;
    if ended.code != Some(0) {
        return Err(FormatError::Failed {
            program,
            device: plan.device.to_owned(),
            how: ended.how(),
            words: ended.words(),
        });
    }
    cleared.map(|()| disk)
}

/// Clears the mark, and only that: whatever mkfs put there stays.
fn clear(device: &Path, place: u64, mark: &[u8]) -> Result<(), FormatError> {
    block(device, place, |block| {
        if block == mark {
            block.fill(0);
        }
    })
}

fn program(fs: FsType) -> &'static str {
    match fs {
        FsType::Ext4 => "mkfs.ext4",
        FsType::Ext3 => "mkfs.ext3",
        FsType::Xfs => "mkfs.xfs",
        FsType::Btrfs => "mkfs.btrfs",
    }
}

/// The words of mkfs. The device stands last, after `--` where that is understood.
fn arguments(plan: &Plan<'_>, volume: &str) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut say = |all: &[&str]| words.extend(all.iter().map(OsString::from));
    match plan.fs {
        FsType::Ext3 | FsType::Ext4 => {
            // nodiscard: a blank thin file has nothing to give back, and discarding 1 TiB is hundreds of commands.
            // Lazy: the kernel zeroes inode tables in the background. The journal need not be zeroed: a disk that was never
            // mounted holds no old transactions.
            let mut extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1".to_owned();
            let (theirs, rest) = without_extended(plan.options);
            for value in theirs {
                extended.push(',');
                extended.push_str(&value);
            }
            // No blocks reserved for root: nobody but pods writes here.
            say(&["-q", "-m", "0", "-E", &extended]);
            words.extend(rest.iter().map(OsString::from));
            words.extend(["-U".into(), volume.into()]);
        }
        FsType::Xfs => {
            say(&["-q", "-K"]);
            words.extend(plan.options.iter().map(OsString::from));
            words.extend(["-m".into(), format!("uuid={volume}").into()]);
        }
        FsType::Btrfs => {
            say(&["-q", "-K"]);
            words.extend(plan.options.iter().map(OsString::from));
            words.extend(["-U".into(), volume.into()]);
        }
    }
    words.extend([OsStr::new("--").to_owned(), plan.device.as_os_str().to_owned()]);
    words
}

/// mke2fs takes the last `-E` only: values of the volume are added to ours.
fn without_extended(options: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut values, mut rest) = (Vec::new(), Vec::new());
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("-E") {
            Some("") => values.extend(words.next().cloned()),
            Some(value) => values.push(value.to_owned()),
            None => rest.push(word.clone()),
        }
    }
    (values, rest)
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn described(found: &Found) -> String {
    match found {
        Found::Blank => "nothing".to_owned(),
        Found::Filesystem(s) => format!("{} with UUID {}", s.fs.as_str(), s.uuid),
        Found::OurUnfinished(fs) => format!("an unfinished mkfs.{} of this volume", fs.as_str()),
        Found::Foreign(what) => what.clone(),
    }
}

/// Reads, changes and writes 4 KiB, straight to the disk, while nobody else holds it.
fn block(device: &Path, at: u64, change: impl FnOnce(&mut [u8])) -> Result<(), FormatError> {
    let fail = |e: std::io::Error| FormatError::Write(device.to_owned(), e);
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(device, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::BUSY) => return Err(FormatError::Busy(device.to_owned())),
        Err(e) => return Err(fail(e.into())),
    };
    let mut memory = vec![0_u8; 8192];
    let skip = memory.as_ptr().align_offset(4096);
    let Some(block) = memory.get_mut(skip..skip + 4096) else {
        return Err(fail(std::io::ErrorKind::OutOfMemory.into()));
    };
    file.read_exact_at(block, at).map_err(fail)?;
    change(block);
    file.write_all_at(block, at).map_err(fail)?;
    file.sync_all().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_no_force_flag_is_ever_given() {
        let options = [
            "-m".to_owned(),
            "1".to_owned(),
            "-Estride=4".to_owned(),
            "-E".to_owned(),
            "x=1".to_owned(),
        ];
        for fs in [FsType::Ext4, FsType::Ext3, FsType::Xfs, FsType::Btrfs] {
            let plan = Plan {
                device: Path::new("/dev/x"),
                fs,
                volume: "v",
                options: if fs == FsType::Ext4 { &options } else { &[] },
                limit: LIMIT,
            };
            let words: Vec<String> = arguments(&plan, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
                .into_iter()
                .map(|w| w.into_string().unwrap())
                .collect();
            assert!(
                !words.iter().any(|w| ["-f", "-F", "--force"].contains(&w.as_str())),
                "{words:?}"
            );
            assert_eq!(words[words.len() - 2..], ["--", "/dev/x"]);
            assert!(words.iter().any(|w| w.contains("6ba7b810")), "{words:?}");
            if fs == FsType::Ext4 {
                assert_eq!(words.iter().filter(|w| w.starts_with("-E")).count(), 1, "{words:?}");
                assert!(
                    words.iter().any(|w| w.ends_with("lazy_journal_init=1,stride=4,x=1")),
                    "{words:?}"
                );
            }
        }
    }

    #[test]
    fn uuids() {
        assert!(is_uuid("6ba7b810-9dad-11d1-80b4-00c04fd430c8"));
        for bad in [
            "",
            "x",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c",
            "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
            "-----",
        ] {
            assert!(!is_uuid(bad), "{bad}");
        }
    }
}
