//! Each fault of the appliance during each operation: no duplicate disk, no leaked file, no false success, no false NotFound.
//! And late execution: a command that runs long after everybody stopped waiting for it changes nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::appliance::Appliance;
use e2e::claims::SOON;
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use routeros_sim::Knobs;
use routeros_sim::{Fault, FaultKind};
use serde_json::json;
use tokio::sync::OnceCell;

static LAB: OnceCell<Lab> = OnceCell::const_new();

/// The longest age of a command, short, so that what waits for it ends within a test.
const MAX_EXEC_AGE: &str = "12s";

async fn lab() -> Result<&'static Lab> {
    let env = [("MAX_EXEC_AGE", MAX_EXEC_AGE), ("INVENTORY_INTERVAL", "2s")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = Options {
        env,
        ..Options::default()
    };
    LAB.get_or_try_init(|| async { Lab::start("faults", &options).await })
        .await
}

/// A server whose commands time out soon: a hang shall not make the test hang.
async fn appliance(name: &str) -> Result<Appliance> {
    let limits = json!({"limits": {"commandTimeoutSeconds": 3}});
    lab().await?.appliance_with(name, Knobs::default(), limits).await
}

fn faults() -> Vec<(&'static str, FaultKind)> {
    let text = "Fehler: kein Platz".to_owned();
    vec![
        ("lost-reply", FaultKind::LostReply),
        ("hang-run", FaultKind::Hang { execute: true }),
        ("hang-not-run", FaultKind::Hang { execute: false }),
        ("cut", FaultKind::Cut { after_bytes: 40 }),
        ("truncate", FaultKind::Truncate { bytes: 40 }),
        ("slow", FaultKind::Slow { ms: 1500 }),
        ("slow-reply", FaultKind::SlowReply { ms: 1500 }),
        (
            "late",
            FaultKind::Late {
                ms: 2000,
                connection: false,
            },
        ),
        (
            "late-cut",
            FaultKind::Late {
                ms: 2000,
                connection: true,
            },
        ),
        ("status-1", FaultKind::ExitStatus { code: Some(1) }),
        ("no-status", FaultKind::ExitStatus { code: None }),
        ("pool-full", FaultKind::PoolFull),
        ("no-permission", FaultKind::NoPermission),
        ("error-text", FaultKind::Error { text }),
        ("empty", FaultKind::EmptyReply),
        ("control", FaultKind::ControlCharacters),
        (
            "garbage",
            FaultKind::Garbage {
                text: "\u{1b}[31m*** \"weird\" {".into(),
            },
        ),
        ("padding", FaultKind::Padding { blanks: 7 }),
        ("wrap", FaultKind::Wrap { width: 80 }),
        ("reboot", FaultKind::Reboot),
    ]
}

/// Longer than any late command of these tests takes to run.
const LATE: Duration = Duration::from_secs(10);

/// The commands that change something, by operation.
const CREATE: &str = "/disk/add";
const GROW: &str = "file-size=";
const RETIRE: &str = "nvme-tcp-export=no";
const REMOVE: &str = "/disk/remove";
/// Everything, reads too.
const ANY: &str = "pvc-";

/// What the appliance refused for a reason that a person has to put right is tried again after minutes only.
fn refused_for_long(kind: &FaultKind) -> bool {
    matches!(kind, FaultKind::PoolFull | FaultKind::NoPermission)
}

