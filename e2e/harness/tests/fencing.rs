//! Fencing, with the agents that ship on nodes without machines: the self-test, what follows from it, and what persons may say.
//! The oracle is the appliance: which hosts can write, whatever the objects say.

use anyhow::{Context, Result, ensure};
use e2e::scene::{PATIENCE, Scene};
use e2e::wait_until;
use rds_crds::condition::{find_condition, is_true};
use routeros_sim::{Fault, FaultKind, Knobs, Version};
use serde_json::json;

#[test]
fn i4_i18_what_the_self_test_proved_cuts_a_dead_node_and_its_pod_goes_on_elsewhere() -> Result<()> {
    e2e::run(async {
        let scene = Scene::start("fencing", Knobs::default()).await?;
        let server = scene.appliance.name.clone();
        scene
            .fence_proven("Unknown", "NotTested", "once a node is Ready")
            .await?;
        let one = scene.node("one").await?;
        let two = scene.node("two").await?;
        scene.fence_proven("True", "Proven", "7.24.4").await?;
        scene.appliance.assert_empty()?;
        let shown = scene.kubectl(&["get", "rdsserver", &server]).await?;
        ensure!(shown.contains("FENCING") && shown.contains("Proven"), "{shown}");
        scene.event(&server, "Proven", "the old name was refused").await?;

        // A pod, with the real attach-detach controller and csi-attacher.
        let lab = &scene.lab;
        lab.claim("dies", &server, "1Gi").await?;
        let volume = lab.bound("dies").await?;
        let pod = |node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dies", "namespace": "default"}, "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "none", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "dies"}}],
            }})
        };
        let pod_gone = async || {
            let get = ["get", "pod", "dies", "--ignore-not-found", "-o", "name"];
            wait_until("the pod to be gone", PATIENCE, async || {
                ensure!(scene.kubectl(&get).await?.is_empty(), "it is there");
                Ok(())
            })
            .await
        };
        lab.kubectl().apply(&pod("one")).await?;
        scene.connected(&volume, &one).await?;
        scene.written_by(&volume, &["one"]).await?;
        one.kubelet.heard().await?;

        scene.appliance.clear_log();
        scene.out_of_service(&one).await?;
        pod_gone().await?;
        lab.kubectl().apply(&pod("two")).await?;
        scene.connected(&volume, &two).await?;
        scene.written_by(&volume, &["two"]).await?;
        let status = scene.status(&volume).await?;
        let slot = status.slot.clone().context("no slot")?;
        let sent = scene.appliance.changes(&slot);
        ensure!(
            sent == 2,
            "a fence took {sent} commands: {:?}",
            scene.appliance.commands()
        );
        ensure!(status.fenced.iter().any(|f| f.node == "one"), "{:?}", status.fenced);
        scene.event(&volume, "Fenced", "node one was cut").await?;
        let (_, metrics) = lab.replicas[0].get("/metrics").await?;
        ensure!(
            metrics.contains(r#"rds_csi_fences_total{result="done"} 1"#),
            "{metrics}"
        );
        ensure!(
            metrics.contains(r#"rds_csi_fence_self_tests_total{result="proven"} 1"#),
            "{metrics}"
        );

        // The node comes back, and gets the volume again only after it has acknowledged that it was cut. What it lost is said, whether its
        // agent finds out before the volume is wanted there again or after.
        scene.comes_back(&one).await?;
        scene
            .kubectl(&["delete", "pod", "dies", "--force", "--grace-period=0"])
            .await?;
        scene.held_by(&volume, &[]).await?;
        lab.kubectl().apply(&pod("one")).await?;
        scene.connected(&volume, &one).await?;
        ensure!(scene.status(&volume).await?.fenced.is_empty(), "not acknowledged");
        scene.written_by(&volume, &["one"]).await?;
        wait_until("the loss to be said", PATIENCE, async || {
            let status = scene.status(&volume).await?;
            let said = find_condition(&status.conditions, "Healthy").context("no Healthy")?;
            ensure!(
                said.reason == "PossibleDataLoss" && said.message.contains("node one"),
                "{said:?}"
            );
            Ok(())
        })
        .await?;

        // Another RouterOS: nothing is proven until it was proven anew.
        scene.appliance.set(|knobs| knobs.version = Version(7, 25, 0));
        scene.fence_proven("True", "Proven", "7.25").await?;
        ensure!(
            scene.writers(&volume).await? == ["one"],
            "the test touched somebody else"
        );
        // A person asks for it; in mode Plan it does not run by itself.
        scene
            .annotate("rdsserver", &server, "rds.csi.srvlab.io/test-fencing=now")
            .await?;
        wait_until("the test to have run again", PATIENCE, async || {
            let (_, metrics) = lab.replicas[0].get("/metrics").await?;
            ensure!(
                metrics.contains(r#"rds_csi_fence_self_tests_total{result="proven"} 3"#),
                "{metrics}"
            );
            Ok(())
        })
        .await?;
        // An older configuration of the appliance comes back: who uses the volume is left alone, it is said, and the next fence finds
        // the disk all the same.
        scene.appliance.go_back(&slot)?;
        wait_until("the older generation to be told", PATIENCE, async || {
            let status = scene.status(&volume).await?;
            let said = find_condition(&status.conditions, "Drifted").context("not drifted")?;
            ensure!(said.message.contains("older generation"), "{said:?}");
            Ok(())
        })
        .await?;
        ensure!(scene.writers(&volume).await? == ["one"], "somebody was cut");
        scene.out_of_service(&one).await?;
        scene
            .annotate("rdsvolume", &volume, "rds.csi.srvlab.io/fence-now=one")
            .await?;
        pod_gone().await?;
        lab.kubectl().apply(&pod("two")).await?;
        scene.connected(&volume, &two).await?;
        scene.written_by(&volume, &["two"]).await?;
        ensure!(scene.status(&volume).await?.export_generation == Some(3));
        scene.comes_back(&one).await?;
        scene
            .kubectl(&["delete", "pod", "dies", "--force", "--grace-period=0"])
            .await?;
        scene.held_by(&volume, &[]).await?;
        lab.delete_claim("dies").await?;
        scene.fence_proven("True", "Proven", "7.25").await?;
        scene.appliance.assert_empty()
    })
}

