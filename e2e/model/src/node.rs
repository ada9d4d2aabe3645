//! Machines: what their kernels, kubelets and agents do, and what happens to them.

use rds_node_agent::attachment::decide::new_use;

use crate::agent;
use crate::world::{Machine, Said, World};
use crate::{Action, Kind, Mutation, Protocol};

/// What happens at one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its agent reads, decides and does one step.
    AgentActs,
    /// Its agent has read, and stands still.
    AgentStalls,
    /// It acts upon what it read then.
    AgentGoesOn,
    /// Its agent ends a session of which no attachment speaks.
    AgentSweeps,
    /// Its agent dies; a connect goes on in the kernel, a write on the wire.
    AgentDies,
    /// That write arrives.
    LateWrite,
    /// A connect in flight arrives at the target.
    Arrive,
    /// Its kernel reconnects by itself.
    Reconnect,
    /// Its kubelet reports the boot.
    Register,
    /// A pod begins to use the volume: 1 an old one, 2 a new one.
    PodStarts(u8),
    /// No pod uses it any more.
    PodsEnd,
    /// It loses the API server, not the storage network.
    CutOff,
    /// And has it again.
    Heal,
    /// It reboots.
    Reboot,
    /// Another machine takes the name of its node.
    Replace,
    /// Somebody declares its node out of service.
    Taint,
}

impl Event {
    pub(crate) fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::AgentStalls => Kind::AgentStalls,
            Self::AgentDies => Kind::AgentDies,
            Self::CutOff => Kind::CutOff,
            Self::Reboot => Kind::Reboot,
            Self::Replace => Kind::Replace,
            Self::Taint => Kind::Taint,
            Self::AgentActs
            | Self::AgentGoesOn
            | Self::AgentSweeps
            | Self::LateWrite
            | Self::Arrive
            | Self::Reconnect
            | Self::Register
            | Self::PodStarts(_)
            | Self::PodsEnd
            | Self::Heal => return None,
        })
    }

    /// It happens by itself, sooner or later.
    pub(crate) fn goes_on(self) -> bool {
        self.kind().is_none() && !matches!(self, Self::PodStarts(_) | Self::Heal)
    }
}

pub(crate) fn actions(model: &Protocol, world: &World, id: u8, actions: &mut Vec<Action>) {
    let me = &world.machines[usize::from(id)];
    let node = world.nodes[usize::from(me.node)];
    let bears = node.machine == id;
    let mut push = |event| actions.push(Action::At(id, event));
    if me.connecting.is_some() {
        push(Event::Arrive);
    }
    let exported = world.target.exported;
    if me
        .controllers
        .iter()
        .any(|n| exported == Some(*n) && !world.target.sessions.contains(&(id, *n)))
    {
        push(Event::Reconnect);
    }
    if me.online && bears && node.boot != me.boot {
        push(Event::Register);
    }
    match (&me.paused, me.online) {
        (Some(_), _) => push(Event::AgentGoesOn),
        (None, true) if world.named(me.node).is_some() => push(Event::AgentActs),
        (None, true) => push(Event::AgentSweeps),
        (None, false) => {}
    }
    // An agent that trusts its cache makes other passes while what it read once is still there.
    if me.paused.is_some() && me.online && model.wrong(Mutation::ConnectFromCache) {
        push(Event::AgentActs);
    }
    if me.late.is_some() {
        push(Event::LateWrite);
    }
    if !me.online && !me.off {
        push(Event::Heal);
    }
    if me.pods != 0 {
        push(Event::PodsEnd);
    }
    if model.pods && bears && me.online && me.controllers.contains(&world.nqn) && wanted(world, me.node) {
        push(Event::PodStarts(1));
        push(Event::PodStarts(2));
    }
    faults(world, id, bears, actions);
}

