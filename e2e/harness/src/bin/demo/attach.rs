//! The second half of the demo: who may write. Two pods want one volume, a node dies and is cut, a migration takes too long.
//!
//! The nodes have no machines; their agents are the ones that ship, with the NVMe sessions of the simulated appliance.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::agent::{Agent, Control};
use e2e::appliance::Appliance;
use e2e::kubelet::Kubelet;
use e2e::lab::DRIVER;
use e2e::{Lab, wait_until};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::Api;
use rds_crds::condition::find_condition;
use rds_crds::identity::attachment_name;
use rds_crds::{RdsAttachment, RdsServer};
use serde_json::json;

use super::{heading, show};

const SOON: Duration = Duration::from_secs(60);
const FILES: &str = "letters";
const DISK: &str = "vm-disk";
/// The shortest that a StorageClass may set.
const MIGRATION: u64 = 30;

struct Scene<'a> {
    lab: &'a Lab,
    appliance: &'a Appliance,
    control: Control,
    nodes: BTreeMap<&'static str, (Kubelet, Agent)>,
}

pub(crate) async fn attachments(lab: &Lab, appliance: &Appliance) -> Result<()> {
    heading("Three nodes, each with its agent; their NVMe sessions are simulated");
    let control = Control::serve(appliance.simulator()).await?;
    let mut scene = Scene {
        lab,
        appliance,
        control,
        nodes: BTreeMap::new(),
    };
    for node in ["worker-1", "worker-2", "worker-3"] {
        scene.boot(node).await?;
    }
    show(lab, &["get", "leases", "-n", "rds-csi"]).await?;
    proof(&scene).await?;

    heading("A pod on worker-1: its volume is attached there, and the agent connects before kubelet asks");
    lab.claim(FILES, super::SERVER, "1Gi").await?;
    let volume = lab.bound(FILES).await?;
    scene.pod(FILES, "worker-1", false).await?;
    scene.connected(&volume, "worker-1").await?;
    show(lab, &["get", "rdsattachments"]).await?;
    scene.sessions();

    heading("worker-2 asks for it too: refused at once, and told why");
    scene.ask("intruder", &volume, "worker-2").await?;
    println!("  VolumeAttachment: {}", scene.refused("intruder").await?);
    show(lab, &["get", "rdsattachments", "-o", "wide"]).await?;
    scene.take_back("intruder", &volume, "worker-2").await?;

    heading("worker-1 dies; somebody declares it out of service, and the pod starts on worker-2");
    scene.dies("worker-1").await?;
    scene.kill_pod(FILES, "worker-1").await?;
    scene.pod(FILES, "worker-2", false).await?;
    scene.connected(&volume, "worker-2").await?;
    println!(
        "  worker-1 was cut at the target before worker-2 got in: the NQN is another one, which worker-1 cannot know"
    );
    show(lab, &["get", "rdsattachments"]).await?;
    scene.sessions();
    let of = format!("involvedObject.name={volume}");
    let columns = "custom-columns=REASON:.reason,MESSAGE:.message";
    let events = [
        "get",
        "events",
        "--field-selector",
        &of,
        "--sort-by=.lastTimestamp",
        "-o",
        columns,
    ];
    show(lab, &events).await?;

    heading("worker-1 comes back, and its agent acknowledges that it was cut");
    scene.boot("worker-1").await?;
    let back = ["taint", "node", "worker-1", "node.kubernetes.io/out-of-service-"];
    lab.kubectl().run(&back).await?;
    scene.end(FILES, &volume, &["worker-2"]).await?;

    migration(&scene).await?;
    scene.leave().await
}

/// With `fencing: Auto`, which ships, nobody is cut before a fence was proven to work on this appliance.
async fn proof(scene: &Scene<'_>) -> Result<()> {
    let lab = scene.lab;
    heading("An agent is there: the appliance is tried once whether a fence works, on an empty volume made for that");
    let servers: Api<RdsServer> = Api::all(lab.cluster.client());
    let proven = wait_until("FenceProven", SOON, async || {
        let status = servers.get(super::SERVER).await?.status.unwrap_or_default();
        let said = find_condition(&status.conditions, "FenceProven").context("nothing is said yet")?;
        ensure!(said.status == "True", "{}: {}", said.reason, said.message);
        Ok(said.message.clone())
    });
    println!("  FenceProven: {}", lab.explained(proven.await, "-").await?);
    show(lab, &["get", "rdsservers"]).await?;
    let gone = wait_until("the canary to be gone", SOON, async || {
        let left = lab.volumes().list(&Default::default()).await?.items;
        ensure!(left.is_empty(), "{} volumes", left.len());
        Ok(())
    });
    gone.await
}

/// A live migration that does not end in time.
async fn migration(scene: &Scene<'_>) -> Result<()> {
    let lab = scene.lab;
    heading(&format!(
        "A raw block volume for a virtual machine that migrates, within {MIGRATION} s at most"
    ));
    let parameters = json!({"parameters": {"server": super::SERVER, "migrationTimeoutSeconds": MIGRATION.to_string()}});
    lab.class(DISK, super::SERVER, parameters).await?;
    let block = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
    lab.claim_with(DISK, DISK, "1Gi", block).await?;
    let volume = lab.bound(DISK).await?;
    for node in ["worker-2", "worker-3"] {
        scene.pod(DISK, node, true).await?;
        scene.connected(&volume, node).await?;
    }
    show(lab, &["get", "rdsattachments"]).await?;
    let migration = ["get", "rdsvolume", &volume, "-o", "jsonpath={.status.migration}"];
    println!("  RdsVolume status.migration: {}", lab.kubectl().run(&migration).await?);

    heading("The time is over: nobody else gets in, with the remedy in the message");
    let late = wait_until("the migration to be overdue", SOON, async || {
        let volume = lab.volumes().get(&volume).await?;
        let deadline = volume
            .status
            .and_then(|s| s.migration)
            .context("no migration")?
            .deadline;
        ensure!(jiff::Timestamp::now() >= deadline.0, "it has until {}", deadline.0);
        Ok(())
    });
    late.await?;
    scene.ask("third", &volume, "worker-1").await?;
    println!("  VolumeAttachment: {}", scene.refused("third").await?);
    scene.take_back("third", &volume, "worker-1").await?;

    heading("The source lets go, which ends the migration; then all of it goes");
    scene.kill_pod(DISK, "worker-2").await?;
    scene.detached(&volume, "worker-2").await?;
    show(lab, &["get", "rdsvolumes"]).await?;
    scene.end(DISK, &volume, &["worker-3"]).await
}