#[test]
fn i4_where_sessions_outlive_their_export_no_holder_is_released_but_by_a_persons_word() -> Result<()> {
    e2e::run(async {
        let knobs: Knobs = serde_json::from_value(json!({"export-off": "leaves"}))?;
        let scene = Scene::start("fencing-leaves", knobs).await?;
        let one = scene.node("one").await?;
        let two = scene.node("two").await?;
        let said = scene.fence_proven("False", "SessionSurvived", "stayed live").await?;
        ensure!(said.message.contains("cuts nobody"), "{said:?}");
        scene.appliance.assert_empty()?;
        let shown = scene.kubectl(&["get", "rdsserver", &scene.appliance.name]).await?;
        ensure!(shown.contains("SessionSurvived"), "{shown}");

        scene.volume("held", "ReadWriteOnce").await?;
        scene.attach("held", &one, "ReadWriteOnce").await?;
        scene.connected("held", &one).await?;
        // Nobody makes it a canary, which would be cut at will.
        let label = ["label", "rdsvolume", "held", "rds.csi.srvlab.io/made-by=self-test"];
        let refused = scene.kubectl(&label).await.err().context("it was made a canary")?;
        ensure!(
            format!("{refused:#}").contains("belongs to the operator"),
            "{refused:#}"
        );
        scene
            .annotate("rdsvolume", "held", "rds.csi.srvlab.io/node-is-off=one/boot-1-of-one")
            .await?;
        scene.event("held", "NodeIsOffRefused", "renews its Lease").await?;
        scene.annotation_gone("held", "rds.csi.srvlab.io/node-is-off").await?;

        scene.out_of_service(&one).await?;
        scene.detach("held", &one).await?;
        scene.attach("held", &two, "ReadWriteOnce").await?;
        scene.pending("held", "Waiting", "SessionSurvived").await?;
        scene.appliance.clear_log();
        scene.written_by("held", &["one"]).await?;
        wait_until("the list of attachments to say why", PATIENCE, async || {
            let shown = scene.kubectl(&["get", "rdsattachments", "-o", "wide"]).await?;
            ensure!(shown.contains("lost"), "{shown}");
            Ok(())
        })
        .await?;

        // As long as the Lease is not silent for the whole period, that is what speaks against it.
        wait_until("another boot to be refused as such", PATIENCE, async || {
            let word = "rds.csi.srvlab.io/node-is-off=one/another-boot";
            scene.annotate("rdsvolume", "held", word).await?;
            scene.annotation_gone("held", "rds.csi.srvlab.io/node-is-off").await?;
            let words = "the recorded boot of node one is boot-1-of-one";
            scene.told("held", "NodeIsOffRefused", words).await
        })
        .await?;
        ensure!(
            scene.holders("held").await? == ["one"],
            "{:?}",
            scene.holders("held").await?
        );

        // The person has looked: the machine is off, its session with it. The operator is killed between saying so on the attachment
        // and letting the holder go, and the next leader has to see for itself that the Lease is silent.
        let operator = &scene.lab.replicas[0];
        operator.restart_once_with(&[("RDS_CRASH_AFTER".into(), "say-node-off".into())])?;
        let before = operator.operator.starts();
        scene.appliance.power_off("one");
        scene
            .annotate("rdsvolume", "held", "rds.csi.srvlab.io/node-is-off=one/boot-1-of-one")
            .await?;
        scene.connected("held", &two).await?;
        ensure!(operator.operator.starts() > before, "it was not killed");
        scene.annotation_gone("held", "rds.csi.srvlab.io/node-is-off").await?;
        scene.written_by("held", &["two"]).await?;
        let status = scene.status("held").await?;
        ensure!(status.export_generation == Some(1), "it was cut: {status:?}");
        ensure!(!is_true(&status.conditions, "FencePending"), "{:?}", status.conditions);
        let slot = status.slot.context("no slot")?;
        ensure!(scene.appliance.changes(&slot) == 0, "{:?}", scene.appliance.commands());
        scene.event("held", "VolumeDetached", "vouched").await
    })
}

