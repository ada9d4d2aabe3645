//! The node agent on a real kernel, with operator and API server on the host: one boot runs all scenarios. See docs/vm-tests.md.
//!
//! One alone: `VM_SCENARIO=name cargo test -p e2e --test vm_agent stable`, or `backports` for the other kernel.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use e2e::Lab;
use e2e::cluster::{WORKERS, free_ports};
use e2e::lab::{self, NAMESPACE, Options};
use e2e::tools;
use e2e::vm::bridge::Bridge;
use e2e::vm::{HOST, Machine, PROGRAMS, Release, TOOLS, Vm, watch};

/// What kernels do differently: how they connect, and what they make of a target that goes and comes back.
const KERNELS_DIFFER: &str = "agent_attaches_and_leaves agent_target_reboots agent_port_before_exports";

/// Emulated machines one after the other: two at once are slower than that.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn stable() -> Result<()> {
    run("stable", Release::Stable, "")
}

/// The kernel that gives sessions up at the first refusal.
#[test]
fn backports() -> Result<()> {
    run("backports", Release::Backports, KERNELS_DIFFER)
}

/// A control plane and a machine of its own. `scenarios` are the names to run if none is asked for; all if it is empty.
fn run(test: &str, release: Release, scenarios: &str) -> Result<()> {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let scenarios = std::env::var("VM_SCENARIO").unwrap_or_else(|_| scenarios.to_owned());
    e2e::run(async {
        // No sidecars: scenarios play kubelet, and csi-sanity plays all of them.
        let options = Options {
            sidecars: Vec::new(),
            ..Options::default()
        };
        let lab = Lab::start(&format!("vm-agent-{test}-plane"), &options).await?;
        let controller = Bridge::open(&lab.replicas[0].socket).await?;
        let tools = tools::ensure()?.folder().file_name().unwrap_or_default().to_owned();
        let tools = Path::new(TOOLS).join(tools);
        let [ssh] = free_ports()?;
        let [node, other, _] = WORKERS;
        let _other = e2e::machine::Machine::boot(&lab, other).await?;
        lab::node(lab.kubectl(), node).await?;
        let account = e2e::agent::ACCOUNT;
        let files = [
            ("admin.kubeconfig".to_owned(), lab.cluster.admin_on(HOST)?),
            (
                "agent.kubeconfig".to_owned(),
                lab.cluster.kubeconfig_on(NAMESPACE, account, node, HOST).await?,
            ),
        ];
        let run = format!(
            "exec {PROGRAMS}/guest agent-scenarios --ssh-port {ssh} --node {node} --other {other} --controller {HOST}:{} --tools {} {scenarios}",
            controller.port,
            tools.display()
        );
        let machine = Machine {
            memory: 1024,
            release,
            forwards: vec![(ssh, 22)],
            ..Machine::new(&format!("agent-{test}"), &run)
        };
        let vm = Vm::start_with(&machine, &files, None).await?;
        watch::scenarios(&vm, &format!("vm_agent {test}"), Duration::from_secs(1500)).await
    })
}
