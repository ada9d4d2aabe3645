//! The operator is killed after every single mutating step of publish, unpublish and fence, of what it hears of agents, and of the
//! self-test of fencing. The steps are what the operator itself lists (`rds-operator steps attachment`, `report`, `self-test`): one that
//! no story reaches fails the test. What is seen in the API and on the appliance,
//! at each turn of a story and at its end, equals what an undisturbed run shows.

mod selftest;
mod words;

use anyhow::{Context, Result, ensure};
use e2e::scene::{Node, PATIENCE, Scene};
use e2e::{tools, wait_until};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::condition::find_condition;
use rds_crds::identity::attachment_name;
use routeros_sim::Knobs;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Duration, Instant};

/// One way through an attachment's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// A node gets the volume and lets it go.
    Used,
    /// A second one is refused meanwhile.
    Refused,
    /// The node is lost and cut, another one gets the volume, and the first comes back.
    Lost,
    /// The RdsAttachment is removed by force and made again.
    Removed,
    /// The object store has lost the RdsAttachment and the record of holders, and a new leader finds out.
    Forgotten,
    /// What agents and people say is heard: the format ledger, the circuit breaker.
    Words,
    /// A person asks for the self-test of fencing.
    SelfTest,
}

/// Steps that another test kills the operator after: a person's word takes longer to be believed than all else here, and a fence is
/// deferred beside a live peer only.
const ELSEWHERE: [(&str, &str); 2] = [("say-node-off", "fencing"), ("record-deferral", "fencing")];

impl Story {
    const ALL: [Self; 7] = [
        Self::Used,
        Self::Refused,
        Self::Lost,
        Self::Removed,
        Self::Forgotten,
        Self::Words,
        Self::SelfTest,
    ];

    /// What lists the steps of its own.
    const LISTS: [&str; 3] = ["attachment", "report", "self-test"];

    /// Where each step is found soonest. A hint only: a step that is missing here is looked for in all stories.
    fn likely(self, step: &str) -> bool {
        let lost = ["fence", "cut", "reopen", "acknowledged", "word"];
        match self {
            Self::Refused => step == "deny",
            Self::Lost => !step.starts_with("self-test") && lost.iter().any(|word| step.contains(word)),
            Self::Removed => matches!(step, "rebuild" | "record-succession"),
            Self::Forgotten => step == "record-holes",
            Self::Words => ["format", "breaker", "reset", "trial"]
                .iter()
                .any(|word| step.contains(word)),
            Self::SelfTest => step.starts_with("self-test"),
            Self::Used => !Self::ALL[1..].iter().any(|other| other.likely(step)),
        }
    }
}

struct World {
    scene: Scene,
    one: Node,
    two: Node,
}

/// What is seen at the turns of a story, and what should be.
struct Turns<'a> {
    world: &'a World,
    expected: Option<&'a [Value]>,
    seen: Vec<Value>,
}

impl<'a> Turns<'a> {
    fn new(world: &'a World, expected: Option<&'a [Value]>) -> Self {
        Self {
            world,
            expected,
            seen: Vec::new(),
        }
    }

    /// A turn of the story. Undisturbed, it is what does not change any more; otherwise it has to become the same.
    async fn take(&mut self, about: &str, look: impl AsyncFn() -> Result<Value>) -> Result<()> {
        let now = match self.expected {
            Some(all) => {
                let same = all.get(self.seen.len()).context("the undisturbed story is shorter")?;
                let waited = wait_until("the state of the undisturbed run", PATIENCE, async || {
                    let now = look().await?;
                    ensure!(now == *same, "{now:#}\nbut undisturbed:\n{same:#}");
                    Ok(now)
                });
                self.world.scene.lab.explained(waited.await, about).await?
            }
            None => {
                let mut last = (Value::Null, Instant::now());
                wait_until("a state that stays", PATIENCE, async || {
                    let now = look().await?;
                    if now != last.0 {
                        last = (now, Instant::now());
                    }
                    // A busy machine takes seconds between two steps; a state in the middle would be waited for in vain ever after.
                    ensure!(last.1.elapsed() >= Duration::from_secs(6), "it has just changed");
                    Ok(last.0.clone())
                })
                .await?
            }
        };
        self.seen.push(now);
        Ok(())
    }
}

/// A story of an attachment while it is told.
struct Telling<'a> {
    world: &'a World,
    volume: String,
    kill: &'a [Env],
    turns: Turns<'a>,
}

/// A variable of the environment.
type Env = (String, String);