#[test]
fn i4_r51_an_appliance_that_is_away_and_a_live_peer_make_a_fence_wait() -> Result<()> {
    e2e::run(async {
        let scene = Scene::start("fencing-waits", Knobs::default()).await?;
        let one = scene.node("one").await?;
        let two = scene.node("two").await?;
        scene.fence_proven("True", "Proven", "").await?;

        // A node that is letting go is waited for, and whoever comes meanwhile has to come again.
        scene.lab.claim("handed", &scene.appliance.name, "1Gi").await?;
        let handed = &scene.lab.bound("handed").await?;
        scene.ask(handed, "one").await?;
        scene.attached(handed, &one).await?;
        let nqn = scene.status(handed).await?.nqn.context("no NQN")?;
        one.agent.in_use(&[&nqn])?;
        scene.unask(handed, "one").await?;
        scene.ask(handed, "two").await?;
        let words = ["code = Aborted", "node one: handoff in progress, retry"];
        scene.refused(handed, "two", &words).await?;
        ensure!(
            scene.holders(handed).await? == ["one"],
            "{:?}",
            scene.holders(handed).await?
        );
        scene.written_by(handed, &["one"]).await?;
        one.agent.in_use(&[])?;
        scene.detached(handed, "one").await?;
        scene.attached(handed, &two).await?;
        scene.written_by(handed, &["two"]).await?;
        ensure!(scene.status(handed).await?.nqn == Some(nqn), "somebody was cut");
        scene.unask(handed, "two").await?;
        scene.detached(handed, "two").await?;

        // While the appliance does not answer nobody is cut, and nobody gets in.
        scene.volume("away", "ReadWriteOnce").await?;
        scene.attach("away", &one, "ReadWriteOnce").await?;
        scene.connected("away", &one).await?;
        scene.out_of_service(&one).await?;
        scene
            .appliance
            .fault(Fault::always("", FaultKind::Hang { execute: false }));
        scene.attach("away", &two, "ReadWriteOnce").await?;
        scene.detach("away", &one).await?;
        scene.pending("away", "Cutting", "the appliance did not answer").await?;
        ensure!(
            scene.holders("away").await? == ["one"] && scene.writers("away").await? == ["one"],
            "cut unseen"
        );
        scene.appliance.clear_faults();
        scene.connected("away", &two).await?;
        scene.written_by("away", &["two"]).await?;
        scene.comes_back(&one).await?;

        // A live peer is not cut for a lost one, but by a person's word; then it connects anew.
        scene.volume("shared", "ReadWriteMany").await?;
        for node in [&one, &two] {
            scene.attach("shared", node, "ReadWriteMany").await?;
            scene.connected("shared", node).await?;
        }
        // Its agent cannot tell who uses the device, so it counts as used.
        let nqn = scene.status("shared").await?.nqn.context("no NQN")?;
        two.agent.in_use(&[&format!("?{nqn}")])?;
        scene.out_of_service(&one).await?;
        // The operator is killed between recording that and letting the RdsAttachment go.
        let operator = &scene.lab.replicas[0];
        operator.restart_once_with(&[("RDS_CRASH_AFTER".into(), "record-deferral".into())])?;
        let before = operator.operator.starts();
        scene.detach("shared", &one).await?;
        scene.pending("shared", "Deferred", "fence-now").await?;
        scene.detached("shared", "one").await?;
        ensure!(operator.operator.starts() > before, "it was not killed");
        scene.written_by("shared", &["one", "two"]).await?;
        two.agent.in_use(&[])?;
        scene
            .annotate("rdsvolume", "shared", "rds.csi.srvlab.io/fence-now=one")
            .await?;
        scene.held_by("shared", &["two"]).await?;
        scene.annotation_gone("shared", "rds.csi.srvlab.io/fence-now").await?;
        scene.connected("shared", &two).await?;
        scene.written_by("shared", &["two"]).await?;
        Ok(())
    })
}

