//! The way to the disk fails beneath a pod: what waits arrives, what is lost is said, and nothing hangs for ever.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use rds_crds::condition::find_condition;
use routeros_sim::knobs::NamespaceUuid;
use serde_json::json;
use tonic::Code;

use super::{POD, down, holds, mounts_of, put, up};
use crate::fabric;
use crate::plane::{Plane, SOON, Use, Volume, refused};
use crate::rig::{Rig, until};

/// Writes on a thread, as it may hang.
fn writing(folder: &Path, name: &'static str, seed: u8) -> JoinHandle<Result<()>> {
    let folder: PathBuf = folder.into();
    std::thread::spawn(move || put(&folder, name, seed))
}

fn arrived(writer: JoinHandle<Result<()>>) -> Result<()> {
    writer.join().map_err(|_| anyhow!("the writer panicked"))?
}

fn until_session(volume: &Volume<'_>, wanted: &[&str]) -> Result<()> {
    let nqn = volume.nqn()?;
    until(&format!("the session to be {wanted:?}"), SOON, || {
        let states = fabric::states(&nqn)?;
        ensure!(states == wanted, "it is {states:?}");
        Ok(())
    })
}

fn until_said(volume: &Volume<'_>, kind: &str, status: &str, reason: &str) -> Result<()> {
    until(&format!("{kind} to be {status} for {reason}"), SOON, || {
        let all = volume.said()?.conditions;
        let found = all.iter().find(|c| c.type_ == kind);
        ensure!(
            found.is_some_and(|c| c.status == status && c.reason == reason),
            "{found:?}"
        );
        Ok(())
    })
}

/// What the RdsVolume says of a change of identity.
fn told(volume: &Volume<'_>) -> Result<Option<String>> {
    let status = volume.read()?.status.unwrap_or_default();
    let said = find_condition(&status.conditions, "IdentityChanged").filter(|c| c.status == "True");
    Ok(said.map(|c| c.message.clone()))
}

/// The cable is cut while a pod writes; the agent is replaced meanwhile, and kubelet asks for things that cannot be.
pub(super) fn cut_cable(rig: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("cable", json!({"connection": {"reconnectDelay": 2, "keepAliveTmo": 5}}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "before", 41)?;
    rig.cable(false)?;
    let writer = writing(&folder, "meanwhile", 42);
    until_session(&volume, &["connecting"])?;
    until_said(&volume, "Connected", "False", "Reconnecting")?;
    plane.agent.restart()?;
    // The pod is gone, say; its volume cannot go without losing what it wrote, and no call hangs in it.
    let answer = volume.unstage();
    refused(answer, Code::FailedPrecondition, "unpublish it there first")?;
    ensure!(
        (mounts_of(&folder)?, mounts_of(&volume.staging())?) == (1, 1),
        "it was unmounted over a cut cable"
    );
    ensure!(!writer.is_finished(), "it wrote without a cable");
    plane.agent.restart()?;
    rig.cable(true)?;
    arrived(writer)?;
    until_session(&volume, &["live"])?;
    until_said(&volume, "Connected", "True", "Connected")?;
    holds(&folder, "before", 41)?;
    holds(&folder, "meanwhile", 42)?;

    // Again, with the pod gone: unstage waits for the appliance, for what is in memory is not on the disk yet.
    std::fs::write(folder.join("late"), super::pattern(43, 1 << 20))?;
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    rig.cable(false)?;
    until_session(&volume, &["connecting"])?;
    refused(volume.unstage(), Code::Unavailable, "does not answer this node now")?;
    ensure!(mounts_of(&volume.staging())? == 1, "it was unmounted over a cut cable");
    rig.cable(true)?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()?;
    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "late", 43)?;
    stuck(rig, &volume, &folder)?;
    new_pod(&volume, "late", 43)
}

/// Unstage finds a session that is live and a cable that is cut, and hangs in the kernel until that gives the disk up: the caller
/// is answered, the agent goes on, the mount stays, and in the end the loss is said.
fn stuck(rig: &Rig, volume: &Volume<'_>, folder: &Path) -> Result<()> {
    std::fs::write(folder.join("never"), super::pattern(40, 1 << 20))?;
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    rig.cable(false)?;
    let status = volume.unstage_within(Duration::from_secs(10)).err();
    let status = status.context("unstaged over a cut cable")?;
    if status.code() == Code::Unavailable {
        println!("   the kernel was faster: {}", status.message());
    } else {
        ensure!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status:?}"
        );
        // It hangs, and the agent does not.
        refused(volume.unstage(), Code::Aborted, "under way")?;
    }
    until_said(volume, "Connected", "False", "Reconnecting")?;
    ensure!(mounts_of(&volume.staging())? == 1, "it was unmounted over a cut cable");
    // As after ctrl_loss_tmo.
    fabric::disconnect(&volume.nqn()?)?;
    volume.retry("unstage", || volume.unstage())?;
    until_said(volume, "Healthy", "False", "PossibleDataLoss")?;
    rig.cable(true)
}

