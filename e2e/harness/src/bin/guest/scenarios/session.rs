//! The agent's connections on a real kernel: made, found again, refused, changed, cut, ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rds_node_agent::attachment::decide::DisconnectKey;
use rds_node_agent::attachment::model::Use;
use rds_node_agent::fabrics::{ConnectError, Fabrics, Link, Options, Target};
use rds_node_agent::nvme::sysfs::{self, Disk};
use rds_node_agent::nvme::{Kernel, identity};

use crate::fabric;
use crate::rig::{Rig, TARGET, sh, until};

pub(super) const PREFIX: &str = "nqn.2000-02.com.mikrotik:pvc-";
pub(super) const KUBELET: &str = "/run/kubelet";
const ROOT: &str = "/";

/// A disk on the appliance that goes with this.
pub(super) struct Exported<'a> {
    rig: &'a Rig,
    slot: String,
    pub(super) nqn: String,
}

impl<'a> Exported<'a> {
    pub(super) fn new(rig: &'a Rig, slot: &str, mib: u64) -> Result<Self> {
        let nqn = format!("{PREFIX}{slot}");
        rig.ssh(&format!(
            "/disk add type=file slot={slot} file-path=storage-pool/metal-csi/{slot}.img file-size={} nvme-tcp-export=yes \
             nvme-tcp-server-nqn={nqn}",
            mib << 20
        ))?;
        let slot = slot.to_owned();
        Ok(Self { rig, slot, nqn })
    }

    pub(super) fn target(&self) -> Target {
        target(&self.nqn)
    }

    pub(super) fn remove(self) -> Result<()> {
        self.rig.ssh(&format!("/disk remove [find slot={}]", self.slot))?;
        self.rig
            .ssh(&format!(
                "/file remove [find name=\"storage-pool/metal-csi/{}.img\"]",
                self.slot
            ))
            .map(drop)
    }
}

pub(super) fn target(nqn: &str) -> Target {
    Target {
        nqn: nqn.to_owned(),
        address: TARGET.to_owned(),
        port: 4420,
        options: Options::default(),
    }
}

/// The agent's hands on this kernel, with the identity of this machine.
pub(super) fn kernel() -> Result<Kernel> {
    let identity = identity::load(Path::new("/run/rds-csi"), "a machine")?;
    Ok(Kernel::new(Path::new(ROOT), Path::new(KUBELET), PREFIX, identity))
}

pub(super) fn connected(kernel: &Kernel, to: &Target) -> Result<Disk> {
    match kernel.connect(to)? {
        Link::Ready(name) => {
            let disk = kernel.disk(&to.nqn)?.context("ready without a disk")?;
            ensure!(
                disk.name == name && disk.live(),
                "ready as {name}, and sysfs shows {disk:?}"
            );
            Ok(disk)
        }
        Link::Pending(waits) => bail!("not ready: {waits}"),
    }
}

pub(super) fn state(kernel: &Kernel, nqn: &str) -> Result<String> {
    let all = kernel.sessions()?;
    let ours: Vec<_> = all.iter().filter(|s| s.nqn == nqn).collect();
    match ours.as_slice() {
        [one] => Ok(one.state.clone()),
        other => bail!("{} sessions of {nqn}", other.len()),
    }
}

pub(super) fn until_state(kernel: &Kernel, nqn: &str, wanted: &str, seconds: u64) -> Result<()> {
    until(&format!("{nqn} to be {wanted}"), Duration::from_secs(seconds), || {
        let state = state(kernel, nqn)?;
        ensure!(state == wanted, "it is {state}");
        Ok(())
    })
}

/// Ends it as the agent does for an attachment that leaves, and sees that nothing is left.
pub(super) fn leave(kernel: &Kernel, nqn: &str) -> Result<()> {
    ensure!(kernel.in_use(nqn) == Use::Unused, "{nqn}: {:?}", kernel.in_use(nqn));
    kernel.disconnect(nqn, DisconnectKey::Unused)?;
    ensure!(kernel.sessions()?.iter().all(|s| s.nqn != nqn), "{nqn} is left");
    ensure!(kernel.disk(nqn)?.is_none(), "{nqn} has a disk left");
    ensure!(
        kernel.in_use(nqn) == Use::Unused,
        "a disconnected disk is in use: {:?}",
        kernel.in_use(nqn)
    );
    Ok(())
}

fn attribute(nqn: &str, name: &str) -> Result<String> {
    for controller in fs::read_dir("/sys/class/nvme")? {
        let folder = controller?.path();
        if fs::read_to_string(folder.join("subsysnqn"))?.trim() == nqn {
            return Ok(fs::read_to_string(folder.join(name))?.trim().to_owned());
        }
    }
    bail!("no controller of {nqn}")
}