impl World {
    /// Tells a story of a volume of its own, from its claim to its end.
    async fn tell(&self, story: Story, name: &str, expected: Option<&[Value]>, kill: &[Env]) -> Result<Vec<Value>> {
        match story {
            Story::Words => return words::tell(self, name, expected).await,
            Story::SelfTest => return selftest::tell(self, expected).await,
            Story::Used | Story::Refused | Story::Lost | Story::Removed | Story::Forgotten => {}
        }
        let lab = &self.scene.lab;
        lab.claim(name, &self.scene.appliance.name, "1Gi").await?;
        let mut telling = Telling {
            world: self,
            volume: lab.bound(name).await?,
            kill,
            turns: Turns::new(self, expected),
        };
        match story {
            Story::Used => telling.used().await?,
            Story::Refused => telling.refused().await?,
            Story::Lost => telling.lost().await?,
            Story::Removed => telling.removed().await?,
            Story::Forgotten => telling.forgotten().await?,
            Story::Words | Story::SelfTest => {}
        }
        lab.delete_claim(name).await?;
        self.scene.appliance.assert_empty()?;
        Ok(telling.turns.seen)
    }

    /// Everything but names that differ from run to run.
    async fn state(&self, volume: &str) -> Result<Value> {
        let object = self.scene.lab.volumes().get(volume).await?;
        let status = object.status.clone().context("no status")?;
        let records: Api<RdsAttachment> = Api::all(self.scene.lab.cluster.client());
        let records = records.list(&ListParams::default()).await?.items;
        let uid_of = |node: &str| {
            let name = attachment_name(volume, node);
            records.iter().find(|a| a.name_any() == name).and_then(ResourceExt::uid)
        };
        let holders: Vec<Value> = status
            .holders
            .iter()
            .map(|h| json!([h.node, h.role, uid_of(&h.node).as_ref() == Some(&h.attachment_uid)]))
            .collect();
        let mut said: Vec<Value> = Vec::new();
        for record in &records {
            let status = record.status.clone().unwrap_or_default();
            let admitted = find_condition(&status.conditions, "Admitted").map(|c| c.reason.clone());
            let agent = status.agent.unwrap_or_default();
            let connected = find_condition(&agent.conditions, "Connected").map(|c| c.status.clone());
            said.push(json!([record.spec.node, admitted, connected]));
        }
        let mut wishes = Vec::new();
        for node in [&self.one.name, &self.two.name] {
            let wish = self.scene.wish(volume, node).await?;
            wishes.push(json!([node, wish.map(|w| w.status.is_some_and(|s| s.attached))]));
        }
        let mut conditions: Vec<String> = status
            .conditions
            .iter()
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect();
        conditions.sort();
        let disks = self.scene.appliance.disks();
        let disk = disks
            .iter()
            .find(|disk| Some(&disk.slot) == status.slot.as_ref())
            .context("no disk")?;
        let words = object.annotations().keys().filter(|key| key.contains("fence"));
        Ok(json!({
            "generation": status.export_generation,
            "holders": holders,
            "fence": status.fence.is_some(),
            "fenced": status.fenced.iter().map(|f| &f.node).collect::<Vec<_>>(),
            "conditions": conditions,
            "words": words.collect::<Vec<_>>(),
            "attachments": said,
            "wishes": wishes,
            "disks": disks.len(),
            "exported": disk.exported && Some(&disk.nqn) == status.nqn.as_ref(),
            "writers": self.scene.writers(volume).await?,
        }))
    }
}

impl Telling<'_> {
    async fn turn(&mut self) -> Result<()> {
        let (world, volume) = (self.world, self.volume.clone());
        self.turns.take(&volume, async || world.state(&volume).await).await
    }

    async fn begin(&self, node: &Node) -> Result<()> {
        self.world.scene.ask(&self.volume, &node.name).await?;
        self.world.scene.attached(&self.volume, node).await
    }

    async fn end(&self, node: &Node) -> Result<()> {
        self.world.scene.unask(&self.volume, &node.name).await?;
        self.world.scene.detached(&self.volume, &node.name).await
    }

    async fn used(&mut self) -> Result<()> {
        self.begin(&self.world.one).await?;
        self.turn().await?;
        self.end(&self.world.one).await?;
        self.turn().await
    }

    async fn refused(&mut self) -> Result<()> {
        let World { scene, one, two } = self.world;
        let volume = &self.volume.clone();
        self.begin(one).await?;
        scene.ask(volume, &two.name).await?;
        scene.refused(volume, &two.name, &["attached to node one"]).await?;
        self.turn().await?;
        self.end(two).await?;
        self.end(one).await?;
        self.turn().await
    }

    async fn lost(&mut self) -> Result<()> {
        let World { scene, one, two } = self.world;
        let volume = &self.volume.clone();
        self.begin(one).await?;
        scene.out_of_service(one).await?;
        scene
            .annotate("rdsvolume", volume, "rds.csi.srvlab.io/fence-now=one")
            .await?;
        scene.unask(volume, &one.name).await?;
        self.begin(two).await?;
        scene.detached(volume, &one.name).await?;
        self.turn().await?;
        scene.comes_back(one).await?;
        self.end(two).await?;
        self.begin(one).await?;
        self.turn().await?;
        self.end(one).await?;
        self.turn().await
    }

    /// Removes the RdsAttachment by force.
    async fn remove(&self, node: &Node) -> Result<()> {
        let name = attachment_name(&self.volume, &node.name);
        let account = "--as=system:serviceaccount:rds-csi:rds-csi-controller";
        let strip = r#"{"metadata":{"finalizers":null}}"#;
        let patch = ["patch", "rdsattachment", &name, "--type=merge", "-p", strip, account];
        self.world.scene.kubectl(&patch).await?;
        let delete = ["delete", "rdsattachment", &name, "--wait=false", account];
        self.world.scene.kubectl(&delete).await.map(drop)
    }

    async fn forgotten(&mut self) -> Result<()> {
        let World { scene, one, .. } = self.world;
        let replica = &scene.lab.replicas[0];
        self.begin(one).await?;
        replica.operator.hold();
        self.remove(one).await?;
        let none = [
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"holders":[]}}"#,
        ];
        let patch = [&["patch", "rdsvolume", &self.volume][..], &none].concat();
        scene.kubectl(&patch).await?;
        replica.restart_once_with(self.kill)?;
        scene.held_by(&self.volume, &[&one.name]).await?;
        scene.attached(&self.volume, one).await?;
        self.turn().await?;
        self.end(one).await?;
        self.turn().await
    }

    async fn removed(&mut self) -> Result<()> {
        let World { scene, one, .. } = self.world;
        let volume = &self.volume.clone();
        self.begin(one).await?;
        let records: Api<RdsAttachment> = Api::all(scene.lab.cluster.client());
        let name = attachment_name(volume, &one.name);
        let before = records.get(&name).await?.uid();
        // Where the operator sees it, it puts the finalizer back.
        let replica = &scene.lab.replicas[0];
        replica.operator.hold();
        self.remove(one).await?;
        replica.restart_once_with(self.kill)?;
        wait_until("the RdsAttachment to be made again", PATIENCE, async || {
            let again = records.get_opt(&name).await?.context("it is gone")?;
            ensure!(again.uid() != before, "it is the old one");
            Ok(())
        })
        .await?;
        scene.attached(volume, one).await?;
        self.turn().await?;
        self.end(one).await?;
        self.turn().await
    }
}

