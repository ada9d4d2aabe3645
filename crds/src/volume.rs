//! [`RdsVolume`]: one file-backed disk on an appliance and its export.
//!
//! `spec` is what a user or the CSI Controller asks; `status` is what was seen or decided. The compare-and-swap fields
//! of the status (see [`CAS_STATUS_FIELDS`]) are written by the lease holder with a resourceVersion, all others by its
//! server-side apply. A test holds that the two sets are disjoint and complete.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::Size;
pub use crate::volume_status::*;

/// One volume: a file-backed disk on an RdsServer, exported over NVMe/TCP.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "rds.csi.srvlab.io",
    version = "v1alpha1",
    kind = "RdsVolume",
    plural = "rdsvolumes",
    status = "RdsVolumeStatus",
    derive = "PartialEq",
    shortname = "rdsvol",
    category = "rds",
    doc = "One volume: a file-backed disk on an RdsServer, exported over NVMe/TCP. Made from PersistentVolumeClaims by the CSI driver, or by hand.",
    validation = Rule::new("self.spec.capacity == oldSelf.spec.capacity || !isQuantity(string(self.spec.capacity)) || !has(self.status) || !has(self.status.capacity) || quantity(string(self.spec.capacity)).compareTo(quantity(string(self.status.capacity))) >= 0")
        .message("spec.capacity cannot be below status.capacity, the measured size of the disk: a volume never shrinks. Ask for at least that size")
        .field_path(".spec.capacity"),
    validation = Rule::new("has(oldSelf.spec.slot) || !has(self.spec.slot) || !has(oldSelf.status) || !has(oldSelf.status.slot) || self.spec.slot == oldSelf.status.slot")
        .message("spec.slot differs from status.slot, the disk that this volume has. Leave it out, or write that one")
        .field_path(".spec.slot"),
    validation = Rule::new("has(oldSelf.spec.path) || !has(self.spec.path) || !has(oldSelf.status) || !has(oldSelf.status.path) || self.spec.path == oldSelf.status.path")
        .message("spec.path differs from status.path, the file that this volume has. Leave it out, or write that one")
        .field_path(".spec.path"),
    validation = Rule::new("has(oldSelf.spec.nqn) || !has(self.spec.nqn) || !has(oldSelf.status) || !has(oldSelf.status.nqn) || self.spec.nqn == oldSelf.status.nqn || oldSelf.status.nqn.startsWith(self.spec.nqn + '.g')")
        .message("spec.nqn differs from status.nqn, the name that this volume has. Leave it out, or write that one without its .g<generation> end")
        .field_path(".spec.nqn"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.exportGeneration) || (has(self.status) && has(self.status.exportGeneration))")
        .message("status.exportGeneration cannot be unset: it counts the fences, and a lost count would let a fenced node write again")
        .field_path(".status.exportGeneration"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.format) || (has(self.status) && has(self.status.format))")
        .message("status.format cannot be unset: it is what keeps data from being formatted. Set its state to Unknown if nothing is known")
        .field_path(".status.format"),
    validation = Rule::new("!has(self.status) || !has(self.status.format) || self.status.format.state != 'Blank' || !has(oldSelf.status) || !has(oldSelf.status.format) || oldSelf.status.format.state == 'Blank'")
        .message("status.format cannot become Blank again: only the create that made the file proves that it is blank")
        .field_path(".status.format"),
    validation = Rule::new("!has(self.status) || !has(self.status.format) || self.status.format.state != 'Intent' || (has(oldSelf.status) && has(oldSelf.status.format) && oldSelf.status.format.state in ['Blank', 'Intent'])")
        .message("status.format can become Intent from Blank only: anything else may hold data and must never be formatted")
        .field_path(".status.format"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of an RdsVolume has at most 63 characters, as it becomes part of the NQN. Take a shorter one"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.server"),
    printcolumn(name = "Node(s)", type_ = "string", json_path = ".status.nodes"),
    printcolumn(name = "Breaker", type_ = "string", json_path = ".status.circuitBreaker.state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".status.claim", priority = 1),
    printcolumn(name = "Slot", type_ = "string", json_path = ".status.slot", priority = 1),
    printcolumn(name = "NQN", type_ = "string", json_path = ".status.nqn", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.explain", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.slot) || (has(self.slot) && self.slot == oldSelf.slot)").message("slot cannot change or be removed once set: it names the disk on the appliance"),
    validation = Rule::new("!has(oldSelf.path) || (has(self.path) && self.path == oldSelf.path)").message("path cannot change or be removed once set: it names the file that holds the data"),
    validation = Rule::new("!has(oldSelf.nqn) || (has(self.nqn) && self.nqn == oldSelf.nqn)").message("nqn cannot change or be removed once set: nodes find the volume by it"),
    validation = Rule::new("has(self.requestName) == has(oldSelf.requestName) && (!has(self.requestName) || self.requestName == oldSelf.requestName)").message("requestName cannot change: it is the name that the CSI request carried"),
    validation = Rule::new("(has(self.volumeMode) ? self.volumeMode : 'Filesystem') == (has(oldSelf.volumeMode) ? oldSelf.volumeMode : 'Filesystem')").message("volumeMode cannot change. Create another volume and copy the data"),
    validation = Rule::new("!has(oldSelf.fsType) || (has(self.fsType) && self.fsType == oldSelf.fsType)").message("fsType cannot change or be removed once set. Create another volume and copy the data"),
    validation = Rule::new("has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source)").message("source cannot change: it says what the volume was filled from"),
    validation = Rule::new("(has(self.adopt) && self.adopt) == (has(oldSelf.adopt) && oldSelf.adopt)").message("adopt cannot change after creation. Delete this object (the disk stays) and create it anew"),
    validation = Rule::new("!(has(self.adopt) && self.adopt) || (has(self.slot) && has(self.path))").message("adopt needs slot and path of the existing disk, spelled exactly"),
    validation = Rule::new("!(has(self.adopt) && self.adopt) || !has(self.source)").message("adopt binds a disk that has its data already: remove source"),
    validation = Rule::new("!(has(self.adopt) && self.adopt) || !has(self.deletionPolicy) || self.deletionPolicy == 'Retain'").message("an adopted disk keeps deletionPolicy Retain: its data is not ours to remove"),
    validation = Rule::new("!self.accessModes.exists(m, m == 'ReadWriteMany') || (has(self.volumeMode) && self.volumeMode == 'Block')").message("ReadWriteMany needs volumeMode: Block: a filesystem that two nodes mount is destroyed. Use volumeMode: Block, or ReadWriteOnce"),
    validation = Rule::new("!has(self.fsType) || !has(self.volumeMode) || self.volumeMode == 'Filesystem'").message("fsType goes with volumeMode: Filesystem only. Remove it for a raw block volume"),
    validation = Rule::new("!isQuantity(string(self.capacity)) || quantity(string(self.capacity)).compareTo(quantity('1Mi')) >= 0 && quantity(string(self.capacity)).compareTo(quantity('16Ti')) <= 0").message("capacity must be between 1Mi and 16Ti")
)]
pub struct RdsVolumeSpec {
    /// Name of the RdsServer that holds the volume.
    #[x_kube(validation = Rule::new("self == oldSelf").message("the server of a volume cannot change. Create another volume there and copy the data"))]
    #[schemars(length(min = 1, max = 63))]
    pub server: String,
    /// Wanted size in bytes or as a quantity, for example `10Gi`. Rounded up to a multiple of 4096. May be raised at
    /// any time, and lowered again down to the measured size (`status.capacity`).
    #[x_kube(validation = Rule::new("type(self) == int || self.matches('^[+]?([0-9]+[.]?[0-9]{0,18}|[.][0-9]{1,18})([numkMGTPE]|[KMGTPE]i|[eE][+-]?(0?[0-9]|1[0-8]))?$')").message("capacity must be a number of bytes or a quantity such as 10Gi"))]
    pub capacity: Size,
    /// RouterOS slot of the disk: 1 to 32 characters of a-z, 0-9 and `-`. Default: derived from the UUID in the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("slot may have a-z, 0-9 and - only, with no - at its ends. Leave it out to get one from the volume's UUID"))]
    #[schemars(length(min = 1, max = 32))]
    pub slot: Option<String>,
    /// Absolute path of the image file on the appliance, below the server's basePath.
    /// Default: `<basePath>/<slot>.img`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$')").message("path must be absolute, of A-Z, a-z, 0-9, '.', '_' and '-' between slashes, with no part that begins with a dot (so no ..) and no slash at its end. Leave it out to get <basePath>/<slot>.img"))]
    #[schemars(length(min = 2, max = 255))]
    pub path: Option<String>,
    /// The base NQN. Default: the server's nqnPrefix and the name. After a fence nodes use `status.nqn` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^nqn\\\\.[0-9]{4}-[0-9]{2}\\\\.[a-z0-9.-]+:[a-z0-9._:-]+$')").message("nqn must look like nqn.2000-02.com.example:name, in a-z, 0-9, '.', '_', ':' and '-'. Leave it out to get the server's nqnPrefix and the name"))]
    #[schemars(length(min = 1, max = 200))]
    pub nqn: Option<String>,
    /// The name in the CSI request, when it was not a legal name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub request_name: Option<String>,
    /// Filesystem or Block. Default: Filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<VolumeMode>,
    /// How nodes may use the volume. ReadWriteMany is for raw block only: two nodes, during a live migration.
    #[x_kube(validation = Rule::new("self == oldSelf").message("accessModes cannot change. Create another volume and copy the data"))]
    #[schemars(length(min = 1, max = 4))]
    pub access_modes: Vec<AccessMode>,
    /// Filesystem that a blank volume gets at its first use: ext4, ext3, xfs or btrfs. Default: ext4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<FsType>,
    /// Further arguments of mkfs, one a word. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(word, !(word in ['-f', '-F', '--force']))").message("mkfsOptions may not hold -f, -F or --force: a filesystem is never made over data. Remove it"))]
    #[x_kube(validation = Rule::new("self.all(word, word.matches('^[A-Za-z0-9_=.:,^+%-]+$'))").message("mkfsOptions are words of letters, digits and _-=.:,^+% only, one list item a word"))]
    #[schemars(length(max = 16), inner(length(max = 128)))]
    pub mkfs_options: Vec<String>,
    /// Mount options. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 128)))]
    pub mount_options: Vec<String>,
    /// How nodes connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Seconds that a live migration may take, 30 to 3600. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 3600))]
    pub migration_timeout_seconds: Option<u32>,
    /// Who may be the second node of a ReadWriteMany volume. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_policy: Option<MigrationPolicy>,
    /// When repeated failures stop further tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What happens to the data when the volume is deleted. Default: Retain for volumes written by hand; those made
    /// from a PersistentVolumeClaim are written with Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// What the volume is filled from. Not available yet: a volume with a source is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VolumeSource>,
    /// Bind an existing, untagged disk at exactly this slot, path and size instead of making one. It is never
    /// formatted and its data is never removed. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<bool>,
    /// The claim that asked for the volume, for people: it is written into the disk's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimReference>,
}

