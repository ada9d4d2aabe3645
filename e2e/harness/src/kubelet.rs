//! kubelet as the control plane sees it: a Node that is Ready, with the names of its machine, and the Lease beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often a sign of life is given.
pub const BEAT: Duration = Duration::from_secs(2);

/// What a Node says of its machine.
#[derive(Clone, Debug)]
pub struct Names {
    /// Boot ID of the kernel.
    pub boot: String,
    /// System UUID.
    pub system: String,
    /// Machine ID.
    pub machine: String,
}

impl Names {
    /// Those that the host of an [`crate::agent::Agent`] has.
    #[must_use]
    pub fn of_agent(node: &str) -> Self {
        Self {
            boot: format!("boot-1-of-{node}"),
            system: format!("system-of-{node}"),
            machine: format!("machine-of-{node}"),
        }
    }
}

/// A kubelet that does nothing but live. Dropping it is its death: nothing of it is removed from the API.
pub struct Kubelet {
    alive: Arc<AtomicBool>,
    beats: watch::Receiver<u64>,
    life: JoinHandle<()>,
}

impl Kubelet {
    /// Makes the Node, if it is not there, and keeps it Ready.
    pub async fn start(lab: &crate::Lab, node: &str) -> Result<Self> {
        crate::lab::node(lab.kubectl(), node).await?;
        let client = lab.cluster.client();
        manages_volumes(&client, node).await?;
        let (node, names) = (node.to_owned(), Names::of_agent(node));
        sign_of_life(&client, &node, &names).await?;
        let alive = Arc::new(AtomicBool::new(true));
        let (heard, beats) = watch::channel(0u64);
        let beating = alive.clone();
        let life = tokio::spawn(async move {
            let mut tick = interval(BEAT);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if !beating.load(Ordering::Relaxed) {
                    continue;
                }
                // One that meets another write, or a Node that is gone, is followed by the next.
                match sign_of_life(&client, &node, &names).await {
                    Ok(()) => heard.send_modify(|beats| *beats += 1),
                    Err(error) => tracing::debug!(node, "{error:#}"),
                }
            }
        });
        Ok(Self { alive, beats, life })
    }

    /// It falls silent.
    pub fn stop(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// It is back.
    pub fn resume(&self) {
        self.alive.store(true, Ordering::Relaxed);
    }

    /// Waits for its next two signs of life: from them the attach-detach controller learns that nothing is mounted there.
    pub async fn heard(&self) -> Result<()> {
        let mut beats = self.beats.clone();
        let target = *beats.borrow() + 2;
        beats.wait_for(|beats| *beats >= target).await.context("it is dead")?;
        Ok(())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.life.abort();
    }
}

/// kubelet says so of itself: attach-detach leaves other nodes alone.
pub async fn manages_volumes(client: &Client, node: &str) -> Result<Node> {
    let nodes: Api<Node> = Api::all(client.clone());
    let managed =
        json!({"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
    Ok(nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(&managed))
        .await?)
}

/// kubelet's Lease, and Ready.
pub async fn sign_of_life(client: &Client, node: &str, names: &Names) -> Result<()> {
    renew(client, "kube-node-lease", node, node).await?;
    let now = Timestamp::now().to_string();
    let info = [
        "architecture",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "operatingSystem",
        "osImage",
    ];
    let mut node_info: serde_json::Map<String, Value> =
        info.into_iter().map(|key| (key.to_owned(), json!("test"))).collect();
    for (key, value) in [
        ("bootID", &names.boot),
        ("systemUUID", &names.system),
        ("machineID", &names.machine),
    ] {
        node_info.insert(key.into(), json!(value));
    }
    let ready = json!({"type": "Ready", "status": "True", "reason": "Test", "message": "it lives",
                       "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"conditions": [ready], "nodeInfo": node_info}});
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Strategic(&status))
        .await?;
    Ok(())
}

/// Renews a Lease, which need not be there.
pub async fn renew(client: &Client, namespace: &str, lease: &str, holder: &str) -> Result<()> {
    let spec = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": lease},
                      "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": format!("{:.6}", Timestamp::now())}});
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    api.patch(lease, &PatchParams::apply("machine").force(), &Patch::Apply(&spec))
        .await?;
    Ok(())
}
