//! Checks, growth and measures of filesystems on real loop devices: see `loops`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod loops;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use loops::{ALL, LIMIT, Loop, MIB, inside, kubelet, run, size_of};
use rds_node_agent::filesystem::check::{self, Journal, Verdict};
use rds_node_agent::filesystem::child::Tools;
use rds_node_agent::filesystem::probe::Found;
use rds_node_agent::filesystem::{FsType, grow, stats};
use rds_node_agent::mount::{Access, Disk, Mounts, Outcome, Unmount, set_read_only};

fn mounted(disk: &Loop, fs: FsType) -> (tempfile::TempDir, Mounts, PathBuf) {
    let (folder, mounts) = kubelet();
    let stage = folder.path().join("stage");
    mounts
        .mount_device(&disk.device, &stage, fs, Access::ReadWrite, &[])
        .unwrap();
    (folder, mounts, stage)
}

fn unmount(mounts: &Mounts, disk: &Loop, stage: &Path) {
    let live = || Disk::Live;
    let what = Unmount {
        target: stage,
        device: Some(&disk.device),
        disk: &live,
        limit: LIMIT,
    };
    assert_eq!(mounts.syncfs_then_unmount(&what).unwrap(), Outcome::Clean);
}

fn script_tools(program: &str, script: &str) -> (tempfile::TempDir, Tools) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join(program);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let tools = Tools::at(folder.path().as_os_str());
    (folder, tools)
}

/// A disk as a node leaves it that loses power under a mounted filesystem: with a journal to replay.
fn dirty(fs: FsType) -> Loop {
    let disk = Loop::new(size_of(fs));
    disk.make(fs).unwrap();
    let (_folder, mounts, stage) = mounted(&disk, fs);
    std::fs::write(stage.join("before"), "one").unwrap();
    for n in 0..20 {
        std::fs::create_dir(stage.join(format!("folder{n}"))).unwrap();
    }
    // fsync commits the journal; the metadata itself is written later.
    std::fs::File::open(stage.join("before")).unwrap().sync_all().unwrap();
    let mut copy = Loop::new(size_of(fs));
    std::fs::copy(disk.file.path(), copy.file.path()).unwrap();
    copy.volume.clone_from(&disk.volume);
    unmount(&mounts, &disk, &stage);
    copy
}

#[test]
fn b71_a_journal_to_replay_is_not_damage() {
    if !inside("b71_a_journal_to_replay_is_not_damage") {
        return;
    }
    for fs in [FsType::Ext4, FsType::Ext3, FsType::Xfs] {
        let disk = dirty(fs);
        assert_eq!(check::journal(&disk.device, fs, LIMIT), Journal::Dirty, "{fs:?}");
        assert!(
            matches!(disk.probe(), Found::Filesystem(_)),
            "{fs:?}: {:?}",
            disk.probe()
        );
        let verdict = check::check(&disk.device, fs, LIMIT).unwrap();
        assert!(
            matches!(verdict, Verdict::Good | Verdict::Repaired(_)),
            "{fs:?}: {verdict:?}"
        );
        if fs == FsType::Xfs {
            let verdict = check::after_failed_mount(&disk.device, fs, LIMIT);
            assert!(
                matches!(&verdict, Verdict::Skipped(why) if why.contains("dirty")),
                "{verdict:?}"
            );
        }
        let (_folder, mounts, stage) = mounted(&disk, fs);
        assert_eq!(std::fs::read_to_string(stage.join("before")).unwrap(), "one");
        assert!(stage.join("folder19").is_dir());
        unmount(&mounts, &disk, &stage);
        assert_eq!(check::journal(&disk.device, fs, LIMIT), Journal::Clean, "{fs:?}");
    }
    let disk = Loop::new(size_of(FsType::Btrfs));
    disk.make(FsType::Btrfs).unwrap();
    assert_eq!(check::journal(&disk.device, FsType::Btrfs, LIMIT), Journal::Clean);
    let nothing = Loop::new(MIB);
    for fs in ALL {
        let journal = check::journal(&nothing.device, fs, LIMIT);
        assert!(matches!(journal, Journal::Unknown(_)), "{fs:?}: {journal:?}");
    }
}

#[test]
fn i3_a_dirty_journal_is_not_replayed_on_a_read_only_device() {
    if !inside("i3_a_dirty_journal_is_not_replayed_on_a_read_only_device") {
        return;
    }
    for fs in [FsType::Ext4, FsType::Xfs] {
        let disk = dirty(fs);
        set_read_only(&disk.device, Access::ReadOnly).unwrap();
        let (folder, mounts) = kubelet();
        let stage = folder.path().join("stage");
        mounts
            .mount_device(&disk.device, &stage, fs, Access::ReadOnly, &[])
            .unwrap();
        unmount(&mounts, &disk, &stage);
        set_read_only(&disk.device, Access::ReadWrite).unwrap();
        assert_eq!(check::journal(&disk.device, fs, LIMIT), Journal::Dirty, "{fs:?}");
    }
}

