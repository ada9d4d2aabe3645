//! The attachment protocol under every interleaving that the bounds allow.
//!
//! What decides is what ships: `decide`, `admit`, `standing` and `word` of the operator. Modelled around them: the API server with its
//! resourceVersion, two leaders that may both believe in themselves and look at old snapshots, commands that run late or whose
//! answer is lost, an appliance that tests tokens, agents that crash and connects that are in flight, nodes that reboot, are cut
//! off, come back, or are replaced by another machine of the same name.
//!
//! **The oracle is the target**: which machines hold a live session there, not what `holders` says.

mod agent;
mod leader;
mod world;

pub use world::{Attachment, Command, Exec, Leader, Machine, NodeState, Record, Target, World};

use stateright::{Model, Property};

/// What is put wrong on purpose, to show that the model can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A command whose answer was lost counts as done.
    SkipVerify,
    /// The agent connects although another machine of its node's name has recorded that it does.
    TrustTheName,
    /// Status writes ignore the resourceVersion.
    DropCompareAndSwap,
    /// A holder of which nothing is known is released.
    ReleaseOnUnknown,
    /// A lost holder counts as alive when a migration begins.
    AdmitBesideLost,
    /// A reboot is believed without comparing the machine.
    BootIdAlone,
    /// The reopening command does not test the token.
    RepairWithoutToken,
    /// The agent connects without having its intent accepted.
    ConnectFromCache,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SkipVerify,
        Self::TrustTheName,
        Self::DropCompareAndSwap,
        Self::ReleaseOnUnknown,
        Self::AdmitBesideLost,
        Self::BootIdAlone,
        Self::RepairWithoutToken,
        Self::ConnectFromCache,
    ];
}

/// The bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Raw block with ReadWriteMany, so that migrations may begin; otherwise ReadWriteOnce.
    pub shared: bool,
    /// Attachments that are made altogether.
    pub attachments: u8,
    /// Faults altogether: crashes, reboots, cut-offs, lost answers, late commands, replacements.
    pub faults: u8,
    /// Leaders that believe in themselves at once.
    pub leaders: usize,
    /// What is put wrong.
    pub mutation: Option<Mutation>,
}

impl Protocol {
    /// The properties that say that no data is lost.
    pub const SAFETY: [&'static str; 3] = [
        "I3: one writer, or two in an admitted migration",
        "D3: the appliance never has a lower generation than before",
        "D4: a live peer is never cut without a person's word",
    ];

    /// A small exploration.
    #[must_use]
    pub fn small(shared: bool) -> Self {
        Self {
            shared,
            attachments: 2,
            faults: 1,
            leaders: 2,
            mutation: None,
        }
    }

    pub(crate) fn wrong(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// Everything that may happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// ControllerPublish for this node.
    Publish(u8),
    /// ControllerUnpublish: the deletion of the attachment is requested.
    Unpublish(usize),
    /// A leader reads everything.
    Observe(usize),
    /// A leader decides on what it read, and writes or sends.
    Act(usize),
    /// A leader dies; its commands do not.
    LeaderDies(usize),
    /// A command runs, and the sender hears of it.
    Run(usize),
    /// A command runs, and nobody hears of it.
    RunUnheard(usize),
    /// The sender gives up; the command may still run.
    GiveUp(usize),
    /// A command never runs.
    Drop(usize),
    /// The agent reads its attachment live and records its intent.
    Intend(u8, usize),
    /// A connect in flight arrives at the target.
    Arrive(u8),
    /// The agent disconnects what it may not use.
    Disconnect(u8),
    /// The agent says that nothing is left.
    Declare(u8, usize),
    /// The agent dies and comes back; a connect in flight goes on in the kernel.
    AgentRestarts(u8),
    /// The node loses the API server, not the storage network.
    CutOff(u8),
    /// And has it again.
    Heal(u8),
    /// The machine reboots.
    Reboot(u8),
    /// Another machine takes the node's name; the old one goes on.
    Replace(u8),
    /// Somebody declares the node out of service, rightly or wrongly.
    Taint(u8),
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for node in 0..2u8 {
            let wanted = world
                .attachments
                .iter()
                .any(|a| a.node == node && !a.gone && !a.deleting);
            if world.attachments.len() < usize::from(self.attachments) && !wanted && !world.named(node) {
                actions.push(Action::Publish(node));
            }
            agent::actions(self, world, node, actions);
        }
        for (i, attachment) in world.attachments.iter().enumerate() {
            if !attachment.gone && !attachment.deleting {
                actions.push(Action::Unpublish(i));
            }
        }
        leader::actions(self, world, actions);
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Publish(node) => world.publish(node),
            Action::Unpublish(i) => world.attachments[i].deleting = true,
            Action::Observe(_)
            | Action::Act(_)
            | Action::LeaderDies(_)
            | Action::Run(_)
            | Action::RunUnheard(_)
            | Action::GiveUp(_)
            | Action::Drop(_) => leader::next(self, &mut world, &action),
            Action::Intend(..)
            | Action::Arrive(_)
            | Action::Disconnect(_)
            | Action::Declare(..)
            | Action::AgentRestarts(_)
            | Action::CutOff(_)
            | Action::Heal(_)
            | Action::Reboot(_)
            | Action::Replace(_)
            | Action::Taint(_) => agent::next(self, &mut world, &action),
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "I3: one writer, or two in an admitted migration",
                |model: &Self, world: &World| {
                    let writers = world.writers();
                    match writers.len() {
                        0 | 1 => true,
                        2 if model.shared => writers
                            .iter()
                            .all(|(_, node)| world.record.holders.iter().any(|h| h.node == *node)),
                        _ => false,
                    }
                },
            ),
            Property::always(
                "D3: the appliance never has a lower generation than before",
                |_, world: &World| world.target.token >= world.target.highest,
            ),
            Property::always(
                "a live peer is never cut without a person's word",
                |_, world: &World| !world.cut_a_live_peer,
            ),
            Property::sometimes("a node connects", |_, world: &World| !world.writers().is_empty()),
            Property::sometimes("a lost node is cut and another one connects", |_, world: &World| {
                world.record.generation > 1
                    && world.record.fence.is_none()
                    && world.writers().iter().any(|(_, n)| *n == 1)
            }),
        ]
    }
}
