//! What every server of these services needs: its socket's address, the socket, and the time that a caller leaves it.

pub mod deadline;
pub mod endpoint;
pub mod socket;

pub use deadline::deadline;
pub use endpoint::Endpoint;
