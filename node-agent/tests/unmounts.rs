//! Taking mounts away, on real loop devices: see `loops`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod loops;

use std::cell::Cell;

use loops::{LIMIT, Staged, inside, live, run, unstage};
use rds_node_agent::filesystem::FsType;
use rds_node_agent::mount::{Access, Disk, Done, Mounts, Outcome, Unmount, UnmountError};

#[test]
fn b5_no_tree_is_ever_removed() {
    if !inside("b5_no_tree_is_ever_removed") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    volume.bind(Access::ReadWrite).unwrap();
    volume.unstage().unwrap_err();
    volume.mounts.unmount(&volume.publish, LIMIT).unwrap();
    // Data that somebody wrote beneath the mount points.
    for path in [&volume.publish, &volume.stage] {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("precious"), "data").unwrap();
    }
    let error = volume.mounts.unmount(&volume.publish, LIMIT).unwrap_err();
    assert!(matches!(error, UnmountError::Left(..)), "{error}");
    let error = volume.mounts.remove_folder(&volume.stage).unwrap_err();
    assert!(matches!(error, UnmountError::Left(..)), "{error}");
    for path in [&volume.publish, &volume.stage] {
        assert_eq!(std::fs::read(path.join("precious")).unwrap(), b"data");
    }
    // A mounted folder is not removed, nor is what it holds.
    volume.mount(Access::ReadWrite).unwrap();
    assert!(matches!(
        volume.mounts.remove_folder(&volume.stage),
        Err(UnmountError::Foreign { .. })
    ));
    volume.unstage().unwrap();
}

#[test]
fn i7_open_files_keep_a_stage() {
    if !inside("i7_open_files_keep_a_stage") {
        return;
    }
    let volume = Staged::new(FsType::Xfs);
    let open = std::fs::File::create(volume.stage.join("open")).unwrap();
    let error = volume.unstage().unwrap_err();
    assert!(matches!(error, UnmountError::Busy(_)), "{error}");
    assert_eq!(volume.count(), 1);
    drop(open);
    assert_eq!(volume.unstage().unwrap(), Outcome::Clean);
}

#[test]
fn i7_nothing_is_synced_or_unmounted_while_the_disk_is_not_live() {
    if !inside("i7_nothing_is_synced_or_unmounted_while_the_disk_is_not_live") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    let connecting = || Disk::NotLive("connecting".to_owned());
    let error = volume
        .mounts
        .syncfs_then_unmount(&unstage(&volume.stage, &volume.disk, &connecting))
        .unwrap_err();
    assert!(matches!(error, UnmountError::NotLive(..)), "{error}");
    assert_eq!(volume.count(), 1);
    // The link goes during the sync.
    let asked = Cell::new(0);
    let lost_meanwhile = || {
        asked.set(asked.get() + 1);
        if asked.get() == 1 { Disk::Live } else { connecting() }
    };
    let error = volume
        .mounts
        .syncfs_then_unmount(&unstage(&volume.stage, &volume.disk, &lost_meanwhile))
        .unwrap_err();
    assert!(matches!(error, UnmountError::NotLive(..)), "{error}");
    assert_eq!(volume.count(), 1);
    volume.unstage().unwrap();
}

#[test]
fn i7_a_loss_shows_while_it_is_still_mounted() {
    if !inside("i7_a_loss_shows_while_it_is_still_mounted") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    std::fs::write(volume.stage.join("data"), "data").unwrap();
    let write_out = |state: &dyn Fn() -> Disk| volume.mounts.write_out(&unstage(&volume.stage, &volume.disk, state));
    assert_eq!(write_out(&live).unwrap(), None);
    let lost = write_out(&|| Disk::Gone).unwrap().unwrap();
    assert!(lost.contains("went away"), "{lost}");
    let error = write_out(&|| Disk::NotLive("connecting".to_owned())).unwrap_err();
    assert!(matches!(error, UnmountError::NotLive(..)), "{error}");
    assert_eq!(volume.count(), 1);
    assert_eq!(volume.unstage().unwrap(), Outcome::Clean);
    assert_eq!(write_out(&live).unwrap(), None, "nothing is mounted");
}

#[test]
fn i7_a_disk_that_went_is_possible_data_loss_never_success() {
    if !inside("i7_a_disk_that_went_is_possible_data_loss_never_success") {
        return;
    }
    // It goes: before the sync, during it, during the umount.
    for live_answers in 0..3 {
        let volume = Staged::new(FsType::Ext4);
        let asked = Cell::new(0);
        let state = || {
            asked.set(asked.get() + 1);
            if asked.get() <= live_answers {
                Disk::Live
            } else {
                Disk::Gone
            }
        };
        let outcome = volume
            .mounts
            .syncfs_then_unmount(&unstage(&volume.stage, &volume.disk, &state))
            .unwrap();
        assert!(
            matches!(outcome, Outcome::PossibleDataLoss(_)),
            "{live_answers}: {outcome:?}"
        );
        assert_eq!(volume.count(), 0);
    }
    // The kernel has no such disk any more (a host whose /sys does not list it): a stale mount, in use even.
    let volume = Staged::new(FsType::Ext4);
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("sys/dev/block")).unwrap();
    std::os::unix::fs::symlink("/proc", host.path().join("proc")).unwrap();
    let blind = Mounts::new(host.path(), volume.folder.path());
    let open = std::fs::File::create(volume.stage.join("open")).unwrap();
    let what = Unmount {
        device: None,
        ..unstage(&volume.stage, &volume.disk, &live)
    };
    assert!(blind.is_stale(&blind.mounted(&volume.stage).unwrap().unwrap()), "b76");
    let outcome = blind.syncfs_then_unmount(&what).unwrap();
    assert!(matches!(outcome, Outcome::PossibleDataLoss(_)), "{outcome:?}");
    assert_eq!(volume.count(), 0);
    assert_eq!(blind.syncfs_then_unmount(&what).unwrap(), Outcome::NotMounted);
    drop(open);
}

#[test]
fn stacked_mounts_of_an_earlier_driver_all_go() {
    if !inside("stacked_mounts_of_an_earlier_driver_all_go") {
        return;
    }
    let volume = Staged::new(FsType::Ext4);
    for _ in 0..3 {
        let stage = volume.stage.to_str().unwrap();
        run("mount", &["--bind", stage, stage]);
    }
    assert_eq!(volume.count(), 4);
    assert_eq!(volume.mount(Access::ReadWrite).unwrap(), Done::Already);
    assert_eq!(volume.unstage().unwrap(), Outcome::Clean);
    assert_eq!(volume.count(), 0);
}
