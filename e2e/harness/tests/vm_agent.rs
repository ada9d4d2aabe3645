//! The node agent on a real kernel, with operator and API server on the host: one boot runs all scenarios. See docs/vm-tests.md.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use e2e::Lab;
use e2e::cluster::{WORKERS, free_ports};
use e2e::lab::{self, NAMESPACE, Options};
use e2e::tools;
use e2e::vm::bridge::Bridge;
use e2e::vm::{HOST, Machine, PROGRAMS, TOOLS, Vm, watch};

#[test]
fn agent() -> Result<()> {
    e2e::run(async {
        let alone = std::env::var("VM_SCENARIO").unwrap_or_default();
        // No sidecars: scenarios play kubelet, and csi-sanity plays all of them.
        let options = Options {
            sidecars: Vec::new(),
            ..Options::default()
        };
        let lab = Lab::start("vm-agent-plane", &options).await?;
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
            "exec {PROGRAMS}/guest agent-scenarios --ssh-port {ssh} --node {node} --other {other} --controller {HOST}:{} --tools {} {alone}",
            controller.port,
            tools.display()
        );
        let machine = Machine {
            memory: 1024,
            forwards: vec![(ssh, 22)],
            ..Machine::new("agent", &run)
        };
        let vm = Vm::start_with(&machine, &files, None).await?;
        watch::scenarios(&vm, "vm_agent", Duration::from_secs(1500)).await
    })
}
