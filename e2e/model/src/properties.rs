//! What must hold, judged by the target, and what must be seen to happen.

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

use crate::world::{Leader, World};
use crate::{Action, Protocol};

/// Must never be violated.
pub const SAFETY: [&str; 8] = [
    "I3: one writer, or two in an admitted migration",
    "I4: whoever can write is recorded as a holder",
    "I4: nobody enters beside a holder that is lost or leaving",
    "D1, D3: the token never goes down",
    "D4: a live peer is never cut without a person's word",
    "D4: no export ends under a session except by a fence",
    "D5: no new use while a fence is owed",
    "left alone, everything comes to its end",
];

/// Must be reached somewhere, or the exploration shows nothing.
pub const REACHED: [&str; 9] = [
    "a node connects",
    "a lost node is cut and another one connects",
    "two nodes write in a migration",
    "a rebooted node is released",
    "a peer defers a fence",
    "a toggled export is used again",
    "a lost record is closed by a cut of everybody",
    "two nodes read, and none writes",
    "a holder that was taken out by hand is recorded again",
];

/// How many states one is that is left alone, to see how it ends.
const SAMPLE: u64 = 32;

pub(crate) fn all() -> Vec<Property<Protocol>> {
    let [i3, i4, enters, token, peer, ended, use_, end] = SAFETY;
    let [
        connects,
        fenced,
        two,
        rebooted,
        deferred,
        toggled,
        closed,
        read,
        recalled,
    ] = REACHED;
    vec![
        Property::always(i3, |model: &Protocol, world: &World| one_writer(model, world)),
        Property::always(i4, |_, world: &World| recorded(world)),
        Property::always(enters, |_, world: &World| !world.wrong.entered),
        Property::always(token, |_, world: &World| !world.wrong.token_down),
        Property::always(peer, |_, world: &World| !world.wrong.cut_a_live_peer),
        Property::always(ended, |_, world: &World| !world.wrong.ended_under_a_holder),
        Property::always(use_, |_, world: &World| !world.wrong.new_use),
        Property::always(end, |model: &Protocol, world: &World| {
            model.mutation.is_some() || !sampled(world) || comes_to_its_end(model, world).is_ok()
        }),
        Property::sometimes(connects, |_, world: &World| !world.target.sessions.is_empty()),
        Property::sometimes(fenced, |_, world: &World| {
            world.record.fence.is_none()
                && world.nqn > 1
                && world.target.sessions.iter().any(|(m, n)| (*m, *n) == (1, world.nqn))
        }),
        Property::sometimes(two, |_, world: &World| world.writers().len() > 1),
        Property::sometimes(rebooted, |_, world: &World| {
            let first = world.attachments.first();
            first.is_some_and(|a| a.gone) && world.machines[0].boot > 0 && world.writers() == [1] && world.nqn == 1
        }),
        Property::sometimes(deferred, |_, world: &World| world.owed && world.writers().len() > 1),
        Property::sometimes(closed, |_, world: &World| {
            world.record.fence.is_some_and(|f| f.node.is_none() && f.cut)
        }),
        Property::sometimes(read, |_, world: &World| {
            world.users().len() > 1 && world.writers().is_empty()
        }),
        Property::sometimes(recalled, |_, world: &World| {
            world.edited && world.users().len() == 1 && recorded_now(world)
        }),
        Property::sometimes(toggled, |_, world: &World| {
            world.nqn == 1 && world.record.generation > 1 && !world.target.sessions.is_empty()
        }),
    ]
}

fn one_writer(model: &Protocol, world: &World) -> bool {
    // Who reads must not see half of what another one writes.
    if model.readers && !world.writers().is_empty() {
        return world.users().len() == 1;
    }
    match world.writers().as_slice() {
        [] | [_] => true,
        [a, b] if model.shared => {
            let [a, b] = [a, b].map(|m| world.machines[usize::from(*m)].node);
            let holds = |node| world.record.holders.iter().any(|h| h.node == node);
            a != b && (unknown(world) || world.edited || (holds(a) && holds(b)))
        }
        _ => false,
    }
}

/// The status was lost: the record says that it may have holes, or will as soon as somebody looks.
fn unknown(world: &World) -> bool {
    world.record.unknown || world.record.blank || world.record.generation < world.target.token
}

fn recorded_now(world: &World) -> bool {
    world.users().iter().all(|m| {
        let node = world.machines[usize::from(*m)].node;
        world.record.holders.iter().any(|h| h.node == node)
    })
}

