//! Live migration as KubeVirt does it: a raw block volume with ReadWriteMany, on two nodes for as long as it may take. Each ends by
//! the side that leaves; one that takes too long is told, and nobody else enters. The oracle is the appliance. And nodes that were cloned, as
//! the rounds that find them are quick here.

use anyhow::{Context, Result, ensure};
use e2e::scene::{PATIENCE, Scene};
use e2e::wait_until;
use rds_crds::condition::find_condition;
use routeros_sim::Knobs;
use serde_json::json;
use tokio::sync::{Mutex, OnceCell};

static SCENE: OnceCell<Scene> = OnceCell::const_new();
/// One test at a time: they count what the replicas count, and kill them.
static ONE: Mutex<()> = Mutex::const_new(());

async fn scene() -> Result<&'static Scene> {
    SCENE
        .get_or_try_init(|| async {
            // The gauge of running migrations is set by the rounds.
            let more = [("ATTACHMENT_RECONCILE_INTERVAL", "2s")];
            Scene::start_with("migration", Knobs::default(), 2, &more).await
        })
        .await
}

/// A bound claim as KubeVirt makes it; the name of its volume.
async fn disk(scene: &Scene, name: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let mut all = json!({"server": scene.appliance.name});
    for (key, value) in parameters {
        all[*key] = json!(value);
    }
    let lab = &scene.lab;
    let class = format!("{name}-class");
    lab.class(&class, &scene.appliance.name, json!({"parameters": all}))
        .await?;
    let block = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
    lab.claim_with(name, &class, "1Gi", block).await?;
    lab.bound(name).await
}

/// Metrics of whichever replica leads: a counter of the other one stays at 0.
async fn metric(scene: &Scene, series: &str) -> Result<i64> {
    let mut sum = 0;
    for replica in &scene.lab.replicas {
        let (_, all) = replica.get("/metrics").await?;
        let found = all.lines().find_map(|line| line.strip_prefix(series));
        sum += found.map_or(Ok(0), |value| value.trim().parse::<i64>())?;
    }
    Ok(sum)
}

async fn counts(scene: &Scene, series: &str, wanted: i64) -> Result<()> {
    wait_until(&format!("{series} to be {wanted}"), PATIENCE, async || {
        let now = metric(scene, series).await?;
        ensure!(now == wanted, "it is {now}");
        Ok(())
    })
    .await
}