/// Kubelet takes the pod away whose disk was lost, and starts it again.
fn restarted(volume: &Volume<'_>) -> Result<PathBuf> {
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    volume.retry("unstage", || volume.unstage())?;
    until_said(volume, "Connected", "True", "Connected")?;
    volume.retry("stage", || volume.stage(Use::Mount))?;
    volume.retry("publish", || volume.publish(POD, Use::Mount))
}

/// What a pod finds after its disk was lost and it was started again.
fn new_pod(volume: &Volume<'_>, name: &str, seed: u8) -> Result<()> {
    let folder = restarted(volume)?;
    holds(&folder, name, seed)?;
    put(&folder, "after", seed)?;
    down(volume, Use::Mount)?;
    volume.delete()
}

/// The kernel gives the session up: said as a loss, nothing is connected anew beneath the mount, and a new pod goes on.
pub(super) fn gone_for_good(rig: &Rig, plane: &Plane) -> Result<()> {
    let connection = json!({"connection": {"ctrlLossTmo": 6, "reconnectDelay": 2, "keepAliveTmo": 5}});
    let volume = plane.volume("gone", connection)?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 44)?;
    rig.cable(false)?;
    let writer = writing(&folder, "lost", 45);
    until_session(&volume, &[])?;
    ensure!(arrived(writer).is_err(), "a write to a disk that is gone was well");
    rig.cable(true)?;
    until_said(&volume, "Connected", "False", "DeviceLost")?;
    ensure!(fabric::sessions()?.is_empty(), "connected anew beneath the mount");
    new_pod(&volume, "file", 44)
}

/// The appliance gives the namespace another UUID under a session that lives on: nobody uses the disk, so that the kernel lets the
/// other one in. Gives the identity that it had before.
fn becomes(volume: &Volume<'_>, uuid: &str) -> Result<String> {
    let nqn = volume.nqn()?;
    let device = fabric::disk(&nqn)?;
    let namespace = PathBuf::from(format!("/sys/kernel/config/nvmet/subsystems/{nqn}/namespaces/1"));
    let before = std::fs::read_to_string(namespace.join("device_uuid"))?
        .trim()
        .to_owned();
    std::fs::write(namespace.join("enable"), "0")?;
    until("the kernel to drop the disk", SOON, || {
        ensure!(!device.exists(), "{} is there", device.display());
        Ok(())
    })?;
    std::fs::write(namespace.join("device_uuid"), uuid)?;
    std::fs::write(namespace.join("enable"), "1")?;
    let device = fabric::disk(&nqn)?;
    let shown = Path::new("/sys/class/block").join(device.file_name().context("no name")?);
    let shown = std::fs::read_to_string(shown.join("wwid"))?;
    ensure!(shown.trim() == format!("uuid.{uuid}"), "the kernel shows {shown}");
    ensure!(fabric::states(&nqn)? == ["live"], "it is {:?}", fabric::states(&nqn)?);
    Ok(before)
}

/// Within one connection the agent refuses what the kernel let in, also after a restart of its own, and ends nothing; with the disk
/// of before all is well again. Gives its identity.
fn refused_within_a_connection(plane: &Plane, volume: &Volume<'_>) -> Result<String> {
    let other = "0d0e0f00-0000-4000-8000-00000000000b";
    let first = becomes(volume, other)?;
    for _ in 0..2 {
        refused(volume.stage(Use::Mount), Code::FailedPrecondition, "become another one")?;
        until_said(volume, "Healthy", "False", "IdentityChanged")?;
        plane.agent.restart()?;
    }
    ensure!(mounts_of(&volume.staging())? == 0, "it was mounted");
    let recorded = volume.said()?.namespace.context("no namespace is recorded")?;
    ensure!(recorded.identity == format!("uuid.{first}"), "{recorded:?}");
    becomes(volume, &first)?;
    Ok(recorded.identity)
}

