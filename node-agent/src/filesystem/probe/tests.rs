use super::*;
use proptest::prelude::*;

const VOLUME: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const UUID: [u8; 16] = [
    0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8,
];
const SIZE: u64 = 300 << 30;

/// A disk of zeroes of which all was read that is read.
fn zeroes(size: u64) -> Regions {
    let region = |(offset, length): (u64, u64)| Region {
        offset,
        bytes: vec![0; usize::try_from(length).unwrap()],
    };
    Regions {
        size,
        all: places(size).into_iter().map(region).collect(),
    }
}

/// What a probe has of it in the end: read in pieces, and not all of them kept.
fn probed(disk: &Regions) -> Regions {
    let piece = |(offset, length): (u64, u64)| Region {
        offset,
        bytes: disk.at(offset, usize::try_from(length).unwrap()).unwrap().to_vec(),
    };
    let size = disk.size;
    Regions {
        size,
        all: pieces(size).filter_map(|place| kept(size, piece(place))).collect(),
    }
}

/// [`super::judge`], which says the same of what was kept as of all that was read.
fn judge(disk: &Regions, opinion: &Opinion, volume: &str) -> Found {
    let found = super::judge(disk, opinion, volume);
    let kept = probed(disk);
    assert_eq!(kept.first_data(), disk.first_data());
    assert_eq!(super::judge(&kept, opinion, volume), found);
    found
}

fn with(mut disk: Regions, puts: &[(u64, &[u8])]) -> Regions {
    for (offset, bytes) in puts {
        let end = offset + bytes.len() as u64;
        let region = disk
            .all
            .iter_mut()
            .find(|r| r.offset <= *offset && end <= r.offset + r.bytes.len() as u64)
            .unwrap_or_else(|| panic!("{offset} is not read"));
        let start = usize::try_from(offset - region.offset).unwrap();
        region.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }
    disk
}

fn found(puts: &[(u64, &[u8])], opinion: &Opinion) -> Found {
    judge(&with(zeroes(SIZE), puts), opinion, VOLUME)
}

fn something(kind: &str, uuid: &str, table: &str) -> Opinion {
    Opinion::Something {
        kind: kind.to_owned(),
        uuid: uuid.to_owned(),
        table: table.to_owned(),
    }
}

#[test]
fn i1_zeroes_are_blank_only_when_blkid_agrees() {
    assert_eq!(found(&[], &Opinion::Nothing), Found::Blank);
    for opinion in [something("ext4", "", ""), something("", "", "dos"), Opinion::Ambivalent] {
        assert!(matches!(found(&[], &opinion), Found::Foreign(_)), "{opinion:?}");
    }
}

#[test]
fn i1_what_is_looked_at() {
    for size in [1, 4096, 1 << 20, (1 << 20) + 512, 5 << 20, 300 << 20, 1 << 40, 16 << 40] {
        let all = places(size);
        let covered =
            |offset: u64| offset >= size || all.iter().any(|(at, length)| (*at..at + length).contains(&offset));
        for at in [
            0,
            (4 << 20) - 1,
            size - 1,
            size.saturating_sub(1 << 20),
            64 << 10,
            64 << 20,
            256 << 30,
            128 << 20,
            size / 2,
            size / 4,
            mark_at(size),
        ] {
            assert!(covered(at), "{size}: {at}");
        }
        assert!(
            all.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0),
            "{size}: {all:?}"
        );
        assert!(
            all.iter().all(|(at, length)| at % 4096 == 0 && at + length <= size),
            "{size}: {all:?}"
        );
        let total: u64 = all.iter().map(|(_, length)| length).sum();
        assert!(total <= 16 << 20, "{size}: {total}");
    }
}

#[test]
fn little_of_a_full_disk_is_kept() {
    for size in [3 << 20, 64 << 20, SIZE] {
        let mut full = zeroes(size);
        full.all.iter_mut().for_each(|region| region.bytes.fill(7));
        let kept = probed(&full);
        let total: usize = kept.all.iter().map(|region| region.bytes.len()).sum();
        assert!(total < 3 << 19, "{size}: {total} bytes");
        let largest = kept.all.iter().map(|region| region.bytes.len()).max();
        assert_eq!(largest, Some(64 << 10), "{size}: more at once");
        assert_eq!(kept.first_data(), Some(0));
    }
    // Every place is read in order and in whole, whatever its size.
    for size in [1, 4096, (1 << 20) + 512, 5 << 20, SIZE + 512] {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (offset, length) in pieces(size) {
            match joined.last_mut() {
                Some((start, before)) if *start + *before == offset => *before += length,
                Some(_) | None => joined.push((offset, length)),
            }
        }
        assert_eq!(joined, places(size));
    }
}

