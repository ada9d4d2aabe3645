//! All scenarios. To add one: a function that takes the rig, and a line in [`ALL`].
//!
//! Rules: assert on data, not on logs; wait for conditions, never for times; leave nothing ([`Rig::clean`] checks it).

pub(crate) mod agent;
mod outages;
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
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "one_disk_add_is_a_disk",
        about: "a /disk add over SSH is a disk that this kernel connects to, writes and reads",
        run: path::one_disk_add_is_a_disk,
    },
    Scenario {
        name: "a_growth_is_seen_at_once",
        about: "a disk that grows on the appliance grows under its initiator, data and all",
        run: outages::a_growth_is_seen_at_once,
    },
    Scenario {
        name: "a_write_outlives_a_reboot_of_the_target",
        about: "a write that is in flight while the appliance reboots arrives",
        run: outages::a_write_outlives_a_reboot_of_the_target,
    },
    Scenario {
        name: "a_cut_cable_only_delays",
        about: "a write that is in flight while the cable is cut arrives",
        run: outages::a_cut_cable_only_delays,
    },
    Scenario {
        name: "export_off_drops_and_lets_nobody_in",
        about: "an export that is off ends its sessions, and its next generation has another name and the same data",
        run: outages::export_off_drops_and_lets_nobody_in,
    },
    Scenario {
        name: "export_off_may_leave_sessions",
        about: "on an appliance that leaves sessions the old one goes on writing, and no new one is made",
        run: outages::export_off_may_leave_sessions,
    },
    Scenario {
        name: "another_identity_is_another_disk",
        about: "a namespace whose UUID changed under its name is no disk any more",
        run: outages::another_identity_is_another_disk,
    },
];
