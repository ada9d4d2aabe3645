//! What bytes of a disk say about it. Pure: bytes in, names out.
//!
//! The names are for messages. Whether a disk is blank is not decided by them: any byte that is not zero, named or not, means
//! that it is not (I1).

use rds_crds::volume::FsType;

/// All that has a name is within so much of the start of a disk, where zfs has its second label, ..
pub(super) const NAMED_HEAD: u64 = 512 << 10;
/// .. or of its end: the two last labels of zfs end at a multiple of their size.
pub(super) const NAMED_TAIL: u64 = 768 << 10;

/// Some bytes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The bytes that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// Size of the disk.
    pub size: u64,
    /// Sorted, without overlap.
    pub all: Vec<Region>,
}

impl Regions {
    /// `length` bytes at `offset`, if they were read.
    #[must_use]
    pub fn at(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let region = self
            .all
            .iter()
            .find(|r| r.offset <= offset && offset < r.offset + r.bytes.len() as u64)?;
        let start = usize::try_from(offset - region.offset).ok()?;
        region.bytes.get(start..start.checked_add(length)?)
    }

    /// Where the first byte is that is not zero.
    #[must_use]
    pub fn first_data(&self) -> Option<u64> {
        self.all.iter().find_map(|region| {
            let index = region.bytes.iter().position(|&byte| byte != 0)?;
            Some(region.offset + index as u64)
        })
    }