/// Behind the same name there is another namespace. Within a connection it is not used; across connections it is told. The kernel
/// drops a disk that is in use, and it is never swapped beneath a pod.
pub(super) fn another_identity(rig: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("identity", json!({"connection": {"reconnectDelay": 2}}))?;
    volume.attach()?;
    let first = refused_within_a_connection(plane, &volume)?;
    volume.retry("stage", || volume.stage(Use::Mount))?;
    let folder = volume.retry("publish", || volume.publish(POD, Use::Mount))?;
    put(&folder, "file", 46)?;
    let nqn = volume.nqn()?;
    let device = fabric::disk(&nqn)?;
    rig.sim.knobs(|knobs| knobs.namespace_uuid = NamespaceUuid::Random);
    let slot = rig.sim.file_disks().first().context("no disk")?.slot.clone();
    rig.console(&format!("/disk set [find slot={slot}] nvme-tcp-export=no"))?;
    rig.console(&format!("/disk set [find slot={slot}] nvme-tcp-export=yes"))?;
    until("the kernel to drop the disk", Duration::from_secs(60), || {
        ensure!(!device.exists(), "{} is there", device.display());
        Ok(())
    })?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    ensure!(
        put(&folder, "lost", 47).is_err(),
        "a write to a disk that is gone was well"
    );
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    volume.retry("unstage", || volume.unstage())?;
    until_said(&volume, "Healthy", "False", "PossibleDataLoss")?;
    volume.detach()?;
    // A new connection shows the disk with its new identity, which is told; that it is this volume's is proven by its filesystem.
    ensure!(told(&volume)?.is_none(), "told before it was connected anew");
    let folder = up(&volume, Use::Mount)?;
    let second = volume.said()?.namespace.context("no namespace is recorded")?.identity;
    ensure!(second != first, "the identity did not change");
    until("the change of identity to be told", SOON, || {
        let told = told(&volume)?.context("nothing is told")?;
        ensure!(told.contains(&first) && told.contains(&second), "{told}");
        let events = e2e::run(Api::<Event>::all(plane.client.clone()).list(&ListParams::default()))?;
        let posted = |e: &Event| e.reason.as_deref() == Some("IdentityChanged") && e.note.as_ref() == Some(&told);
        ensure!(events.iter().any(posted), "no event says so");
        Ok(())
    })?;
    holds(&folder, "file", 46)?;
    down(&volume, Use::Mount)?;
    volume.delete()
}

/// The appliance boots, and its port opens before its exports are there. What a kernel makes of the refusal differs: 6.1 goes on
/// asking, 6.12 gives the disk up. The one loses nothing; the other says what is lost, and a new pod goes on. Then the port and the
/// subsystem are there before the namespace: the session lives on, and no kernel keeps the disk.
pub(super) fn port_before_exports(rig: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("port", json!({"connection": {"reconnectDelay": 2}}))?;
    let mut folder = up(&volume, Use::Mount)?;
    put(&folder, "before", 48)?;
    rig.sim.knobs(|knobs| {
        knobs.reboot_ms = 1000;
        knobs.exports_after_ms = 8000;
        knobs.port_before_exports = true;
    });
    e2e::run(rig.sim.reboot());
    let kept = arrived(writing(&folder, "meanwhile", 49)).is_ok();
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    if kept {
        println!("   the kernel kept the session");
        until_session(&volume, &["live"])?;
        holds(&folder, "before", 48)?;
        holds(&folder, "meanwhile", 49)?;
    } else {
        println!("   the kernel gave the disk up");
        until_said(&volume, "Connected", "False", "DeviceLost")?;
        ensure!(fabric::sessions()?.is_empty(), "connected anew beneath the mount");
        folder = restarted(&volume)?;
        holds(&folder, "before", 48)?;
    }
    let nqn = volume.nqn()?;
    let namespace = format!("/sys/kernel/config/nvmet/subsystems/{nqn}/namespaces/1/enable");
    std::fs::write(&namespace, "0")?;
    until_said(&volume, "Connected", "False", "NoDisk")?;
    until_said(&volume, "Healthy", "False", "PossibleDataLoss")?;
    ensure!(fabric::states(&nqn)? == ["live"], "it is {:?}", fabric::states(&nqn)?);
    ensure!(
        put(&folder, "lost", 50).is_err(),
        "a write to a disk that is gone was well"
    );
    std::fs::write(&namespace, "1")?;
    until_said(&volume, "Connected", "True", "Connected")?;
    until_said(&volume, "Healthy", "False", "PossibleDataLoss")?;
    new_pod(&volume, "before", 48)
}
