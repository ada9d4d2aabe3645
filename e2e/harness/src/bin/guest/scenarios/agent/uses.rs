//! Uses that nobody told the agent of, and others' sessions: they stay.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use rds_crds::names::{ANNOTATION_CONFIRM_DELETE, DOMAIN};
use serde_json::json;
use tonic::Code;

use super::{POD, down, holds, mounts_of, pattern, put, touched, up};
use crate::fabric;
use crate::plane::{Plane, SOON, Use, refused};
use crate::rig::{Rig, TARGET, sh, until};

/// What Kubernetes wants: without it a record that is gone would be a holder that is lost, and cut.
struct Wish {
    volumes: Api<PersistentVolume>,
    attachments: Api<VolumeAttachment>,
    name: String,
}

impl Wish {
    fn write(plane: &Plane, name: &str) -> Result<Self> {
        let wish = Self {
            volumes: Api::all(plane.client.clone()),
            attachments: Api::all(plane.client.clone()),
            name: name.to_owned(),
        };
        let volume = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": "512Mi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                     "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": DOMAIN, "volumeHandle": name}},
        }))?;
        let attachment = serde_json::from_value(json!({
            "metadata": {"name": format!("csi-{name}")},
            "spec": {"attacher": DOMAIN, "nodeName": plane.node(), "source": {"persistentVolumeName": name}},
        }))?;
        e2e::run(async {
            wish.volumes.create(&PostParams::default(), &volume).await?;
            wish.attachments.create(&PostParams::default(), &attachment).await
        })?;
        Ok(wish)
    }

    fn take_back(self) -> Result<()> {
        e2e::run(async {
            let parameters = DeleteParams::default();
            self.attachments
                .delete(&format!("csi-{}", self.name), &parameters)
                .await?;
            self.volumes.delete(&self.name, &parameters).await
        })?;
        Ok(())
    }
}

/// The records of all attachments are deleted, by force at last, while a pod has its raw device open and nothing else tells of it.
pub(super) fn plain_open(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("open", json!({"volumeMode": "Block"}))?;
    let node = up(&volume, Use::Block)?;
    let wish = Wish::write(plane, &volume.name)?;
    let mut device = fs::File::options().read(true).write(true).open(&node)?;
    // The pod's own copy of the device is what it has open; kubelet's may be gone.
    volume.retry("unpublish", || volume.unpublish(POD, Use::Block))?;
    let mut round = |seed: u8| -> Result<()> {
        device.seek(SeekFrom::Start(4 << 20))?;
        device.write_all(&pattern(seed, 1 << 20))?;
        device.sync_all()?;
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        device.seek(SeekFrom::Start(4 << 20))?;
        let mut bytes = vec![0; 1 << 20];
        device.read_exact(&mut bytes)?;
        ensure!(bytes == pattern(seed, 1 << 20), "other bytes than were written");
        Ok(())
    };
    round(51)?;
    let sessions = fabric::sessions()?;
    let api = plane.attachments();
    let mut all = e2e::run(async { anyhow::Ok(api.list(&ListParams::default()).await?.items) })?;
    // What another scenario has left goes by itself.
    all.retain(|object| object.spec.volume == volume.name);
    for object in &all {
        let name = object.name_any();
        let confirm = json!({"metadata": {"annotations": {ANNOTATION_CONFIRM_DELETE: name}}});
        e2e::run(async {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(confirm))
                .await?;
            anyhow::Ok(api.delete(&name, &DeleteParams::default()).await.map(drop)?)
        })?;
    }
    until("the agent to see the use", SOON, || {
        let said = volume.said()?.conditions;
        let waits = said.iter().any(|c| c.type_ == "Disconnected" && c.reason == "InUse");
        ensure!(waits, "{said:?}");
        Ok(())
    })?;
    round(52)?;
    for object in &all {
        // A person who does what no document says.
        let bare = json!({"metadata": {"uid": object.meta().uid, "finalizers": null}});
        e2e::run(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(bare)))?;
    }
    let before = plane.agent.tail(usize::MAX).len();
    plane.agent.restart()?;
    until("the agent to judge the session", SOON * 2, || {
        let log = plane.agent.tail(usize::MAX);
        let said = log.get(before..).unwrap_or_default();
        ensure!(said.contains("left alone"), "it has not");
        Ok(())
    })?;
    round(53)?;
    ensure!(fabric::sessions()? == sessions, "{:?} are left", fabric::sessions()?);
    drop(device);
    // As the operator makes it again from the VolumeAttachment: the agent owns up to the session, and the volume goes on.
    match volume.attach() {
        Err(error) if format!("{error:#}").contains("already exists") => volume.until_connected()?,
        done => done?,
    }
    wish.take_back()?;
    volume.retry("unstage", || volume.unstage())?;
    volume.detach()?;
    volume.delete()
}

