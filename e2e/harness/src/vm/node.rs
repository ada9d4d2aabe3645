//! A guest that is a node: the agent that ships, and a real kubelet and containerd beside it if asked for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node as Object;
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use serde_json::json;

use super::http::Control;
use super::{HOST, Machine, PROGRAMS, TOOLS, Vm};
use crate::cluster::free_ports;
use crate::lab::{self, NAMESPACE};
use crate::{Cluster, tools, wait_until};

/// From power on to a Node that is Ready. Emulated, and two at once, it takes a minute and a half.
const BOOT: Duration = Duration::from_secs(300);

/// MiB for what kubelet and agent keep over a reboot.
const DISK: u32 = 256;

/// What runs on it besides the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// A real kubelet and containerd.
    Real,
    /// Nobody; its Node object is made by hand.
    Absent,
}

/// A running node.
pub struct Node {
    /// Name of its Node object.
    pub name: String,
    /// Its machine.
    pub vm: Vm,
    /// `/sh`, and processes by name: `POST /kill/NAME`.
    pub control: Control,
    kubelet: Kubelet,
    machine: Machine,
}

/// Builds kubelet, containerd and the images of the pods, once. Minutes the first time.
pub fn ensure_tools() -> Result<(PathBuf, PathBuf, PathBuf)> {
    Ok((
        tools::made_by("tools/build.sh", &["kubelet".as_ref()])?,
        tools::made_by("tools/containerd/build.sh", &[])?,
        tools::made_by("vm/images.sh", &[])?,
    ))
}

impl Node {
    /// Boots it. Its name must be one of [`crate::cluster::WORKERS`], whose kubelets the API server knows.
    pub async fn boot(cluster: &Cluster, name: &str, kubelet: Kubelet) -> Result<Self> {
        let [control] = free_ports()?;
        let mut run = format!("exec {PROGRAMS}/guest node {name}");
        let mut images = None;
        if kubelet == Kubelet::Real {
            run += " --disk /dev/vda";
            let (kubelet, containerd, archive) = ensure_tools()?;
            for folder in [kubelet, containerd] {
                let folder = folder
                    .file_name()
                    .context("a folder of tools")?
                    .to_string_lossy()
                    .into_owned();
                run += &format!(" --tools {TOOLS}/{folder}");
            }
            images = Some(archive);
        } else {
            lab::node(cluster.kubectl(), name).await?;
        }
        let machine = Machine {
            memory: 1024,
            forwards: vec![(control, 80)],
            disk: if kubelet == Kubelet::Real { DISK } else { 0 },
            ..Machine::new(name, &run)
        };
        let files = Self::files(cluster, name, kubelet).await?;
        let vm = Vm::start_with(&machine, &files, images.as_deref()).await?;
        Ok(Self {
            name: name.to_owned(),
            vm,
            control: Control { port: control },
            kubelet,
            machine,
        })
    }

    /// What the guest is given: the kubeconfigs.
    async fn files(cluster: &Cluster, name: &str, kubelet: Kubelet) -> Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        if kubelet == Kubelet::Real {
            files.push(("kubelet.kubeconfig".to_owned(), cluster.kubelet_kubeconfig(name, HOST)?));
            // kubelet registers itself; a token of the agent is bound to its Node, which must be there before.
            cluster
                .kubectl()
                .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
                .await?;
        }
        let agent = cluster
            .kubeconfig_on(NAMESPACE, crate::agent::ACCOUNT, name, HOST)
            .await?;
        files.push(("agent.kubeconfig".to_owned(), agent));
        Ok(files)
    }

    /// Waits until it takes pods; without kubelet, until it answers.
    pub async fn up(&self, cluster: &Cluster) -> Result<()> {
        let nodes: Api<Object> = Api::all(cluster.client());
        wait_until(&format!("node {} to be ready", self.name), BOOT, async || {
            self.vm.alive()?;
            self.control.ask("GET", "/healthz", "").await?;
            if self.kubelet == Kubelet::Absent {
                return Ok(());
            }
            let conditions = nodes.get(&self.name).await?.status.and_then(|status| status.conditions);
            let ready = conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Ready");
            let ready = ready.context("kubelet has not said anything yet")?;
            ensure!(ready.status == "True", "{}", ready.message.unwrap_or_default());
            Ok(())
        })
        .await
        .map_err(|error| error.context(self.vm.last_words()))
    }

    /// Waits until kubelet has our driver, by the agent's own registration.
    pub async fn registered(&self, cluster: &Cluster) -> Result<()> {
        let nodes: Api<CSINode> = Api::all(cluster.client());
        let what = format!("the kubelet of {} to know our driver", self.name);
        wait_until(&what, BOOT, async || {
            let drivers = nodes.get(&self.name).await?.spec.drivers;
            let ours = drivers.iter().find(|driver| driver.name == lab::DRIVER);
            ours.map(drop).with_context(|| format!("it knows {drivers:?}"))
        })
        .await
        .map_err(|error| error.context(format!("the agent says:\n{}", self.log("rds-node-agent", 8))))
    }

    /// SIGKILL for a process of the node (`rds-node-agent`, `kubelet`, `containerd`), which is started again at once.
    pub async fn kill(&self, process: &str) -> Result<()> {
        self.control
            .ask("POST", &format!("/kill/{process}"), "")
            .await
            .map(drop)
    }

    /// SIGTERM for a process of the node, as an upgrade begins. It is started again once it has ended.
    pub async fn terminate(&self, process: &str) -> Result<()> {
        self.control
            .ask("POST", &format!("/terminate/{process}"), "")
            .await
            .map(drop)
    }

    /// Pulls its plug.
    pub fn cut(&self) {
        self.vm.cut();
    }

    /// Boots it again after [`Self::cut`]. It is the same machine, with what kubelet and agent had on their disk.
    pub async fn again(&mut self) -> Result<()> {
        self.vm.again(&self.machine).await
    }

    /// Runs a line of shell in a running pod that [`Work::manifest`](super::pods::Work::manifest) made; what it printed.
    pub async fn exec(&self, pod: &str, line: &str) -> Result<String> {
        let quoted = line.replace('\'', r"'\''");
        // The brackets keep the pattern from finding the shell that looks for it.
        let find = format!("pgrep -of '[p]od-{pod}$'");
        let printed = self
            .control
            .sh(&format!(
                "pid=$({find}) && nsenter -t $pid -m -p -- /bin/sh -ec '{quoted}'"
            ))
            .await;
        let printed = printed.with_context(|| format!("`{line}` in pod {pod} on {}", self.name))?;
        Ok(printed.trim().to_owned())
    }

    /// The sessions of its kernel, and how many were ever made or removed: the same twice if none came or went in between.
    pub async fn sessions(&self) -> Result<String> {
        let each = "for c in /sys/class/nvme/nvme*; do [ -e $c/subsysnqn ] && echo ${c##*/} $(cat $c/subsysnqn $c/cntlid $c/state); done";
        let ever = "dmesg | grep -cE 'nvme nvme.*(new ctrl|Removing ctrl)' || true";
        self.control.sh(&format!("{each}; {ever}")).await
    }

    /// How many lines of the log of one of its processes have these words, over all its lives.
    pub fn says(&self, process: &str, words: &str) -> usize {
        let text = std::fs::read(self.vm.share().join(format!("{process}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().filter(|line| line.contains(words)).count()
    }

    /// The last lines of the log of one of its processes.
    pub fn log(&self, process: &str, lines: usize) -> String {
        let text = std::fs::read(self.vm.share().join(format!("{process}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
