//! [`RdsServer`]: one appliance and one pool on it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::Size;

/// One ROSE Data Server and one pool on it. The operator talks to it over SSH; nodes connect to its storage address.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "rds.csi.srvlab.io",
    version = "v1alpha1",
    kind = "RdsServer",
    plural = "rdsservers",
    status = "RdsServerStatus",
    derive = "PartialEq",
    shortname = "rdssrv",
    category = "rds",
    doc = "One MikroTik ROSE Data Server and one pool on it. The operator manages it over SSH; nodes reach its disks over NVMe/TCP.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of an RdsServer has at most 63 characters, as volumes name it. Take a shorter one"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.pool.summary"),
    printcolumn(name = "Volumes", type_ = "integer", json_path = ".status.volumes"),
    printcolumn(name = "Provisioned", type_ = "string", json_path = ".status.provisioned"),
    printcolumn(
        name = "Fencing",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="FenceProven")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".spec.management.address",
        priority = 1
    ),
    printcolumn(
        name = "FenceProven",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="FenceProven")].status"#,
        priority = 1
    ),
    printcolumn(
        name = "Orphans",
        type_ = "integer",
        json_path = ".status.orphans.count",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.nqnPrefix) ? self.nqnPrefix : 'nqn.2000-02.com.mikrotik:pvc-') == (has(oldSelf.nqnPrefix) ? oldSelf.nqnPrefix : 'nqn.2000-02.com.mikrotik:pvc-')").message("nqnPrefix cannot change: the names of volumes begin with it, and under another one they could be neither attached, detached nor fenced. Unset it counts as nqn.2000-02.com.mikrotik:pvc-. While no volume is on this RdsServer, delete it and create it anew; else create another one for another prefix").field_path(".nqnPrefix")
)]
pub struct RdsServerSpec {
    /// Where the operator reaches RouterOS over SSH.
    pub management: Management,
    /// The Secret, in the operator's namespace, that holds `rds-private-key` (an OpenSSH private key) and
    /// `rds-host-key` (the pinned host keys of the appliance, one a line; list two while rotating).
    pub secret_ref: SecretReference,
    /// Where nodes reach the NVMe/TCP exports.
    pub storage: Storage,
    /// Directory of the volumes' image files, below the mount point of the pool, for example `/storage-pool/metal-csi`.
    /// It must exist. Several clusters may share an appliance under different base paths.
    #[x_kube(validation = Rule::new("self == oldSelf").message("basePath cannot change: volumes live under it. Create another RdsServer for another path"))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$')").message("basePath must be absolute, of A-Z, a-z, 0-9, '.', '_' and '-' between slashes, with no part that begins with a dot (so no ..) and no slash at its end"))]
    #[schemars(length(min = 2, max = 200))]
    pub base_path: String,
    /// Prefix of the NQN of every volume. Nodes touch only NQNs with this prefix (CSI_MANAGED_NQN_PREFIX).
    /// At most 137 bytes, so that a name of 63 and a generation of 23 fit into the 223 bytes of an NQN. It cannot change.
    /// Default: `nqn.2000-02.com.mikrotik:pvc-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^nqn\\\\.[0-9]{4}-[0-9]{2}\\\\.[a-z0-9.-]+:[a-z0-9._:-]*$')").message("nqnPrefix must begin like nqn.2000-02.com.example: with the colon, and go on in a-z, 0-9, '.', '_', ':' and '-'. The usual one is nqn.2000-02.com.mikrotik:pvc-"))]
    #[schemars(length(min = 1, max = 137))]
    pub nqn_prefix: Option<String>,
    /// Bounds on what the operator asks of this appliance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Topology segments of volumes on this appliance, for example `topology.rds.csi.srvlab.io/zone: rack-1`.
    /// Default: none, volumes are reachable from every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<BTreeMap<String, String>>,
    /// What the operator does about a node that is lost while it holds a volume. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
    /// What happens to disks of this cluster on the appliance that no RdsVolume names. Default: Report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan_policy: Option<OrphanPolicy>,
    /// Queue new work and leave the data path alone, for example during a firmware upgrade. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
}

/// The SSH side of an appliance.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Management {
    /// Host name or IP address.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9:][A-Za-z0-9.:-]*$')").message("management.address must be a host name or an IP address, without user, port or brackets"))]
    #[schemars(length(min = 1, max = 253))]
    pub address: String,
    /// TCP port of SSH. Default: 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// RouterOS user, of a group with the policies ssh, read, write and test.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._@-]*$')").message("management.user must be the name of a RouterOS user: A-Z, a-z, 0-9, '.', '_', '@' and '-'"))]
    #[schemars(length(min = 1, max = 64))]
    pub user: String,
}

