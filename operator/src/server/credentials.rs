//! The Secret of a server, read by name in the operator's own namespace: private key and pinned host keys (K14).
//! Neither is ever logged or put into a status (I16).

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rds_crds::{RdsServer, Reason};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::routeros::{DiskPath, Limits, Target};

use super::facts;

/// Key of the private key in the Secret.
const PRIVATE_KEY: &str = "rds-private-key";
/// Key of the pinned host keys in the Secret.
const HOST_KEYS: &str = "rds-host-key";

/// Why there is no target, or no listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The word, what and what to do.
    Found(Reason, String),
    /// The API server did not say what the Secret holds. That says nothing about the appliance, nor about the Secret.
    Unread(String),
}

impl Trouble {
    /// For the condition.
    pub(crate) fn said(&self) -> (Reason, &str) {
        match self {
            Self::Found(reason, why) => (*reason, why),
            Self::Unread(why) => (Reason::Unreachable, why),
        }
    }
}

/// How to reach the server.
pub(crate) async fn target(
    server: &RdsServer,
    name: &str,
    client: &Client,
    namespace: &str,
) -> Result<Target, Trouble> {
    let secret_name = &server.spec.secret_ref.name;
    let whose = format!("Secret {namespace}/{secret_name} of server {name}");
    let secret = match Api::<Secret>::namespaced(client.clone(), namespace)
        .get_opt(secret_name)
        .await
    {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Err(Trouble::Found(
                Reason::SecretInvalid,
                format!("{whose} does not exist: create it with {PRIVATE_KEY} and {HOST_KEYS}"),
            ));
        }
        Err(error) => return Err(Trouble::Unread(format!("cannot read {whose}: {error}"))),
    };
    let text = |key: &str| -> Result<String, Trouble> {
        let bytes = secret
            .data
            .as_ref()
            .and_then(|d| d.get(key))
            .map(|b| b.0.clone())
            .unwrap_or_default();
        let invalid = |why| Trouble::Found(Reason::SecretInvalid, why);
        let text = String::from_utf8(bytes).map_err(|_| invalid(format!("{key} in {whose} is not text")))?;
        match text.trim().is_empty() {
            true => Err(invalid(format!("{whose} has no {key}"))),
            false => Ok(text),
        }
    };
    let private_key = SecretString::from(text(PRIVATE_KEY)?);
    let host_keys: Vec<String> = text(HOST_KEYS)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let base_path: DiskPath = server
        .spec
        .base_path
        .parse()
        .map_err(|e| Trouble::Found(Reason::Invalid, format!("spec.basePath of server {name}: {e}")))?;
    Ok(Target {
        name: name.to_owned(),
        address: server.spec.management.address.clone(),
        port: facts::management_port(server),
        user: server.spec.management.user.clone(),
        private_key,
        host_keys,
        base_path,
        limits: Limits {
            max_in_flight: facts::commands_in_flight(server),
            command_timeout: facts::command_timeout(server),
            ..Limits::default()
        },
    })
}

/// A digest of everything that the connection was made from: a change makes a new one.
pub(crate) fn fingerprint(target: &Target) -> [u8; 32] {
    let Target {
        name,
        address,
        port,
        user,
        private_key,
        host_keys,
        base_path,
        limits,
    } = target;
    let mut hash = Sha256::new();
    for part in [
        name,
        address,
        user,
        private_key.expose_secret(),
        base_path.as_str(),
        &host_keys.join("\n"),
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(port.to_be_bytes());
    hash.update((limits.max_in_flight as u64).to_be_bytes());
    hash.update(limits.command_timeout.as_millis().to_be_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    async fn asked(code: u16, answer: &'static str) -> Result<Target, Trouble> {
        let service = service_fn(move |_: Request<Body>| async move {
            let mut response = Response::new(Body::from(answer.as_bytes().to_vec()));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, kube::Error>(response)
        });
        let server = serde_json::from_value(serde_json::json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "default"},
            "spec": {
                "management": {"address": "192.0.2.1", "user": "csi"}, "secretRef": {"name": "k"},
                "storage": {"address": "192.0.2.2"}, "basePath": "/pool/csi",
            }
        }))
        .unwrap();
        target(&server, "default", &Client::new(service, "rds-csi"), "rds-csi").await
    }

    #[tokio::test]
    async fn only_a_secret_that_was_read_is_judged() {
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":"r","code":0}"#;
        for code in [500, 503, 403] {
            let trouble = asked(code, status).await.unwrap_err();
            assert!(matches!(trouble, Trouble::Unread(_)), "{code}: {trouble:?}");
        }
        let missing =
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":"NotFound","code":404}"#;
        let empty = r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"k"}}"#;
        for (code, answer) in [(404, missing), (200, empty)] {
            let trouble = asked(code, answer).await.unwrap_err();
            assert_eq!(trouble.said().0, Reason::SecretInvalid, "{trouble:?}");
        }
    }
}
