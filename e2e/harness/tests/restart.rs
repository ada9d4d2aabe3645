//! What a restart costs, and rest: counted in commands on the appliance, passes and writes, never in seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::appliance::Appliance;
use e2e::claims::SOON;
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use kube::ResourceExt;
use kube::api::PostParams;
use rds_crds::{RdsServer, RdsVolume};
use routeros_sim::Knobs;
use serde_json::{Value, json};

const VOLUMES: usize = 50;

/// Passes over volumes that came to an end, by volume, since this many lines of the log.
fn passes(lab: &Lab, since: usize) -> BTreeMap<String, usize> {
    let mut passes = BTreeMap::new();
    for line in lab.replicas[0].operator.tail(usize::MAX).lines().skip(since) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if line["message"] == "decided"
            && let Some(volume) = line["volume"]
                .as_str()
                .filter(|_| line["step"].as_str().is_some_and(|s| s.starts_with("Rest")))
        {
            *passes.entry(volume.to_owned()).or_default() += 1;
        }
    }
    passes
}

fn lines(lab: &Lab) -> usize {
    lab.replicas[0].operator.tail(usize::MAX).lines().count()
}

async fn versions(lab: &Lab) -> Result<BTreeSet<(String, Option<String>)>> {
    let all = lab.volumes().list(&Default::default()).await?.items;
    Ok(all.into_iter().map(|v| (v.name_any(), v.resource_version())).collect())
}

async fn counted(lab: &Lab, server: &str, volumes: usize) -> Result<()> {
    wait_until(
        "the RdsServer to count its volumes",
        Duration::from_secs(60),
        async || {
            let server = kube::Api::<RdsServer>::all(lab.cluster.client()).get(server).await?;
            let told = server.status.and_then(|s| s.volumes);
            ensure!(
                told == u32::try_from(volumes).ok(),
                "it says {told:?} and not {volumes}"
            );
            Ok(())
        },
    )
    .await
}

/// A new process counts what there is, not what it saw happen; and who reads its numbers asks the appliance nothing.
async fn b82_b83_metrics_are_read_from_memory(lab: &Lab, appliance: &Appliance) -> Result<()> {
    let commands = appliance.commands().len();
    for _ in 0..50 {
        let (_, text) = lab.replicas[0].get("/metrics").await?;
        for line in [
            format!("rds_csi_cached_objects{{kind=\"RdsVolume\"}} {VOLUMES}"),
            "rds_csi_rds_connection_state{address=\"127.0.0.1\"} 1".to_owned(),
        ] {
            ensure!(text.contains(&line), "no `{line}` in\n{text}");
        }
    }
    // The listing of the minute may have come meanwhile.
    let asked = appliance.commands().len() - commands;
    ensure!(asked <= 1, "{asked} commands for 50 readings");
    Ok(())
}

#[test]
fn a_restart_costs_one_listing_and_no_write_and_a_listing_wakes_only_whom_it_concerns() -> Result<()> {
    e2e::run(async {
        let options = Options {
            sidecars: Vec::new(),
            env: vec![("RUST_LOG".to_owned(), "info,rds_operator=debug".to_owned())],
            ..Options::default()
        };
        let lab = Lab::start("restart", &options).await?;
        let appliance = lab.appliance("rest", Knobs::default()).await?;
        let first = format!("pvc-{}", uuid::Uuid::new_v4());
        let volume: RdsVolume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": first},
            "spec": {"server": "rest", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        }))?;
        lab.volumes().create(&PostParams::default(), &volume).await?;
        let object = format!("rdsvolume/{first}");
        let ready = ["wait", "--for=condition=Ready", &object, "--timeout=30s"];
        lab.kubectl().run(&ready).await?;
        // The next listing is most of a minute away: it counts without one.
        counted(&lab, "rest", 1).await?;
        lab.replicas[0].operator.hold();
        lab.populate(&appliance, &first, VOLUMES - 1).await?;

        let (begin, before) = (lines(&lab), versions(&lab).await?);
        appliance.clear_log();
        lab.replicas[0].operator.release()?;
        wait_until("a pass over every volume", SOON, async || {
            let seen = passes(&lab, begin).len();
            ensure!(seen == VOLUMES, "{seen} of {VOLUMES}");
            Ok(())
        })
        .await?;
        let commands = appliance.commands();
        ensure!(
            commands.len() <= 2,
            "{} commands after a restart: {commands:?}",
            commands.len()
        );
        ensure!(
            !commands.iter().any(|c| c.text.contains("pvc-")),
            "a volume was looked at by itself"
        );
        let often: Vec<_> = passes(&lab, begin).into_iter().filter(|(_, n)| *n > 1).collect();
        ensure!(often.is_empty(), "more than one pass: {often:?}");
        ensure!(versions(&lab).await? == before, "volumes at rest were written to");
        b82_b83_metrics_are_read_from_memory(&lab, &appliance).await?;

        // From here on a listing every other second.
        lab.replicas[0].restart_once_with(&[("INVENTORY_INTERVAL".to_owned(), "2s".to_owned())])?;
        let begin = lines(&lab);
        wait_until("a pass over every volume", SOON, async || {
            let seen = passes(&lab, begin).len();
            ensure!(seen == VOLUMES, "{seen} of {VOLUMES}");
            Ok(())
        })
        .await?;
        let (begin, listings) = (lines(&lab), appliance.commands().len());
        wait_until("three more listings", SOON, async || {
            let more = appliance.commands().len() - listings;
            ensure!(more >= 3, "{more}");
            Ok(())
        })
        .await?;
        let woken = passes(&lab, begin);
        ensure!(woken.is_empty(), "listings without news woke {woken:?}");

        appliance.unexport(&first)?;
        wait_until("the export to be repaired", SOON, async || {
            let disk = appliance.disks().into_iter().find(|disk| disk.nqn.ends_with(&first));
            ensure!(disk.is_some_and(|disk| disk.exported), "it is off");
            Ok(())
        })
        .await?;
        let woken: Vec<String> = passes(&lab, begin).into_keys().collect();
        ensure!(woken == [first.clone()], "the news of one disk woke {woken:?}");
        Ok(())
    })
}