/// Create, grow, delete, with the fault on the first command of `operation` that matches; everything ends well all the same.
async fn lives_through(fault: &str, kind: &FaultKind) -> Result<()> {
    let lab = lab().await?;
    let appliance = appliance(&format!("f-{fault}")).await?;
    let (server, claim) = (appliance.name.clone(), format!("f-{fault}"));
    let arm = |pattern: &str| {
        appliance.clear_faults();
        appliance.fault(match refused_for_long(kind) {
            // Until a person acts: whatever wakes the operator sooner meets it again, however busy the machine.
            true => Fault::always(pattern, kind.clone()),
            false => Fault::once(pattern, kind.clone()),
        });
    };
    // A late command shows in the log only when it runs.
    let hit = async |operation: &'static str| -> Result<()> {
        appliance
            .hit("")
            .await
            .with_context(|| format!("the fault never hit {operation}"))?;
        appliance.clear_log();
        Ok(())
    };

    appliance.clear_log();
    arm(CREATE);
    lab.claim(&claim, &server, "1Gi").await?;
    if refused_for_long(kind) {
        hit("create").await?;
        appliance.assert_empty().context("after a refusal")?;
        ensure!(
            lab.claims().get(&claim).await?.status.and_then(|s| s.phase).as_deref() != Some("Bound"),
            "a false success"
        );
        // The provisioner goes on asking, claim or no claim, until it knows the end: the RdsVolume stays and says why.
        return wait_until("the RdsVolume to say why", SOON, async || {
            let volumes = lab.volumes().list(&Default::default()).await?.items;
            let volume = volumes
                .into_iter()
                .find(|volume| volume.spec.server == server)
                .context("there is none")?;
            let explain = volume.status.and_then(|status| status.explain).unwrap_or_default();
            ensure!(explain.contains("no disk yet"), "it says `{explain}`");
            Ok(())
        })
        .await;
    }
    let volume = lab.bound(&claim).await.context("create")?;
    hit("create").await?;
    let disk = appliance.only_disk().context("after create")?;
    ensure!(
        disk.exported && disk.nqn.ends_with(&volume) && disk.size == 1 << 30,
        "a false success: {disk:?}"
    );

    arm(GROW);
    lab.resize(&claim, "2Gi").await?;
    lab.grown(&claim, "2Gi").await.context("grow")?;
    hit("grow").await?;
    ensure!(
        appliance.only_disk().context("after grow")?.size == 2 << 30,
        "a false success of grow"
    );

    arm(ANY);
    lab.resize(&claim, "3Gi").await?;
    lab.grown(&claim, "3Gi").await.context("grow, any command")?;
    ensure!(
        appliance.only_disk().context("after grow")?.size == 3 << 30,
        "a false success of grow"
    );

    appliance.clear_log();
    arm(RETIRE);
    appliance.fault(Fault::once(REMOVE, kind.clone()));
    lab.delete_claim(&claim).await.context("delete")?;
    hit("delete").await?;
    appliance.clear_faults();
    // A late command may still come: the disk must not come back with it.
    appliance.quiet(LATE).await?;
    appliance.assert_empty().context("after delete")
}

#[test]
fn i17_every_fault_of_every_operation_ends_well() -> Result<()> {
    e2e::run(async {
        let only = std::env::var("FAULT").unwrap_or_default();
        lab().await?;
        let chosen: Vec<_> = faults().into_iter().filter(|(name, _)| name.contains(&only)).collect();
        let all = chosen.iter().map(|(name, kind)| async move {
            let done = lives_through(name, kind).await;
            done.with_context(|| format!("fault {name}; alone: FAULT={name} cargo test --workspace --test faults i17"))
        });
        let failed: Vec<_> = futures::future::join_all(all)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        let failed: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
        ensure!(failed.is_empty(), "{} faults:\n\n{}", failed.len(), failed.join("\n\n"));
        Ok(())
    })
}

