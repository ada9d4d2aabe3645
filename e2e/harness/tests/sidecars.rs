//! The shipped flags of csi-provisioner with the rights that are shipped, in the name of a pod that the shipped Deployment made:
//! a driver that does nothing is enough to see that no flag is unknown and no right is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::process::{Process, command};
use e2e::{Cluster, lab, noop, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(120);

#[test]
fn b86_flags_and_rights_of_the_provisioner_agree() -> Result<()> {
    e2e::run(async {
        let cluster = Cluster::start("sidecars").await?;
        let kubectl = cluster.kubectl();
        let manifests = lab::install(kubectl).await?;
        lab::node(kubectl, "node-1").await?;
        // Nobody schedules it, but it exists, and with it the way from pod to Deployment.
        let pods = [
            "get",
            "pods",
            "-n",
            "rds-csi",
            "-l",
            "app=rds-csi-controller",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ];
        let pod = wait_until("the Deployment to make a pod", SOON, async || {
            let name = kubectl.run(&pods).await?;
            ensure!(!name.is_empty(), "no pod");
            Ok(name)
        })
        .await?;
        let home = tempfile::Builder::new().prefix("rds-").tempdir()?;
        let socket = home.path().join("csi.sock");
        noop::serve(lab::DRIVER, &socket)?;

        let container = manifests.container("csi-provisioner", &pod)?;
        let kubeconfig = cluster
            .kubeconfig(&container.namespace, &container.account, None)
            .await?;
        let mut provisioner = command(cluster.tools().path("csi-provisioner"));
        provisioner
            .args(container.arguments(&[
                ("--csi-address", socket.display().to_string()),
                ("--kubeconfig", kubeconfig.display().to_string()),
                ("--http-endpoint", "127.0.0.1:0".into()),
            ]))
            .envs(&container.env);
        let provisioner = Process::start(
            "csi-provisioner",
            provisioner,
            &cluster.dir().join("csi-provisioner.log"),
        )?;

        for class in ["rds-nvme", "rds-nvme-rwx"] {
            kubectl
                .apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": class}, "spec": {
                    "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                }}))
                .await?;
            let claim = format!("pvc/{class}");
            let bound = ["wait", "--for=jsonpath={.status.phase}=Bound", &claim, "--timeout=40s"];
            let bound = kubectl.run(&bound).await;
            bound.with_context(|| provisioner.tail(20))?;
        }
        let owner = [
            "get",
            "csistoragecapacities",
            "-n",
            "rds-csi",
            "-o",
            "jsonpath={.items[*].metadata.ownerReferences[*].kind}",
        ];
        wait_until("capacity of both classes, owned by the Deployment", SOON, async || {
            provisioner.alive()?;
            let owners = kubectl.run(&owner).await?;
            ensure!(
                owners == "Deployment Deployment",
                "owned by `{owners}`: {}",
                provisioner.tail(5)
            );
            Ok(())
        })
        .await?;
        kubectl.run(&["delete", "pvc", "rds-nvme", "rds-nvme-rwx"]).await?;
        wait_until("the PersistentVolumes to go", SOON, async || {
            let left = kubectl.run(&["get", "pv", "-o", "name"]).await?;
            ensure!(left.is_empty(), "left: {left}");
            Ok(())
        })
        .await?;
        let log = std::fs::read_to_string(provisioner.log())?;
        let missing: Vec<&str> = log
            .lines()
            .filter(|line| line.to_lowercase().contains("forbidden"))
            .collect();
        ensure!(missing.is_empty(), "a right is missing:\n{}", missing.join("\n"));
        Ok(())
    })
}
