//! Connecting: one write to /dev/nvme-fabrics, then a bounded wait for a disk that can be read.
//!
//! Never a second connection: one that is there already is found, whoever made it, and nothing forces another beside it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tracing::{debug, info};

use super::Kernel;
use super::connect_line;
use super::sysfs::{self, Controller, Disk};
use crate::fabrics::{ConnectError, Link, Target};

/// From the kernel's yes to a first good read.
const READY_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CONTROL: &str = "dev/nvme-fabrics";
const MODULE: &str = "nvme-tcp";
const BLOCK: usize = 4096;

impl Kernel {
    pub(super) fn connect_to(&self, to: &Target) -> Result<Link, ConnectError> {
        let other = |why: String| ConnectError::Other(to.nqn.clone(), why);
        self.managed(&to.nqn).map_err(|e| other(e.0))?;
        let line = connect_line::connect_line(to, &self.identity, cpus(&self.root)).map_err(other)?;
        self.same_network().map_err(other)?;
        if !self.is_there(&to.nqn).map_err(other)? {
            // R26.
            info!(nqn = to.nqn, options = line, "connects");
            self.write(&line, to)?;
        }
        self.settle(&to.nqn)
    }

    /// Controllers belong to the kernel, but reconnect in its first network namespace, whichever it was made in.
    fn same_network(&self) -> Result<(), String> {
        let of = |path: &Path| std::fs::read_link(path).map_err(|e| format!("{}: {e}", path.display()));
        let ours = of(Path::new("/proc/self/ns/net"))?;
        let first = of(&self.root.join("proc/1/ns/net"))?;
        if ours == first {
            return Ok(());
        }
        Err("the agent is not in the network of the host: run its pod with hostNetwork".to_owned())
    }

    fn is_there(&self, nqn: &str) -> Result<bool, String> {
        let all = self.of(nqn).map_err(|e| e.to_string())?;
        if all.is_empty() {
            return Ok(false);
        }
        if all.iter().all(|c| c.state.starts_with("deleting")) {
            return Err("its last connection is still being deleted, it is tried again".to_owned());
        }
        Ok(true)
    }

    pub(super) fn of(&self, nqn: &str) -> Result<Vec<Controller>, super::folder::SysfsError> {
        let mut all = sysfs::controllers(&self.root)?;
        all.retain(|c| c.nqn == nqn);
        Ok(all)
    }

    fn write(&self, line: &str, to: &Target) -> Result<(), ConnectError> {
        let other = |why: String| ConnectError::Other(to.nqn.clone(), why);
        let mut control = self.control().map_err(other)?;
        // One write: the kernel takes each for a whole set of options.
        match control.write(line.as_bytes()) {
            Ok(written) if written == line.len() => {}
            Ok(_) => return Err(other("the kernel took a part of the options only".to_owned())),
            Err(e) => {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                if errno == Errno::ALREADY {
                    debug!(nqn = to.nqn, "is there already");
                    return Ok(());
                }
                let others = sysfs::controllers(&self.root).unwrap_or_default();
                return Err(connect_line::refusal(errno, to, &self.identity, &others));
            }
        }
        let mut answer = [0; 256];
        let length = control.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        info!(
            nqn = to.nqn,
            instance = connect_line::instance(&answer),
            "the kernel has connected"
        );
        Ok(())
    }

    /// The kernel's control file; it comes with the module, which is loaded if it is not there.
    fn control(&self) -> Result<File, String> {
        let path = self.root.join(CONTROL);
        let open = || File::options().read(true).write(true).open(&path);
        let missing =
            |e: &std::io::Error| matches!(Errno::from_io_error(e), Some(Errno::NOENT | Errno::NODEV | Errno::NXIO));
        match open() {
            Err(e) if missing(&e) => {}
            done => return done.map_err(|e| format!("{}: {e}; the agent has to run privileged", path.display())),
        }
        let loaded = load_module(&self.root);
        open().map_err(|e| {
            let tried = loaded.err().unwrap_or_else(|| "modprobe says that it did".to_owned());
            format!(
                "{}: {e}. Kernel module {MODULE} is not loaded, and the agent could not load it ({tried}): install the kernel's \
                 modules on the node and run `modprobe {MODULE}`, best at each boot by /etc/modules-load.d",
                path.display()
            )
        })
    }

