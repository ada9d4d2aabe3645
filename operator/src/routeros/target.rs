//! Which appliance, and how to get in.

use std::time::Duration;

use secrecy::SecretString;

use super::types::DiskPath;

/// Bounds of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Execs at a time; default 1, as concurrent channels can stall RouterOS.
    pub max_in_flight: usize,
    /// From sending to reply, the connect included; default 30 s.
    pub command_timeout: Duration,
    /// Longest wait for a turn; default 60 s.
    pub queue_timeout: Duration,
    /// Longest connect; default 10 s.
    pub connect_timeout: Duration,
    /// Longest pause between two attempts to connect; default 30 s.
    pub max_backoff: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: 1,
            command_timeout: Duration::from_secs(30),
            queue_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            max_backoff: Duration::from_secs(30),
        }
    }
}

/// An appliance and a login on it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the RdsServer, for messages.
    pub name: String,
    /// Host name or IP address of the management interface.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// SSH user.
    pub user: String,
    /// OpenSSH private key.
    pub private_key: SecretString,
    /// Pinned host keys, `ssh-rsa AAAA..`, with or without a host in front.
    pub host_keys: Vec<String>,
    /// Folder of the images: `/<pool>/<folder>`.
    pub base_path: DiskPath,
    /// Bounds.
    pub limits: Limits,
}