/// A Secret in the operator's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The NVMe/TCP side of an appliance.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// IP address of the storage network. A literal address: nodes resolve no names for it.
    #[x_kube(validation = Rule::new("isIP(self)").message("storage.address must be a literal IP address: nodes resolve no names for storage"))]
    #[schemars(length(min = 2, max = 45))]
    pub address: String,
    /// TCP port of the exports. Default: 4420.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// Bounds on what the operator asks of an appliance.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Commands in flight at once. Default: 1, as concurrent channels were seen to stall RouterOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub commands_in_flight: Option<u32>,
    /// Seconds after which the result of a command counts as unknown. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 600))]
    pub command_timeout_seconds: Option<u32>,
    /// Space of the pool that is never given to volumes, in bytes or as a quantity. Default: 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 0 && self <= 1152921504606846976 : self.matches('^[+]?([0-9]+[.]?[0-9]{0,18}|[.][0-9]{1,18})([numkMGTPE]|[KMGTPE]i|[eE][+-]?(0?[0-9]|1[0-8]))?$') && quantity(self).compareTo(quantity('1Ei')) <= 0").message("limits.reserved must be a number of bytes or a quantity such as 10Gi or 10G, without a B, at least 0 and at most 1Ei"))]
    pub reserved: Option<Size>,
    /// How much may be provisioned, in per cent of the pool's size. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub overcommit_percent: Option<u32>,
}

/// What the operator does about a node that is lost while it holds a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fencing {
    /// Cut it at the target, once the self-test has shown that this works on the running RouterOS version.
    #[default]
    Auto,
    /// Say what would be done and wait for the node, its reboot or a person.
    Plan,
    /// Cut it without proof by the self-test: the administrator vouches that unexporting ends sessions.
    Assume,
}

/// What happens to disks of this cluster on the appliance that no RdsVolume names.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrphanPolicy {
    /// They are counted and listed in the status.
    #[default]
    Report,
    /// They are deleted after two observations. Not available yet: the operator reports only, and says so.
    Delete,
}

/// What was seen of an appliance. Written by the lease holder only.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RdsServerStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reachable, Compatible, PoolHealthy, FenceProven; Stalled and DeletionBlocked while they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// RouterOS version, for example `7.24.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Board name, for example `RDS2216-2XG-4S+4XS-2XQ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// The pool below the base path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// Sum of the sizes of all image disks of the pool, whoever owns them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<Size>,
    /// What a new volume may take at most: free space less the reserve, within the overcommit limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Size>,
    /// Number of RdsVolumes that name this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<u32>,
    /// What is known of the management connection while the appliance does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<ManagementStatus>,
    /// When it was last seen that every VolumeAttachment which is attached has its RdsAttachment. Only what is found without one
    /// after this moment can be an orphan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments_complete_at: Option<Time>,
    /// Disks with this cluster's tag that no RdsVolume names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<Orphans>,
    /// The self-test behind the condition FenceProven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_test: Option<FenceTest>,
}

/// The self-test of fencing: what is known of the last one, and the one that runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FenceTest {
    /// RouterOS version that the verdict in FenceProven is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the last test ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The node that the last test ran on: the next one takes another, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Tests since the last one that proved something good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Before this moment no test begins by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// The test in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<FenceTestRun>,
}

/// A self-test in progress.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FenceTestRun {
    /// The node that holds the session.
    pub node: String,
    /// RouterOS version at its beginning.
    pub version: String,
    /// When it began.
    pub started_at: Time,
    /// UID of the RdsAttachment whose session was seen live. From then on the canary is cut.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "attachmentUID")]
    pub attachment_uid: Option<String>,
}

/// The pool that holds the image files.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Slot of the pool's row in `/disk`.
    pub slot: String,
    /// Filesystem, for example `xfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// RAID state, for example `clean`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Free space in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// For people: `6.6 TiB of 7.0 TiB free`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// State of the connection to the management address.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManagementStatus {
    /// Since when the appliance has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since: Option<Time>,
}

/// Disks with this cluster's tag that no RdsVolume names.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Orphans {
    /// How many.
    pub count: u32,
    /// The first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Orphan>,
}

/// One disk with this cluster's tag that no RdsVolume names.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Slot of the disk; absent for a file without a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Path of its image file.
    pub path: String,
    /// Its comment on the appliance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}
