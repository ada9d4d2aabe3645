//! The attachment protocol under every interleaving that the bounds allow.
//!
//! What decides is what ships: `decide`, `admit`, `holder_state`, `word`, `replaced` and `changed` of the operator, `decide`,
//! `cut_at_target` and `new_use` of the agent. Modelled around them: an API server with compare-and-swap, leaders that may all
//! believe in themselves and whose caches may be old, commands that run late or whose answer is lost, an appliance that tests
//! tokens, kernels that reconnect by themselves, agents that stall, machines that reboot, are cut off, come back, or are
//! replaced by another one of the same name.
//!
//! **The oracle is the target**: which machines hold a live session there, not what `holders` says. `docs/model.md` says more.

mod agent;
mod eyes;
mod leader;
mod node;
pub mod properties;
mod record;
pub mod runs;
mod volume;
mod world;

pub use agent::View;
pub use node::Event;
pub use world::{
    Attachment, Command, Exec, Fence, Holder, Intent, Leader, Machine, Node, Record, Said, Snapshot, Target, World,
    Wrong,
};

use stateright::{Model, Property};

/// What is put wrong on purpose, to show that the model can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A command whose result is unknown counts as done, without reading back.
    SkipVerify,
    /// Writes of the volume's status ignore its resourceVersion.
    DropCompareAndSwap,
    /// What has to be read live before a holder is given up is taken from the cache.
    TrustStaleCache,
    /// A holder of which nothing is known is released.
    ReleaseOnUnknown,
    /// A lost holder counts as alive when a migration begins.
    AdmitBesideLost,
    /// The command that repairs a lost export does not test the token.
    RepairWithoutToken,
    /// A new boot releases the holder, whatever the new boot has recorded.
    BootIdWithoutIntent,
    /// The agent connects by what it read once, without having its intent accepted.
    ConnectFromCache,
    /// The agent lets new pods use the volume while a fence is owed.
    NewPodOnLivePeer,
    /// A reboot is believed without comparing the machine.
    BootIdAlone,
    /// An agent takes the intent of another machine of its node's name for its own.
    TrustTheName,
    /// Who is not in the record of holders counts as gone, whatever its agent has said.
    BelieveTheRecord,
}

/// Kinds of faults and of wishes: each has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A leader dies within a pass.
    LeaderDies,
    /// A command runs late, never, or unheard.
    Exec,
    /// A leader's caches fall behind.
    OldCaches,
    /// An agent stands still between reading and acting.
    AgentStalls,
    /// An agent dies.
    AgentDies,
    /// A machine loses the API server, not the storage network.
    CutOff,
    /// A machine reboots.
    Reboot,
    /// Another machine takes a node's name.
    Replace,
    /// Somebody declares a node out of service, rightly or wrongly.
    Taint,
    /// Somebody switches the export off by hand.
    ExportLost,
    /// The volume's status is lost, or an old one is restored.
    Restore,
    /// The volume grows, on an appliance that toggles its export for that.
    Grow,
    /// The volume is deleted.
    Delete,
    /// A person says that a node is to be cut now.
    FenceNow,
    /// A person says that a node is off, and is right.
    NodeIsOff,
    /// A person removes an attachment's object, finalizer and all.
    Force,
    /// A person empties the record of holders, or writes `Admitted=True` on an attachment.
    Edit,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 17;
}

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// For people.
    pub name: &'static str,
    /// Raw block with ReadWriteMany, so that migrations may begin; otherwise ReadWriteOnce.
    pub shared: bool,
    /// ReadOnlyMany beside it: nodes may ask only to read.
    pub readers: bool,
    /// Pods begin and end to use the volume.
    pub pods: bool,
    /// Attachments that are made altogether.
    pub attachments: usize,
    /// Leaders that believe in themselves at once.
    pub leaders: usize,
    /// A self-test has shown that a fence works.
    pub proven: bool,
    /// Faults by kind.
    pub budget: Vec<(Kind, u8)>,
    /// Faults altogether.
    pub faults: u8,
    /// What is put wrong.
    pub mutation: Option<Mutation>,
}

