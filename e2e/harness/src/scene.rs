//! A cluster with one appliance, and nodes without machines that run the agent that ships: what tests of attachments, fences and
//! migrations are told in. The oracle is the appliance: which hosts can write, whatever the objects say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rds_crds::condition::{find_condition, is_true};
use rds_crds::identity::attachment_name;
use rds_crds::names::FINALIZER;
use rds_crds::volume::RdsVolumeStatus;
use rds_crds::{RdsAttachment, RdsServer};
use routeros_sim::Knobs;
use serde_json::json;

use crate::agent::{Agent, Control};
use crate::appliance::Appliance;
use crate::kubelet::Kubelet;
use crate::lab::{DRIVER, Options};
use crate::{Lab, wait_until};

/// Leases, grace periods and the pace of kube-controller-manager.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster with one appliance: agents have their sessions there and nowhere else.
pub struct Scene {
    /// The cluster.
    pub lab: Lab,
    /// Where all volumes are.
    pub appliance: Appliance,
    control: Control,
}

/// A node with kubelet's part played, and our agent.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The agent that ships.
    pub agent: Agent,
    /// kubelet's part.
    pub kubelet: Kubelet,
}

impl Node {
    /// The plug is pulled: sessions of a machine that has no power do not write, and the target does not know.
    pub fn die(&self) {
        self.agent.process.hold();
        self.kubelet.stop();
    }
}

impl Scene {
    /// Starts it with short periods of patience.
    pub async fn start(name: &str, knobs: Knobs) -> Result<Self> {
        Self::start_with(name, knobs, 1, &[]).await
    }

    /// The same with so many replicas of the operator, and more in its environment.
    pub async fn start_with(name: &str, knobs: Knobs, replicas: usize, more: &[(&str, &str)]) -> Result<Self> {
        let env = [
            ("ATTACHMENT_GRACE_PERIOD", "3s"),
            ("AGENT_LEASE_PERIOD", "15s"),
            ("INVENTORY_INTERVAL", "2s"),
        ];
        let all = env.iter().chain(more);
        let options = Options {
            replicas,
            env: all
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Options::default()
        };
        let lab = Lab::start(name, &options).await?;
        let limits = json!({"limits": {"commandTimeoutSeconds": 3}});
        let appliance = lab.appliance_with(name, knobs, limits).await?;
        let control = appliance.control().await?;
        Ok(Self {
            lab,
            appliance,
            control,
        })
    }

    /// Starts a node.
    pub async fn node(&self, name: &str) -> Result<Node> {
        let agent = Agent::start(&self.lab.cluster, name, &self.control, &[]).await?;
        let kubelet = Kubelet::start(&self.lab, name).await?;
        Ok(Node {
            name: name.to_owned(),
            agent,
            kubelet,
        })
    }

