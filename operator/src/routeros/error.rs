//! Everything that can go wrong with the appliance, in one closed enum.
//!
//! [`RdsError::class`] alone drives retry, code, reason and metric label. [`RdsError::is_unknown`] says whether the command may have
//! run or may still run: such a result is read again before anything is decided. An outage is never "not found".

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::look::Look;
use super::tag::Ownership;
use super::types::{Bytes, Malformed, Slot};
use super::version::RouterOsVersion;

/// Name of the RdsServer.
pub type ServerName = Arc<str>;

/// What kind of command it was: a closed set, good as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CommandKind {
    /// The coalesced listing.
    Inventory,
    /// Fresh read of one volume.
    Look,
    /// Add a disk and export it.
    Create,
    /// Raise its size.
    Grow,
    /// Repair the export.
    Export,
    /// Export off and on, for boxes that resize only so.
    ToggleExport,
    /// Token up, export off.
    Retire,
    /// Remove disk and file.
    Remove,
    /// Remove a left-over file.
    RemoveFile,
    /// Clear our tag, keep the disk.
    Release,
    /// Tag an existing disk.
    Adopt,
}

impl CommandKind {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Look => "look",
            Self::Create => "create",
            Self::Grow => "grow",
            Self::Export => "export",
            Self::ToggleExport => "toggle_export",
            Self::Retire => "retire",
            Self::Remove => "remove",
            Self::RemoveFile => "remove_file",
            Self::Release => "release",
            Self::Adopt => "adopt",
        }
    }

    /// True when the command changes something.
    pub fn is_mutation(self) -> bool {
        !matches!(self, Self::Inventory | Self::Look)
    }
}

/// A command as it may be shown: its kind and the slot it is about, never the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// Kind of the command.
    pub kind: CommandKind,
    /// Disk it was about.
    pub slot: Option<Slot>,
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.slot {
            Some(slot) => write!(f, "{} {slot}", self.kind.label()),
            None => f.write_str(self.kind.label()),
        }
    }
}

/// What of a volume's identity somebody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    /// A row has the slot.
    Slot,
    /// A row names the file.
    Path,
    /// The file exists.
    File,
    /// A row is exported under the NQN.
    Nqn,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot => "slot",
            Self::Path => "image path",
            Self::File => "image file",
            Self::Nqn => "NQN",
        })
    }
}

/// What to do about an error: closed, and the only thing that callers branch on for retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The network, the appliance or its reply: look again, with backoff.
    Transient,
    /// A definitive no from the appliance or from this client; see the variant.
    Refused,
    /// Nothing works until a person acts.
    NeedsHuman,
    /// This client and this appliance do not understand each other.
    Bug,
}

impl Class {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Refused => "refused",
            Self::NeedsHuman => "needs_human",
            Self::Bug => "bug",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RdsError {
    /// No connection; the command was not sent.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// Server.
        server: ServerName,
        /// Words of the SSH client.
        reason: String,
    },
    /// The queue did not move; the command was not sent.
    #[error("{server} is busy: `{command}` waited {waited:?} for its turn and was not sent")]
    Busy {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Time in the queue.
        waited: Duration,
    },
    /// Sent, and no reply in time. It may have run, or run later.
    #[error("{server} did not answer `{command}` within {after:?}; its result is unknown")]
    Timeout {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Time allowed.
        after: Duration,
    },
    /// Sent, and the connection broke. It may have run, or run later.
    #[error("the connection to {server} broke during `{command}`: {reason}; its result is unknown")]
    Lost {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Words of the SSH client.
        reason: String,
    },
    /// A reply without proof of how the command ended, or one that cannot be read.
    #[error("cannot read the reply of {server} to `{command}`: {detail}; its result is unknown")]
    Garbled {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// What is wrong with it.
        detail: String,
    },
    /// The appliance accepted the command, and what it reads back is something else.
    #[error("{server} accepted `{command}` but reads back {detail}")]
    ReadBack {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// What differs.
        detail: String,
        /// What was read back.
        look: Box<Look>,
    },
    /// Part of the identity belongs to something that exists already. Nothing was changed.
    #[error("the {what} for `{command}` on {server} is already taken by {by}")]
    Taken {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Which part.
        what: Occupied,
        /// By whom, by the comment of the row; `Untagged` when it is a file without a row.
        by: Box<Ownership>,
        /// What was read back.
        look: Box<Look>,
    },
    /// Refused, and read back that the pool has too little free space. Nothing was changed.
    #[error("the pool of {server} has {free} bytes free, `{command}` needs {needed}")]
    PoolFull {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Bytes needed.
        needed: Bytes,
        /// Bytes free.
        free: Bytes,
    },
    /// The guard did not match: another generation, another owner, another size. Nothing was changed.
    #[error("{server} did not do `{command}`: {detail}")]
    Precondition {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// What did not match.
        detail: String,
        /// What was read back.
        look: Box<Look>,
    },
    /// Refused half-way: part of it exists, see `look`. Of a create: made by this very exec, which had found all of it free.
    #[error("{server} stopped in the middle of `{command}`: {reply}")]
    Incomplete {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Words of the appliance.
        reply: String,
        /// What was read back.
        look: Box<Look>,
    },
    /// Refused with these words, and read back that nothing of it exists.
    #[error("{server} refused `{command}`: {reply}")]
    Rejected {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Words of the appliance.
        reply: String,
    },
    /// The login may not do this.
    #[error(
        "{server} does not allow `{command}`: {reply}; the user's group needs the policies ssh, read, write and test"
    )]
    Permission {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Words of the appliance.
        reply: String,
        /// True when the script itself reported it, which proves that it stopped there.
        proven: bool,
    },
    /// RouterOS is older than 7.21.
    #[error(
        "{server} runs RouterOS {version}; 7.21 or newer is required (NVMe/TCP exports have no NQN before): upgrade it"
    )]
    VersionTooOld {
        /// Server.
        server: ServerName,
        /// Its version.
        version: RouterOsVersion,
    },
    /// Refused by this client before anything was sent.
    #[error("`{command}` was not sent to {server}: {reason}")]
    Invalid {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Rule.
        reason: String,
    },
    /// An error line instead of the script's own verdict: RouterOS did not understand the line (or stopped where nothing should).
    #[error("{server} did not understand `{command}`: {reply}")]
    NotUnderstood {
        /// Server.
        server: ServerName,
        /// Command.
        command: Redacted,
        /// Words of the appliance.
        reply: String,
    },
    /// The host key is not the pinned one. Nothing was sent.
    #[error(
        "{server} shows another host key than the pinned one: if it was regenerated on purpose, put the new public key \
         into `rds-host-key` of the server's Secret ({reason})"
    )]
    HostKey {
        /// Server.
        server: ServerName,
        /// Words of the SSH client.
        reason: String,
    },
    /// The key is not accepted. Nothing was sent.
    #[error("{server} does not accept the key of its Secret for user {user}: import the public key there ({reason})")]
    Auth {
        /// Server.
        server: ServerName,
        /// User.
        user: String,
        /// Words of the SSH client.
        reason: String,
    },
}

