//! What the decisions about attachments look at: built by the shell, free of client and clock.

use std::time::Duration;

use jiff::Timestamp;
use rds_crds::volume::{AccessMode, Role};

/// The parts of an RdsVolume that admission and fencing need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeView {
    /// Name, for messages.
    pub name: String,
    /// Exported, with the recorded token: nodes could connect now.
    pub ready: bool,
    /// The object is going away and the deletion has its licence: nobody is admitted any more.
    pub deleting: bool,
    /// `volumeMode: Block`.
    pub block: bool,
    /// The modes that the volume was made for.
    pub access_modes: Vec<AccessMode>,
    /// Generation of the export.
    pub generation: u32,
    /// THE record of admission.
    pub holders: Vec<HolderView>,
    /// The record of holders may have holes: a fence is owed before anybody is admitted.
    pub holders_unknown: bool,
    /// A fence in progress.
    pub fence: Option<FenceView>,
    /// Nodes that were cut and have not acknowledged it.
    pub fenced: Vec<String>,
    /// How long a migration may take.
    pub migration_timeout: Duration,
    /// When the present migration has to be over.
    pub migration_deadline: Option<Timestamp>,
    /// When it began.
    pub migration_started: Option<Timestamp>,
    /// The second node has to run the same virtual machine.
    pub kubevirt_only: bool,
}

/// A recorded holder, with what is known of its node now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HolderView {
    /// Its node.
    pub node: String,
    /// UID of its RdsAttachment.
    pub attachment: String,
    /// What it may do.
    pub role: Role,
    /// What is known of it.
    pub state: HolderState,
    /// What its agent said last.
    pub word: Word,
    /// Whether its agent has said that no pod has the volume published.
    pub unpublished: bool,
    /// Its detach is answered before it was cut, and all that its RdsAttachment says is recorded: that need not stay.
    pub deferred: bool,
}

/// What is known of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HolderState {
    /// Node Ready and untainted, agent's Lease fresh, attachment not going away.
    Alive,
    /// Detach wanted, node alive: it will leave by its own word.
    Leaving,
    /// Detach wanted, and the node is gone, out of service, or not Ready with a stale Lease.
    Lost,
    /// Anything between: not Ready but talking, Ready but silent, API not sure. Neither admits nor fences.
    Doubtful,
}

/// What a holder's agent has said about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// Nothing: admitted without an intent still means "may be connected".
    Silent,
    /// It has recorded that it connects (or is connected).
    Intent,
    /// It has said for this very attachment that the connection is gone. Final.
    Disconnected,
    /// The same machine runs a later boot than the one of its intent, and no intent of the later boot exists.
    Rebooted,
}

/// The fence that is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FenceView {
    /// The node that is cut.
    pub node: String,
    /// UID of its RdsAttachment.
    pub attachment: String,
    /// The old export was read back as off.
    pub cut: bool,
}

/// A wish to be admitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Its node.
    pub node: String,
    /// UID of its RdsAttachment.
    pub attachment: String,
    /// Mode of the request.
    pub mode: AccessMode,
    /// Only reading.
    pub read_only: bool,
    /// Whether its pod and the holder's are launchers of one virtual machine; `None` when that is not known.
    pub same_vm: Option<bool>,
}

/// Why somebody is not admitted. The word of the condition; CSI maps it to a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another node holds the volume: final until that changes.
    Conflict,
    /// Another node is leaving: soon.
    Handoff,
    /// A lost node has to be cut first: soon, or a person has to decide.
    FencePending,
    /// Two nodes hold it already.
    MigrationLimit,
    /// The migration took too long.
    MigrationOverdue,
    /// Not the same virtual machine.
    MigrationPolicy,
    /// The mode of the request does not fit the volume.
    AccessMode,
    /// The volume is not ready.
    VolumeNotReady,
    /// The volume is being removed.
    Deleting,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Conflict,
        Self::Handoff,
        Self::FencePending,
        Self::MigrationLimit,
        Self::MigrationOverdue,
        Self::MigrationPolicy,
        Self::AccessMode,
        Self::VolumeNotReady,
        Self::Deleting,
    ];

    /// The word in the condition.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Handoff => "Handoff",
            Self::FencePending => "FencePending",
            Self::MigrationLimit => "MigrationLimit",
            Self::MigrationOverdue => "MigrationOverdue",
            Self::MigrationPolicy => "MigrationPolicy",
            Self::AccessMode => "AccessMode",
            Self::VolumeNotReady => "VolumeNotReady",
            Self::Deleting => "Deleting",
        }
    }
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Record it as a holder in this role; with a deadline where a migration begins.
    Admit {
        /// What it may do.
        role: Role,
        /// End of the migration that begins with it.
        deadline: Option<Timestamp>,
    },
    /// It is recorded already.
    Held,
    /// Not now; the word and what to do.
    Refuse(Refusal, String),
}
