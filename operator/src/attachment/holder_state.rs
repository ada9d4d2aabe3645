//! Whether a holder is alive, leaving, lost, or none of these for certain: pure.
//!
//! Lost needs a wanted detach *and* evidence about the node; silence alone never makes anybody lost while its Node is Ready.

use std::time::Duration;

use rds_crds::attachment::Intent;

use super::model::{HolderState, Word};

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its object: absent for this long, by this leader's clock.
    pub gone_for: Option<Duration>,
    /// Condition Ready is True.
    pub ready: bool,
    /// Tainted out-of-service, by a person or a remediation system.
    pub out_of_service: bool,
    /// UID of the object.
    pub uid: String,
    /// Boot ID of the kernel.
    pub boot_id: String,
    /// System UUID of the machine.
    pub system_uuid: String,
    /// Machine ID of the operating system.
    pub machine_id: String,
}

/// What is known of an agent's Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// A renewal was seen within the period.
    Fresh,
    /// This leader has watched for the whole period and saw none.
    Stale,
    /// Not watched for long enough.
    Unknown,
}

/// The state of a holder. `detach_wanted`: its attachment is going away or gone, and no VolumeAttachment wants it, read live.
/// `mute`: nobody can ever speak for it, as its attachment does not exist, read live, or as it was [`replaced`].
#[must_use]
pub fn holder_state(node: &NodeFacts, pulse: Pulse, detach_wanted: bool, mute: bool, grace: Duration) -> HolderState {
    let evidence = match node.gone_for {
        Some(gone) => gone >= grace,
        None => node.out_of_service || mute || (!node.ready && pulse == Pulse::Stale),
    };
    let well = node.gone_for.is_none() && node.ready && !node.out_of_service && !mute && pulse == Pulse::Fresh;
    match (detach_wanted, evidence, well) {
        (true, true, _) => HolderState::Lost,
        (true, false, true) => HolderState::Leaving,
        (false, false, true) => HolderState::Alive,
        (true | false, _, _) => HolderState::Doubtful,
    }
}

/// Whether another machine bears the node's name than the one that recorded the intent; one that was cut since does not count.
/// The Node has to be read live where its boot ID differs.
#[must_use]
pub fn replaced(intent: Option<&Intent>, generation: u32, node: &NodeFacts) -> bool {
    intent.is_some_and(|intent| {
        intent.generation >= generation
            && node.gone_for.is_none()
            && !node.boot_id.is_empty()
            && node.boot_id != intent.boot_id
            && !same_machine(intent, node)
    })
}

fn same_machine(intent: &Intent, node: &NodeFacts) -> bool {
    node.system_uuid == intent.system_uuid && node.machine_id == intent.machine_id && node.uid == intent.node_uid
}

/// What a holder has said, or its reboot says for it. Boot ID alone is no proof: a replacement machine under the same name has
/// another one too. The Node has to be read live where its boot ID differs: an older one than the intent knows an older boot.
#[must_use]
pub fn word(intent: Option<&Intent>, disconnected: bool, node: &NodeFacts) -> Word {
    if disconnected {
        return Word::Disconnected;
    }
    let Some(intent) = intent else { return Word::Silent };
    let same_machine = node.gone_for.is_none()
        && !intent.system_uuid.is_empty()
        && !intent.machine_id.is_empty()
        && same_machine(intent, node);
    if same_machine && !node.boot_id.is_empty() && node.boot_id != intent.boot_id {
        Word::Rebooted
    } else {
        Word::Intent
    }
}