/// What the appliance refuses in so many words while a volume grows or goes: nothing is changed, the object says why, and it
/// goes on once the reason is gone.
async fn refused(fault: &str, kind: &FaultKind) -> Result<()> {
    let lab = lab().await?;
    let name = format!("r-{fault}");
    let appliance = appliance(&name).await?;
    lab.claim(&name, &name, "1Gi").await?;
    let volume = lab.bound(&name).await?;
    let says = async |kind: &str, reason: &str| {
        wait_until(&format!("{kind} of {volume} to be {reason}"), SOON, async || {
            let status = lab.volumes().get(&volume).await?.status.unwrap_or_default();
            let said = |c: &Condition| c.type_ == kind && c.status == "True" && c.reason == reason;
            ensure!(status.conditions.iter().any(said), "{:?}", status.conditions);
            Ok(())
        })
        .await
    };
    // It says that it is full and reads back with room: that is believed to be a refusal, and not to be its reason.
    let reason = if *kind == FaultKind::PoolFull {
        "Refused"
    } else {
        "PermissionDenied"
    };
    appliance.fault(Fault::always(GROW, kind.clone()));
    lab.resize(&name, "2Gi").await?;
    says("ExpandPending", reason).await?;
    let disk = appliance.only_disk()?;
    ensure!(disk.size == 1 << 30 && disk.exported, "a refusal changed {disk:?}");
    appliance.clear_faults();
    lab.resize(&name, "3Gi").await?;
    lab.grown(&name, "3Gi").await?;

    // A full pool refuses no deletion.
    if *kind == FaultKind::NoPermission {
        appliance.fault(Fault::always(RETIRE, kind.clone()));
        lab.kubectl().run(&["delete", "pvc", &name, "--wait=false"]).await?;
        says("DeletionBlocked", reason).await?;
        let disk = appliance.only_disk()?;
        ensure!(disk.size == 3 << 30 && disk.exported, "a refusal changed {disk:?}");
        appliance.clear_faults();
        wait_until("the deletion to be finished", 2 * SOON, async || {
            ensure!(lab.volumes().get_opt(&volume).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    } else {
        lab.delete_claim(&name).await?;
    }
    appliance.assert_empty()
}

#[test]
fn a_refusal_of_growth_or_deletion_changes_nothing_and_passes() -> Result<()> {
    e2e::run(async {
        let full = refused("pool-full", &FaultKind::PoolFull);
        let denied = refused("no-permission", &FaultKind::NoPermission);
        futures::try_join!(full, denied).map(drop)
    })
}

#[test]
fn d1_a_late_expansion_does_not_undo_a_later_one() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("late-grow").await?;
        lab.claim("late-grow", "late-grow", "1Gi").await?;
        lab.bound("late-grow").await?;
        appliance.fault(Fault::once(
            GROW,
            FaultKind::Late {
                ms: 6000,
                connection: false,
            },
        ));
        lab.resize("late-grow", "20Gi").await?;
        appliance.hit(GROW).await?;
        lab.resize("late-grow", "30Gi").await?;
        lab.grown("late-grow", "30Gi").await?;
        appliance.quiet(LATE).await?;
        ensure!(
            appliance.only_disk()?.size == 30 << 30,
            "a late command changed the size to {}",
            appliance.only_disk()?.size
        );
        lab.delete_claim("late-grow").await?;
        appliance.assert_empty()
    })
}

#[test]
fn d1_a_late_add_after_the_deletion_leaks_nothing_unseen() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("late-add").await?;
        appliance.fault(Fault::once(
            CREATE,
            FaultKind::Late {
                ms: 6000,
                connection: true,
            },
        ));
        lab.claim("late-add", "late-add", "1Gi").await?;
        appliance.hit(CREATE).await?;
        // Deleted while nobody knows whether the disk will come.
        lab.kubectl()
            .run(&["delete", "pvc", "late-add", "--wait=false"])
            .await?;
        wait_until("everything to be gone", 2 * SOON, async || {
            ensure!(lab.claims().get_opt("late-add").await?.is_none(), "the claim is there");
            let volumes = lab.volumes().list(&Default::default()).await?.items;
            ensure!(
                volumes.iter().all(|volume| volume.spec.server != "late-add"),
                "an RdsVolume is there"
            );
            Ok(())
        })
        .await?;
        appliance.quiet(LATE).await?;
        appliance.assert_empty()
    })
}

#[test]
fn d1_a_late_export_does_not_bring_a_deleted_volume_back() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("late-export").await?;
        lab.claim("late-export", "late-export", "1Gi").await?;
        let volume = lab.bound("late-export").await?;
        // Somebody switches the export off behind our back; the repair is sent, and runs only after the volume is gone.
        appliance.fault(Fault::once(
            "nvme-tcp-export=yes",
            FaultKind::Late {
                ms: 8000,
                connection: false,
            },
        ));
        appliance.unexport(&volume)?;
        lab.resize("late-export", "2Gi").await?;
        lab.delete_claim("late-export").await?;
        appliance.quiet(LATE).await?;
        appliance.assert_empty()
    })
}

