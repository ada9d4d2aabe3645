//! The appliance, and the volume's own pass as far as it touches token and export. The pass is written anew here: what ships is
//! `operator/src/volume`, which has a model of its own.

use crate::leader;
use crate::world::{Command, Exec, Record, World};
use crate::{Mutation, Protocol};

/// Added to the number in an NQN that is made for a recovered volume, so that it differs from that of a fence.
pub(crate) const FRESH: u8 = 100;

/// The volume's own pass, which comes before that over its attachments. Whether it had something to do.
pub(crate) fn chore(world: &mut World, i: u8) -> bool {
    let record = world.record.clone();
    let token = world.target.token;
    if record.blank || token > record.generation {
        // The status was lost or restored: who uses the volume is not known any more. What is exported stays; a lost export
        // comes back under a name that nobody has.
        world.nqn = world.target.exported.unwrap_or(match token {
            1 => 1,
            n => n + FRESH,
        });
        world.record = Record {
            generation: record.generation.max(token),
            unknown: true,
            blank: false,
            ..record
        };
        return true;
    }
    if let Some(fence) = record.fence {
        // The new NQN is in the status before anything is opened under it.
        return std::mem::replace(&mut world.nqn, fence.nqn) != fence.nqn;
    }
    let behind = token + 1 == record.generation;
    if record.deletion {
        if behind {
            leader::send(world, i, Command::Retire(record.generation), &record);
        }
        return behind;
    }
    if record.holders.is_empty() && !record.unknown {
        if behind {
            leader::send(world, i, Command::Toggle(record.generation, world.nqn), &record);
            return true;
        }
        let (remove, grow) = world.wishes;
        if remove || grow {
            world.wishes = (remove, false);
            world.record.generation += 1;
            world.record.deletion = remove;
            return true;
        }
    }
    // A renamed export is put right as a lost one is, but not while somebody is recorded as connected to it.
    let exported = world.target.exported;
    let wrong = exported.is_none() || (exported != Some(world.nqn) && record.holders.is_empty());
    if token == record.generation && wrong {
        let command = Command::Repair(record.generation, world.nqn);
        let sent = |e: &Exec| e.command == command && e.waiting.is_some();
        if !world.execs.iter().any(sent) {
            leader::send(world, i, command, &record);
            return true;
        }
    }
    false
}

/// The command on the appliance: its guard, its change, and whether it was read back as done.
pub(crate) fn run(model: &Protocol, world: &mut World, command: Command) -> bool {
    let before = world.target.token;
    let done = match command {
        Command::Cut(to) => {
            if before + 1 == to {
                cut(world);
                world.target.token = to;
            }
            world.target.token == to && world.target.exported.is_none()
        }
        Command::Retire(to) => {
            if before + 1 == to {
                world.wrong.ended_under_a_holder |= !world.target.sessions.is_empty();
                world.target.sessions.clear();
                (world.target.token, world.target.exported) = (to, None);
            }
            world.target.token == to
        }
        Command::Toggle(to, nqn) => {
            if before + 1 == to {
                world.wrong.ended_under_a_holder |= !world.target.sessions.is_empty();
                world.target.sessions.clear();
                (world.target.token, world.target.exported) = (to, Some(nqn));
            }
            world.target.token == to
        }
        Command::Reopen(generation, nqn) => {
            if before == generation {
                world.target.exported = Some(nqn);
            }
            before == generation
        }
        Command::Repair(generation, nqn) => {
            let ours = before == generation || model.wrong(Mutation::RepairWithoutToken);
            if ours && world.target.exported != Some(nqn) {
                world.wrong.ended_under_a_holder |= !world.target.sessions.is_empty();
                world.target.sessions.clear();
                world.target.exported = Some(nqn);
            }
            ours
        }
    };
    world.wrong.token_down |= world.target.token < before;
    done
}

/// The export goes off, and all of its sessions with it. Who has no pod left that uses the volume may be cut.
fn cut(world: &mut World) {
    let fenced = world.record.fence.and_then(|f| f.node);
    let alive = |machine: u8| {
        let name = world.machines[usize::from(machine)].node;
        let node = world.node(name);
        let wanted = world.named(name).is_some_and(|i| !world.attachments[i].deleting);
        let holds = world.record.holders.iter().any(|h| h.node == name);
        let used = world.machines[usize::from(machine)].pods != 0;
        used && node.machine == machine && node.online && !node.tainted && wanted && holds && Some(name) != fenced
    };
    let told = world.cut_now.is_some() && world.cut_now == fenced;
    let peer = world.target.sessions.iter().any(|(machine, _)| alive(*machine));
    world.wrong.cut_a_live_peer |= peer && !told;
    world.target.sessions.clear();
    world.target.exported = None;
}