#[test]
fn i4_a_kill_after_any_step_of_publish_unpublish_and_fence_changes_nothing_in_the_end() -> Result<()> {
    e2e::run(async {
        let more = [("ATTACHMENT_RECONCILE_INTERVAL", "2s"), ("RESYNC_INTERVAL", "5s")];
        let scene = Scene::start_with("crash-attach", Knobs::default(), 1, &more).await?;
        let (one, two) = (scene.node("one").await?, scene.node("two").await?);
        scene.fence_proven("True", "Proven", "").await?;
        let world = World { scene, one, two };
        let only = std::env::var("STEP").unwrap_or_default();

        let mut undisturbed = Vec::new();
        for story in Story::ALL {
            let begin = Instant::now();
            let told = world
                .tell(story, &format!("calm-{story:?}").to_lowercase(), None, &[])
                .await;
            undisturbed.push(told.with_context(|| format!("story {story:?}, undisturbed"))?);
            eprintln!("crash: story {story:?} takes {:.1} s", begin.elapsed().as_secs_f64());
        }
        let elsewhere = |step: &str| ELSEWHERE.iter().any(|(name, _)| *name == step);
        let mut steps: Vec<String> = Vec::new();
        for list in Story::LISTS {
            let operator = tools::own("rds-operator")?;
            let listed = Command::new(operator).args(["steps", list]).output().await?;
            let listed = String::from_utf8(listed.stdout)?;
            ensure!(!listed.is_empty(), "`rds-operator steps {list}` lists none");
            steps.extend(listed.lines().map(str::to_owned));
        }
        steps.retain(|step| step.contains(&only) && !elsewhere(step));
        ensure!(!steps.is_empty(), "there is no step {only}");

        let replica = &world.scene.lab.replicas[0];
        for (number, step) in steps.iter().map(String::as_str).enumerate() {
            let mut order: Vec<(usize, Story)> = Story::ALL.into_iter().enumerate().collect();
            order.sort_by_key(|(_, story)| !story.likely(step));
            let mut reached = false;
            for (index, story) in order {
                let kill = [("RDS_CRASH_AFTER".into(), step.into())];
                replica.restart_once_with(&kill)?;
                // Two stories start it again themselves.
                let again = matches!(story, Story::Removed | Story::Forgotten);
                let before = replica.operator.starts() + u32::from(again);
                let begin = Instant::now();
                let told = world
                    .tell(
                        story,
                        &format!("k{number}-{story:?}").to_lowercase(),
                        Some(&undisturbed[index]),
                        &kill,
                    )
                    .await;
                let alone = || {
                    format!(
                        "killed after {step}, story {story:?}; alone: STEP={step} cargo test --workspace --test crash_attach"
                    )
                };
                told.with_context(alone)?;
                if replica.operator.starts() > before {
                    reached = true;
                    eprintln!(
                        "crash: the same end after {step}, story {story:?}, {:.1} s",
                        begin.elapsed().as_secs_f64()
                    );
                    break;
                }
            }
            ensure!(reached, "no story reaches step {step}");
        }
        Ok(())
    })
}
