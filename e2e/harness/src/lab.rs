//! Everything at once: control plane, shipped manifests, controller replicas with their sidecars.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kubectl::Kubectl;
use crate::manifest::Manifests;
use crate::replica::Replica;
use crate::{Cluster, wait_until};

/// Sidecars of the controller pod. Those that the manifests do not have are not started.
pub const SIDECARS: [&str; 3] = ["csi-provisioner", "csi-resizer", "csi-attacher"];

/// What ships.
pub const SHIPPED: &str = "config/default";

/// The namespace of the shipped manifests.
pub const NAMESPACE: &str = "rds-csi";

/// The driver name of the shipped manifests.
pub const DRIVER: &str = rds_crds::names::DOMAIN;

/// How a [`Lab`] is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Replicas of the controller pod.
    pub replicas: usize,
    /// Sidecars of each.
    pub sidecars: Vec<&'static str>,
    /// More environment for the operator.
    pub env: Vec<(String, String)>,
    /// Whether kube-apiserver writes an audit log of all writes, `audit.log` in the folder of the cluster.
    pub audit: bool,
    /// Whether each step of the start is printed.
    pub progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            replicas: 1,
            sidecars: SIDECARS.to_vec(),
            env: Vec::new(),
            progress: false,
            audit: false,
        }
    }
}

/// A cluster with our driver in it.
pub struct Lab {
    /// Replicas of the controller pod. First in the struct, so that they end before the control plane does.
    pub replicas: Vec<Replica>,
    /// The control plane.
    pub cluster: Cluster,
    /// What was applied.
    pub manifests: Manifests,
    short: tempfile::TempDir,
}

impl Lab {
    /// Starts all of it and waits until the operators are ready.
    pub async fn start(name: &str, options: &Options) -> Result<Self> {
        let begin = std::time::Instant::now();
        let say = |what: &str| {
            if options.progress {
                println!("  {what} ({:.1} s)", begin.elapsed().as_secs_f32());
            }
        };
        let cluster = Cluster::start_with(name, options.audit).await?;
        say("etcd, kube-apiserver, kube-controller-manager are ready");
        let manifests = install(cluster.kubectl()).await?;
        say(&format!("kubectl apply -k {SHIPPED}: accepted and served"));
        node(cluster.kubectl(), "node-1").await?;
        let short = tempfile::Builder::new().prefix("rds-").tempdir()?;
        let mut lab = Self {
            replicas: Vec::new(),
            cluster,
            manifests,
            short,
        };
        for index in 0..options.replicas {
            lab.add_replica(index, options).await?;
        }
        say(&format!(
            "rds-operator is ready, {} run beside it",
            lab.sidecars(options).join(" and ")
        ));
        Ok(lab)
    }

    /// The sidecars that are asked for and in the manifests.
    fn sidecars(&self, options: &Options) -> Vec<&'static str> {
        let shipped = |name: &&&str| self.manifests.container(name, "").is_ok();
        options.sidecars.iter().filter(shipped).copied().collect()
    }

    /// Starts one more replica.
    pub async fn add_replica(&mut self, index: usize, options: &Options) -> Result<()> {
        let sidecars = self.sidecars(options);
        let replica = Replica::start(
            &self.cluster,
            &self.manifests,
            self.short.path(),
            index,
            &sidecars,
            &options.env,
        );
        self.replicas.push(replica.await?);
        Ok(())
    }

    /// A short path in a folder that goes with this lab, for sockets.
    pub fn short(&self, name: &str) -> PathBuf {
        self.short.path().join(name)
    }

    /// kubectl with all rights.
    pub fn kubectl(&self) -> &Kubectl {
        self.cluster.kubectl()
    }
}

/// Applies what ships and waits until the API serves our kinds.
pub async fn install(kubectl: &Kubectl) -> Result<Manifests> {
    let manifests = Manifests::render(kubectl, SHIPPED).await?;
    // Objects of our own kinds may be part of it, and a CRD takes a moment to be served.
    let what = format!("{SHIPPED} to be accepted");
    wait_until(&what, Duration::from_secs(60), async || {
        kubectl.run(&["apply", "-k", SHIPPED]).await
    })
    .await?;
    // Established comes before discovery knows it, and kubectl remembers what discovery said.
    let crds = manifests
        .of_kind("CustomResourceDefinition")
        .filter_map(|crd| crd["metadata"]["name"].as_str());
    let crds: Vec<&str> = crds.collect();
    wait_until("the API to serve our kinds", Duration::from_secs(60), async || {
        let group = format!("--api-group={}", rds_crds::names::DOMAIN);
        let served = kubectl.run(&["api-resources", &group, "-o", "name"]).await?;
        let missing: Vec<_> = crds
            .iter()
            .filter(|crd| !served.lines().any(|line| line == **crd))
            .collect();
        ensure!(missing.is_empty(), "{missing:?} missing");
        Ok(())
    })
    .await?;
    Ok(manifests)
}

/// A node on which our driver runs, as the API shows it: the provisioner makes CSIStorageCapacity objects only then.
pub async fn node(kubectl: &Kubectl, name: &str) -> Result<()> {
    let zone = rds_crds::names::TOPOLOGY_ZONE;
    kubectl
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {zone: "default"}}},
            {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
             "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": [zone]}]}},
        ]}))
        .await?;
    Ok(())
}
