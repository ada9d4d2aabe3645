//! From what went wrong on the appliance, or on the way to it, to the closed words of conditions. The one place where that is
//! decided.

use std::collections::BTreeMap;

use rds_crds::Reason;

use crate::routeros::{Bytes, RdsError};
use crate::server::facts::unreadable;

use super::model::{Fact, Problem};

impl From<&RdsError> for Problem {
    fn from(error: &RdsError) -> Self {
        Self {
            reason: reason(error),
            message: error.to_string(),
            unknown: error.is_unknown(),
            incomplete: matches!(error, RdsError::Incomplete { .. }),
        }
    }
}

/// The word for an error of the appliance.
pub(crate) fn reason(error: &RdsError) -> Reason {
    match error {
        RdsError::Unreachable { .. } | RdsError::Busy { .. } => Reason::Unreachable,
        RdsError::Timeout { .. }
        | RdsError::Lost { .. }
        | RdsError::Garbled { .. }
        | RdsError::NotUnderstood { .. } => Reason::ResultUnknown,
        RdsError::Taken { .. } => Reason::Taken,
        RdsError::PoolFull { .. } => Reason::PoolFull,
        RdsError::ReadBack { .. }
        | RdsError::Precondition { .. }
        | RdsError::Incomplete { .. }
        | RdsError::Rejected { .. } => Reason::Refused,
        RdsError::Permission { .. } => Reason::PermissionDenied,
        RdsError::VersionTooOld { .. } => Reason::VersionNotSupported,
        RdsError::Invalid { .. } => Reason::Invalid,
        RdsError::HostKey { .. } | RdsError::Auth { .. } => Reason::AuthenticationFailed,
    }
}

/// How much room there is. A pool that does not show is none without room: to say that would be final for a new volume.
pub(super) fn room(measured: Result<Option<Bytes>, RdsError>, server: &str) -> Fact<Bytes> {
    match measured {
        Ok(Some(room)) => Fact::Known(room),
        Ok(None) => Fact::Unknown(Problem {
            reason: Reason::PoolNotHealthy,
            message: format!(
                "the appliance of server {server} does not show its pool with size and free space: nothing is begun until it does"
            ),
            unknown: false,
            incomplete: false,
        }),
        Err(error) => Fact::Unknown((&error).into()),
    }
}

/// Of files nothing is known while their pool is not mounted.
pub(super) fn pool_not_mounted(server: &str) -> Problem {
    Problem {
        reason: Reason::PoolNotHealthy,
        message: format!("the pool of server {server} is not mounted, so nothing is known of its files"),
        unknown: false,
        incomplete: false,
    }
}

/// Why there is no RdsServer of that name to work with. `malformed`: those that are stored and cannot be read, with the error.
pub(super) fn no_server(name: &str, malformed: &BTreeMap<String, String>) -> (Reason, String) {
    match malformed.get(name) {
        Some(error) => (Reason::ServerNotUsable, unreadable(name, error)),
        None => (
            Reason::ServerMissing,
            format!("RdsServer {name} does not exist: create it, or correct spec.server of a new volume"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_read_is_not_said_to_be_missing() {
        let malformed = BTreeMap::from([("bad".to_owned(), "`10GB` is not a size".to_owned())]);
        let (reason, why) = no_server("bad", &malformed);
        assert_eq!(reason, Reason::ServerNotUsable);
        for word in ["`bad` exists", "`10GB` is not a size", "kubectl edit rdsserver bad"] {
            assert!(why.contains(word), "{why}");
        }
        let (reason, why) = no_server("gone", &malformed);
        assert_eq!(reason, Reason::ServerMissing);
        assert!(why.contains("gone does not exist: create it"), "{why}");
    }
}
