//! The attachment protocol: who may use a volume, how one leaves, and how a lost one is cut.
//!
//! [`admit`] and [`decide`] are pure and are what the model checker explores.

pub mod admit;
mod api;
pub mod decide;
mod evidence;
mod explain;
mod licence;
mod metrics;
mod migration;
pub mod model;
mod observe;
mod reconcile;
pub mod record;
mod rounds;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod vouch;

pub(crate) use api::Store;
pub use metrics::FenceMetrics;
pub(crate) use metrics::{FenceResult, MigrationResult, TestResult};
pub(crate) use migration::Turn;
pub(crate) use observe::{ADMITTED, Clock, DISCONNECTED, Outside, Patience, alive_nodes};
pub(crate) use reconcile::{Place, reconcile, release_note};
pub(crate) use rounds::Rounds;
