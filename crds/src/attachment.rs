//! [`RdsAttachment`]: one node that wants, has or leaves one volume.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::volume::AccessMode;
use crate::volume_status::Role;

/// Condition types of an RdsAttachment. `ADMITTED` is the operator's, the others are the agent's, below `status.agent`.
pub mod kind {
    /// The node may connect.
    pub const ADMITTED: &str = "Admitted";
    /// Reason of `Admitted=False` once the detach was asked for.
    pub const WITHDRAWN: &str = "Withdrawn";
    /// The session of the admitted generation is live.
    pub const CONNECTED: &str = "Connected";
    /// True: the connection is gone, for good. The last word of the agent about this object.
    pub const DISCONNECTED: &str = "Disconnected";
    /// After a fence: nothing of an older generation is left on the node.
    pub const CLEARED: &str = "Cleared";
    /// False: data may be lost, or the device is not in order.
    pub const HEALTHY: &str = "Healthy";
    /// The volume is prepared for pods of the node: mounted, or ready as a raw device.
    pub const STAGED: &str = "Staged";
}

/// All reasons that an agent gives in its conditions. A node may write others, and they are not to be repeated as words of ours.
pub const AGENT_REASONS: [&str; 27] = [
    "Connected",
    "Reconnecting",
    "NoDisk",
    "DeviceLost",
    "Refused",
    "Unreachable",
    "ConnectFailed",
    "OtherGeneration",
    "OtherMachine",
    "NotManaged",
    "Ended",
    "InUse",
    "DisconnectFailed",
    "PossibleDataLoss",
    "IdentityChanged",
    "Mounted",
    "RawDevice",
    "Unstaged",
    "Checked",
    "CheckSkipped",
    "Damaged",
    "TurnedReadOnly",
    "UnexpectedData",
    "UseFailed",
    "NothingLeft",
    "Clean",
    "NeverConnected",
];

/// One node that wants, has or leaves one volume. Made and ended by the CSI Controller only.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "rds.csi.srvlab.io",
    version = "v1alpha1",
    kind = "RdsAttachment",
    plural = "rdsattachments",
    status = "RdsAttachmentStatus",
    derive = "PartialEq",
    shortname = "rdsatt",
    category = "rds",
    selectable = ".spec.node",
    doc = "One node that wants, has or leaves one RdsVolume. Made and ended by the CSI driver; only the operator may delete it.",
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.volume"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(
        name = "Admitted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Admitted")].status"#
    ),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = r#".status.agent.conditions[?(@.type=="Connected")].status"#
    ),
    printcolumn(
        name = "Healthy",
        type_ = "string",
        json_path = r#".status.agent.conditions[?(@.type=="Healthy")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Admitted")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("an RdsAttachment cannot change. It is made by ControllerPublishVolume and ended by ControllerUnpublishVolume"))]
pub struct RdsAttachmentSpec {
    /// Name of the RdsVolume.
    #[schemars(length(min = 1, max = 63))]
    pub volume: String,
    /// Name of the node. Agents watch only the attachments of their own node by this field.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Whether the node may only read. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// The access mode of the request.
    pub access_mode: AccessMode,
}

impl RdsAttachment {
    /// The node may only read: it was asked for so, or the mode says so.
    #[must_use]
    pub fn reads_only(&self) -> bool {
        self.spec.read_only == Some(true) || self.spec.access_mode == AccessMode::ReadOnlyMany
    }
}

/// What was decided and seen. `agent` belongs to the agent of that node, all else to the lease holder.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RdsAttachmentStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Admitted: whether the node may use the volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Role that the node was admitted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The NQN to connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nqn: Option<String>,
    /// The IP address to connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The TCP port to connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Generation of the export that `nqn`, `address` and `port` belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export_generation: Option<u32>,
    /// The one trial of a half-open breaker: this attachment may try until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_open_trial_until: Option<Time>,
    /// What the agent of the node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
}

/// What the agent of the node says. Written by that agent only.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Recorded before the agent connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Connected, Staged, Healthy, Cleared (after a fence: nothing of an older generation is left on the node), Disconnected
    /// (final for this object).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// UIDs of the pods that have the volume published on the node. Absent: that is not known, so it counts as used. An empty
    /// list: none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 128)))]
    pub used_by: Option<Vec<String>>,
    /// The block device, for people: it is looked up anew at each use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// State of the NVMe controller as the kernel spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_state: Option<String>,
    /// The namespace as the current connection showed it first, or the last connection if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Failures of this volume on this node since this object was made, for the breaker; it only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// `failures` since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_in_row: Option<u32>,
    /// Successes since this object was made; it only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successes: Option<u32>,
    /// The last failure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The size that the node's kernel shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<crate::size::Size>,
    /// The format handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<AgentFormat>,
    /// On the canary of the self-test: what the agent saw of the fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_test: Option<FenceEvidence>,
}

/// The namespace behind a connection. Within one connection its identity may not change: one that does is another disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Generation of the export that the agent connected to.
    pub generation: u32,
    /// What the kernel calls it: `uuid.<uuid>` or `eui.<identifier>` as the appliance gives it; anything else was made up by the
    /// kernel of what the appliance does not give, and tells nothing apart.
    #[schemars(length(max = 256))]
    pub identity: String,
    /// Boot ID of the kernel.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The connection: name and number of its kernel object. The number is given once in a boot.
    #[schemars(length(max = 64))]
    pub connection: String,
}

impl Namespace {
    /// What the appliance gives as its identity, if it gives one.
    #[must_use]
    pub fn given(&self) -> Option<&str> {
        let given = ["uuid.", "eui."].iter().any(|kind| self.identity.starts_with(kind));
        given.then_some(self.identity.as_str())
    }
}

/// What an agent saw of a fence on the canary of the self-test. Both halves are positive: what was not seen is not said.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct FenceEvidence {
    /// The generation that was cut.
    pub generation: u32,
    /// Boot ID of the kernel that saw it: a session that ended with a boot was not ended by a fence.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// What became of the session.
    pub session: SessionAfterFence,
    /// What a new connection to the old NQN met. Absent while it has not been answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_name: Option<OldName>,
}

/// What became of a session whose export was cut.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionAfterFence {
    /// It is gone, or its controller is not live any more.
    Dead,
    /// It was live for as long as the agent watched.
    Live,
}

/// What a connection to an NQN that was cut met.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldName {
    /// The target answered that it does not know it.
    Refused,
    /// The target let the host in.
    Accepted,
}

/// What an agent records before it connects: which run of which machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Boot ID of the kernel.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// System UUID of the machine.
    #[serde(rename = "systemUUID")]
    pub system_uuid: String,
    /// Machine ID of the operating system.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// UID of the Node object.
    #[serde(rename = "nodeUID")]
    pub node_uid: String,
    /// Generation of the export that it connects to.
    pub generation: u32,
}

/// The agent's half of the format handshake.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AgentFormat {
    /// The filesystem that it asks to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// UUID of the filesystem that it made.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "fsUUID")]
    pub fs_uuid: Option<String>,
    /// Whether the volume is published as a raw block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_as_block: Option<bool>,
}
