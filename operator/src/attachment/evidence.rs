//! What the words of agents, and the pods of virtual machines, prove about an attachment.
//!
//! Invariant: what is not proven counts against admission and against a cut (I8).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, ResourceExt};
use rds_crds::RdsAttachment;
use rds_crds::attachment::{AgentStatus, kind as word};
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::volume::Holder;

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
pub(super) async fn vouches(
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
