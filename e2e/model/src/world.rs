//! The state: API server, appliance, leaders, nodes.

use rds_operator::attachment::decide::Did;

use crate::Protocol;

/// The volume's record of admission.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// resourceVersion.
    pub version: u8,
    /// Generation of the export.
    pub generation: u8,
    /// Who may use it.
    pub holders: Vec<Holder>,
    /// Node, attachment, and whether the cut was read back.
    pub fence: Option<(u8, u8, bool)>,
    /// Who was cut.
    pub fenced: Vec<u8>,
}

/// One entry of the record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Its node.
    pub node: u8,
    /// Its attachment.
    pub attachment: u8,
    /// It came second.
    pub second: bool,
}

/// What an attachment's status says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// Admitted, for this generation.
    Admitted(u8),
    /// Refused, with this word.
    Refused(&'static str),
    /// Not any more.
    Withdrawn,
}

/// An RdsAttachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Its node.
    pub node: u8,
    /// Deletion requested.
    pub deleting: bool,
    /// The object is gone.
    pub gone: bool,
    /// Admission.
    pub said: Said,
    /// Machine and boot that intend to connect, and the generation.
    pub intent: Option<(Machine, u8)>,
    /// The agent's final word.
    pub disconnected: bool,
    /// The agent has seen that nothing older is left.
    pub cleared: bool,
}

/// One run of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Machine {
    /// The machine.
    pub id: u8,
    /// How often it was booted.
    pub boot: u8,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeState {
    /// The machine that bears the name now.
    pub machine: Machine,
    /// It reaches the API server.
    pub online: bool,
    /// Declared out of service.
    pub tainted: bool,
    /// A connect in flight: machine and generation.
    pub connecting: Option<(Machine, u8)>,
}

/// The appliance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Generation in the disk's comment.
    pub token: u8,
    /// The highest it ever was.
    pub highest: u8,
    /// Generation of the NQN that is exported.
    pub exported: Option<u8>,
    /// Live sessions: machine, its node's name, generation.
    pub sessions: Vec<(Machine, u8, u8)>,
}

/// A command on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// What it does.
    pub command: Command,
    /// The leader that still waits for its answer.
    pub waiting: Option<usize>,
}

/// The two commands of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Token to this generation, export off.
    Cut(u8),
    /// Export on under the NQN of this generation.
    Reopen(u8),
}

/// A leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leader {
    /// What it read last.
    pub view: Option<Box<Snapshot>>,
    /// What it did on the appliance in this pass.
    pub did: Option<Did>,
    /// Its last command failed or is unknown.
    pub failed: bool,
    /// It waits for a command.
    pub waits: bool,
}

/// What a leader read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The record.
    pub record: Record,
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// The nodes.
    pub nodes: [NodeState; 2],
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// In the API server: the volume.
    pub record: Record,
    /// In the API server: the attachments; the index is the UID.
    pub attachments: Vec<Attachment>,
    /// The nodes.
    pub nodes: [NodeState; 2],
    /// The appliance.
    pub target: Target,
    /// Commands on their way.
    pub execs: Vec<Exec>,
    /// The leaders.
    pub leaders: Vec<Leader>,
    /// Faults that may still happen.
    pub faults: u8,
    /// Machines made so far.
    pub machines: u8,
    /// A cut ended the session of a holder that was alive and wanted.
    pub cut_a_live_peer: bool,
}

impl World {
    pub(crate) fn new(model: &Protocol) -> Self {
        let node = |id| NodeState {
            machine: Machine { id, boot: 0 },
            online: true,
            tainted: false,
            connecting: None,
        };
        Self {
            record: Record {
                version: 0,
                generation: 1,
                holders: vec![],
                fence: None,
                fenced: vec![],
            },
            attachments: vec![],
            nodes: [node(0), node(1)],
            target: Target {
                token: 1,
                highest: 1,
                exported: Some(1),
                sessions: vec![],
            },
            execs: vec![],
            leaders: vec![Leader::default(); model.leaders],
            faults: model.faults,
            machines: 2,
            cut_a_live_peer: false,
        }
    }

    /// Whether an object of that node's name exists.
    pub(crate) fn named(&self, node: u8) -> bool {
        self.attachments.iter().any(|a| a.node == node && !a.gone)
    }

    pub(crate) fn publish(&mut self, node: u8) {
        self.attachments.push(Attachment {
            node,
            deleting: false,
            gone: false,
            said: Said::Nothing,
            intent: None,
            disconnected: false,
            cleared: false,
        });
    }

    /// Machines that can write now, with their node's name.
    #[must_use]
    pub fn writers(&self) -> Vec<(u8, u8)> {
        let mut all: Vec<(u8, u8)> = self.target.sessions.iter().map(|(m, node, _)| (m.id, *node)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn fault(&mut self) {
        self.faults = self.faults.saturating_sub(1);
    }
}
