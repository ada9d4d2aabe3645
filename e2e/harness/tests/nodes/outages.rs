//! Programs and the control plane go away under a running pod: it writes on, and its connection is the same afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::vm::node::Node;
use e2e::vm::pods::{Volume, Work};
use e2e::wait_until;

use crate::world::{HOME, LONG, SERVER, World};
use crate::writer::{WRITER, Written};

const AGENT: &str = "rds-node-agent";

/// Longer than any Lease of ours lasts.
const AWAY: Duration = Duration::from_secs(45);

/// What may not change: the sessions, whether any came or went, and where our disks are mounted.
async fn standing(node: &Node) -> Result<String> {
    let mounts = "grep ' /dev/nvme' /proc/self/mountinfo | cut -d' ' -f5 | sort";
    Ok(node.sessions().await? + &node.control.sh(mounts).await?)
}

/// A new life of a process has got so far that it says this.
async fn says(node: &Node, process: &str, what: &str, times: usize) -> Result<()> {
    wait_until(&format!("{process} to say `{what}` again"), LONG, async || {
        let said = node.says(process, what);
        ensure!(said > times, "it said so {said} times\n{}", node.log(process, 5));
        Ok(())
    })
    .await
}

/// SIGKILL, an upgrade's SIGTERM, and a kubelet that starts anew and asks for all volumes again.
pub(crate) async fn restarts(world: &World) -> Result<()> {
    world.writer().await?;
    let node = world.home_node();
    let (before, life) = (standing(node).await?, world.life(WRITER).await?);
    let registered = "registered with kubelet";
    for signal in ["SIGKILL", "SIGTERM"] {
        let lives = node.says(AGENT, registered);
        match signal {
            "SIGKILL" => node.kill(AGENT).await?,
            _ => node.terminate(AGENT).await?,
        }
        world.writes_on().await?;
        says(node, AGENT, registered, lives).await?;
        let now = standing(node).await?;
        ensure!(
            now == before,
            "before {signal} for the agent there was\n{before}\nand now\n{now}"
        );
    }
    let mounted = "MountVolume.SetUp succeeded for volume \\\"pvc-";
    let (lives, mounts) = (node.says(AGENT, registered), node.says("kubelet", mounted));
    node.kill("kubelet").await?;
    world.writes_on().await?;
    says(node, AGENT, registered, lives).await?;
    says(node, "kubelet", mounted, mounts).await?;
    let now = standing(node).await?;
    ensure!(
        now == before,
        "before the restart of kubelet there was\n{before}\nand now\n{now}"
    );
    node.up(&world.lab.cluster).await?;
    world.writes_on().await?;
    ensure!(world.life(WRITER).await? == life, "the pod was started again");
    world.nothing_is_lost().await.map(drop)
}

/// No answer from the API server for a while. An agent that starts meanwhile knows nothing, and ends nothing.
pub(crate) async fn control_plane(world: &World) -> Result<()> {
    world.writer().await?;
    let node = world.home_node();
    let (before, life) = (standing(node).await?, world.life(WRITER).await?);
    let read = "attachments of this node read";
    let reads = node.says(AGENT, read);
    world.lab.cluster.freeze(true)?;
    let begin = Instant::now();
    let away = async {
        let starts = node.says(AGENT, "\"started\"");
        world.writes_on().await?;
        node.kill(AGENT).await?;
        says(node, AGENT, "\"started\"", starts).await?;
        tokio::time::sleep(AWAY.saturating_sub(begin.elapsed())).await;
        world.writes_on().await?;
        standing(node).await
    };
    let away = away.await;
    world.lab.cluster.freeze(false)?;
    let away = away?;
    ensure!(
        away == before,
        "before there was\n{before}\nand without control plane\n{away}"
    );
    says(node, AGENT, read, reads).await?;
    node.up(&world.lab.cluster).await?;
    let now = standing(node).await?;
    ensure!(
        now == before,
        "before there was\n{before}\nand after the control plane came back\n{now}"
    );
    // The operator leads again.
    world.lab.claim("afterwards", SERVER, "1Gi").await?;
    world.lab.bound("afterwards").await?;
    world.lab.delete_claim("afterwards").await?;
    ensure!(world.life(WRITER).await? == life, "the pod was started again");
    world.writes_on().await?;
    world.nothing_is_lost().await.map(drop)
}

/// After all that the pod can be deleted, and another node reads what it wrote.
pub(crate) async fn delete(world: &World) -> Result<()> {
    world.writer().await?;
    world.writes_on().await?;
    let Written { blocks, sum } = world.nothing_is_lost().await?;
    world.lab.end_pod(WRITER).await?;
    let reader = Work {
        name: "reader-3",
        node: &world.pair.nodes[1].name,
        claim: HOME,
        volume: Volume::Mounted,
        line: &format!("head -c $(({blocks}*16384)) /data/logs/written | sha256sum >/dev/termination-log"),
    };
    let (read, _) = world.lab.run_pod(&reader).await?;
    ensure!(read == sum, "{sum} was written, {read} was read on {}", reader.node);
    Ok(())
}
