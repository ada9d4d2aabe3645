//! The node agent on a real kernel, with operator and API server on the host: one boot runs all scenarios. See docs/vm-tests.md.

use std::time::Duration;

use anyhow::Result;
use e2e::Lab;
use e2e::cluster::{WORKERS, free_ports};
use e2e::lab::{self, NAMESPACE, Options};
use e2e::vm::{HOST, Machine, PROGRAMS, Vm, watch};

#[test]
fn agent() -> Result<()> {
    e2e::run(async {
        let alone = std::env::var("VM_SCENARIO").unwrap_or_default();
        let lab = Lab::start("vm-agent-plane", &Options::default()).await?;
        let [ssh] = free_ports()?;
        let node = WORKERS[0];
        lab::node(lab.kubectl(), node).await?;
        let account = e2e::agent::ACCOUNT;
        let files = [
            ("admin.kubeconfig".to_owned(), lab.cluster.admin_on(HOST)?),
            (
                "agent.kubeconfig".to_owned(),
                lab.cluster.kubeconfig_on(NAMESPACE, account, node, HOST).await?,
            ),
        ];
        let run = format!("exec {PROGRAMS}/guest agent-scenarios --ssh-port {ssh} --node {node} {alone}");
        let machine = Machine {
            memory: 1024,
            forwards: vec![(ssh, 22)],
            ..Machine::new("agent", &run)
        };
        let vm = Vm::start_with(&machine, &files, None).await?;
        watch::scenarios(&vm, "vm_agent", Duration::from_secs(900)).await
    })
}
