//! Two nodes, an appliance, and the claim that most stories share.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::Options;
use e2e::vm::node::Node;
use e2e::vm::pair::Pair;
use e2e::{Lab, wait_until};
use kube::ResourceExt;

/// Long enough for anything on emulated processors.
pub(crate) const LONG: Duration = Duration::from_secs(240);

/// RdsServer and StorageClass.
pub(crate) const SERVER: &str = "vm";

/// The claim that stories share, since a mkfs takes a long time on emulated processors. Named as a StatefulSet names it.
pub(crate) const HOME: &str = "data-photos-0";

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) pair: Pair,
}

/// Which of a pod's lives it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Life {
    uid: String,
    restarts: i32,
}

impl Life {
    /// It is the first one, whenever it began.
    pub(crate) fn undisturbed(&self) -> bool {
        self.restarts == 0
    }
}

impl World {
    pub(crate) async fn boot() -> Result<Self> {
        let lab = Lab::start("nodes", &Options::default()).await?;
        let pair = Pair::boot(&lab, SERVER, |what| println!("{what}")).await?;
        Ok(Self { lab, pair })
    }

    pub(crate) fn nodes(&self) -> [&Node; 2] {
        self.pair.nodes.each_ref()
    }

    /// Where the logs of all machines are.
    pub(crate) fn logs(&self) -> String {
        let machines = self.nodes().map(|node| &node.vm).into_iter();
        let machines = machines.chain([&self.pair.target.vm]).map(|vm| vm.folder());
        let folders = machines
            .chain([self.lab.cluster.dir()])
            .map(|path| path.display().to_string());
        folders.collect::<Vec<_>>().join(" ")
    }

    /// Makes the shared claim if no story did; the name of its volume.
    pub(crate) async fn home(&self) -> Result<String> {
        if self.lab.claims().get_opt(HOME).await?.is_none() {
            self.lab.claim(HOME, SERVER, "1Gi").await?;
        }
        self.lab.bound(HOME).await
    }

    /// Asks for more, and waits until kubelet says that the claim has it.
    pub(crate) async fn grows(&self, claim: &str, size: &str) -> Result<()> {
        self.lab.resize(claim, size).await?;
        let what = format!("claim {claim} to have {size}");
        let waited = wait_until(&what, LONG, async || {
            let status = self.lab.claims().get(claim).await?.status.context("no status")?;
            let has = status.capacity.and_then(|mut has| has.remove("storage"));
            let has = has.context("no capacity")?.0;
            ensure!(has == size, "it has {has}, and {:?}", status.conditions);
            Ok(())
        });
        self.lab.explained(waited.await, claim).await
    }

    /// The life of a running pod: the same twice if it was not disturbed.
    pub(crate) async fn life(&self, pod: &str) -> Result<Life> {
        let pod = self.lab.pods().get(pod).await?;
        let uid = pod.uid().context("a pod without UID")?;
        let status = pod.status.context("no status")?;
        let containers = status.container_statuses.unwrap_or_default();
        let restarts = containers.first().context("no container")?.restart_count;
        let phase = status.phase.unwrap_or_default();
        ensure!(phase == "Running", "the pod is {phase}");
        Ok(Life { uid, restarts })
    }

    /// Takes everything away; an error if something is left.
    pub(crate) async fn leave(self) -> Result<()> {
        self.no_writer().await?;
        if self.lab.claims().get_opt(HOME).await?.is_some() {
            self.lab.delete_claim(HOME).await?;
        }
        self.pair.target.assert_empty().await?;
        self.pair.leave(&self.lab).await
    }
}

/// Waits until a line of shell in a pod is well, and gives what it printed.
pub(crate) async fn told(node: &Node, pod: &str, line: &str) -> Result<String> {
    wait_until(&format!("`{line}` in pod {pod}"), LONG, async || {
        node.exec(pod, line).await
    })
    .await
}
