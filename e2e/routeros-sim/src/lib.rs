//! A RouterOS simulator: an SSH server that behaves like a MikroTik ROSE data server, with faults on demand.
//!
//! It follows captures, measurements and documentation of real devices and shares no code with any client. What is
//! unknown about the real thing is a knob ([`Knobs`]); what can go wrong is a fault ([`FaultKind`]).
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "an interpreter: what is defined for a few kinds of value, menu or fault is refused or plain for all others"
)]

mod appliance;
mod ast;
pub mod control;
pub mod disk;
mod disk_ops;
mod error;
mod exec;
mod export;
pub mod faults;
pub mod file;
mod file_ops;
mod globals;
mod image;
mod initiator;
mod interp;
pub mod knobs;
pub mod log;
mod menus;
mod nvmet;
mod ops;
mod parse_expr;
mod parse_menu;
pub mod parser;
mod persist;
mod print;
mod schema;
mod select;
mod serialize;
mod server;
pub mod session;
mod shell;
mod simulator;
mod ssh;
pub mod state;
mod system;
mod tables;
mod target;
pub mod value;
mod view;
mod wire;

pub use appliance::{Account, Appliance};
pub use disk::Disk;
pub use faults::{Fault, FaultKind};
pub use file::File;
pub use interp::{Console, Outcome, Overrides};
pub use knobs::Knobs;
pub use log::LogEntry;
pub use nvmet::Nvmet;
pub use schema::Version;
pub use session::{Dead, Link, Refused, Session, SessionId, Write};
pub use simulator::{Config, HostKey, LiveExport, Simulator, generate_key};
pub use state::{Snapshot, State};
