//! Mounts on real loop devices: see `loops`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod loops;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use loops::{ALL, LIMIT, Loop, Staged, inside, kubelet, live, run, size_of};
use rds_node_agent::filesystem::{FsType, disk};
use rds_node_agent::mount::options::Options;
use rds_node_agent::mount::{Access, Done, MountError, Mounts, Outcome, STORM, UnmountError, set_read_only};

#[test]
fn i12_stage_and_publish_add_nothing_twice() {
    if !inside("i12_stage_and_publish_add_nothing_twice") {
        return;
    }
    for fs in ALL {
        let volume = Staged::new(fs);
        assert_eq!(volume.mount(Access::ReadWrite).unwrap(), Done::Already, "{fs:?}");
        std::fs::write(volume.stage.join("data"), "one").unwrap();
        assert_eq!(volume.bind(Access::ReadWrite).unwrap(), Done::Now);
        assert_eq!(volume.bind(Access::ReadWrite).unwrap(), Done::Already);
        assert_eq!(std::fs::read_to_string(volume.publish.join("data")).unwrap(), "one");
        assert_eq!(volume.count(), 2, "{fs:?}");
        let there = volume.mounts.mounted(&volume.publish).unwrap().unwrap();
        assert!(
            there.is_on(std::fs::metadata(&volume.disk.device).unwrap().rdev()),
            "{there:?}"
        );

        // Unstage before unpublish: the stage goes, the disk is not free, and that is said, again and again.
        for _ in 0..2 {
            let error = volume.unstage().unwrap_err();
            assert!(matches!(error, UnmountError::StillHeld(..)), "{fs:?}: {error}");
        }
        assert_eq!(volume.mounts.unmount(&volume.publish, LIMIT).unwrap(), Outcome::Clean);
        assert!(!volume.publish.exists());
        assert_eq!(
            volume.mounts.unmount(&volume.publish, LIMIT).unwrap(),
            Outcome::NotMounted
        );
        assert_eq!(volume.unstage().unwrap(), Outcome::NotMounted);
        volume.mounts.remove_folder(&volume.stage).unwrap();
        volume.mounts.remove_folder(&volume.stage).unwrap();

        assert_eq!(volume.mount(Access::ReadWrite).unwrap(), Done::Now);
        assert_eq!(std::fs::read_to_string(volume.stage.join("data")).unwrap(), "one");
        assert_eq!(volume.unstage().unwrap(), Outcome::Clean, "{fs:?}");
        assert!(disk::is_free(&volume.disk.device).unwrap());
        assert_eq!(volume.count(), 0);
    }
}

#[test]
fn b7_something_else_at_a_target_is_named() {
    if !inside("b7_something_else_at_a_target_is_named") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    let other = Loop::new(size_of(FsType::Ext4));
    other.make(FsType::Ext4).unwrap();
    let error = volume
        .mounts
        .mount_device(&other.device, &volume.stage, FsType::Ext4, Access::ReadWrite, &[])
        .unwrap_err();
    assert!(matches!(error, MountError::Occupied { .. }), "{error}");
    assert!(error.to_string().contains(volume.disk.name()), "{error}");
    let error = volume.mount(Access::ReadOnly).unwrap_err();
    assert!(
        matches!(error, MountError::Occupied { .. }),
        "the same one in another mode: {error}"
    );
    assert_eq!(volume.count(), 1);
    // Unstage of another volume leaves it alone (B67).
    let error = volume
        .mounts
        .syncfs_then_unmount(&loops::unstage(&volume.stage, &other, &live))
        .unwrap_err();
    assert!(matches!(error, UnmountError::Foreign { .. }), "{error}");
    assert_eq!(volume.count(), 1);
    // The same at a publish target, and a source that is not staged.
    std::fs::create_dir_all(&volume.publish).unwrap();
    run("mount", &[other.name(), volume.publish.to_str().unwrap()]);
    assert!(matches!(
        volume.bind(Access::ReadWrite),
        Err(MountError::Occupied { .. })
    ));
    let nothing = volume.stage.with_file_name("nothing");
    let error = volume
        .mounts
        .bind(&nothing, &volume.publish, Access::ReadWrite, &Options::default())
        .unwrap_err();
    assert!(matches!(error, MountError::NotStaged(_)), "{error}");
}