/// Whether a node may be connected by what its attachment says: its agent has recorded its intent for the present generation and
/// has not said that the connection is gone, and neither a reboot nor a person (`node_off`) speaks for it. A recorded holder has all
/// of this; where it is not recorded, somebody has changed the record by hand.
#[must_use]
pub fn may_be_connected(
    intent: Option<&Intent>,
    generation: u32,
    disconnected: bool,
    node_off: bool,
    node: &NodeFacts,
) -> bool {
    // One of an older generation was cut.
    intent.is_some_and(|i| i.generation >= generation) && !node_off && word(intent, disconnected, node) == Word::Intent
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn node() -> NodeFacts {
        NodeFacts {
            ready: true,
            uid: "u".into(),
            boot_id: "b2".into(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn table_of_holder_states() {
        let down = NodeFacts { ready: false, ..node() };
        let gone = |s| NodeFacts {
            gone_for: Some(Duration::from_secs(s)),
            ready: false,
            ..node()
        };
        let tainted = NodeFacts {
            out_of_service: true,
            ..node()
        };
        use HolderState::{Alive, Doubtful, Leaving, Lost};
        use Pulse::{Fresh, Stale, Unknown};
        for (facts, pulse, wanted, want) in [
            (node(), Fresh, false, Alive),
            (node(), Fresh, true, Leaving),
            (node(), Stale, true, Doubtful), // Ready with a stale Lease: wait, say so, never fence
            (node(), Stale, false, Doubtful),
            (down.clone(), Stale, true, Lost),
            (down.clone(), Unknown, true, Doubtful),
            (down.clone(), Fresh, true, Doubtful),
            (down, Stale, false, Doubtful), // nobody wants it detached: nobody is lost
            (tainted.clone(), Fresh, true, Lost),
            (tainted, Fresh, false, Doubtful),
            (gone(29), Stale, true, Doubtful),
            (gone(30), Stale, true, Lost),
            (gone(30), Stale, false, Doubtful),
        ] {
            assert_eq!(
                holder_state(&facts, pulse, wanted, false, GRACE),
                want,
                "{facts:?} {pulse:?} {wanted}"
            );
        }
    }

    #[test]
    fn i4_a_holder_for_whom_nobody_can_speak_is_lost() {
        assert_eq!(
            holder_state(&node(), Pulse::Fresh, true, true, GRACE),
            HolderState::Lost
        );
        assert_eq!(
            holder_state(&node(), Pulse::Fresh, false, true, GRACE),
            HolderState::Doubtful
        );
        let intent = |machine: &str, boot: &str| Intent {
            boot_id: boot.into(),
            system_uuid: "s".into(),
            machine_id: machine.into(),
            node_uid: "u".into(),
            generation: 2,
        };
        let gone = NodeFacts {
            gone_for: Some(Duration::ZERO),
            ..node()
        };
        for (intent, generation, node, want) in [
            (None, 2, node(), false),
            (Some(intent("other", "b1")), 2, node(), true),
            (Some(intent("other", "b1")), 3, node(), false), // cut since
            (Some(intent("m", "b1")), 2, node(), false),     // rebooted
            (Some(intent("m", "b2")), 2, node(), false),
            (Some(intent("other", "b1")), 2, gone, false), // there is none that could speak
        ] {
            assert_eq!(
                replaced(intent.as_ref(), generation, &node),
                want,
                "{intent:?} {generation} {node:?}"
            );
        }
    }

    #[test]
    fn i4_an_intent_counts_until_something_speaks_against_it() {
        let intent = Intent {
            boot_id: "b2".into(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            node_uid: "u".into(),
            generation: 2,
        };
        let rebooted = NodeFacts {
            boot_id: "b3".into(),
            ..node()
        };
        let gone = NodeFacts {
            gone_for: Some(Duration::ZERO),
            ..node()
        };
        for (intent, generation, disconnected, node_off, node, want) in [
            (Some(&intent), 2, false, false, node(), true),
            (Some(&intent), 1, false, false, node(), true),
            (Some(&intent), 2, false, false, gone, true),
            (Some(&intent), 3, false, false, node(), false), // cut since
            (Some(&intent), 2, true, false, node(), false),
            (Some(&intent), 2, false, true, node(), false),
            (Some(&intent), 2, false, false, rebooted, false),
            (None, 2, false, false, node(), false),
        ] {
            assert_eq!(
                may_be_connected(intent, generation, disconnected, node_off, &node),
                want,
                "{intent:?} {generation} {disconnected} {node_off} {node:?}"
            );
        }
    }

    #[test]
    fn a_reboot_counts_only_for_the_same_machine() {
        let intent = Intent {
            boot_id: "b1".into(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            node_uid: "u".into(),
            generation: 1,
        };
        assert_eq!(word(Some(&intent), false, &node()), Word::Rebooted);
        assert_eq!(word(None, false, &node()), Word::Silent);
        assert_eq!(word(Some(&intent), true, &node()), Word::Disconnected);
        type Change = fn(&mut NodeFacts);
        let changes: [Change; 5] = [
            |n| n.uid = "other".into(),
            |n| n.system_uuid = "other".into(),
            |n| n.machine_id = "other".into(),
            |n| n.boot_id = "b1".into(),
            |n| n.gone_for = Some(Duration::ZERO),
        ];
        for change in changes {
            let mut replaced = node();
            change(&mut replaced);
            assert_eq!(word(Some(&intent), false, &replaced), Word::Intent, "{replaced:?}");
        }
        let nameless = Intent {
            system_uuid: String::new(),
            ..intent
        };
        assert_eq!(
            word(
                Some(&nameless),
                false,
                &NodeFacts {
                    system_uuid: String::new(),
                    ..node()
                }
            ),
            Word::Intent
        );
    }
}
