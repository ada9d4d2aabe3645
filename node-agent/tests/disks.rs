//! What is on a disk, and making a filesystem on it, on real loop devices: see `loops`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod loops;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use loops::{ALL, LIMIT, Loop, MIB, inside, run, size_of, uuid};
use rds_node_agent::filesystem::check::{self, Verdict};
use rds_node_agent::filesystem::child::Tools;
use rds_node_agent::filesystem::format::{self, FormatError, Plan};
use rds_node_agent::filesystem::probe::{self, Found, ProbeError};
use rds_node_agent::filesystem::{FsType, stats};

const SBIN: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn i1_a_blank_disk_gets_a_filesystem_once() {
    if !inside("i1_a_blank_disk_gets_a_filesystem_once") {
        return;
    }
    for fs in ALL {
        let disk = Loop::new(size_of(fs));
        assert_eq!(disk.probe(), Found::Blank, "{fs:?}");
        disk.make(fs).unwrap();
        let Found::Filesystem(made) = disk.probe() else {
            panic!("{fs:?}: {:?}", disk.probe())
        };
        assert_eq!(
            (made.fs, made.uuid.as_str(), made.errors),
            (fs, disk.volume.as_str(), false)
        );
        assert!(made.size > size_of(fs) - 16 * MIB, "{made:?}");
        assert_eq!(stats::block(&disk.device).unwrap(), size_of(fs));
        // Its UUID is ours, and still: nothing is made twice (I2).
        let error = disk.make(fs).unwrap_err();
        assert!(matches!(error, FormatError::NotBlank { .. }), "{fs:?}: {error}");
        assert_eq!(check::check(&disk.device, fs, LIMIT).unwrap(), Verdict::Good, "{fs:?}");
    }
}

