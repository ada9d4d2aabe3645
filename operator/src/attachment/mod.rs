//! The attachment protocol: who may use a volume, how one leaves, and how a lost one is cut.
//!
//! [`admit`] and [`decide`] are pure and are what the model checker explores.

pub mod admit;
mod api;
mod clock;
mod clones;
mod cuts;
#[cfg(test)]
mod cuts_tests;
pub mod decide;
mod evidence;
mod explain;
mod gate;
mod licence;
mod metrics;
mod migration;
pub mod model;
mod nodes;
mod observe;
#[cfg(test)]
mod observe_tests;
mod reconcile;
pub mod record;
mod rounds;
#[cfg(test)]
mod rounds_tests;
pub mod standing;
#[cfg(test)]
mod tests;
mod unwanted;
pub mod vouch;
mod wish;

pub(crate) use api::Store;
pub(crate) use clock::Clock;
pub(crate) use clones::Clones;
pub(crate) use gate::Gate;
pub use metrics::AttachmentMetrics;
pub(crate) use metrics::{FenceResult, MigrationResult, TestResult};
pub(crate) use migration::Turn;
pub(crate) use nodes::alive_nodes;
pub(crate) use observe::{ADMITTED, DISCONNECTED, Outside, Patience};
pub(crate) use reconcile::{Place, reconcile, release_note};
pub(crate) use rounds::Rounds;
pub(crate) use unwanted::Unwanted;

/// Names of all mutating steps, for the crash test.
pub(crate) fn steps() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = crate::csi::STEPS.into();
    all.extend(record::Change::NAMES);
    all.extend(reconcile::COMMANDS);
    all.extend(api::WRITES);
    all.push(rounds::REBUILD);
    all
}
