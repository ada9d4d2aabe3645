//! What the words of agents, and the pods of virtual machines, prove about an attachment.
//!
//! Invariant: what is not proven counts against admission and against a cut (I8).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::attachment::{AgentStatus, kind as word};
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::volume::Holder;
use tracing::warn;

use crate::telemetry::chain;
use crate::volume::persistent_volumes_of;

use super::holder_state::{self, NodeFacts};
use super::observe::NODE_OFF;

/// A publish that had begun before `FencePending` was said may still come through, unseen, for so long.
const LATE_PUBLISH: SignedDuration = SignedDuration::from_secs(10);

/// Whether no pod on a holder's node has the volume published, and none can get it: its agent says that none has, and the volume
/// has said for long enough that nobody new may use it (D5).
pub(super) fn unpublished(agent: Option<&AgentStatus>, volume: &[Condition], now: Timestamp) -> bool {
    let nobody = agent
        .and_then(|a| a.used_by.as_ref())
        .is_some_and(std::vec::Vec::is_empty);
    let closed = find_condition(volume, kind::FENCE_PENDING)
        .filter(|c| c.status == "True")
        .is_some_and(|c| now.duration_since(c.last_transition_time.0) >= LATE_PUBLISH);
    nobody && closed
}

/// Whether a node may be connected by what this object says: then a holder has to have its UID.
pub(super) fn may_be_connected(attachment: &RdsAttachment, generation: u32, node: &NodeFacts) -> bool {
    let status = attachment.status.as_ref();
    let agent = status.and_then(|s| s.agent.as_ref());
    let said = status.and_then(|s| find_condition(&s.conditions, word::ADMITTED));
    let intent = agent.and_then(|a| a.intent.as_ref());
    let disconnected = agent.is_some_and(|a| is_true(&a.conditions, word::DISCONNECTED));
    let node_off = said.is_some_and(|c| c.status != "True" && c.reason == NODE_OFF);
    holder_state::may_be_connected(intent, generation, disconnected, node_off, node)
}

/// Whether the agent has recorded for this object that its machine is connected to this generation.
pub(super) fn claims(attachment: &RdsAttachment, generation: u32) -> bool {
    let agent = attachment.status.as_ref().and_then(|s| s.agent.as_ref());
    agent.is_some_and(|a| {
        a.intent.as_ref().is_some_and(|i| i.generation == generation)
            && is_true(&a.conditions, word::CONNECTED)
            && !is_true(&a.conditions, word::DISCONNECTED)
    })
}

/// The same, where it matters: read live if a holder of its node has another UID, for the cache may show an object of before.
pub(super) async fn confirms_connection(
    client: &Client,
    attachment: &RdsAttachment,
    generation: u32,
    holders: &[Holder],
) -> Result<bool, kube::Error> {
    if !claims(attachment, generation) {
        return Ok(false);
    }
    let uid = attachment.metadata.uid.as_deref();
    let other = |h: &Holder| h.node == attachment.spec.node && Some(h.attachment_uid.as_str()) != uid;
    if !holders.iter().any(other) {
        return Ok(true);
    }
    let api: Api<RdsAttachment> = Api::all(client.clone());
    let now = api.get_opt(&attachment.name_any()).await?;
    Ok(now.is_some_and(|a| a.metadata.uid.as_deref() == uid && claims(&a, generation)))
}

/// Pods with the label of KubeVirt's launchers: one runs one virtual machine.
const LAUNCHER: &str = "kubevirt.io=virt-launcher";

/// The virtual machine that a launcher runs, by namespace: its VirtualMachineInstance, else what its labels name.
fn machine(pod: &Pod) -> Option<String> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|o| o.kind == "VirtualMachineInstance" && o.api_version.starts_with("kubevirt.io/"));
    let labels = pod.labels();
    let label = ["vm.kubevirt.io/name", "kubevirt.io/domain"]
        .into_iter()
        .find_map(|key| labels.get(key));
    Some(match (owner, label) {
        (Some(owner), _) => format!("uid/{}", owner.uid),
        (None, Some(name)) => format!("name/{name}"),
        (None, None) => return None,
    })
}