#[test]
fn r66_r67_b26_a_migration_ends_by_the_side_that_leaves_and_is_told_when_it_takes_too_long() -> Result<()> {
    e2e::run(async {
        let _one = ONE.lock().await;
        let scene = scene().await?;
        let lab = &scene.lab;
        let (one, two, three) = (
            scene.node("one").await?,
            scene.node("two").await?,
            scene.node("three").await?,
        );
        let volume = &disk(scene, "vm", &[("migrationTimeoutSeconds", "30")]).await?;
        scene.ask(volume, "one").await?;
        scene.attached(volume, &one).await?;
        let nqn = scene.status(volume).await?.nqn.context("no NQN")?;

        // The target gives up: aborted.
        scene.ask(volume, "two").await?;
        scene.attached(volume, &two).await?;
        scene.written_by(volume, &["one", "two"]).await?;
        let roles: Vec<String> = scene
            .status(volume)
            .await?
            .holders
            .iter()
            .map(|h| format!("{:?}", h.role))
            .collect();
        ensure!(roles == ["Primary", "MigrationTarget"], "{roles:?}");
        scene
            .event(volume, "MigrationStarted", "node two got the volume beside node one")
            .await?;
        counts(scene, "rds_csi_migration_active_migrations", 1).await?;
        scene.ask(volume, "three").await?;
        scene
            .refused(volume, "three", &["migration limit", "[one two]"])
            .await?;
        scene.unask(volume, "three").await?;
        scene.detached(volume, "three").await?;
        scene.unask(volume, "two").await?;
        scene.detached(volume, "two").await?;
        scene
            .event(volume, "MigrationFailed", "node one stays the one writer")
            .await?;
        scene.written_by(volume, &["one"]).await?;
        counts(scene, "rds_csi_migration_active_migrations", 0).await?;

        // The next one takes too long, and all replicas are killed meanwhile: its time goes on.
        scene.ask(volume, "three").await?;
        scene.attached(volume, &three).await?;
        let began = scene.status(volume).await?;
        for replica in &lab.replicas {
            replica.operator.restart()?;
        }
        for replica in &lab.replicas {
            replica.ready().await?;
        }
        scene
            .event(volume, "MigrationFailed", "migration timeout exceeded")
            .await?;
        let status = scene.status(volume).await?;
        ensure!(
            status.holders == began.holders,
            "{:?}, before: {:?}",
            status.holders,
            began.holders
        );
        let overdue = find_condition(&status.conditions, "MigrationOverdue").context("no MigrationOverdue")?;
        ensure!(
            overdue.status == "True" && overdue.message.contains("30s max"),
            "{overdue:?}"
        );
        let explain = status.explain.unwrap_or_default();
        ensure!(explain.contains("one") && explain.contains("three"), "{explain}");
        scene.written_by(volume, &["one", "three"]).await?;
        scene.ask(volume, "two").await?;
        let words = [
            "timeout exceeded",
            "s elapsed, 30s max",
            "Detach source node to reset, or adjust migrationTimeoutSeconds in StorageClass",
        ];
        scene.refused(volume, "two", &words).await?;

        // The source leaves: completed, and the one that waited is the next target.
        scene.unask(volume, "one").await?;
        scene.detached(volume, "one").await?;
        scene
            .event(volume, "MigrationCompleted", "node three is the one writer")
            .await?;
        scene.attached(volume, &two).await?;
        scene.written_by(volume, &["three", "two"]).await?;
        wait_until("the volume to say that it is in time again", PATIENCE, async || {
            let all = scene.status(volume).await?.conditions;
            let said = find_condition(&all, "MigrationOverdue");
            ensure!(said.is_none_or(|c| c.status != "True"), "{said:?}");
            Ok(())
        })
        .await?;
        scene.unask(volume, "three").await?;
        scene.detached(volume, "three").await?;
        scene.held_by(volume, &["two"]).await?;
        scene.written_by(volume, &["two"]).await?;
        // All of it under one name and generation: a migration cuts nobody.
        let status = scene.status(volume).await?;
        ensure!(
            status.nqn.as_ref() == Some(&nqn) && status.export_generation == Some(1),
            "{status:?}"
        );
        let late = metric(scene, r#"rds_csi_migration_migrations_total{result="timeout"}"#).await?;
        ensure!(late >= 1, "a migration took too long, and {late} did");
        scene.unask(volume, "two").await?;
        scene.detached(volume, "two").await?;
        lab.delete_claim("vm").await
    })
}

#[test]
fn i3_with_the_policy_kubevirt_only_the_same_virtual_machine_gets_a_second_node() -> Result<()> {
    e2e::run(async {
        let _one = ONE.lock().await;
        let scene = scene().await?;
        let lab = &scene.lab;
        let (here, there) = (scene.node("here").await?, scene.node("there").await?);
        let volume = &disk(scene, "guest", &[("migrationPolicy", "kubevirt")]).await?;
        let pod = async |name: &str, node: &str, labels: serde_json::Value| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "none", "volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "guest"}}],
            }});
            lab.kubectl().apply(&pod).await.map(drop)
        };
        let kill = async |name: &str| {
            scene
                .kubectl(&["delete", "pod", name, "--force", "--grace-period=0"])
                .await
                .map(drop)
        };
        let launcher = |vm: &str| json!({"kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": vm});
        // The attach-detach controller asks for both nodes by itself: ReadWriteMany.
        pod("launcher-1", "here", launcher("guest")).await?;
        scene.attached(volume, &here).await?;
        for (name, labels) in [("foreign", json!({})), ("stranger", launcher("other"))] {
            pod(name, "there", labels).await?;
            scene
                .refused(volume, "there", &["migrationPolicy kubevirt", "there", "here"])
                .await?;
            scene.written_by(volume, &["here"]).await?;
            kill(name).await?;
            scene.detached(volume, "there").await?;
        }
        let in_time = r#"rds_csi_migration_migrations_total{result="success"}"#;
        let before = metric(scene, in_time).await?;
        pod("launcher-2", "there", launcher("guest")).await?;
        scene.attached(volume, &there).await?;
        scene.written_by(volume, &["here", "there"]).await?;
        kill("launcher-1").await?;
        scene.detached(volume, "here").await?;
        scene
            .event(volume, "MigrationCompleted", "node there is the one writer")
            .await?;
        scene.written_by(volume, &["there"]).await?;
        counts(scene, in_time, before + 1).await?;
        kill("launcher-2").await?;
        scene.detached(volume, "there").await?;
        lab.delete_claim("guest").await
    })
}

/// A machine was cloned, machine ID and all: said on both Nodes, each once, until one of them has a machine ID of its own.
#[test]
fn b77_nodes_that_were_cloned_are_told_of_each_other() -> Result<()> {
    e2e::run(async {
        let _one = ONE.lock().await;
        let scene = scene().await?;
        let (first, copy) = (scene.node("first").await?, scene.node("copy").await?);
        let series = "rds_csi_shared_host_nqn_nodes";
        counts(scene, series, 0).await?;
        let at = |node: &e2e::scene::Node, path: &str| node.agent.host_root().join(path);
        wait_until("the agent to make its name", PATIENCE, async || {
            Ok(std::fs::metadata(at(&first, "state/host-identity.json")).map(drop)?)
        })
        .await?;
        for path in ["etc/machine-id", "state/host-identity.json"] {
            std::fs::copy(at(&first, path), at(&copy, path)).context(path)?;
        }
        copy.agent.process.restart()?;
        counts(scene, series, 2).await?;
        for node in ["first", "copy"] {
            scene
                .event(node, "HostNQNShared", "nodes copy, first name themselves alike")
                .await?;
            scene.told(node, "HostNQNShared", "empty its /etc/machine-id").await?;
        }
        // As its note asks.
        std::fs::write(at(&copy, "etc/machine-id"), "machine-of-its-own")?;
        copy.agent.process.restart()?;
        counts(scene, series, 0).await?;
        let path =
            r#"jsonpath={range .items[?(@.reason=="HostNQNShared")]}{.regarding.kind}/{.regarding.name} {.type} {end}"#;
        let all = scene
            .kubectl(&["get", "events.events.k8s.io", "-A", "-o", path])
            .await?;
        let mut said: Vec<&str> = all.trim().split(' ').collect();
        said.sort_unstable();
        ensure!(
            said == ["Node/copy", "Node/first", "Warning", "Warning"],
            "not one event for each: {all}"
        );
        Ok(())
    })
}
