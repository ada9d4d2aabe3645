//! What the manifests say, read as `kubectl kustomize` renders them: names that an upgrade keeps, the tightness of the pod, flags.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::kubectl::Kubectl;
use e2e::manifest::Manifests;
use e2e::{Cluster, tools};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Rendering asks no server, but kubectl comes with one here.
async fn kubectl() -> Result<&'static Kubectl> {
    Ok(CLUSTER.get_or_try_init(|| Cluster::start("manifests")).await?.kubectl())
}

async fn shipped() -> Result<Manifests> {
    Manifests::render(kubectl().await?, "config/default").await
}

#[test]
fn r5_k21_the_controller_pod_is_what_it_should_be() -> Result<()> {
    e2e::run(async {
        let manifests = shipped().await?;
        for (kind, names) in [
            ("Namespace", &["rds-csi"][..]),
            ("Deployment", &["rds-csi-controller"]),
            ("DaemonSet", &["rds-csi-node"]),
            ("ServiceAccount", &["rds-csi-controller", "rds-csi-node"]),
            ("ConfigMap", &["rds-csi-config"]),
            ("CSIDriver", &["rds.csi.srvlab.io"]),
            ("StorageClass", &["rds-nvme", "rds-nvme-rwx"]),
            (
                "ClusterRole",
                &["rds-csi-controller-role", "rds-csi-node-role", "rds-csi-sidecars-role"],
            ),
        ] {
            let found: Vec<_> = manifests
                .of_kind(kind)
                .filter_map(|o| o["metadata"]["name"].as_str())
                .collect();
            ensure!(found == names, "{kind}: {found:?}, not {names:?}");
        }
        let deployment = manifests.of_kind("Deployment").next().context("a Deployment")?;
        let pod = &deployment["spec"]["template"]["spec"];
        for (field, wanted) in [
            ("/terminationGracePeriodSeconds", json!(60)),
            ("/serviceAccountName", json!("rds-csi-controller")),
            ("/securityContext/runAsNonRoot", json!(true)),
            ("/securityContext/seccompProfile/type", json!("RuntimeDefault")),
        ] {
            ensure!(
                pod.pointer(field) == Some(&wanted),
                "{field} is {:?}, not {wanted}",
                pod.pointer(field)
            );
        }
        ensure!(
            deployment["spec"]["replicas"] == 2,
            "one replica is none while its node is drained"
        );
        ensure!(
            pod.get("hostNetwork").is_none(),
            "the controller has no business in the host's network"
        );
        hardened(&manifests)
    })
}

/// K21, K24: one container and no sidecar, privileged as mounts need it, and nothing else of the host than it has to have.
#[test]
fn k21_the_node_pod_is_one_container() -> Result<()> {
    e2e::run(async {
        let manifests = shipped().await?;
        let set = manifests.of_kind("DaemonSet").next().context("a DaemonSet")?;
        let pod = &set["spec"]["template"]["spec"];
        for (field, wanted) in [
            ("/terminationGracePeriodSeconds", json!(660)),
            ("/serviceAccountName", json!("rds-csi-node")),
            ("/priorityClassName", json!("system-node-critical")),
            ("/hostNetwork", json!(true)),
            ("/tolerations", json!([{"operator": "Exists"}])),
            ("/containers/0/securityContext/readOnlyRootFilesystem", json!(true)),
        ] {
            ensure!(
                pod.pointer(field) == Some(&wanted),
                "{field} is {:?}, not {wanted}",
                pod.pointer(field)
            );
        }
        ensure!(
            set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0,
            "two agents on one node would wait for each other"
        );
        let containers = pod["containers"].as_array().context("containers")?;
        ensure!(
            containers.len() == 1 && pod.get("initContainers").is_none(),
            "a sidecar: {containers:?}"
        );
        let container = &containers[0];
        let mounts = container["volumeMounts"].as_array().context("volumeMounts")?;
        let both = mounts.iter().filter(|m| m["mountPropagation"] == "Bidirectional");
        let both: Vec<_> = both.filter_map(|m| m["mountPath"].as_str()).collect();
        ensure!(both == ["/var/lib/kubelet"], "mounts leave the pod from {both:?}");
        let folders = pod["volumes"].as_array().context("volumes")?;
        let folders: Vec<_> = folders.iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect();
        let wanted = [
            "/var/lib/kubelet",
            "/dev",
            "/sys",
            "/etc/machine-id",
            "/var/lib/rds-csi",
        ];
        ensure!(folders == wanted, "{folders:?}");
        let prefix = container["env"].as_array().context("env")?;
        let prefix = prefix
            .iter()
            .find(|v| v["name"] == "CSI_MANAGED_NQN_PREFIX")
            .context("the prefix")?;
        let from = &prefix["valueFrom"]["configMapKeyRef"];
        ensure!(
            from["name"] == "rds-csi-config" && from["key"] == "nqn-prefix",
            "R7, R15: {prefix}"
        );
        Ok(())
    })
}

