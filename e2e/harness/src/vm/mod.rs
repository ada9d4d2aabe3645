//! Virtual machines with Debian's generic kernel: what the node agent and a real NVMe/TCP target run on.
//!
//! QEMU emulates the machine, so no rights and no KVM are needed; it is used where it works. The guest sees the whole file system
//! of the host, read-only, with a tmpfs over it, so that our programs run there as they were built and nothing is an image. A
//! guest ends with the process that started it.

pub mod agent;
pub mod bridge;
pub mod demo;
pub mod http;
mod kernel;
pub mod node;
pub mod pair;
pub mod pods;
pub mod report;
pub mod target;
pub mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Process, command};
use crate::tools;
pub use kernel::{Kernel, Release};

/// Where guests find the folder that they share with the host, writable on both sides.
pub const SHARE: &str = "/run/vm/share";

/// Where guests find our own programs.
pub const PROGRAMS: &str = "/run/vm/programs";

/// Where guests find the programs that `e2e/tools/build.sh` made.
pub const TOOLS: &str = "/run/vm/tools";

/// The host's loopback, as guests reach it.
pub const HOST: &str = "10.0.2.2";

/// What the kernel is told. Messages of it would cut into ours from level 4 up; all of them are in kernel.log. What hardens Debian's
/// kernel against guessing processors and attackers costs each system call of an emulated processor that does not guess and has no
/// attackers; memory in huge pages makes the emulator forget all addresses at once. The clock stays under watch (no `tsc=reliable`):
/// on a busy host its measured frequency may be wrong, and a machine whose seconds are short loses its sessions.
const CMDLINE: &str = "console=ttyS0 panic=-1 loglevel=1 mitigations=off init_on_alloc=0 hardened_usercopy=off \
                       randomize_kstack_offset=off audit=0 nowatchdog transparent_hugepage=never";

/// What a guest is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Names its folder, `target/e2e/vm-<name>/`.
    pub name: String,
    /// Kernel.
    pub release: Release,
    /// MiB.
    pub memory: u32,
    /// TCP ports on the host's loopback that lead to the port of the same or another number in the guest.
    pub forwards: Vec<(u16, u16)>,
    /// MiB of a disk, `/dev/vda`, that outlives a power cut; 0 is none.
    pub disk: u32,
    /// What runs in it, a line for `sh`. Its exit code, up to 100, is that of the machine.
    pub run: String,
}

impl Machine {
    /// A machine with 768 MiB that runs one of our programs with these arguments.
    pub fn new(name: &str, run: &str) -> Self {
        Self {
            name: name.into(),
            release: Release::Stable,
            memory: 768,
            forwards: Vec::new(),
            disk: 0,
            run: run.into(),
        }
    }
}

/// A running guest. Dropping it is pulling its plug.
pub struct Vm {
    name: String,
    folder: PathBuf,
    process: Process,
    started: Instant,
    /// As `uname -r` says it.
    pub kernel: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
}

