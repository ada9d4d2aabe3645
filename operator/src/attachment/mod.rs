//! The attachment protocol: who may use a volume, how one leaves, and how a lost one is cut.
//!
//! [`admit`] and [`decide`] are pure and are what the model checker explores.

pub mod admit;
pub mod decide;
pub mod model;
#[cfg(test)]
mod tests;
