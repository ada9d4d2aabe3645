//! What the operator needs when nothing happens: memory by number of volumes, processor time, reads on the appliance.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use rds_crds::RdsVolume;
use routeros_sim::Knobs;
use serde_json::json;

use crate::Report;

const WINDOW: Duration = Duration::from_secs(60);

#[expect(clippy::cast_precision_loss, reason = "numbers of things")]
pub(crate) async fn measure() -> Result<Report> {
    let most = std::env::var("BENCH_VOLUMES")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(10_000);
    let mut report = Report::new();
    let lab = Lab::start(
        "bench-idle",
        &Options {
            sidecars: Vec::new(),
            ..Options::default()
        },
    )
    .await?;
    let appliance = lab
        .appliance_with(
            "idle",
            Knobs::default(),
            json!({"limits": {"commandsInFlight": 4, "overcommitPercent": 1000}}),
        )
        .await?;
    let replica = &lab.replicas[0];
    let mut made = 0;
    for wanted in [0, 1_000, 10_000] {
        if wanted > most {
            break;
        }
        make(&lab, made..wanted).await?;
        made = wanted;
        wait_until("all volumes to be Ready", Duration::from_secs(1800), async || {
            ensure!(
                appliance.disks().len() == wanted,
                "{} of {wanted} disks",
                appliance.disks().len()
            );
            Ok(())
        })
        .await?;
        // What it takes to keep them, not what it took to make them: a process that starts into this world.
        replica.restart_once_with(&[])?;
        replica.ready().await?;
        let (reads, cpu) = (
            appliance.commands().len(),
            replica.operator.with(|process| process.cpu())?,
        );
        tokio::time::sleep(WINDOW).await;
        let rss = replica.operator.with(|process| process.resident())? as f64 / 1048576.0;
        let cpu = replica.operator.with(|process| process.cpu())?.saturating_sub(cpu);
        let reads = (appliance.commands().len() - reads) as f64 * 10.0 / WINDOW.as_secs_f64();
        eprintln!("  {wanted} volumes: {rss:.1} MiB, {reads:.2} reads in 10 s");
        report.insert(format!("operator_rss_mib_{wanted}"), rss);
        report.insert(
            format!("operator_cpu_idle_percent_{wanted}"),
            cpu.as_secs_f64() * 100.0 / WINDOW.as_secs_f64(),
        );
        report.insert("routeros_reads_idle_per_10s".into(), reads);
    }
    Ok(report)
}

async fn make(lab: &Lab, range: std::ops::Range<usize>) -> Result<()> {
    let made = stream::iter(range).map(|_| async move {
        let volume: RdsVolume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": format!("pvc-{}", uuid::Uuid::new_v4())},
            "spec": {"server": "idle", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        }))?;
        lab.volumes().create(&PostParams::default(), &volume).await?;
        anyhow::Ok(())
    });
    made.buffer_unordered(50).try_collect().await
}
