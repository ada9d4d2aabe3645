//! Pods on nodes in virtual machines: they run a line of shell and say what it printed by their termination message, so that nobody
//! has to reach kubelet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::claims::CLAIMS;
use crate::{Lab, wait_until};

/// Attach, stage and start on emulated processors.
const RUN: Duration = Duration::from_secs(240);

/// How a pod uses its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Mounted at `/data`.
    Mounted,
    /// The device `/dev/data`.
    Block,
}

/// What a pod does.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it runs; there is no scheduler.
    pub node: &'a str,
    /// What it uses.
    pub claim: &'a str,
    /// How.
    pub volume: Volume,
    /// A line for `sh`. What it writes to `/dev/termination-log` is the answer.
    pub line: &'a str,
}

/// What a pod that is to go on does after its work: it ends at once when it is asked to.
pub const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";

impl Work<'_> {
    /// The Pod, for those that want more of it.
    pub fn manifest(&self) -> Value {
        let mut container = json!({
            "name": "c", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
            // By its last word the node finds the process.
            "command": ["sh", "-ec", self.line, format!("pod-{}", self.name)],
        });
        match self.volume {
            Volume::Mounted => container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]),
            Volume::Block => container["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/data"}]),
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "namespace": CLAIMS}, "spec": {
            "nodeName": self.node, "restartPolicy": "Never", "hostNetwork": true,
            // Nobody here publishes the certificates that a token would come with.
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            // 0 would remove the Pod at once and race with the unpublishing of its volumes.
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": self.claim}}],
        }})
    }
}

impl Lab {
    /// The API of the pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client(), CLAIMS)
    }

    /// Starts a pod.
    pub async fn pod(&self, work: &Work<'_>) -> Result<()> {
        self.kubectl().apply(&work.manifest()).await.map(drop)
    }

    /// Waits until a pod has ended well, and gives its answer.
    pub async fn answer(&self, name: &str) -> Result<String> {
        let what = format!("pod {name} to end");
        let waited = wait_until(&what, RUN, async || {
            let status = self.pods().get(name).await?.status.context("no status")?;
            let phase = status.phase.unwrap_or_default();
            let mut states = status
                .container_statuses
                .unwrap_or_default()
                .into_iter()
                .filter_map(|c| c.state);
            let ended = states.next().and_then(|state| state.terminated);
            match (phase.as_str(), ended) {
                ("Succeeded", ended) => Ok(Ok(ended.and_then(|e| e.message).unwrap_or_default().trim().to_owned())),
                ("Failed", ended) => Ok(Err(format!("{:?}", ended.and_then(|e| e.message)))),
                _ => bail!("it is {phase}"),
            }
        });
        match self.explained_pod(waited.await, name).await? {
            Ok(answer) => Ok(answer),
            Err(said) => {
                self.explained_pod(Err(anyhow::anyhow!("pod {name} failed: {said}")), name)
                    .await
            }
        }
    }

    /// Waits until a pod runs.
    pub async fn running(&self, name: &str) -> Result<()> {
        let what = format!("pod {name} to run");
        let waited = wait_until(&what, RUN, async || {
            let status = self.pods().get(name).await?.status.context("no status")?;
            let phase = status.phase.unwrap_or_default();
            anyhow::ensure!(phase == "Running", "it is {phase}");
            Ok(())
        });
        self.explained_pod(waited.await, name).await
    }

    /// Deletes a pod and waits until it is gone, which is when its volumes are unpublished.
    pub async fn end_pod(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default()).await?;
        let what = format!("pod {name} to be gone");
        let waited = wait_until(&what, RUN, async || {
            anyhow::ensure!(self.pods().get_opt(name).await?.is_none(), "it is still there");
            Ok(())
        });
        self.explained_pod(waited.await, name).await
    }

    /// Runs a pod to its end and removes it; its answer, and how long it took until then.
    pub async fn run_pod(&self, work: &Work<'_>) -> Result<(String, Duration)> {
        let start = Instant::now();
        self.pod(work).await?;
        let answer = self.answer(work.name).await?;
        let took = start.elapsed();
        self.end_pod(work.name).await?;
        Ok((answer, took))
    }

    /// Adds to an error what is known about a pod.
    pub async fn explained_pod<T>(&self, result: Result<T>, name: &str) -> Result<T> {
        let Err(error) = result else { return result };
        let events = self.events("Pod", name).await.unwrap_or_default().join("\n");
        let shown = [
            "get",
            "rdsattachments,rdsvolumes,volumeattachments,csinodes,nodes",
            "-o",
            "wide",
        ];
        let objects = self.kubectl().run(&shown).await.unwrap_or_default();
        Err(error.context(format!("events of pod {name}:\n{events}\n{objects}")))
    }
}
