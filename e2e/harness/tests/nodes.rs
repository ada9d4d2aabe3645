//! Real pods on two nodes with a real kubelet, against real exports: see docs/vm-tests.md.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::Lab;
use e2e::cluster::WORKERS;
use e2e::lab::Options;
use e2e::vm::node::{Kubelet, Node};
use e2e::vm::pods::{Volume, Work};
use e2e::vm::target::Target;

#[test]
fn stories() -> Result<()> {
    e2e::run(async {
        let start = Instant::now();
        let step = |what: &str| println!("{what} ({:.1} s)", start.elapsed().as_secs_f32());
        let lab = Lab::start("nodes", &Options::default()).await?;
        step("control plane is up");
        let target = Target::boot("target").await?;
        let [first, second, _] = WORKERS;
        let nodes = [
            Node::boot(&lab.cluster, first, Kubelet::Real).await?,
            Node::boot(&lab.cluster, second, Kubelet::Real).await?,
        ];
        target.register(&lab, "vm").await?;
        step("the appliance is Ready");
        for node in &nodes {
            node.up(&lab.cluster).await?;
            step(&format!("{} is Ready", node.name));
        }
        lab.claim("data", "vm", "1Gi").await?;
        lab.bound("data").await?;
        step("the claim is bound");
        let write = "head -c 4194304 /dev/urandom >/data/file; sync; sha256sum </data/file >/dev/termination-log";
        let read = "sha256sum </data/file >/dev/termination-log";
        let mut sums = Vec::new();
        for (name, node, line) in [("writer", first, write), ("reader", second, read)] {
            let work = Work {
                name,
                node,
                claim: "data",
                volume: Volume::Mounted,
                line,
            };
            sums.push(lab.run_pod(&work).await?.0);
            step(&format!("{name} is through"));
        }
        ensure!(
            sums[0] == sums[1] && sums[0].len() > 60,
            "written {}, read {}",
            sums[0],
            sums[1]
        );
        println!(
            "data: {} written on {first}, read on {second}",
            sums[0].split_whitespace().next().unwrap_or_default()
        );
        lab.delete_claim("data").await?;
        target.assert_empty().await
    })
}
