//! The attachment protocol: who may use a volume, how one leaves, and how a lost one is cut.
//!
//! [`admit`] and [`decide`] are pure and are what the model checker explores.

mod admission_gate;
pub mod admit;
mod api;
pub mod decide;
mod evidence;
mod explain;
mod fence_permission;
mod fence_quota;
#[cfg(test)]
mod fence_quota_tests;
pub mod holder_state;
mod metrics;
mod migration;
pub mod model;
pub mod node_off_claim;
mod nodes;
mod observations;
mod observe;
#[cfg(test)]
mod observe_tests;
mod reconcile;
pub mod record;
mod resync;
#[cfg(test)]
mod resync_tests;
mod shared_host_nqn;
#[cfg(test)]
mod tests;
mod unwanted;
mod volume_attachments;

pub(crate) use admission_gate::AdmissionGate;
pub(crate) use api::Store;
pub use metrics::AttachmentMetrics;
pub(crate) use metrics::{FenceResult, MigrationResult, TestResult};
pub(crate) use migration::Turn;
pub(crate) use nodes::alive_nodes;
pub(crate) use observations::Observations;
pub(crate) use observe::{ADMITTED, DISCONNECTED, Outside, Patience};
pub(crate) use reconcile::{Place, reconcile, release_note};
pub(crate) use resync::Resync;
pub(crate) use shared_host_nqn::SharedHostNqns;
pub(crate) use unwanted::Unwanted;

/// Names of all mutating steps, for the crash test.
pub(crate) fn steps() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = crate::csi::STEPS.into();
    all.extend(record::Change::NAMES);
    all.extend(reconcile::COMMANDS);
    all.extend(api::WRITES);
    all.push(resync::REBUILD);
    all
}
