//! The agent that ships on a real kernel, with the operator on the host: a scenario plays kubelet at the CSI socket.

mod damage;
mod fence;
mod outage;
mod sanity;
mod steps;
mod uses;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tonic::Code;

use super::path::{pattern, read, write};
use crate::fabric;
use crate::plane::{Plane, Use, Volume, refused};
use crate::rig::{Rig, sh, until};

/// A story with an agent in it.
pub(crate) struct Scenario {
    /// By which it is run alone.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// The story.
    pub(crate) run: fn(&Rig, &Plane) -> Result<()>,
}

/// In the order in which they run.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "agent_attaches_and_leaves",
        about: "an admitted attachment is a connection on this kernel, and its deletion ends it",
        run: attaches_and_leaves,
    },
    Scenario {
        name: "agent_ext4",
        about: "a fresh ext4 keeps its files over detach and attach",
        run: |_, plane| keeps_files(plane, "ext4"),
    },
    Scenario {
        name: "agent_xfs",
        about: "a fresh xfs keeps its files over detach and attach",
        run: |_, plane| keeps_files(plane, "xfs"),
    },
    Scenario {
        name: "agent_btrfs",
        about: "a fresh btrfs keeps its files over detach and attach",
        run: |_, plane| keeps_files(plane, "btrfs"),
    },
    Scenario {
        name: "agent_block",
        about: "a raw block volume keeps its bytes over detach and attach",
        run: keeps_bytes,
    },
    Scenario {
        name: "agent_expands",
        about: "a filesystem grows while it is written to",
        run: expands,
    },
    Scenario {
        name: "agent_foreign_signature",
        about: "a disk on which somebody else's filesystem is found is never formatted",
        run: foreign_signature,
    },
    Scenario {
        name: "agent_killed",
        about: "SIGKILL for the agent between any two calls loses nothing and stacks nothing",
        run: killed,
    },
    Scenario {
        name: "agent_target_reboots",
        about: "files that are written while the appliance reboots arrive",
        run: target_reboots,
    },
    Scenario {
        name: "agent_damaged",
        about: "a damaged filesystem is refused, opens the breaker, and is used again after repair and reset",
        run: damage::damaged,
    },
    Scenario {
        name: "agent_shut_down",
        about: "a filesystem that the kernel has given up is given to no writer, and is used again once it was unmounted",
        run: damage::shut_down,
    },
    Scenario {
        name: "agent_half_made",
        about: "a mkfs that was killed halfway is done again, and never mounted before",
        run: damage::half_made,
    },
    Scenario {
        name: "agent_cut_cable",
        about: "over a cut cable writes wait and arrive, the agent may be replaced, and nothing is unmounted",
        run: outage::cut_cable,
    },
    Scenario {
        name: "agent_gone_for_good",
        about: "a disk that the kernel gave up is said to be lost, and a new pod finds what was written",
        run: outage::gone_for_good,
    },
    Scenario {
        name: "agent_port_before_exports",
        about: "an appliance whose port opens before its exports: nothing is lost, or it is said and a new pod goes on",
        run: outage::port_before_exports,
    },
    Scenario {
        name: "agent_another_identity",
        about: "another namespace under the same name is never swapped beneath a pod",
        run: outage::another_identity,
    },
    Scenario {
        name: "agent_others",
        about: "a session of somebody else is used and not doubled; a foreign one is never touched",
        run: uses::others,
    },
    Scenario {
        name: "agent_dirty_reader",
        about: "a reader of a filesystem with a journal to replay is refused and changes not a byte",
        run: uses::dirty_reader,
    },
    Scenario {
        name: "agent_many_mounts",
        about: "a hundred mounts of a device are the last ones",
        run: uses::many_mounts,
    },
    Scenario {
        name: "agent_killed_at_every_step",
        about: "an agent that dies right after any of its steps changes nothing in the end",
        run: steps::killed_at_every_step,
    },
    Scenario {
        name: "agent_unreadable",
        about: "a disk that gives read errors is never formatted",
        run: damage::unreadable,
    },
    Scenario {
        name: "agent_plain_open",
        about: "with all attachments deleted, by force at last, a raw device that is open stays connected",
        run: uses::plain_open,
    },
    Scenario {
        name: "agent_fenced_writer",
        about: "a node that is cut while it writes damages nothing of the next one, and comes back without a reboot",
        run: fence::fenced_writer,
    },
    Scenario {
        name: "csi_sanity",
        about: "the conformance suite of CSI passes whole, both services together, on real devices",
        run: sanity::passes,
    },
];

/// A pod of this name, as a scenario plays it.
const POD: &str = "6d0c9b0e-0000-4000-8000-000000000001";

fn attaches_and_leaves(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("attaches", json!({}))?;
    volume.attach()?;
    let sessions = fabric::sessions()?;
    ensure!(sessions == [volume.nqn()?], "connected to {sessions:?}");
    fabric::disk(&volume.nqn()?)?;
    volume.detach()?;
    ensure!(fabric::sessions()?.is_empty(), "still connected");
    volume.delete()
}

/// Attached, staged and published.
fn up(volume: &Volume<'_>, used: Use) -> Result<PathBuf> {
    volume.attach()?;
    volume.retry("stage", || volume.stage(used))?;
    volume.retry("publish", || volume.publish(POD, used))
}

fn down(volume: &Volume<'_>, used: Use) -> Result<()> {
    volume.retry("unpublish", || volume.unpublish(POD, used))?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()
}

/// Writes a file, and that it is on the disk.
fn put(folder: &Path, name: &str, seed: u8) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(folder.join(name))?;
    file.write_all(&pattern(seed, 1 << 20))?;
    Ok(file.sync_all()?)
}

