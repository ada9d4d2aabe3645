//! Conditions in the manner of kstatus, so that Flux, Argo CD and `kubectl wait --for=condition=Ready` understand us.
//!
//! Invariant: `lastTransitionTime` moves only when `status` flips; otherwise a status patch would wake its own loop.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types of our kinds. Positive ones say what is well; `Drifted`, `ExpandPending`, `DeletionBlocked`,
/// `FencePending`, `MigrationOverdue`, `IdentityChanged` and `Stalled` exist only while they have something to say.
pub mod kind {
    /// Summary of all others.
    pub const READY: &str = "Ready";
    /// Only a person can help; the message says how.
    pub const STALLED: &str = "Stalled";
    /// RdsServer: the management connection works.
    pub const REACHABLE: &str = "Reachable";
    /// RdsServer: RouterOS version and packages fit.
    pub const COMPATIBLE: &str = "Compatible";
    /// RdsServer: the pool is mounted and clean.
    pub const POOL_HEALTHY: &str = "PoolHealthy";
    /// RdsServer: the self-test has shown that a fence works on this RouterOS version.
    pub const FENCE_PROVEN: &str = "FenceProven";
    /// RdsVolume: the disk exists, with our tag and at least the wanted size once measured.
    pub const PROVISIONED: &str = "Provisioned";
    /// RdsVolume: the disk is exported under the effective NQN.
    pub const EXPORTED: &str = "Exported";
    /// RdsVolume: the appliance shows something else than we made; the message names it.
    pub const DRIFTED: &str = "Drifted";
    /// RdsVolume, RdsAttachment: the filesystem or device is in order.
    pub const HEALTHY: &str = "Healthy";
    /// RdsVolume: a growth waits; the message says for what.
    pub const EXPAND_PENDING: &str = "ExpandPending";
    /// RdsVolume, RdsServer: a deletion waits; the message says for what and what to do.
    pub const DELETION_BLOCKED: &str = "DeletionBlocked";
    /// RdsVolume: a lost holder has to be cut at the target before anybody else may write.
    pub const FENCE_PENDING: &str = "FencePending";
    /// RdsVolume: two nodes have it for longer than a migration may take.
    pub const MIGRATION_OVERDUE: &str = "MigrationOverdue";
    /// RdsVolume: a new connection shows another identity of the disk than the one before it did, in one generation of the export.
    pub const IDENTITY_CHANGED: &str = "IdentityChanged";
}

/// What one condition says now; see [`set_condition`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying<'a> {
    /// One of [`kind`].
    pub kind: &'a str,
    /// `Some(true)` is True, `Some(false)` is False, `None` is Unknown.
    pub status: Option<bool>,
    /// A word of a closed set, CamelCase.
    pub reason: &'a str,
    /// For people: what is seen and what to do.
    pub message: String,
}

/// Sets one condition; keeps `lastTransitionTime` unless the status flips. Returns whether anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    saying: Saying<'_>,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let status = match saying.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = conditions.iter().position(|c| c.type_ == saying.kind);
    let since = match old.map(|i| &conditions[i]) {
        Some(c) if c.status == status => c.last_transition_time.clone(),
        _ => Time(whole_seconds(now)),
    };
    let new = Condition {
        type_: saying.kind.to_owned(),
        status: status.to_owned(),
        reason: saying.reason.to_owned(),
        message: saying.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match old {
        Some(i) if conditions[i] == new => false,
        Some(i) => {
            conditions[i] = new;
            true
        }
        None => {
            conditions.push(new);
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            true
        }
    }
}

/// Removes a condition that has nothing to say any more. Returns whether it was there.
pub fn clear_condition(conditions: &mut Vec<Condition>, kind: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_ != kind);
    conditions.len() != before
}

/// The condition of that type.
#[must_use]
pub fn find_condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition of that type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find_condition(conditions, kind).is_some_and(|c| c.status == "True")
}

/// Kubernetes keeps times in whole seconds; finer ones would differ after a round trip and look like a change.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: Option<bool>, message: &str) -> Saying<'static> {
        Saying {
            kind: kind::READY,
            status,
            reason: "Test",
            message: message.to_owned(),
        }
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut all = Vec::new();
        let at = |s| Timestamp::from_second(s).expect("a time");
        assert!(set_condition(&mut all, ready(Some(true), "a"), Some(1), at(10)));
        assert!(
            !set_condition(&mut all, ready(Some(true), "a"), Some(1), at(20)),
            "an equal saying changes nothing"
        );
        assert!(set_condition(&mut all, ready(Some(true), "b"), Some(1), at(30)));
        assert_eq!(all[0].last_transition_time.0, at(10));
        assert!(set_condition(&mut all, ready(None, "b"), Some(1), at(40)));
        assert_eq!(all[0].last_transition_time.0, at(40));
        assert!(!is_true(&all, kind::READY), "Unknown is not True");
        assert!(clear_condition(&mut all, kind::READY));
        assert!(find_condition(&all, kind::READY).is_none());
    }
}
