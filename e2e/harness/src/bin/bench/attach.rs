//! Attaching, detaching, cutting: commands on the appliance, API writes, and how long each takes. The nodes' part is played by a
//! stand-in that answers at once, so that what is measured is the operator's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use csi::controller_client::ControllerClient;
use csi_proto::csi::v1 as csi;
use e2e::appliance::Appliance;
use e2e::lab::Options;
use e2e::machine::Machine;
use e2e::{Lab, wait_until};
use futures::{StreamExt, TryStreamExt, stream};
use routeros_sim::Knobs;
use serde_json::json;
use tonic::transport::Channel;

use crate::single::{Phase, controller, create};
use crate::{Report, quantile};

const NODE: &str = "bench-1";
/// What a lost node is waited for; it is taken off the measured time.
const LEASE: Duration = Duration::from_secs(15);

pub(crate) async fn measure() -> Result<Report> {
    let mut report = Report::new();
    let env = [("ATTACHMENT_GRACE_PERIOD", "10s"), ("AGENT_LEASE_PERIOD", "15s")];
    let options = Options {
        // csi-attacher would look after what it finds, beside us.
        sidecars: Vec::new(),
        audit: true,
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Options::default()
    };
    let lab = Lab::start("bench-attach", &options).await?;
    let fencing = json!({"fencing": "Assume"});
    let appliance = lab.appliance_with("attach", Knobs::default(), fencing).await?;
    let machine = Machine::boot(&lab, NODE).await?;
    let client = controller(&lab.replicas[0].socket).await?;
    let audit = lab.cluster.dir().join("audit.log");

    let one = volumes(&client, &appliance, 1).await?.remove(0);
    let phase = Phase::begin(&appliance, &audit)?;
    publish(client.clone(), &one, NODE).await?;
    settled(&lab, &one, &[NODE]).await?;
    let (execs, writes) = phase.end(&appliance, &audit)?;
    report.insert("routeros_execs_publish".into(), execs);
    report.insert("api_writes_publish".into(), writes);
    let phase = Phase::begin(&appliance, &audit)?;
    unpublish(client.clone(), &one, NODE).await?;
    settled(&lab, &one, &[]).await?;
    let (execs, writes) = phase.end(&appliance, &audit)?;
    report.insert("routeros_execs_unpublish".into(), execs);
    report.insert("api_writes_unpublish".into(), writes);

    for (in_flight, rounds) in [(1, 30), (100, 100)] {
        let all = volumes(&client, &appliance, rounds).await?;
        let mut took: Vec<f64> = stream::iter(&all)
            .map(|name| publish(client.clone(), name, NODE))
            .buffer_unordered(in_flight)
            .try_collect()
            .await?;
        report.insert(format!("publish_admitted_ms_p50_{in_flight}"), quantile(&mut took, 0.5));
        report.insert(
            format!("publish_admitted_ms_p99_{in_flight}"),
            quantile(&mut took, 0.99),
        );
        let gone: Vec<()> = stream::iter(&all)
            .map(|name| unpublish(client.clone(), name, NODE))
            .buffer_unordered(in_flight)
            .try_collect()
            .await?;
        ensure!(gone.len() == all.len());
    }

    publish(client.clone(), &one, NODE).await?;
    settled(&lab, &one, &[NODE]).await?;
    let phase = Phase::begin(&appliance, &audit)?;
    let took = lost(&lab, &client, machine, &one).await?;
    report.insert("routeros_execs_fence".into(), phase.end(&appliance, &audit)?.0);
    report.insert("fence_release_seconds_over_waits".into(), took);
    Ok(report)
}

/// Seconds from the wish to detach, its node dead, to the volume being free, less the wait for the silence of the agent.
async fn lost(lab: &Lab, client: &ControllerClient<Channel>, machine: Machine, volume: &str) -> Result<f64> {
    let node = machine.name.clone();
    drop(machine);
    let down = r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"the plug was pulled"}]}}"#;
    lab.kubectl()
        .run(&["patch", "node", &node, "--subresource=status", "-p", down])
        .await?;
    let begin = Instant::now();
    wait_until("the lost node to be cut", Duration::from_secs(120), async || {
        unpublish(client.clone(), volume, &node).await
    })
    .await?;
    Ok(begin.elapsed().saturating_sub(LEASE).as_secs_f64())
}

async fn volumes(client: &ControllerClient<Channel>, appliance: &Appliance, number: usize) -> Result<Vec<String>> {
    let made = stream::iter(0..number).map(|_| async {
        let name = format!("pvc-{}", uuid::Uuid::new_v4());
        let mut client = client.clone();
        client.create_volume(create(&name, &appliance.name)).await?;
        anyhow::Ok(name)
    });
    made.buffer_unordered(20).try_collect().await
}

/// Waits until the volume shows these nodes: what the operator has to say of the change is written then.
async fn settled(lab: &Lab, volume: &str, nodes: &[&str]) -> Result<()> {
    wait_until("the volume to show its nodes", Duration::from_secs(30), async || {
        let status = lab.volumes().get(volume).await?.status.context("no status")?;
        let shown = status.nodes.unwrap_or_default();
        ensure!(shown == nodes.join(","), "it shows `{shown}`");
        Ok(())
    })
    .await
}

/// Milliseconds until the node may connect.
async fn publish(mut client: ControllerClient<Channel>, volume: &str, node: &str) -> Result<f64> {
    let capability = create(volume, "").volume_capabilities.pop();
    let begin = Instant::now();
    client
        .controller_publish_volume(csi::ControllerPublishVolumeRequest {
            volume_id: volume.into(),
            node_id: node.into(),
            volume_capability: capability,
            ..Default::default()
        })
        .await
        .with_context(|| format!("publish {volume}"))?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

async fn unpublish(mut client: ControllerClient<Channel>, volume: &str, node: &str) -> Result<()> {
    client
        .controller_unpublish_volume(csi::ControllerUnpublishVolumeRequest {
            volume_id: volume.into(),
            node_id: node.into(),
            ..Default::default()
        })
        .await
        .with_context(|| format!("unpublish {volume}"))?;
    Ok(())
}
