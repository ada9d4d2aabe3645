//! The node agent against a real API server, with the token that kubelet would mount and the rights and policies that ship. The
//! operator's part is played by the test's hand; sessions are those of a simulated appliance.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::agent::{Agent, Control};
use e2e::{Cluster, lab, wait_until};
use routeros_sim::{Config, Simulator};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static WORLD: OnceCell<World> = OnceCell::const_new();

const OPERATOR: &str = "--as=system:serviceaccount:rds-csi:rds-csi-controller";
const SOON: Duration = Duration::from_secs(60);

/// A cluster without operator, an appliance, no agents.
struct World {
    cluster: Cluster,
    sim: Arc<Simulator>,
    control: Control,
}

async fn world() -> Result<&'static World> {
    let start = || async {
        let cluster = Cluster::start("agent").await?;
        lab::install(cluster.kubectl()).await?;
        let sim = Arc::new(Simulator::start(Config::default()).await?);
        let control = Control::serve(sim.clone()).await?;
        anyhow::Ok(World { cluster, sim, control })
    };
    WORLD.get_or_try_init(start).await
}

fn nqn(volume: &str) -> String {
    format!("nqn.2000-02.com.mikrotik:{volume}")
}

/// One volume, exported, with an attachment on one node that nobody has admitted yet.
struct Story<'a> {
    world: &'a World,
    volume: &'a str,
    node: &'a str,
}

impl<'a> Story<'a> {
    async fn begin(world: &'a World, volume: &'a str, node: &'a str) -> Result<Self> {
        let add = format!(
            "/disk add type=file slot={volume} file-path=storage-pool/{volume}.img file-size=1G nvme-tcp-export=yes \
             nvme-tcp-server-nqn={}",
            nqn(volume)
        );
        let done = world.sim.exec(&add).await;
        ensure!(!done.failed, "{}", done.output);
        let kubectl = world.cluster.kubectl();
        kubectl
            .apply(
                &json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": volume},
                "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}}),
            )
            .await?;
        let story = Self { world, volume, node };
        story
            .patch(
                "rdsvolume",
                &json!({"status": {"exportGeneration": 1, "nqn": nqn(volume)}}),
            )
            .await?;
        story.attach().await?;
        Ok(story)
    }

