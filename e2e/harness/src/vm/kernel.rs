//! The kernels that guests boot: Debian's, fetched once and kept outside of the checkout by `e2e/vm/kernel.sh`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::Process;
use crate::tools;

/// Which kernel. They differ in what an initiator does when its target refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// That of the Debian suite that runs here: 6.1 on Debian 12.
    Stable,
    /// 6.12, from bookworm-backports.
    Backports,
}

/// An unpacked kernel with the initrd beside it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Holds vmlinux, initrd.gz, lib/modules.
    pub folder: PathBuf,
    /// As `uname -r` says it.
    pub version: String,
    /// The QEMU that boots it.
    pub qemu: PathBuf,
}

impl Kernel {
    /// Fetches it if it is not there yet, and makes the initrd.
    pub fn ensure(release: Release) -> Result<Self> {
        let suite: &[&OsStr] = match release {
            Release::Stable => &[],
            Release::Backports => &["bookworm-backports".as_ref()],
        };
        let folder = tools::made_by("vm/kernel.sh", suite)?;
        tools::script("vm/initrd.sh", &[folder.as_ref()])?;
        let version = std::fs::read_to_string(folder.join("version"))?.trim().to_owned();
        let qemu = tools::made_by("vm/qemu.sh", &[])?;
        Ok(Self { folder, version, qemu })
    }
}

/// How long a working KVM may take to its first line; TCG needs about 2 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// `kvm` where it boots this kernel, else `tcg`. That /dev/kvm opens says little: under some hypervisors a stock kernel hangs
/// before its first line. So it is tried once, with a watchdog, and the answer is kept beside the kernel; `VM_ACCEL` overrules it.
pub(super) async fn accelerator(kernel: &Kernel) -> Result<String> {
    if let Ok(chosen) = std::env::var("VM_ACCEL") {
        return Ok(chosen);
    }
    let known = kernel.folder.join("accelerator");
    if let Ok(text) = std::fs::read_to_string(&known) {
        return Ok(text.trim().to_owned());
    }
    let answer = if Path::new("/dev/kvm").exists() && kvm_boots(kernel).await? {
        "kvm"
    } else {
        "tcg"
    };
    std::fs::write(&known, answer)?;
    Ok(answer.to_owned())
}

async fn kvm_boots(kernel: &Kernel) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    let mut qemu = super::qemu(kernel, "kvm", 256, &console);
    qemu.args(["-append", "console=ttyS0 panic=-1 vm.probe"]);
    let process = Process::start("qemu (probe of kvm)", qemu, &folder.path().join("log"))?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if std::fs::read(&console).is_ok_and(|text| text.windows(12).any(|part| part == b"init started")) {
            return Ok(true);
        }
        if process.ended().is_some() {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