/// An error that says what is missing for virtual machines on this computer, if something is.
pub fn possible() -> Result<()> {
    let programs = [
        "qemu-system-x86_64",
        "busybox",
        "cpio",
        "depmod",
        "xz",
        "zstd",
        "dpkg-deb",
        "apt-get",
    ];
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let missing: Vec<_> = programs
        .into_iter()
        .filter(|program| {
            !folders
                .split(':')
                .any(|folder| Path::new(folder).join(program).exists())
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "virtual machines cannot run here: {} missing; e2e/need.sh installs what they need",
        missing.join(", ")
    )
}

impl Vm {
    /// Boots it. Its folder is emptied first and kept afterwards.
    pub async fn start(machine: &Machine) -> Result<Self> {
        Self::start_with(machine, &[], None).await
    }

    /// The same with files in the shared folder: their names and texts, and an archive of images for its pods.
    pub async fn start_with(machine: &Machine, files: &[(String, String)], images: Option<&Path>) -> Result<Self> {
        possible()?;
        let kernel = Kernel::ensure(machine.release)?;
        let accelerator = kernel::accelerator(&kernel).await?;
        let folder = tools::target()?.join("e2e").join(format!("vm-{}", machine.name));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        let share = folder.join("share");
        std::fs::create_dir_all(&share)?;
        std::fs::write(share.join("run"), format!("{}\n", machine.run))?;
        for (name, text) in files {
            std::fs::write(share.join(name), text)?;
        }
        if let Some(images) = images {
            std::fs::copy(images, share.join("images.tar"))?;
        }
        Self::boot(machine, &kernel, &accelerator, folder)
    }

    /// Pulls its plug.
    pub fn cut(&self) {
        self.process.kill();
    }

    /// Boots it again after [`Self::cut`]: the same machine, with the disk and the shared folder of its first life.
    pub async fn again(&mut self, machine: &Machine) -> Result<()> {
        let kernel = Kernel::ensure(machine.release)?;
        let accelerator = kernel::accelerator(&kernel).await?;
        *self = Self::boot(machine, &kernel, &accelerator, self.folder.clone())?;
        Ok(())
    }

    fn boot(machine: &Machine, kernel: &Kernel, accelerator: &str, folder: PathBuf) -> Result<Self> {
        let console = folder.join("console.log");
        let mut qemu = qemu(kernel, accelerator, machine.memory, &console);
        qemu.args(["-append", CMDLINE]);
        // By it a machine is told from another one of the same name. A reboot does not change it.
        let identity = folder.join("uuid");
        if !identity.exists() {
            std::fs::write(&identity, uuid::Uuid::new_v4().to_string())?;
        }
        qemu.args(["-uuid", &std::fs::read_to_string(&identity)?]);
        if machine.disk > 0 {
            let image = folder.join("disk.img");
            let disk = std::fs::File::options().create(true).append(true).open(&image)?;
            disk.set_len(u64::from(machine.disk) * 1024 * 1024)?;
            // It has to outlive QEMU, not this computer: what the guest flushes need not go further than the page cache.
            let image = image.display().to_string().replace(',', ",,");
            let drive = format!("if=none,id=disk,format=raw,cache=unsafe,file={image}");
            qemu.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
        }
        let mut net = "user,id=net".to_owned();
        for (host, guest) in &machine.forwards {
            net += &format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        }
        qemu.args(["-netdev", &net, "-device", "virtio-net-pci,netdev=net,romfile="]);
        let programs = tools::own("guest")?;
        let programs = programs.parent().context("a folder of programs")?;
        for (tag, path, writable) in [
            ("root", Path::new("/"), false),
            ("modules", &kernel.folder.join("lib/modules"), false),
            ("programs", programs, false),
            (
                "tools",
                tools::ensure()?.folder().parent().context("a folder of tools")?,
                false,
            ),
            ("share", &folder.join("share"), true),
        ] {
            let read_only = if writable { "" } else { ",readonly=on" };
            let path = path.display().to_string().replace(',', ",,");
            let share = format!("local,mount_tag={tag},security_model=none,multidevs=remap,path={path}{read_only}");
            qemu.args(["-virtfs", &share]);
        }
        let process = Process::start(&format!("vm {}", machine.name), qemu, &folder.join("qemu.log"))?;
        Ok(Self {
            name: machine.name.clone(),
            folder,
            process,
            started: Instant::now(),
            kernel: kernel.version.clone(),
            accelerator: accelerator.to_owned(),
        })
    }

    /// The folder of its logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The host's side of the shared folder.
    pub fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// Time since it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The exit code of what ran in it, once it has ended. A machine that ended without one is an error.
    pub fn ended(&self) -> Result<Option<u8>> {
        let Some(status) = self.process.ended() else {
            return Ok(None);
        };
        // 2V+1 with V = 16 + code, by the isa-debug-exit device; everything else is a panic or a QEMU that did not start.
        match status.code() {
            Some(code @ 33..=233) if code % 2 == 1 => Ok(u8::try_from((code - 33) / 2).ok()),
            _ => bail!(
                "the virtual machine {} did not come to its end ({status}); {}",
                self.name,
                self.last_words()
            ),
        }
    }

    /// An error if it has ended.
    pub fn alive(&self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(code) => bail!(
                "the virtual machine {} has ended with {code}; {}",
                self.name,
                self.last_words()
            ),
        }
    }

    /// The end of its console, and where the rest is.
    pub fn last_words(&self) -> String {
        let read = |name: &str| std::fs::read(self.folder.join(name)).unwrap_or_default();
        let text =
            String::from_utf8_lossy(&read("qemu.log")).into_owned() + &String::from_utf8_lossy(&read("console.log"));
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("logs in {}, the console ends with:\n{last}", self.folder.display())
    }
}

/// The machine without its shared folders.
fn qemu(kernel: &Kernel, accelerator: &str, memory: u32, console: &Path) -> Command {
    // Emulated processors that wait for each other's locks and translations do half of their work for nothing: one does the same
    // in half of the time. Two are for what really has two. What is translated of a node fills 256 MiB within a minute, and all of it
    // would be thrown away.
    let (accel, cpus) = match accelerator {
        "tcg" => ("tcg,thread=multi,tb-size=512", "1"),
        other => (other, "2"),
    };
    let mut qemu = command(&kernel.qemu);
    qemu.args([
        "-M",
        "q35",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ])
    // "max", as some modules for checksums and ciphers need features of the processor.
    .args(["-accel", accel, "-cpu", "max"])
    .args(["-m", &memory.to_string(), "-smp", cpus])
    .arg("-kernel")
    .arg(kernel.folder.join("vmlinux"))
    .arg("-initrd")
    .arg(kernel.folder.join("initrd.gz"))
    .args([
        "-chardev",
        &format!("file,id=console,path={}", console.display()),
        "-serial",
        "chardev:console",
    ])
    .args([
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-device",
        "virtio-rng-pci",
    ]);
    qemu
}