impl Protocol {
    pub(crate) fn wrong(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// Everything that may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// ControllerPublish for this node.
    Publish(u8),
    /// The same, only to read.
    PublishToRead(u8),
    /// ControllerUnpublish: the deletion of the attachment is requested.
    Unpublish(usize),
    /// The same, where somebody has removed the attachment's object.
    Unwant(u8),
    /// A leader decides on what it reads, and writes or sends.
    Pass(u8),
    /// The same, with an old volume too.
    PassOnOldVolume(u8),
    /// From now on a leader's caches show what is so now.
    CachesFallBehind(u8),
    /// The same, of its cache of Nodes alone.
    NodesFallBehind(u8),
    /// A leader dies; its commands do not.
    LeaderDies(u8),
    /// A command runs, and the sender hears of it.
    Run(usize),
    /// A command runs, and nobody hears of it.
    RunUnheard(usize),
    /// The sender gives up; the command may still run.
    GiveUp(usize),
    /// A command never runs.
    Drop(usize),
    /// At the machine of this number.
    At(u8, Event),
    /// Somebody switches the export off by hand.
    ExportLost,
    /// The volume's status is lost, or restored to what it was at first.
    Restore,
    /// A larger size is asked for.
    Grow,
    /// The volume's deletion is asked for.
    Delete,
    /// A person says that this node is to be cut now.
    FenceNow(u8),
    /// A machine is switched off for good, and a person says so.
    NodeIsOff(u8),
    /// A person removes an attachment's object, finalizer and all.
    Force(usize),
    /// A person empties the record of holders.
    EmptyHolders,
    /// A person writes on an attachment that it is admitted.
    Flip(usize),
}

impl Action {
    fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::LeaderDies(_) => Kind::LeaderDies,
            Self::GiveUp(_) | Self::Drop(_) => Kind::Exec,
            Self::CachesFallBehind(_) | Self::NodesFallBehind(_) => Kind::OldCaches,
            Self::At(_, event) => return event.kind(),
            Self::ExportLost => Kind::ExportLost,
            Self::Restore => Kind::Restore,
            Self::Grow => Kind::Grow,
            Self::Delete => Kind::Delete,
            Self::FenceNow(_) => Kind::FenceNow,
            Self::NodeIsOff(_) => Kind::NodeIsOff,
            Self::Force(_) => Kind::Force,
            Self::EmptyHolders | Self::Flip(_) => Kind::Edit,
            Self::Publish(_)
            | Self::PublishToRead(_)
            | Self::Unpublish(_)
            | Self::Unwant(_)
            | Self::Pass(_)
            | Self::PassOnOldVolume(_)
            | Self::Run(_)
            | Self::RunUnheard(_) => return None,
        })
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.users(world, actions);
        for id in 0..u8::try_from(world.machines.len()).unwrap_or(u8::MAX) {
            node::actions(self, world, id, actions);
        }
        leader::actions(world, actions);
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        self.happen(&mut world, &action);
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Protocol {
    fn users(&self, world: &World, actions: &mut Vec<Action>) {
        for node in 0..2 {
            // Nodes are alike until the first is used.
            let first = world.attachments.is_empty() && node > 0;
            if world.attachments.len() < self.attachments && world.named(node).is_none() && !first && !world.wishes.0 {
                actions.push(Action::Publish(node));
                if self.readers {
                    actions.push(Action::PublishToRead(node));
                }
            }
        }
        for (node, wanted) in (0u8..).zip(world.wanted) {
            // Its object is gone: the detach finds nothing to wait for.
            if wanted && world.named(node).is_none() {
                actions.push(Action::Unwant(node));
            }
        }
        for (i, attachment) in world.attachments.iter().enumerate() {
            if attachment.gone || attachment.deleting {
                continue;
            }
            // Kubelet unmounts first, where it can be asked.
            let node = world.node(attachment.node);
            let used = world.machines[usize::from(node.machine)].pods != 0;
            if !used || !node.online || node.tainted {
                actions.push(Action::Unpublish(i));
            }
        }
        if world.may(Kind::ExportLost) && world.target.exported.is_some() {
            actions.push(Action::ExportLost);
        }
        if world.may(Kind::Restore) && !world.record.blank {
            actions.push(Action::Restore);
        }
        if world.may(Kind::Grow) && !world.wishes.1 {
            actions.push(Action::Grow);
        }
        if world.may(Kind::Delete) && !world.wishes.0 {
            actions.push(Action::Delete);
        }
        if world.may(Kind::NodeIsOff) {
            let off = (0u8..).zip(&world.machines).filter(|(_, m)| !m.online);
            actions.extend(off.map(|(id, _)| Action::NodeIsOff(id)));
        }
        if world.may(Kind::Force) {
            let there = world.attachments.iter().enumerate().filter(|(_, a)| !a.gone);
            actions.extend(there.map(|(i, _)| Action::Force(i)));
        }
        if world.may(Kind::Edit) {
            if !world.record.holders.is_empty() {
                actions.push(Action::EmptyHolders);
            }
            let admitted = |a: &Attachment| matches!(a.said, Said::Admitted(..));
            let there = world
                .attachments
                .iter()
                .enumerate()
                .filter(|(_, a)| !a.gone && !admitted(a));
            actions.extend(there.map(|(i, _)| Action::Flip(i)));
        }
        if world.may(Kind::FenceNow) && world.cut_now.is_none() && world.owed {
            actions.extend((0..2).map(Action::FenceNow));
        }
    }

    pub(crate) fn happen(&self, world: &mut World, action: &Action) {
        if let Some(kind) = action.kind() {
            world.spend(kind);
        }
        match *action {
            Action::Publish(node) | Action::PublishToRead(node) => {
                world.wanted[usize::from(node)] = true;
                world.attachments.push(Attachment {
                    node,
                    reads: matches!(action, Action::PublishToRead(_)),
                    ..Attachment::default()
                });
            }
            Action::Unpublish(i) => {
                let attachment = &mut world.attachments[i];
                attachment.deleting = true;
                world.wanted[usize::from(attachment.node)] = false;
            }
            Action::Unwant(node) => world.wanted[usize::from(node)] = false,
            Action::Force(i) => world.attachments[i].remove(),
            Action::EmptyHolders => {
                world.record.holders.clear();
                world.edited = true;
            }
            Action::Flip(i) => {
                let (generation, nqn) = (world.record.generation, world.nqn);
                world.attachments[i].said = Said::Admitted(generation, nqn);
            }
            Action::Pass(i) => leader::pass(self, world, i, false),
            Action::PassOnOldVolume(i) => leader::pass(self, world, i, true),
            Action::CachesFallBehind(i) | Action::NodesFallBehind(i) => {
                let now = Box::new(world.snapshot());
                let leader = &mut world.leaders[usize::from(i)];
                leader.cache = Some(now);
                leader.only_nodes = matches!(action, Action::NodesFallBehind(_));
            }
            Action::LeaderDies(i) => {
                world.leaders[usize::from(i)] = Leader::default();
                for exec in world.execs.iter_mut().filter(|e| e.waiting == Some(i)) {
                    exec.waiting = None;
                }
            }
            Action::Run(i) => {
                let exec = world.execs.remove(i);
                let done = volume::run(self, world, exec.command);
                leader::answer(world, exec, done);
            }
            Action::RunUnheard(i) => {
                let exec = world.execs.remove(i);
                volume::run(self, world, exec.command);
                if exec.waiting.is_some() {
                    world.spend(Kind::Exec);
                    leader::unheard(self, world, exec);
                }
            }
            Action::GiveUp(i) => {
                let exec = world.execs[i];
                world.execs[i].waiting = None;
                world.execs.sort_unstable();
                world.execs.dedup();
                leader::unheard(self, world, exec);
            }
            Action::Drop(i) => {
                let exec = world.execs.remove(i);
                leader::unheard(self, world, exec);
            }
            Action::ExportLost => {
                world.target.exported = None;
                world.target.sessions.clear();
            }
            Action::Restore => {
                world.record = Record {
                    generation: 1,
                    blank: world.target.token == 1,
                    ..Record::default()
                };
                world.nqn = 1;
            }
            Action::Grow => world.wishes.1 = true,
            Action::Delete => world.wishes.0 = true,
            Action::FenceNow(node) => world.cut_now = Some(node),
            Action::NodeIsOff(id) => {
                let me = &mut world.machines[usize::from(id)];
                world.off = Some((me.node, id, me.boot));
                *me = Machine {
                    boot: me.boot,
                    online: false,
                    off: true,
                    ..Machine::new(me.node)
                };
                world.target.sessions.retain(|(m, _)| *m != id);
            }
            Action::At(id, event) => node::happen(self, world, id, event),
        }
    }
}
