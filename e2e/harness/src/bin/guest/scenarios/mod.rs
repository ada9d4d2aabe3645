//! All scenarios. To add one: a function that takes the rig, and a line in [`ALL`].
//!
//! Rules: assert on data, not on logs; wait for conditions, never for times; leave nothing ([`Rig::clean`] checks it).

pub(crate) mod agent;
mod outages;
mod path;
mod session;
mod uses;

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
    Scenario {
        name: "nvme_connect_and_leave",
        about: "the agent connects with its own identity and times, finds the disk, ends the connection",
        run: session::connect_and_leave,
    },
    Scenario {
        name: "nvme_found_by_nqn",
        about: "a connection that somebody else made is found by its NQN and not doubled",
        run: session::found_by_nqn,
    },
    Scenario {
        name: "nvme_refusals",
        about: "an unknown NQN, a closed port, nobody there, no route, a foreign NQN",
        run: session::refusals,
    },
    Scenario {
        name: "nvme_cut_cable",
        about: "a session outlives a cut cable as the same disk, and can be ended while it is cut",
        run: session::cut_cable,
    },
    Scenario {
        name: "nvme_live_without_disk",
        about: "a live connection whose namespace is gone is an answer, and gets its disk back",
        run: session::live_without_disk,
    },
    Scenario {
        name: "nvme_changed_live",
        about: "times and size change under a live connection",
        run: session::changed_live,
    },
    Scenario {
        name: "nvme_foreign_is_left_alone",
        about: "an NQN outside of the prefix with a mounted filesystem is never touched",
        run: session::foreign_is_left_alone,
    },
    Scenario {
        name: "nvme_every_use_is_seen",
        about: "mounts, opens, published nodes, loop devices: each keeps the disk connected",
        run: uses::every_use_is_seen,
    },
    Scenario {
        name: "nvme_hanging_umount",
        about: "a umount that hangs over a cut cable keeps the disk connected until its data is written",
        run: uses::hanging_umount,
    },
    Scenario {
        name: "nvme_killed_writer",
        about: "what a killed process left in the cache over a cut cable is written before the disk goes",
        run: uses::killed_writer,
    },
    Scenario {
        name: "nvme_stale_mount",
        about: "what is left of a disk that was cut away beneath a mount is in use until it is unmounted",
        run: uses::stale_mount,
    },
];
