//! Kubeconfigs: one for the tests' own hands, one for each component with a token of its own ServiceAccount.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::Cluster;

/// What a kubeconfig says: where, whom to trust, who we are.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) authority: PathBuf,
}

impl Endpoint {
    /// A kubeconfig for a guest: the same API server at another address, and whom to trust in the text itself.
    fn for_guest(&self, host: &str, user: &str, token: &str, namespace: &str) -> Result<String> {
        let authority = ByteString(std::fs::read(&self.authority)?);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {
                "server": self.url.replace("127.0.0.1", host),
                "certificate-authority-data": authority,
                // The certificate does not know the address under which a guest finds its host.
                "tls-server-name": "kubernetes",
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": namespace}}],
            "current-context": "e2e",
        });
        Ok(config.to_string())
    }

    /// Writes a kubeconfig. JSON is YAML, so nothing needs quoting. Whoever reads it meanwhile sees the one before whole: several
    /// sidecars have the same account, and the second is given its file while the first one starts.
    pub(crate) fn write(&self, path: &Path, user: &str, token: &str, namespace: &str) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {"server": self.url, "certificate-authority": self.authority}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": namespace}}],
            "current-context": "e2e",
        });
        let written = || -> Result<()> {
            let mut file = NamedTempFile::new_in(path.parent().context("a folder")?)?;
            file.write_all(config.to_string().as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        written().with_context(|| format!("write {}", path.display()))
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
        let token = self.token(namespace, account, bound).await?;
        let path = self.dir.join(format!(
            "{account}{}.kubeconfig",
            pod.map(|pod| format!("-{pod}")).unwrap_or_default()
        ));
        self.endpoint.write(&path, account, &token, namespace)?;
        Ok(path)
    }

    /// The same as a text for a guest, which finds this host at that address, with a token that is bound to a Node.
    pub async fn kubeconfig_on(&self, namespace: &str, account: &str, node: &str, host: &str) -> Result<String> {
        let object = Api::<Node>::all(self.client.clone()).get(node).await?;
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: object.uid(),
        };
        let token = self.token(namespace, account, Some(bound)).await?;
        self.endpoint.for_guest(host, account, &token, namespace)
    }

    /// The kubeconfig of the tests' own hands for a guest.
    pub fn admin_on(&self, host: &str) -> Result<String> {
        self.of_user("admin", host)
    }

    /// A kubeconfig for the kubelet of one of [`crate::cluster::WORKERS`].
    pub fn kubelet_kubeconfig(&self, node: &str, host: &str) -> Result<String> {
        self.of_user(&format!("system:node:{node}"), host)
    }

    fn of_user(&self, user: &str, host: &str) -> Result<String> {
        let tokens = std::fs::read_to_string(self.dir.join("tokens.csv"))?;
        let line = tokens.lines().find(|line| line.split(',').nth(1) == Some(user));
        let token = line.and_then(|line| line.split(',').next());
        let token = token.with_context(|| format!("the API server knows no user {user}"))?;
        self.endpoint.for_guest(host, user, token, "default")
    }

    async fn token(&self, namespace: &str, account: &str, bound: Option<BoundObjectReference>) -> Result<String> {
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
        Ok(granted.status.context("the API server granted no token")?.token)
    }
}
