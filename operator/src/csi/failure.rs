//! What goes wrong in a CSI call, and the one place that turns it into a gRPC code.
//!
//! A code is final for its caller if and only if nothing of the request can still exist or happen. Codes as the sidecars
//! read them:
//!
//! csi-attacher ignores finality: it calls again after any error, and only OK from ControllerUnpublishVolume frees a volume.
//!
//! | Code | provisioner (Create) | resizer (Expand) | we say it when |
//! |---|---|---|---|
//! | Aborted | may be running: same call again | not final, size stays pinned | guard taken, object going away; handoff or fence in progress |
//! | DeadlineExceeded, Unavailable | as Aborted | as Aborted | result unknown, appliance or API server not reachable |
//! | ResourceExhausted | final, reschedules | not final | Create: pool full, and nothing is left |
//! | InvalidArgument | final | final, infeasible | bad request (Create: and nothing of that name is there); Git owns the capacity |
//! | OutOfRange | final | final, infeasible | size impossible; Expand with a full pool |
//! | NotFound | final | final, infeasible | unknown volume or node, read fresh |
//! | AlreadyExists | final | - | same name, other size or parameters; slot, file or NQN taken; attached otherwise |
//! | FailedPrecondition | final | "only offline": skipped while in use | held by a node |
//! | Internal | final | final | our bug, with nothing left behind |

use kube::Error;
use rds_crds::Reason;
use tonic::{Code, Status};

use crate::attachment::model::Refusal;

/// Why a CSI call fails. Each text says what is wrong and how to go on (R75).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request, or the StorageClass behind it, is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The name, or something on the appliance, is taken.
    #[error("{0}")]
    Conflict(String),
    /// The size is impossible.
    #[error("{0}")]
    OutOfRange(String),
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// There is no such volume or node; proven by a fresh read.
    #[error("{0}")]
    NotFound(String),
    /// A node holds the volume, or it has to be detached first.
    #[error("{0}")]
    Held(String),
    /// Something else is under way for this volume.
    #[error("{0}")]
    Busy(String),
    /// Not done in time; it goes on.
    #[error("{0}")]
    Pending(String),
    /// The appliance or the API server cannot be used now.
    #[error("{0}")]
    Unavailable(String),
    /// This driver does not do that.
    #[error("{0}")]
    NotServed(String),
    /// Our bug.
    #[error("{0}")]
    Bug(String),
}

impl Failure {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Full(_) => Code::ResourceExhausted,
            Self::NotFound(_) => Code::NotFound,
            Self::Held(_) => Code::FailedPrecondition,
            Self::Busy(_) => Code::Aborted,
            Self::Pending(_) => Code::DeadlineExceeded,
            Self::Unavailable(_) => Code::Unavailable,
            Self::NotServed(_) => Code::Unimplemented,
            Self::Bug(_) => Code::Internal,
        }
    }

    /// Whether the provisioner takes it for the last word: it then forgets the claim's call.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Pending(_) | Self::Unavailable(_) => false,
            Self::Invalid(_)
            | Self::Conflict(_)
            | Self::OutOfRange(_)
            | Self::Full(_)
            | Self::NotFound(_)
            | Self::Held(_)
            | Self::NotServed(_)
            | Self::Bug(_) => true,
        }
    }

    /// An error of the API server while doing `what`. Whether a write happened is not known unless the server refused it.
    #[must_use]
    pub fn api(what: &str, error: &Error) -> Self {
        let (code, said) = if let Error::Api(status) = error {
            (status.code, status.message.clone())
        } else {
            (0, crate::telemetry::chain(error))
        };
        match code {
            422 => Self::Invalid(format!("the API server refused to {what}: {said}; correct the request")),
            409 => Self::Busy(format!(
                "cannot {what} as the object has just changed: {said}; call again"
            )),
            403 => Self::Unavailable(format!(
                "the API server does not allow to {what}: {said}; check the RBAC of the operator's service account"
            )),
            _ => Self::Unavailable(format!(
                "cannot {what}: {said}; check the API server, the call is retried"
            )),
        }
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
    let mut cut: String = text.chars().take(100).flat_map(char::escape_debug).collect();
    if text.chars().nth(100).is_some() {
        cut.push_str("..");
    }
    cut
}

/// What a reason in a condition means for a call that waits for the volume to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on by itself.
    Wait,
    /// It goes on once the appliance, or a person, has done something about it: say so at once if stalled.
    Retry,
    /// The appliance proved that the pool has no room.
    Full,
    /// Slot, file or NQN belong to somebody else.
    Taken,
    /// The request cannot be fulfilled as it is.
    Invalid,
}

