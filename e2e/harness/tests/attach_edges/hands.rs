//! What a person with all rights may do to the records of attachments, and what an object store may lose: there is never a second
//! writer, and what was changed is put right, or said.
//!
//! The agents are those that ship, on nodes without machines. The oracle is the appliance, which is asked all the time.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::scene::{PATIENCE, Scene};
use e2e::wait_until;
use kube::{Api, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::condition::find_condition;
use rds_crds::identity::attachment_name;
use routeros_sim::{Fault, FaultKind, Knobs};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock};
use tokio::task::JoinHandle;

static SCENE: OnceCell<Scene> = OnceCell::const_new();

/// Who stops the operator does so alone: an event that was not posted yet is lost with it, and some count events.
static OPERATOR: RwLock<()> = RwLock::const_new(());

async fn scene() -> Result<&'static Scene> {
    // What a person writes into a status wakes nobody: it is found at the next round.
    let often = [("ATTACHMENT_RECONCILE_INTERVAL", "3s"), ("RESYNC_INTERVAL", "5s")];
    SCENE
        .get_or_try_init(|| Scene::start_with("attach-hands", Knobs::default(), 1, &often))
        .await
}

/// A claim and its volume, watched.
struct Story<'a> {
    scene: &'a Scene,
    claim: &'a str,
    volume: String,
    crowd: Arc<std::sync::Mutex<BTreeSet<Vec<String>>>>,
    watch: JoinHandle<()>,
}

