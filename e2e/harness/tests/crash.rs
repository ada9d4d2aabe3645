//! The operator is killed after every single mutating step of create, expand and delete. The steps are what the operator itself
//! lists (`rds-operator steps`), so a new step is tested without anybody thinking of it. What is left in the API and on the
//! appliance equals what an undisturbed run leaves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::appliance::Appliance;
use e2e::lab::Options;
use e2e::{Lab, tools};
use routeros_sim::Knobs;
use serde_json::{Value, json};
use tokio::process::Command;

/// What is compared: everything but names, UIDs and times, which differ from run to run.
async fn state(lab: &Lab, appliance: &Appliance, volume: &str) -> Result<Value> {
    let object = lab.volumes().get(volume).await?;
    let status = object.status.clone().context("an RdsVolume without status")?;
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|c| format!("{}={}", c.type_, c.status))
        .collect();
    conditions.sort();
    let disks: Vec<_> = appliance
        .disks()
        .into_iter()
        .map(|disk| json!({"size": disk.size, "exported": disk.exported, "named": disk.nqn.ends_with(volume), "generation": generation(&disk.comment)}))
        .collect();
    Ok(json!({
        "capacity": status.capacity.map(|size| size.0),
        "wanted": object.spec.capacity.0,
        "generation": status.export_generation,
        "conditions": conditions,
        "finalizers": object.metadata.finalizers,
        "disks": disks,
        "files": appliance.images().len(),
        "pvs": lab.persistent_volumes().list(&Default::default()).await?.items.len(),
    }))
}

fn generation(comment: &str) -> String {
    comment
        .split(':')
        .find(|part| part.starts_with('g'))
        .unwrap_or_default()
        .into()
}

/// Create, expand, look, delete, look.
async fn scenario(lab: &Lab, appliance: &Appliance, claim: &str) -> Result<Value> {
    lab.claim(claim, &appliance.name, "1Gi").await?;
    let volume = lab.bound(claim).await?;
    lab.resize(claim, "2Gi").await?;
    lab.grown(claim, "2Gi").await?;
    lab.kubectl()
        .run(&[
            "wait",
            "--for=condition=Ready",
            &format!("rdsvolume/{volume}"),
            "--timeout=60s",
        ])
        .await?;
    let grown = state(lab, appliance, &volume).await?;
    lab.delete_claim(claim).await?;
    appliance.assert_empty()?;
    let left = lab.volumes().list(&Default::default()).await?.items.len();
    Ok(json!({"grown": grown, "left": left}))
}

#[test]
fn a_kill_after_any_step_changes_nothing_in_the_end() -> Result<()> {
    e2e::run(async {
        let lab = Lab::start("crash", &Options::default()).await?;
        let appliance = lab.appliance("crash", Knobs::default()).await?;
        let undisturbed = scenario(&lab, &appliance, "undisturbed").await?;

        let listed = Command::new(tools::own("rds-operator")?).arg("steps").output().await?;
        let listed = String::from_utf8(listed.stdout)?;
        let steps: Vec<&str> = listed.lines().filter(|line| !line.is_empty()).collect();
        ensure!(!steps.is_empty(), "`rds-operator steps` lists none");
        let replica = &lab.replicas[0];
        for (index, step) in steps.iter().enumerate() {
            let say = || format!("killed after step {step}");
            replica.restart_once_with(&[("RDS_CRASH_AFTER".into(), (*step).into())])?;
            replica.ready().await.with_context(say)?;
            let before = replica.operator.starts();
            let disturbed = scenario(&lab, &appliance, &format!("crash-{index}"))
                .await
                .with_context(say)?;
            ensure!(
                replica.operator.starts() > before,
                "step {step} was never reached: the scenario does not cover it"
            );
            ensure!(
                disturbed == undisturbed,
                "{}:\n{disturbed:#}\nbut undisturbed:\n{undisturbed:#}",
                say()
            );
            eprintln!("crash: same end after {step}");
        }
        Ok(())
    })
}

#[test]
fn a_leader_that_is_gone_is_replaced_and_its_work_is_finished() -> Result<()> {
    e2e::run(async {
        let lab = Lab::start(
            "crash-leader",
            &Options {
                replicas: 2,
                ..Options::default()
            },
        )
        .await?;
        let appliance = lab
            .appliance(
                "leader",
                Knobs {
                    latency_ms: 300,
                    ..Knobs::default()
                },
            )
            .await?;
        for index in 0..6 {
            lab.claim(&format!("leader-{index}"), "leader", "1Gi").await?;
        }
        lab.bound("leader-0").await?;
        lab.replicas[0].operator.hold();
        lab.replicas[0]
            .sidecars
            .values()
            .for_each(e2e::supervisor::Supervised::hold);
        for index in 0..6 {
            lab.bound(&format!("leader-{index}")).await?;
        }
        ensure!(appliance.disks().len() == 6, "{:?}", appliance.disks());
        for index in 0..6 {
            lab.delete_claim(&format!("leader-{index}")).await?;
        }
        appliance.assert_empty()
    })
}

#[test]
fn a_sigterm_drains_and_exits_with_zero() -> Result<()> {
    e2e::run(async {
        let lab = Lab::start("crash-term", &Options::default()).await?;
        let appliance = lab
            .appliance(
                "term",
                Knobs {
                    latency_ms: 200,
                    ..Knobs::default()
                },
            )
            .await?;
        lab.claim("term", "term", "1Gi").await?;
        lab.bound("term").await?;
        let operator = &lab.replicas[0].operator;
        operator.once();
        operator.with(|process| process.terminate())?;
        let status = e2e::wait_until("the operator to end", Duration::from_secs(35), async || {
            operator.with(|process| process.ended().context("it still runs"))
        })
        .await?;
        ensure!(status.success(), "it ended with {status}: {}", operator.tail(10));
        operator.release()?;
        lab.delete_claim("term").await?;
        appliance.assert_empty()
    })
}
