//! A node loses its power under a pod.

use anyhow::{Context, Result, ensure};
use e2e::vm::pods::{STAY, Volume, Work};
use e2e::wait_until;
use kube::ResourceExt;
use rds_crds::volume::RdsVolumeStatus;

use crate::world::{HOME, LONG, SERVER, World, told};

const TAINT: &str = "node.kubernetes.io/out-of-service";

impl World {
    async fn volume_status(&self, volume: &str) -> Result<RdsVolumeStatus> {
        self.lab.volumes().get(volume).await?.status.context("no status")
    }
}

/// The pod comes up on the other node once the dead one is cut at the appliance, with what was synced; then the dead node boots again.
pub(crate) async fn cut(world: &mut World) -> Result<()> {
    let volume = world.home().await?;
    world.no_writer().await?;
    let [survivor, dead] = world.nodes().map(|node| node.name.clone());
    let lab = &world.lab;
    let proven = [
        "wait",
        "--for=condition=FenceProven",
        "rdsserver",
        SERVER,
        "--timeout=240s",
    ];
    lab.kubectl().run(&proven).await?;
    let victim = Work {
        name: "victim",
        node: &dead,
        claim: HOME,
        volume: Volume::Mounted,
        line: &format!(
            "head -c 1048576 /dev/urandom >/data/last; sync; sha256sum </data/last >/tmp/sum.new; mv /tmp/sum.new /tmp/sum; \
             head -c 1048576 /dev/urandom >/data/never-synced; {STAY}"
        ),
    };
    lab.pod(&victim).await?;
    lab.running(victim.name).await?;
    let written = told(&world.pair.nodes[1], victim.name, "cat /tmp/sum").await?;
    let uid = lab.pods().get(victim.name).await?.uid().context("a pod without UID")?;
    let before = world.volume_status(&volume).await?;

    world.pair.nodes[1].cut();
    lab.kubectl()
        .run(&["taint", "node", &dead, &format!("{TAINT}=nodeshutdown:NoExecute")])
        .await?;
    let heir = Work {
        name: "heir",
        node: &survivor,
        line: &format!("sha256sum </data/last >/tmp/sum.new; mv /tmp/sum.new /tmp/sum; {STAY}"),
        ..victim
    };
    lab.pod(&heir).await?;
    let gone = wait_until("the pod of the dead node to be gone", LONG, async || {
        ensure!(lab.pods().get_opt(victim.name).await?.is_none(), "it is still there");
        Ok(())
    });
    lab.explained_pod(gone.await, victim.name).await?;
    lab.running(heir.name).await?;
    let read = told(&world.pair.nodes[0], heir.name, "cat /tmp/sum").await?;
    ensure!(
        read == written,
        "{written} was synced on {dead}, {read} was read on {survivor}"
    );
    let after = world.volume_status(&volume).await?;
    ensure!(
        after.export_generation > before.export_generation && after.fenced.iter().any(|fenced| fenced.node == dead),
        "no fence: before {before:?}\nafter {after:?}"
    );
    println!("  {dead} is cut at the appliance, {survivor} has read {read}");

    boots_again(world, &dead, &uid).await?;
    let lab = &world.lab;
    let life = world.life(heir.name).await?;
    ensure!(life.undisturbed(), "the pod on {survivor} was disturbed: {life:?}");
    lab.end_pod(heir.name).await?;
    let back = Work {
        name: "back",
        node: &dead,
        line: "sha256sum </data/last >/dev/termination-log",
        ..victim
    };
    let (read, _) = lab.run_pod(&back).await?;
    ensure!(
        read == written,
        "{written} was synced, {read} was read on {dead} in its second life"
    );
    let end = world.volume_status(&volume).await?;
    ensure!(end.fenced.is_empty(), "not acknowledged: {:?}", end.fenced);
    Ok(())
}

/// kubelet clears away what its first life left, and nothing connects.
async fn boots_again(world: &mut World, dead: &str, pod: &str) -> Result<()> {
    world.pair.nodes[1].again().await?;
    let node = &world.pair.nodes[1];
    let read = "attachments of this node read";
    let reads = node.says("rds-node-agent", read);
    node.up(&world.lab.cluster).await?;
    wait_until("the agent to know its attachments again", LONG, async || {
        ensure!(
            node.says("rds-node-agent", read) > reads,
            "{}",
            node.log("rds-node-agent", 5)
        );
        Ok(())
    })
    .await?;
    let taint = format!("{TAINT}-");
    world.lab.kubectl().run(&["taint", "node", dead, &taint]).await?;
    let left = format!(
        "ls -d /var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/* \
         /var/lib/kubelet/plugins/kubernetes.io/csi/rds.csi.srvlab.io/*/globalmount 2>/dev/null || true"
    );
    wait_until("kubelet to clear away what its first life left", LONG, async || {
        let left = node.control.sh(&left).await?;
        ensure!(left.is_empty(), "{left}{}", node.log("kubelet", 5));
        Ok(())
    })
    .await?;
    let sessions = node.sessions().await?;
    ensure!(sessions.trim() == "0", "{dead} has connected: {sessions}");
    Ok(())
}
