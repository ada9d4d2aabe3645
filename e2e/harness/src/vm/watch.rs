//! Reads along what a guest reports, and prints it for people.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Vm, report};

/// Waits for the end of the scenarios of a machine, and prints each as it ends. `test` is how they are run again: the name of the
/// test binary and of the test.
pub async fn scenarios(vm: &Vm, test: &str, limit: Duration) -> Result<()> {
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
                "FAILED {} ({:.1} s): {error}, logs in {}, rerun alone: VM_SCENARIO={} cargo test -p e2e --test {test}",
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
            vm.age() < limit,
            "no end after {} s; {}",
            limit.as_secs(),
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