impl<'a> Story<'a> {
    async fn begin(scene: &'a Scene, claim: &'a str) -> Result<Self> {
        scene.lab.claim(claim, &scene.appliance.name, "1Gi").await?;
        let volume = scene.lab.bound(claim).await?;
        let crowd = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let (seen, sim, name) = (crowd.clone(), scene.appliance.simulator(), volume.clone());
        let watch = tokio::spawn(async move {
            loop {
                let live = sim
                    .sessions()
                    .into_iter()
                    .filter(|s| s.link.is_alive() && s.nqn.contains(&name));
                let hosts: BTreeSet<String> = live.map(|s| s.host).collect();
                if hosts.len() > 1 {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.insert(hosts.into_iter().collect());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Ok(Self {
            scene,
            claim,
            volume,
            crowd,
            watch,
        })
    }

    fn record(&self, node: &str) -> String {
        attachment_name(&self.volume, node)
    }

    /// `kubectl edit --subresource=status`.
    async fn edit(&self, kind: &str, name: &str, status: Value) -> Result<()> {
        let text = json!({"status": status}).to_string();
        let patch = ["patch", kind, name, "--subresource=status", "--type=merge", "-p", &text];
        self.scene.kubectl(&patch).await.map(drop)
    }

    /// Takes the finalizer of an RdsAttachment off.
    async fn strip(&self, node: &str) -> Result<()> {
        let name = self.record(node);
        let confirm = format!("rds.csi.srvlab.io/confirm-delete={name}");
        self.scene.annotate("rdsattachment", &name, &confirm).await?;
        let strip = [
            "patch",
            "rdsattachment",
            &name,
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ];
        self.scene.kubectl(&strip).await.map(drop)
    }

    /// Removes an RdsAttachment, finalizer and all, while no operator can put that back.
    async fn remove(&self, node: &str) -> Result<()> {
        self.strip(node).await?;
        let name = self.record(node);
        let delete = ["delete", "rdsattachment", &name, "--timeout=30s"];
        self.scene.kubectl(&delete).await.map(drop)
    }

    async fn uid(&self, node: &str) -> Result<Option<String>> {
        let all: Api<RdsAttachment> = Api::all(self.scene.lab.cluster.client());
        Ok(all.get_opt(&self.record(node)).await?.and_then(|a| a.uid()))
    }

    /// Waits until the record of that node says so of its admission.
    async fn admission(&self, node: &str, status: &str, reason: &str) -> Result<()> {
        let all: Api<RdsAttachment> = Api::all(self.scene.lab.cluster.client());
        let what = format!("Admitted={status} ({reason}) on {node}");
        let waited = wait_until(&what, PATIENCE, async || {
            let said = all.get(&self.record(node)).await?.status.unwrap_or_default();
            let said = find_condition(&said.conditions, "Admitted").context("nothing is said")?;
            ensure!(said.status == status && said.reason == reason, "{said:?}");
            Ok(())
        });
        self.scene.lab.explained(waited.await, self.claim).await
    }

    /// How often an event of that reason was posted on the claim.
    async fn told(&self, reason: &str) -> Result<u64> {
        let of = format!(
            "involvedObject.kind=PersistentVolumeClaim,involvedObject.name={}",
            self.claim
        );
        let text = self
            .scene
            .kubectl(&["get", "events", "--field-selector", &of, "-o", "json"])
            .await?;
        let all: Value = serde_json::from_str(&text)?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let times = |e: &Value| {
            e["series"]["count"]
                .as_u64()
                .or(e["count"].as_u64())
                .unwrap_or(1)
                .max(1)
        };
        Ok(all.iter().filter(|e| e["reason"] == reason).map(times).sum())
    }

    /// At least so often: what is told once for each transition may be told again where a cache is behind.
    async fn is_told(&self, reason: &str, times: u64) -> Result<()> {
        wait_until(
            &format!("event {reason} on claim {}", self.claim),
            PATIENCE,
            async || {
                let now = self.told(reason).await?;
                ensure!(now >= times, "{now} times");
                Ok(())
            },
        )
        .await
    }

    /// Nobody ever wrote beside another one; all of it goes.
    async fn end(self, nodes: &[&str]) -> Result<()> {
        for node in nodes {
            if self.scene.wish(&self.volume, node).await?.is_some() {
                self.scene.unask(&self.volume, node).await?;
            }
        }
        for node in nodes {
            self.scene.detached(&self.volume, node).await?;
        }
        self.scene.lab.delete_claim(self.claim).await?;
        let crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(crowd.is_empty(), "{} was written by {crowd:?} at once", self.volume);
        Ok(())
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[test]
fn i3_i4_records_edited_by_hand_give_no_second_writer_and_are_put_right() -> Result<()> {
    e2e::run(async {
        let scene = scene().await?;
        let (one, two) = (scene.node("edit-1").await?, scene.node("edit-2").await?);
        let shared = OPERATOR.read().await;
        let story = Story::begin(scene, "edited").await?;
        let volume = story.volume.as_str();
        scene.ask(volume, "edit-1").await?;
        scene.attached(volume, &one).await?;
        scene.ask(volume, "edit-2").await?;
        scene.refused(volume, "edit-2", &["node edit-1", "node edit-2"]).await?;
        let nqn = scene.status(volume).await?.nqn.context("no NQN")?;

        // csi-attacher asks again and again; the user of the claim is told once.
        let mut asked = BTreeSet::new();
        let mut asks = async |times: usize| {
            wait_until("csi-attacher to have asked again", PATIENCE, async || {
                let wish = scene.wish(volume, "edit-2").await?.and_then(|w| w.status);
                let error = wish.and_then(|s| s.attach_error).context("no error")?;
                asked.insert(error.time.map(|t| t.0));
                ensure!(asked.len() >= times, "{asked:?}");
                Ok(())
            })
            .await
        };
        asks(2).await?;
        story.is_told("AttachmentConflict", 1).await?;
        let told = story.told("AttachmentConflict").await?;
        asks(4).await?;
        let now = story.told("AttachmentConflict").await?;
        ensure!(now < told + 2, "told again for each time it asks: {told}, then {now}");

        // The record of holders is emptied, which looks as if the volume were free.
        story.edit("rdsvolume", volume, json!({"holders": []})).await?;
        scene.held_by(volume, &["edit-1"]).await?;
        scene
            .event(volume, "HolderRecalled", "node edit-1 may be connected")
            .await?;
        story.is_told("HolderRecalled", 1).await?;
        scene.written_by(volume, &["edit-1"]).await?;

        // The spec cannot change, the finalizer and the object are the operator's.
        let name = story.record("edit-1");
        let patch = |text| ["patch", "rdsattachment", &name, "--type=merge", "-p", text];
        let kubectl = scene.lab.kubectl();
        for (arguments, word) in [
            (&patch(r#"{"spec":{"node":"edit-2"}}"#)[..], "cannot change"),
            (&patch(r#"{"spec":{"readOnly":true}}"#), "cannot change"),
            (&patch(r#"{"metadata":{"finalizers":null}}"#), "belong to the operator"),
            (
                &["delete", "rdsattachment", &name, "--wait=false"],
                "records that node edit-1 may use volume",
            ),
        ] {
            let said = kubectl.refused(arguments, None).await?;
            ensure!(said.contains(word), "{arguments:?}: {said}");
        }
        scene.written_by(volume, &["edit-1"]).await?;

        story.strip("edit-1").await?;
        let all: Api<RdsAttachment> = Api::all(scene.lab.cluster.client());
        wait_until("the finalizer to be back", PATIENCE, async || {
            let finalizers = all.get(&name).await?.metadata.finalizers.unwrap_or_default();
            ensure!(finalizers == [rds_crds::names::FINALIZER], "{finalizers:?}");
            Ok(())
        })
        .await?;

        // All of it removed by force: the object comes back, and the node is taken for what it is.
        let before = story.uid("edit-1").await?;
        {
            drop(shared);
            let _alone = OPERATOR.write().await;
            scene.lab.replicas[0].operator.hold();
            story.remove("edit-1").await?;
            scene.lab.replicas[0].operator.release()?;
            scene.lab.replicas[0].ready().await?;
            story.admission("edit-1", "True", "Admitted").await?;
            scene.attached(volume, &one).await?;
        }
        let _shared = OPERATOR.read().await;
        ensure!(story.uid("edit-1").await? != before, "it was not removed");
        scene.written_by(volume, &["edit-1"]).await?;
        ensure!(
            scene.status(volume).await?.nqn.as_ref() == Some(&nqn),
            "somebody was cut"
        );

        // An admission that nobody recorded, and one that is denied by hand.
        let says = |status: &str| {
            json!({"nqn": nqn, "address": "127.0.0.1", "port": 4420, "exportGeneration": 1, "conditions": [
                {"type": "Admitted", "status": status, "reason": "Admitted", "message": "by hand", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]})
        };
        story
            .edit("rdsattachment", &story.record("edit-2"), says("True"))
            .await?;
        story.admission("edit-2", "False", "Conflict").await?;
        story
            .edit("rdsattachment", &story.record("edit-1"), says("False"))
            .await?;
        story.admission("edit-1", "True", "Admitted").await?;
        scene.held_by(volume, &["edit-1"]).await?;

        // While the node keeps the volume though its detach is wanted, the record is emptied again.
        one.agent.in_use(&[&nqn])?;
        scene.unask(volume, "edit-1").await?;
        story.admission("edit-1", "False", "Withdrawn").await?;
        story.edit("rdsvolume", volume, json!({"holders": []})).await?;
        scene.held_by(volume, &["edit-1"]).await?;
        story.is_told("HolderRecalled", 2).await?;
        scene.written_by(volume, &["edit-1"]).await?;
        one.agent.in_use(&[])?;
        scene.detached(volume, "edit-1").await?;
        scene.attached(volume, &two).await?;
        scene.written_by(volume, &["edit-2"]).await?;

        story.end(&["edit-1", "edit-2"]).await
    })
}

#[test]
fn i18_a_phase_of_a_fence_that_was_set_ahead_by_hand_skips_no_cut() -> Result<()> {
    e2e::run(async {
        let scene = scene().await?;
        let (one, two) = (scene.node("phase-1").await?, scene.node("phase-2").await?);
        scene.fence_proven("True", "Proven", "").await?;
        let _shared = OPERATOR.read().await;
        let story = Story::begin(scene, "phase").await?;
        let volume = story.volume.as_str();
        scene.ask(volume, "phase-1").await?;
        scene.attached(volume, &one).await?;
        let old = scene.status(volume).await?.nqn.context("no NQN")?;
        let slot = scene.status(volume).await?.slot.context("no slot")?;
        let text = "failure: try again later".to_owned();
        scene.appliance.fault(Fault::always(
            &format!("{slot}.*nvme-tcp-export=no;"),
            FaultKind::Error { text },
        ));
        scene.out_of_service(&one).await?;
        scene.unask(volume, "phase-1").await?;
        scene.ask(volume, "phase-2").await?;
        let fence = wait_until("a fence that does not get on", PATIENCE, async || {
            let status = scene.status(volume).await?;
            let fence = status
                .fence
                .with_context(|| format!("no fence: {:?}", status.explain))?;
            Ok(serde_json::to_value(fence)?)
        });
        let mut fence = scene.lab.explained(fence.await, "phase").await?;
        ensure!(fence["phase"] == "Cutting", "{fence}");
        fence["phase"] = json!("Reopening");
        story.edit("rdsvolume", volume, json!({"fence": fence})).await?;
        scene.written_by(volume, &["phase-1"]).await?;
        scene.appliance.clear_faults();
        scene.detached(volume, "phase-1").await?;
        scene.attached(volume, &two).await?;
        scene.written_by(volume, &["phase-2"]).await?;
        let status = scene.status(volume).await?;
        ensure!(status.nqn.as_ref() != Some(&old), "the old name is back");
        for reason in ["Fencing", "Fenced", "StaleAttachmentCleared"] {
            story.is_told(reason, 1).await?;
        }
        story.end(&["phase-2"]).await
    })
}

/// Objects are restored from a backup of before, or were deleted by force, and Kubernetes still knows what it attached.
#[test]
fn i4_a_lost_object_store_is_rebuilt_from_volumeattachments_without_a_second_writer() -> Result<()> {
    e2e::run(async {
        let scene = scene().await?;
        let (one, two) = (scene.node("lost-1").await?, scene.node("lost-2").await?);
        scene.fence_proven("True", "Proven", "").await?;
        let stories = [
            Story::begin(scene, "lost").await?,
            Story::begin(scene, "restored").await?,
        ];
        for story in &stories {
            scene.ask(&story.volume, "lost-1").await?;
            scene.attached(&story.volume, &one).await?;
        }
        // Nobody asks for the second one beside its node: where all of before are cut, whoever asks first gets in.
        scene.ask(&stories[0].volume, "lost-2").await?;
        scene.refused(&stories[0].volume, "lost-2", &["node lost-1"]).await?;
        let operator = &scene.lab.replicas[0].operator;
        let alone = OPERATOR.write().await;
        operator.hold();
        let none =
            json!({"holders": null, "conditions": null, "nqn": null, "nodes": null, "explain": null, "fenced": null});
        stories[0].remove("lost-2").await?;
        for story in &stories {
            story.remove("lost-1").await?;
            story.edit("rdsvolume", &story.volume, none.clone()).await?;
        }
        // Of the second one the appliance knows more than the restored object.
        let slot = scene.status(&stories[1].volume).await?.slot.context("no slot")?;
        scene.appliance.run_ahead(&slot)?;
        operator.release()?;
        scene.lab.replicas[0].ready().await?;

        for story in &stories {
            let volume = story.volume.as_str();
            scene.held_by(volume, &["lost-1"]).await?;
            scene.attached(volume, &one).await?;
            if volume == stories[1].volume {
                scene.ask(volume, "lost-2").await?;
            }
            scene.refused(volume, "lost-2", &["node lost-1"]).await?;
            scene.written_by(volume, &["lost-1"]).await?;
        }
        drop(alone);
        // The node of the first one may have said itself that it is connected; nobody knows who else may write to the second one.
        wait_until(
            "all of before to be cut, or the record to be open",
            PATIENCE,
            async || {
                let status = scene.status(&stories[1].volume).await?;
                let (now, open) = (status.export_generation, status.holders_unknown_since.is_some());
                ensure!(now > Some(3) || (now == Some(3) && open), "{status:?}");
                Ok(())
            },
        )
        .await?;
        for story in &stories {
            scene.unask(&story.volume, "lost-1").await?;
        }
        // Where nobody knows who else was connected, all of before are cut before the next one gets in.
        for story in stories {
            let volume = story.volume.as_str();
            let before = scene.status(volume).await?.export_generation;
            scene.detached(volume, "lost-1").await?;
            scene.attached(volume, &two).await?;
            scene.written_by(volume, &["lost-2"]).await?;
            let status = scene.status(volume).await?;
            ensure!(status.holders_unknown_since.is_none(), "the record has holes still");
            ensure!(status.export_generation >= before, "a generation went down");
            story.end(&["lost-2"]).await?;
        }
        Ok(())
    })
}