    async fn attach(&self) -> Result<()> {
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": self.volume, "finalizers": [rds_crds::names::FINALIZER]},
            "spec": {"volume": self.volume, "node": self.node, "accessMode": "ReadWriteOnce"}});
        self.world.cluster.kubectl().apply(&object).await.map(drop)
    }

    async fn patch(&self, kind: &str, change: &Value) -> Result<()> {
        let text = change.to_string();
        let arguments = [
            "patch",
            kind,
            self.volume,
            "--subresource=status",
            "--type=merge",
            "-p",
            &text,
            OPERATOR,
        ];
        self.world.cluster.kubectl().run(&arguments).await.map(drop)
    }

    async fn object(&self) -> Result<Value> {
        let text = self
            .world
            .cluster
            .kubectl()
            .run(&["get", "rdsattachment", self.volume, "-o", "json"])
            .await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What the operator would do: the holder on the volume, then the word on the attachment.
    async fn admit(&self) -> Result<()> {
        let uid = self.object().await?["metadata"]["uid"].clone();
        let holder =
            json!({"node": self.node, "attachmentUID": uid, "role": "Primary", "since": "2026-01-01T00:00:00Z"});
        self.patch("rdsvolume", &json!({"status": {"holders": [holder]}}))
            .await?;
        self.patch(
            "rdsattachment",
            &json!({"status": {
                "nqn": nqn(self.volume), "address": "127.0.0.1", "port": 4420, "exportGeneration": 1,
                "conditions": [{"type": "Admitted", "status": "True", "reason": "Admitted", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }}),
        )
        .await
    }

    async fn delete(&self) -> Result<()> {
        let arguments = ["delete", "rdsattachment", self.volume, "--wait=false", OPERATOR];
        self.world.cluster.kubectl().run(&arguments).await.map(drop)
    }

    /// Waits for a condition of the agent, and gives the whole `status.agent`.
    async fn says(&self, agent: &Agent, kind: &str, status: &str, reason: &str) -> Result<Value> {
        let what = format!("{kind}={status} ({reason}) of {}", self.volume);
        let waited = wait_until(&what, SOON, async || {
            let said = self.object().await?["status"]["agent"].clone();
            let all = said["conditions"].as_array().cloned().unwrap_or_default();
            let found = all
                .iter()
                .any(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason);
            ensure!(found, "{said}");
            Ok(said)
        });
        waited
            .await
            .with_context(|| format!("the agent's last lines:\n{}", agent.process.tail(15)))
    }

    /// The NQNs of this volume that the node is connected to.
    fn sessions(&self) -> Vec<String> {
        let ours = |s: &routeros_sim::Session| s.host == self.node && s.nqn.starts_with(&nqn(self.volume));
        self.world
            .sim
            .sessions()
            .into_iter()
            .filter(ours)
            .map(|s| s.nqn)
            .collect()
    }
}

async fn lease(world: &World, node: &str) -> Result<Value> {
    let name = format!("rds-node-{node}");
    let text = world
        .cluster
        .kubectl()
        .run(&["get", "lease", "-n", "rds-csi", &name, "-o", "json"])
        .await?;
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn i13_admitted_means_intent_then_connected_and_deleted_means_disconnected() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let node = "n1";
        let agent = Agent::start(&world.cluster, node, &world.control, &[]).await?;
        let waiting = Story::begin(world, "pvc-waiting", node).await?;
        let story = Story::begin(world, "pvc-attached", node).await?;
        story.admit().await?;
        let said = story.says(&agent, "Connected", "True", "Connected").await?;
        let uid = world
            .cluster
            .kubectl()
            .run(&["get", "node", node, "-o", "jsonpath={.metadata.uid}"])
            .await?;
        let wanted = json!({"bootID": "boot-1-of-n1", "systemUUID": "system-of-n1", "machineID": "machine-of-n1",
            "nodeUID": uid, "generation": 1});
        ensure!(said["intent"] == wanted, "{said}");
        ensure!(
            said["usedBy"] == json!([]) && said["controllerState"] == "live",
            "{said}"
        );
        ensure!(story.sessions() == [nqn("pvc-attached")]);
        ensure!(
            waiting.object().await?["status"]["agent"].is_null(),
            "nothing is said before the grant"
        );
        ensure!(waiting.sessions().is_empty());

        agent.in_use(&[&nqn("pvc-attached")])?;
        story.delete().await?;
        story.says(&agent, "Disconnected", "False", "InUse").await?;
        agent.in_use(&[&format!("?{}", nqn("pvc-attached"))])?;
        let doubt = wait_until("the doubt to be said", SOON, async || {
            let said = story.object().await?.to_string();
            ensure!(said.contains("not proven"), "{said}");
            Ok(())
        });
        doubt.await?;
        ensure!(story.sessions().len() == 1, "in use, or perhaps so");
        agent.in_use(&[])?;
        let said = story.says(&agent, "Disconnected", "True", "Clean").await?;
        ensure!(said["intent"] == wanted, "the record stays: {said}");
        ensure!(story.sessions().is_empty());
        waiting.delete().await?;
        waiting.says(&agent, "Disconnected", "True", "NeverConnected").await?;
        // Final: whatever is said later, this object connects no more.
        waiting.admit().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(waiting.sessions().is_empty());

        let first = lease(world, node).await?;
        ensure!(
            first["spec"]["holderIdentity"] == node && first["spec"]["leaseDurationSeconds"] == 40,
            "{first}"
        );
        ensure!(first["metadata"].get("ownerReferences").is_none(), "{first}");
        wait_until("the Lease to be renewed", SOON, async || {
            let next = lease(world, node).await?;
            ensure!(next["spec"]["renewTime"] != first["spec"]["renewTime"], "{next}");
            Ok(())
        })
        .await
    })
}

#[test]
fn i13_a_kill_after_any_step_changes_no_end_state() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let agent = Agent::start(&world.cluster, "n2", &world.control, &[]).await?;
        for (volume, step) in [
            ("pvc-crash-1", "intent"),
            ("pvc-crash-2", "connect"),
            ("pvc-crash-3", "report"),
            ("pvc-crash-4", "disconnect"),
            ("pvc-crash-5", "disconnected"),
        ] {
            let story = Story::begin(world, volume, "n2").await?;
            let leaving = step.starts_with("disconnect");
            if leaving {
                story.admit().await?;
                story.says(&agent, "Connected", "True", "Connected").await?;
            }
            agent.crash_after(step)?;
            let before = agent.process.starts();
            if leaving {
                story.delete().await?;
            } else {
                story.admit().await?;
            }
            wait_until(&format!("the end after {step}"), SOON, async || {
                ensure!(agent.process.starts() > before, "{}", agent.process.tail(5));
                Ok(())
            })
            .await?;
            if !leaving {
                story.says(&agent, "Connected", "True", "Connected").await?;
                ensure!(story.sessions() == [nqn(volume)], "{step}: {:?}", story.sessions());
                story.delete().await?;
            }
            story.says(&agent, "Disconnected", "True", "Clean").await?;
            ensure!(story.sessions().is_empty(), "{step}");
        }
        Ok(())
    })
}