fn recorded(world: &World) -> bool {
    unknown(world) || world.edited || recorded_now(world)
}

fn sampled(world: &World) -> bool {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish().is_multiple_of(SAMPLE)
}

/// Nothing more goes wrong, and nobody wishes for anything: all that was wished for happens, or there is a reason why not.
///
/// # Errors
/// What does not come to an end.
pub fn comes_to_its_end(model: &Protocol, world: &World) -> Result<(), String> {
    let mut world = world.clone();
    world.faults = 0;
    // Two machines that bear one name at a time contradict each other for ever.
    for (id, machine) in (0u8..).zip(&mut world.machines) {
        machine.online &= world.nodes[usize::from(machine.node)].machine == id;
    }
    for leader in &mut world.leaders {
        (leader.cache, leader.only_nodes) = (None, false);
        if !leader.waits && leader.did.is_none() {
            *leader = Leader::default();
        }
    }
    let mut rounds = 0;
    while round(model, &mut world) {
        rounds += 1;
        if rounds > 60 {
            return Err(format!("it never rests: {world:?}"));
        }
    }
    match unfinished(model, &world) {
        Some(why) => Err(format!("{why}: {world:?}")),
        None => Ok(()),
    }
}

/// Everybody does what he can, once. Whether anything changed.
fn round(model: &Protocol, world: &mut World) -> bool {
    let mut changed = false;
    while let Some(exec) = world.execs.first() {
        let action = if exec.waiting.is_some() {
            Action::Run(0)
        } else {
            Action::RunUnheard(0)
        };
        model.happen(world, &action);
        changed = true;
    }
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    for action in actions {
        let goes_on = match &action {
            Action::Pass(_) => true,
            Action::At(_, event) => event.goes_on(),
            Action::Publish(_)
            | Action::PublishToRead(_)
            | Action::Unpublish(_)
            | Action::Unwant(_)
            | Action::PassOnOldVolume(_)
            | Action::CachesFallBehind(_)
            | Action::NodesFallBehind(_)
            | Action::LeaderDies(_)
            | Action::Run(_)
            | Action::RunUnheard(_)
            | Action::GiveUp(_)
            | Action::Drop(_)
            | Action::ExportLost
            | Action::Restore
            | Action::Grow
            | Action::Delete
            | Action::FenceNow(_)
            | Action::NodeIsOff(_)
            | Action::Force(_)
            | Action::EmptyHolders
            | Action::Flip(_) => false,
        };
        if goes_on && let Some(next) = model.next_state(world, action) {
            *world = next;
            changed = true;
        }
    }
    changed
}

fn unfinished(model: &Protocol, world: &World) -> Option<String> {
    let record = &world.record;
    if record.fence.is_some() || !world.execs.is_empty() || record.blank {
        return Some("a fence or a command goes on for ever".to_owned());
    }
    if record.deletion || world.wishes.0 {
        return None;
    }
    // A holder that is wanted: nobody may cut it, and whoever is lost beside it waits for it to leave. Where its object is gone and
    // its node wants it all the same, a person has to say what is so.
    let stays = |h: &&crate::Holder| {
        let attachment = world.attachments[usize::from(h.attachment)];
        match attachment.gone {
            true => world.wanted[usize::from(h.node)],
            false => !attachment.deleting,
        }
    };
    let peer = record.holders.iter().any(|h| stays(&h));
    let may_cut = model.proven && !peer;
    if may_cut && let Some(h) = record.holders.iter().find(|h| !stays(h)) {
        return Some(format!("node {} is never released", h.node));
    }
    for (i, attachment) in world.attachments.iter().enumerate().filter(|(_, a)| !a.gone) {
        let holds = record.holders.iter().any(|h| usize::from(h.attachment) == i);
        if attachment.deleting {
            let node = world.node(attachment.node);
            if may_cut || (node.online && !node.tainted && !holds) {
                return Some(format!("the detach of node {} never ends", attachment.node));
            }
            continue;
        }
        let node = world.node(attachment.node);
        let others = record.holders.iter().any(|h| usize::from(h.attachment) != i);
        let other_machine_intent = attachment
            .intent
            .is_some_and(|i| i.machine != node.machine && i.generation >= record.generation);
        let excused = !node.online || others || other_machine_intent || !model.proven;
        if !excused && !world.connected(node.machine) {
            return Some(format!("node {} is never connected", attachment.node));
        }
    }
    None
}
