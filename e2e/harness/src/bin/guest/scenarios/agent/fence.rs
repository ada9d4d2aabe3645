//! A node that the control plane has lost is cut at the target while it writes, and comes back.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rds_crds::RdsAttachment;
use rds_crds::condition::is_true;
use rds_crds::identity::attachment_name;
use routeros_sim::knobs::NamespaceUuid;
use serde_json::{Value, json};

use super::{POD, down, holds, mounts_of, put, up};
use crate::fabric;
use crate::plane::{Plane, SOON, Use, Volume};
use crate::rig::{Rig, TARGET, sh, until};

/// Where the second node has it mounted.
const SECOND: &str = "/run/second";

/// Sets the taints of the node that the agent is on.
fn taint(plane: &Plane, taints: Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(plane.client.clone());
    let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
    e2e::run(nodes.patch(plane.node(), &PatchParams::default(), &patch))?;
    Ok(())
}

/// Writes file after file until one fails, and counts those that arrived.
fn write_on(folder: &Path) -> (Arc<AtomicU32>, JoinHandle<()>) {
    let (folder, arrived) = (folder.to_owned(), Arc::new(AtomicU32::new(0)));
    let count = arrived.clone();
    let writer = std::thread::spawn(move || {
        while put(&folder, &format!("on-{}", count.load(Ordering::Relaxed) % 8), 60).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (arrived, writer)
}

/// Attaches the volume to the other node, whose agent is played on the host, and gives the name under which it has it.
fn attach_other(plane: &Plane, volume: &Volume<'_>) -> Result<String> {
    let other = &plane.options.other;
    let name = attachment_name(&volume.name, other);
    let object: RdsAttachment = serde_json::from_value(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
        "metadata": {"name": name, "finalizers": [rds_crds::names::FINALIZER]},
        "spec": {"volume": volume.name, "node": other, "accessMode": "ReadWriteOnce"},
    }))?;
    let api = plane.attachments();
    e2e::run(api.create(&PostParams::default(), &object))?;
    until(&format!("{name} to be connected"), SOON * 3, || {
        let status = e2e::run(api.get(&name))?.status.context("no status")?;
        let said = status.agent.unwrap_or_default().conditions;
        ensure!(is_true(&said, "Connected"), "{:?}", status.conditions);
        status.nqn.context("no NQN")
    })
}

/// The old node writes until it is cut; the new one's data is intact, whatever the old one still holds back.
pub(super) fn fenced_writer(rig: &Rig, plane: &Plane) -> Result<()> {
    // The kernel of two nodes at once refuses a disk whose identity it has already.
    rig.sim.knobs(|knobs| knobs.namespace_uuid = NamespaceUuid::Random);
    let volume = plane.volume("fenced", json!({"connection": {"reconnectDelay": 2}}))?;
    let folder = up(&volume, Use::Mount)?;
    put(&folder, "before", 61)?;
    let old = volume.nqn()?;
    let (arrived, writer) = write_on(&folder);
    until("the node to write", SOON, || {
        ensure!(arrived.load(Ordering::Relaxed) > 0, "nothing has arrived");
        Ok(())
    })?;

    // Its agent is silent and Kubernetes has given it up; its kernel writes on.
    plane.agent.hold();
    taint(
        plane,
        json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]),
    )?;
    ensure!(fabric::states(&old)? == ["live"], "it is not writing any more");
    volume.wish_detached(plane.node())?;
    let new = attach_other(plane, &volume)?;
    ensure!(new != old, "both nodes were told {old}");
    ensure!(
        !fabric::states(&old)?.contains(&"live".to_owned()),
        "the old node is still connected"
    );

    // The other node's kernel: here, by hand.
    fabric::connect(&new, TARGET, 4420)?;
    let disk = fabric::disk(&new)?.display().to_string();
    fs::create_dir_all(SECOND)?;
    sh("mount", &[&disk, SECOND])?;
    let second = Path::new(SECOND);
    holds(second, "before", 61)?;
    put(second, "second", 62)?;
    put(second, "before", 63)?;
    holds(second, "second", 62)?;
    holds(second, "before", 63)?;
    sh("umount", &[SECOND])?;
    fabric::disconnect(&new)?;

    // The old node comes back, with a mount on which data waits that nobody will ever write.
    taint(plane, Value::Null)?;
    plane.agent.release()?;
    until("the old session to end", SOON * 2, || {
        let left = fabric::sessions()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    writer.join().map_err(|_| anyhow!("the writer panicked"))?;
    println!("   {} files arrived before the cut", arrived.load(Ordering::Relaxed));
    volume.retry("unpublish", || volume.unpublish(POD, Use::Mount))?;
    volume.retry("unstage", || volume.unstage())?;
    ensure!(mounts_of(&volume.staging())? == 0, "it is left mounted");

    volume.detach_from(&plane.options.other)?;
    let folder = up(&volume, Use::Mount)?;
    holds(&folder, "before", 63)?;
    holds(&folder, "second", 62)?;
    down(&volume, Use::Mount)?;
    volume.delete()?;
    rig.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
    Ok(())
}