#[test]
fn i9_r43_damage_refuses_the_mount_with_the_remedy() {
    if !inside("i9_r43_damage_refuses_the_mount_with_the_remedy") {
        return;
    }
    // ext4: no root folder any more, and a superblock that knows of errors.
    let disk = Loop::new(size_of(FsType::Ext4));
    disk.make(FsType::Ext4).unwrap();
    run("debugfs", &["-w", "-R", "clri <2>", disk.name()]);
    run("debugfs", &["-w", "-R", "ssv state 2", disk.name()]);
    let verdict = check::check(&disk.device, FsType::Ext4, LIMIT).unwrap();
    let Verdict::Damaged(text) = verdict else {
        panic!("{verdict:?}")
    };
    for word in ["e2fsck", "circuit breaker", disk.name()] {
        assert!(text.contains(word), "r75: {text}");
    }
    // With that flag a missing tool is no excuse; without it, it is (R42).
    let none = Tools::at("/nonexistent");
    let verdict = check::check_with(&none, &disk.device, FsType::Ext4, LIMIT).unwrap();
    assert!(
        matches!(&verdict, Verdict::Damaged(text) if text.contains("not installed")),
        "{verdict:?}"
    );
    let good = Loop::new(size_of(FsType::Ext4));
    good.make(FsType::Ext4).unwrap();
    let verdict = check::check_with(&none, &good.device, FsType::Ext4, LIMIT).unwrap();
    assert!(matches!(verdict, Verdict::Skipped(_)), "{verdict:?}");

    // xfs: a broken free space tree of the first group, and a log that is clean.
    let disk = Loop::new(size_of(FsType::Xfs));
    disk.make(FsType::Xfs).unwrap();
    disk.write(4096, &[0xff; 4096]);
    assert_eq!(check::journal(&disk.device, FsType::Xfs, LIMIT), Journal::Clean);
    let verdict = check::after_failed_mount(&disk.device, FsType::Xfs, LIMIT);
    assert!(
        matches!(&verdict, Verdict::Damaged(text) if text.contains("xfs_repair")),
        "{verdict:?}"
    );
    let verdict = check::after_failed_mount_with(&none, &disk.device, FsType::Xfs, LIMIT);
    assert!(matches!(verdict, Verdict::Skipped(_)), "{verdict:?}");
    // And one that a repair was begun on: "needs repair", a feature that the superblock has.
    let disk = Loop::new(size_of(FsType::Xfs));
    disk.make(FsType::Xfs).unwrap();
    assert_eq!(check::check(&disk.device, FsType::Xfs, LIMIT).unwrap(), Verdict::Good);
    let mut incompat = disk.read(216, 4);
    incompat[3] |= 0x10;
    disk.write(216, &incompat);
    let verdict = check::check(&disk.device, FsType::Xfs, LIMIT).unwrap();
    assert!(matches!(verdict, Verdict::Damaged(_)), "{verdict:?}");

    // btrfs: one bit of the superblock.
    let disk = Loop::new(size_of(FsType::Btrfs));
    disk.make(FsType::Btrfs).unwrap();
    assert_eq!(check::check(&disk.device, FsType::Btrfs, LIMIT).unwrap(), Verdict::Good);
    disk.write((64 << 10) + 0x90, &[0xff; 8]);
    let verdict = check::check(&disk.device, FsType::Btrfs, LIMIT).unwrap();
    assert!(
        matches!(&verdict, Verdict::Damaged(text) if text.contains("checksum")),
        "{verdict:?}"
    );
}