/// The one reading of reasons by the CSI services. A word that we do not know is never final.
#[must_use]
pub fn verdict(word: &str) -> Verdict {
    let Some(reason) = Reason::from_word(word) else {
        return Verdict::Wait;
    };
    match reason {
        Reason::PoolFull => Verdict::Full,
        Reason::Taken => Verdict::Taken,
        Reason::Invalid => Verdict::Invalid,
        Reason::ServerMissing
        | Reason::ServerNotUsable
        | Reason::PermissionDenied
        | Reason::Refused
        | Reason::AuthenticationFailed
        | Reason::SecretInvalid
        | Reason::VersionNotSupported
        | Reason::PoolNotHealthy
        | Reason::DiskMissing
        | Reason::TagLost
        | Reason::StatusLost
        | Reason::Shrunk
        | Reason::EditedByOthers
        | Reason::InternalError => Verdict::Retry,
        Reason::Available
        | Reason::Deleting
        | Reason::Maintenance
        | Reason::Unreachable
        | Reason::ResultUnknown
        | Reason::ExportLost
        | Reason::NeedsDetach
        | Reason::InUse
        | Reason::PersistentVolumeExists
        | Reason::NotRequested
        | Reason::VolumesExist
        | Reason::WaitingForLateCommands
        | Reason::Cutting
        | Reason::Proven
        | Reason::NotTested
        | Reason::Testing
        | Reason::VersionChanged
        | Reason::Inconclusive
        | Reason::SessionSurvived
        | Reason::OldNameAccepted
        | Reason::Waiting
        | Reason::Deferred
        | Reason::TimeIsOver
        | Reason::NewConnection
        | Reason::NodeIsOff => Verdict::Wait,
        // A newer word of the same set: not final.
        _ => Verdict::Wait,
    }
}

/// What a refusal of the admission means for a call that waits to be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It ends by itself, or a person decides: wait, then call again.
    Soon,
    /// As before, and nothing is known to be in the way but the volume itself.
    NotReady,
    /// Another node holds the volume: said at once, nobody waits for that (R48).
    Conflict,
    /// A migration is in the way: said at once too.
    Migration,
    /// The volume is going away.
    Going,
    /// The request does not fit the volume.
    Invalid,
}

/// The one reading of the reasons of `Admitted=False`. A word that we do not know is never final.
#[must_use]
pub fn admission(word: &str) -> Admission {
    let Some(refusal) = Refusal::ALL.into_iter().find(|refusal| refusal.word() == word) else {
        return Admission::Soon;
    };
    match refusal {
        Refusal::Handoff | Refusal::FencePending => Admission::Soon,
        Refusal::VolumeNotReady => Admission::NotReady,
        Refusal::Conflict => Admission::Conflict,
        Refusal::MigrationLimit | Refusal::MigrationOverdue | Refusal::MigrationPolicy => Admission::Migration,
        Refusal::Deleting => Admission::Going,
        Refusal::AccessMode => Admission::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_table() {
        let text = String::new;
        for (failure, code) in [
            (Failure::Invalid(text()), Code::InvalidArgument),
            (Failure::Conflict(text()), Code::AlreadyExists),
            (Failure::OutOfRange(text()), Code::OutOfRange),
            (Failure::Full(text()), Code::ResourceExhausted),
            (Failure::NotFound(text()), Code::NotFound),
            (Failure::Held(text()), Code::FailedPrecondition),
            (Failure::Busy(text()), Code::Aborted),
            (Failure::Pending(text()), Code::DeadlineExceeded),
            (Failure::Unavailable(text()), Code::Unavailable),
            (Failure::NotServed(text()), Code::Unimplemented),
            (Failure::Bug(text()), Code::Internal),
        ] {
            let passing = [Code::Aborted, Code::DeadlineExceeded, Code::Unavailable].contains(&code);
            assert_eq!(failure.is_final(), !passing, "{code:?}");
            assert_eq!(Status::from(failure).code(), code);
        }
    }

    #[test]
    fn b53_only_proven_refusals_are_final() {
        let last = Reason::ALL
            .into_iter()
            .filter(|reason| !matches!(verdict(reason.as_str()), Verdict::Wait | Verdict::Retry));
        let last: Vec<_> = last.map(Reason::as_str).collect();
        assert_eq!(last, ["Invalid", "Taken", "PoolFull"]);
        assert_eq!(verdict("SomethingNewer"), Verdict::Wait);
    }

    #[test]
    fn texts_of_callers_are_escaped_and_cut() {
        assert_eq!(shown("a\n\u{7}\"b"), "a\\n\\u{7}\\\"b");
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), 102);
    }

    #[test]
    fn b53_an_api_outage_is_unavailable() {
        let gone = Error::Service(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        let failure = Failure::api("create RdsVolume x", &gone);
        assert_eq!(failure.code(), Code::Unavailable);
        assert!(failure.to_string().contains("cannot create RdsVolume x"), "{failure}");
    }
}
