//! What the target does to a session that is in use, and what the kernel makes of it: the ground on which the agent stands.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use routeros_sim::knobs::{ExportOff, NamespaceUuid};

use super::path::{pattern, read, write};
use crate::fabric;
use crate::rig::{Rig, TARGET, until};

/// For what an initiator does by itself: two attempts to connect again.
const SOON: Duration = Duration::from_secs(60);

/// A disk of 64 MiB on the appliance, and connected.
struct Disk<'a> {
    rig: &'a Rig,
    slot: &'static str,
    nqn: String,
}

impl<'a> Disk<'a> {
    fn add(rig: &'a Rig, slot: &'static str) -> Result<Self> {
        let nqn = format!("nqn.2000-02.com.mikrotik:pvc-{slot}");
        rig.console(&format!(
            "/disk add type=file slot={slot} file-path=storage-pool/metal-csi/{slot}.img file-size=64M nvme-tcp-export=yes \
             nvme-tcp-server-nqn={nqn}"
        ))?;
        fabric::connect(&nqn, TARGET, 4420)?;
        Ok(Self { rig, slot, nqn })
    }

    fn set(&self, what: &str) -> Result<()> {
        self.rig.console(&format!("/disk set [find slot={}] {what}", self.slot))
    }

    /// Writes and syncs on a thread, as it may hang.
    fn writing(&self, seed: u8) -> Result<JoinHandle<Result<()>>> {
        let device = fabric::disk(&self.nqn)?;
        Ok(std::thread::spawn(move || {
            write(&device, 8 << 20, &pattern(seed, 256 << 10))
        }))
    }

    fn holds(&self, seed: u8) -> Result<()> {
        let device = fabric::disk(&self.nqn)?;
        drop_caches()?;
        let is = read(&device, 8 << 20, 256 << 10)?;
        ensure!(
            is == pattern(seed, 256 << 10),
            "{} holds other data than was written",
            device.display()
        );
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        fabric::disconnect(&self.nqn)?;
        self.rig.console(&format!("/disk remove [find slot={}]", self.slot))?;
        self.rig
            .console(&format!("/file remove [find name~\"/{}.img\"]", self.slot))
    }
}

/// What is read next comes from the target, not from memory.
fn drop_caches() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")
}

fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("the writer panicked"))?
}

fn bytes(device: &Path) -> Result<u64> {
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sectors = std::fs::read_to_string(format!("/sys/class/block/{name}/size"))?;
    Ok(sectors.trim().parse::<u64>()? * 512)
}

pub(crate) fn a_growth_is_seen_at_once(rig: &Rig) -> Result<()> {
    let disk = Disk::add(rig, "grows")?;
    ended(disk.writing(2)?)?;
    disk.set("file-size=128M")?;
    until("the kernel to see the growth", SOON, || {
        let size = bytes(&fabric::disk(&disk.nqn)?)?;
        ensure!(size == 128 << 20, "it is {size}");
        Ok(())
    })?;
    disk.holds(2)?;
    disk.remove()
}

pub(crate) fn a_write_outlives_a_reboot_of_the_target(rig: &Rig) -> Result<()> {
    let disk = Disk::add(rig, "reboots")?;
    ended(disk.writing(3)?)?;
    rig.sim.knobs(|knobs| {
        knobs.reboot_ms = 1500;
        knobs.exports_after_ms = 0;
        knobs.port_before_exports = false;
    });
    e2e::run(rig.sim.reboot());
    let writer = disk.writing(4)?;
    ensure!(!writer.is_finished(), "it wrote to a target that is down");
    ended(writer)?;
    disk.holds(4)?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    disk.remove()
}

pub(crate) fn a_cut_cable_only_delays(rig: &Rig) -> Result<()> {
    let disk = Disk::add(rig, "cable")?;
    rig.cable(false)?;
    let writer = disk.writing(5)?;
    // Longer than the keep-alive of 5 s: the kernel sees the loss, and must find back by itself.
    until("the kernel to notice", SOON, || {
        ensure!(!fabric::states(&disk.nqn)?.contains(&"live".to_owned()), "it is live");
        Ok(())
    })?;
    ensure!(!writer.is_finished(), "it wrote without a cable");
    rig.cable(true)?;
    ended(writer)?;
    disk.holds(5)?;
    disk.remove()
}

pub(crate) fn export_off_drops_and_lets_nobody_in(rig: &Rig) -> Result<()> {
    let disk = Disk::add(rig, "drops")?;
    ended(disk.writing(6)?)?;
    disk.set("nvme-tcp-export=no")?;
    until("the session to be cut", SOON, || {
        ensure!(!fabric::states(&disk.nqn)?.contains(&"live".to_owned()), "it is live");
        Ok(())
    })?;
    // A new generation: the old name is nowhere any more.
    let next = format!("{}.g2-abcd", disk.nqn);
    disk.set(&format!("nvme-tcp-server-nqn={next} nvme-tcp-export=yes"))?;
    fabric::disconnect(&disk.nqn)?;
    ensure!(
        fabric::connect(&disk.nqn, TARGET, 4420).is_err(),
        "the old name still connects"
    );
    fabric::connect(&next, TARGET, 4420)?;
    let renamed = Disk {
        rig,
        slot: disk.slot,
        nqn: next,
    };
    renamed.holds(6)?;
    renamed.remove()
}

pub(crate) fn export_off_may_leave_sessions(rig: &Rig) -> Result<()> {
    rig.sim.knobs(|knobs| knobs.export_off = ExportOff::LeavesSessions);
    let disk = Disk::add(rig, "leaves")?;
    disk.set("nvme-tcp-export=no")?;
    ended(disk.writing(7)?)?;
    disk.holds(7)?;
    fabric::disconnect(&disk.nqn)?;
    ensure!(
        fabric::connect(&disk.nqn, TARGET, 4420).is_err(),
        "a new session to an export that is off"
    );
    disk.set("nvme-tcp-export=yes")?;
    fabric::connect(&disk.nqn, TARGET, 4420)?;
    disk.holds(7)?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    disk.remove()
}

pub(crate) fn another_identity_is_another_disk(rig: &Rig) -> Result<()> {
    rig.sim.knobs(|knobs| knobs.namespace_uuid = NamespaceUuid::Random);
    let disk = Disk::add(rig, "identity")?;
    let device = fabric::disk(&disk.nqn)?;
    disk.set("nvme-tcp-export=no")?;
    disk.set("nvme-tcp-export=yes")?;
    until("the kernel to drop the disk whose identity changed", SOON, || {
        ensure!(!device.exists(), "{} is there", device.display());
        Ok(())
    })?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    disk.remove()
}
