//! The harness itself: a control plane comes up, gives tokens with the rights of a ServiceAccount and no more, and goes away.

use anyhow::{Result, ensure};
use e2e::Cluster;
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
