//! Leaders: observation, the shipped decision, the write or the command.

use rds_operator::attachment::decide::Did;

use crate::eyes::{self, Do};
use crate::record::{Swap, swapped};
use crate::world::{Command, Exec, Leader, Record, Said, Snapshot, World};
use crate::{Action, Kind, Mutation, Protocol};

pub(crate) fn actions(world: &World, actions: &mut Vec<Action>) {
    let mut fresh = false;
    for (i, leader) in (0u8..).zip(&world.leaders) {
        if world.may(Kind::LeaderDies) && *leader != Leader::default() {
            actions.push(Action::LeaderDies(i));
        }
        if leader.waits {
            continue;
        }
        // Passes on fresh reads are the same, whoever makes them: the first leader that is free stands for all.
        let free = *leader == Leader::default();
        if !free || !std::mem::replace(&mut fresh, true) {
            actions.push(Action::Pass(i));
        }
        match &leader.cache {
            Some(_) if !leader.only_nodes => actions.push(Action::PassOnOldVolume(i)),
            None if free && world.may(Kind::OldCaches) => {
                actions.extend([Action::CachesFallBehind(i), Action::NodesFallBehind(i)]);
            }
            Some(_) | None => {}
        }
    }
    for (i, exec) in world.execs.iter().enumerate() {
        actions.push(if exec.waiting.is_some() {
            Action::Run(i)
        } else {
            Action::RunUnheard(i)
        });
        if exec.waiting.is_some() && world.may(Kind::Exec) {
            actions.extend([Action::RunUnheard(i), Action::GiveUp(i), Action::Drop(i)]);
        }
    }
}

/// A pass: one step on the live volume, and on caches that may be old.
pub(crate) fn pass(model: &Protocol, world: &mut World, i: u8, old_volume: bool) {
    let leader = world.leaders[usize::from(i)].clone();
    let me = &mut world.leaders[usize::from(i)];
    (me.cache, me.only_nodes) = (None, false);
    if leader == Leader::default() && crate::volume::chore(world, i) {
        return;
    }
    let caches = match &leader.cache {
        Some(cache) if leader.only_nodes => Snapshot {
            nodes: cache.nodes,
            ..world.snapshot()
        },
        Some(cache) => (**cache).clone(),
        None => world.snapshot(),
    };
    let record = match &leader.kept {
        Some(kept) => (**kept).clone(),
        None if old_volume => caches.record.clone(),
        None => world.record.clone(),
    };
    if record.blank {
        return;
    }
    let look = eyes::look(model, world, &caches, record, leader.did);
    let record = &look.record;
    let at = |uid: u8| usize::from(uid);
    match eyes::decided(&look) {
        Do::Rest(owed) => world.owed = owed,
        Do::Withdraw(a) => say(world, a, Said::Withdrawn),
        Do::SayNodeOff(a) => say(world, a, Said::NodeOff),
        Do::Recall(holder) => {
            swap(model, world, record, &Swap::Admit(holder));
        }
        Do::Grant(a) => say(world, a, Said::Admitted(record.generation, caches.nqn)),
        Do::Deny(a, why) => say(world, a, Said::Refused(why)),
        Do::Defer(a) => {
            let intent = caches.attachments.get(at(a)).and_then(|x| x.intent);
            swap(model, world, record, &Swap::Defer(a, intent));
        }
        Do::Forget(a) => {
            // Our finalizer goes by a patch of the object as it was read; the API server removes only what is being deleted.
            let read = caches.attachments.get(at(a)).copied();
            let live = world.attachments.get_mut(at(a));
            if let Some(attachment) = live.filter(|x| x.deleting && read == Some(**x)) {
                attachment.remove();
            }
        }
        Do::Admit(holder) => {
            let beside = !record.holders.is_empty();
            if swap(model, world, record, &Swap::Admit(holder)) && beside && leader.cache.is_none() {
                entered(world, holder.attachment);
            }
        }
        Do::Release(a) => {
            swap(model, world, record, &Swap::Release(a));
        }
        Do::Refuse => world.off = None,
        Do::Succeed(old, new) => {
            swap(model, world, record, &Swap::Succeed(old, new));
        }
        Do::Acknowledge(nodes) => {
            swap(model, world, record, &Swap::Acknowledge(nodes));
        }
        Do::BeginFence(node, a) => {
            swap(model, world, record, &Swap::BeginFence(node, a));
        }
        Do::RecordCut => {
            swap(model, world, record, &Swap::RecordCut);
        }
        Do::EndFence => {
            let node = record.fence.and_then(|f| f.node);
            if swap(model, world, record, &Swap::EndFence) && world.cut_now.is_some() && world.cut_now == node {
                world.cut_now = None;
            }
        }
        Do::Cut => return send(world, i, Command::Cut(record.generation), record),
        Do::Reopen => {
            let nqn = record.fence.map_or(0, |f| f.nqn);
            return send(world, i, Command::Reopen(record.generation, nqn), record);
        }
    }
    let leader = &mut world.leaders[usize::from(i)];
    (leader.kept, leader.did) = (None, None);
}

/// Compare-and-swap of the volume's status.
fn swap(model: &Protocol, world: &mut World, read: &Record, swap: &Swap) -> bool {
    let accepted = world.record == *read || model.wrong(Mutation::DropCompareAndSwap);
    if accepted {
        world.record = swapped(read, swap);
    }
    accepted
}

/// The holders beside whom somebody was just admitted, on fresh reads, have to be alive.
fn entered(world: &mut World, newcomer: u8) {
    let reads = world.attachments[usize::from(newcomer)].reads;
    let well = |h: &crate::world::Holder| {
        // A reader that is lost writes nothing: readers may join it.
        if reads && h.reads {
            return true;
        }
        let node = world.node(h.node);
        let going = world.attachments[usize::from(h.attachment)];
        node.online && !node.tainted && !going.deleting && !going.gone
    };
    let all = world
        .record
        .holders
        .iter()
        .filter(|h| h.attachment != newcomer)
        .all(well);
    world.wrong.entered |= !all;
}

/// Server-side apply by UID: a stale leader may say what is no longer so.
fn say(world: &mut World, uid: u8, said: Said) {
    if let Some(attachment) = world.attachments.get_mut(usize::from(uid)).filter(|a| !a.gone) {
        attachment.said = said;
    }
}

pub(crate) fn send(world: &mut World, i: u8, command: Command, read: &Record) {
    world.execs.push(Exec {
        command,
        waiting: Some(i),
    });
    world.execs.sort_unstable();
    let leader = &mut world.leaders[usize::from(i)];
    (leader.waits, leader.kept, leader.did) = (true, Some(Box::new(read.clone())), None);
}

/// The command's answer reaches its sender.
pub(crate) fn answer(world: &mut World, exec: Exec, done: bool) {
    let Some(leader) = exec.waiting.and_then(|i| world.leaders.get_mut(usize::from(i))) else {
        return;
    };
    leader.waits = false;
    leader.did = match exec.command {
        Command::Cut(_) if done => Some(Did::Cut),
        Command::Reopen(..) if done => Some(Did::Reopened),
        // The pass rests and begins anew from what it reads then.
        Command::Cut(_) | Command::Reopen(..) | Command::Repair(..) | Command::Toggle(..) | Command::Retire(_) => None,
    };
    if leader.did.is_none() {
        leader.kept = None;
    }
}

/// No answer: unknown, which is not done.
pub(crate) fn unheard(model: &Protocol, world: &mut World, exec: Exec) {
    answer(world, exec, model.wrong(Mutation::SkipVerify));
}