/// Whether the claim's users on both nodes are launchers of one virtual machine. `None`: a node has no user of the claim yet, or
/// one that says no machine. Pods that have ended use nothing.
fn same_machine(launchers: &[Pod], claim: &str, nodes: [&str; 2]) -> Option<bool> {
    let uses = |pod: &&Pod| {
        let spec = pod.spec.as_ref();
        let ended = pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .is_some_and(|p| p == "Succeeded" || p == "Failed");
        let volumes = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let named = |v: &Volume| {
            v.persistent_volume_claim
                .as_ref()
                .is_some_and(|c| c.claim_name == claim)
        };
        !ended && volumes.iter().any(named)
    };
    let on = |node: &str| -> Option<BTreeSet<String>> {
        let there = |pod: &&Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
        let all: Option<BTreeSet<String>> = launchers.iter().filter(uses).filter(there).map(machine).collect();
        all.filter(|all| !all.is_empty())
    };
    let (one, two) = (on(nodes[0])?, on(nodes[1])?);
    Some(one.len() == 1 && one == two)
}

/// The same, from live reads of the claim that is bound and of the launchers in its namespace. Only asked where a volume's policy is
/// kubevirt and a second node wants in. No answer is no proof.
pub(super) async fn same_vm(client: &Client, volume: &str, nodes: [&str; 2]) -> Option<bool> {
    let read = async || -> Result<Option<bool>, kube::Error> {
        let bound = persistent_volumes_of(volume, client).await?.into_iter().next();
        // A claim that was renamed, as CDI does, is another one than that which asked for the volume.
        let claim = bound.and_then(|pv| pv.spec).and_then(|spec| spec.claim_ref);
        let Some((namespace, name)) = claim.and_then(|c| c.namespace.zip(c.name)) else {
            return Ok(None);
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let launchers = pods.list(&ListParams::default().labels(LAUNCHER)).await?;
        Ok(same_machine(&launchers.items, &name, nodes))
    };
    read().await.unwrap_or_else(|error| {
        warn!(
            volume,
            error = chain(&error),
            "cannot see whether two nodes run one virtual machine"
        );
        None
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;
    use serde_json::json;
    use tonic::codegen::http::{Request, Response};

    use super::*;

    fn agent(used_by: serde_json::Value) -> AgentStatus {
        serde_json::from_value(json!({"usedBy": used_by})).unwrap()
    }

    #[test]
    fn d5_a_peer_counts_as_unused_only_once_nobody_new_can_begin() {
        let pending: Vec<Condition> = serde_json::from_value(json!([{"type": "FencePending", "status": "True",
            "reason": "Deferred", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]))
        .unwrap();
        let at = |second| "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second);
        let nobody = agent(json!([]));
        for (said, conditions, now, wanted) in [
            (Some(&nobody), &pending[..], at(10), true),
            (Some(&nobody), &pending[..], at(9), false),
            (Some(&nobody), &[][..], at(10), false),
            (Some(&agent(json!(["pod"]))), &pending[..], at(10), false),
            (Some(&agent(json!(null))), &pending[..], at(10), false),
            (None, &pending[..], at(10), false),
        ] {
            assert_eq!(unpublished(said, conditions, now), wanted, "{said:?} at {now}");
        }
    }

    #[test]
    fn migration_policy_kubevirt_knows_launchers_of_one_machine() {
        let pod = |node: &str, claim: &str, owner: Option<&str>, label: Option<&str>, phase: &str| -> Pod {
            let owners: Vec<_> = owner
                .map(|uid| json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": uid}))
                .into_iter()
                .collect();
            let labels = label.map_or(json!({}), |name| json!({"vm.kubevirt.io/name": name}));
            serde_json::from_value(json!({
                "metadata": {"name": "p", "ownerReferences": owners, "labels": labels},
                "spec": {"nodeName": node, "containers": [],
                         "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        let run = |node, owner| pod(node, "disk", Some(owner), Some("vm"), "Running");
        for (pods, wanted) in [
            (vec![run("n1", "a"), run("n2", "a")], Some(true)),
            (vec![run("n1", "a"), run("n2", "b")], Some(false)),
            (vec![run("n1", "a"), run("n2", "a"), run("n2", "b")], Some(false)),
            (vec![run("n1", "a")], None),
            (
                vec![run("n1", "a"), pod("n2", "other", Some("a"), None, "Running")],
                None,
            ),
            (vec![run("n1", "a"), pod("n2", "disk", None, None, "Running")], None),
            (vec![run("n1", "a"), pod("n2", "disk", Some("a"), None, "Failed")], None),
            (
                vec![
                    pod("n1", "disk", None, Some("vm"), "Running"),
                    pod("n2", "disk", None, Some("vm"), "Pending"),
                ],
                Some(true),
            ),
        ] {
            assert_eq!(same_machine(&pods, "disk", ["n1", "n2"]), wanted, "{pods:?}");
        }
    }

    /// The PersistentVolume of a volume that was adopted has the name that its owner gave it.
    #[tokio::test]
    async fn migration_policy_kubevirt_finds_a_persistent_volume_of_any_name() {
        let pv = |name: &str, handle: &str| {
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
                "csi": {"driver": "rds.csi.srvlab.io", "volumeHandle": handle},
                "claimRef": {"namespace": "ns", "name": "disk"}}})
        };
        let pod = |node: &str| {
            json!({"metadata": {"name": node, "labels": {"vm.kubevirt.io/name": "vm"}}, "status": {"phase": "Running"},
                "spec": {"nodeName": node, "containers": [],
                         "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]}})
        };
        for (named, listed, want) in [
            (Some("v"), "other", Some(true)),
            (None, "v", Some(true)),
            (Some("other"), "v", Some(true)),
            (None, "other", None),
        ] {
            let service = tower::service_fn(move |request: Request<Body>| {
                let list = |items: serde_json::Value| json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
                let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "",
                    "reason": "NotFound", "code": 404});
                let (code, answer) = match (request.uri().path(), named) {
                    ("/api/v1/persistentvolumes/v", Some(handle)) => (200, pv("v", handle)),
                    ("/api/v1/persistentvolumes", _) => (200, list(json!([pv("mine", listed)]))),
                    ("/api/v1/namespaces/ns/pods", _) => (200, list(json!([pod("n1"), pod("n2")]))),
                    _ => (404, gone),
                };
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                async move { Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap()) }
            });
            let client = Client::new(service, "default");
            assert_eq!(same_vm(&client, "v", ["n1", "n2"]).await, want, "{named:?} {listed}");
        }
    }

    #[test]
    fn i4_a_claim_is_for_this_generation_and_not_taken_back() {
        let attachment = |generation: u32, connected: &str, disconnected: &str| -> RdsAttachment {
            let condition = |kind: &str, status: &str| {
                json!({"type": kind, "status": status, "reason": "R", "message": "",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            serde_json::from_value(json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": "a"},
                "spec": {"volume": "pvc-1", "node": "n1", "accessMode": "ReadWriteOnce"},
                "status": {"agent": {
                    "intent": {"bootID": "b", "systemUUID": "s", "machineID": "m", "nodeUID": "u", "generation": generation},
                    "conditions": [condition("Connected", connected), condition("Disconnected", disconnected)],
                }},
            }))
            .unwrap()
        };
        assert!(claims(&attachment(2, "True", "False"), 2));
        assert!(!claims(&attachment(1, "True", "False"), 2), "an older one was cut");
        assert!(!claims(&attachment(2, "False", "False"), 2));
        assert!(!claims(&attachment(2, "True", "True"), 2));
    }
}