/// Filesystem or raw device.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumeMode {
    /// The node makes and mounts a filesystem.
    #[default]
    Filesystem,
    /// The pod gets the raw device.
    Block,
}

/// How nodes may use a volume; the words of Kubernetes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessMode {
    /// One node writes.
    ReadWriteOnce,
    /// One pod writes.
    ReadWriteOncePod,
    /// Several nodes read, none writes.
    ReadOnlyMany,
    /// Two nodes, raw block only, during a live migration.
    ReadWriteMany,
}

impl AccessMode {
    /// Whether a volume that was made for these modes can be used in this one: the one rule for ValidateVolumeCapabilities and
    /// for admission. A pod alone on a node is a node alone, and who only reads fits every volume.
    #[must_use]
    pub fn served_by(self, made_for: &[Self]) -> bool {
        match self {
            Self::ReadOnlyMany => true,
            Self::ReadWriteOncePod => made_for.contains(&self) || made_for.contains(&Self::ReadWriteOnce),
            Self::ReadWriteOnce | Self::ReadWriteMany => made_for.contains(&self),
        }
    }
}

/// Filesystems that a node can make.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// The default.
    #[default]
    Ext4,
    /// For volumes of old clusters.
    Ext3,
    /// At least 300 MiB.
    Xfs,
    /// Copy on write.
    Btrfs,
}