    /// Waits for live, a disk, a size and a first good read; what is missing at the end is said.
    fn settle(&self, nqn: &str) -> Result<Link, ConnectError> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let waits = match self.ready(nqn, end)? {
                Ok(disk) => return Ok(Link::Ready(disk)),
                Err(why) => why,
            };
            if Instant::now() + LOOK_EVERY >= end {
                return Ok(Link::Pending(waits));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn ready(&self, nqn: &str, end: Instant) -> Result<Result<String, String>, ConnectError> {
        let other = |why: String| ConnectError::Other(nqn.to_owned(), why);
        let all = self.of(nqn).map_err(|e| other(e.to_string()))?;
        let Some(controller) = all.iter().find(|c| c.is_live()).or(all.first()) else {
            // From 6.12 on one refused reconnect is enough for that.
            return Err(other(
                "the kernel has dropped the connection again; see its log on the node".to_owned(),
            ));
        };
        if !controller.is_live() {
            return Ok(Err(format!("the controller is {}", controller.state)));
        }
        let disk = match sysfs::disk_of(&self.root, nqn) {
            Ok(Some(disk)) => disk,
            Ok(None) => return Ok(Err("the appliance shows no disk on it".to_owned())),
            Err(e) => return Err(other(e.to_string())),
        };
        if disk.size_bytes == 0 {
            return Ok(Err(format!("{} has no size yet", disk.name)));
        }
        let name = disk.name.clone();
        Ok(match first_read(disk, end.saturating_duration_since(Instant::now())) {
            Ok(()) => Ok(name),
            Err(why) => Err(format!("{name} cannot be read: {why}")),
        })
    }
}

/// On a thread of its own, as a read waits for as long as the kernel tries to reconnect.
fn first_read(disk: Disk, within: Duration) -> Result<(), String> {
    let (done, wait) = mpsc::channel();
    let reads = crate::thread::spawn("first-read", move || done.send(read_once(&disk)));
    reads.map_err(|e| format!("no thread for it: {e}"))?;
    wait.recv_timeout(within)
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

fn read_once(disk: &Disk) -> Result<(), String> {
    let fd = disk.open(OFlags::RDONLY | OFlags::DIRECT).map_err(|e| e.to_string())?;
    // Direct reads want an aligned buffer.
    let mut space = vec![0_u8; 2 * BLOCK];
    let start = space.as_ptr().align_offset(BLOCK);
    let buffer = space.get_mut(start..start + BLOCK).ok_or("no aligned memory")?;
    match rustix::io::pread(&fd, buffer, 0) {
        Ok(BLOCK) => Ok(()),
        // A device that went while it was open reads like the end of a file.
        Ok(read) => Err(format!("{read} bytes instead of {BLOCK}")),
        Err(e) => Err(e.to_string()),
    }
}

/// By the host's modprobe, which knows the host's folders.
fn load_module(root: &Path) -> Result<(), String> {
    let mut command = if root == Path::new("/") {
        Command::new("modprobe")
    } else {
        let mut command = Command::new("chroot");
        command.arg(root).arg("modprobe");
        command
    };
    let done = command
        .arg(MODULE)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|e| format!("modprobe does not run: {e}"))?;
    if done.status.success() {
        info!(module = MODULE, "loaded");
        return Ok(());
    }
    Err(format!(
        "modprobe: {}, {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    ))
}

/// CPUs of the host, not those that the pod may use.
fn cpus(root: &Path) -> u32 {
    let online = std::fs::read_to_string(root.join("sys/devices/system/cpu/online")).unwrap_or_default();
    count(&online).unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)))
}

/// `0-3,5`.
fn count(list: &str) -> Option<u32> {
    let mut all = 0_u32;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        all = all.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_the_host() {
        for (list, n) in [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-1,4,6-7\n", Some(5)),
            ("", None),
            ("3-1", None),
        ] {
            assert_eq!(count(list), n, "{list}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(cpus(folder.path()) >= 1);
    }
}
