//! What is on a disk.
//!
//! [`Found::Blank`] is said only when all that was looked at was read from the device without error, every byte of it is zero,
//! and blkid finds nothing either (I1). Errors are errors; they never mean "blank" (B1, B2).

use std::path::Path;
use std::time::Duration;

use rds_crds::volume::FsType;

use super::child::{self, ChildError, Kind, Tools};
use super::disk::{Disk, ReadError};
use super::signature::{self, Region, Regions, Superblock};

/// Read whole: from the start.
const HEAD: u64 = 4 << 20;
/// Read whole: up to the end.
const TAIL: u64 = 1 << 20;
/// Read at each single place.
const WINDOW: u64 = 64 << 10;
/// Read at once, of each place. What is allocated in larger pieces stays with the thread's heap when it is freed: reading whole
/// places cost 2 MiB of resident memory for each thread that ever probed a disk, and this does not.
const PIECE: u64 = 64 << 10;
/// Places all over the disk: a disk that was used raw may have nothing at its start.
const SAMPLES: u64 = 64;
/// Limit for blkid, which reads a few MiB.
const BLKID: Duration = Duration::from_secs(60);
/// What [`super::format`] writes first and removes last: `unfinished mkfs.<kind> of volume <uid>`.
const MARK: &str = "rds-csi unfinished mkfs.";
/// Where, on all disks that are large enough, so that a disk that grew meanwhile has it at the same place. mke2fs writes up to
/// 40 MiB and at multiples of 8 MiB, mkfs.btrfs up to 40 MiB and from 64 MiB on, mkfs.xfs in the first few and the last KiB of a
/// quarter.
const MARK_AT: u64 = 52 << 20;

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: all that was read is zero.
    Blank,
    /// A filesystem of a kind that we make.
    Filesystem(Superblock),
    /// What a mkfs of ours for this volume has left that did not come to its end.
    OurUnfinished(FsType),
    /// Anything else, in words.
    Foreign(String),
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Some of the disk could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// blkid is missing, was stopped, or failed.
    #[error("no second opinion on {device}: {error}")]
    Blkid {
        /// The device.
        device: String,
        /// What happened.
        error: String,
    },
    /// A mkfs or a repair that was started earlier is at work.
    #[error("{program}, started earlier, is still at work on {device}; try again later")]
    AtWork {
        /// The device.
        device: String,
        /// What runs.
        program: String,
    },
}

/// Looks at a disk. `volume` is the UID of the RdsVolume, which is the UUID of its filesystem.
///
/// # Errors
/// When anything of it could not be read: nothing is known then.
pub fn probe(device: &Path, volume: &str) -> Result<Found, ProbeError> {
    probe_with(&Tools::default(), device, volume)
}

/// [`probe`] with these tools.
///
/// # Errors
/// See [`probe`].
pub fn probe_with(tools: &Tools, device: &Path, volume: &str) -> Result<Found, ProbeError> {
    let disk = Disk::open(device)?;
    if let Some(program) = child::writer_on(disk.rdev()) {
        return Err(ProbeError::AtWork {
            device: device.display().to_string(),
            program,
        });
    }
    let size = disk.size();
    let mut all = Vec::new();
    for (offset, length) in pieces(size) {
        let bytes = disk.read(offset, length)?;
        all.extend(kept(size, Region { offset, bytes }));
    }
    let regions = Regions { size, all };
    let opinion = blkid(tools, device)?;
    Ok(judge(&regions, &opinion, volume))
}

/// What blkid says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Exit code 2. It means an unreadable disk too, which is why blkid is never asked alone.
    Nothing,
    /// Something with these TYPE, UUID and PTTYPE.
    Something {
        /// TYPE; empty when there is only a partition table (B3).
        kind: String,
        /// UUID, in lower case.
        uuid: String,
        /// PTTYPE.
        table: String,
    },
    /// Several things at once.
    Ambivalent,
}

fn blkid(tools: &Tools, device: &Path) -> Result<Opinion, ProbeError> {
    let failed = |error: String| ProbeError::Blkid {
        device: device.display().to_string(),
        error,
    };
    let arguments = [
        "-p".as_ref(),
        "-o".as_ref(),
        "export".as_ref(),
        "--".as_ref(),
        device.as_os_str(),
    ];
    let ended =
        child::run(tools, "blkid", &arguments, Kind::Reads, BLKID).map_err(|e: ChildError| failed(e.to_string()))?;
    match ended.code {
        Some(0) => Ok(something(&ended.stdout)),
        Some(2) => Ok(Opinion::Nothing),
        Some(8) => Ok(Opinion::Ambivalent),
        Some(_) | None => Err(failed(format!("blkid: {}, {}", ended.how(), ended.words()))),
    }
}