impl FsType {
    /// The word in objects and requests, which is that of the kernel too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext3 => "ext3",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl std::str::FromStr for FsType {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Ext4, Self::Ext3, Self::Xfs, Self::Btrfs]
            .into_iter()
            .find(|fs| fs.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a filesystem that a node can make: give ext4, ext3, xfs or btrfs"))
    }
}

/// How nodes connect.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// IP address of the target. Default: the storage address of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("isIP(self)").message("connection.address must be a literal IP address: nodes resolve no names for storage"))]
    #[schemars(length(min = 2, max = 45))]
    pub address: Option<String>,
    /// TCP port of the export. Default: the storage port of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Seconds until the kernel gives a lost controller up; -1 for never, 0 for the kernel's default (600). Default: -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub ctrl_loss_tmo: Option<i32>,
    /// Seconds between two attempts to reconnect, at least 1. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub reconnect_delay: Option<i32>,
    /// Seconds between keep-alives; 0 for the kernel's default. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_alive_tmo: Option<i32>,
    /// I/O queues. Default: the smaller of 4 and the number of CPUs of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub io_queues: Option<u32>,
}

/// Who may be the second node of a ReadWriteMany volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPolicy {
    /// Anybody, within the deadline.
    #[default]
    Any,
    /// Only when both users are virt-launcher pods of the same virtual machine.
    Kubevirt,
}