#[test]
fn i1_whatever_is_on_a_disk_is_never_formatted() {
    if !inside("i1_whatever_is_on_a_disk_is_never_formatted") {
        return;
    }
    let size = 320 * MIB;
    // Name, where, what: one byte anywhere is enough, known or not.
    let cases: &[(&str, u64, &[u8])] = &[
        ("luks", 0, b"LUKS\xba\xbe\x00\x02"),
        ("lvm", 512, b"LABELONE"),
        ("mbr", 510, &[0x55, 0xaa]),
        ("gpt", 512, b"EFI PART"),
        ("gpt copy at the end", size - 512, b"EFI PART"),
        ("md 1.0 at the end", size - 8192, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("swap", 4086, b"SWAPSPACE2"),
        ("bcache", 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
        ("btrfs copy", 64 * MIB, &[1]),
        ("ext copy", 128 * MIB, &[1]),
        ("a byte in the head", 4 * MIB - 1, &[1]),
        ("the last byte", size - 1, &[1]),
        ("a byte in the middle", size / 2, &[1]),
    ];
    for (name, offset, bytes) in cases {
        let disk = Loop::new(size);
        disk.write(*offset, bytes);
        let found = disk.probe();
        assert!(matches!(found, Found::Foreign(_)), "{name}: {found:?}");
        for fs in ALL {
            let error = disk.make(fs).unwrap_err();
            assert!(matches!(error, FormatError::NotBlank { .. }), "{name}, {fs:?}: {error}");
        }
        assert_eq!(disk.read(*offset, bytes.len()), *bytes, "{name} was written to");
    }
}

#[test]
fn i1_b3_other_filesystems_are_told_by_name() {
    if !inside("i1_b3_other_filesystems_are_told_by_name") {
        return;
    }
    let disk = Loop::new(320 * MIB);
    run("mkswap", &[disk.name()]);
    assert!(matches!(disk.probe(), Found::Foreign(what) if what.contains("swap")));

    // A filesystem of our kind that is another volume's: seen as what it is, and never formatted.
    for fs in ALL {
        let disk = Loop::new(size_of(fs));
        disk.make(fs).unwrap();
        let other = uuid();
        let Found::Filesystem(found) = probe::probe(&disk.device, &other).unwrap() else {
            panic!("{fs:?}")
        };
        assert_eq!((found.fs, &found.uuid), (fs, &disk.volume));
        let plan = Plan {
            volume: &other,
            ..disk.plan(fs)
        };
        assert!(
            matches!(format::make(&plan), Err(FormatError::NotBlank { .. })),
            "{fs:?}"
        );
    }
}

#[test]
fn i1_b1_read_errors_are_never_blank() {
    if !inside("i1_b1_read_errors_are_never_blank") {
        return;
    }
    let disk = Loop::new(320 * MIB);
    // The file under the device ends early: reads beyond give EIO.
    disk.file.as_file().set_len(200 * MIB).unwrap();
    let error = probe::probe(&disk.device, &disk.volume).unwrap_err();
    assert!(matches!(error, ProbeError::Read(_)), "{error}");
    for fs in ALL {
        let error = disk.make(fs).unwrap_err();
        assert!(
            matches!(error, FormatError::Probe(ProbeError::Read(_))),
            "{fs:?}: {error}"
        );
    }
    assert_eq!(
        disk.file.as_file().metadata().unwrap().blocks(),
        0,
        "nothing was written"
    );
}

#[test]
fn a_missing_second_opinion_is_an_error() {
    if !inside("a_missing_second_opinion_is_an_error") {
        return;
    }
    let disk = Loop::new(96 * MIB);
    let none = Tools::at("/nonexistent");
    let error = probe::probe_with(&none, &disk.device, &disk.volume).unwrap_err();
    assert!(error.to_string().contains("blkid is not installed"), "{error}");
    // Exit code 4 is a usage or other error; 2 is "nothing"; a signal is no answer.
    for (script, what) in [("exit 4", "exit code 4"), ("kill -9 $$", "signal")] {
        let tools = script_tools("blkid", script);
        let error = probe::probe_with(&tools.1, &disk.device, &disk.volume).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    for (script, blank) in [
        ("exit 2", true),
        ("exit 8", false),
        ("echo TYPE=zfs_member", false),
        ("echo PTTYPE=dos", false),
    ] {
        let tools = script_tools("blkid", script);
        let found = probe::probe_with(&tools.1, &disk.device, &disk.volume).unwrap();
        assert_eq!(found == Found::Blank, blank, "{script}: {found:?}");
    }
    let plan = disk.plan(FsType::Ext4);
    assert!(matches!(format::make_with(&none, &plan), Err(FormatError::Tool(..))));
    assert_eq!(disk.probe(), Found::Blank, "nothing was written without mkfs at hand");
}

/// Tools with one replaced by a script.
fn script_tools(program: &str, script: &str) -> (tempfile::TempDir, Tools) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join(program);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let tools = Tools::at(format!("{}:{SBIN}", folder.path().display()));
    (folder, tools)
}

/// mkfs is killed at its first write, its second and so on; whatever it left, it is known as ours and done again.
fn killed_at_every_write(fs: FsType, stride: usize) {
    let mut at = 1;
    loop {
        let disk = Loop::new(size_of(fs));
        let program = format!("mkfs.{}", fs.as_str());
        let (_folder, tools) = script_tools(
            &program,
            &format!(
                "exec strace -f -o /dev/null -e trace=pwrite64,fallocate -e inject=pwrite64:signal=KILL:when={at} /sbin/{program} \"$@\""
            ),
        );
        match format::make_with(&tools, &disk.plan(fs)) {
            Ok(_) => {
                assert!(at > 10, "{fs:?} ended at write {at} already: nothing was killed");
                return;
            }
            Err(FormatError::Failed { how, .. }) if how.contains("signal") || how.contains("137") => {}
            Err(e) => panic!("{fs:?}, killed at write {at}: {e}"),
        }
        assert_eq!(disk.probe(), Found::OurUnfinished(fs), "{fs:?}, killed at write {at}");
        let stranger = probe::probe(&disk.device, &uuid()).unwrap();
        assert!(
            matches!(stranger, Found::Foreign(_) | Found::Filesystem(_)),
            "{fs:?} at {at}: {stranger:?}"
        );
        let other = if fs == FsType::Btrfs {
            FsType::Ext4
        } else {
            FsType::Btrfs
        };
        assert!(
            matches!(disk.make(other), Err(FormatError::NotBlank { .. })),
            "another kind over it"
        );
        disk.make(fs)
            .unwrap_or_else(|e| panic!("{fs:?}, again after a kill at write {at}: {e}"));
        assert!(
            matches!(disk.probe(), Found::Filesystem(_)),
            "{fs:?}, killed at write {at}"
        );
        assert_eq!(check::check(&disk.device, fs, LIMIT).unwrap(), Verdict::Good);
        at += stride;
    }
}

#[test]
fn i2_an_unfinished_mkfs_is_done_again_ext4() {
    if inside("i2_an_unfinished_mkfs_is_done_again_ext4") {
        killed_at_every_write(FsType::Ext4, 3);
    }
}

#[test]
fn i2_an_unfinished_mkfs_is_done_again_xfs() {
    if inside("i2_an_unfinished_mkfs_is_done_again_xfs") {
        killed_at_every_write(FsType::Xfs, 3);
    }
}

#[test]
fn i2_an_unfinished_mkfs_is_done_again_btrfs() {
    if inside("i2_an_unfinished_mkfs_is_done_again_btrfs") {
        killed_at_every_write(FsType::Btrfs, 3);
    }
}

#[test]
fn i2_a_lost_superblock_is_not_an_unfinished_mkfs() {
    if !inside("i2_a_lost_superblock_is_not_an_unfinished_mkfs") {
        return;
    }
    for fs in ALL {
        let disk = Loop::new(size_of(fs));
        disk.make(fs).unwrap();
        let at = if fs == FsType::Btrfs { 64 << 10 } else { 0 };
        disk.write(at, &[0; 4096]);
        let found = disk.probe();
        assert!(matches!(found, Found::Foreign(_)), "{fs:?}: {found:?}");
        assert!(matches!(disk.make(fs), Err(FormatError::NotBlank { .. })), "{fs:?}");
    }
}

#[test]
fn i5_a_disk_is_held_open_while_programs_write_to_it() {
    if !inside("i5_a_disk_is_held_open_while_programs_write_to_it") {
        return;
    }
    // An open device keeps its name and number; the program's own handle comes too late for that.
    let disk = Loop::new(96 * MIB);
    let held = |program: &str| {
        format!(
            "ls -l /proc/$PPID/fd | grep -q ' {}$' || exit 9; exec /sbin/{program} \"$@\"",
            disk.name()
        )
    };
    let (_mkfs, tools) = script_tools("mkfs.ext4", &held("mkfs.ext4"));
    format::make_with(&tools, &disk.plan(FsType::Ext4)).unwrap();
    let (_e2fsck, tools) = script_tools("e2fsck", &held("e2fsck"));
    let verdict = check::check_with(&tools, &disk.device, FsType::Ext4, LIMIT).unwrap();
    assert_eq!(verdict, Verdict::Good);
}

#[test]
fn i17_a_slow_mkfs_is_neither_success_nor_failure() {
    if !inside("i17_a_slow_mkfs_is_neither_success_nor_failure") {
        return;
    }
    let disk = Loop::new(96 * MIB);
    let (folder, tools) = script_tools(
        "mkfs.ext4",
        "while [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.02; done; exec /sbin/mkfs.ext4 \"$@\"",
    );
    let plan = Plan {
        limit: Duration::from_millis(200),
        ..disk.plan(FsType::Ext4)
    };
    let error = format::make_with(&tools, &plan).unwrap_err();
    assert!(matches!(error, FormatError::Unknown(..)), "{error}");
    // While it is at work nobody says what is on the disk, and no second one starts.
    let error = format::make_with(&tools, &plan).unwrap_err();
    assert!(
        matches!(error, FormatError::Probe(ProbeError::AtWork { .. })),
        "{error}"
    );
    std::fs::write(folder.path().join("go"), "").unwrap();
    let found = loop {
        match probe::probe(&disk.device, &disk.volume) {
            Err(ProbeError::AtWork { .. }) => std::thread::sleep(Duration::from_millis(10)),
            other => break other.unwrap(),
        }
    };
    let Found::Filesystem(made) = found else {
        panic!("it has ended well, and is not made again: {found:?}")
    };
    assert_eq!((made.fs, &made.uuid), (FsType::Ext4, &disk.volume));
    let error = format::make_with(&tools, &plan).unwrap_err();
    assert!(matches!(error, FormatError::NotBlank { .. }), "{error}");
    assert_eq!(check::check(&disk.device, FsType::Ext4, LIMIT).unwrap(), Verdict::Good);
}

#[test]
fn i2_a_slow_mkfs_that_fails_at_last_is_done_again() {
    if !inside("i2_a_slow_mkfs_that_fails_at_last_is_done_again") {
        return;
    }
    let disk = Loop::new(96 * MIB);
    let (folder, tools) = script_tools(
        "mkfs.ext4",
        "while [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.02; done; /sbin/mkfs.ext4 \"$@\"; exit 1",
    );
    let plan = Plan {
        limit: Duration::from_millis(200),
        ..disk.plan(FsType::Ext4)
    };
    let error = format::make_with(&tools, &plan).unwrap_err();
    assert!(matches!(error, FormatError::Unknown(..)), "{error}");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let found = loop {
        match probe::probe(&disk.device, &disk.volume) {
            Err(ProbeError::AtWork { .. }) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    assert_eq!(found, Found::OurUnfinished(FsType::Ext4));
    disk.make(FsType::Ext4).unwrap();
}

#[test]
fn small_disks_are_refused_with_the_reason_and_others_work() {
    if !inside("small_disks_are_refused_with_the_reason_and_others_work") {
        return;
    }
    let disk = Loop::new(299 * MIB);
    let error = disk.make(FsType::Xfs).unwrap_err();
    assert!(error.to_string().contains("300 MiB"), "{error}");
    assert_eq!(disk.probe(), Found::Blank);
    Loop::new(300 * MIB).make(FsType::Xfs).unwrap();
    for size in [MIB, 5 * MIB, 63 * MIB, 4096 * 1000 + 512] {
        let disk = Loop::new(size);
        disk.make(FsType::Ext4).unwrap_or_else(|e| panic!("{size}: {e}"));
    }
    let tiny = Loop::new(MIB);
    let error = tiny.make(FsType::Btrfs).unwrap_err();
    assert!(
        matches!(error, FormatError::Failed { .. }),
        "mkfs has the word: {error}"
    );
    // What a file namespace of the appliance looks like.
    let disk = Loop::with(96 * MIB, &["--sector-size", "4096"]);
    disk.make(FsType::Ext4).unwrap();
}

#[test]
fn options_reach_mkfs() {
    if !inside("options_reach_mkfs") {
        return;
    }
    let disk = Loop::new(96 * MIB);
    let options = ["-b", "1024", "-E", "stride=16", "-L", "data"].map(str::to_owned);
    let plan = Plan {
        options: &options,
        ..disk.plan(FsType::Ext4)
    };
    format::make(&plan).unwrap();
    let about = run("dumpe2fs", &["-h", disk.name()]);
    for line in ["data", "Block size:               1024", "RAID stride:              16"] {
        assert!(about.contains(line), "{line}: {about}");
    }
    let bad = ["-F".to_owned()];
    let plan = Plan {
        options: &bad,
        ..disk.plan(FsType::Ext4)
    };
    assert!(matches!(format::make(&plan), Err(FormatError::Option(_))));
}

#[test]
fn a_disk_of_one_tebibyte_takes_seconds() {
    if !inside("a_disk_of_one_tebibyte_takes_seconds") {
        return;
    }
    for fs in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
        let disk = Loop::new(1 << 40);
        let begin = Instant::now();
        disk.make(fs).unwrap();
        let took = begin.elapsed();
        let written = disk.file.as_file().metadata().unwrap().blocks() * 512;
        eprintln!("{}: {took:?}, {} MiB of the thin file", fs.as_str(), written / MIB);
        assert!(took < Duration::from_secs(30), "{fs:?}: {took:?}");
        assert!(written < 1024 * MIB, "{fs:?}: {written}");
    }
}

#[test]
fn a_mounted_disk_is_not_touched() {
    if !inside("a_mounted_disk_is_not_touched") {
        return;
    }
    let disk = Loop::new(96 * MIB);
    disk.make(FsType::Ext4).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    run("mount", &[disk.name(), folder.path().to_str().unwrap()]);
    let error = disk.make(FsType::Ext4).unwrap_err();
    assert!(matches!(error, FormatError::Busy(_)), "{error}");
    let verdict = check::check(&disk.device, FsType::Ext4, LIMIT).unwrap();
    assert!(
        matches!(verdict, Verdict::Running(_)),
        "b7: e2fsck on a mounted disk: {verdict:?}"
    );
    assert!(probe::probe(Path::new("/dev/null"), &disk.volume).is_err());
    run("umount", &[folder.path().to_str().unwrap()]);
}
