//! The node agent on a real kernel, with operator and API server on the host: one boot runs all scenarios. See docs/vm-tests.md.
//!
//! One alone: `VM_SCENARIO=name cargo test -p e2e --test vm_agent stable`, or `backports` for the other kernel.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use e2e::vm::agent::AgentVm;
use e2e::vm::{Machine, Release, watch};

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
        let machine = Machine {
            memory: 1024,
            release,
            ..Machine::new(&format!("agent-{test}"), "")
        };
        let plane = format!("vm-agent-{test}-plane");
        let booted = AgentVm::boot(&plane, false, machine, "agent-scenarios", &scenarios).await?;
        watch::scenarios(&booted.vm, &format!("vm_agent {test}"), Duration::from_secs(1500)).await
    })
}