    fn is(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    fn le16(&self, offset: u64) -> Option<u16> {
        self.at(offset, 2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn le32(&self, offset: u64) -> Option<u32> {
        self.at(offset, 4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn le64(&self, offset: u64) -> Option<u64> {
        self.at(offset, 8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn be32(&self, offset: u64) -> Option<u32> {
        self.at(offset, 4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn be64(&self, offset: u64) -> Option<u64> {
        self.at(offset, 8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn uuid(&self, offset: u64) -> Option<String> {
        self.at(offset, 16).map(uuid)
    }
}

/// 16 bytes in the usual form.
fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A filesystem of a kind that we make, as its superblock has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The kind.
    pub fs: FsType,
    /// Its UUID, in lower case.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// It says itself that it has errors, or that a repair was not finished.
    pub errors: bool,
    /// It has a journal that must be replayed. `None`: the superblock does not tell.
    pub dirty: Option<bool>,
    /// mkfs has not finished.
    pub unfinished: bool,
}

/// Where an ext superblock is.
const EXT: u64 = 1024;
/// Where a btrfs superblock and its copies are.
pub(super) const BTRFS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// mkfs.btrfs writes this until it is done, and the real magic last.
const BTRFS_UNFINISHED: &[u8] = b"!BHRfS_M";

/// The superblocks of our kinds.
#[must_use]
pub fn superblocks(disk: &Regions) -> Vec<Superblock> {
    [ext(disk), xfs(disk), btrfs(disk)].into_iter().flatten().collect()
}

fn ext(disk: &Regions) -> Option<Superblock> {
    if !disk.is(EXT + 0x38, &[0x53, 0xef]) {
        return None;
    }
    let (compat, incompat, read_only) = (disk.le32(EXT + 0x5c)?, disk.le32(EXT + 0x60)?, disk.le32(EXT + 0x64)?);
    // The features that the kernel's ext3 had; has_journal is compat 0x4. ext2 counts as ext4: its driver mounts it.
    let ext3 = compat & 0x4 != 0 && incompat & !0x16 == 0 && read_only & !0x7 == 0;
    let high = if incompat & 0x80 == 0 {
        0
    } else {
        disk.le32(EXT + 0x150)?
    };
    let blocks = u64::from(high) << 32 | u64::from(disk.le32(EXT + 0x4)?);
    let block = 1024_u64.checked_shl(disk.le32(EXT + 0x18)?).unwrap_or(0);
    Some(Superblock {
        fs: if ext3 { FsType::Ext3 } else { FsType::Ext4 },
        uuid: disk.uuid(EXT + 0x68)?,
        size: blocks.saturating_mul(block),
        errors: disk.le16(EXT + 0x3a)? & 0x2 != 0,
        dirty: Some(incompat & 0x4 != 0),
        // The superblock is the last thing that mke2fs writes.
        unfinished: false,
    })
}

fn xfs(disk: &Regions) -> Option<Superblock> {
    if !disk.is(0, b"XFSB") {
        return None;
    }
    let version = disk.at(100, 2)?[1] & 0xf;
    Some(Superblock {
        fs: FsType::Xfs,
        uuid: disk.uuid(32)?,
        size: disk.be64(8)?.saturating_mul(u64::from(disk.be32(4)?)),
        // "Needs repair", an incompatible feature of version 5.
        errors: version >= 5 && disk.be32(216)? & 0x10 != 0,
        dirty: None,
        unfinished: disk.at(126, 1)? != [0],
    })
}

fn btrfs(disk: &Regions) -> Option<Superblock> {
    let at = BTRFS[0];
    let unfinished = disk.is(at + 0x40, BTRFS_UNFINISHED);
    if !unfinished && !disk.is(at + 0x40, b"_BHRfS_M") {
        return None;
    }
    Some(Superblock {
        fs: FsType::Btrfs,
        uuid: disk.uuid(at + 0x20)?,
        size: disk.le64(at + 0x70)?,
        // BTRFS_SUPER_FLAG_ERROR
        errors: disk.le64(at + 0x38)? & 0x4 != 0,
        dirty: Some(disk.le64(at + 0x60)? != 0),
        unfinished,
    })
}

/// What is wrong with the bytes of a btrfs superblock itself.
#[must_use]
pub fn btrfs_damage(disk: &Regions) -> Option<&'static str> {
    let at = BTRFS[0];
    if btrfs(disk).is_none() {
        return Some("its superblock is gone");
    }
    if disk.le64(at + 0x30) != Some(at) {
        return Some("its superblock names another place than its own");
    }
    // Other kinds of checksum are left to the kernel.
    let crc = disk.le16(at + 0xc4) == Some(0);
    match (disk.le32(at), disk.at(at + 32, 4096 - 32)) {
        (Some(stored), Some(bytes)) if !crc || stored == crc32c(bytes) => None,
        (_, _) => Some("the checksum of its superblock is wrong"),
    }
}

/// CRC-32C (Castagnoli), bit by bit: 4 KiB once a mount.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
        }
    }
    !crc
}

/// Magic bytes at fixed offsets, of what is not a filesystem of ours.
const HEAD: &[(u64, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe\x00\x01", "LUKS1"),
    (0, b"LUKS\xba\xbe\x00\x02", "LUKS2"),
    (16 << 10, b"SKUL\xba\xbe", "LUKS2 (second header)"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (510, &[0x55, 0xaa], "an MBR partition table or boot sector"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (8182, b"SWAPSPACE2", "swap"),
    (16374, b"SWAPSPACE2", "swap"),
    (65526, b"SWAPSPACE2", "swap"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (3, b"-FVE-FS-", "bitlocker"),
    (54, b"FAT1", "vfat"),
    (82, b"FAT32", "vfat"),
    (32769, b"CD001", "iso9660"),
    (32769, b"BEA01", "udf"),
    (32769, b"NSR0", "udf"),
    (4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "bcache"),
    (4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9], "bcachefs"),
    (0x10034, b"ReIsErFs", "reiserfs"),
    (0x10034, b"ReIsEr2Fs", "reiserfs"),
    (0x10034, b"ReIsEr3Fs", "reiserfs"),
    (32768, b"JFS1", "jfs"),
    (1024 + 6, &[0x34, 0x34], "nilfs2"),
    (0, b"hsqs", "squashfs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (1024, b"H+", "hfsplus"),
    (1024, b"HX", "hfsplus"),
    (32, b"NXSB", "apfs"),
    (0, b"bluestore block device", "ceph bluestore"),
    (512, b"!Stra0tis\x86\xff\x02^\x41rh", "stratis"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a vmdk image"),
];

/// The names of what is there, without filesystems of our kinds.
#[must_use]
pub fn others(disk: &Regions) -> Vec<&'static str> {
    // The short ones at 1 KiB are at the counters of an ext superblock, where any value is possible.
    let counters = ext(disk).map(|_| EXT..EXT + 16);
    let mut found: Vec<&'static str> = HEAD
        .iter()
        .filter(|(offset, ..)| counters.as_ref().is_none_or(|at| !at.contains(offset)))
        .filter(|(offset, magic, _)| disk.is(*offset, magic))
        .map(|(.., name)| *name)
        .collect();
    // An LVM label is in one of the first four sectors.
    if (0..4).any(|sector| disk.is(sector * 512, b"LABELONE")) {
        found.push("an LVM physical volume");
    }
    if md(disk) {
        found.push("a member of an md array");
    }
    if zfs(disk) {
        found.push("zfs");
    }
    for sector in [512, 4096] {
        if disk.size >= sector && disk.is((disk.size / sector - 1) * sector, b"EFI PART") {
            found.push("a GPT partition table (second copy)");
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The superblock of md is at the end (0.90: the last whole 64 KiB before the last; 1.0: 8 KiB before it), or at 0 or 4 KiB.
fn md(disk: &Regions) -> bool {
    const MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
    let old = (disk.size & !0xffff).checked_sub(0x1_0000);
    let new = disk.size.checked_sub(0x2000).map(|at| at & !0xfff);
    [Some(0), Some(4096), old, new]
        .into_iter()
        .flatten()
        .any(|at| disk.is(at, &MAGIC) || disk.is(at, &[0xa9, 0x2b, 0x4e, 0xfc]))
}

/// Each of the four labels of 256 KiB has uberblocks from its middle on.
fn zfs(disk: &Regions) -> bool {
    const LABEL: u64 = 256 << 10;
    let end = disk.size / LABEL * LABEL;
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    labels.into_iter().flatten().any(|label| {
        (0..128_u64).any(|index| {
            let at = label + LABEL / 2 + index * 1024;
            matches!(disk.le64(at), Some(0x00ba_b10c)) || matches!(disk.be64(at), Some(0x00ba_b10c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_they_are_looked_for() {
        for (offset, magic, name) in HEAD {
            assert!(offset + magic.len() as u64 <= NAMED_HEAD, "{name}");
        }
        assert!(BTRFS[0] + 4096 <= NAMED_HEAD);
    }
}
