//! The state: API server, appliance, leaders, machines.

use rds_operator::attachment::decide::Did;

use crate::agent::View;
use crate::{Kind, Protocol};

/// The compare-and-swap fields of the volume's status. Compared as a whole where the API server compares versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// Generation of the export.
    pub generation: u8,
    /// Who may use it.
    pub holders: Vec<Holder>,
    /// A fence in progress.
    pub fence: Option<Fence>,
    /// Nodes that were cut and have not acknowledged it.
    pub fenced: Vec<u8>,
    /// The record may have holes.
    pub unknown: bool,
    /// The volume is being removed.
    pub deletion: bool,
    /// The status was lost, and nobody has looked since.
    pub blank: bool,
}

/// One entry of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Its node.
    pub node: u8,
    /// Its attachment.
    pub attachment: u8,
    /// It came second.
    pub second: bool,
    /// It only reads.
    pub reads: bool,
    /// Its detach is answered before it was cut, and this is what its attachment had recorded.
    pub deferred: Option<Option<Intent>>,
}

/// A fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Who is cut; nobody in particular where the record has holes.
    pub node: Option<u8>,
    /// Its attachment.
    pub attachment: Option<u8>,
    /// The cut was read back.
    pub cut: bool,
    /// Number in the NQN that it ends with.
    pub nqn: u8,
}

/// What an attachment's status says about admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Said {
    /// Nothing.
    #[default]
    Nothing,
    /// Admitted, for this generation and this number in the NQN.
    Admitted(u8, u8),
    /// Refused, with this word.
    Refused(&'static str),
    /// Not any more.
    Withdrawn,
    /// Not any more, as a person vouches that the node is off.
    NodeOff,
}

/// An RdsAttachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Its node.
    pub node: u8,
    /// Only to read.
    pub reads: bool,
    /// Deletion requested.
    pub deleting: bool,
    /// The object is gone.
    pub gone: bool,
    /// Admission.
    pub said: Said,
    /// Who intends to connect.
    pub intent: Option<Intent>,
    /// The agent's final word.
    pub disconnected: bool,
    /// The agent has seen that nothing older is left.
    pub cleared: bool,
    /// The agent has said that data may be lost.
    pub lost: bool,
    /// The agent has said that it is connected.
    pub connected: bool,
    /// The agent has said that no pod uses the volume.
    pub unused: bool,
}

/// A recorded intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    /// Machine.
    pub machine: u8,
    /// Its boot.
    pub boot: u8,
    /// Generation.
    pub generation: u8,
}

/// A Node object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The machine that bears the name.
    pub machine: u8,
    /// Its boot, as kubelet has reported it.
    pub boot: u8,
    /// Ready, and the agent's Lease is renewed.
    pub online: bool,
    /// Declared out of service.
    pub tainted: bool,
}

/// A machine: its kernel and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// The name of its node.
    pub node: u8,
    /// How often it was booted.
    pub boot: u8,
    /// It reaches the API server; the storage network it always reaches.
    pub online: bool,
    /// It is switched off for good.
    pub off: bool,
    /// Its agent has read the Node's UID.
    pub knows: bool,
    /// Controllers in its kernel, by the number in the NQN. They may have lost their session.
    pub controllers: Vec<u8>,
    /// A connect in flight.
    pub connecting: Option<u8>,
    /// What it connected last is read-only: the kernel lets nothing be written.
    pub reads: bool,
    /// Pods that use the volume: bit 0 one of before, bit 1 a new one.
    pub pods: u8,
    /// Its agent stands still between reading and acting.
    pub paused: Option<Box<View>>,
    /// A write of an agent that is gone, still on its way.
    pub late: Option<Box<View>>,
}

/// The appliance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Generation in the disk's comment.
    pub token: u8,
    /// Number in the NQN that is exported.
    pub exported: Option<u8>,
    /// Live sessions: machine and number in the NQN. Whoever has one can write.
    pub sessions: Vec<(u8, u8)>,
}

/// A command on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exec {
    /// What it does.
    pub command: Command,
    /// The leader that still waits for its answer.
    pub waiting: Option<u8>,
}

/// Commands, with the token that they end with and the number in the NQN that they export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// First half of a fence: token moved, export off.
    Cut(u8),
    /// Second half: export on under the new NQN.
    Reopen(u8, u8),
    /// Repair of a lost export.
    Repair(u8, u8),
    /// Expansion on an appliance that resizes only so: token moved, export off and on.
    Toggle(u8, u8),
    /// First half of a deletion: token moved, export off.
    Retire(u8),
}

/// A leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Its caches, where they have fallen behind: for one pass.
    pub cache: Option<Box<Snapshot>>,
    /// Only that of the Nodes is behind.
    pub only_nodes: bool,
    /// The volume as this pass knows it since its command.
    pub kept: Option<Box<Record>>,
    /// What it did on the appliance in this pass.
    pub did: Option<Did>,
    /// It waits for a command.
    pub waits: bool,
}