#[test]
fn i11_what_belongs_to_somebody_else_is_never_touched() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("foreign").await?;
        let name = format!("pvc-{}", uuid::Uuid::new_v4());
        let slot = rds_crds::identity::default_slot(&name, "");
        appliance.add_foreign_disk(&slot, "somebody else's");
        let before = appliance.only_disk()?;
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name},
            "spec": {"server": "foreign", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"], "deletionPolicy": "Delete"}});
        lab.kubectl().apply(&object).await?;
        wait_until("the volume to say that the slot is taken", SOON, async || {
            let conditions = lab
                .volumes()
                .get(&name)
                .await?
                .status
                .map(|status| status.conditions)
                .unwrap_or_default();
            let told = conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "False" && c.message.contains(&before.slot));
            ensure!(told, "{conditions:?}");
            Ok(())
        })
        .await?;
        lab.kubectl()
            .run(&["delete", "rdsvolume", &name, "--timeout=60s"])
            .await?;
        let after = appliance.only_disk()?;
        ensure!(
            (after.size, &after.comment, &after.nqn) == (before.size, &before.comment, &before.nqn),
            "{before:?} became {after:?}"
        );
        Ok(())
    })
}

#[test]
fn i16_no_secret_is_in_any_log_or_object() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("secrets").await?;
        lab.claim("secrets", "secrets", "1Gi").await?;
        lab.bound("secrets").await?;
        let key = appliance.private_key();
        let lines: Vec<&str> = key.lines().filter(|line| line.len() > 40).collect();
        ensure!(!lines.is_empty());
        let everything = [
            lab.kubectl()
                .run(&[
                    "get",
                    "rdsservers,rdsvolumes,pv,pvc,events,configmaps",
                    "-A",
                    "-o",
                    "json",
                ])
                .await?,
            lab.replicas[0].operator.tail(usize::MAX),
            lab.replicas[0].get("/metrics").await?.1,
        ];
        for text in &everything {
            ensure!(
                lines.iter().all(|line| !text.contains(line)),
                "a line of the private key is in an output"
            );
        }
        lab.delete_claim("secrets").await?;
        appliance.assert_empty()
    })
}

#[test]
fn an_outage_is_never_not_found() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = appliance("outage").await?;
        lab.claim("outage", "outage", "1Gi").await?;
        let volume = lab.bound("outage").await?;
        appliance.set(|knobs| knobs.down = true);
        lab.kubectl().run(&["delete", "pvc", "outage", "--wait=false"]).await?;
        wait_until("the server to be called unreachable", SOON, async || {
            let printed = lab.kubectl().run(&["get", "rdsserver", "outage", "-o", "json"]).await?;
            let server: rds_crds::RdsServer = serde_json::from_str(&printed)?;
            let conditions = server.status.map(|status| status.conditions).unwrap_or_default();
            ensure!(
                conditions.iter().any(|c| c.type_ == "Reachable" && c.status == "False"),
                "{conditions:?}"
            );
            Ok(())
        })
        .await?;
        ensure!(
            lab.volumes().get_opt(&volume).await?.is_some(),
            "an outage was taken for an absence"
        );
        ensure!(appliance.only_disk()?.size == 1 << 30);
        appliance.set(|knobs| knobs.down = false);
        wait_until("the deletion to be finished", 2 * SOON, async || {
            ensure!(lab.volumes().get_opt(&volume).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
        appliance.assert_empty()
    })
}

#[test]
fn a_wrong_host_key_is_refused_and_said() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.imposter("imposter").await?;
        wait_until("the RdsServer to say so", Duration::from_secs(90), async || {
            let printed = lab
                .kubectl()
                .run(&["get", "rdsserver", "imposter", "-o", "json"])
                .await?;
            let server: rds_crds::RdsServer = serde_json::from_str(&printed)?;
            let conditions = server.status.map(|status| status.conditions).unwrap_or_default();
            let told = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                c.type_ == "Reachable" && c.status == "False" && c.message.contains("host key")
            };
            ensure!(conditions.iter().any(told), "{conditions:?}");
            Ok(())
        })
        .await?;
        ensure!(
            appliance.commands().iter().all(|command| command.text.is_empty()),
            "commands were sent to an imposter"
        );
        Ok(())
    })
}