/// No container of the controller pod may do more than it has to.
fn hardened(manifests: &Manifests) -> Result<()> {
    let deployment = manifests.of_kind("Deployment").next().context("a Deployment")?;
    let pod = &deployment["spec"]["template"]["spec"];
    for container in pod["containers"].as_array().context("containers")? {
        let name = &container["name"];
        let context = &container["securityContext"];
        ensure!(
            context["readOnlyRootFilesystem"] == true,
            "{name} may write to its image"
        );
        ensure!(
            context["allowPrivilegeEscalation"] == false,
            "{name} may become more than it is"
        );
        ensure!(
            context["capabilities"]["drop"] == json!(["ALL"]),
            "{name} has capabilities"
        );
        ensure!(container["livenessProbe"].is_object(), "{name} has no liveness probe");
        ensure!(
            container["resources"]["limits"]["memory"].is_string(),
            "{name} may take all memory of its node"
        );
    }
    Ok(())
}

/// K20: two of the fields cannot be changed in place, so a slip would stay.
#[test]
fn k20_the_csidriver_is_that_of_the_go_driver() -> Result<()> {
    e2e::run(async {
        let manifests = shipped().await?;
        let driver = manifests.of_kind("CSIDriver").next().context("a CSIDriver")?;
        let wanted = json!({
            "attachRequired": true,
            "podInfoOnMount": true,
            "volumeLifecycleModes": ["Persistent"],
            "fsGroupPolicy": "File",
            "requiresRepublish": false,
            "storageCapacity": true,
            "seLinuxMount": true,
        });
        ensure!(driver["spec"] == wanted, "{}", driver["spec"]);
        Ok(())
    })
}

#[test]
fn k22_flags_of_the_sidecars_are_those_with_reasons() -> Result<()> {
    e2e::run(async {
        let manifests = shipped().await?;
        let flags = |name: &str| manifests.container(name, "pod-0").map(|container| container.args);
        let provisioner = flags("csi-provisioner")?;
        let resizer = flags("csi-resizer")?;
        for flag in [
            "--timeout=60s",
            "--retry-interval-max=30s",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--leader-election",
        ] {
            ensure!(provisioner.iter().any(|f| f == flag), "csi-provisioner lacks {flag}");
            ensure!(resizer.iter().any(|f| f == flag), "csi-resizer lacks {flag}");
        }
        for flag in [
            "--worker-threads=100",
            "--extra-create-metadata",
            "--immediate-topology=false",
            "--controller-publish-readonly",
            "--enable-capacity",
            "--capacity-ownerref-level=2",
            "--default-fstype=ext4",
        ] {
            ensure!(provisioner.iter().any(|f| f == flag), "csi-provisioner lacks {flag}");
        }
        ensure!(
            resizer.iter().any(|f| f == "--handle-volume-inuse-error=false"),
            "csi-resizer would watch all pods"
        );
        let attacher = flags("csi-attacher")?;
        for flag in [
            "--timeout=60s",
            "--worker-threads=100",
            "--retry-interval-max=30s",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--leader-election",
        ] {
            ensure!(attacher.iter().any(|f| f == flag), "csi-attacher lacks {flag}");
        }
        Ok(())
    })
}

#[test]
fn b89_no_key_material_ships() -> Result<()> {
    e2e::run(async {
        let manifests = shipped().await?;
        let secrets: Vec<&Value> = manifests.of_kind("Secret").collect();
        ensure!(secrets.is_empty(), "a Secret ships: {secrets:?}");
        let mut folders: Vec<PathBuf> = vec![tools::root().join("config")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path: &Path = &entry?.path();
                if path.is_dir() {
                    folders.push(path.into());
                } else {
                    seen += 1;
                    let text = std::fs::read_to_string(path)?;
                    ensure!(!text.contains("PRIVATE KEY"), "{} holds a key", path.display());
                }
            }
        }
        ensure!(seen > 20, "only {seen} files under config");
        Ok(())
    })
}
