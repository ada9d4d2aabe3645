//! What the operator needs when nothing happens: memory by number of volumes, processor time, reads on the appliance.
//!
//! Measured on a process that starts into a world of volumes at rest: what it takes to keep them, not what it took to make
//! them. First the minute after the start, then one at rest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::appliance::Appliance;
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use routeros_sim::Knobs;
use serde_json::json;

use crate::{Report, audit, single};

const WINDOW: Duration = Duration::from_secs(60);
const MIB: f64 = 1048576.0;

pub(crate) async fn measure() -> Result<Report> {
    let numbers = std::env::var("BENCH_VOLUMES").unwrap_or_else(|_| "0,1000,10000".to_owned());
    let numbers = numbers.split(',').map(|number| number.trim().parse::<usize>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>().context("BENCH_VOLUMES")?;
    let mut report = Report::new();
    let lab = Lab::start(
        "bench-idle",
        &Options {
            sidecars: Vec::new(),
            audit: true,
            ..Options::default()
        },
    )
    .await?;
    let more = json!({"limits": {"commandsInFlight": 4, "overcommitPercent": 1000}});
    let appliance = lab.appliance_with("idle", Knobs::default(), more).await?;
    let mut template = None;
    for wanted in numbers {
        if wanted > 0 {
            let name = match &template {
                Some(name) => name,
                None => template.insert(original(&lab, &appliance).await?),
            };
            lab.replicas[0].operator.hold();
            let missing = wanted.saturating_sub(appliance.disks().len());
            let begin = std::time::Instant::now();
            lab.populate(&appliance, name, missing).await?;
            eprintln!("  {missing} volumes made in {:.0} s", begin.elapsed().as_secs_f32());
        }
        idle(&lab, &appliance, wanted, &mut report).await?;
    }
    Ok(report)
}

/// The first volume, made as every volume is.
async fn original(lab: &Lab, appliance: &Appliance) -> Result<String> {
    let mut client = single::controller(&lab.replicas[0].socket).await?;
    let name = format!("pvc-{}", uuid::Uuid::new_v4());
    client.create_volume(single::create(&name, &appliance.name)).await?;
    lab.kubectl()
        .run(&[
            "wait",
            "--for=condition=Ready",
            &format!("rdsvolume/{name}"),
            "--timeout=30s",
        ])
        .await?;
    Ok(name)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of things")]
async fn idle(lab: &Lab, appliance: &Appliance, wanted: usize, report: &mut Report) -> Result<()> {
    let replica = &lab.replicas[0];
    let audit_log = lab.cluster.dir().join("audit.log");
    let (reads_before, writes_before) = (appliance.commands().len(), audit::writes(&audit_log)?);
    replica.restart_once_with(&[])?;
    replica.ready().await?;
    let reads = || appliance.commands().len() - reads_before;
    wait_until("the first listing", WINDOW, async || {
        ensure!(reads() > 0, "no command yet");
        Ok(())
    })
    .await?;
    tokio::time::sleep(WINDOW).await;
    let (first, rss) = (
        reads(),
        replica.operator.with(|process| process.resident())? as f64 / MIB,
    );
    let cpu = replica.operator.with(|process| process.cpu())?;
    tokio::time::sleep(WINDOW).await;
    let rest = reads() - first;
    let rss_at_rest = replica.operator.with(|process| process.resident())? as f64 / MIB;
    let peak = replica.operator.with(|process| process.peak())? as f64 / MIB;
    let cpu = replica.operator.with(|process| process.cpu())?.saturating_sub(cpu);
    let writes = audit::writes(&audit_log)? - writes_before;
    ensure!(appliance.disks().len() == wanted, "{} disks", appliance.disks().len());
    let seconds = WINDOW.as_secs_f64();
    let per_10s = |reads: usize| reads as f64 * 10.0 / seconds;
    eprintln!(
        "  {wanted} volumes: {rss:.1} MiB after a minute, {rss_at_rest:.1} at rest, {peak:.1} at most; {first} and {rest} reads; {writes} writes"
    );
    report.insert(format!("operator_rss_mib_{wanted}"), rss_at_rest.max(rss));
    report.insert(format!("operator_rss_peak_mib_{wanted}"), peak);
    report.insert(
        format!("operator_cpu_idle_percent_{wanted}"),
        cpu.as_secs_f64() * 100.0 / seconds,
    );
    report.insert(format!("api_writes_restart_{wanted}"), writes as f64);
    // The last one stands: with the most volumes.
    report.insert("routeros_reads_idle_per_10s".into(), per_10s(rest));
    report.insert("routeros_reads_first_minute_per_10s".into(), per_10s(first));
    Ok(())
}