#[test]
fn i19_a_third_node_within_ten_minutes_waits_for_a_person() -> Result<()> {
    e2e::run(async {
        let scene = Scene::start("fencing-limit", Knobs::default()).await?;
        let mut nodes = Vec::new();
        for name in ["one", "two", "three"] {
            nodes.push(scene.node(name).await?);
        }
        scene.fence_proven("True", "Proven", "").await?;
        for node in &nodes {
            let volume = format!("of-{}", node.name);
            scene.volume(&volume, "ReadWriteOnce").await?;
            scene.attach(&volume, node, "ReadWriteOnce").await?;
            scene.connected(&volume, node).await?;
        }
        for node in &nodes[..2] {
            scene.out_of_service(node).await?;
            scene.detach(&format!("of-{}", node.name), node).await?;
            scene.held_by(&format!("of-{}", node.name), &[]).await?;
        }
        // A node that is gone for good counts as well.
        scene.kubectl(&["delete", "node", "one"]).await?;
        let third = &nodes[2];
        scene.out_of_service(third).await?;
        scene.detach("of-three", third).await?;
        scene.pending("of-three", "Waiting", "which is the limit").await?;
        scene.written_by("of-three", &["three"]).await?;
        scene
            .annotate("rdsvolume", "of-three", "rds.csi.srvlab.io/fence-now=three")
            .await?;
        scene.held_by("of-three", &[]).await?;
        scene.written_by("of-three", &[]).await?;
        let (_, metrics) = scene.lab.replicas[0].get("/metrics").await?;
        ensure!(
            metrics.contains(r#"rds_csi_fences_total{result="done"} 3"#),
            "{metrics}"
        );
        scene.event("of-three", "FencePending", "which is the limit").await
    })
}
