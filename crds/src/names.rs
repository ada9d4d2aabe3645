//! Every name that is written into Kubernetes by us, once.
//!
//! Labels, annotations and finalizers share the prefix [`DOMAIN`]; `docs/labels-annotations.md` lists them for people.

/// API group, annotation domain and default CSI driver name. Kept from the Go driver (predecessor K20).
pub const DOMAIN: &str = "rds.csi.srvlab.io";

/// Version of the API group that this release reads and writes.
pub const API_VERSION: &str = "v1alpha1";

/// The one finalizer we set, on RdsServer, RdsVolume and RdsAttachment. Owned by the operator only: a finalizer that an
/// agent owned would let a dead node wedge a deletion.
pub const FINALIZER: &str = "rds.csi.srvlab.io/protect";

/// Annotation that lets a person pass the admission policies on deletion. Value: the name of the object.
pub const ANNOTATION_CONFIRM_DELETE: &str = "rds.csi.srvlab.io/confirm-delete";

/// Annotation on an RdsVolume by which DeleteVolume (or a person, as a last resort) records its request to remove the
/// data. Value: the UID of the RdsVolume it is meant for; any other value is ignored (design D2).
pub const ANNOTATION_DELETE_REQUESTED: &str = "rds.csi.srvlab.io/delete-requested";

/// Annotation on a PV, RdsVolume or RdsAttachment that resets the circuit breaker once. Value: exactly `"true"` (R39).
pub const ANNOTATION_RESET_BREAKER: &str = "rds.csi.srvlab.io/reset-circuit-breaker";

/// Annotation on an RdsVolume by which a person cuts a lost node at the target at once. Value: the node.
pub const ANNOTATION_FENCE_NOW: &str = "rds.csi.srvlab.io/fence-now";

/// Annotation on an RdsVolume by which a person vouches that a node is off. Value: `<node>/<bootID>`.
pub const ANNOTATION_NODE_IS_OFF: &str = "rds.csi.srvlab.io/node-is-off";

/// Annotation on the Lease of a node's agent: the host NQN by which that machine connects. The same one on two nodes means that
/// one was cloned from the other.
pub const ANNOTATION_HOST_NQN: &str = "rds.csi.srvlab.io/host-nqn";

/// Annotation on an RdsServer by which a person asks for the self-test of fencing now. Any value.
pub const ANNOTATION_TEST_FENCING: &str = "rds.csi.srvlab.io/test-fencing";

/// Label on RdsVolumes made by CreateVolume and on RdsAttachments made by ControllerPublishVolume; hand-written ones lack it.
/// Value: `csi`. The admission policies and the rules of deletion tell the two kinds apart by it.
pub const LABEL_MADE_BY: &str = "rds.csi.srvlab.io/made-by";

/// Value of [`LABEL_MADE_BY`] on volumes that came from a PersistentVolumeClaim.
pub const MADE_BY_CSI: &str = "csi";

/// Value of [`LABEL_MADE_BY`] on the canary of the self-test of fencing, which holds nobody's data. Only the operator sets it.
pub const MADE_BY_SELF_TEST: &str = "self-test";

/// Topology key reported by the node agent and used in `RdsServer.spec.topology` (K13).
pub const TOPOLOGY_ZONE: &str = "topology.rds.csi.srvlab.io/zone";

/// Field managers: one writer per field (see `docs/labels-annotations.md`).
pub mod manager {
    /// `spec` of RdsVolume and RdsAttachment, written by the CSI Controller.
    pub const CSI: &str = "rds-csi-controller";
    /// The compare-and-swap fields of `RdsVolume.status`, written by the lease holder with a resourceVersion.
    pub const ADMISSION: &str = "rds-admission";
    /// All other status written by the lease holder, by server-side apply.
    pub const OPERATOR: &str = "rds-operator";
    /// `RdsServer.status.fenceTest` and the condition `FenceProven`, written by the lease holder's self-test.
    pub const SELF_TEST: &str = "rds-self-test";
    /// `RdsAttachment.status.agent`, written by the agent of that node.
    pub const AGENT: &str = "rds-node-agent";
}
