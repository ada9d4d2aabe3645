//! The last part of `make demo`: real pods on two real nodes, and a file that moves with its claim from one to the other.

use anyhow::Result;

use super::pair::Pair;
use crate::Lab;
use crate::cluster::WORKERS;

const SERVER: &str = "rack-2";
const CLAIM: &str = "album";

/// Whether `NODES` asks for it: all but 0.
pub fn asked() -> bool {
    std::env::var("NODES").map_or(true, |nodes| nodes.trim() != "0")
}

/// Shows it, and says how many disks and files are left on its appliance. Without virtual machines it says why, and that is no
/// failure: the control plane was shown.
pub async fn show(lab: &Lab) -> Result<(usize, usize)> {
    if !asked() {
        println!("  left out, as NODES=0 asks");
        return Ok((0, 0));
    }
    if let Err(why) = super::possible() {
        println!("  left out: {why:#}");
        return Ok((0, 0));
    }
    let say = |what: &str| println!("  {what}");
    super::node::ensure_tools()?;
    let pair = Pair::boot(lab, SERVER, say).await?;
    show_objects(lab, "nodes", &["-o", "wide"]).await?;
    let moved = pair.move_data(lab, CLAIM, say).await?;
    show_objects(lab, "pvc,rdsvolumes,rdsattachments", &[]).await?;
    println!("  {moved}");
    lab.delete_claim(CLAIM).await?;
    let left = (pair.target.disks().await?.len(), pair.target.images().await?.len());
    pair.leave(lab).await?;
    Ok(left)
}

/// What the demo shows in its heading.
pub fn heading() -> String {
    format!(
        "Two real nodes, {} and {}, with kubelet and containerd",
        WORKERS[0], WORKERS[1]
    )
}

async fn show_objects(lab: &Lab, kinds: &str, more: &[&str]) -> Result<()> {
    let arguments = [&["get", kinds], more].concat();
    let printed = lab.kubectl().run(&arguments).await?;
    println!("  $ kubectl {}", arguments.join(" "));
    for line in printed.lines() {
        println!("  {line}");
    }
    Ok(())
}
