//! A control plane on the host, and a guest with the node agent that ships; what runs in the guest plays kubelet to it.

use std::path::Path;

use anyhow::Result;

use super::bridge::Bridge;
use super::{HOST, Machine, PROGRAMS, TOOLS, Vm};
use crate::cluster::{WORKERS, free_ports};
use crate::lab::{self, Lab, NAMESPACE, Options};
use crate::tools;

/// Both of them, while this lives.
pub struct AgentVm {
    /// The control plane.
    pub lab: Lab,
    /// The guest.
    pub vm: Vm,
    _controller: Bridge,
    _other: crate::machine::Machine,
}

impl AgentVm {
    /// Boots `machine`, in which our guest program plays `role`; `more` stands behind the arguments that each such role has. Nobody
    /// but the guest asks the operator for anything: it has no sidecars.
    pub async fn boot(lab: &str, audit: bool, machine: Machine, role: &str, more: &str) -> Result<Self> {
        let options = Options {
            sidecars: Vec::new(),
            audit,
            ..Options::default()
        };
        let lab = Lab::start(lab, &options).await?;
        let controller = Bridge::open(&lab.replicas[0].socket).await?;
        let tools = tools::ensure()?.folder().file_name().unwrap_or_default().to_owned();
        let tools = Path::new(TOOLS).join(tools);
        let [ssh] = free_ports()?;
        let [node, other, _] = WORKERS;
        let other_node = crate::machine::Machine::boot(&lab, other).await?;
        lab::node(lab.kubectl(), node).await?;
        let account = crate::agent::ACCOUNT;
        let files = [
            ("admin.kubeconfig".to_owned(), lab.cluster.admin_on(HOST)?),
            (
                "agent.kubeconfig".to_owned(),
                lab.cluster.kubeconfig_on(NAMESPACE, account, node, HOST).await?,
            ),
        ];
        let run = format!(
            "exec {PROGRAMS}/guest {role} --ssh-port {ssh} --node {node} --other {other} --controller {HOST}:{} --tools {} {more}",
            controller.port,
            tools.display()
        );
        let machine = Machine {
            forwards: vec![(ssh, 22)],
            run,
            ..machine
        };
        let vm = Vm::start_with(&machine, &files, None).await?;
        Ok(Self {
            lab,
            vm,
            _controller: controller,
            _other: other_node,
        })
    }
}
