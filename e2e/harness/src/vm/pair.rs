//! Two nodes with a real kubelet and an appliance whose exports are real: what `make demo` ends with and what stories of pods need.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::node::{Kubelet, Node};
use super::pods::{Volume, Work};
use super::target::Target;
use crate::Lab;
use crate::cluster::WORKERS;
use crate::lab::DRIVER;

/// Both, and the appliance that they reach.
pub struct Pair {
    /// The appliance.
    pub target: Target,
    /// The nodes.
    pub nodes: [Node; 2],
    server: String,
}

/// Data that was written on one node and read on another.
#[derive(Clone, Debug)]
pub struct Moved {
    /// SHA-256.
    pub sum: String,
    /// Node of the writer.
    pub written: String,
    /// Node of the reader.
    pub read: String,
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "data: {} written on {}, read on {}",
            self.sum, self.written, self.read
        )
    }
}

/// The first word of what sha256sum printed, if it is one.
fn sum(printed: &str) -> Result<String> {
    let word = printed.split_whitespace().next().unwrap_or_default();
    ensure!(
        word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()),
        "`{printed}` is no checksum"
    );
    Ok(word.to_owned())
}

impl Pair {
    /// Boots all three machines and waits until the nodes take pods with our volumes. `server` names RdsServer and StorageClass.
    pub async fn boot(lab: &Lab, server: &str, say: impl Fn(&str)) -> Result<Self> {
        let begin = Instant::now();
        let say = |what: &str| say(&format!("{what} ({:.0} s)", begin.elapsed().as_secs_f32()));
        let target = Target::boot(&format!("{server}-target")).await?;
        let [first, second, _] = WORKERS;
        let nodes = [
            Node::boot(&lab.cluster, first, Kubelet::Real).await?,
            Node::boot(&lab.cluster, second, Kubelet::Real).await?,
        ];
        target.register(lab, server).await?;
        say(&format!(
            "RouterOS answers in a virtual machine with kernel {}, {}",
            target.vm.kernel, target.vm.accelerator
        ));
        for node in &nodes {
            node.up(&lab.cluster).await?;
            node.registered(&lab.cluster).await?;
            say(&format!("{} is Ready, and its kubelet knows {DRIVER}", node.name));
        }
        Ok(Self {
            target,
            nodes,
            server: server.to_owned(),
        })
    }

    /// A claim is written by a pod on one node, and read by a pod on the other. The claim stays.
    pub async fn move_data(&self, lab: &Lab, claim: &str, say: impl Fn(&str)) -> Result<Moved> {
        let [written, read] = self.nodes.each_ref().map(|node| node.name.clone());
        lab.claim(claim, &self.server, "1Gi").await?;
        lab.bound(claim).await?;
        let steps = [
            (
                "writer",
                &written,
                "head -c 4194304 /dev/urandom >/data/photo; sync; sha256sum </data/photo >/dev/termination-log",
            ),
            ("reader", &read, "sha256sum </data/photo >/dev/termination-log"),
        ];
        let mut sums = Vec::new();
        for (name, node, line) in steps {
            let (answer, took) = lab
                .run_pod(&Work {
                    name,
                    node,
                    claim,
                    volume: Volume::Mounted,
                    line,
                })
                .await?;
            say(&format!(
                "pod {name} on {node} has done its work after {:.0} s",
                took.as_secs_f32()
            ));
            sums.push(sum(&answer)?);
        }
        ensure!(
            sums[0] == sums[1],
            "{} was written on {written}, {} was read on {read}",
            sums[0],
            sums[1]
        );
        Ok(Moved {
            sum: sums.remove(0),
            written,
            read,
        })
    }

    /// Takes Secret, RdsServer, StorageClass and the Nodes away.
    pub async fn leave(self, lab: &Lab) -> Result<()> {
        self.target.unregister(lab, &self.server).await?;
        for node in &self.nodes {
            lab.kubectl()
                .run(&["delete", "node", &node.name, "--wait=false"])
                .await?;
        }
        Ok(())
    }
}
