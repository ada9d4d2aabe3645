//! A node without a machine: its Node, CSINode and Leases as kubelet and our agent keep them, and the agent's part of the
//! attachment protocol by the book. What it does is under the hand of the test: it can keep a volume, and it can die.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::condition::{find_condition, is_true};
use rds_crds::names::manager;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Lab;
use crate::kubelet::{BEAT, Names, manages_volumes, renew, sign_of_life};
use crate::lab::NAMESPACE;

const LOOK: Duration = Duration::from_millis(100);

/// A running machine. Dropping it is pulling its plug: nothing of it is removed from the API.
pub struct Machine {
    /// Name of its Node.
    pub name: String,
    keeps: Arc<AtomicBool>,
    beats: watch::Receiver<u64>,
    life: JoinHandle<()>,
}

impl Machine {
    /// Makes the Node, and keeps it alive.
    pub async fn boot(lab: &Lab, name: &str) -> Result<Self> {
        crate::lab::node(lab.kubectl(), name).await?;
        let client = lab.cluster.client();
        let node = manages_volumes(&client, name).await?;
        let (beats, seen) = watch::channel(0);
        let life = Life {
            beats,
            uid: node.uid().context("a Node without UID")?,
            boot: uuid::Uuid::new_v4().to_string(),
            name: name.into(),
            keeps: Arc::new(AtomicBool::new(false)),
            client,
        };
        life.beat().await?;
        Ok(Self {
            name: name.into(),
            keeps: life.keeps.clone(),
            beats: seen,
            life: tokio::spawn(life.go_on()),
        })
    }

    /// Waits for its next two signs of life. From them the attach-detach controller learns that nothing is mounted there: of a
    /// node that dies before, it believes for six minutes that everything is.
    pub async fn heard(&self) -> Result<()> {
        let mut beats = self.beats.clone();
        let target = *beats.borrow() + 2;
        beats.wait_for(|beats| *beats >= target).await.context("it is dead")?;
        Ok(())
    }

    /// From now on it keeps the volumes that it has, whoever wants them.
    pub fn keep(&self) {
        self.keeps.store(true, Ordering::Relaxed);
    }

    /// It lets go again when it is asked to.
    pub fn let_go(&self) {
        self.keeps.store(false, Ordering::Relaxed);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.life.abort();
    }
}

struct Life {
    beats: watch::Sender<u64>,
    name: String,
    uid: String,
    boot: String,
    keeps: Arc<AtomicBool>,
    client: Client,
}

impl Life {
    async fn go_on(self) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beaten = Instant::now();
        loop {
            tick.tick().await;
            let done = async {
                if beaten.elapsed() >= BEAT {
                    self.beat().await?;
                    beaten = Instant::now();
                }
                self.serve().await
            };
            // A write that met another one is done again at the next tick.
            if let Err(error) = done.await {
                tracing::debug!(node = self.name, "{error:#}");
            }
        }
    }

    /// One sign of life: the Lease of kubelet, that of our agent, and Ready.
    async fn beat(&self) -> Result<()> {
        renew(&self.client, NAMESPACE, &format!("rds-node-{}", self.name), &self.name).await?;
        let names = Names {
            boot: self.boot.clone(),
            system: self.uid.clone(),
            machine: self.uid.clone(),
        };
        sign_of_life(&self.client, &self.name, &names).await?;
        self.beats.send_modify(|beats| *beats += 1);
        Ok(())
    }

    /// The agent's part: an intent, then a connection; at the end its final word.
    async fn serve(&self) -> Result<()> {
        let api: Api<RdsAttachment> = Api::all(self.client.clone());
        let own = ListParams::default().fields(&format!("spec.node={}", self.name));
        for attachment in api.list(&own).await? {
            let status = attachment.status.clone().unwrap_or_default();
            let agent = status.agent.unwrap_or_default();
            let generation = status.export_generation.unwrap_or_default();
            if find_condition(&agent.conditions, "Disconnected").is_some() {
                continue;
            }
            let intent = json!({"bootID": self.boot, "systemUUID": self.uid, "machineID": self.uid, "nodeUID": self.uid,
                                "generation": generation});
            let said = if attachment.metadata.deletion_timestamp.is_some() {
                if self.keeps.load(Ordering::Relaxed) {
                    continue;
                }
                let reason = if agent.intent.is_some() {
                    "Clean"
                } else {
                    "NeverConnected"
                };
                json!({"conditions": [said("Connected", "False", reason), said("Disconnected", "True", reason)]})
            } else if !is_true(&status.conditions, "Admitted") || is_true(&agent.conditions, "Connected") {
                continue;
            } else if agent.intent.is_none() {
                json!({"intent": intent})
            } else {
                json!({"intent": intent, "conditions": [said("Connected", "True", "Connected")]})
            };
            let patch = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
                               "metadata": {"uid": attachment.uid()}, "status": {"agent": said}});
            let parameters = PatchParams::apply(manager::AGENT).force();
            api.patch_status(&attachment.name_any(), &parameters, &Patch::Apply(&patch))
                .await?;
        }
        Ok(())
    }
}

fn said(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "said by the machine of a test",
           "lastTransitionTime": Timestamp::now().to_string()})
}
