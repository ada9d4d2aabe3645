//! Operator for MikroTik ROSE Data Servers.
