//! A thousand claims at once, beside two floors: what the commands alone take, and the same sidecars on a driver that does
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::lab::{DRIVER, Options};
use e2e::{Lab, noop, wait_until};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use routeros_sim::Knobs;

use crate::{Report, quantile};

const CLAIMS: usize = 1000;
const COMMAND: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(900);

#[expect(clippy::cast_precision_loss, reason = "numbers of things")]
pub(crate) async fn measure() -> Result<Report> {
    let mut report = Report::new();
    let lab = Lab::start("bench-burst", &Options::default()).await?;
    let latency = u64::try_from(COMMAND.as_millis())?;
    let appliance = lab
        .appliance(
            "burst",
            Knobs {
                latency_ms: latency,
                ..Knobs::default()
            },
        )
        .await?;
    let before = appliance.commands().len();
    let (total, mut each) = burst(&lab, "burst").await?;
    let commands = appliance.commands().len() - before;
    report.insert("burst_1000_seconds".into(), total);
    report.insert("burst_1000_p99_seconds".into(), quantile(&mut each, 0.99));
    report.insert("burst_1000_commands".into(), commands as f64);
    report.insert(
        "burst_1000_floor_commands_seconds".into(),
        CLAIMS as f64 * COMMAND.as_secs_f64(),
    );
    report.insert(
        "operator_rss_mib_burst".into(),
        lab.replicas[0].operator.with(|process| process.resident())? as f64 / 1048576.0,
    );

    appliance.set(|knobs| knobs.latency_ms = 0);
    lab.kubectl().run(&["delete", "pvc", "--all", "--wait=false"]).await?;
    let emptied = wait_until("all volumes to be gone", DEADLINE, async || {
        anyhow::ensure!(
            lab.persistent_volumes()
                .list(&Default::default())
                .await?
                .items
                .is_empty(),
            "there are PVs"
        );
        anyhow::ensure!(
            lab.volumes().list(&Default::default()).await?.items.is_empty(),
            "there are RdsVolumes"
        );
        Ok(())
    });
    if let Err(error) = emptied.await {
        eprintln!("{error:#}");
    }
    let objects = lab.volumes().list(&Default::default()).await?.items.len();
    let leaks = appliance.disks().len() + appliance.images().len() + objects;
    report.insert("burst_1000_leaks".into(), leaks as f64);
    drop(lab);

    // The same burst through the same sidecar with the same flags, and a driver that does nothing behind it.
    let lab = Lab::start(
        "bench-noop",
        &Options {
            replicas: 0,
            ..Options::default()
        },
    )
    .await?;
    let socket = lab.short("noop.sock");
    noop::serve(DRIVER, &socket)?;
    let _provisioner = e2e::replica::sidecar(
        &lab.cluster,
        &lab.manifests,
        "csi-provisioner",
        "noop-0",
        &socket,
        "noop",
    )
    .await?;
    lab.class("burst", "burst", serde_json::json!({})).await?;
    report.insert("burst_1000_floor_noop_seconds".into(), burst(&lab, "burst").await?.0);
    Ok(report)
}

/// Seconds until all claims are bound, and of each.
async fn burst(lab: &Lab, class: &str) -> Result<(f64, Vec<f64>)> {
    let begin = Instant::now();
    let watched = watcher(lab.claims(), watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let watched = tokio::spawn(async move {
        let mut watched = std::pin::pin!(watched);
        let mut bound = BTreeMap::new();
        while bound.len() < CLAIMS {
            let claim = watched.try_next().await?.context("the watch ended")?;
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
                bound
                    .entry(claim.name_any())
                    .or_insert_with(|| begin.elapsed().as_secs_f64());
            }
        }
        anyhow::Ok(bound)
    });
    let made = stream::iter(0..CLAIMS).map(|index| async move {
        lab.claim(&format!("burst-{index}"), class, "1Gi").await?;
        anyhow::Ok((format!("burst-{index}"), begin.elapsed().as_secs_f64()))
    });
    let made: BTreeMap<String, f64> = made.buffer_unordered(50).try_collect().await?;
    eprintln!("  {CLAIMS} claims made after {:.1} s", begin.elapsed().as_secs_f32());
    let bound = tokio::time::timeout(DEADLINE, watched)
        .await
        .context("not all claims were bound in time")???;
    let total = begin.elapsed().as_secs_f64();
    eprintln!("  all bound after {total:.1} s");
    Ok((
        total,
        bound
            .iter()
            .map(|(name, at)| at - made.get(name).copied().unwrap_or_default())
            .collect(),
    ))
}