impl RdsError {
    pub(crate) fn invalid(server: &ServerName, command: &Redacted, error: &Malformed) -> Self {
        Self::Invalid {
            server: server.clone(),
            command: command.clone(),
            reason: error.to_string(),
        }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Garbled { .. }
            | Self::ReadBack { .. } => Class::Transient,
            Self::Taken { .. }
            | Self::PoolFull { .. }
            | Self::Precondition { .. }
            | Self::Incomplete { .. }
            | Self::Rejected { .. }
            | Self::Permission { .. }
            | Self::VersionTooOld { .. }
            | Self::Invalid { .. } => Class::Refused,
            Self::HostKey { .. } | Self::Auth { .. } => Class::NeedsHuman,
            Self::NotUnderstood { .. } => Class::Bug,
        }
    }

    /// True when the command may have run or may still run: look before deciding anything.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Lost { .. } | Self::Garbled { .. } | Self::NotUnderstood { .. } => true,
            Self::Permission { proven, .. } => !proven,
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::ReadBack { .. }
            | Self::Taken { .. }
            | Self::PoolFull { .. }
            | Self::Precondition { .. }
            | Self::Incomplete { .. }
            | Self::Rejected { .. }
            | Self::VersionTooOld { .. }
            | Self::Invalid { .. }
            | Self::HostKey { .. }
            | Self::Auth { .. } => false,
        }
    }

    /// True when the command ended for certain and yet something of it may exist: see [`RdsError::look`].
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::ReadBack { .. } | Self::Incomplete { .. })
    }

    /// What was read back on the appliance, in the same exec.
    pub fn look(&self) -> Option<&Look> {
        match self {
            Self::ReadBack { look, .. }
            | Self::Taken { look, .. }
            | Self::Precondition { look, .. }
            | Self::Incomplete { look, .. } => Some(look),
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Garbled { .. }
            | Self::PoolFull { .. }
            | Self::Rejected { .. }
            | Self::Permission { .. }
            | Self::VersionTooOld { .. }
            | Self::Invalid { .. }
            | Self::NotUnderstood { .. }
            | Self::HostKey { .. }
            | Self::Auth { .. } => None,
        }
    }

    /// A short reason in CamelCase, from a closed set: for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "Unreachable",
            Self::Busy { .. } => "Busy",
            Self::Timeout { .. } => "Timeout",
            Self::Lost { .. } => "ConnectionLost",
            Self::Garbled { .. } => "ReplyUnreadable",
            Self::ReadBack { .. } => "ReadBackDiffers",
            Self::Taken { .. } => "Taken",
            Self::PoolFull { .. } => "PoolFull",
            Self::Precondition { .. } => "PreconditionFailed",
            Self::Incomplete { .. } => "Incomplete",
            Self::Rejected { .. } => "Rejected",
            Self::Permission { .. } => "PermissionDenied",
            Self::VersionTooOld { .. } => "VersionTooOld",
            Self::Invalid { .. } => "Invalid",
            Self::NotUnderstood { .. } => "NotUnderstood",
            Self::HostKey { .. } => "HostKeyMismatch",
            Self::Auth { .. } => "AuthenticationFailed",
        }
    }
}