fn something(export: &str) -> Opinion {
    let value = |key: &str| {
        export
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    Opinion::Something {
        kind: value("TYPE"),
        uuid: value("UUID").to_lowercase(),
        table: value("PTTYPE"),
    }
}

/// The places that are read, sorted and without overlap: head, tail, where superblocks and their copies are, and samples.
#[must_use]
pub fn places(size: u64) -> Vec<(u64, u64)> {
    const BLOCK: u64 = 4096;
    let mut wanted = vec![(0, HEAD), (size.saturating_sub(TAIL), TAIL)];
    let mut at = |offset: u64| wanted.push((offset, WINDOW));
    at(mark_at(size));
    signature::BTRFS.into_iter().for_each(&mut at);
    // Copies of ext superblocks are in groups 1 and powers of 3, 5 and 7; a group has as many blocks as a block has bits.
    for block in [1024_u64, 2048, 4096] {
        for group in [1, 3, 5, 7, 9, 25, 27, 49, 81, 125] {
            at(group * block * 8 * block);
        }
    }
    // With four allocation groups, the default of mkfs.xfs, their headers are among these.
    (1..SAMPLES).for_each(|index| at((u128::from(size) * u128::from(index) / u128::from(SAMPLES)) as u64));
    let mut wanted: Vec<(u64, u64)> = wanted
        .into_iter()
        .map(|(offset, length)| (offset / BLOCK * BLOCK, offset.saturating_add(length).min(size)))
        .filter(|(start, end)| start < end)
        .collect();
    wanted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in wanted {
        match merged.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            Some(_) | None => merged.push((start, end)),
        }
    }
    merged.into_iter().map(|(start, end)| (start, end - start)).collect()
}

/// [`places`] as they are read.
fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
    places(size).into_iter().flat_map(|(start, length)| {
        let count = length.div_ceil(PIECE);
        (0..count).map(move |index| (start + index * PIECE, PIECE.min(length - index * PIECE)))
    })
}

/// What has to be remembered of bytes that were read: nothing of zeroes, all where something has a name, and elsewhere the first that
/// is not zero, since any such byte means that the disk is not blank.
fn kept(size: u64, region: Region) -> Option<Region> {
    let index = region.bytes.iter().position(|&byte| byte != 0)?;
    let (start, end) = (region.offset, region.offset + region.bytes.len() as u64);
    let overlaps = |from: u64, to: u64| start < to && from < end;
    let mark = mark_at(size);
    if overlaps(0, signature::NAMED_HEAD)
        || overlaps(size.saturating_sub(signature::NAMED_TAIL), size)
        || overlaps(mark, mark + 4096)
    {
        return Some(region);
    }
    Some(Region {
        offset: start + index as u64,
        bytes: vec![*region.bytes.get(index)?],
    })
}

/// The decision, from bytes and a second opinion.
#[must_use]
pub fn judge(disk: &Regions, opinion: &Opinion, volume: &str) -> Found {
    let volume = volume.to_lowercase();
    let Some(first) = disk.first_data() else {
        return match opinion {
            Opinion::Nothing => Found::Blank,
            Opinion::Something { .. } | Opinion::Ambivalent => Found::Foreign(format!(
                "zeroes wherever it was read, yet blkid finds {}",
                told(opinion)
            )),
        };
    };
    let superblocks = signature::superblocks(disk);
    if let Some(fs) = marked(disk, &volume) {
        // The mark is removed before mkfs counts as done, and nothing was mounted before that: what else is there is remains.
        return remains(fs, opinion, &superblocks, &volume);
    }
    let ours = superblocks.iter().find(|s| s.uuid == volume);
    let one = match (ours, superblocks.as_slice()) {
        (Some(ours), _) => Some(ours),
        (None, [one]) if signature::others(disk).is_empty() => Some(one),
        (None, _) => None,
    };
    let Some(one) = one else {
        return Found::Foreign(describe(disk, opinion, &superblocks, first));
    };
    if one.unfinished {
        return if one.uuid == volume {
            remains(one.fs, opinion, &superblocks, &volume)
        } else {
            Found::Foreign(format!("an unfinished {} with UUID {}", one.fs.as_str(), one.uuid))
        };
    }
    match opinion {
        // A damaged superblock is not one for blkid; the check before the mount has the word on it.
        Opinion::Nothing => Found::Filesystem(one.clone()),
        // Data in files may look like anything; who has our UUID at its place is ours.
        Opinion::Ambivalent if one.uuid == volume => Found::Filesystem(one.clone()),
        Opinion::Something { kind, .. } if same_kind(kind, one.fs) => Found::Filesystem(one.clone()),
        Opinion::Ambivalent | Opinion::Something { .. } => Found::Foreign(format!(
            "{} by its superblock, but blkid finds {}",
            one.fs.as_str(),
            told(opinion)
        )),
    }
}