fn faults(world: &World, id: u8, bears: bool, actions: &mut Vec<Action>) {
    let me = &world.machines[usize::from(id)];
    let may = |kind| world.may(kind);
    let mut push = |event| actions.push(Action::At(id, event));
    if may(Kind::AgentStalls) && me.paused.is_none() && me.online && world.named(me.node).is_some() {
        push(Event::AgentStalls);
    }
    if may(Kind::AgentDies) && me.paused.is_some() {
        push(Event::AgentDies);
    }
    if may(Kind::CutOff) && me.online {
        push(Event::CutOff);
    }
    if may(Kind::Reboot) && !me.off {
        push(Event::Reboot);
    }
    if may(Kind::Replace) && bears && !me.online {
        push(Event::Replace);
    }
    if may(Kind::Taint) && bears && !world.nodes[usize::from(me.node)].tainted {
        push(Event::Taint);
    }
}

fn wanted(world: &World, node: u8) -> bool {
    world.named(node).is_some_and(|i| {
        let attachment = world.attachments[i];
        !attachment.deleting && matches!(attachment.said, Said::Admitted(..))
    })
}

/// The event happens.
pub(crate) fn happen(model: &Protocol, world: &mut World, id: u8, event: Event) {
    let me = &mut world.machines[usize::from(id)];
    match event {
        Event::AgentActs => {
            if let Some(view) = agent::look(model, world, id) {
                agent::act(model, world, &view);
            }
        }
        Event::AgentStalls => {
            let view = agent::look(model, world, id);
            world.machines[usize::from(id)].paused = view.map(Box::new);
        }
        Event::AgentGoesOn => {
            if let Some(view) = me.paused.take() {
                agent::act(model, world, &view);
            }
        }
        Event::AgentSweeps => agent::sweep(world, id),
        Event::AgentDies => {
            // What it was about to write may have been sent.
            me.late = me.paused.take();
            me.knows = false;
        }
        Event::LateWrite => {
            if let Some(view) = me.late.take() {
                agent::write(world, &view, agent::decided(&view));
            }
        }
        Event::Arrive => {
            let nqn = me.connecting.take();
            if let Some(nqn) = nqn.filter(|n| world.target.exported == Some(*n)) {
                me.controllers.push(nqn);
                me.controllers.sort_unstable();
                me.controllers.dedup();
                open(world, id, nqn);
            }
        }
        Event::Reconnect => {
            let exported = world.target.exported;
            if let Some(nqn) = exported.filter(|n| me.controllers.contains(n)) {
                open(world, id, nqn);
            }
        }
        Event::Register => world.nodes[usize::from(me.node)].boot = me.boot,
        Event::PodStarts(pod) => {
            let name = |bit: u8| bit.to_string();
            let users: Vec<String> = [1, 2].into_iter().filter(|b| me.pods & b != 0).map(name).collect();
            let before = me.pods & pod != 0;
            if model.wrong(Mutation::NewPodOnLivePeer) || new_use(world.owed, &users, &name(pod)).is_ok() {
                me.pods |= pod;
                if let Some(i) = world.attachments.iter().position(|a| !a.gone && a.node == me.node) {
                    world.attachments[i].unused = false;
                }
                world.wrong.new_use |= world.owed && !before;
            }
        }
        Event::PodsEnd => me.pods = 0,
        Event::CutOff => me.online = false,
        Event::Heal => me.online = true,
        Event::Reboot => {
            *me = Machine {
                boot: me.boot + 1,
                late: me.paused.take(),
                ..Machine::new(me.node)
            };
            world.target.sessions.retain(|(m, _)| *m != id);
        }
        Event::Replace => {
            let node = me.node;
            let newcomer = u8::try_from(world.machines.len()).unwrap_or(u8::MAX);
            let name = &mut world.nodes[usize::from(node)];
            (name.machine, name.boot) = (newcomer, 0);
            world.machines.push(Machine::new(node));
        }
        Event::Taint => world.nodes[usize::from(me.node)].tainted = true,
    }
}

fn open(world: &mut World, id: u8, nqn: u8) {
    world.target.sessions.push((id, nqn));
    world.target.sessions.sort_unstable();
    world.target.sessions.dedup();
}
