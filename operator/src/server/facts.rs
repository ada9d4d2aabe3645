//! What the spec of an RdsServer means once its defaults are filled in, and what is said of one that cannot be read. Defaults are
//! not written into the object: GitOps tools would show them as a difference.

use std::time::Duration;

use rds_crds::identity::DEFAULT_NQN_PREFIX;
use rds_crds::{RdsServer, Size};

/// Prefix of the NQNs on this server.
#[must_use]
pub fn nqn_prefix(server: &RdsServer) -> &str {
    server.spec.nqn_prefix.as_deref().unwrap_or(DEFAULT_NQN_PREFIX)
}

/// TCP port of its exports.
#[must_use]
pub fn storage_port(server: &RdsServer) -> u16 {
    server.spec.storage.port.unwrap_or(4420)
}

/// TCP port of SSH.
#[must_use]
pub fn management_port(server: &RdsServer) -> u16 {
    server.spec.management.port.unwrap_or(22)
}

/// Bytes that volumes never get.
#[must_use]
pub fn reserved(server: &RdsServer) -> u64 {
    server
        .spec
        .limits
        .as_ref()
        .and_then(|l| l.reserved)
        .unwrap_or(Size(Size::GI))
        .bytes()
}

/// How much may be provisioned, in per cent of the pool's size.
#[must_use]
pub fn overcommit_percent(server: &RdsServer) -> u64 {
    u64::from(
        server
            .spec
            .limits
            .as_ref()
            .and_then(|l| l.overcommit_percent)
            .unwrap_or(100),
    )
}

/// Commands in flight at once.
#[must_use]
pub fn commands_in_flight(server: &RdsServer) -> usize {
    server
        .spec
        .limits
        .as_ref()
        .and_then(|l| l.commands_in_flight)
        .map_or(1, |n| n as usize)
}

/// After this time the result of a command counts as unknown.
#[must_use]
pub fn command_timeout(server: &RdsServer) -> Duration {
    Duration::from_secs(u64::from(
        server
            .spec
            .limits
            .as_ref()
            .and_then(|l| l.command_timeout_seconds)
            .unwrap_or(30),
    ))
}

/// What is said of an RdsServer that is stored and cannot be read: it exists, so nobody is told to create it.
#[must_use]
pub fn unreadable(name: &str, error: &str) -> String {
    format!("RdsServer `{name}` exists, but cannot be read: {error}; correct it with `kubectl edit rdsserver {name}`")
}
