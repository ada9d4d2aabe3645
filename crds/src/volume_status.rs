//! The parts of `RdsVolume.status`: disk and creation, the attachment protocol, the format ledger, the breaker.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attachment::Intent;

/// One node that may use the volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Name of the node.
    pub node: String,
    /// UID of its RdsAttachment.
    #[serde(rename = "attachmentUID")]
    pub attachment_uid: String,
    /// What it may do.
    pub role: Role,
    /// When it was admitted.
    pub since: Time,
    /// Set when its detach was answered although it neither let go nor was cut, as another holder that is alive would have been cut
    /// with it. It stays a lost holder until it is cut, its reboot is proven, or a person vouches that its node is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred: Option<Deferred>,
}

/// What is left of a holder whose RdsAttachment was let go before its session ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Deferred {
    /// When that was decided.
    pub at: Time,
    /// What its agent had recorded before it connected: it tells a reboot of that machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
}

/// What a holder may do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one writer.
    Primary,
    /// The second node of a live migration.
    MigrationTarget,
    /// One of several readers.
    Reader,
}

/// A live migration in progress.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// The node that had the volume.
    pub source: String,
    /// The node that gets it.
    pub target: String,
    /// When the second node was admitted.
    pub started_at: Time,
    /// After this moment no new attachment is admitted until one side leaves.
    pub deadline: Time,
}

/// A fence in progress.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// The node that is cut.
    pub node: String,
    /// UID of its RdsAttachment.
    #[serde(rename = "attachmentUID")]
    pub attachment_uid: String,
    /// How far it got; each step is recorded before it is taken.
    pub phase: FencePhase,
    /// The NQN of the new generation.
    pub nqn: String,
    /// When it was decided.
    pub started_at: Time,
}

/// How far a fence got.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FencePhase {
    /// The new generation is recorded; the old export may still be there.
    Cutting,
    /// The token was moved and the old export read back as off; the new one may be there already.
    Reopening,
}

/// A node that was cut.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fenced {
    /// The node.
    pub node: String,
    /// The last generation that it could use.
    pub generation: u32,
    /// When it was cut.
    pub at: Time,
}

/// The format ledger: what is known of the data on the disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FormatLedger {
    /// The entry.
    pub state: FormatState,
    /// Intent: UID of the RdsAttachment that asked.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "attachmentUID")]
    pub attachment_uid: Option<String>,
    /// Intent: the node that may run mkfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Intent, Formatted: the filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// Formatted: the filesystem's UUID, which is the UID of the RdsVolume.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "fsUUID")]
    pub fs_uuid: Option<String>,
}

/// Entries of the format ledger. An absent ledger is Unknown.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatState {
    /// Nothing is known: never format.
    Unknown,
    /// This object's own create made the file: the only state in which a format may begin (I1).
    Blank,
    /// A node may run mkfs (I2).
    Intent,
    /// A filesystem was made: no code path reaches mkfs again.
    Formatted,
    /// Published as a raw block device.
    UsedAsBlock,
    /// Somebody else's data.
    Foreign,
}

/// The deletion in progress.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// The slot whose disk is removed.
    pub slot: String,
    /// The file that is removed after it, while no disk names it.
    pub path: String,
    /// How far it got.
    pub phase: DeletionPhase,
}

/// How far a deletion got.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionPhase {
    /// The next generation is recorded; token and export may still be the old ones.
    Retiring,
    /// The token was moved and the export read back as off; disk and file may be gone already.
    Removing,
}

/// The circuit breaker of a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakerStatus {
    /// Closed lets tries pass, Open refuses them, HalfOpen lets one trial pass.
    pub state: BreakerState,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Since when it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Time>,
    /// When one trial is let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// What failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// The `spec.circuitBreaker.resetToken` that was acted upon last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_reset_token: Option<String>,
    /// Half open: who may try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// How far the counts of each attachment went into this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folded: Vec<FoldedCounts>,
}

/// The one trial of a half-open breaker.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// UID of the RdsAttachment that may try.
    #[serde(rename = "attachmentUID")]
    pub attachment_uid: String,
    /// Until when.
    pub until: Time,
}

/// Counts of one attachment that the breaker has taken in: repeated or restarted, nothing counts twice.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FoldedCounts {
    /// UID of the RdsAttachment.
    #[serde(rename = "attachmentUID")]
    pub attachment_uid: String,
    /// Its failures.
    pub failures: u32,
    /// Its successes.
    pub successes: u32,
}

/// States of a breaker.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Tries pass.
    #[default]
    Closed,
    /// Tries are refused until `retryAt`.
    Open,
    /// One trial is under way.
    HalfOpen,
}

/// The identity under which nodes see the disk, as their agents report it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SeenNamespace {
    /// Generation of the export.
    pub generation: u32,
    /// What the newest connection saw.
    pub identity: String,
    /// UID of the RdsAttachment that saw it first.
    #[serde(rename = "attachmentUID")]
    pub attachment_uid: String,
    /// What was seen before by connections that are still spoken of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
}

/// The disk as it was last read back from the appliance.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiskFacts {
    /// Its comment: the owner tag and the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<bool>,
    /// `mount-filesystem`, which must be false: RouterOS would mount the guest's filesystem otherwise (B11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_filesystem: Option<bool>,
}

/// The creation of a disk, recorded before its command is sent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Creation {
    /// 8 hexadecimal digits, written into the disk's comment. Only a disk that carries them is proof that this object's
    /// own create made the file.
    pub nonce: String,
    /// When the last create command was about to be sent.
    pub started_at: Time,
    /// What became of it.
    pub outcome: CreationOutcome,
    /// An earlier create command was never answered: it may still run until the longest age of a command has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_unknown: Option<bool>,
}

/// What became of a create command.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreationOutcome {
    /// Sent, or about to be; whether it ran is not known. It may still run.
    Pending,
    /// The disk with our nonce was read back.
    Created,
    /// The appliance proved that it did nothing.
    Refused,
    /// An existing disk was bound.
    Adopted,
}
