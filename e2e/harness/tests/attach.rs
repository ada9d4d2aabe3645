//! Pods on nodes without machines: the attach-detach controller of kube-controller-manager and the real csi-attacher drive the
//! attachments.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::appliance::Appliance;
use e2e::lab::Options;
use e2e::machine::Machine;
use e2e::{Lab, wait_until};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::{Api, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::condition::find_condition;
use rds_crds::identity::attachment_name;
use routeros_sim::Knobs;
use serde_json::json;
use tokio::sync::OnceCell;

/// A node that is lost needs its grace period, kube-controller-manager and csi-attacher their own pace.
const PATIENCE: Duration = Duration::from_secs(150);

static LAB: OnceCell<Lab> = OnceCell::const_new();

async fn lab() -> Result<&'static Lab> {
    LAB.get_or_try_init(|| async {
        let env = [("ATTACHMENT_GRACE_PERIOD", "10s"), ("AGENT_LEASE_PERIOD", "15s")];
        let options = Options {
            replicas: 2,
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Options::default()
        };
        Lab::start("attach", &options).await
    })
    .await
}

/// One claim on an appliance of its own, and pods that use it.
struct Scene {
    lab: &'static Lab,
    appliance: Appliance,
    name: String,
    volume: String,
}

impl Scene {
    async fn set(lab: &'static Lab, name: &str) -> Result<Self> {
        let appliance = lab
            .appliance_with(name, Knobs::default(), json!({"fencing": "Assume"}))
            .await?;
        lab.claim(name, name, "1Gi").await?;
        let volume = lab.bound(name).await?;
        Ok(Self {
            lab,
            appliance,
            name: name.into(),
            volume,
        })
    }

    fn attachments(&self) -> Api<RdsAttachment> {
        Api::all(self.lab.cluster.client())
    }

    /// A wish that no attach-detach controller stands behind.
    async fn ask(&self, name: &str, node: &str) -> Result<()> {
        let wish = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {"attacher": e2e::lab::DRIVER, "nodeName": node, "source": {"persistentVolumeName": self.volume}}});
        self.lab.kubectl().apply(&wish).await.map(drop)
    }

    async fn take_back(&self, name: &str, node: &str) -> Result<()> {
        let delete = ["delete", "volumeattachment", name, "--wait=false"];
        self.lab.kubectl().run(&delete).await?;
        self.detached(node).await
    }

    /// Starts a pod on a node, as a scheduler would.
    async fn pod(&self, node: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "namespace": "default"}, "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "none", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": self.name}}],
        }});
        self.lab.kubectl().apply(&pod).await.map(drop)
    }

    async fn kill_pod(&self) -> Result<()> {
        let kill = [
            "delete",
            "pod",
            &self.name,
            "--force",
            "--grace-period=0",
            "--ignore-not-found",
        ];
        self.lab.kubectl().run(&kill).await.map(drop)
    }

    /// The VolumeAttachment of this volume on that node.
    async fn wish(&self, node: &str) -> Result<Option<VolumeAttachment>> {
        let all: Api<VolumeAttachment> = Api::all(self.lab.cluster.client());
        let all = all.list(&Default::default()).await?.items;
        let is_it = |a: &VolumeAttachment| {
            a.spec.node_name == node && a.spec.source.persistent_volume_name.as_deref() == Some(&self.volume)
        };
        Ok(all.into_iter().find(is_it))
    }

    /// Waits until Kubernetes and the node agree that the volume is there; its NQN.
    async fn attached(&self, node: &str) -> Result<String> {
        let what = format!("{} to be attached to {node}", self.volume);
        let waited = wait_until(&what, PATIENCE, async || {
            let wish = self.wish(node).await?.context("no VolumeAttachment")?;
            let status = wish.status.context("a VolumeAttachment without status")?;
            ensure!(status.attached, "VolumeAttachment: {:?}", status.attach_error);
            let record = self.attachments().get(&attachment_name(&self.volume, node)).await?;
            let said = record.status.unwrap_or_default();
            let agent = said.agent.unwrap_or_default();
            let connected = find_condition(&agent.conditions, "Connected").is_some_and(|c| c.status == "True");
            ensure!(connected, "the node has not connected: {agent:?}");
            let nqn = said.nqn.context("no NQN")?;
            let told = status.attachment_metadata.unwrap_or_default();
            ensure!(
                told.get("nvme_nqn") == Some(&nqn),
                "the publish context is {told:?}, the NQN {nqn}"
            );
            Ok(nqn)
        });
        self.explained(waited.await).await
    }

    /// Waits until the attach-detach controller knows that it is attached, and that nothing is mounted there.
    async fn published(&self, machine: &Machine) -> Result<()> {
        let what = format!("the Node {} to list the volume", machine.name);
        let listed = wait_until(&what, PATIENCE, async || {
            let node = [
                "get",
                "node",
                &machine.name,
                "-o",
                "jsonpath={.status.volumesAttached[*].name}",
            ];
            let listed = self.lab.kubectl().run(&node).await?;
            ensure!(listed.contains(&self.volume), "it lists `{listed}`");
            Ok(())
        });
        self.explained(listed.await).await?;
        machine.heard().await
    }

    async fn detached(&self, node: &str) -> Result<()> {
        let what = format!("{} to be detached from {node}", self.volume);
        let waited = wait_until(&what, PATIENCE, async || {
            let record = self.attachments().get_opt(&attachment_name(&self.volume, node)).await?;
            ensure!(record.is_none(), "RdsAttachment: {:?}", record.and_then(|r| r.status));
            let wish = self.wish(node).await?;
            ensure!(wish.is_none(), "VolumeAttachment: {:?}", wish.and_then(|w| w.status));
            Ok(())
        });
        self.explained(waited.await).await
    }

    async fn holders(&self) -> Result<Vec<String>> {
        let status = self.lab.volumes().get(&self.volume).await?.status.unwrap_or_default();
        Ok(status.holders.into_iter().map(|holder| holder.node).collect())
    }

    async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() {
            return result;
        }
        let seen = [
            "get",
            "rdsattachments,volumeattachments,nodes,pods,rdsvolumes",
            "-o",
            "wide",
        ];
        let seen = self.lab.kubectl().run(&seen).await.unwrap_or_default();
        self.lab.explained(result, &self.name).await.context(seen)
    }

    /// Takes all of it away; the appliance is empty then.
    async fn clear(&self, nodes: &[&str]) -> Result<()> {
        self.kill_pod().await?;
        for node in nodes {
            self.detached(node).await?;
        }
        self.lab.delete_claim(&self.name).await?;
        self.appliance.assert_empty()
    }
}

