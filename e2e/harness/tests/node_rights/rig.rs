//! Who asks for what, on a cluster with two nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::{Cluster, lab, wait_until};
use kube::Client;
use rds_crds::names::{self, manager};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static WORLD: OnceCell<World> = OnceCell::const_new();

const AGENT: &str = "system:serviceaccount:rds-csi:rds-csi-node";
pub(crate) const OPERATOR: &str = "system:serviceaccount:rds-csi:rds-csi-controller";
pub(crate) const OURS: &str = "/apis/rds.csi.srvlab.io/v1alpha1";
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/rds-csi/leases";

/// A cluster with the attachments a1 of node n1 and a2 of node n2, and the Lease of n2.
pub(crate) struct World {
    cluster: Cluster,
    tokens: BTreeMap<&'static str, Client>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// The agent, with the token of a pod on this node; `-`: with a token of no pod.
    Token(&'static str),
    /// The agent's name and this node's claim (`-`: none), with all that RBAC can grant.
    Mighty(&'static str),
    /// This user, with all that RBAC can grant.
    User(&'static str),
}
pub(crate) use Who::{Mighty, Token, User};

/// What is asked for. Writes are dry runs unless [`Call::for_real`].
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: &'static str,
    kind: &'static str,
    path: String,
    pub(crate) body: Value,
    dry: bool,
}

impl Call {
    pub(crate) fn new(method: &'static str, kind: &'static str, path: &str, body: Value) -> Self {
        let path = path.to_owned();
        Self {
            method,
            kind,
            path,
            body,
            dry: method != "GET",
        }
    }

    pub(crate) fn for_real(self) -> Self {
        Self { dry: false, ..self }
    }
}

pub(crate) fn get(path: &str) -> Call {
    Call::new("GET", "application/json", path, Value::Null)
}

pub(crate) fn merge(path: &str, body: Value) -> Call {
    Call::new("PATCH", "application/merge-patch+json", path, body)
}

pub(crate) fn delete(path: &str) -> Call {
    Call::new("DELETE", "application/json", path, json!({}))
}

pub(crate) fn apply_as(manager: &str, path: &str, body: Value) -> Call {
    let path = format!("{path}?force=true&fieldManager={manager}");
    Call::new("PATCH", "application/apply-patch+yaml", &path, body)
}

/// As the agent writes its Lease.
pub(crate) fn renew(namespace: &str, name: &str) -> Call {
    apply_as(manager::AGENT, &leases(namespace, name), lease(namespace, name))
}

/// As the agent writes its word.
pub(crate) fn say(name: &str, status: Value) -> Call {
    apply_as(manager::AGENT, &status_of(name), of_attachment(name, status))
}

pub(crate) fn attachment(name: &str) -> String {
    format!("{OURS}/rdsattachments/{name}")
}

pub(crate) fn status_of(name: &str) -> String {
    format!("{OURS}/rdsattachments/{name}/status")
}

pub(crate) fn leases(namespace: &str, name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
}

pub(crate) fn lease(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}})
}

pub(crate) fn of_attachment(name: &str, status: Value) -> Value {
    json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": name}, "status": status})
}

