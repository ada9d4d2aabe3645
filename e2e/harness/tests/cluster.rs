//! The harness itself: a control plane comes up, gives tokens with the rights of a ServiceAccount and no more, and goes away.

use anyhow::{Result, ensure};
use e2e::lab::{DRIVER, Options};
use e2e::{Cluster, Lab, noop, replica};
use serde_json::json;

#[test]
fn a_control_plane_starts_and_serves_each_component_with_its_own_rights() -> Result<()> {
    e2e::run(async {
        let cluster = Cluster::start("cluster").await?;
        let kubectl = cluster.kubectl();
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rights"}},
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "rights"}},
            ]}))
            .await?;
        let kubeconfig = cluster.kubeconfig("rights", "nobody", None).await?;
        let client = e2e::cluster::client(&kubeconfig).await?;
        let volumes = kube::Api::<k8s_openapi::api::core::v1::PersistentVolume>::all(client);
        let refused = volumes
            .list(&Default::default())
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        ensure!(
            refused.contains("system:serviceaccount:rights:nobody"),
            "a ServiceAccount without rights may list PVs: {refused}"
        );
        ensure!(
            kubectl.run(&["version"]).await?.contains("Server Version: v1."),
            "kubectl does not see the server"
        );
        cluster.alive()
    })
}

#[test]
fn the_shipped_sidecars_run_with_the_shipped_flags_and_rights() -> Result<()> {
    e2e::run(async {
        let lab = Lab::start(
            "sidecars",
            &Options {
                replicas: 0,
                ..Options::default()
            },
        )
        .await?;
        let socket = lab.short("noop.sock");
        noop::serve(DRIVER, &socket)?;
        let mut running = Vec::new();
        for name in e2e::lab::SIDECARS {
            running.push(replica::sidecar(&lab.cluster, &lab.manifests, name, "noop-0", &socket, "noop").await?);
        }
        lab.class("noop", "noop", json!({})).await?;
        lab.claim("noop", "noop", "1Gi").await?;
        lab.bound("noop").await?;
        lab.resize("noop", "2Gi").await?;
        lab.grown("noop", "2Gi").await?;
        let kubectl = lab.kubectl();
        let volume = lab.claims().get("noop").await?.spec.and_then(|spec| spec.volume_name);
        let attachment = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "noop"},
            "spec": {"attacher": DRIVER, "nodeName": "node-1", "source": {"persistentVolumeName": volume}},
        });
        kubectl.apply(&attachment).await?;
        let attached = [
            "wait",
            "--for=jsonpath={.status.attached}=true",
            "volumeattachment/noop",
            "--timeout=30s",
        ];
        kubectl.run(&attached).await?;
        let told = [
            "get",
            "volumeattachment",
            "noop",
            "-o",
            "jsonpath={.status.attachmentMetadata.by}",
        ];
        ensure!(kubectl.run(&told).await? == "noop", "csi-attacher asked nobody");
        kubectl
            .run(&["delete", "volumeattachment", "noop", "--timeout=30s"])
            .await?;
        for sidecar in &running {
            ensure!(
                sidecar.starts() == 1,
                "a sidecar ended and was started again: {}",
                sidecar.tail(10)
            );
            ensure!(
                !sidecar.tail(1000).contains("forbidden"),
                "a right is missing: {}",
                sidecar.tail(1000)
            );
        }
        Ok(())
    })
}