    /// kubectl with all rights.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.lab.kubectl().run(arguments).await
    }

    /// Pulls the plug, and tells Kubernetes so, as a person or a remediation system would.
    pub async fn out_of_service(&self, node: &Node) -> Result<()> {
        node.die();
        let down = r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"the plug was pulled"}]}}"#;
        self.kubectl(&["patch", "node", &node.name, "--subresource=status", "-p", down])
            .await?;
        let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
        self.kubectl(&["taint", "node", &node.name, taint]).await.map(drop)
    }

    /// The same node is in service again, without a reboot.
    pub async fn comes_back(&self, node: &Node) -> Result<()> {
        self.kubectl(&["taint", "node", &node.name, "node.kubernetes.io/out-of-service-"])
            .await?;
        node.kubelet.resume();
        node.agent.process.release()
    }

    /// Waits for FenceProven, and for the canary to be gone without a trace.
    pub async fn fence_proven(&self, status: &str, reason: &str, about: &str) -> Result<Condition> {
        let servers: Api<RdsServer> = Api::all(self.lab.cluster.client());
        let what = format!("FenceProven={status} ({reason})");
        let said = wait_until(&what, PATIENCE, async || {
            let all = servers.get(&self.appliance.name).await?.status.unwrap_or_default();
            let said = find_condition(&all.conditions, "FenceProven").context("no FenceProven")?;
            ensure!(
                said.status == status && said.reason == reason,
                "{said:?} {:?}",
                all.fence_test
            );
            ensure!(said.message.contains(about), "{said:?}");
            Ok(said.clone())
        });
        let said = self.lab.explained(said.await, "-").await?;
        wait_until("the canary to be gone", PATIENCE, async || {
            let left = self
                .kubectl(&[
                    "get",
                    "rdsvolumes,rdsattachments",
                    "-l",
                    "rds.csi.srvlab.io/made-by=self-test",
                    "-o",
                    "name",
                ])
                .await?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
        .await?;
        Ok(said)
    }

    /// A volume as somebody writes it by hand, Ready.
    pub async fn volume(&self, name: &str, mode: &str) -> Result<()> {
        self.lab
            .kubectl()
            .apply(&json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name}, "spec": {
                "server": self.appliance.name, "capacity": "1Gi", "accessModes": [mode], "volumeMode": "Block",
                "deletionPolicy": "Delete",
            }}))
            .await?;
        let ready = wait_until("a volume by hand", PATIENCE, async || {
            let status = self.status(name).await?;
            ensure!(is_true(&status.conditions, "Ready"), "{:?}", status.explain);
            Ok(())
        });
        self.lab.explained(ready.await, name).await
    }

    /// Status of a volume.
    pub async fn status(&self, volume: &str) -> Result<RdsVolumeStatus> {
        Ok(self.lab.volumes().get(volume).await?.status.unwrap_or_default())
    }

    /// What ControllerPublishVolume does.
    pub async fn attach(&self, volume: &str, node: &Node, mode: &str) -> Result<()> {
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": attachment_name(volume, &node.name), "finalizers": [FINALIZER]},
            "spec": {"volume": volume, "node": node.name, "accessMode": mode}});
        self.lab.kubectl().apply(&object).await.map(drop)
    }

    /// What ControllerUnpublishVolume does.
    pub async fn detach(&self, volume: &str, node: &Node) -> Result<()> {
        let name = attachment_name(volume, &node.name);
        let account = "--as=system:serviceaccount:rds-csi:rds-csi-controller";
        self.kubectl(&["delete", "rdsattachment", &name, "--wait=false", account])
            .await
            .map(drop)
    }

    /// Waits until the node's agent says that it is connected to the present generation.
    pub async fn connected(&self, volume: &str, node: &Node) -> Result<()> {
        let all: Api<RdsAttachment> = Api::all(self.lab.cluster.client());
        let what = format!("{volume} to be connected on {}", node.name);
        let waited = wait_until(&what, PATIENCE, async || {
            let said = all
                .get(&attachment_name(volume, &node.name))
                .await?
                .status
                .unwrap_or_default();
            let agent = said.agent.clone().unwrap_or_default();
            let now = self.status(volume).await?.export_generation;
            let generation = agent.intent.as_ref().map(|i| i.generation);
            ensure!(
                is_true(&agent.conditions, "Connected") && generation == now,
                "{now:?}: {said:?}"
            );
            Ok(())
        });
        let waited = waited.await.with_context(|| node.agent.process.tail(10));
        self.lab.explained(waited, volume).await
    }

    /// Nodes that the record of holders names.
    pub async fn holders(&self, volume: &str) -> Result<Vec<String>> {
        Ok(self.status(volume).await?.holders.into_iter().map(|h| h.node).collect())
    }

    /// Waits until exactly these hold the volume and no fence runs.
    pub async fn held_by(&self, volume: &str, nodes: &[&str]) -> Result<()> {
        let what = format!("{volume} to be held by {nodes:?}");
        let waited = wait_until(&what, PATIENCE, async || {
            let status = self.status(volume).await?;
            let now: Vec<&str> = status.holders.iter().map(|h| h.node.as_str()).collect();
            ensure!(
                now == nodes && status.fence.is_none(),
                "{now:?}, fence {:?}: {:?}",
                status.fence,
                status.explain
            );
            Ok(())
        });
        self.lab.explained(waited.await, volume).await
    }

    /// Waits for FencePending with these words.
    pub async fn pending(&self, volume: &str, reason: &str, words: &str) -> Result<()> {
        let what = format!("FencePending ({reason}) of {volume}");
        let waited = wait_until(&what, PATIENCE, async || {
            let status = self.status(volume).await?;
            let said = find_condition(&status.conditions, "FencePending").with_context(|| format!("{status:?}"))?;
            ensure!(said.reason == reason && said.message.contains(words), "{said:?}");
            Ok(())
        });
        self.lab.explained(waited.await, volume).await
    }

    /// The oracle.
    pub async fn writers(&self, volume: &str) -> Result<Vec<String>> {
        let path = self.status(volume).await?.path.context("no path")?;
        Ok(self.appliance.live_writers(&path))
    }

    /// An error unless exactly these can write into the volume at this moment.
    pub async fn written_by(&self, volume: &str, nodes: &[&str]) -> Result<()> {
        let now = self.writers(volume).await?;
        ensure!(now == nodes, "{volume} can be written by {now:?}, and not by {nodes:?}");
        Ok(())
    }

    /// Waits for an event.
    pub async fn event(&self, about: &str, reason: &str, words: &str) -> Result<()> {
        let what = format!("event {reason} of {about}");
        wait_until(&what, PATIENCE, async || self.told(about, reason, words).await).await
    }

    /// An error unless there is such an event.
    pub async fn told(&self, about: &str, reason: &str, words: &str) -> Result<()> {
        let path = r#"jsonpath={range .items[*]}{.reason}|{.type}|{.regarding.name}|{.note}{"\n"}{end}"#;
        let all = self.kubectl(&["get", "events.events.k8s.io", "-A", "-o", path]).await?;
        let start = format!("{reason}|");
        let found = all
            .lines()
            .any(|l| l.starts_with(&start) && l.contains(&format!("|{about}|")) && l.contains(words));
        ensure!(found, "{all}");
        Ok(())
    }

    /// Annotates an object of a kind.
    pub async fn annotate(&self, what: &str, name: &str, word: &str) -> Result<()> {
        self.kubectl(&["annotate", what, name, word]).await.map(drop)
    }

    /// Waits until the operator has taken an annotation off a volume.
    pub async fn annotation_gone(&self, volume: &str, name: &str) -> Result<()> {
        wait_until(&format!("annotation {name} to be taken off"), PATIENCE, async || {
            let object = self.lab.volumes().get(volume).await?;
            ensure!(!object.annotations().contains_key(name), "{:?}", object.annotations());
            Ok(())
        })
        .await
    }
}