/// What the operator says of an attachment that it admitted.
pub(crate) fn admitted() -> Value {
    json!({"role": "Primary", "nqn": "nqn.2000-02.com.mikrotik:x", "port": 4420, "exportGeneration": 1, "conditions": [{
        "type": "Admitted", "status": "True", "reason": "Admitted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]})
}

pub(crate) fn gone() -> Value {
    json!([{"type": "Disconnected", "status": "True", "reason": "Clean", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

/// `base` with the fields of `more`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

impl World {
    pub(crate) async fn ask(&self, who: Who, call: &Call) -> Result<Value> {
        let between = if call.path.contains('?') { '&' } else { '?' };
        let dry = if call.dry {
            format!("{between}dryRun=All")
        } else {
            String::new()
        };
        let mut request = http::Request::builder()
            .method(call.method)
            .uri(format!("{}{dry}", call.path))
            .header("content-type", call.kind);
        let (client, user, node) = match who {
            Token(node) => (self.tokens[node].clone(), None, "-"),
            Mighty(node) => (self.cluster.client(), Some(AGENT), node),
            User(user) => (self.cluster.client(), Some(user), "-"),
        };
        if let Some(user) = user {
            request = request
                .header("impersonate-user", user)
                .header("impersonate-group", "system:masters");
        }
        if node != "-" {
            request = request.header("impersonate-extra-authentication.kubernetes.io%2fnode-name", node);
        }
        let body = if call.body.is_null() {
            Vec::new()
        } else {
            call.body.to_string().into_bytes()
        };
        let answer = client.request_text(request.body(body)?).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Each row passes, or is refused with all of its words.
    pub(crate) async fn table(&self, rows: Vec<(Who, Call, &[&str])>) -> Result<()> {
        let mut wrong = Vec::new();
        for (who, call, words) in rows {
            let answer = self.ask(who, &call).await;
            let said = match &answer {
                Ok(answer) => format!("passed: {answer}"),
                Err(error) => format!("{error:#}"),
            };
            let fine = match words {
                [] => answer.is_ok(),
                words => answer.is_err() && words.iter().all(|word| said.contains(word)),
            };
            if !fine {
                let Call { method, path, body, .. } = call;
                wrong.push(format!("{who:?} {method} {path} {body}\n  wanted {words:?}\n  {said}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    pub(crate) async fn attach(&self, name: &str, node: &str) -> Result<()> {
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": name, "finalizers": [names::FINALIZER]},
            "spec": {"volume": "v", "node": node, "accessMode": "ReadWriteOnce"}});
        let call = apply_as(manager::CSI, &attachment(name), object);
        self.ask(User(OPERATOR), &call.for_real()).await?;
        let call = apply_as(manager::OPERATOR, &status_of(name), of_attachment(name, admitted()));
        self.ask(User(OPERATOR), &call.for_real()).await?;
        Ok(())
    }
}

pub(crate) async fn world() -> Result<&'static World> {
    WORLD.get_or_try_init(start).await
}

async fn start() -> Result<World> {
    let cluster = Cluster::start("node_rights").await?;
    let kubectl = cluster.kubectl();
    lab::install(kubectl).await?;
    let mut tokens = BTreeMap::new();
    for node in ["n1", "n2"] {
        lab::node(kubectl, node).await?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "namespace": "rds-csi"}, "spec": {
            "nodeName": node, "serviceAccountName": "rds-csi-node", "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "agent", "image": "example.invalid/agent"}],
        }});
        kubectl.apply(&pod).await?;
        let path = cluster.kubeconfig("rds-csi", "rds-csi-node", Some(node)).await?;
        tokens.insert(node, e2e::cluster::client(&path).await?);
    }
    let path = cluster.kubeconfig("rds-csi", "rds-csi-node", None).await?;
    tokens.insert("-", e2e::cluster::client(&path).await?);
    let world = World { cluster, tokens };
    world.attach("a1", "n1").await?;
    world.attach("a2", "n2").await?;
    let volume = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "v"},
        "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}});
    world.cluster.kubectl().apply(&volume).await?;
    world
        .ask(User("admin"), &renew("rds-csi", "rds-node-n2").for_real())
        .await?;
    // A policy is in force a second or two after it was accepted.
    for (who, call) in [
        (Mighty("n1"), say("a2", json!({}))),
        (Mighty("n1"), renew("rds-csi", "rds-node-n2")),
        (
            User("admin"),
            merge(&attachment("a1"), json!({"metadata": {"finalizers": null}})),
        ),
        (User("admin"), delete(&attachment("a1"))),
    ] {
        let what = format!("the policy on {} {}", call.method, call.path);
        wait_until(&what, Duration::from_secs(60), async || {
            match world.ask(who, &call).await {
                Ok(answer) => bail!("it passed: {answer}"),
                Err(_) => Ok(()),
            }
        })
        .await?;
    }
    Ok(world)
}
