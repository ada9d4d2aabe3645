//! All scenarios. To add one: a function that takes the rig, and a line in [`ALL`].
//!
//! Rules: assert on data, not on logs; wait for conditions, never for times; leave nothing ([`Rig::clean`] checks it).

mod path;

use anyhow::Result;

use crate::rig::Rig;

/// A story on a real kernel.
pub(crate) struct Scenario {
    /// By which it is run alone.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// The story.
    pub(crate) run: fn(&Rig) -> Result<()>,
}

/// In the order in which they run.
pub(crate) const ALL: &[Scenario] = &[Scenario {
    name: "one_disk_add_is_a_disk",
    about: "a /disk add over SSH is a disk that this kernel connects to, writes and reads",
    run: path::one_disk_add_is_a_disk,
}];
