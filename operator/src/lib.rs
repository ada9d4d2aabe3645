//! Operator for MikroTik ROSE Data Servers.
pub mod routeros;