/// What the caches hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The volume.
    pub record: Record,
    /// The NQN in its status.
    pub nqn: u8,
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// The nodes.
    pub nodes: [Node; 2],
}

/// What must never happen, and is seen only when it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrong {
    /// A cut ended the session of a holder that was alive and wanted.
    pub cut_a_live_peer: bool,
    /// Another command than a fence ended a session.
    pub ended_under_a_holder: bool,
    /// Somebody was admitted beside a holder that was lost or leaving.
    pub entered: bool,
    /// A new pod began to use the volume while a fence was owed.
    pub new_use: bool,
    /// The token went down.
    pub token_down: bool,
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// In the API server: the volume.
    pub record: Record,
    /// The NQN in its status.
    pub nqn: u8,
    /// Its condition FencePending.
    pub owed: bool,
    /// A person's word to cut that node.
    pub cut_now: Option<u8>,
    /// A person's word that this boot of that node is off.
    pub off: Option<(u8, u8, u8)>,
    /// Nodes that VolumeAttachments want it on.
    pub wanted: [bool; 2],
    /// Its deletion, or a growth, was asked for.
    pub wishes: (bool, bool),
    /// The attachments; the index is the UID.
    pub attachments: Vec<Attachment>,
    /// The Nodes; `online` is kept with the machine.
    pub nodes: [Node; 2],
    /// All machines; the first two are the nodes' first ones.
    pub machines: Vec<Machine>,
    /// The appliance.
    pub target: Target,
    /// Commands on their way.
    pub execs: Vec<Exec>,
    /// The leaders.
    pub leaders: Vec<Leader>,
    /// What may still happen, by kind, and altogether.
    pub left: [u8; Kind::COUNT],
    /// Altogether.
    pub faults: u8,
    /// A person has changed the record of holders by hand.
    pub edited: bool,
    /// What has gone wrong.
    pub wrong: Wrong,
}

impl Attachment {
    /// The object is gone, and with it all that it said.
    pub(crate) fn remove(&mut self) {
        *self = Self {
            node: self.node,
            gone: true,
            ..Self::default()
        };
    }
}

impl World {
    pub(crate) fn new(model: &Protocol) -> Self {
        let node = |machine| Node {
            machine,
            boot: 0,
            online: true,
            tainted: false,
        };
        let mut left = [0; Kind::COUNT];
        for (kind, count) in &model.budget {
            left[*kind as usize] = *count;
        }
        Self {
            record: Record {
                generation: 1,
                ..Record::default()
            },
            nqn: 1,
            owed: false,
            cut_now: None,
            off: None,
            wanted: [false; 2],
            wishes: (false, false),
            attachments: vec![],
            nodes: [node(0), node(1)],
            machines: vec![Machine::new(0), Machine::new(1)],
            target: Target {
                token: 1,
                exported: Some(1),
                sessions: vec![],
            },
            execs: vec![],
            leaders: vec![Leader::default(); model.leaders],
            left,
            faults: model.faults,
            edited: false,
            wrong: Wrong::default(),
        }
    }

    /// Whether a fault of this kind may still happen.
    pub(crate) fn may(&self, kind: Kind) -> bool {
        self.faults > 0 && self.left[kind as usize] > 0
    }

    pub(crate) fn spend(&mut self, kind: Kind) {
        self.left[kind as usize] = self.left[kind as usize].saturating_sub(1);
        self.faults = self.faults.saturating_sub(1);
    }

    /// The attachment of that node whose object exists: there is at most one, by its name.
    pub(crate) fn named(&self, node: u8) -> Option<usize> {
        self.attachments.iter().position(|a| a.node == node && !a.gone)
    }

    /// A Node as the API server has it now.
    pub(crate) fn node(&self, node: u8) -> Node {
        let stored = self.nodes[usize::from(node)];
        Node {
            online: self.machines[usize::from(stored.machine)].online,
            ..stored
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            record: self.record.clone(),
            nqn: self.nqn,
            attachments: self.attachments.clone(),
            nodes: [self.node(0), self.node(1)],
        }
    }

    /// Machines with a live session.
    #[must_use]
    pub fn users(&self) -> Vec<u8> {
        let mut all: Vec<u8> = self.target.sessions.iter().map(|(machine, _)| *machine).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Those of them that can write now.
    #[must_use]
    pub fn writers(&self) -> Vec<u8> {
        let mut all = self.users();
        all.retain(|machine| !self.machines[usize::from(*machine)].reads);
        all
    }

    /// Whether that machine has a live session under the NQN of the volume's status.
    pub(crate) fn connected(&self, machine: u8) -> bool {
        self.target.sessions.contains(&(machine, self.nqn))
    }
}

impl Machine {
    pub(crate) fn new(node: u8) -> Self {
        Self {
            node,
            boot: 0,
            online: true,
            off: false,
            knows: false,
            controllers: vec![],
            connecting: None,
            reads: false,
            pods: 0,
            paused: None,
            late: None,
        }
    }
}
