//! Operator for MikroTik ROSE Data Servers.

mod agent_reports;
pub mod attachment;
pub mod clients;
pub mod config;
pub mod crash;
pub mod csi;
mod events;
pub mod health;
pub mod leader;
mod queue;
pub mod routeros;
pub mod server;
pub mod shutdown;
pub mod telemetry;
mod volume;
pub mod world;
