//! Every way to use a disk keeps it connected, on a real kernel; what is left of a disk that went is a use as well.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rds_node_agent::attachment::decide::DisconnectKey;
use rds_node_agent::attachment::model::Use;
use rds_node_agent::fabrics::Fabrics;
use rds_node_agent::nvme::Kernel;
use rds_node_agent::nvme::sysfs::Disk;

use super::session::{Exported, KUBELET, connected, kernel, leave, state, until_state};
use crate::fabric;
use crate::rig::{Rig, TARGET, sh, until};

const MOUNT: &str = "/run/mounted";

/// It is in use, by what `word` names; and the door stays shut.
fn used(kernel: &Kernel, nqn: &str, what: &str, word: &str) -> Result<()> {
    match kernel.in_use(nqn) {
        Use::Used(by) => ensure!(by.contains(word), "{what}: in use by {by}, not by {word}"),
        other @ (Use::Unused | Use::Unknown(_)) => bail!("{what}: {other:?}"),
    }
    for key in [DisconnectKey::Unused, DisconnectKey::Orphan] {
        ensure!(
            kernel.disconnect(nqn, key).is_err(),
            "{what}: disconnected by {key:?} all the same"
        );
    }
    ensure!(state(kernel, nqn)? == "live", "{what}: not live any more");
    Ok(())
}

fn unused(kernel: &Kernel, nqn: &str, after: &str) -> Result<()> {
    until(&format!("{after} to end"), Duration::from_secs(60), || {
        match kernel.in_use(nqn) {
            Use::Unused => Ok(()),
            other @ (Use::Used(_) | Use::Unknown(_)) => bail!("{other:?}"),
        }
    })
}

/// A shell that says `ready`, then sleeps.
fn asleep(script: &str) -> Result<Child> {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new("sh")
        .args(["-c", &format!("{script} && echo ready && exec sleep 600")])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "`{script}` said {line:?}");
    Ok(child)
}

fn end(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn node(disk: &Disk) -> String {
    disk.path.display().to_string()
}

/// One after the other, each alone: seen while it lasts, and not longer.
pub(super) fn every_use_is_seen(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "uses", 160)?;
    let (kernel, nqn) = (kernel()?, volume.nqn.as_str());
    let disk = connected(&kernel, &volume.target())?;
    let device = node(&disk);
    fs::create_dir_all(MOUNT)?;
    unused(&kernel, nqn, "nothing")?;

    for fs in ["ext4", "btrfs"] {
        let quiet = if fs == "ext4" { "-qF" } else { "-qf" };
        sh(&format!("mkfs.{fs}"), &[quiet, &device])?;
        sh("mount", &[&device, MOUNT])?;
        used(&kernel, nqn, fs, MOUNT)?;
        sh("umount", &[MOUNT])?;
        unused(&kernel, nqn, fs)?;
    }

    let private = asleep(&format!(
        "exec unshare -m sh -c 'mount -t btrfs {device} {MOUNT} && echo ready && exec sleep 600'"
    ));
    let private = private.or_else(|e| bail!("a mount in a namespace of its own: {e}"))?;
    ensure!(
        !fs::read_to_string("/proc/self/mountinfo")?.contains(MOUNT),
        "seen in ours too"
    );
    used(&kernel, nqn, "a mount in another namespace", MOUNT)?;
    end(private)?;
    unused(&kernel, nqn, "a mount in another namespace")?;

    let plain = asleep(&format!("exec 3<{device}"))?;
    used(&kernel, nqn, "a plain open", &format!("process {}", plain.id()))?;
    end(plain)?;
    unused(&kernel, nqn, "a plain open")?;

    let generic = generic(nqn)?;
    let open = asleep(&format!("exec 3<{generic}"))?;
    used(
        &kernel,
        nqn,
        "the generic device open",
        &format!("process {}", open.id()),
    )?;
    end(open)?;
    unused(&kernel, nqn, "the generic device")?;

    published(&kernel, nqn, &disk)?;

    let held = asleep(&format!("exec 3<{device} 4<{device} && exec 3<&-"))?;
    used(&kernel, nqn, "one of two opens", "process")?;
    end(held)?;
    unused(&kernel, nqn, "one of two opens")?;
    leave(&kernel, nqn)?;
    volume.remove()
}

