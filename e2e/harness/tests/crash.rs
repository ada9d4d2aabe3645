//! The operator is killed after every single mutating step of a volume's life. The steps are what the operator itself lists
//! (`rds-operator steps`), so a new step is tested without anybody thinking of it: a step that no story reaches fails the test.
//! What is left in the API and on the appliance equals what an undisturbed run leaves.

mod stories;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::Options;
use e2e::{Lab, tools};
use routeros_sim::Knobs;
use stories::{Story, world};
use tokio::process::Command;

/// Where each step is found soonest. A hint only: a step that is missing here is looked for in all stories.
fn likely(step: &str, story: Story) -> bool {
    match story {
        Story::Claim => !matches!(
            step,
            "add-finalizer" | "remove-file" | "release" | "export" | "put-capacity-back"
        ),
        Story::ByHand => step == "add-finalizer",
        Story::Adopted => step.contains("adopt") || step == "release",
        Story::LostExport => step == "export",
        Story::Taken => step.contains("refused"),
        Story::Toggled => step.contains("toggle"),
        Story::Restored => step.contains("recovered"),
        Story::LostRow => step == "remove-file",
        Story::GrowthRefused => step == "put-capacity-back",
    }
}

#[test]
fn a_kill_after_any_step_changes_nothing_in_the_end() -> Result<()> {
    e2e::run(async {
        // Drift is repaired after two listings: often enough for a test.
        let env = [
            ("INVENTORY_INTERVAL", "1s"),
            ("MAX_EXEC_AGE", "5s"),
            ("RESYNC_INTERVAL", "2s"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let lab = Lab::start(
            "crash",
            &Options {
                env,
                ..Options::default()
            },
        )
        .await?;
        let world = world(&lab).await?;
        let only = std::env::var("STEP").unwrap_or_default();

        let mut undisturbed = Vec::new();
        for story in Story::ALL {
            let end = world.tell(story, &format!("calm-{story:?}").to_lowercase()).await;
            undisturbed.push(end.with_context(|| format!("story {story:?}, undisturbed"))?);
        }
        let listed = Command::new(tools::own("rds-operator")?).arg("steps").output().await?;
        let listed = String::from_utf8(listed.stdout)?;
        let steps: Vec<&str> = listed
            .lines()
            .filter(|line| !line.is_empty() && line.contains(&only))
            .collect();
        ensure!(!steps.is_empty(), "`rds-operator steps` lists none");

        let mut failed = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let mut order: Vec<(usize, Story)> = Story::ALL.into_iter().enumerate().collect();
            order.sort_by_key(|(_, story)| {
                std::cmp::Reverse((likely(step, *story) && *story != Story::Claim, likely(step, *story)))
            });
            let mut reached = None;
            for (index, story) in order {
                let replica = &lab.replicas[0];
                replica.restart_once_with(&[("RDS_CRASH_AFTER".into(), (*step).into())])?;
                let before = replica.operator.starts();
                let end = world.tell(story, &format!("k{number}-{story:?}").to_lowercase()).await;
                if replica.operator.starts() == before && end.is_ok() {
                    continue;
                }
                let same = end.and_then(|end| {
                    ensure!(
                        end == undisturbed[index],
                        "{end:#}\nbut undisturbed:\n{:#}",
                        undisturbed[index]
                    );
                    Ok(())
                });
                let alone = format!(
                    "killed after {step}, story {story:?}; alone: STEP={step} cargo test --workspace --test crash kill"
                );
                reached = Some(same.context(alone));
                break;
            }
            match reached {
                Some(Ok(())) => eprintln!("crash: the same end after {step}"),
                Some(Err(error)) => failed.push(format!("{error:#}")),
                None => failed.push(format!("no story reaches step {step}")),
            }
        }
        ensure!(
            failed.is_empty(),
            "{} of {} steps:\n\n{}",
            failed.len(),
            steps.len(),
            failed.join("\n\n")
        );
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
                // A create of the dead leader may be left without a known result; its volume then stays this long after deletion.
                env: vec![("MAX_EXEC_AGE".into(), "5s".into())],
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
