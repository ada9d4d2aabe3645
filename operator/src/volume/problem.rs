//! From what went wrong on the appliance to the closed words of conditions. The one place where that is decided.

use rds_crds::Reason;

use crate::routeros::RdsError;

use super::model::Problem;

impl From<&RdsError> for Problem {
    fn from(error: &RdsError) -> Self {
        Self {
            reason: reason(error),
            message: error.to_string(),
            unknown: error.is_unknown(),
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
