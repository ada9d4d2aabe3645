//! Reasons of conditions and events: one closed set, so that alerts and runbooks can name them.
//!
//! `docs/troubleshooting.md` has an entry for each; a test compares the two.

use std::fmt;

/// Why a condition says what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// All is well.
    Available,
    /// The object is going away.
    Deleting,
    /// The RdsServer that the spec names does not exist.
    ServerMissing,
    /// The RdsServer cannot be used: not compatible, or its pool is not in order.
    ServerNotUsable,
    /// The RdsServer is in maintenance: new work waits.
    Maintenance,
    /// The appliance does not answer.
    Unreachable,
    /// The result of a command is not known; it is read back before anything else happens.
    ResultUnknown,
    /// The spec cannot be fulfilled as written.
    Invalid,
    /// Slot, file or NQN belong to somebody else.
    Taken,
    /// The pool has no room.
    PoolFull,
    /// The RouterOS user lacks a policy.
    PermissionDenied,
    /// The appliance refused the command.
    Refused,
    /// The host key is not the pinned one, or the key is not accepted.
    AuthenticationFailed,
    /// The Secret is missing or cannot be read as keys.
    SecretInvalid,
    /// The RouterOS version is too old or not known.
    VersionNotSupported,
    /// The pool is not there, not mounted or not clean.
    PoolNotHealthy,
    /// The disk is gone from the appliance.
    DiskMissing,
    /// The export is switched off or under another name.
    ExportLost,
    /// The disk no longer carries our tag.
    TagLost,
    /// The appliance's generation or nonce is not the recorded one: the status was lost or restored.
    StatusLost,
    /// The disk is smaller than it was.
    Shrunk,
    /// Somebody changed the disk.
    EditedByOthers,
    /// The appliance resizes only while the export is off, and the volume is in use.
    NeedsDetach,
    /// A node holds the volume.
    InUse,
    /// A PersistentVolume still names the volume.
    PersistentVolumeExists,
    /// Nobody asked for the removal of the data.
    NotRequested,
    /// RdsVolumes still name the server.
    VolumesExist,
    /// A command of which nothing was heard may still run.
    WaitingForLateCommands,
    /// The self-test has shown that a fence ends sessions on the running RouterOS version.
    Proven,
    /// The self-test of fencing has not run yet, or does not run by itself.
    NotTested,
    /// The self-test of fencing runs.
    Testing,
    /// RouterOS has another version than the one that the self-test was about.
    VersionChanged,
    /// The self-test of fencing ended without evidence, for or against.
    Inconclusive,
    /// The self-test has shown that a session outlives the export that it was made through.
    SessionSurvived,
    /// The self-test has shown that the appliance still lets nodes in under a name that was cut.
    OldNameAccepted,
    /// A lost node is being cut at the appliance.
    Cutting,
    /// A lost node has to be cut, and somebody or something has to come first.
    Waiting,
    /// A lost node is cut once the others that are alive have let go, or a person says now.
    Deferred,
    /// A live migration takes longer than it may.
    TimeIsOver,
    /// A new connection shows another identity of the disk.
    NewConnection,
    /// A person said that the node is off.
    NodeIsOff,
    /// Our bug.
    InternalError,
}

impl Reason {
    /// All of them, for tests and documents.
    pub const ALL: [Self; 42] = [
        Self::Available,
        Self::Deleting,
        Self::ServerMissing,
        Self::ServerNotUsable,
        Self::Maintenance,
        Self::Unreachable,
        Self::ResultUnknown,
        Self::Invalid,
        Self::Taken,
        Self::PoolFull,
        Self::PermissionDenied,
        Self::Refused,
        Self::AuthenticationFailed,
        Self::SecretInvalid,
        Self::VersionNotSupported,
        Self::PoolNotHealthy,
        Self::DiskMissing,
        Self::ExportLost,
        Self::TagLost,
        Self::StatusLost,
        Self::Shrunk,
        Self::EditedByOthers,
        Self::NeedsDetach,
        Self::InUse,
        Self::PersistentVolumeExists,
        Self::NotRequested,
        Self::VolumesExist,
        Self::WaitingForLateCommands,
        Self::Proven,
        Self::NotTested,
        Self::Testing,
        Self::VersionChanged,
        Self::Inconclusive,
        Self::SessionSurvived,
        Self::OldNameAccepted,
        Self::Cutting,
        Self::Waiting,
        Self::Deferred,
        Self::TimeIsOver,
        Self::NewConnection,
        Self::NodeIsOff,
        Self::InternalError,
    ];

    /// The word in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Deleting => "Deleting",
            Self::ServerMissing => "ServerMissing",
            Self::ServerNotUsable => "ServerNotUsable",
            Self::Maintenance => "Maintenance",
            Self::Unreachable => "Unreachable",
            Self::ResultUnknown => "ResultUnknown",
            Self::Invalid => "Invalid",
            Self::Taken => "Taken",
            Self::PoolFull => "PoolFull",
            Self::PermissionDenied => "PermissionDenied",
            Self::Refused => "Refused",
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::SecretInvalid => "SecretInvalid",
            Self::VersionNotSupported => "VersionNotSupported",
            Self::PoolNotHealthy => "PoolNotHealthy",
            Self::DiskMissing => "DiskMissing",
            Self::ExportLost => "ExportLost",
            Self::TagLost => "TagLost",
            Self::StatusLost => "StatusLost",
            Self::Shrunk => "Shrunk",
            Self::EditedByOthers => "EditedByOthers",
            Self::NeedsDetach => "NeedsDetach",
            Self::InUse => "InUse",
            Self::PersistentVolumeExists => "PersistentVolumeExists",
            Self::NotRequested => "NotRequested",
            Self::VolumesExist => "VolumesExist",
            Self::WaitingForLateCommands => "WaitingForLateCommands",
            Self::Proven => "Proven",
            Self::NotTested => "NotTested",
            Self::Testing => "Testing",
            Self::VersionChanged => "VersionChanged",
            Self::Inconclusive => "Inconclusive",
            Self::SessionSurvived => "SessionSurvived",
            Self::OldNameAccepted => "OldNameAccepted",
            Self::Cutting => "Cutting",
            Self::Waiting => "Waiting",
            Self::Deferred => "Deferred",
            Self::TimeIsOver => "TimeIsOver",
            Self::NewConnection => "NewConnection",
            Self::NodeIsOff => "NodeIsOff",
            Self::InternalError => "InternalError",
        }
    }

    /// The reason with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
