//! Disks that are not as they should be: damaged, half made, unreadable.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Patch, PatchParams};
use rds_crds::names::ANNOTATION_RESET_BREAKER;
use rds_crds::volume::BreakerState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tonic::Code;

use super::{POD, down, holds, image, mounts_of, put, read, up};
use crate::fabric;
use crate::plane::{Plane, SOON, Use, Volume, refused};
use crate::rig::{Rig, sh, until};

fn device(volume: &Volume<'_>) -> Result<String> {
    Ok(fabric::disk(&volume.nqn()?)?.display().to_string())
}

fn until_breaker(volume: &Volume<'_>, wanted: BreakerState) -> Result<()> {
    until(&format!("the breaker to be {wanted:?}"), SOON, || {
        let status = volume.read()?.status.context("no status")?;
        let breaker = status.circuit_breaker.context("no breaker")?;
        ensure!(breaker.state == wanted, "{breaker:?}");
        Ok(())
    })
}

/// Three refusals open it; a person repairs and resets.
pub(super) fn damaged(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("damaged", json!({}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 31)?;
    down(&volume, Use::Mount)?;

    volume.attach()?;
    let disk = device(&volume)?;
    // The superblock is gone: what was formatted is never formatted again.
    overwrite(&disk, 0, &[0; 4096])?;
    refused(volume.stage(Use::Mount), Code::FailedPrecondition, "never formatted")?;
    ensure!(
        read(Path::new(&disk), 0, 4096)? == vec![0; 4096],
        "somebody wrote to it"
    );
    repair(&["-fy", "-b", "32768", "-B", "4096", &disk])?;

    // Inode 2 is the root folder, and the kernel has seen errors: what repairs small things does not dare.
    sh("debugfs", &["-w", "-R", "clri <2>", &disk])?;
    sh("debugfs", &["-w", "-R", "set_super_value state 2", &disk])?;
    for _ in 0..2 {
        refused(volume.stage(Use::Mount), Code::Internal, "Repair it")?;
        ensure!(mounts_of(&volume.staging())? == 0, "it was mounted");
    }
    until_breaker(&volume, BreakerState::Open)?;
    refused(volume.stage(Use::Mount), Code::Unavailable, "is damaged")?;
    refused(volume.stage(Use::Mount), Code::Unavailable, ANNOTATION_RESET_BREAKER)?;

    repair(&["-fy", &disk])?;
    refused(volume.stage(Use::Mount), Code::Unavailable, "is open")?;
    let reset = json!({"metadata": {"annotations": {ANNOTATION_RESET_BREAKER: "true"}}});
    e2e::run(
        plane
            .volumes()
            .patch(&volume.name, &PatchParams::default(), &Patch::Merge(&reset)),
    )?;
    until_breaker(&volume, BreakerState::Closed)?;
    volume.retry("stage after repair", || volume.stage(Use::Mount))?;
    // The repair put what had no folder any more into lost+found.
    let file = found(&volume.staging(), 1 << 20)?;
    let (folder, name) = (file.parent().context("a folder")?, file.file_name().unwrap_or_default());
    holds(folder, &name.to_string_lossy(), 31)?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()?;
    volume.delete()
}

/// As the kernel does it by itself after an error. Not every filesystem and kernel show it in the mounts.
pub(super) fn shut_down(_: &Rig, plane: &Plane) -> Result<()> {
    for fs in ["ext4", "xfs"] {
        let volume = plane.volume(&format!("shut-{fs}"), json!({"fsType": fs}))?;
        let folder = up(&volume, Use::Mount)?;
        put(&folder, "file", 32)?;
        let staging = volume.staging();
        sh("xfs_io", &["-x", "-c", "shutdown", &staging.display().to_string()])?;
        let second = POD.replace("01", "02");
        let answer = volume.publish(&second, Use::Mount);
        refused(answer, Code::FailedPrecondition, "has become read-only")?;
        volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
        volume.retry("unstage", || volume.unstage())?;
        volume.retry("stage", || volume.stage(Use::Mount))?;
        holds(&staging, "file", 32)?;
        down(&volume, Use::Mount)?;
        volume.delete()?;
    }
    Ok(())
}

/// As a person does it; 1 says that it was repaired. Once, right after a refused stage, the disk was
/// still in use, and who held it was not seen: maybe a program that the agent had just started, with its handles until it runs.
fn repair(arguments: &[&str]) -> Result<()> {
    let done = until("the disk to be free", SOON, || {
        let done = Command::new("e2fsck").args(arguments).output()?;
        ensure!(!String::from_utf8_lossy(&done.stdout).contains("is in use"), "{done:?}");
        Ok(done)
    })?;
    ensure!(done.status.code() == Some(1), "e2fsck {arguments:?}: {done:?}");
    Ok(())
}

fn overwrite(disk: &str, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut file = fs::File::options().write(true).open(disk)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

/// The one file of that size below a folder.
fn found(folder: &Path, size: u64) -> Result<PathBuf> {
    let list = sh(
        "find",
        &[
            &folder.display().to_string(),
            "-type",
            "f",
            "-size",
            &format!("{size}c"),
        ],
    )?;
    Ok(list.lines().next().context("the file is lost")?.into())
}

/// Kills the first mkfs that is seen.
fn hunt() -> Result<()> {
    let (begun, ours) = (Instant::now(), i32::try_from(std::process::id())?);
    while begun.elapsed() < SOON {
        for process in fs::read_dir("/proc")? {
            // It is younger than this process. To look at the kernel's as well takes longer than a mkfs does.
            let id = process?.file_name().to_string_lossy().parse().ok();
            let Some(id) = id.filter(|id| *id > ours) else { continue };
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            if let Some(id) = Pid::from_raw(id).filter(|_| name.trim() == "mkfs.ext4") {
                return Ok(kill_process(id, Signal::KILL)?);
            }
        }
    }
    bail!("no mkfs ran")
}

/// mkfs dies in the middle of its work.
pub(super) fn half_made(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("half-made", json!({"capacity": "1Gi"}))?;
    volume.attach()?;
    let hunter = std::thread::spawn(hunt);
    let first = volume.stage(Use::Mount);
    let hunted = hunter.join().map_err(|_| anyhow::anyhow!("its thread died"))?;
    hunted?;
    match first {
        Ok(()) => bail!("it was staged although its mkfs was killed"),
        Err(status) => ensure!(mounts_of(&volume.staging())? == 0, "mounted after {status:?}"),
    }
    ensure!(volume.ledger()? == "Intent", "the ledger says {}", volume.ledger()?);
    volume.retry("stage", || volume.stage(Use::Mount))?;
    put(&volume.staging(), "file", 33)?;
    holds(&volume.staging(), "file", 33)?;
    volume.retry("unstage", || volume.unstage())?;
    let checked = Command::new("e2fsck").args(["-fn", &device(&volume)?]).output()?;
    ensure!(checked.status.success(), "{checked:?}");
    volume.detach()?;
    volume.delete()
}

/// What is behind the disk ends early: reads past that fail on the target, and here.
pub(super) fn unreadable(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("unreadable", json!({}))?;
    let image = image()?;
    volume.attach()?;
    let disk = device(&volume)?;
    let whole = fs::metadata(&image)?.len();
    let looped = sh("losetup", &["-n", "-O", "NAME", "-j", &image.display().to_string()])?;
    let length = |bytes: u64| -> Result<()> {
        fs::File::options().write(true).open(&image)?.set_len(bytes)?;
        sh("losetup", &["-c", &looped]).map(drop)
    };
    length(1 << 20)?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let read = Command::new("dd")
        .args([
            &format!("if={disk}"),
            "of=/dev/null",
            "bs=1M",
            "skip=8",
            "count=1",
            "iflag=direct",
        ])
        .output()?;
    ensure!(
        !read.status.success(),
        "the disk can be read: the scenario shows nothing"
    );
    for _ in 0..2 {
        let answer = volume.stage(Use::Mount);
        let status = answer.err().context("it was staged")?;
        ensure!(status.code() == Code::Internal, "{status:?}");
    }
    ensure!(mounts_of(&volume.staging())? == 0, "it was mounted");
    ensure!(volume.ledger()? == "Blank", "the ledger says {}", volume.ledger()?);
    length(whole)?;
    // The image is sparse.
    let blocks = fs::metadata(&image)?.blocks();
    ensure!(blocks == 0, "somebody wrote to it: it has {blocks} blocks");
    // It can be read again, and is still blank: now it may be formatted.
    volume.retry("stage", || volume.stage(Use::Mount))?;
    put(&volume.staging(), "file", 34)?;
    holds(&volume.staging(), "file", 34)?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()?;
    volume.delete()
}
