//! What an agent says of the use of a volume, and a person of its circuit breaker: the operator is killed after every step by which
//! it is heard. The agent's part is played: its object is written by hand, on a node that nobody else knows of.

use anyhow::{Context, Result, ensure};
use e2e::scene::PATIENCE;
use e2e::wait_until;
use kube::{Api, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::identity::attachment_name;
use rds_crds::names::FINALIZER;
use serde_json::{Value, json};

use super::{Turns, World};

const NODE: &str = "on-paper";

struct Words<'a> {
    world: &'a World,
    volume: String,
    record: String,
    turns: Turns<'a>,
}

/// A volume is formatted, fails to be mounted, gets its one trial, and is reset by a person.
pub(super) async fn tell(world: &World, name: &str, expected: Option<&[Value]>) -> Result<Vec<Value>> {
    let lab = &world.scene.lab;
    lab.claim(name, &world.scene.appliance.name, "1Gi").await?;
    let volume = lab.bound(name).await?;
    let mut words = Words {
        world,
        record: attachment_name(&volume, NODE),
        volume,
        turns: Turns::new(world, expected),
    };
    words.heard().await?;
    lab.delete_claim(name).await?;
    world.scene.appliance.assert_empty()?;
    Ok(words.turns.seen)
}

impl Words<'_> {
    async fn heard(&mut self) -> Result<()> {
        let (scene, volume) = (&self.world.scene, self.volume.clone());
        let uid = scene.lab.volumes().get(&volume).await?.uid().context("no UID")?;
        // Open for as long as one can see it.
        let breaker = r#"{"spec":{"circuitBreaker":{"failureThreshold":2,"openSeconds":2}}}"#;
        scene
            .kubectl(&["patch", "rdsvolume", &volume, "--type=merge", "-p", breaker])
            .await?;
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": self.record, "finalizers": [FINALIZER]},
            "spec": {"volume": volume, "node": NODE, "accessMode": "ReadWriteOnce"}});
        scene.lab.kubectl().apply(&object).await?;
        scene.held_by(&volume, &[NODE]).await?;
        self.say(json!({"format": {"requested": "ext4"}})).await?;
        self.ledger("Intent").await?;
        self.say(json!({"format": {"requested": "ext4", "fsUUID": uid}}))
            .await?;
        self.ledger("Formatted").await?;
        self.turn().await?;

        self.say(json!({"failures": 2, "failuresInRow": 2, "lastError": "mount: the test says so"}))
            .await?;
        self.breaker("HalfOpen").await?;
        self.turn().await?;
        let reset = "rds.csi.srvlab.io/reset-circuit-breaker=true";
        scene.annotate("rdsvolume", &volume, reset).await?;
        self.breaker("Closed").await?;
        self.turn().await?;

        let gone = json!([{"type": "Disconnected", "status": "True", "reason": "Disconnected", "message": "by hand",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        self.say(json!({ "conditions": gone })).await?;
        let account = "--as=system:serviceaccount:rds-csi:rds-csi-controller";
        scene
            .kubectl(&["delete", "rdsattachment", &self.record, "--timeout=120s", account])
            .await?;
        scene.held_by(&volume, &[]).await?;
        self.turn().await
    }

    /// As its agent would.
    async fn say(&self, words: Value) -> Result<()> {
        let text = json!({"status": {"agent": words}}).to_string();
        let patch = [
            "patch",
            "rdsattachment",
            &self.record,
            "--subresource=status",
            "--type=merge",
            "-p",
            &text,
        ];
        self.world.scene.kubectl(&patch).await.map(drop)
    }

    async fn ledger(&self, state: &str) -> Result<()> {
        self.has("/format", state).await
    }

    async fn breaker(&self, state: &str) -> Result<()> {
        self.has("/breaker", state).await
    }

    async fn has(&self, what: &str, state: &str) -> Result<()> {
        let what_for = format!("{what} to be {state}");
        let waited = wait_until(&what_for, PATIENCE, async || {
            let now = self.state().await?;
            ensure!(now.pointer(what).is_some_and(|s| s == state), "{now:#}");
            Ok(())
        });
        self.world.scene.lab.explained(waited.await, &self.volume).await
    }

    async fn turn(&mut self) -> Result<()> {
        let (world, volume, record) = (self.world, self.volume.clone(), self.record.clone());
        self.turns
            .take(&volume, async || state(world, &volume, &record).await)
            .await
    }

    async fn state(&self) -> Result<Value> {
        state(self.world, &self.volume, &self.record).await
    }
}

async fn state(world: &World, volume: &str, record: &str) -> Result<Value> {
    let object = world.scene.lab.volumes().get(volume).await?;
    let status = object.status.clone().context("no status")?;
    let breaker = status.circuit_breaker.unwrap_or_default();
    let format = status.format.map(|f| f.state);
    let records: Api<RdsAttachment> = Api::all(world.scene.lab.cluster.client());
    let said = records.get_opt(record).await?;
    let told = said.map(|r| r.status.unwrap_or_default().half_open_trial_until.is_some());
    let words = object.annotations().keys().filter(|key| key.contains("breaker"));
    Ok(json!({
        "format": format,
        "breaker": breaker.state,
        "failures": breaker.consecutive_failures,
        "trial": breaker.trial.is_some(),
        "told": told,
        "holders": status.holders.len(),
        "generation": status.export_generation,
        "words": words.collect::<Vec<_>>(),
    }))
}
