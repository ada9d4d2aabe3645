//! What goes wrong in a Node call, and the one place that turns it into a gRPC code.
//!
//! kubelet reads Aborted, DeadlineExceeded, Unavailable and ResourceExhausted as "uncertain": it calls again, and unstages later. After
//! any other code it believes that nothing is mounted: such a code is given only when that is so.
//!
//! | Code | we say it when |
//! |---|---|
//! | Aborted | another call for the volume is under way |
//! | DeadlineExceeded | not done in time; it goes on |
//! | Unavailable | API server, appliance or host do not answer; breaker open; a fence is owed |
//! | InvalidArgument | bad request |
//! | NotFound | unknown volume or path, read fresh |
//! | AlreadyExists | staged or published otherwise |
//! | FailedPrecondition | not staged, still in use, not for this volume, or its data is not what the ledger says |
//! | OutOfRange | a size that cannot be |
//! | Internal | the volume itself fails: damaged, unreadable, refused by mkfs or mount; nothing is mounted |

use std::path::Path;

use kube::Error;
use tonic::{Code, Status};

/// Why a Node call fails. Each text says what is wrong and how to go on (R75).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no such volume or path.
    #[error("{0}")]
    NotFound(String),
    /// Staged or published otherwise.
    #[error("{0}")]
    Conflict(String),
    /// Something has to happen first.
    #[error("{0}")]
    NotNow(String),
    /// The size is impossible.
    #[error("{0}")]
    OutOfRange(String),
    /// Something else is under way for this volume.
    #[error("{0}")]
    Busy(String),
    /// Not done in time; it goes on.
    #[error("{0}")]
    Pending(String),
    /// Something outside of the volume does not answer or does not allow it now.
    #[error("{0}")]
    Unavailable(String),
    /// The data on the volume is not what the ledger says: counted by the breaker.
    #[error("{0}")]
    Refused(String),
    /// The filesystem is damaged: counted by the breaker.
    #[error("{0}")]
    Damaged(String),
    /// The volume itself fails: counted by the breaker.
    #[error("{0}")]
    Volume(String),
    /// This agent does not do that.
    #[error("{0}")]
    NotServed(String),
}

impl Failure {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::NotNow(_) | Self::Refused(_) => Code::FailedPrecondition,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Busy(_) => Code::Aborted,
            Self::Pending(_) => Code::DeadlineExceeded,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Volume(_) | Self::Damaged(_) => Code::Internal,
            Self::NotServed(_) => Code::Unimplemented,
        }
    }

    /// Whether the volume is to blame, and not the request, a race or the network (R36).
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Damaged(_) | Self::Volume(_))
    }

    /// An error of the API server while doing `what`.
    #[must_use]
    pub fn api(what: &str, error: &Error) -> Self {
        Self::Unavailable(format!(
            "cannot {what}: {}; check the API server and the RBAC of the node agent, the call is retried",
            crate::chain(error)
        ))
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code(), failure.to_string())
    }
}

/// Text of a caller for a message: escaped, and cut where it would not fit into a gRPC header.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        cut.push_str("..");
    }
    cut
}

/// A path for a message.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown(&path.to_string_lossy())
}