/// Attachments as Kubernetes asks for them, through csi-attacher.
impl Scene {
    /// A wish that no attach-detach controller stands behind.
    pub async fn ask(&self, volume: &str, node: &str) -> Result<()> {
        let wish = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
            "metadata": {"name": format!("{volume}-{node}")},
            "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}}});
        self.lab.kubectl().apply(&wish).await.map(drop)
    }

    /// The wish ends, without waiting for what follows.
    pub async fn unask(&self, volume: &str, node: &str) -> Result<()> {
        let name = format!("{volume}-{node}");
        self.kubectl(&["delete", "volumeattachment", &name, "--wait=false"])
            .await
            .map(drop)
    }

    /// The VolumeAttachment of this volume on that node, whoever made it.
    pub async fn wish(&self, volume: &str, node: &str) -> Result<Option<VolumeAttachment>> {
        let all: Api<VolumeAttachment> = Api::all(self.lab.cluster.client());
        let all = all.list(&ListParams::default()).await?.items;
        let is_it = |a: &VolumeAttachment| {
            a.spec.node_name == node && a.spec.source.persistent_volume_name.as_deref() == Some(volume)
        };
        Ok(all.into_iter().find(is_it))
    }

    /// Waits until Kubernetes says so and the node is connected.
    pub async fn attached(&self, volume: &str, node: &Node) -> Result<()> {
        self.connected(volume, node).await?;
        let what = format!("{volume} to be attached to {}", node.name);
        let waited = wait_until(&what, PATIENCE, async || {
            let wish = self.wish(volume, &node.name).await?.context("no VolumeAttachment")?;
            let status = wish.status.context("a VolumeAttachment without status")?;
            ensure!(status.attached, "{:?}", status.attach_error);
            Ok(())
        });
        self.lab.explained(waited.await, volume).await
    }

    /// Waits until neither Kubernetes nor the operator knows of it.
    pub async fn detached(&self, volume: &str, node: &str) -> Result<()> {
        let records: Api<RdsAttachment> = Api::all(self.lab.cluster.client());
        let what = format!("{volume} to be detached from {node}");
        let waited = wait_until(&what, PATIENCE, async || {
            let record = records.get_opt(&attachment_name(volume, node)).await?;
            ensure!(record.is_none(), "RdsAttachment: {:?}", record.and_then(|r| r.status));
            let wish = self.wish(volume, node).await?;
            ensure!(wish.is_none(), "VolumeAttachment: {:?}", wish.and_then(|w| w.status));
            Ok(())
        });
        self.lab.explained(waited.await, volume).await
    }

    /// Waits until the wish is answered with these words.
    pub async fn refused(&self, volume: &str, node: &str, words: &[&str]) -> Result<()> {
        let what = format!("{node} to be refused {volume}");
        let waited = wait_until(&what, PATIENCE, async || {
            let status = self
                .wish(volume, node)
                .await?
                .and_then(|w| w.status)
                .context("no status")?;
            ensure!(!status.attached, "it is attached");
            let said = status.attach_error.and_then(|e| e.message).context("no error")?;
            ensure!(words.iter().all(|word| said.contains(word)), "it says: {said}");
            Ok(())
        });
        self.lab.explained(waited.await, volume).await
    }
}