#[test]
fn r48_a_pod_moves_and_nobody_enters_before_its_node_let_go() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let one = Machine::boot(lab, "mover-1").await?;
        let two = Machine::boot(lab, "mover-2").await?;
        let scene = Scene::set(lab, "mover").await?;
        scene.pod(&one.name).await?;
        let nqn = scene.attached(&one.name).await?;
        ensure!(scene.appliance.only_disk()?.nqn == nqn, "the node was told {nqn}");

        // The attach-detach controller would not even ask for a second node: somebody else does.
        let asked = Instant::now();
        let other = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "intruder"},
            "spec": {"attacher": e2e::lab::DRIVER, "nodeName": two.name, "source": {"persistentVolumeName": scene.volume}}});
        lab.kubectl().apply(&other).await?;
        let refusal = wait_until("the second node to be refused", PATIENCE, async || {
            let status = scene
                .wish(&two.name)
                .await?
                .and_then(|w| w.status)
                .context("no status")?;
            let error = status.attach_error.and_then(|e| e.message).context("no error")?;
            Ok((error, asked.elapsed()))
        });
        let (message, took) = scene.explained(refusal.await).await?;
        ensure!(
            message.contains("attached to node mover-1"),
            "the holder is not named: {message}"
        );
        ensure!(took < Duration::from_secs(15), "it took {took:?} to say so");
        let record = scene
            .attachments()
            .get(&attachment_name(&scene.volume, &two.name))
            .await?;
        let why = record
            .status
            .and_then(|s| find_condition(&s.conditions, "Admitted").cloned());
        ensure!(
            why.as_ref().is_some_and(|c| c.reason == "Conflict"),
            "the record says {why:?}"
        );
        lab.kubectl()
            .run(&["delete", "volumeattachment", "intruder", "--timeout=60s"])
            .await?;
        scene.detached(&two.name).await?;

        one.keep();
        scene.kill_pod().await?;
        scene.pod(&two.name).await?;
        let id = attachment_name(&scene.volume, &one.name);
        let ending = wait_until("the detach to be asked for", PATIENCE, async || {
            let record = scene.attachments().get(&id).await?;
            ensure!(record.metadata.deletion_timestamp.is_some(), "it is not");
            Ok(record.uid())
        });
        let uid = scene.explained(ending.await).await?;
        // Whoever has to remember this is killed meanwhile.
        for replica in &lab.replicas {
            replica.operator.restart()?;
        }
        for replica in &lab.replicas {
            replica.ready().await?;
        }
        ensure!(
            scene.attachments().get(&id).await?.uid() == uid,
            "the attachment was given up"
        );
        ensure!(
            scene.holders().await? == ["mover-1"],
            "{:?} hold it",
            scene.holders().await?
        );
        let early = scene
            .wish(&two.name)
            .await?
            .and_then(|w| w.status)
            .is_some_and(|s| s.attached);
        ensure!(!early, "the second node got in before the first let go");

        one.let_go();
        scene.detached(&one.name).await?;
        ensure!(scene.attached(&two.name).await? == nqn, "a clean move cuts nobody");
        ensure!(
            scene.holders().await? == ["mover-2"],
            "{:?} hold it",
            scene.holders().await?
        );
        scene.clear(&[&two.name]).await
    })
}

