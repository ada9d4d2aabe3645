//! The node agent on a real kernel, in a virtual machine: time, memory, API writes, and the data path.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::vm::agent::AgentVm;
use e2e::vm::{Machine, Vm};

use crate::{Report, audit};

const LIMIT: Duration = Duration::from_secs(1500);

pub(crate) async fn measure() -> Result<Report> {
    for program in ["fio", "nvme"] {
        let found = std::process::Command::new(program).arg("--version").output();
        found.with_context(|| format!("{program} is missing: apt-get install fio nvme-cli"))?;
    }
    let machine = Machine {
        memory: 2048,
        ..Machine::new("bench-agent", "")
    };
    let booted = AgentVm::boot("bench-agent", true, machine, "agent-bench", "").await?;
    let vm = &booted.vm;
    let audit = booted.lab.cluster.dir().join("audit.log");
    let mut report = Report::new();
    let mut before = (0, 0);
    for moment in ["before-first", "after-first", "before-again", "after-again"] {
        reached(vm, moment).await?;
        let now = (audit::writes_of(&audit, e2e::agent::ACCOUNT)?, audit::writes(&audit)?);
        if let Some(start) = moment.strip_prefix("after-") {
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            for (who, writes) in [("agent", now.0 - before.0), ("operator", now.1 - before.1)] {
                report.insert(format!("api_writes_pod_start_{start}_{who}"), writes as f64);
            }
        }
        before = now;
        std::fs::write(vm.share().join(format!("{moment}.counted")), "")?;
    }
    reached(vm, "bench.json").await?;
    let numbers = std::fs::read_to_string(vm.share().join("bench.json"))?;
    report.extend(serde_json::from_str::<Report>(&numbers)?);
    Ok(report)
}

/// Waits until the guest has written a file.
async fn reached(vm: &Vm, file: &str) -> Result<()> {
    let there = e2e::wait_until(&format!("the machine to come to {file}"), LIMIT, async || {
        // In this order, as the file may be the last that it did. A machine that has ended comes to nothing more.
        let ended = !matches!(vm.ended(), Ok(None));
        let there = vm.share().join(file).exists();
        ensure!(there || ended, "{}", vm.last_words());
        Ok(there)
    })
    .await?;
    ensure!(there, "the machine ended before it came to {file}: {}", vm.last_words());
    Ok(())
}
