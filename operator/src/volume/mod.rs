//! The controller of RdsVolume: creation, export, growth, deletion, retention, adoption, repair, drift.
//!
//! [`decide`] says what to do next and is pure; [`reconcile`] observes, asks it, and does it. `view` reads what the
//! appliance showed, `record` changes what the status remembers, `status` says it to people.

mod act;
mod api;
mod appliance_view;
mod controller;
mod creation;
mod decide;
mod deletion;
mod model;
mod orphan_attachments;
mod persistent_volumes;
mod problem;
mod reconcile;
mod record;
mod status;
#[cfg(test)]
mod testbed;
#[cfg(test)]
mod tests;
mod want;

pub(crate) use api::{ApiError, Store};
pub(crate) use controller::{Trigger, run};
pub(crate) use model::{Change, is_toggling};
pub(crate) use persistent_volumes::{PersistentVolumes, persistent_volumes_of};
pub(crate) use problem::reason;
pub(crate) use reconcile::{Context, Memory};
pub(crate) use status::{applied_part, explain_use, tell_holders};

/// Names of all mutating steps, for the crash test.
pub(crate) fn steps() -> Vec<&'static str> {
    let mut all = vec!["add-finalizer"];
    all.extend(model::Change::NAMES);
    all.extend(model::Mutation::ALL.map(model::Mutation::name));
    all.extend(["apply-status", "drop-finalizer"]);
    all
}