/// The VolumeAttachment is read live before a holder is taken for lost: a record that a person deletes cuts nobody.
#[test]
fn i8_a_record_deleted_by_hand_cuts_nobody_while_kubernetes_wants_the_volume_there() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let one = Machine::boot(lab, "hand-1").await?;
        let scene = Scene::set(lab, "hand").await?;
        scene.ask("hand-a", "hand-1").await?;
        let nqn = scene.attached("hand-1").await?;
        one.keep();
        let id = attachment_name(&scene.volume, "hand-1");
        let confirm = format!("rds.csi.srvlab.io/confirm-delete={id}");
        lab.kubectl().run(&["annotate", "rdsattachment", &id, &confirm]).await?;
        drop(one);
        let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
        lab.kubectl().run(&["taint", "node", "hand-1", taint]).await?;
        lab.kubectl()
            .run(&["delete", "rdsattachment", &id, "--wait=false"])
            .await?;
        // The deletion was seen, as the permission is withdrawn. A lost holder would be cut in the next pass, a moment later.
        let seen = wait_until("the permission to be withdrawn", PATIENCE, async || {
            let said = scene.attachments().get(&id).await?.status.unwrap_or_default();
            let word = find_condition(&said.conditions, "Admitted").map(|c| c.reason.clone());
            ensure!(word.as_deref() == Some("Withdrawn"), "{word:?}");
            Ok(Instant::now())
        });
        let seen = scene.explained(seen.await).await?;
        while seen.elapsed() < Duration::from_secs(5) {
            ensure!(scene.holders().await? == ["hand-1"], "{:?}", scene.holders().await?);
            ensure!(scene.appliance.only_disk()?.nqn == nqn, "it was cut");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let line = lab.volumes().get(&scene.volume).await?.status.and_then(|s| s.explain);
        let line = line.context("no explain")?;
        ensure!(line.contains("hand-1, which is not Ready or silent"), "{line}");
        // Now the detach is wanted by Kubernetes too.
        scene.take_back("hand-a", "hand-1").await?;
        ensure!(scene.appliance.only_disk()?.nqn != nqn, "it was let go without a cut");
        scene.clear(&[]).await
    })
}

#[test]
fn r53_b21_a_node_that_was_deleted_is_cut_before_another_gets_the_volume() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let one = Machine::boot(lab, "gone-1").await?;
        let two = Machine::boot(lab, "gone-2").await?;
        let scene = Scene::set(lab, "gone").await?;
        scene.pod(&one.name).await?;
        let old = scene.attached(&one.name).await?;
        scene.published(&one).await?;
        let dead = one.name.clone();
        drop(one);
        lab.kubectl().run(&["delete", "node", &dead]).await?;
        scene.kill_pod().await?;
        scene.pod(&two.name).await?;
        let new = scene.attached(&two.name).await?;
        cut(&scene, &dead, &two.name, &old, &new).await?;
        scene.clear(&[&two.name]).await
    })
}

#[test]
fn a_node_that_is_out_of_service_is_cut_before_another_gets_the_volume() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let one = Machine::boot(lab, "off-1").await?;
        let two = Machine::boot(lab, "off-2").await?;
        let scene = Scene::set(lab, "off").await?;
        scene.pod(&one.name).await?;
        let old = scene.attached(&one.name).await?;
        scene.published(&one).await?;
        let dead = one.name.clone();
        drop(one);
        let down = r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"the plug was pulled"}]}}"#;
        lab.kubectl()
            .run(&["patch", "node", &dead, "--subresource=status", "-p", down])
            .await?;
        let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
        lab.kubectl().run(&["taint", "node", &dead, taint]).await?;
        // From here on it is Kubernetes that evicts, forgets the pod, and detaches by force.
        wait_until("the pod to be gone", PATIENCE, async || {
            let left = ["get", "pod", &scene.name, "--ignore-not-found", "-o", "name"];
            let left = lab.kubectl().run(&left).await?;
            ensure!(left.is_empty(), "it is there");
            Ok(())
        })
        .await?;
        scene.pod(&two.name).await?;
        let new = scene.attached(&two.name).await?;
        cut(&scene, &dead, &two.name, &old, &new).await?;
        scene.clear(&[&two.name]).await
    })
}

/// What a fence leaves behind.
async fn cut(scene: &Scene, lost: &str, holder: &str, old: &str, new: &str) -> Result<()> {
    ensure!(old != new, "both nodes were told {old}");
    let disk = scene.appliance.only_disk()?;
    ensure!(disk.exported && disk.nqn == new, "{disk:?} is not exported as {new}");
    ensure!(
        scene.holders().await? == [holder],
        "{:?} hold it",
        scene.holders().await?
    );
    ensure!(
        scene
            .attachments()
            .get_opt(&attachment_name(&scene.volume, lost))
            .await?
            .is_none(),
        "the lost one is left"
    );
    let status = scene.lab.volumes().get(&scene.volume).await?.status.unwrap_or_default();
    ensure!(
        status.export_generation == Some(2),
        "the generation is {:?}",
        status.export_generation
    );
    Ok(())
}
