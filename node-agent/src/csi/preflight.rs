//! Whether a volume may be used now: its circuit breaker, and a fence that is owed. Pure.

use jiff::Timestamp;
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::names::ANNOTATION_RESET_BREAKER;
use rds_crds::volume::BreakerState;
use rds_crds::{RdsAttachment, RdsVolume};

use super::failure::Failure;
use crate::attachment::decide::new_use;

/// The breaker of the volume lets this attachment try (R37, R38).
///
/// # Errors
/// When it is open, or another trial is under way.
pub(super) fn breaker(volume: &RdsVolume, attachment: &RdsAttachment, now: Timestamp) -> Result<(), Failure> {
    let Some(breaker) = volume.status.as_ref().and_then(|s| s.circuit_breaker.as_ref()) else {
        return Ok(());
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let last = breaker.last_failure.as_deref().unwrap_or("not recorded");
    let way = format!(
        "to reset it at once: kubectl annotate rdsvolume {name} {ANNOTATION_RESET_BREAKER}=true, or change \
         spec.circuitBreaker.resetToken"
    );
    match breaker.state {
        BreakerState::Closed => Ok(()),
        BreakerState::Open => {
            let until = breaker.retry_at.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
            Err(Failure::Unavailable(format!(
                "the circuit breaker of volume {name} is open after {} failures in a row; the next trial is at {until}. Last \
                 failure: {last}; {way}",
                breaker.consecutive_failures
            )))
        }
        BreakerState::HalfOpen => {
            let status = attachment.status.as_ref();
            let until = status.and_then(|s| s.half_open_trial_until.as_ref());
            let mine = until.is_some_and(|until| until.0 > now);
            let failures = status
                .and_then(|s| s.agent.as_ref())
                .and_then(|a| a.failures)
                .unwrap_or(0);
            let uid = attachment.metadata.uid.as_deref().unwrap_or_default();
            let folded = breaker.folded.iter().find(|f| f.attachment_uid == uid);
            // A failure that the operator has not heard of yet was the trial.
            if mine && folded.map_or(0, |f| f.failures) >= failures {
                return Ok(());
            }
            Err(Failure::Unavailable(format!(
                "the circuit breaker of volume {name} is half open and its one trial is taken; after its success all may use the \
                 volume again. Last failure: {last}; {way}"
            )))
        }
    }
}

/// No new use while a fence is owed (D5).
///
/// # Errors
/// When the pod would be a new user.
pub(super) fn fence(volume: &RdsVolume, users: &[String], pod: Option<&str>) -> Result<(), Failure> {
    let conditions = volume
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    let pending = is_true(conditions, kind::FENCE_PENDING);
    // A use that names no pod is nobody's old one.
    new_use(pending, users, pod.unwrap_or_default()).map_err(|owed| {
        let said = find_condition(conditions, kind::FENCE_PENDING)
            .map(|c| c.message.clone())
            .unwrap_or_default();
        Failure::Unavailable(format!(
            "volume {}: {owed}. {said}",
            volume.metadata.name.as_deref().unwrap_or_default()
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonic::Code;

    use super::*;

    fn volume(status: &Value) -> RdsVolume {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "v", "uid": "u"},
            "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}, "status": status,
        }))
        .unwrap()
    }

    fn attachment(until: Option<&str>, failures: u32) -> RdsAttachment {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": "v-1", "uid": "a"},
            "spec": {"volume": "v", "node": "n", "accessMode": "ReadWriteOnce"},
            "status": {"halfOpenTrialUntil": until, "agent": {"failures": failures}},
        }))
        .unwrap()
    }

    #[test]
    fn r37_r38_table_of_the_breaker() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let breaker = |state: &str, folded: u32| {
            volume(
                &json!({"circuitBreaker": {"state": state, "consecutiveFailures": 3, "retryAt": "2026-01-01T00:05:00Z",
                "lastFailure": "mkfs", "folded": [{"attachmentUID": "a", "failures": folded, "successes": 0}]}}),
            )
        };
        let (later, past) = (Some("2026-01-01T00:02:00Z"), Some("2026-01-01T00:00:30Z"));
        for (state, folded, until, failures, passes) in [
            ("Closed", 3, None, 3, true),
            ("Open", 3, None, 3, false),
            ("Open", 3, later, 3, false),
            ("HalfOpen", 3, later, 3, true),
            ("HalfOpen", 3, later, 4, false), // the trial has failed
            ("HalfOpen", 3, past, 3, false),
            ("HalfOpen", 3, None, 3, false), // another node's
        ] {
            let said = super::breaker(&breaker(state, folded), &attachment(until, failures), now);
            assert_eq!(said.is_ok(), passes, "{state} {folded} {until:?} {failures}");
            if let Err(failure) = said {
                assert_eq!(failure.code(), Code::Unavailable);
                let text = failure.to_string();
                assert!(
                    text.contains("volume v") && text.contains("reset-circuit-breaker"),
                    "{text}"
                );
            }
        }
        assert!(super::breaker(&volume(&json!({})), &attachment(None, 0), now).is_ok());
    }

    #[test]
    fn d5_only_old_users_while_a_fence_is_owed() {
        let owed = volume(
            &json!({"conditions": [{"type": "FencePending", "status": "True", "reason": "Deferred",
            "message": "node n2", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
        );
        let users = ["old".to_owned()];
        assert!(fence(&owed, &users, Some("old")).is_ok());
        for new in [Some("new"), None] {
            assert_eq!(fence(&owed, &users, new).unwrap_err().code(), Code::Unavailable);
        }
        assert!(fence(&volume(&json!({})), &[], None).is_ok());
    }
}