#[test]
fn read_only_publish_refuses_writes_and_leaves_the_stage_writable() {
    if !inside("read_only_publish_refuses_writes_and_leaves_the_stage_writable") {
        return;
    }
    for fs in ALL {
        let volume = Staged::new(fs);
        // A call that ended after its bind: finished, not stacked.
        std::fs::create_dir_all(&volume.publish).unwrap();
        run(
            "mount",
            &[
                "--bind",
                volume.stage.to_str().unwrap(),
                volume.publish.to_str().unwrap(),
            ],
        );
        assert_eq!(volume.bind(Access::ReadOnly).unwrap(), Done::Now);
        assert_eq!(volume.bind(Access::ReadOnly).unwrap(), Done::Already);
        let error = std::fs::write(volume.publish.join("x"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        std::fs::write(volume.stage.join("x"), "").unwrap();
        assert!(
            matches!(volume.bind(Access::ReadWrite), Err(MountError::Occupied { .. })),
            "never widened"
        );
        assert_eq!(volume.count(), 2);
        volume.mounts.unmount(&volume.publish, LIMIT).unwrap();
        let options = Options::parse(fs, &["noexec,nosuid".to_owned()]).unwrap();
        volume
            .mounts
            .bind(&volume.stage, &volume.publish, Access::ReadWrite, &options)
            .unwrap();
        let there = volume.mounts.mounted(&volume.publish).unwrap().unwrap();
        assert!(
            there.options.contains("noexec") && there.options.contains("nosuid"),
            "{there:?}"
        );
        assert!(
            there.options.contains("noatime"),
            "{there:?}: that of the stage is kept"
        );
        volume.mounts.unmount(&volume.publish, LIMIT).unwrap();
        volume.unstage().unwrap();

        // A stage that its options make read-only and noexec: every publish of it is, each time, and in both ways.
        let options = ["ro,noexec".to_owned()];
        let mounts = &volume.mounts;
        mounts
            .mount_device(&volume.disk.device, &volume.stage, fs, Access::ReadWrite, &options)
            .unwrap();
        for access in [Access::ReadWrite, Access::ReadOnly] {
            assert_eq!(volume.bind(access).unwrap(), Done::Now, "{fs:?}");
            assert_eq!(volume.bind(access).unwrap(), Done::Already, "{fs:?}");
            let there = mounts.mounted(&volume.publish).unwrap().unwrap();
            assert!(there.read_only() && there.options.contains("noexec"), "{there:?}");
            mounts.unmount(&volume.publish, LIMIT).unwrap();
        }
        assert!(!mounts.is_stale(&mounts.mounted(&volume.stage).unwrap().unwrap()));
        volume.unstage().unwrap();
    }
}

#[test]
fn i3_read_only_devices_are_mounted_without_a_write() {
    if !inside("i3_read_only_devices_are_mounted_without_a_write") {
        return;
    }
    for fs in ALL {
        let volume = Staged::new(fs);
        std::fs::write(volume.stage.join("data"), "one").unwrap();
        volume.unstage().unwrap();
        set_read_only(&volume.disk.device, Access::ReadOnly).unwrap();
        assert_eq!(volume.mount(Access::ReadOnly).unwrap(), Done::Now, "{fs:?}");
        assert_eq!(volume.mount(Access::ReadOnly).unwrap(), Done::Already, "{fs:?}");
        assert_eq!(std::fs::read_to_string(volume.stage.join("data")).unwrap(), "one");
        assert!(std::fs::write(volume.stage.join("x"), "").is_err());
        assert_eq!(volume.unstage().unwrap(), Outcome::Clean);
        set_read_only(&volume.disk.device, Access::ReadWrite).unwrap();
    }
}

#[test]
fn a_filesystem_that_was_shut_down_refuses_writes() {
    if !inside("a_filesystem_that_was_shut_down_refuses_writes") {
        return;
    }
    for fs in ALL {
        let volume = Staged::new(fs);
        assert_eq!(
            volume.mounts.refuses_writes(&volume.stage, LIMIT).unwrap(),
            None,
            "{fs:?}"
        );
        if fs == FsType::Btrfs {
            // It shows `ro` after an error, and has no such call.
            continue;
        }
        run("xfs_io", &["-x", "-c", "shutdown", volume.stage.to_str().unwrap()]);
        let refused = volume.mounts.refuses_writes(&volume.stage, LIMIT).unwrap();
        assert!(refused.is_some(), "{fs:?}");
        run("umount", &[volume.stage.to_str().unwrap()]);
    }
}

#[test]
fn r46_b63_the_hundredth_mount_is_the_last() {
    if !inside("r46_b63_the_hundredth_mount_is_the_last") {
        return;
    }
    for fs in [FsType::Ext4, FsType::Btrfs] {
        let volume = Staged::new(fs);
        let target = |n: usize| volume.publish.with_file_name(format!("mount{n}"));
        let bind = |n| {
            volume
                .mounts
                .bind(&volume.stage, &target(n), Access::ReadWrite, &Options::default())
        };
        for n in 1..STORM {
            bind(n).unwrap();
        }
        let error = bind(STORM).unwrap_err();
        assert!(
            matches!(error, MountError::Storm { count: STORM, .. }),
            "{fs:?}: {error}"
        );
        assert!(!target(STORM).exists(), "not even a folder");
        assert_eq!(bind(1).unwrap(), Done::Already, "what is there stays");
        for n in 1..STORM {
            volume.mounts.unmount(&target(n), LIMIT).unwrap();
        }
        bind(STORM).unwrap();
        volume.mounts.unmount(&target(STORM), LIMIT).unwrap();
        volume.unstage().unwrap();
    }
}

#[test]
fn b62_b9_r73_block_volumes_are_nodes_with_the_right_number() {
    if !inside("b62_b9_r73_block_volumes_are_nodes_with_the_right_number") {
        return;
    }
    let (one, two) = (Loop::new(1 << 20), Loop::new(1 << 20));
    let (folder, mounts) = kubelet();
    let target = folder.path().join("volumeDevices/publish/pvc/pod");
    let publish = |disk: &Loop, access| mounts.bind_block(&disk.device, &target, access);
    assert_eq!(publish(&one, Access::ReadWrite).unwrap(), Done::Now);
    assert_eq!(publish(&one, Access::ReadWrite).unwrap(), Done::Already);
    let about = std::fs::metadata(&target).unwrap();
    assert!(about.file_type().is_block_device());
    assert_eq!(about.rdev(), std::fs::metadata(&one.device).unwrap().rdev());
    assert_eq!(about.mode() & 0o777, 0o660);
    assert_eq!(mounts.block_at(&target).unwrap(), Some(about.rdev()));
    assert!(mounts.mounted(&target).unwrap().is_none(), "no mount");
    let error = publish(&two, Access::ReadWrite).unwrap_err();
    assert!(matches!(error, MountError::Occupied { .. }), "{error}");
    assert_eq!(publish(&one, Access::ReadOnly).unwrap(), Done::Already);
    assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o777, 0o440);
    // A loop device, as kubelet makes one for every block volume, works on the node.
    let over = run(
        "losetup",
        &["--find", "--show", "--read-only", target.to_str().unwrap()],
    );
    run("losetup", &["--detach", &over]);
    assert_eq!(mounts.unmount(&target, LIMIT).unwrap(), Outcome::NotMounted);
    assert!(!target.exists());
    // R47: a file that an earlier driver left is replaced when it is empty, a folder or data never.
    std::fs::write(&target, "").unwrap();
    assert_eq!(publish(&two, Access::ReadWrite).unwrap(), Done::Now);
    mounts.unmount(&target, LIMIT).unwrap();
    std::fs::write(&target, "data").unwrap();
    assert!(matches!(
        publish(&one, Access::ReadWrite),
        Err(MountError::InTheWay { .. })
    ));
    assert!(matches!(mounts.unmount(&target, LIMIT), Err(UnmountError::Left(..))));
    assert_eq!(std::fs::read(&target).unwrap(), b"data");
    std::fs::remove_file(&target).unwrap();
    std::fs::create_dir(&target).unwrap();
    assert!(matches!(
        publish(&one, Access::ReadWrite),
        Err(MountError::InTheWay { .. })
    ));
    assert!(matches!(
        mounts.bind_block(Path::new("/dev/null"), &target, Access::ReadWrite),
        Err(MountError::Device(..))
    ));
}

#[test]
fn no_node_is_left_where_nodes_do_not_work() {
    if !inside("no_node_is_left_where_nodes_do_not_work") {
        return;
    }
    let disk = Loop::new(1 << 20);
    let (folder, mounts) = kubelet();
    let publish = folder.path().join("publish");
    std::fs::create_dir(&publish).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "nodev", "none", publish.to_str().unwrap()],
    );
    let target = publish.join("pod");
    let bind = || mounts.bind_block(&disk.device, &target, Access::ReadWrite);
    for _ in 0..2 {
        let error = bind().unwrap_err();
        assert!(matches!(error, MountError::NoDev(_)), "{error}");
        assert!(!target.exists(), "it would count as a use");
    }
    run("mount", &["-o", "remount,dev", publish.to_str().unwrap()]);
    assert_eq!(bind().unwrap(), Done::Now);
    run("mount", &["-o", "remount,nodev", publish.to_str().unwrap()]);
    let error = bind().unwrap_err();
    assert!(
        matches!(error, MountError::NoDev(_)),
        "it is there, and of no use: {error}"
    );
    assert_eq!(mounts.unmount(&target, LIMIT).unwrap(), Outcome::NotMounted);
    run("umount", &[publish.to_str().unwrap()]);
}

