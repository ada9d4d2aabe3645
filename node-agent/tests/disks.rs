//! Filesystems and mounts on real loop devices, in a mount namespace of its own. Needs root, loop devices, and the programs that
//! the agent runs; it fails without them, and says so and passes only when it is not root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rds_node_agent::filesystem::check::{self, Verdict};
use rds_node_agent::filesystem::format::{self, FormatError, Plan};
use rds_node_agent::filesystem::probe::{self, Found};
use rds_node_agent::filesystem::signature::Superblock;
use rds_node_agent::filesystem::{FsType, disk};
use rds_node_agent::mount::options::Options;
use rds_node_agent::mount::{Access, Disk, Done, Mounts, Outcome, Unmount, UnmountError};

const LIMIT: Duration = Duration::from_secs(60);
const ALL: [FsType; 3] = [FsType::Ext4, FsType::Xfs, FsType::Btrfs];
const MIB: u64 = 1 << 20;

/// Runs `scenario` in a mount namespace of its own: this very test again, below `unshare`. True in there.
fn inside(scenario: &str) -> bool {
    if std::env::var_os("RDS_TEST_NAMESPACE").is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("{scenario}: NOT RUN, it needs root (loop devices and mounts)");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([scenario, "--exact", "--nocapture", "--test-threads=1"])
        .env("RDS_TEST_NAMESPACE", "1")
        .output()
        .expect("unshare (util-linux) is needed");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{scenario}:\n{text}");
    assert!(text.contains("1 passed"), "{scenario} did not run:\n{text}");
    false
}

/// A disk: a loop device over a sparse file.
struct Loop {
    _file: tempfile::NamedTempFile,
    device: PathBuf,
    /// UID of its volume; never two alike on a machine, mkfs.btrfs looks for that.
    volume: String,
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

impl Loop {
    fn new(size: u64) -> Self {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.as_file().set_len(size).unwrap();
        // Another process may take the free device that losetup found: it says so, and is asked again.
        let device = (0..50)
            .find_map(|_| {
                let output = Command::new("losetup")
                    .args(["--find", "--show"])
                    .arg(file.path())
                    .output()
                    .expect("losetup is needed");
                output
                    .status
                    .success()
                    .then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
            })
            .expect("a loop device");
        Self {
            _file: file,
            device: device.into(),
            volume: uuid(),
        }
    }

    fn make(&self, fs: FsType) -> Result<Superblock, FormatError> {
        format::make(&self.plan(fs))
    }

    fn plan(&self, fs: FsType) -> Plan<'_> {
        Plan {
            device: &self.device,
            fs,
            volume: &self.volume,
            options: &[],
            limit: LIMIT,
        }
    }

    fn probe(&self) -> Found {
        probe::probe(&self.device, &self.volume).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
    }
}

/// Kubelet's folder, and the mounts below it.
fn kubelet() -> (tempfile::TempDir, Mounts) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mounts = Mounts::new("/", folder.path());
    (folder, mounts)
}

fn size_of(fs: FsType) -> u64 {
    if fs == FsType::Ext4 { 64 * MIB } else { 400 * MIB }
}

#[test]
fn i1_a_blank_disk_gets_a_filesystem_once() {
    if !inside("i1_a_blank_disk_gets_a_filesystem_once") {
        return;
    }
    for fs in [FsType::Ext4, FsType::Ext3, FsType::Xfs, FsType::Btrfs] {
        let disk = Loop::new(size_of(fs).max(128 * MIB));
        assert_eq!(disk.probe(), Found::Blank, "{fs:?}");
        disk.make(fs).unwrap();
        let Found::Filesystem(made) = disk.probe() else {
            panic!("{fs:?}: {:?}", disk.probe())
        };
        assert_eq!(
            (made.fs, made.uuid.as_str(), made.errors),
            (fs, disk.volume.as_str(), false)
        );
        assert!(made.size > 120 * MIB, "{made:?}");
        // Its UUID is ours, and still: nothing is made twice.
        let error = disk.make(fs).unwrap_err();
        assert!(matches!(error, FormatError::NotBlank { .. }), "{fs:?}: {error}");
        assert_eq!(check::check(&disk.device, fs, LIMIT).unwrap(), Verdict::Good, "{fs:?}");
    }
}

#[test]
fn i12_stage_and_publish_add_nothing_twice() {
    if !inside("i12_stage_and_publish_add_nothing_twice") {
        return;
    }
    for fs in ALL {
        let disk = Loop::new(size_of(fs));
        disk.make(fs).unwrap();
        let (kubelet, mounts) = kubelet();
        let (stage, publish) = (
            kubelet.path().join("plugins/stage"),
            kubelet.path().join("pods/p 1/mount"),
        );
        let options = ["noatime".to_owned()];
        let mount = || mounts.mount_device(&disk.device, &stage, fs, Access::ReadWrite, &options);
        assert_eq!(mount().unwrap(), Done::Now, "{fs:?}");
        assert_eq!(mount().unwrap(), Done::Already, "{fs:?}");
        std::fs::write(stage.join("data"), "one").unwrap();
        let bind = |access| mounts.bind(&stage, &publish, access, &Options::default());
        assert_eq!(bind(Access::ReadWrite).unwrap(), Done::Now);
        assert_eq!(bind(Access::ReadWrite).unwrap(), Done::Already);
        assert_eq!(std::fs::read_to_string(publish.join("data")).unwrap(), "one");
        let table = mounts.table().unwrap();
        assert_eq!(
            table
                .entries
                .iter()
                .filter(|e| e.mount_point.starts_with(kubelet.path()))
                .count(),
            2
        );

        let device = Some(disk.device.as_path());
        let live = || Disk::Live;
        let unstage = Unmount {
            target: &stage,
            device,
            disk: &live,
            limit: LIMIT,
        };
        // Unstage before unpublish: the stage goes, the disk is not free, and that is said.
        let error = mounts.syncfs_then_unmount(&unstage).unwrap_err();
        assert!(matches!(error, UnmountError::StillHeld(..)), "{fs:?}: {error}");
        assert_eq!(mounts.unmount(&publish, LIMIT).unwrap(), Outcome::Clean);
        assert!(!publish.exists());
        assert_eq!(mounts.unmount(&publish, LIMIT).unwrap(), Outcome::NotMounted);
        assert_eq!(mounts.syncfs_then_unmount(&unstage).unwrap(), Outcome::NotMounted);
        mounts.remove_folder(&stage).unwrap();
        mounts.remove_folder(&stage).unwrap();

        assert_eq!(mount().unwrap(), Done::Now);
        assert_eq!(mounts.syncfs_then_unmount(&unstage).unwrap(), Outcome::Clean, "{fs:?}");
        assert!(disk::is_free(&disk.device).unwrap());
    }
}