/// Connect, find, find again, end; twice, since names and numbers are others then.
pub(super) fn connect_and_leave(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "conn", 64)?;
    let kernel = kernel()?;
    ensure!(kernel.disk(&volume.nqn)?.is_none() && kernel.in_use(&volume.nqn) == Use::Unused);
    for _ in 0..2 {
        let disk = connected(&kernel, &volume.target())?;
        ensure!(disk.size_bytes == 64 << 20, "{disk:?}");
        ensure!(disk.wwid.as_deref().is_some_and(|w| w.starts_with("uuid.")), "{disk:?}");
        ensure!(disk.path.exists(), "{disk:?}");
        ensure!(state(&kernel, &volume.nqn)? == sysfs::LIVE);
        for (name, value) in [
            ("hostnqn", kernel.identity().host_nqn.as_str()),
            ("hostid", kernel.identity().host_id.as_str()),
            ("ctrl_loss_tmo", "off"),
            ("reconnect_delay", "5"),
            ("kato", "5"),
        ] {
            let now = attribute(&volume.nqn, name)?;
            ensure!(now == value, "{name} is {now}, not {value}");
        }
        let again = connected(&kernel, &volume.target())?;
        ensure!(again == disk, "a second connect gives {again:?}");
        leave(&kernel, &volume.nqn)?;
        kernel.disconnect(&volume.nqn, DisconnectKey::Unused)?;
    }
    volume.remove()
}

/// Whoever connected it: it is found by its NQN, and not doubled.
pub(super) fn found_by_nqn(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "found", 64)?;
    let kernel = kernel()?;
    fabric::connect(&volume.nqn, TARGET, 4420)?;
    connected(&kernel, &volume.target())?;
    let sessions = fabric::sessions()?;
    ensure!(sessions.len() == 1, "{sessions:?}");
    leave(&kernel, &volume.nqn)?;
    volume.remove()
}

/// Each refusal is told apart as far as the kernel lets us.
pub(super) fn refusals(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "refuse", 64)?;
    let kernel = kernel()?;
    let said = |to: &Target| match kernel.connect(to) {
        Ok(link) => bail!("connected: {link:?}"),
        Err(e) => Ok(e),
    };
    // The other one keeps the port open.
    let unknown = said(&target(&format!("{PREFIX}nobody")))?;
    ensure!(
        matches!(unknown, ConnectError::Refused(_)),
        "an unknown subsystem: {unknown}"
    );
    let mut closed = volume.target();
    closed.port = 4421;
    let closed = said(&closed)?;
    ensure!(
        matches!(&closed, ConnectError::Unreachable(_, why) if why.contains("refused")),
        "a closed port: {closed}"
    );
    let mut away = volume.target();
    away.address = "10.9.0.77".to_owned();
    let away = said(&away)?;
    ensure!(matches!(away, ConnectError::Unreachable(..)), "nobody there: {away}");
    let mut nowhere = volume.target();
    nowhere.address = "fd00::1".to_owned();
    let nowhere = said(&nowhere)?;
    ensure!(matches!(nowhere, ConnectError::Unreachable(..)), "no route: {nowhere}");
    let foreign = said(&target("nqn.2026-01.org.example:root"))?;
    ensure!(foreign.to_string().contains("does not begin with"), "{foreign}");
    ensure!(fabric::sessions()?.is_empty(), "{:?}", fabric::sessions()?);
    volume.remove()
}

/// While the cable is cut the session stays, a second connect finds it, and it is the same disk afterwards.
pub(super) fn cut_cable(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "cable", 64)?;
    let kernel = kernel()?;
    let disk = connected(&kernel, &volume.target())?;
    rig.cable(false)?;
    until_state(&kernel, &volume.nqn, "connecting", 20)?;
    match kernel.connect(&volume.target())? {
        Link::Pending(waits) => ensure!(waits.contains("connecting"), "{waits}"),
        Link::Ready(name) => bail!("ready as {name} over a cut cable"),
    }
    // Nothing used it, so there is nothing to lose; and it does not wait for the cable.
    let unused = kernel.in_use(&volume.nqn);
    ensure!(unused == Use::Unused, "an idle disk over a cut cable: {unused:?}");
    rig.cable(true)?;
    until_state(&kernel, &volume.nqn, sysfs::LIVE, 30)?;
    let now = kernel.disk(&volume.nqn)?.context("no disk")?;
    ensure!(now.sequence == disk.sequence, "another disk: {now:?}, was {disk:?}");
    rig.cable(false)?;
    until_state(&kernel, &volume.nqn, "connecting", 20)?;
    kernel.disconnect(&volume.nqn, DisconnectKey::Unused)?;
    ensure!(fabric::sessions()?.is_empty());
    rig.cable(true)?;
    volume.remove()
}

