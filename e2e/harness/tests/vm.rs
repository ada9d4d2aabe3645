//! Scenarios on a real kernel: one boot of one virtual machine runs them all. See docs/vm-tests.md.
//!
//! One alone: `VM_SCENARIO=name cargo test -p e2e --test vm`.

use std::time::Duration;

use anyhow::Result;
use e2e::vm::{Machine, PROGRAMS, Release, Vm, watch};

/// For all scenarios of one boot. Emulated processors take their time.
const LIMIT: Duration = Duration::from_secs(1500);

async fn boot(name: &str, release: Release) -> Result<()> {
    let alone = std::env::var("VM_SCENARIO").unwrap_or_default();
    run(name, release, &format!("exec {PROGRAMS}/guest scenarios {alone}")).await
}

async fn run(name: &str, release: Release, script: &str) -> Result<()> {
    let machine = Machine {
        release,
        ..Machine::new(name, script)
    };
    let vm = Vm::start(&machine).await?;
    watch::scenarios(&vm, &format!("vm {name}"), LIMIT).await
}

#[test]
fn stable() -> Result<()> {
    e2e::run(boot("stable", Release::Stable))
}

/// The kernel that gives sessions up at the first refusal, and wants host NQN and host ID to go together.
#[test]
fn backports() -> Result<()> {
    e2e::run(boot("backports", Release::Backports))
}

/// Without native multipath a disk is a child of its controller.
#[test]
fn single_path() -> Result<()> {
    let alone = std::env::var("VM_SCENARIO").unwrap_or_else(|_| "nvme_".to_owned());
    let script = format!("modprobe nvme_core multipath=N && exec {PROGRAMS}/guest scenarios {alone}");
    e2e::run(run("single_path", Release::Stable, &script))
}
