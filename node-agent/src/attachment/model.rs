//! What the agent's decisions look at: plain data, made by `observe`.

use rds_crds::attachment::{FenceEvidence, Intent, Namespace, OldName};

/// What a live read said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact<T> {
    /// It is there, as this.
    Present(T),
    /// A complete answer says that it is not there.
    Absent,
    /// No answer that can be trusted, and why.
    Unknown(String),
}

/// Everything that a decision about one attachment looks at. All of it was read for this decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// This machine.
    pub host: Host,
    /// Prefix of every NQN that may be touched.
    pub prefix: String,
    /// The attachment.
    pub attachment: AttachmentSeen,
    /// Its volume.
    pub volume: Fact<VolumeSeen>,
    /// The host's sessions of this volume, of every generation.
    pub sessions: Sessions,
    /// Use of the volume on this host that no session explains any more, such as a mount whose device is gone.
    pub leftover: Use,
    /// Pods that have the volume published, by what is seen below kubelet's folder; `None` while that cannot be told.
    pub users: Option<Vec<String>>,
    /// A connect of this volume.
    pub in_flight: InFlight,
    /// A loss of data on this node of which nobody could be told at the time.
    pub unreported: Option<String>,
    /// What went wrong last, in this process.
    pub failure: Option<Failure>,
    /// The wait after that failure is over.
    pub may_retry: bool,
    /// On a canary that was cut: its session was looked at for long enough.
    pub watched: bool,
    /// On a canary that was cut: what the target answered to the old name.
    pub asked: Option<OldName>,
}

/// This machine, and this run of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Name of the Node.
    pub node: String,
    /// Boot ID of the kernel.
    pub boot_id: String,
    /// System UUID; empty where the firmware has none.
    pub system_uuid: String,
    /// Machine ID of the operating system.
    pub machine_id: String,
    /// UID of the Node object, once it was read.
    pub node_uid: Option<String>,
}

impl Host {
    /// What is recorded before a connect to this generation; `None` while the Node was not read.
    #[must_use]
    pub fn intent(&self, generation: u32) -> Option<Intent> {
        Some(Intent {
            boot_id: self.boot_id.clone(),
            system_uuid: self.system_uuid.clone(),
            machine_id: self.machine_id.clone(),
            node_uid: self.node_uid.clone()?,
            generation,
        })
    }

    /// Whether it was this machine, in this boot or an earlier one, that recorded the intent. No boot ID is given twice; across
    /// boots all three names have to agree, for a replacement may bear the node's name. `None` while the Node was not read.
    #[must_use]
    pub fn recorded(&self, intent: &Intent) -> Option<bool> {
        if intent.boot_id == self.boot_id {
            return Some(true);
        }
        if (&intent.system_uuid, &intent.machine_id) != (&self.system_uuid, &self.machine_id) {
            return Some(false);
        }
        self.node_uid.as_ref().map(|uid| *uid == intent.node_uid)
    }
}

/// An RdsAttachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentSeen {
    /// The node that it is for.
    pub node: String,
    /// Its deletion was requested.
    pub deleting: bool,
    /// It is for reading alone: its device is set read-only before any use.
    pub read_only: bool,
    /// What the operator says.
    pub admission: Admission,
    /// What this agent said last.
    pub said: Said,
}

/// What the operator says about an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It may be used, there.
    Granted(Grant),
    /// It was taken back: the detach is wanted.
    Withdrawn,
    /// Nothing yet, a refusal, or a grant that is not complete.
    None,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// NQN of that generation.
    pub nqn: String,
    /// IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Generation of the export.
    pub generation: u32,
}

/// `status.agent` as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The recorded intent.
    pub intent: Option<Intent>,
    /// `Disconnected=True`, whatever its reason: final.
    pub disconnected: bool,
    /// All else.
    pub report: Report,
}

/// An RdsVolume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeSeen {
    /// Generation of its export.
    pub generation: u32,
    /// NQN of its export. Its number may be lower: an export that was only toggled keeps its name.
    pub nqn: Option<String>,
    /// This very attachment is recorded as a holder.
    pub holds: bool,
    /// This node was cut and has not acknowledged it.
    pub fenced: bool,
    /// It is the canary of the self-test: where its first generation was.
    pub canary: Option<Grant>,
}