#[test]
fn targets_outside_of_kubelets_folder_are_refused() {
    if !inside("targets_outside_of_kubelets_folder_are_refused") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let base = volume.stage.parent().unwrap().parent().unwrap();
    std::os::unix::fs::symlink(outside.path(), base.join("link")).unwrap();
    for target in [
        outside.path().join("x"),
        base.join("../x"),
        base.join("link/x"),
        base.join("link"),
        base.to_owned(),
    ] {
        let binds = volume
            .mounts
            .bind(&volume.stage, &target, Access::ReadWrite, &Options::default());
        assert!(
            matches!(binds, Err(MountError::Place(_) | MountError::InTheWay { .. })),
            "{target:?}: {binds:?}"
        );
        let block = volume
            .mounts
            .bind_block(&volume.disk.device, &target, Access::ReadWrite);
        assert!(
            matches!(block, Err(MountError::Place(_) | MountError::InTheWay { .. })),
            "{target:?}: {block:?}"
        );
        assert!(volume.mounts.unmount(&target, LIMIT).is_err(), "{target:?}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(base.join("link").is_symlink());
    volume.unstage().unwrap();
}

#[test]
fn b64_what_cannot_be_mounted_is_an_error_with_the_reason() {
    if !inside("b64_what_cannot_be_mounted_is_an_error_with_the_reason") {
        return;
    }
    let blank = Loop::new(size_of(FsType::Ext4));
    let (folder, mounts) = kubelet();
    let stage = folder.path().join("stage");
    let mount =
        |options: &[String]| mounts.mount_device(&blank.device, &stage, FsType::Ext4, Access::ReadWrite, options);
    let error = mount(&[]).unwrap_err();
    assert!(matches!(error, MountError::Kernel { .. }), "{error}");
    assert!(error.to_string().contains(blank.name()), "{error}");
    assert!(matches!(mount(&["noload".to_owned()]), Err(MountError::Option(_))));
    // B64: without the mount table nothing is mounted.
    let blind = Mounts::new("/nonexistent", folder.path());
    let blind = blind.mount_device(&blank.device, &stage, FsType::Ext4, Access::ReadWrite, &[]);
    assert!(matches!(blind, Err(MountError::Table(_))), "{blind:?}");
    std::fs::remove_dir(&stage).unwrap();
    std::fs::write(&stage, "").unwrap();
    assert!(
        matches!(mount(&[]), Err(MountError::InTheWay { .. })),
        "r47: a file stays a file"
    );
    assert!(stage.is_file());
}
