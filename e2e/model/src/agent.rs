//! Nodes: what the agent does by the protocol, and what happens to machines.

use crate::world::{Machine, Said};
use crate::{Action, Mutation, Protocol, World};

pub(crate) fn actions(model: &Protocol, world: &World, node: u8, actions: &mut Vec<Action>) {
    let state = &world.nodes[usize::from(node)];
    let mine = |m: &Machine| *m == state.machine;
    if state.connecting.is_some() {
        actions.push(Action::Arrive(node));
    }
    let reads = state.online || model.wrong(Mutation::ConnectFromCache);
    for (i, attachment) in world.attachments.iter().enumerate().filter(|(_, a)| a.node == node) {
        let admitted = matches!(attachment.said, Said::Admitted(_)) && (!attachment.deleting || !state.online);
        // Another machine of this name has recorded that it connects, and may still be connected.
        let other = attachment.intent.is_some_and(|(m, _)| m.id != state.machine.id);
        let usurped = other && !model.wrong(Mutation::TrustTheName);
        let live = !attachment.gone && !attachment.disconnected && !usurped && state.connecting.is_none();
        // Without the mutation the read is live and the write is accepted only for what was read.
        let allowed = if model.wrong(Mutation::ConnectFromCache) {
            admitted
        } else {
            admitted && !attachment.deleting
        };
        let older = world.target.sessions.iter().any(|(m, ..)| mine(m));
        if reads && live && allowed && !older {
            actions.push(Action::Intend(node, i));
        }
        let leaving = attachment.deleting || attachment.said == Said::Withdrawn;
        // Nor may it speak for that machine.
        let clean = !older && !usurped && state.connecting.is_none();
        if state.online && !attachment.gone && leaving && clean && !attachment.disconnected {
            actions.push(Action::Declare(node, i));
        }
        let refused = matches!(attachment.said, Said::Refused(_));
        if state.online
            && !attachment.gone
            && refused
            && clean
            && !attachment.cleared
            && world.record.fenced.contains(&node)
        {
            actions.push(Action::Declare(node, i));
        }
    }
    let unwanted = !world
        .attachments
        .iter()
        .any(|a| a.node == node && !a.gone && !a.deleting && matches!(a.said, Said::Admitted(_)));
    if state.online && unwanted && state.connecting.is_none() && world.target.sessions.iter().any(|(m, ..)| mine(m)) {
        actions.push(Action::Disconnect(node));
    }
    if !state.online {
        actions.push(Action::Heal(node));
    }
    if world.faults > 0 {
        actions.push(Action::Reboot(node));
        if state.online {
            actions.push(Action::CutOff(node));
        }
        if !state.tainted {
            actions.push(Action::Taint(node));
        }
        if !state.online && world.machines < 3 {
            actions.push(Action::Replace(node));
        }
    }
}

pub(crate) fn next(_model: &Protocol, world: &mut World, action: &Action) {
    match *action {
        Action::Intend(node, i) => {
            let Said::Admitted(generation) = world.attachments[i].said else {
                return;
            };
            let state = &mut world.nodes[usize::from(node)];
            if state.online {
                world.attachments[i].intent = Some((state.machine, generation));
            }
            state.connecting = Some((state.machine, generation));
        }
        Action::Arrive(node) => {
            let Some((machine, generation)) = world.nodes[usize::from(node)].connecting.take() else {
                return;
            };
            if world.target.exported == Some(generation) {
                world.target.sessions.push((machine, node, generation));
                world.target.sessions.sort_unstable();
            }
        }
        Action::Disconnect(node) => {
            let machine = world.nodes[usize::from(node)].machine;
            world.target.sessions.retain(|(m, ..)| *m != machine);
        }
        Action::Declare(_, i) => {
            let attachment = &mut world.attachments[i];
            match attachment.said {
                Said::Refused(_) if !attachment.deleting => attachment.cleared = true,
                Said::Nothing | Said::Admitted(_) | Said::Refused(_) | Said::Withdrawn => {
                    attachment.disconnected = true
                }
            }
        }
        Action::CutOff(node) => {
            world.fault();
            world.nodes[usize::from(node)].online = false;
        }
        Action::Heal(node) => world.nodes[usize::from(node)].online = true,
        Action::Reboot(node) => {
            world.fault();
            let state = &mut world.nodes[usize::from(node)];
            let old = state.machine;
            state.machine.boot += 1;
            state.connecting = None;
            state.online = true;
            world.target.sessions.retain(|(m, ..)| *m != old);
        }
        Action::Replace(node) => {
            world.fault();
            let state = &mut world.nodes[usize::from(node)];
            state.machine = Machine {
                id: world.machines,
                boot: 1,
            };
            state.connecting = None;
            state.online = true;
            world.machines += 1;
        }
        Action::Taint(node) => {
            world.fault();
            world.nodes[usize::from(node)].tainted = true;
        }
        Action::Publish(_)
        | Action::Unpublish(_)
        | Action::Observe(_)
        | Action::Act(_)
        | Action::LeaderDies(_)
        | Action::Run(_)
        | Action::RunUnheard(_)
        | Action::GiveUp(_)
        | Action::Drop(_)
        | Action::AgentRestarts(_) => {}
    }
}
