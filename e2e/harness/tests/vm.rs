//! Scenarios on a real kernel: one boot of one virtual machine runs them all. See docs/vm-tests.md.
//!
//! One alone: `VM_SCENARIO=name cargo test -p e2e --test vm`.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::vm::{Machine, PROGRAMS, Release, Vm, report};

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
    println!("kernel {} with {}", vm.kernel, vm.accelerator);
    let (mut told, mut failed) = (0, Vec::new());
    let code = loop {
        let ended = vm.ended()?;
        for outcome in report::read(&vm.share())?.into_iter().skip(told) {
            told += 1;
            let Some(error) = outcome.error else {
                println!("ok {} ({:.1} s)", outcome.name, outcome.seconds);
                continue;
            };
            println!(
                "FAILED {} ({:.1} s): {error}, logs in {}, rerun alone: VM_SCENARIO={} cargo test -p e2e --test vm {name}",
                outcome.name,
                outcome.seconds,
                vm.folder().display(),
                outcome.name,
            );
            failed.push(outcome.name);
        }
        if let Some(code) = ended {
            break code;
        }
        ensure!(
            vm.age() < LIMIT,
            "no end after {} s; {}",
            LIMIT.as_secs(),
            vm.last_words()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("{told} scenarios on {} in {:.0} s", vm.kernel, vm.age().as_secs_f32());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(
        code == 0 && told > 0,
        "the driver ended with {code} after {told} scenarios; {}",
        vm.last_words()
    );
    Ok(())
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