/// Key 2: only with the operator's word that nothing is missing, and only what nothing uses.
#[test]
fn i8_an_orphan_goes_after_the_operators_word_and_not_before() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let agent = Agent::start(&world.cluster, "n6", &world.control, &[]).await?;
        let kubectl = world.cluster.kubectl();
        // Their attachments are of another node, so that the list is not empty.
        let orphan = Story::begin(world, "pvc-orphan", "n7").await?;
        let used = Story::begin(world, "pvc-used", "n7").await?;
        agent.in_use(&[&nqn("pvc-used")])?;
        for story in [&orphan, &used] {
            world.sim.connect(&nqn(story.volume), "n6").context("connect")?;
        }
        let sessions = || {
            let mut all: Vec<String> = world
                .sim
                .sessions()
                .into_iter()
                .filter(|s| s.host == "n6")
                .map(|s| s.nqn)
                .collect();
            all.sort();
            all
        };
        wait_until("the agent to leave both alone", SOON, async || {
            let said = agent.process.tail(200);
            let left = said
                .matches("has not said since that its list of attachments is complete")
                .count();
            ensure!(left >= 2, "{said}");
            Ok(())
        })
        .await?;
        ensure!(sessions().len() == 2, "{:?}", sessions());
        let server = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
            "spec": {"management": {"address": "192.0.2.1", "user": "metal-csi"}, "storage": {"address": "192.0.2.1"},
            "secretRef": {"name": "s"}, "basePath": "/storage-pool"}});
        kubectl.apply(&server).await?;
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let word =
            json!({"status": {"attachmentsCompleteAt": later.round(jiff::Unit::Second)?.to_string()}}).to_string();
        kubectl
            .run(&[
                "patch",
                "rdsserver",
                "s",
                "--subresource=status",
                "--type=merge",
                "-p",
                &word,
                OPERATOR,
            ])
            .await?;
        wait_until("the orphan to go", Duration::from_secs(60), async || {
            ensure!(sessions() == [nqn("pvc-used")], "{:?}", sessions());
            Ok(())
        })
        .await?;
        wait_until("the agent to name the user", SOON, async || {
            let said = agent.process.tail(200);
            ensure!(said.contains("an orphan, and in use"), "{said}");
            Ok(())
        })
        .await?;
        ensure!(sessions() == [nqn("pvc-used")], "{:?}", sessions());
        Ok(())
    })
}

/// Key 3: with an attachment, and when no attachment speaks of the session any more. Foreign sessions stay.
#[test]
fn i6_what_the_target_has_cut_is_torn_down_and_nothing_else() -> Result<()> {
    e2e::run(async {
        let world = world().await?;
        let agent = Agent::start(&world.cluster, "n3", &world.control, &[]).await?;
        let story = Story::begin(world, "pvc-cut", "n3").await?;
        story.admit().await?;
        story.says(&agent, "Connected", "True", "Connected").await?;
        let lonely = Story::begin(world, "pvc-lonely", "n4").await?;
        let foreign = "/disk add type=file slot=foreign file-path=storage-pool/foreign.img file-size=1G nvme-tcp-export=yes \
                       nvme-tcp-server-nqn=nqn.2014-08.org.example:root";
        ensure!(!world.sim.exec(foreign).await.failed);
        for name in ["nqn.2014-08.org.example:root", &nqn("pvc-lonely")] {
            world.sim.connect(name, "n3").context("connect")?;
        }

        agent.in_use(&[&nqn("pvc-cut")])?;
        let fenced = json!([{"node": "n3", "generation": 1, "at": "2026-01-01T00:00:00Z"}]);
        for story in [&story, &lonely] {
            let next = format!("{}.g2-0a1b2c3d", nqn(story.volume));
            let line = format!("/disk set {} nvme-tcp-server-nqn={next}", story.volume);
            ensure!(!world.sim.exec(&line).await.failed);
            if story.volume == "pvc-cut" {
                // The agent looks before it can read of the fence: it has to look again.
                story.says(&agent, "Connected", "False", "Reconnecting").await?;
            }
            let status = json!({"exportGeneration": 2, "nqn": next, "holders": [], "fenced": fenced});
            story.patch("rdsvolume", &json!({"status": status})).await?;
        }
        story.says(&agent, "Healthy", "False", "PossibleDataLoss").await?;
        let said = story.says(&agent, "Cleared", "True", "NothingLeft").await?;
        ensure!(said["conditions"].to_string().contains("PossibleDataLoss"), "{said}");
        wait_until("the lonely session to go", SOON, async || {
            let left: Vec<String> = world
                .sim
                .sessions()
                .into_iter()
                .filter(|s| s.host == "n3")
                .map(|s| s.nqn)
                .collect();
            ensure!(left == ["nqn.2014-08.org.example:root"], "{left:?}");
            Ok(())
        })
        .await?;
        // Nobody could be told of that one: it is said on the next attachment here, by whatever process runs then.
        agent.process.restart()?;
        let strip = r#"{"metadata":{"finalizers":null}}"#;
        let patch = [
            "patch",
            "rdsattachment",
            "pvc-lonely",
            "--type=merge",
            "-p",
            strip,
            OPERATOR,
        ];
        world.cluster.kubectl().run(&patch).await?;
        lonely.delete().await?;
        let next = Story { node: "n3", ..lonely };
        next.attach().await?;
        let said = next.says(&agent, "Healthy", "False", "PossibleDataLoss").await?;
        ensure!(said.to_string().contains("had no RdsAttachment"), "{said}");
        next.says(&agent, "Cleared", "True", "NothingLeft").await?;
        let kept = agent.host_root().join("state/unreported-losses.json");
        wait_until("what was told to be forgotten", SOON, async || {
            let text = std::fs::read_to_string(&kept)?;
            ensure!(text == "{}", "{text}");
            Ok(())
        })
        .await
    })
}