/// The host's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// All of them.
    Known(Vec<SessionSeen>),
    /// They cannot be listed, and why.
    Unknown(String),
}

/// One session of the volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionSeen {
    /// Its NQN.
    pub nqn: String,
    /// Generation of that NQN, if it can be read.
    pub generation: Option<u32>,
    /// State as the kernel spells it.
    pub state: String,
    /// The kernel shows a disk behind it.
    pub disk: bool,
    /// What the kernel calls that disk.
    pub identity: Option<String>,
    /// What tells it from every other connection of this boot.
    pub connection: String,
    /// Whether something on the host uses its device.
    pub used: Use,
}

/// Whether a device is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Proven: by nothing.
    Unused,
    /// By this.
    Used(String),
    /// There is no proof, for this reason. Counts as used.
    Unknown(String),
}

/// A connect of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InFlight {
    /// None, of no process.
    None,
    /// One of ours runs.
    Running,
    /// An earlier agent process may still have one.
    Unknown,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// For the condition.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// What the agent says besides its intent and its last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Condition Connected.
    pub connected: Option<Word>,
    /// Condition Disconnected while it is False: why not yet.
    pub waiting: Option<Word>,
    /// Condition Healthy.
    pub healthy: Option<Word>,
    /// Condition Cleared: the fence is acknowledged, nothing of an older generation is left.
    pub cleared: bool,
    /// What was seen of a fence on the canary of the self-test.
    pub evidence: Option<FenceEvidence>,
    /// State of the controller.
    pub controller_state: Option<String>,
    /// Pods that have the volume published; `None` while nobody can say.
    pub used_by: Option<Vec<String>>,
    /// The namespace that the connection began with.
    pub namespace: Option<Namespace>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word {
    /// Its status.
    pub status: bool,
    /// Its reason.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        /// Reasons in the agent's conditions: a closed set, `docs/node-agent.md` has an entry for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])+ $name),+ }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word in the condition.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

reasons! {
    /// The session is live.
    Connected,
    /// The session is there and not live; the kernel tries again.
    Reconnecting,
    /// The session is live, and the target shows no disk behind it.
    NoDisk,
    /// The session is gone and something still uses its device: it is not connected anew beneath that.
    DeviceLost,
    /// The target says that it does not know the NQN, or does not let this host in.
    Refused,
    /// No answer from the target.
    Unreachable,
    /// The kernel refused the connect for another reason.
    ConnectFailed,
    /// A session of another generation is left on this node.
    OtherGeneration,
    /// Another machine of this node's name has recorded that it connects, and was not cut since.
    OtherMachine,
    /// The NQN does not begin with the managed prefix: it is not touched.
    NotManaged,
    /// The connection was ended.
    Ended,
    /// Something on the node uses the device.
    InUse,
    /// The session could not be ended.
    DisconnectFailed,
    /// The node was cut at the target while it had a session.
    PossibleDataLoss,
    /// The disk behind the connection has become another one.
    IdentityChanged,
    /// The filesystem is mounted on the node.
    Mounted,
    /// The device is ready for raw use.
    RawDevice,
    /// It was unmounted, or is not used as a raw device any more.
    Unstaged,
    /// The filesystem was checked, or made, and is in order.
    Checked,
    /// The filesystem was mounted without a check.
    CheckSkipped,
    /// The filesystem is damaged and is not mounted.
    Damaged,
    /// The kernel has made the mounted filesystem read-only.
    TurnedReadOnly,
    /// The data on the disk is not what was recorded: nothing is done with it.
    UnexpectedData,
    /// Reading, formatting or mounting failed.
    UseFailed,
    /// Nothing of an older generation is left.
    NothingLeft,
    /// Disconnected: there was a connection, and it is gone.
    Clean,
    /// Disconnected: there never was one.
    NeverConnected,
}

impl Reason {
    /// The reason with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }
}