/// A namespace that the target takes away leaves a live connection without a disk.
pub(super) fn live_without_disk(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "bare", 64)?;
    let kernel = kernel()?;
    connected(&kernel, &volume.target())?;
    let enable = PathBuf::from("/sys/kernel/config/nvmet/subsystems")
        .join(&volume.nqn)
        .join("namespaces/1/enable");
    fs::write(&enable, "0")?;
    until("the disk to go", Duration::from_secs(60), || {
        ensure!(kernel.disk(&volume.nqn)?.is_none());
        Ok(())
    })?;
    ensure!(state(&kernel, &volume.nqn)? == sysfs::LIVE);
    match kernel.connect(&volume.target())? {
        Link::Pending(waits) => ensure!(waits.contains("no disk"), "{waits}"),
        Link::Ready(name) => bail!("ready as {name} without a namespace"),
    }
    fs::write(&enable, "1")?;
    connected(&kernel, &volume.target())?;
    leave(&kernel, &volume.nqn)?;
    volume.remove()
}

/// Times change on a live connection, growth shows, and what is foreign is out of reach of both.
pub(super) fn changed_live(rig: &Rig) -> Result<()> {
    let volume = Exported::new(rig, "live", 64)?;
    let kernel = kernel()?;
    let disk = connected(&kernel, &volume.target())?;
    let options = Options {
        ctrl_loss_tmo: 700,
        reconnect_delay: 7,
        ..Options::default()
    };
    let changed = kernel.set_timeouts(&volume.nqn, &options)?;
    ensure!(changed.len() == 2, "{changed:?}");
    ensure!(kernel.set_timeouts(&volume.nqn, &options)?.is_empty(), "changed twice");
    ensure!(attribute(&volume.nqn, "ctrl_loss_tmo")? == "700" && attribute(&volume.nqn, "reconnect_delay")? == "7");
    kernel.set_timeouts(&volume.nqn, &Options::default())?;
    ensure!(attribute(&volume.nqn, "ctrl_loss_tmo")? == "off");
    ensure!(
        kernel.set_timeouts(&volume.nqn, &Options::default())?.is_empty(),
        "off is -1"
    );
    rig.ssh(&format!("/disk set [find slot=live] file-size={}", 96_u64 << 20))?;
    kernel.rescan(&volume.nqn)?;
    until("the new size", Duration::from_secs(60), || {
        let now = kernel.disk(&volume.nqn)?.context("no disk")?;
        ensure!(now.size_bytes == 96 << 20 && now.sequence == disk.sequence, "{now:?}");
        Ok(())
    })?;
    leave(&kernel, &volume.nqn)?;
    volume.remove()
}

/// I6: what is not managed holds the node's own filesystem, and is never touched.
pub(super) fn foreign_is_left_alone(rig: &Rig) -> Result<()> {
    let nqn = "nqn.2026-01.org.example:nixos-node-var";
    rig.ssh(&format!(
        "/disk add type=file slot=foreign file-path=storage-pool/metal-csi/foreign.img file-size={} nvme-tcp-export=yes \
         nvme-tcp-server-nqn={nqn}",
        64 << 20
    ))?;
    fabric::connect(nqn, TARGET, 4420)?;
    let node = fabric::disk(nqn)?.display().to_string();
    sh("mkfs.ext4", &["-q", &node])?;
    fs::create_dir_all("/run/var")?;
    sh("mount", &[&node, "/run/var"])?;
    fs::write("/run/var/data", "of the node")?;
    let kernel = kernel()?;
    for key in [DisconnectKey::Unused, DisconnectKey::Orphan, DisconnectKey::Fenced] {
        let refused = kernel.disconnect(nqn, key);
        ensure!(refused.is_err(), "{key:?} opened the door to {nqn}");
    }
    ensure!(kernel.rescan(nqn).is_err() && kernel.set_timeouts(nqn, &Options::default()).is_err());
    ensure!(attribute(nqn, "ctrl_loss_tmo")? == "600", "its times were changed");
    ensure!(state(&kernel, nqn)? == sysfs::LIVE, "it is not live any more");
    sh("umount", &["/run/var"])?;
    sh("mount", &["-o", "ro", &node, "/run/var"])?;
    ensure!(fs::read_to_string("/run/var/data")? == "of the node");
    sh("umount", &["/run/var"])?;
    fabric::disconnect(nqn)?;
    rig.ssh("/disk remove [find slot=foreign]")?;
    rig.ssh("/file remove [find name=\"storage-pool/metal-csi/foreign.img\"]")
        .map(drop)
}