fn generic(nqn: &str) -> Result<String> {
    for class in ["/sys/class/nvme-subsystem", "/sys/class/nvme"] {
        for object in fs::read_dir(class)? {
            let object = object?.path();
            if fs::read_to_string(object.join("subsysnqn"))?.trim() != nqn {
                continue;
            }
            for child in fs::read_dir(&object)? {
                let name = child?.file_name().to_string_lossy().into_owned();
                let node = format!("/dev/{name}");
                if name.starts_with("ng") && Path::new(&node).exists() {
                    return Ok(node);
                }
            }
        }
    }
    bail!("no generic device of {nqn}")
}

/// As kubelet has it for a block volume: a device node in its folder, and a loop device on that.
fn published(kernel: &Kernel, nqn: &str, disk: &Disk) -> Result<()> {
    let folder = format!("{KUBELET}/plugins/kubernetes.io/csi/volumeDevices/publish/pv");
    fs::create_dir_all(&folder)?;
    let at = format!("{folder}/pod");
    sh("mknod", &[&at, "b", &disk.major.to_string(), &disk.minor.to_string()])?;
    used(kernel, nqn, "a published node", &at)?;
    let looped = sh("losetup", &["-f", "--show", &at])?;
    // Away with the node: the loop device alone has to be enough.
    let aside = "/run/aside";
    fs::rename(&at, aside)?;
    match kernel.in_use(nqn) {
        Use::Used(by) | Use::Unknown(by) => ensure!(by.contains(looped.trim_start_matches("/dev/")), "{by}"),
        Use::Unused => bail!("a loop device on it is no use"),
    }
    fs::remove_file(aside)?;
    match kernel.in_use(nqn) {
        Use::Unknown(why) => ensure!(why.contains("losetup -d"), "{why}"),
        other @ (Use::Unused | Use::Used(_)) => bail!("a loop device on a node that is gone: {other:?}"),
    }
    ensure!(kernel.disconnect(nqn, DisconnectKey::Unused).is_err());
    sh("losetup", &["-d", &looped])?;
    unused(kernel, nqn, "a loop device")?;

    // A node in a folder of a pod, made by a bind mount as the Go driver did.
    let pods = format!("{KUBELET}/pods/1/volumeDevices/kubernetes.io~csi");
    fs::create_dir_all(&pods)?;
    let at = format!("{pods}/pv");
    fs::write(&at, "")?;
    sh("mount", &["--bind", &node(disk), &at])?;
    ensure!(fs::metadata(&at)?.rdev() != 0);
    used(kernel, nqn, "a node that is bind-mounted", "/run/kubelet")?;
    sh("umount", &[&at])?;
    fs::remove_file(&at)?;
    unused(kernel, nqn, "a bind mount")
}

/// While a umount hangs it has left the list of mounts already, and its data is not on the disk yet.
pub(super) fn hanging_umount(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "hang", 64)?;
    let (kernel, nqn) = (kernel()?, volume.nqn.as_str());
    let disk = connected(&kernel, &volume.target())?;
    sh("mkfs.ext4", &["-qF", &node(&disk)])?;
    fs::create_dir_all(MOUNT)?;
    sh("mount", &[&node(&disk), MOUNT])?;
    // Before the cut, since a new file may want to read; it stays in the cache for now.
    fs::write(format!("{MOUNT}/data"), vec![7; 1 << 20])?;
    rig.cable(false)?;
    until_state(&kernel, nqn, "connecting", 20)?;
    let umount = Command::new("umount").arg(MOUNT).spawn()?;
    until("the mount to leave the list", Duration::from_secs(60), || {
        ensure!(!fs::read_to_string("/proc/self/mountinfo")?.contains(MOUNT));
        Ok(())
    })?;
    let hangs = kernel.in_use(nqn);
    ensure!(hangs != Use::Unused, "a umount that hangs is no use");
    ensure!(
        kernel.disconnect(nqn, DisconnectKey::Unused).is_err(),
        "disconnected beneath a umount: {hangs:?}"
    );
    rig.cable(true)?;
    let ended = umount.wait_with_output()?;
    ensure!(ended.status.success(), "{ended:?}");
    until_state(&kernel, nqn, "live", 30)?;
    unused(&kernel, nqn, "the umount")?;
    sh("mount", &["-o", "ro", &node(&disk), MOUNT])?;
    ensure!(
        fs::read(format!("{MOUNT}/data"))? == vec![7; 1 << 20],
        "the data is not there"
    );
    sh("umount", &[MOUNT])?;
    leave(&kernel, nqn)?;
    volume.remove()
}