#[test]
fn exit_codes_of_e2fsck_and_a_slow_one() {
    if !inside("exit_codes_of_e2fsck_and_a_slow_one") {
        return;
    }
    let disk = Loop::new(size_of(FsType::Ext4));
    disk.make(FsType::Ext4).unwrap();
    let check = |script: &str, limit| {
        let (_folder, tools) = script_tools("e2fsck", script);
        check::check_with(&tools, &disk.device, FsType::Ext4, limit).unwrap()
    };
    assert_eq!(check("exit 0", LIMIT), Verdict::Good);
    assert_eq!(
        check("echo fixed; exit 1", LIMIT),
        Verdict::Repaired("fixed".to_owned())
    );
    for code in [2, 3, 4, 8, 12, 16, 32, 128] {
        let verdict = check(&format!("exit {code}"), LIMIT);
        assert!(
            matches!(&verdict, Verdict::Damaged(text) if text.contains(&format!("exit code {code})"))),
            "{verdict:?}"
        );
    }
    assert!(matches!(check("kill -9 $$", LIMIT), Verdict::Damaged(_)));
    // It writes: it is not stopped, and nothing is mounted meanwhile.
    let go = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let go = go.path().join("go");
    let wait = format!("while [ ! -e {} ]; do /bin/sleep 0.02; done", go.display());
    let verdict = check(&wait, Duration::from_millis(100));
    assert!(matches!(verdict, Verdict::Running(_)), "{verdict:?}");
    let verdict = check("exit 0", LIMIT);
    assert!(
        matches!(verdict, Verdict::Running(_)),
        "no second one beside it: {verdict:?}"
    );
    std::fs::create_dir_all(go.parent().unwrap()).unwrap();
    std::fs::write(&go, "").unwrap();
    while check("exit 0", LIMIT) != Verdict::Good {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel wants CAP_SYS_RESOURCE for it, which a root in a sandbox may not have. A privileged container has it.
fn may_grow_ext() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 24 != 0
}

#[test]
fn i15_a_mounted_filesystem_grows_with_its_disk() {
    if !inside("i15_a_mounted_filesystem_grows_with_its_disk") {
        return;
    }
    for fs in ALL {
        if matches!(fs, FsType::Ext4 | FsType::Ext3) && !may_grow_ext() {
            eprintln!(
                "{}: NOT RUN, this root has no CAP_SYS_RESOURCE; the virtual machines have",
                fs.as_str()
            );
            continue;
        }
        let size = size_of(fs);
        let disk = Loop::new(size);
        disk.make(fs).unwrap();
        let (_folder, mounts, stage) = mounted(&disk, fs);
        std::fs::write(stage.join("data"), "one").unwrap();
        assert!(!grow::needs_grow(fs, &disk.device, &stage).unwrap(), "{fs:?}");
        let same = grow::grow(fs, &disk.device, &stage).unwrap();
        assert_eq!(same.before, same.after, "{fs:?}: nothing to do is success");
        let total = stats::filesystem(&stage).unwrap().bytes_total;

        disk.grow(2 * size);
        assert!(grow::needs_grow(fs, &disk.device, &stage).unwrap(), "{fs:?}");
        let none = grow::grow_with(&Tools::at("/nonexistent"), fs, &disk.device, &stage, LIMIT);
        assert!(none.is_err(), "{fs:?}: b78: a missing tool is said");
        let grown = grow::grow(fs, &disk.device, &stage).unwrap();
        assert_eq!((grown.before, grown.disk), (same.after, 2 * size), "{fs:?}");
        assert!(grown.after + 16 * MIB > 2 * size, "{fs:?}: {grown:?}");
        assert!(!grow::needs_grow(fs, &disk.device, &stage).unwrap(), "{fs:?}");
        assert_eq!(
            grow::grow(fs, &disk.device, &stage).unwrap().after,
            grown.after,
            "{fs:?}: again"
        );
        let usage = stats::filesystem(&stage).unwrap();
        assert!(usage.bytes_total > total + size / 2, "{fs:?}: {usage:?}");
        assert_eq!(usage.inodes_total == 0, fs == FsType::Btrfs, "{fs:?}: {usage:?}");
        assert_eq!(std::fs::read_to_string(stage.join("data")).unwrap(), "one");
        unmount(&mounts, &disk, &stage);
        assert_eq!(check::check(&disk.device, fs, LIMIT).unwrap(), Verdict::Good, "{fs:?}");
        assert!(
            matches!(disk.probe(), Found::Filesystem(s) if s.uuid == disk.volume && s.size == grown.after),
            "{fs:?}"
        );
    }
}

#[test]
fn a_tool_that_only_says_it_grew_is_not_believed() {
    if !inside("a_tool_that_only_says_it_grew_is_not_believed") {
        return;
    }
    let fs = FsType::Ext4;
    let disk = Loop::new(size_of(fs));
    disk.make(fs).unwrap();
    let (_folder, mounts, stage) = mounted(&disk, fs);
    disk.grow(2 * size_of(fs));
    let (_tools, tools) = script_tools("resize2fs", "exit 0");
    let error = grow::grow_with(&tools, fs, &disk.device, &stage, LIMIT).unwrap_err();
    assert!(matches!(error, grow::GrowError::Unverified { .. }), "{error}");
    let (_tools, tools) = script_tools("resize2fs", "echo no space >&2; exit 1");
    let error = grow::grow_with(&tools, fs, &disk.device, &stage, LIMIT).unwrap_err();
    assert!(error.to_string().contains("no space"), "{error}");
    unmount(&mounts, &disk, &stage);
}
