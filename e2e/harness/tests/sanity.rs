//! csi-sanity, the conformance suite of the CSI project, on the controller socket of a running operator, with a real API server
//! and a simulated appliance behind it.

use anyhow::{Context, Result, ensure};
use e2e::lab::{DRIVER, Options};
use e2e::machine::Machine;
use e2e::{Lab, noop, sanity};
use routeros_sim::Knobs;
use serde_json::json;
use tokio::process::Command;

#[test]
fn csi_sanity_passes_for_all_that_is_advertised() -> Result<()> {
    e2e::run(async {
        // No sidecars: csi-sanity is the only caller.
        let lab = Lab::start(
            "sanity",
            &Options {
                sidecars: Vec::new(),
                ..Options::default()
            },
        )
        .await?;
        // With Auto the self-test of fencing would begin once the node below is there, and csi-sanity would be asked for its canary.
        let fencing = json!({"fencing": "Assume"});
        let appliance = lab.appliance_with("default", Knobs::default(), fencing).await?;
        // The node that the stand-in below names: it lets go of what is detached.
        let _machine = Machine::boot(&lab, "node-1").await?;
        // Called `default`, since GetCapacity without parameters asks for that one.
        let parameters = lab.cluster.dir().join("parameters.yaml");
        std::fs::write(&parameters, format!("server: {}\n", appliance.name))?;
        let controller = &lab.replicas[0].socket;
        // csi-sanity wants a node service even for the clean-up after controller tests; ours comes with the node agent, so a
        // stand-in without any capability takes that part.
        let node = lab.short("node.sock");
        noop::serve(DRIVER, &node)?;

        let run = async |endpoint: &std::path::Path, choice: &[&str]| -> Result<()> {
            let log = lab.cluster.dir().join("csi-sanity.log");
            let mut command = Command::new(lab.cluster.tools().path("csi-sanity"));
            command
                .arg(format!("-csi.endpoint=unix://{}", endpoint.display()))
                .arg(format!("-csi.controllerendpoint=unix://{}", controller.display()))
                .arg(format!("-csi.testvolumeparameters={}", parameters.display()))
                .arg(format!("-csi.mountdir={}", lab.short("mount").display()))
                .arg(format!("-csi.stagingdir={}", lab.short("staging").display()))
                .args(["-csi.testvolumesize=1073741824", "-ginkgo.no-color"])
                .args(choice)
                .kill_on_drop(true);
            let mut printed = String::new();
            for _ in 0..sanity::TRIES {
                printed = sanity::printed(&command.output().await?);
                std::fs::write(&log, &printed)?;
                if !sanity::missed_its_connection(&printed) {
                    break;
                }
            }
            let end: Vec<&str> = printed.lines().rev().take(60).collect();
            let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
            sanity::verdict(&printed)
                .with_context(|| format!("csi-sanity {choice:?}, all of it in {}:\n{end}", log.display()))?;
            Ok(())
        };
        run(controller, &["-ginkgo.focus=Identity Service"]).await?;
        // Skipped: the node service, which no socket of this process offers. All else skips itself where it is not advertised.
        run(&node, &["-ginkgo.skip=Node Service|Identity Service"]).await?;

        appliance.assert_empty()?;
        let left = lab
            .kubectl()
            .run(&["get", "rdsvolumes,rdsattachments", "-o", "name"])
            .await?;
        ensure!(
            left.is_empty(),
            "csi-sanity cleaned up after itself, and yet there are {left}"
        );
        Ok(())
    })
}
