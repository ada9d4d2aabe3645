//! Node agent of the RDS storage operator.
//!
//! One process on each node; holds no RouterOS credential. It connects what the operator admits and says what it did, in
//! `status.agent` of its own node's RdsAttachments only. The managed NQN prefix is judged before anything else (R13).

pub mod attachment;
pub mod config;
pub mod crash;
pub mod csi;
pub mod fabrics;
#[cfg(debug_assertions)]
mod fake;
pub mod filesystem;
pub mod health;
pub mod host;
mod json_file;
pub mod lease;
pub mod lock;
pub mod mount;
pub mod nqn;
pub mod nvme;
pub mod run;
pub mod thread;
pub mod unreported_losses;

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
