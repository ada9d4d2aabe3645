//! The agent's side of the attachment protocol: it connects what is admitted, and says what it has done.
//!
//! [`decide`](decide::decide) is pure; [`act`] reads live, decides and takes one step; [`watch`] says when; [`sweep`] finds
//! sessions of which no attachment speaks.

pub mod act;
mod canary;
pub mod decide;
#[cfg(test)]
mod explore;
pub mod host_calls;
pub mod loss;
pub mod model;
pub mod namespace;
pub mod observe;
mod orphan_session;
mod report;
pub(crate) mod status_writer;
pub mod sweep;
#[cfg(test)]
mod tests;
pub mod watch;
