//! The kernel's NVMe/TCP target by configfs, and the files and loop devices behind it. Knows nothing of RouterOS.
//!
//! A loop device, not the file itself, as a file namespace has blocks of 4096 bytes and no WRITE_ZEROES on tmpfs; a disk of a ROSE
//! data server has 512. A loop device learns of a larger file only when it is told.

use crate::nvmet::{Export, Nvmet, Wanted};
use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIG: &str = "/sys/kernel/config/nvmet";

/// By this model our own subsystems are known from others'. Initiators see it, as they see "ROSE" of a real appliance.
const MODEL: &str = "ROSE data server";

/// A subsystem that is there only so that a port listens.
const PLACEHOLDER: &str = "nqn.2000-02.com.mikrotik:nothing-is-exported-yet";

#[derive(Debug)]
struct Live {
    export: Export,
    device: String,
    linked: bool,
    /// Its export is gone, its sessions are left, nobody gets in any more.
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Target {
    options: Nvmet,
    live: BTreeMap<String, Live>,
    images: BTreeMap<u32, u64>,
    ports: BTreeSet<u16>,
    placeholder: bool,
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write `{text}` to {}", path.display()))
}

fn make(path: &Path) -> anyhow::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removing what is not there is success.
fn gone(result: std::io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn entries(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    Ok(list.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?)
}

fn subsystem(nqn: &str) -> PathBuf {
    Path::new(CONFIG).join("subsystems").join(nqn)
}

fn port(number: u16) -> PathBuf {
    Path::new(CONFIG).join("ports").join(number.to_string())
}

impl Target {
    pub(crate) fn new(options: Nvmet) -> anyhow::Result<Self> {
        if !Path::new(CONFIG).join("subsystems").exists() {
            // Best effort: what counts is whether the folder is there afterwards.
            run("modprobe", &["nvmet-tcp"]).ok();
        }
        if !Path::new(CONFIG).join("subsystems").exists() {
            bail!("{CONFIG} is not there: load the module nvmet-tcp and mount configfs, as root");
        }
        fs::create_dir_all(&options.images).with_context(|| format!("make {}", options.images.display()))?;
        let target = Self {
            options,
            live: BTreeMap::new(),
            images: BTreeMap::new(),
            ports: BTreeSet::new(),
            placeholder: false,
        };
        target.sweep()?;
        Ok(target)
    }

    /// Takes away what an earlier life left.
    fn sweep(&self) -> anyhow::Result<()> {
        for path in entries(&Path::new(CONFIG).join("subsystems"))? {
            let model = fs::read_to_string(path.join("attr_model")).unwrap_or_default();
            if model.trim() != MODEL {
                continue;
            }
            let nqn = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for port in entries(&Path::new(CONFIG).join("ports"))? {
                let link = port.join("subsystems").join(&nqn);
                gone(fs::remove_file(&link), &link)?;
            }
            let device = fs::read_to_string(path.join("namespaces/1/device_path")).unwrap_or_default();
            self.take_down(&nqn, device.trim())?;
        }
        Ok(())
    }

    fn file(&self, image: u32) -> PathBuf {
        self.options.images.join(format!("{image}.img"))
    }

    pub(crate) fn apply(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        self.size_images(wanted)?;
        let all: Vec<String> = self.live.keys().cloned().collect();
        for nqn in all {
            let Some(mut live) = self.live.remove(&nqn) else {
                continue;
            };
            let kept = self.revise(&nqn, &mut live, wanted);
            // What could not be taken away is tried again with the next change.
            if !matches!(kept, Ok(false)) {
                self.live.insert(nqn, live);
            }
            kept?;
        }
        for (nqn, export) in &wanted.exports {
            if !self.live.contains_key(nqn) {
                let device = self.set_up(nqn, export)?;
                let live = Live {
                    export: export.clone(),
                    device,
                    linked: false,
                    closed: false,
                };
                self.live.insert(nqn.clone(), live);
            }
        }
        self.follow(wanted)?;
        self.listen(wanted)?;
        let removed: Vec<u32> = self
            .images
            .keys()
            .copied()
            .filter(|id| !wanted.images.contains_key(id))
            .collect();
        for id in removed {
            let path = self.file(id);
            gone(fs::remove_file(&path), &path)?;
            self.images.remove(&id);
        }
        Ok(())
    }

    /// Whether a subsystem stays, or some of its sessions.
    fn revise(&self, nqn: &str, live: &mut Live, wanted: &Wanted) -> anyhow::Result<bool> {
        let was = &live.export;
        let key = |e: &Export| (e.image, e.port, e.uuid.clone(), e.times);
        let now = wanted.exports.get(nqn);
        let same = now.is_some_and(|now| key(now) == key(was));
        if live.linked && !wanted.linked {
            self.unlink(nqn, live)?;
        }
        if same {
            return Ok(true);
        }
        if now.is_none() && wanted.leaves && live.linked {
            self.close(nqn, live)?;
            return Ok(true);
        }
        self.unlink(nqn, live)?;
        self.take_down(nqn, &live.device)?;
        Ok(false)
    }

    fn size_images(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        for (id, size) in &wanted.images {
            if self.images.get(id) == Some(size) {
                continue;
            }
            let path = self.file(*id);
            let file = fs::File::options().write(true).create(true).truncate(false).open(&path);
            file.and_then(|f| f.set_len(*size))
                .with_context(|| format!("make {} of {size} bytes", path.display()))?;
            self.images.insert(*id, *size);
        }
        Ok(())
    }

    /// Everything of a subsystem but its link to the port.
    fn set_up(&self, nqn: &str, export: &Export) -> anyhow::Result<String> {
        let path = self.file(export.image);
        let device = run("losetup", &["--find", "--show", &path.to_string_lossy()])?;
        let at = subsystem(nqn);
        make(&at)?;
        write(&at.join("attr_model"), MODEL)?;
        write(&at.join("attr_serial"), &export.serial)?;
        let namespace = at.join("namespaces/1");
        make(&namespace)?;
        write(&namespace.join("device_path"), &device)?;
        write(&namespace.join("device_uuid"), &export.uuid)?;
        write(&namespace.join("enable"), "1")?;
        self.admit(nqn, &export.hosts)?;
        Ok(device)
    }

    /// Lets these hosts in, all if there are none.
    fn admit(&self, nqn: &str, hosts: &BTreeSet<String>) -> anyhow::Result<()> {
        let at = subsystem(nqn);
        if hosts.is_empty() {
            self.forget_hosts(nqn)?;
            return write(&at.join("attr_allow_any_host"), "1");
        }
        write(&at.join("attr_allow_any_host"), "0")?;
        self.forget_hosts(nqn)?;
        for host in hosts {
            let made = Path::new(CONFIG).join("hosts").join(host);
            make(&made)?;
            let link = at.join("allowed_hosts").join(host);
            symlink(&made, &link).with_context(|| format!("make {}", link.display()))?;
        }
        Ok(())
    }

    fn forget_hosts(&self, nqn: &str) -> anyhow::Result<()> {
        let list = subsystem(nqn).join("allowed_hosts");
        if !list.exists() {
            return Ok(());
        }
        for link in entries(&list)? {
            gone(fs::remove_file(&link), &link)?;
        }
        Ok(())
    }

    /// Nobody gets in any more; who is in stays. Taking a host from the list does not end its sessions.
    fn close(&self, nqn: &str, live: &mut Live) -> anyhow::Result<()> {
        write(&subsystem(nqn).join("attr_allow_any_host"), "0")?;
        self.forget_hosts(nqn)?;
        live.closed = true;
        Ok(())
    }

    /// Ends the sessions of all hosts.
    fn unlink(&self, nqn: &str, live: &mut Live) -> anyhow::Result<()> {
        let link = port(live.export.port).join("subsystems").join(nqn);
        gone(fs::remove_file(&link), &link)?;
        live.linked = false;
        Ok(())
    }

    fn take_down(&self, nqn: &str, device: &str) -> anyhow::Result<()> {
        let at = subsystem(nqn);
        let namespace = at.join("namespaces/1");
        if namespace.exists() {
            write(&namespace.join("enable"), "0")?;
            gone(fs::remove_dir(&namespace), &namespace)?;
        }
        self.forget_hosts(nqn)?;
        gone(fs::remove_dir(&at), &at)?;
        if device.starts_with("/dev/loop") {
            run("losetup", &["--detach", device])?;
        }
        Ok(())
    }

    /// Sizes, hosts, links.
    fn follow(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        for (nqn, export) in &wanted.exports {
            let Some(mut live) = self.live.remove(nqn) else {
                continue;
            };
            if live.export.size != export.size {
                run("losetup", &["--set-capacity", &live.device])?;
                write(&subsystem(nqn).join("namespaces/1/revalidate_size"), "1")?;
            }
            if live.export.hosts != export.hosts || live.closed {
                self.admit(nqn, &export.hosts)?;
                live.closed = false;
            }
            if wanted.linked && !live.linked {
                self.open_port(export.port)?;
                let link = port(export.port).join("subsystems").join(nqn);
                symlink(subsystem(nqn), &link).with_context(|| format!("make {}", link.display()))?;
                live.linked = true;
            }
            live.export = export.clone();
            self.live.insert(nqn.clone(), live);
        }
        Ok(())
    }

    fn open_port(&mut self, number: u16) -> anyhow::Result<()> {
        if !self.ports.insert(number) {
            return Ok(());
        }
        let at = port(number);
        make(&at)?;
        let family = if self.options.address.is_ipv4() { "ipv4" } else { "ipv6" };
        write(&at.join("addr_adrfam"), family)?;
        write(&at.join("addr_trtype"), "tcp")?;
        write(&at.join("addr_traddr"), &self.options.address.to_string())?;
        write(&at.join("addr_trsvcid"), &number.to_string())
    }

    /// Between a reboot and the return of the exports a port may answer, and then knows no subsystem that anybody asks for.
    fn listen(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let shall = wanted.listening && !wanted.linked;
        if shall == self.placeholder {
            return Ok(());
        }
        let at = subsystem(PLACEHOLDER);
        if shall {
            make(&at)?;
            write(&at.join("attr_model"), MODEL)?;
        }
        for number in &self.ports {
            let link = port(*number).join("subsystems").join(PLACEHOLDER);
            if shall {
                symlink(&at, &link).with_context(|| format!("make {}", link.display()))?;
            } else {
                gone(fs::remove_file(&link), &link)?;
            }
        }
        if !shall {
            gone(fs::remove_dir(&at), &at)?;
        }
        self.placeholder = shall;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Err(error) = self.apply(&Wanted::default()) {
            tracing::error!(error = format!("{error:#}"), "something of the kernel's target is left");
        }
    }
}