#[test]
fn signatures_are_named() {
    for (offset, bytes, name) in [
        (0, &b"LUKS\xba\xbe\x00\x01"[..], "LUKS1"),
        (0, b"LUKS\xba\xbe\x00\x02", "LUKS2"),
        (512, b"LABELONE", "LVM"),
        (1536, b"LABELONE", "LVM"),
        (510, &[0x55, 0xaa], "MBR"),
        (512, b"EFI PART", "GPT"),
        (SIZE - 512, b"EFI PART", "GPT"),
        (SIZE - 4096, b"EFI PART", "GPT"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "md"),
        (SIZE - 8192, &[0xfc, 0x4e, 0x2b, 0xa9], "md"),
        (SIZE - 65536, &[0xfc, 0x4e, 0x2b, 0xa9], "md"),
        (4086, b"SWAPSPACE2", "swap"),
        (128 << 10, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], "zfs"),
        ((512 << 10) - 1024, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], "zfs"),
        (SIZE - (384 << 10), &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], "zfs"),
        (SIZE - (128 << 10), &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c], "zfs"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
        (3, b"NTFS    ", "ntfs"),
        (82, b"FAT32   ", "vfat"),
        (54, b"FAT16   ", "vfat"),
        (32769, b"CD001", "iso9660"),
        (4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "bcache"),
        (0, b"bluestore block device", "bluestore"),
        (77, b"x", "unknown data, the first of it at byte 77"),
        (SIZE - 1, b"x", "unknown data"),
    ] {
        let got = found(&[(offset, bytes)], &Opinion::Nothing);
        assert!(
            matches!(&got, Found::Foreign(what) if what.contains(name)),
            "{name}: {got:?}"
        );
    }
    let got = found(&[(510, &[0x55, 0xaa])], &something("", "", "dos"));
    assert_eq!(
        got,
        Found::Foreign("an MBR partition table or boot sector, a partition table (dos) (by blkid)".to_owned())
    );
}

#[test]
fn labels_of_a_disk_of_an_odd_size() {
    // The last labels of zfs are before the last multiple of their size, which may be almost as far from the end.
    let size = SIZE + (255 << 10);
    let disk = with(
        zeroes(size),
        &[(SIZE - (384 << 10), &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0])],
    );
    let got = judge(&disk, &Opinion::Nothing, VOLUME);
    assert_eq!(got, Found::Foreign("zfs".to_owned()));
}

/// The parts of superblocks that are looked at.
fn ext4(uuid: [u8; 16]) -> Vec<(u64, Vec<u8>)> {
    vec![
        (1024 + 0x38, vec![0x53, 0xef]),
        (1024 + 0x5c, vec![0x3c, 0, 0, 0]),
        (1024 + 0x60, vec![0xc2, 0x02, 0, 0]),
        (1024 + 0x68, uuid.to_vec()),
    ]
}

fn xfs(uuid: [u8; 16], unfinished: u8) -> Vec<(u64, Vec<u8>)> {
    vec![(0, b"XFSB".to_vec()), (32, uuid.to_vec()), (126, vec![unfinished])]
}

fn btrfs(uuid: [u8; 16], magic: &[u8]) -> Vec<(u64, Vec<u8>)> {
    vec![((64 << 10) + 0x20, uuid.to_vec()), ((64 << 10) + 0x40, magic.to_vec())]
}

fn judged(parts: &[Vec<(u64, Vec<u8>)>], opinion: &Opinion) -> Found {
    let puts: Vec<(u64, &[u8])> = parts
        .iter()
        .flatten()
        .map(|(at, bytes)| (*at, bytes.as_slice()))
        .collect();
    found(&puts, opinion)
}

#[test]
fn b8_filesystems_by_their_superblocks() {
    let kinds = [
        (FsType::Ext4, ext4(UUID)),
        (FsType::Xfs, xfs(UUID, 0)),
        (FsType::Btrfs, btrfs(UUID, b"_BHRfS_M")),
    ];
    for (fs, parts) in &kinds {
        let name = fs.as_str();
        let parts = std::slice::from_ref(parts);
        let is = |found: Found| matches!(found, Found::Filesystem(s) if s.fs == *fs && s.uuid == VOLUME);
        assert!(is(judged(parts, &something(name, VOLUME, ""))), "{name}");
        // A superblock that blkid does not accept is damaged, not absent; and nothing is made over it.
        assert!(is(judged(parts, &Opinion::Nothing)), "{name}");
        assert!(is(judged(parts, &Opinion::Ambivalent)), "{name}: our UUID at its place");
        assert!(
            matches!(judged(parts, &something("zfs_member", "", "")), Found::Foreign(_)),
            "{name}"
        );
    }
    // Two at once: that with our UUID counts, and without one nothing does.
    let both = [ext4([1; 16]), btrfs(UUID, b"_BHRfS_M")];
    let got = judged(&both, &something("btrfs", VOLUME, ""));
    assert!(matches!(got, Found::Filesystem(s) if s.fs == FsType::Btrfs));
    let both = [ext4([1; 16]), btrfs([2; 16], b"_BHRfS_M")];
    assert!(matches!(judged(&both, &Opinion::Ambivalent), Found::Foreign(_)));
}

