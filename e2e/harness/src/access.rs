//! Kubeconfigs: one for the tests' own hands, one for each component with a token of its own ServiceAccount.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::Cluster;

/// What a kubeconfig says: where, whom to trust, who we are.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) authority: PathBuf,
}

impl Endpoint {
    /// Writes a kubeconfig. JSON is YAML, so nothing needs quoting.
    pub(crate) fn write(&self, path: &Path, user: &str, token: &str, namespace: &str) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {"server": self.url, "certificate-authority": self.authority}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": namespace}}],
            "current-context": "e2e",
        });
        std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
    }
}

impl Cluster {
    /// A kubeconfig with a token of this ServiceAccount, as its pod would have one. `pod` binds the token to a Pod that must
    /// exist: it then carries the name of the node, which admission policies read.
    pub async fn kubeconfig(&self, namespace: &str, account: &str, pod: Option<&str>) -> Result<PathBuf> {
        let mut bound = None;
        if let Some(pod) = pod {
            let object = Api::<Pod>::namespaced(self.client.clone(), namespace).get(pod).await?;
            bound = Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.into()),
                uid: object.uid(),
            });
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(86_400),
                bound_object_ref: bound,
                ..Default::default()
            },
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let granted = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token for ServiceAccount {namespace}/{account}"))?;
        let token = granted.status.context("the API server granted no token")?.token;
        let path = self.dir.join(format!(
            "{account}{}.kubeconfig",
            pod.map(|pod| format!("-{pod}")).unwrap_or_default()
        ));
        self.endpoint.write(&path, account, &token, namespace)?;
        Ok(path)
    }
}