impl Scene<'_> {
    async fn boot(&mut self, node: &'static str) -> Result<()> {
        let kubelet = Kubelet::start(self.lab, node).await?;
        let agent = Agent::start(&self.lab.cluster, node, &self.control, &[]).await?;
        self.nodes.insert(node, (kubelet, agent));
        Ok(())
    }

    /// The nodes go for good: real ones of the same names may come next, which have to say of themselves what they are.
    async fn leave(self) -> Result<()> {
        let mut delete = vec!["delete", "nodes,csinodes"];
        delete.extend(self.nodes.keys());
        drop(self.nodes);
        self.lab.kubectl().run(&delete).await.map(drop)
    }

    async fn dies(&mut self, node: &str) -> Result<()> {
        self.nodes.remove(node).context("it is dead already")?;
        let down = r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"the plug was pulled"}]}}"#;
        let kubectl = self.lab.kubectl();
        kubectl
            .run(&["patch", "node", node, "--subresource=status", "-p", down])
            .await?;
        let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
        println!("  $ kubectl taint node {node} {taint}");
        kubectl.run(&["taint", "node", node, taint]).await.map(drop)
    }

    /// A pod on that node, as a scheduler would have placed it.
    async fn pod(&self, claim: &str, node: &str, block: bool) -> Result<()> {
        let mut container = json!({"name": "c", "image": "none"});
        if let Some(container) = container.as_object_mut() {
            if block {
                container.insert("volumeDevices".into(), json!([{"name": "v", "devicePath": "/dev/v"}]));
            } else {
                container.insert("volumeMounts".into(), json!([{"name": "v", "mountPath": "/v"}]));
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{claim}-{node}"), "namespace": "default"},
            "spec": {"nodeName": node, "containers": [container],
                     "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
        self.lab.kubectl().apply(&pod).await.map(drop)
    }

    async fn kill_pod(&self, claim: &str, node: &str) -> Result<()> {
        let pod = format!("{claim}-{node}");
        let kill = [
            "delete",
            "pod",
            &pod,
            "--force",
            "--grace-period=0",
            "--ignore-not-found",
        ];
        self.lab.kubectl().run(&kill).await.map(drop)
    }

    fn records(&self) -> Api<RdsAttachment> {
        Api::all(self.lab.cluster.client())
    }

    async fn connected(&self, volume: &str, node: &str) -> Result<()> {
        let id = attachment_name(volume, node);
        let what = format!("{node} to be connected");
        let waited = wait_until(&what, SOON, async || {
            let status = self.records().get(&id).await?.status.context("nothing was said yet")?;
            let agent = status.agent.unwrap_or_default();
            let live = find_condition(&agent.conditions, "Connected").is_some_and(|c| c.status == "True");
            ensure!(live, "{:?}, the agent {:?}", status.conditions, agent.conditions);
            Ok(())
        });
        self.lab.explained(waited.await, "-").await
    }

    async fn detached(&self, volume: &str, node: &str) -> Result<()> {
        let id = attachment_name(volume, node);
        let what = format!("{node} to have let go");
        let waited = wait_until(&what, SOON, async || {
            let left = self.records().get_opt(&id).await?;
            ensure!(left.is_none(), "{:?}", left.and_then(|a| a.status));
            Ok(())
        });
        self.lab.explained(waited.await, "-").await
    }

    /// What the attach-detach controller would not even ask, somebody else does.
    async fn ask(&self, name: &str, volume: &str, node: &str) -> Result<()> {
        let wish = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}}});
        self.lab.kubectl().apply(&wish).await.map(drop)
    }

    async fn refused(&self, name: &str) -> Result<String> {
        let wishes: Api<VolumeAttachment> = Api::all(self.lab.cluster.client());
        let what = format!("{name} to be refused");
        let waited = wait_until(&what, SOON, async || {
            let status = wishes.get(name).await?.status.context("no answer yet")?;
            status.attach_error.and_then(|e| e.message).context("no error yet")
        });
        waited.await
    }

    async fn take_back(&self, name: &str, volume: &str, node: &str) -> Result<()> {
        let delete = ["delete", "volumeattachment", name, "--timeout=60s"];
        self.lab.kubectl().run(&delete).await?;
        self.detached(volume, node).await
    }

    /// The pods go, and the claim with its volume.
    async fn end(&self, claim: &str, volume: &str, nodes: &[&str]) -> Result<()> {
        for node in nodes {
            self.kill_pod(claim, node).await?;
            self.detached(volume, node).await?;
        }
        self.lab.delete_claim(claim).await
    }

    fn sessions(&self) {
        println!("  sessions at the appliance:");
        for (host, nqn) in self.appliance.sessions() {
            println!("    {host} {nqn}");
        }
    }
}