fn same_kind(blkid: &str, fs: FsType) -> bool {
    match fs {
        // A journal or a feature more or less changes the name.
        FsType::Ext3 | FsType::Ext4 => matches!(blkid, "ext2" | "ext3" | "ext4" | "ext4dev"),
        FsType::Xfs | FsType::Btrfs => blkid == fs.as_str(),
    }
}

/// The kind in our mark for this volume.
fn marked(disk: &Regions, volume: &str) -> Option<FsType> {
    let block = disk.at(mark_at(disk.size), 4096)?;
    [FsType::Ext4, FsType::Ext3, FsType::Xfs, FsType::Btrfs]
        .into_iter()
        .find(|fs| block == mark(*fs, volume))
}

/// Where the mark of an unfinished mkfs is on a disk of that size.
#[must_use]
pub fn mark_at(size: u64) -> u64 {
    if size >= 64 << 20 {
        MARK_AT
    } else {
        size / 2 / 4096 * 4096
    }
}

/// The block at [`mark_at`] while a mkfs of ours is at work.
pub(super) fn mark(fs: FsType, volume: &str) -> [u8; 4096] {
    let mut sector = [0; 4096];
    let text = format!("{MARK}{} of volume {}\n", fs.as_str(), volume.to_lowercase());
    for (to, from) in sector.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    sector
}

/// Our own unfinished mkfs, unless something speaks against it.
fn remains(fs: FsType, opinion: &Opinion, superblocks: &[Superblock], volume: &str) -> Found {
    if let Some(other) = superblocks.iter().find(|s| s.uuid != volume) {
        return Found::Foreign(format!(
            "an unfinished mkfs.{} of this volume, and a {} with UUID {}",
            fs.as_str(),
            other.fs.as_str(),
            other.uuid
        ));
    }
    match opinion {
        Opinion::Nothing => Found::OurUnfinished(fs),
        Opinion::Something { kind, uuid, table } if table.is_empty() && same_kind(kind, fs) && uuid == volume => {
            Found::OurUnfinished(fs)
        }
        Opinion::Something { .. } | Opinion::Ambivalent => Found::Foreign(format!(
            "an unfinished mkfs.{} of this volume, and blkid finds {}",
            fs.as_str(),
            told(opinion)
        )),
    }
}

fn told(opinion: &Opinion) -> String {
    match opinion {
        Opinion::Nothing => "nothing".to_owned(),
        Opinion::Ambivalent => "signatures of several kinds".to_owned(),
        Opinion::Something { kind, table, .. } if kind.is_empty() => format!("a partition table ({table})"),
        Opinion::Something { kind, uuid, .. } if uuid.is_empty() => kind.clone(),
        Opinion::Something { kind, uuid, .. } => format!("{kind} with UUID {uuid}"),
    }
}

fn describe(disk: &Regions, opinion: &Opinion, superblocks: &[Superblock], first: u64) -> String {
    let mut names: Vec<String> = superblocks
        .iter()
        .map(|s| format!("{} with UUID {}", s.fs.as_str(), s.uuid))
        .collect();
    names.extend(signature::others(disk).into_iter().map(str::to_owned));
    if let Opinion::Something { .. } | Opinion::Ambivalent = opinion {
        let said = told(opinion);
        if !names.contains(&said) {
            names.push(format!("{said} (by blkid)"));
        }
    }
    if names.is_empty() {
        return format!("unknown data, the first of it at byte {first}");
    }
    names.join(", ")
}

#[cfg(test)]
mod tests;
