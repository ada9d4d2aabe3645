//! The self-test of fencing, asked for by a person: the operator is killed after every step of it, and of the fence of its canary.

use anyhow::{Context, Result, ensure};
use e2e::scene::PATIENCE;
use e2e::wait_until;
use kube::{Api, ResourceExt};
use rds_crds::RdsServer;
use rds_crds::condition::find_condition;
use serde_json::{Value, json};

use super::{Turns, World};

/// One test, from its request to a verdict with nothing left.
pub(super) async fn tell(world: &World, expected: Option<&[Value]>) -> Result<Vec<Value>> {
    let scene = &world.scene;
    let name = &scene.appliance.name;
    let servers: Api<RdsServer> = Api::all(scene.lab.cluster.client());
    let ended = async || -> Result<_> {
        let test = servers.get(name).await?.status.unwrap_or_default().fence_test;
        let test = test.context("no test was made")?;
        ensure!(test.run.is_none(), "it runs: {:?}", test.run);
        test.ended_at.map(|at| at.0).context("it has not ended")
    };
    let before = ended().await?;
    scene
        .annotate("rdsserver", name, "rds.csi.srvlab.io/test-fencing=now")
        .await?;
    let waited = wait_until("another test to end", PATIENCE, async || {
        let now = ended().await?;
        ensure!(now > before, "the last one ended {now}");
        Ok(())
    });
    scene.lab.explained(waited.await, "-").await?;
    let mut turns = Turns::new(world, expected);
    turns.take("-", async || state(world, &servers).await).await?;
    scene.appliance.assert_empty()?;
    Ok(turns.seen)
}

async fn state(world: &World, servers: &Api<RdsServer>) -> Result<Value> {
    let server = servers.get(&world.scene.appliance.name).await?;
    let status = server.status.clone().unwrap_or_default();
    let said = find_condition(&status.conditions, "FenceProven").context("no FenceProven")?;
    let test = status.fence_test.unwrap_or_default();
    let label = "rds.csi.srvlab.io/made-by=self-test";
    let left = ["get", "rdsvolumes,rdsattachments", "-l", label, "-o", "name"];
    let words = server.annotations().keys().filter(|key| key.contains("fencing"));
    Ok(json!({
        "proven": [said.status, said.reason],
        "version": test.version,
        "runs": test.run.is_some(),
        "failures": test.failures,
        "left": world.scene.kubectl(&left).await?,
        "disks": world.scene.appliance.disks().len(),
        "words": words.collect::<Vec<_>>(),
    }))
}
