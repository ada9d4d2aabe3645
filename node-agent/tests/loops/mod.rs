//! Disks for tests: loop devices over sparse files, used in a mount namespace of the test's own.
//!
//! They need root, loop devices, and the programs that the agent runs (e2e/need.sh has the list). A test that is root and cannot
//! have them fails; one that is not root says that it was not run.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of it

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rds_node_agent::filesystem::FsType;
use rds_node_agent::filesystem::format::{self, FormatError, Plan};
use rds_node_agent::filesystem::probe::{self, Found};
use rds_node_agent::filesystem::signature::Superblock;
use rds_node_agent::mount::options::Options;
use rds_node_agent::mount::{Access, Disk, Done, MountError, Mounts, Outcome, Unmount, UnmountError};

pub const LIMIT: Duration = Duration::from_secs(60);
pub const ALL: [FsType; 4] = [FsType::Ext4, FsType::Ext3, FsType::Xfs, FsType::Btrfs];
pub const MIB: u64 = 1 << 20;

/// Runs `scenario` in a mount namespace of its own: this very test again, below `unshare`. True in there.
pub fn inside(scenario: &str) -> bool {
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

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A disk: a loop device over a sparse file.
pub struct Loop {
    pub file: tempfile::NamedTempFile,
    pub device: PathBuf,
    /// UID of its volume; never two alike on a machine, mkfs.btrfs looks for that.
    pub volume: String,
}

pub fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

impl Loop {
    pub fn new(size: u64) -> Self {
        Self::with(size, &[])
    }

    pub fn with(size: u64, arguments: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.as_file().set_len(size).unwrap();
        // Another process may take the free device that losetup found: it says so, and is asked again.
        let device = (0..50)
            .find_map(|_| {
                let output = Command::new("losetup")
                    .args(["--find", "--show"])
                    .args(arguments)
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
            file,
            device: device.into(),
            volume: uuid(),
        }
    }

    pub fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }

    pub fn grow(&self, size: u64) {
        self.file.as_file().set_len(size).unwrap();
        run("losetup", &["--set-capacity", self.name()]);
    }

    /// Writes below the page cache's view, as another machine would.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let device = File::options().write(true).open(&self.device).unwrap();
        device.write_all_at(bytes, offset).unwrap();
        device.sync_all().unwrap();
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.device)
            .unwrap()
            .read_exact_at(&mut bytes, offset)
            .unwrap();
        bytes
    }

    pub fn make(&self, fs: FsType) -> Result<Superblock, FormatError> {
        format::make(&self.plan(fs))
    }

    pub fn plan(&self, fs: FsType) -> Plan<'_> {
        Plan {
            device: &self.device,
            fs,
            volume: &self.volume,
            options: &[],
            limit: LIMIT,
        }
    }

    pub fn probe(&self) -> Found {
        probe::probe(&self.device, &self.volume).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
    }
}

/// Kubelet's folder, and the mounts below it.
pub fn kubelet() -> (tempfile::TempDir, Mounts) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mounts = Mounts::new("/", folder.path());
    (folder, mounts)
}

/// A size that the filesystem can be made on.
pub fn size_of(fs: FsType) -> u64 {
    match fs {
        FsType::Ext4 | FsType::Ext3 => 96 * MIB,
        FsType::Xfs | FsType::Btrfs => 320 * MIB,
    }
}

pub fn live() -> Disk {
    Disk::Live
}

pub fn unstage<'a>(target: &'a Path, disk: &'a Loop, state: &'a dyn Fn() -> Disk) -> Unmount<'a> {
    Unmount {
        target,
        device: Some(&disk.device),
        disk: state,
        limit: LIMIT,
    }
}

/// A staged volume.
pub struct Staged {
    pub disk: Loop,
    fs: FsType,
    pub folder: tempfile::TempDir,
    pub mounts: Mounts,
    pub stage: PathBuf,
    pub publish: PathBuf,
}

impl Staged {
    pub fn new(fs: FsType) -> Self {
        let disk = Loop::new(size_of(fs));
        disk.make(fs).unwrap();
        let (folder, mounts) = kubelet();
        let staged = Self {
            disk,
            fs,
            mounts,
            stage: folder.path().join("plugins/stage"),
            publish: folder.path().join("pods/p 1/mount"),
            folder,
        };
        assert_eq!(staged.mount(Access::ReadWrite).unwrap(), Done::Now);
        staged
    }

    pub fn mount(&self, access: Access) -> Result<Done, MountError> {
        self.mounts
            .mount_device(&self.disk.device, &self.stage, self.fs, access, &["noatime".to_owned()])
    }

    pub fn bind(&self, access: Access) -> Result<Done, MountError> {
        self.mounts
            .bind(&self.stage, &self.publish, access, &Options::default())
    }

    pub fn count(&self) -> usize {
        let table = self.mounts.table().unwrap();
        table
            .entries
            .iter()
            .filter(|e| e.mount_point.starts_with(self.folder.path()))
            .count()
    }

    pub fn unstage(&self) -> Result<Outcome, UnmountError> {
        self.mounts
            .syncfs_then_unmount(&unstage(&self.stage, &self.disk, &live))
    }
}