/// What a process left in the cache when it was killed over a cut cable is not thrown away.
pub(super) fn killed_writer(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "killed", 64)?;
    let (kernel, nqn) = (kernel()?, volume.nqn.as_str());
    let disk = connected(&kernel, &volume.target())?;
    rig.cable(false)?;
    until_state(&kernel, nqn, "connecting", 20)?;
    let device = node(&disk);
    // It writes to the cache, and then its end has to write that back.
    let writer = asleep(&format!(
        "exec 3<>{device} && head -c 1048576 /dev/zero | tr '\\0' x >&3"
    ))?;
    let id = writer.id();
    let ends = std::thread::spawn(move || end(writer));
    until("the writer to be past its descriptors", Duration::from_secs(60), || {
        let open = fs::read_dir(format!("/proc/{id}/fd")).map(Iterator::count).unwrap_or(0);
        ensure!(open == 0, "{open} open");
        Ok(())
    })?;
    let left = kernel.in_use(nqn);
    ensure!(left != Use::Unused, "data that waits for the cable is no use");
    ensure!(
        kernel.disconnect(nqn, DisconnectKey::Unused).is_err(),
        "disconnected: {left:?}"
    );
    rig.cable(true)?;
    match ends.join() {
        Ok(ended) => ended?,
        Err(_) => bail!("its thread died"),
    }
    until_state(&kernel, nqn, "live", 30)?;
    unused(&kernel, nqn, "the writer")?;
    leave(&kernel, nqn)?;
    let disk = connected(&kernel, &volume.target())?;
    let read = sh(
        "sh",
        &["-c", &format!("head -c 1048576 {} | tr -d x | wc -c", node(&disk))],
    )?;
    ensure!(read == "0", "{read} bytes are others than were written");
    leave(&kernel, nqn)?;
    volume.remove()
}

/// The third key goes through beneath a mount; what is left of that is a use until it is unmounted.
pub(super) fn stale_mount(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "stale", 64)?;
    let (kernel, nqn) = (kernel()?, volume.nqn.as_str());
    let disk = connected(&kernel, &volume.target())?;
    sh("mkfs.ext4", &["-qF", &node(&disk)])?;
    fs::create_dir_all(MOUNT)?;
    sh("mount", &[&node(&disk), MOUNT])?;
    kernel.disconnect(nqn, DisconnectKey::Fenced)?;
    ensure!(kernel.sessions()?.is_empty() && kernel.disk(nqn)?.is_none());
    match kernel.in_use(nqn) {
        Use::Used(by) => ensure!(by.contains(MOUNT), "{by}"),
        other @ (Use::Unused | Use::Unknown(_)) => bail!("a mount without its device: {other:?}"),
    }
    // Somebody connects it anew beneath the mount: another disk, under another name.
    fabric::connect(nqn, TARGET, 4420)?;
    let second = connected(&kernel, &volume.target())?;
    ensure!(
        second.name != disk.name && second.sequence != disk.sequence,
        "{second:?} was {disk:?}"
    );
    used(&kernel, nqn, "the old mount beside a new disk", MOUNT)?;
    sh("umount", &[MOUNT])?;
    unused(&kernel, nqn, "the old mount")?;
    leave(&kernel, nqn)?;

    // The same with a descriptor only, which shows in no list with a number that means anything.
    let disk = connected(&kernel, &volume.target())?;
    let open = asleep(&format!("exec 3<{}", node(&disk)))?;
    kernel.disconnect(nqn, DisconnectKey::Fenced)?;
    match kernel.in_use(nqn) {
        Use::Used(by) => ensure!(by.contains("what is left of its disk"), "{by}"),
        other @ (Use::Unused | Use::Unknown(_)) => bail!("a descriptor without its device: {other:?}"),
    }
    end(open)?;
    unused(&kernel, nqn, "the descriptor")?;
    volume.remove()
}