fn holds(folder: &Path, name: &str, seed: u8) -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    ensure!(
        fs::read(folder.join(name))? == pattern(seed, 1 << 20),
        "{name} holds other data than was written"
    );
    Ok(())
}

/// The image of the newest disk on the appliance: they are numbered.
fn image() -> Result<PathBuf> {
    let mut images = fs::read_dir("/run/images")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
    images.sort_by_key(number);
    images.pop().context("there is no image")
}

/// When the image of the newest disk was written to last.
fn touched() -> Result<(i64, i64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let image = fs::metadata(image()?)?;
    Ok((image.mtime(), image.mtime_nsec(), image.blocks()))
}

fn mounts_of(path: &Path) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let path = path.display().to_string();
    Ok(table
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some(path.as_str()))
        .count())
}

fn keeps_files(plane: &Plane, fs: &str) -> Result<()> {
    let volume = plane.volume(fs, json!({"fsType": fs}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 11)?;
    // What kubelet does after its own restart.
    volume.retry("stage again", || volume.stage(Use::Mount))?;
    volume.retry("publish again", || volume.publish(POD, Use::Mount))?;
    ensure!(mounts_of(&folder)? == 1, "mounts are stacked");
    down(&volume, Use::Mount)?;
    ensure!(!folder.exists(), "{} is left", folder.display());
    ensure!(volume.ledger()? == "Formatted", "the ledger says {}", volume.ledger()?);

    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "file", 11)?;
    down(&volume, Use::Mount)?;
    volume.delete()
}

fn keeps_bytes(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("block", json!({"volumeMode": "Block"}))?;
    let device = up(&volume, Use::Block)?;
    write(&device, 4 << 20, &pattern(12, 1 << 20))?;
    down(&volume, Use::Block)?;
    let device = up(&volume, Use::Block)?;
    ensure!(
        read(&device, 4 << 20, 1 << 20)? == pattern(12, 1 << 20),
        "other bytes than were written"
    );
    down(&volume, Use::Block)?;
    volume.delete()
}

fn expands(_: &Rig, plane: &Plane) -> Result<()> {
    for fs in ["ext4", "xfs"] {
        let volume = plane.volume(&format!("grows-{fs}"), json!({"fsType": fs}))?;
        let folder = up(&volume, Use::Mount)?;
        put(&folder, "before", 13)?;
        let blocks = |folder: &Path| sh("stat", &["-f", "-c", "%b", &folder.display().to_string()]);
        let small: u64 = blocks(&folder)?.parse()?;
        volume.grow("1Gi")?;
        put(&folder, "meanwhile", 14)?;
        volume.retry("expand", || volume.expand(Use::Mount, POD))?;
        let large: u64 = blocks(&folder)?.parse()?;
        ensure!(large > small * 3 / 2, "{fs} had {small} blocks and has {large}");
        holds(&folder, "before", 13)?;
        holds(&folder, "meanwhile", 14)?;
        down(&volume, Use::Mount)?;
        volume.delete()?;
    }
    Ok(())
}

/// Somebody else makes a filesystem on the disk.
fn foreign(volume: &Volume<'_>) -> Result<String> {
    let device = fabric::disk(&volume.nqn()?)?.display().to_string();
    let uuid = "0d0e0f00-0000-4000-8000-000000000001";
    sh("mkfs.ext4", &["-q", "-U", uuid, &device])?;
    Ok(device)
}

/// The disk is blank by the ledger, and yet somebody wrote to it: the ledger is not believed alone.
fn foreign_signature(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("foreign", json!({}))?;
    volume.attach()?;
    let device = foreign(&volume)?;
    // All of the disk takes a minute on emulated processors; that nobody wrote anywhere else is told by its image.
    let head = || {
        sh("sync", &[])?;
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        read(Path::new(&device), 0, 16 << 20)
    };
    let before = (head()?, touched()?);
    for _ in 0..3 {
        refused(volume.stage(Use::Mount), Code::FailedPrecondition, "")?;
    }
    ensure!((head()?, touched()?) == before, "it was written to");
    ensure!(mounts_of(&volume.staging())? == 0, "it was mounted");
    volume.detach()?;
    volume.delete()
}

fn killed(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("killed", json!({}))?;
    let kill = || plane.agent.restart();
    volume.attach()?;
    kill()?;
    volume.retry("stage", || volume.stage(Use::Mount))?;
    kill()?;
    let folder = volume.retry("publish", || volume.publish(POD, Use::Mount))?;
    kill()?;
    put(&folder, "file", 15)?;
    volume.retry("publish again", || volume.publish(POD, Use::Mount))?;
    ensure!(
        (mounts_of(&folder)?, mounts_of(&volume.staging())?) == (1, 1),
        "mounts are stacked"
    );
    holds(&folder, "file", 15)?;
    kill()?;
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    kill()?;
    volume.retry("unstage", || volume.unstage())?;
    kill()?;
    volume.detach()?;
    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "file", 15)?;
    down(&volume, Use::Mount)?;
    volume.delete()
}

fn target_reboots(rig: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("reboot", json!({}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "before", 16)?;
    rig.sim.knobs(|knobs| {
        knobs.reboot_ms = 2000;
        knobs.exports_after_ms = 0;
        knobs.port_before_exports = false;
    });
    e2e::run(rig.sim.reboot());
    put(&folder, "meanwhile", 17)?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    until("the session to be live again", Duration::from_secs(60), || {
        let states = fabric::states(&volume.nqn()?)?;
        ensure!(states == ["live"], "it is {states:?}");
        Ok(())
    })?;
    holds(&folder, "before", 16)?;
    holds(&folder, "meanwhile", 17)?;
    down(&volume, Use::Mount)?;
    volume.delete()
}