/// When repeated failures stop further tries.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Failures in a row that open the breaker. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<u32>,
    /// Seconds that it stays open before one trial. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub open_seconds: Option<u32>,
    /// Any text; changing it resets the breaker once. `status.circuitBreaker.observedResetToken` echoes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reset_token: Option<String>,
}

/// What happens to the data when the volume is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Disk and file are removed, once nothing uses them and the deletion was really asked for.
    Delete,
    /// Disk and file stay; only our mark on the disk is removed.
    Retain,
}

/// What a volume is filled from: exactly one of both.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.snapshot) != has(self.volume)").message("source needs exactly one of snapshot and volume"))]
pub struct VolumeSource {
    /// Name of an RdsSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub snapshot: Option<String>,
    /// Name of an RdsVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub volume: Option<String>,
}

/// The claim that asked for a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReference {
    /// Namespace of the PersistentVolumeClaim.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// What was seen and decided, by the operator. Never edit it: it is what keeps two nodes from writing at once.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RdsVolumeStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Provisioned, Exported, Healthy; Drifted, ExpandPending, DeletionBlocked, FencePending, IdentityChanged and
    /// Stalled while they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One plain line: what is wanted, what is seen, what blocks, what happens next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
    /// The measured size of the disk, read back from the appliance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
    /// Slot of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Path of the image file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The effective NQN: the base, or after the n-th fence the base and `.g<n>-<random>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nqn: Option<String>,
    /// IP address at which nodes reach the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// TCP port at which nodes reach the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The holders' nodes in one word, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// `namespace/name` of the claim, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The disk as it was last read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskFacts>,
    /// A live migration in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// The circuit breaker of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerStatus>,
    /// The identity under which nodes see the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<SeenNamespace>,

    /// The creation of the disk: recorded before its command is sent. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<Creation>,
    /// Generation of the export; a fence raises it, nothing lowers it (D3). Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("exportGeneration never goes down"))]
    pub export_generation: Option<u32>,
    /// The generation with which the export is being switched off and on, on appliances that resize only so. Nobody is admitted to
    /// that generation before it was read back: the command might run late, and would cut whoever is connected. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toggling: Option<u32>,
    /// THE record of admission: who may use the volume. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Set when the record of holders may have holes (the status was lost or restored): a fence is owed before anybody
    /// is admitted. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders_unknown_since: Option<Time>,
    /// A fence in progress. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Nodes that were cut, until they have acknowledged it. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<Fenced>,
    /// The format ledger: absent means Unknown, never format. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormatLedger>,
    /// The deletion in progress: the licence to remove the file. Compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
}

/// Fields of [`RdsVolumeStatus`] that only a compare-and-swap by the lease holder may write; server-side apply never
/// names them, as its force would drop what it does not name.
pub const CAS_STATUS_FIELDS: [&str; 9] = [
    "creation",
    "exportGeneration",
    "toggling",
    "holders",
    "holdersUnknownSince",
    "fence",
    "fenced",
    "format",
    "deletion",
];

/// All other fields of [`RdsVolumeStatus`]: the lease holder's server-side apply (`manager::OPERATOR`) owns them.
pub const APPLIED_STATUS_FIELDS: [&str; 15] = [
    "observedGeneration",
    "conditions",
    "explain",
    "capacity",
    "slot",
    "path",
    "nqn",
    "address",
    "port",
    "nodes",
    "claim",
    "disk",
    "migration",
    "circuitBreaker",
    "namespace",
];
