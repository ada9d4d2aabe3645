//! The agent dies right after each of its steps, by the list of the agent itself: what is there in the end equals an undisturbed run.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use rds_node_agent::crash::STEPS;
use serde_json::json;

use super::{POD, down, foreign, holds, mounts_of, put, up};
use crate::fabric;
use crate::plane::{Plane, Use, Volume};
use crate::rig::Rig;

/// Attach, stage, publish, and the way back; then again with a growth.
const FIRST: [&str; 12] = [
    "intent",
    "connect",
    "report",
    "stage-ask",
    "stage-format",
    "stage-report",
    "stage-mount",
    "stage-say",
    "publish-mount",
    "unpublish-unmount",
    "unstage-unmount",
    "unstage-say",
];
const LEAVING: [&str; 2] = ["disconnect", "disconnected"];
const AGAIN: [&str; 3] = ["stage-check", "expand-grow", "expand-say"];
const BLOCK: [&str; 3] = ["stage-block", "publish-node", "unpublish-remove"];
const LOST: [&str; 2] = ["say-loss", "clear-stale-mount"];
const REFUSED: [&str; 1] = ["stage-count"];

/// What counts in the end.
fn state(volume: &Volume<'_>) -> Result<String> {
    let said = volume.said()?;
    let mut conditions: Vec<_> = said
        .conditions
        .iter()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
        .collect();
    conditions.sort();
    let status = volume.read()?.status.unwrap_or_default();
    Ok(format!(
        "{conditions:?}, counted {:?} failures, ledger {}, {} mounts at the staging path",
        said.failures,
        volume.ledger()?,
        mounts_of(&volume.staging())?
    ) + &format!(", capacity {:?}", status.capacity))
}

/// A life of a volume with a filesystem, and how it was at each of its stations.
fn mounted(plane: &Plane, name: &str, steps: [&[&'static str]; 3]) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    let [first, leaving, again] = steps;
    let volume = plane.volume(name, json!({}))?;
    let doomed = plane.doom(first)?;
    let folder = up(&volume, Use::Mount)?;
    seen.push(state(&volume)?);
    ensure!(mounts_of(&folder)? == 1, "{} mounts at the target", mounts_of(&folder)?);
    put(&folder, "file", 21)?;
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    volume.retry("unstage", || volume.unstage())?;
    seen.push(state(&volume)?);
    plane.survived(&doomed)?;

    let doomed = plane.doom(leaving)?;
    volume.detach()?;
    seen.push(format!("{} sessions", fabric::sessions()?.len()));
    plane.survived(&doomed)?;

    let doomed = plane.doom(again)?;
    let folder = up(&volume, Use::Mount)?;
    volume.grow("768Mi")?;
    volume.retry("expand", || volume.expand(Use::Mount, POD))?;
    holds(&folder, "file", 21)?;
    seen.push(state(&volume)?);
    plane.survived(&doomed)?;
    down(&volume, Use::Mount)?;
    volume.delete()?;
    Ok(seen)
}

pub(super) fn killed_at_every_step(_: &Rig, plane: &Plane) -> Result<()> {
    let undisturbed = mounted(plane, "calm", [&[], &[], &[]])?;
    let disturbed = mounted(plane, "killed-steps", [&FIRST, &LEAVING, &AGAIN])?;
    for (calm, killed) in undisturbed.iter().zip(&disturbed) {
        ensure!(calm == killed, "undisturbed: {calm}; killed at every step: {killed}");
    }
    block(plane)?;
    lost(plane)?;
    refused_and_counted(plane)?;
    let reached = [&FIRST[..], &LEAVING, &AGAIN, &BLOCK, &LOST, &REFUSED].concat();
    let missing: Vec<_> = STEPS.iter().filter(|step| !reached.contains(step)).collect();
    ensure!(missing.is_empty(), "no story reaches {missing:?}");
    let reached: BTreeSet<_> = reached.into_iter().collect();
    println!("   killed after each of {} steps", reached.len());
    Ok(())
}

fn block(plane: &Plane) -> Result<()> {
    let volume = plane.volume("killed-block", json!({"volumeMode": "Block"}))?;
    let doomed = plane.doom(&BLOCK)?;
    let device = up(&volume, Use::Block)?;
    super::write(&device, 4 << 20, &super::pattern(22, 1 << 20))?;
    ensure!(
        super::read(&device, 4 << 20, 1 << 20)? == super::pattern(22, 1 << 20),
        "other bytes"
    );
    ensure!(
        volume.ledger()? == "UsedAsBlock",
        "the ledger says {}",
        volume.ledger()?
    );
    down(&volume, Use::Block)?;
    plane.survived(&doomed)?;
    volume.delete()
}

/// The session goes beneath a mount: the loss is said, what is left is cleared, and the volume is used again.
fn lost(plane: &Plane) -> Result<()> {
    let volume = plane.volume("killed-lost", json!({}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 23)?;
    fabric::disconnect(&volume.nqn()?)?;
    let doomed = plane.doom(&LOST)?;
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    volume.retry("stage over what is left", || volume.stage(Use::Mount))?;
    plane.survived(&doomed)?;
    ensure!(mounts_of(&volume.staging())? == 1, "mounts are stacked");
    let folder = volume.retry("publish", || volume.publish(POD, Use::Mount))?;
    holds(&folder, "file", 23)?;
    down(&volume, Use::Mount)?;
    volume.delete()
}

fn refused_and_counted(plane: &Plane) -> Result<()> {
    let volume = plane.volume("killed-count", json!({}))?;
    volume.attach()?;
    foreign(&volume)?;
    let doomed = plane.doom(&REFUSED)?;
    // The one whose answer died with the agent counts as well.
    ensure!(volume.stage(Use::Mount).is_err(), "it was staged");
    volume.retry("the count", || match volume.said() {
        Ok(said) if said.failures == Some(1) => Ok(()),
        other => Err(tonic::Status::unavailable(format!("{other:?}"))),
    })?;
    plane.survived(&doomed)?;
    ensure!(mounts_of(&volume.staging())? == 0, "it was mounted");
    volume.detach()?;
    volume.delete()
}
