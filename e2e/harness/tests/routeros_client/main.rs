//! The RouterOS client against the simulator, over real SSH: habits, faults, late commands, access.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod faults;
mod habits;
mod late;
mod rig;
mod scale;