#[test]
fn i2_remains_are_ours_only_with_mark_or_uuid() {
    let at = mark_at(SIZE);
    let mark = |fs| vec![(at, mark(fs, VOLUME).to_vec())];
    let junk = vec![(1 << 20, vec![7; 100])];
    assert_eq!(
        judged(&[mark(FsType::Ext4)], &Opinion::Nothing),
        Found::OurUnfinished(FsType::Ext4)
    );
    assert_eq!(
        judged(&[mark(FsType::Xfs), junk.clone()], &Opinion::Nothing),
        Found::OurUnfinished(FsType::Xfs)
    );
    assert_eq!(
        judged(&[mark(FsType::Ext4), ext4(UUID)], &something("ext4", VOLUME, "")),
        Found::OurUnfinished(FsType::Ext4),
        "it ended, and nobody saw it"
    );
    assert_eq!(
        judged(&[xfs(UUID, 1)], &Opinion::Nothing),
        Found::OurUnfinished(FsType::Xfs)
    );
    assert_eq!(
        judged(&[btrfs(UUID, b"!BHRfS_M")], &Opinion::Nothing),
        Found::OurUnfinished(FsType::Btrfs)
    );
    for (what, parts, opinion) in [
        ("no mark", vec![junk.clone()], Opinion::Nothing),
        ("another's xfs", vec![xfs([1; 16], 1)], Opinion::Nothing),
        ("another's btrfs", vec![btrfs([1; 16], b"!BHRfS_M")], Opinion::Nothing),
        (
            "a mark and another's filesystem",
            vec![mark(FsType::Ext4), ext4([1; 16])],
            Opinion::Nothing,
        ),
        (
            "a mark and a partition table",
            vec![mark(FsType::Ext4)],
            something("", "", "dos"),
        ),
        (
            "a mark and another's by blkid",
            vec![mark(FsType::Ext4)],
            something("ext4", "x", ""),
        ),
        ("a mark and several", vec![mark(FsType::Ext4)], Opinion::Ambivalent),
    ] {
        let got = judged(&parts, &opinion);
        assert!(matches!(got, Found::Foreign(_)), "{what}: {got:?}");
    }
    // The mark of another volume is none.
    let other = vec![(
        at,
        super::mark(FsType::Ext4, "6ba7b811-9dad-11d1-80b4-00c04fd430c8").to_vec(),
    )];
    assert!(matches!(judged(&[other], &Opinion::Nothing), Found::Foreign(_)));
}

#[test]
fn answers_of_blkid() {
    let export = "DEVNAME=/dev/loop0\nUUID=6BA7B810-9DAD\nUUID_SUB=x\nTYPE=vfat\nUSAGE=filesystem\n";
    assert_eq!(super::something(export), something("vfat", "6ba7b810-9dad", ""));
    assert_eq!(super::something("PTUUID=1\nPTTYPE=gpt\n"), something("", "", "gpt"));
}

proptest! {
    // Each case makes and reads a disk of 10 MiB.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any byte at any place that is read makes a disk not blank, whatever blkid says.
    #[test]
    fn i1_no_byte_is_overlooked(place in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in 1_u8..=255) {
        let size = 1 << 30;
        let all = places(size);
        let (offset, length) = all[place.index(all.len())];
        let at = offset + at.index(usize::try_from(length).unwrap()) as u64;
        let disk = with(zeroes(size), &[(at, &[byte])]);
        for opinion in [Opinion::Nothing, Opinion::Ambivalent] {
            prop_assert!(!matches!(judge(&disk, &opinion, VOLUME), Found::Blank | Found::OurUnfinished(_)));
        }
    }

    /// Noise never panics, is never blank and never ours.
    #[test]
    fn i1_noise_is_foreign(noise in proptest::collection::vec(any::<u8>(), 2048), at in 0_u64..70_000) {
        let size = 8 << 20;
        let disk = with(zeroes(size), &[(at, &noise)]);
        if disk.first_data().is_some() {
            prop_assert!(!matches!(judge(&disk, &Opinion::Nothing, VOLUME), Found::Blank | Found::OurUnfinished(_)));
        }
    }

}

proptest! {
    #[test]
    fn places_are_in_order_for_any_size(size in 1_u64..=(1 << 44)) {
        let all = places(size);
        prop_assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
        prop_assert_eq!(all.first().map(|(at, _)| *at), Some(0));
        prop_assert_eq!(all.last().map(|(at, length)| at + length), Some(size));
    }
}
