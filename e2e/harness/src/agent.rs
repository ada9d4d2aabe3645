//! The agent of a node: the binary that ships, with a token as kubelet would mount it, on a host of its own, whose NVMe sessions
//! are those of a simulated appliance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use routeros_sim::Simulator;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::lab::{self, NAMESPACE};
use crate::process::command;
use crate::supervisor::Supervised;
use crate::{Cluster, tools};

/// Account of the agents.
pub const ACCOUNT: &str = "rds-csi-node";

/// The control interface of a simulator on loopback; it ends with this.
pub struct Control {
    /// `http://address:port`.
    pub url: String,
    task: JoinHandle<()>,
}

impl Control {
    /// Serves it.
    pub async fn serve(sim: Arc<Simulator>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = routeros_sim::control::router(sim);
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { url, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running agent. Dropping it is SIGKILL.
pub struct Agent {
    /// Name of its node, and of its host at the simulator.
    pub node: String,
    /// The process; it is started again when it ends.
    pub process: Supervised,
    home: PathBuf,
    recipe: Recipe,
}

#[derive(Clone)]
struct Recipe {
    program: PathBuf,
    env: BTreeMap<String, String>,
    control: String,
}

impl Recipe {
    fn command(&self, more: &[(String, String)]) -> Command {
        let mut command = command(&self.program);
        command
            .args(["--metrics-address", "127.0.0.1:0", "--fake-fabrics", &self.control])
            .envs(&self.env)
            .envs(more.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Agent {
    /// Makes Node and Pod if they are not there, and starts the agent with this environment on top of its own.
    pub async fn start(cluster: &Cluster, node: &str, control: &Control, env: &[(&str, &str)]) -> Result<Self> {
        lab::node(cluster.kubectl(), node).await?;
        let pod = format!("rds-csi-node-{node}");
        cluster
            .kubectl()
            .apply(
                &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": NAMESPACE}, "spec": {
                    "nodeName": node, "serviceAccountName": ACCOUNT, "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "rds-node-agent", "image": "example.invalid/agent"}],
                }}),
            )
            .await?;
        let kubeconfig = cluster.kubeconfig(NAMESPACE, ACCOUNT, Some(&pod)).await?;
        let home = cluster.dir().join(format!("host-{node}"));
        for (path, text) in [
            ("proc/sys/kernel/random/boot_id", format!("boot-1-of-{node}")),
            ("sys/class/dmi/id/product_uuid", format!("system-of-{node}")),
            ("etc/machine-id", format!("machine-of-{node}")),
        ] {
            let path = home.join(path);
            std::fs::create_dir_all(path.parent().context("a folder")?)?;
            std::fs::write(path, text)?;
        }
        let env: BTreeMap<String, String> = [
            ("KUBECONFIG", kubeconfig.display().to_string()),
            ("NODE_ID", node.to_owned()),
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
            ("CSI_MANAGED_NQN_PREFIX", "nqn.2000-02.com.mikrotik:pvc-".to_owned()),
            ("STATE_DIR", home.join("state").display().to_string()),
            ("HOST_ROOT", home.display().to_string()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
        .collect();
        let recipe = Recipe {
            program: tools::own("rds-node-agent")?,
            env,
            control: control.url.clone(),
        };
        let started = recipe.clone();
        let log = cluster.dir().join(format!("rds-node-agent-{node}.log"));
        let process = Supervised::start("rds-node-agent", log, move || started.command(&[]))?;
        Ok(Self {
            node: node.to_owned(),
            process,
            home,
            recipe,
        })
    }

    /// SIGKILL; its next life, and only that one, ends itself after this step.
    pub fn crash_after(&self, step: &str) -> Result<()> {
        let recipe = self.recipe.clone();
        let once = std::sync::Mutex::new(vec![("RDS_CRASH_AFTER".to_owned(), step.to_owned())]);
        self.process.remake(move || {
            let now = std::mem::take(&mut *once.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            recipe.command(&now)
        });
        self.process.restart()
    }

    /// A reboot of the host, as far as files show it. Sessions are the simulator's to end.
    pub fn reboot(&self, boot: &str) -> Result<()> {
        std::fs::write(self.host_root().join("proc/sys/kernel/random/boot_id"), boot)?;
        self.process.restart()
    }

    /// Where the agent looks for the files of its host.
    pub fn host_root(&self) -> &Path {
        &self.home
    }

    /// Says which NQNs something on the host uses; `?` in front of one makes that unknown.
    pub fn in_use(&self, nqns: &[&str]) -> Result<()> {
        let path = self.home.join("state/in-use");
        Ok(std::fs::write(path, nqns.join("\n"))?)
    }
}
