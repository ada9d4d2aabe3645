//! Operator for MikroTik ROSE Data Servers.

pub mod config;
pub mod health;
pub mod routeros;
pub mod shutdown;
pub mod telemetry;
pub mod world;
