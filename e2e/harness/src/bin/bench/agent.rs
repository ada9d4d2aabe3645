//! The node agent on a real kernel, in a virtual machine: time, memory, API writes, and the data path.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{WORKERS, free_ports};
use e2e::lab::{self, NAMESPACE, Options};
use e2e::vm::bridge::Bridge;
use e2e::vm::{HOST, Machine, PROGRAMS, TOOLS, Vm};
use e2e::{Lab, tools};

use crate::{Report, audit};

const LIMIT: Duration = Duration::from_secs(1500);

pub(crate) async fn measure() -> Result<Report> {
    for program in ["fio", "nvme"] {
        let found = std::process::Command::new(program).arg("--version").output();
        found.with_context(|| format!("{program} is missing: apt-get install fio nvme-cli"))?;
    }
    let options = Options {
        sidecars: Vec::new(),
        audit: true,
        ..Options::default()
    };
    let lab = Lab::start("bench-agent", &options).await?;
    let controller = Bridge::open(&lab.replicas[0].socket).await?;
    let tools = tools::ensure()?.folder().file_name().unwrap_or_default().to_owned();
    let tools = Path::new(TOOLS).join(tools);
    let [ssh] = free_ports()?;
    let [node, other, _] = WORKERS;
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
        "exec {PROGRAMS}/guest agent-bench --ssh-port {ssh} --node {node} --other {other} --controller {HOST}:{} --tools {}",
        controller.port,
        tools.display()
    );
    let machine = Machine {
        memory: 2048,
        forwards: vec![(ssh, 22)],
        ..Machine::new("bench-agent", &run)
    };
    let vm = Vm::start_with(&machine, &files, None).await?;
    let audit = lab.cluster.dir().join("audit.log");
    let mut report = Report::new();
    let mut before = (0, 0);
    for moment in ["before-first", "after-first", "before-again", "after-again"] {
        reached(&vm, moment).await?;
        let now = (audit::writes_of(&audit, account)?, audit::writes(&audit)?);
        if let Some(start) = moment.strip_prefix("after-") {
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            for (who, writes) in [("agent", now.0 - before.0), ("operator", now.1 - before.1)] {
                report.insert(format!("api_writes_pod_start_{start}_{who}"), writes as f64);
            }
        }
        before = now;
        std::fs::write(vm.share().join(format!("{moment}.counted")), "")?;
    }
    reached(&vm, "bench.json").await?;
    let numbers = std::fs::read_to_string(vm.share().join("bench.json"))?;
    report.extend(serde_json::from_str::<Report>(&numbers)?);
    Ok(report)
}

/// Waits until the guest has written a file.
async fn reached(vm: &Vm, file: &str) -> Result<()> {
    e2e::wait_until(&format!("the machine to come to {file}"), LIMIT, async || {
        let there = vm.share().join(file).exists();
        // A machine that has ended comes to nothing more.
        ensure!(there || vm.ended()?.is_none(), "it ended: {}", vm.last_words());
        ensure!(there, "{}", vm.last_words());
        Ok(())
    })
    .await
}