/// A session that somebody else made is used and not doubled; a foreign one is not touched, whatever the agent does meanwhile.
pub(super) fn others(rig: &Rig, plane: &Plane) -> Result<()> {
    let foreign = "nqn.2000-02.com.mikrotik:nixos-node-1";
    let at = Path::new("/run/foreign");
    rig.console(&format!(
        "/disk add type=file slot=nixos file-path=storage-pool/metal-csi/nixos.img file-size=64M nvme-tcp-export=yes \
         nvme-tcp-server-nqn={foreign}"
    ))?;
    fabric::connect(foreign, TARGET, 4420)?;
    sh("mkfs.ext4", &["-qF", &fabric::disk(foreign)?.display().to_string()])?;
    fs::create_dir_all(at)?;
    sh(
        "mount",
        &[&fabric::disk(foreign)?.display().to_string(), &at.display().to_string()],
    )?;
    put(at, "root", 54)?;

    let volume = plane.volume("doubled", json!({}))?;
    fabric::connect(&volume.nqn()?, TARGET, 4420)?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 55)?;
    let count = fabric::states(&volume.nqn()?)?.len();
    ensure!(count == 1, "{count} sessions of one volume");
    plane.agent.restart()?;
    down(&volume, Use::Mount)?;
    ensure!(fabric::sessions()? == [foreign], "{:?} are left", fabric::sessions()?);
    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "file", 55)?;
    down(&volume, Use::Mount)?;
    volume.delete()?;

    holds(at, "root", 54)?;
    put(at, "root", 56)?;
    sh("umount", &[&at.display().to_string()])?;
    fabric::disconnect(foreign)?;
    rig.console("/disk remove [find slot=nixos]")?;
    rig.console("/file remove [find name~\"nixos.img\"]")
}

/// Mounts of one device until the limit: the next publish is refused, those that are there work on.
pub(super) fn many_mounts(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("many", json!({}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 57)?;
    // With those for staging and pod these are 100.
    let more: Vec<_> = (0..98).map(|n| Path::new("/run/many").join(n.to_string())).collect();
    for at in &more {
        fs::create_dir_all(at)?;
        rustix::mount::mount_bind(&folder, at)?;
    }
    let second = "6d0c9b0e-0000-4000-8000-000000000002";
    let status = volume
        .publish(second, Use::Mount)
        .err()
        .context("the 101st mount was made")?;
    ensure!(
        status.code() == Code::Unavailable && status.message().contains("100"),
        "{status:?}"
    );
    ensure!(mounts_of(&volume.target(second, Use::Mount))? == 0, "it was mounted");
    holds(&folder, "file", 57)?;
    for at in &more {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::empty())?;
    }
    let folder = volume.retry("publish", || volume.publish(second, Use::Mount))?;
    holds(&folder, "file", 57)?;
    volume.retry("unpublish", || volume.unpublish(second, Use::Mount))?;
    down(&volume, Use::Mount)?;
    volume.delete()
}

/// A reader never replays a journal: it is refused, and not a byte changes.
pub(super) fn dirty_reader(_: &Rig, plane: &Plane) -> Result<()> {
    let volume = plane.volume("readers", json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "file", 58)?;
    // The session goes beneath the mount: the journal stays as it is.
    fabric::disconnect(&volume.nqn()?)?;
    down(&volume, Use::Mount)?;

    volume.attach_as("ReadOnlyMany")?;
    let before = touched()?;
    refused(volume.stage(Use::Read), Code::FailedPrecondition, "journal")?;
    ensure!(touched()? == before, "a reader wrote");
    volume.detach()?;
    // A writer replays it; then readers may.
    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "file", 58)?;
    down(&volume, Use::Mount)?;
    volume.attach_as("ReadOnlyMany")?;
    let before = touched()?;
    volume.retry("stage", || volume.stage(Use::Read))?;
    let folder = volume.retry("publish", || volume.publish(POD, Use::Read))?;
    holds(&folder, "file", 58)?;
    ensure!(put(&folder, "no", 59).is_err(), "a reader wrote a file");
    down(&volume, Use::Read)?;
    ensure!(mounts_of(&folder)? == 0, "it is left mounted");
    ensure!(touched()? == before, "a reader wrote");
    volume.delete()
}
