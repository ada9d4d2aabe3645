//! The RouterOS client: the only place that knows the appliance's command line.
//!
//! ```text
//! client   the commands, the shared listing               exec, gate: queue, deadline, verdict, audit
//! command  one guarded line per mutation, and its judge   look: everything about one volume
//! encode   builds lines from typed parts                  reply, row: read what comes back
//! ssh      OpenSSH, one multiplexed connection            transport: the seam for tests
//! ```
//!
//! Invariants: a mutation that runs late or twice changes nothing (D1, tested on the appliance by slot, path and token); nothing that
//! is not provably ours is removed (I11); an outage is never "absent"; no value escapes its quotes.

mod client;
pub mod command;
mod encode;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod inventory;
mod look;
mod metrics;
mod reply;
mod row;
mod ssh;
mod ssh_config;
mod tag;
mod target;
mod transport;
mod types;
mod version;

pub use client::Client;
pub use command::{Adopt, CreateDisk, Guard, Removed};
pub use error::{Class, CommandKind, Occupied, RdsError, Redacted, ServerName};
pub use inventory::Inventory;
pub use look::{Identity, Look};
pub use metrics::RouterosMetrics;
pub use row::{DiskRow, FileRow};
pub use ssh::OpensshTransport;
pub use tag::{ClusterId, Nonce, OwnerTag, Ownership, VolumeUid};
pub use target::{Limits, Target};
pub use transport::{End, NotSent, Reply, Transport};
pub use types::{Bytes, DiskId, DiskPath, Generation, Malformed, Nqn, Slot};
pub use version::RouterOsVersion;
