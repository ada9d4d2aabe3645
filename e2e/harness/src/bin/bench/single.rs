//! One volume at a time, and a hundred at once: commands, API writes, and what the operator adds to the appliance's time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use csi::controller_client::ControllerClient;
use csi_proto::csi::v1 as csi;
use e2e::Lab;
use e2e::appliance::Appliance;
pub(crate) use e2e::controller::{connect as controller, creation as create};
use e2e::lab::Options;
use futures::{StreamExt, stream};
use routeros_sim::Knobs;
use tonic::transport::Channel;

use crate::{Report, audit, quantile};

pub(crate) async fn measure() -> Result<Report> {
    let mut report = Report::new();
    let lab = Lab::start(
        "bench-single",
        &Options {
            audit: true,
            ..Options::default()
        },
    )
    .await?;
    let appliance = lab.appliance("single", Knobs::default()).await?;
    let audit = lab.cluster.dir().join("audit.log");

    let mut phase = Phase::begin(&appliance, &audit)?;
    lab.claim("one", "single", "1Gi").await?;
    let volume = lab.bound("one").await?;
    lab.kubectl()
        .run(&[
            "wait",
            "--for=condition=Ready",
            &format!("rdsvolume/{volume}"),
            "--timeout=30s",
        ])
        .await?;
    let (execs, writes) = phase.end(&appliance, &audit)?;
    report.insert("routeros_execs_create".into(), execs);
    report.insert("api_writes_create".into(), writes);

    phase = Phase::begin(&appliance, &audit)?;
    lab.resize("one", "2Gi").await?;
    lab.grown("one", "2Gi").await?;
    report.insert("routeros_execs_expand".into(), phase.end(&appliance, &audit)?.0);

    phase = Phase::begin(&appliance, &audit)?;
    lab.delete_claim("one").await?;
    let (execs, writes) = phase.end(&appliance, &audit)?;
    report.insert("routeros_execs_delete".into(), execs);
    report.insert("api_writes_delete".into(), writes);

    let client = controller(&lab.replicas[0].socket).await?;
    for (in_flight, rounds) in [(1, 50), (100, 300)] {
        let mut over = overheads(&client, &appliance, in_flight, rounds).await?;
        report.insert(format!("create_overhead_ms_p50_{in_flight}"), quantile(&mut over, 0.5));
        report.insert(format!("create_overhead_ms_p99_{in_flight}"), quantile(&mut over, 0.99));
    }
    Ok(report)
}

/// What happened between two moments.
pub(crate) struct Phase {
    execs: usize,
    writes: usize,
}

impl Phase {
    pub(crate) fn begin(appliance: &Appliance, audit: &std::path::Path) -> Result<Self> {
        Ok(Self {
            execs: volume_commands(appliance),
            writes: audit::writes(audit)?,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    pub(crate) fn end(&self, appliance: &Appliance, audit: &std::path::Path) -> Result<(f64, f64)> {
        let execs = volume_commands(appliance) - self.execs;
        Ok((execs as f64, (audit::writes(audit)? - self.writes) as f64))
    }
}

/// Commands about one volume; the shared listing runs on its own clock and is counted when idle.
fn volume_commands(appliance: &Appliance) -> usize {
    appliance
        .commands()
        .iter()
        .filter(|command| command.text.contains("pvc-"))
        .count()
}

/// Milliseconds from CreateVolume to its reply, less the time inside of the simulator, for each of `rounds` volumes.
async fn overheads(
    client: &ControllerClient<Channel>,
    appliance: &Appliance,
    in_flight: usize,
    rounds: usize,
) -> Result<Vec<f64>> {
    let names: Vec<String> = (0..rounds).map(|_| format!("pvc-{}", uuid::Uuid::new_v4())).collect();
    let started = stream::iter(names.clone()).map(|name| {
        let mut client = client.clone();
        let server = appliance.name.clone();
        async move {
            let begin = Instant::now();
            client
                .create_volume(create(&name, &server))
                .await
                .with_context(|| format!("create {name}"))?;
            anyhow::Ok((name, begin.elapsed()))
        }
    });
    let replies: Vec<Result<(String, Duration)>> = started.buffer_unordered(in_flight).collect().await;
    let commands = appliance.commands();
    let mut over = Vec::new();
    for reply in replies {
        let (name, took) = reply?;
        let inside: Duration = commands.iter().filter(|c| c.text.contains(&name)).map(|c| c.took).sum();
        over.push(took.saturating_sub(inside).as_secs_f64() * 1000.0);
    }
    for name in names {
        let request = csi::DeleteVolumeRequest {
            volume_id: name,
            ..Default::default()
        };
        client.clone().delete_volume(request).await?;
    }
    Ok(over)
}
