//! The words that deciding and doing share: what was seen, which steps there are, what is reported.

use std::time::Duration;

use jiff::Timestamp;
use rds_crds::Reason;
use rds_crds::volume::{CreationOutcome, DeletionPhase, RdsVolumeStatus};

use crate::routeros::{Bytes, DiskRow, Generation, Nonce};

use super::appliance_view::ApplianceView;

/// Something that was looked at, or not, or in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact<T> {
    /// Nobody has looked yet in this pass.
    NotRead,
    /// A complete, well-formed answer.
    Known(T),
    /// No such answer could be had. Never leads to a destructive step.
    Unknown(Problem),
}

/// Why something could not be had or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The word for conditions.
    pub reason: Reason,
    /// What and what to do.
    pub message: String,
    /// The command may have run or may still run.
    pub unknown: bool,
    /// The command stopped half-way. Of a create: what is there of the disk now, it has made itself.
    pub incomplete: bool,
}

/// Whether the appliance can be asked for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// Compatible, with a pool.
    Usable,
    /// Usable, but new work waits.
    Maintenance,
    /// Not usable: why and what to do.
    Unusable(Reason, String),
}

/// What live reads of PersistentVolumes say about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backing {
    /// PersistentVolumes with this handle.
    pub volumes: Vec<PersistentVolumeSeen>,
}

/// One PersistentVolume with this handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PersistentVolumeSeen {
    /// Its name.
    pub name: String,
    /// Phase Bound: a claim uses it.
    pub bound: bool,
    /// Reclaim policy Retain.
    pub retain: bool,
}

/// What the status has recorded, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The creation of the disk.
    pub creation: Option<CreationRecord>,
    /// Generation of the export.
    pub generation: Option<Generation>,
    /// A toggle of the export to this generation was recorded and not read back yet.
    pub toggling: bool,
    /// Nodes that hold the volume.
    pub holders: Vec<String>,
    /// The record of holders may have holes.
    pub holders_unknown: bool,
    /// A fence is in progress.
    pub fence: bool,
    /// Nodes that were cut and have not acknowledged it.
    pub fenced: Vec<String>,
    /// The deletion in progress.
    pub deletion: Option<DeletionPhase>,
    /// The last measured size.
    pub capacity: Option<Bytes>,
}

/// The recorded creation of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreationRecord {
    /// Nonce in the disk's comment.
    pub nonce: Nonce,
    /// When the last create command was about to be sent.
    pub started_at: Timestamp,
    /// What became of it.
    pub outcome: CreationOutcome,
    /// An earlier create command was never answered.
    pub earlier_unknown: bool,
}

impl CreationRecord {
    /// How long a create command of which nothing was heard may still run; `None` when none can be left.
    pub(crate) fn may_still_run(&self, now: Timestamp, max_exec_age: Duration) -> Option<Duration> {
        let age = u64::try_from(now.as_second().saturating_sub(self.started_at.as_second())).unwrap_or(0);
        max_exec_age
            .as_secs()
            .checked_sub(age)
            .filter(|rest| *rest > 0)
            .map(Duration::from_secs)
    }
}

impl Ledger {
    /// Who may be connected, for messages; `None`: it is known that nobody is.
    pub(crate) fn users(&self) -> Option<String> {
        match (self.holders.as_slice(), self.holders_unknown) {
            ([], false) => None,
            ([], true) => Some("somebody who is not on record".to_owned()),
            (all, _) => Some(all.join(", ")),
        }
    }

    /// Reads the status. A creation record whose nonce is no nonce is damaged: the error says so.
    pub(crate) fn of(status: Option<&RdsVolumeStatus>) -> Result<Self, String> {
        let Some(status) = status else {
            return Ok(Self::default());
        };
        let creation = status
            .creation
            .as_ref()
            .map(|c| -> Result<_, String> {
                let nonce = c.nonce.parse().map_err(|e| format!("status.creation.nonce: {e}"))?;
                Ok(CreationRecord {
                    nonce,
                    started_at: c.started_at.0,
                    outcome: c.outcome,
                    earlier_unknown: c.earlier_unknown == Some(true),
                })
            })
            .transpose()?;
        Ok(Self {
            creation,
            generation: status.export_generation.map(Generation),
            toggling: is_toggling(status),
            holders: status.holders.iter().map(|h| h.node.clone()).collect(),
            holders_unknown: status.holders_unknown_since.is_some(),
            fence: status.fence.is_some(),
            fenced: status.fenced.iter().map(|f| f.node.clone()).collect(),
            deletion: status.deletion.as_ref().map(|d| d.phase),
            capacity: status.capacity.map(|c| Bytes(c.bytes())),
        })
    }
}

/// Whether a toggle of the export may still run. One of an older generation cannot: its guard does not match any more.
pub(crate) fn is_toggling(status: &RdsVolumeStatus) -> bool {
    status.toggling.is_some() && status.toggling == status.export_generation
}

/// Everything that a decision looks at.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whether the appliance can be asked.
    pub server: ServerState,
    /// What the appliance says about this volume.
    pub view: Fact<ApplianceView>,
    /// What Kubernetes says about this volume, live.
    pub backing: Fact<Backing>,
    /// Bytes that a new or larger disk may take.
    pub room: Fact<Bytes>,
    /// This pass itself recorded the present phase: no command of that phase was sent before.
    pub own_record: bool,
    /// The step that this pass did last on the appliance, with its problem if it failed.
    pub last: Option<(Mutation, Option<Problem>)>,
    /// Why the create of this pass stopped half-way. What it left may be removed since.
    pub half_made: Option<Problem>,
    /// The deviation that an earlier and other reading has shown already.
    pub seen_before: Option<Deviation>,
    /// Now.
    pub now: Timestamp,
    /// How long a command of which nothing was heard may still run.
    pub max_exec_age: Duration,
}

impl Seen {
    /// A step on the appliance has ended.
    pub(crate) fn ended(&mut self, mutation: Mutation, problem: Option<Problem>) {
        if mutation == Mutation::Create {
            self.half_made = problem.clone().filter(|problem| problem.incomplete);
        }
        self.last = Some((mutation, problem));
    }
}

/// A deviation of the appliance that has to be seen twice before anything is concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// The disk is gone.
    DiskMissing,
    /// The export is off or under another name.
    ExportLost,
    /// The tag is not ours any more.
    TagLost,
}

/// A step that changes the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    /// Make and export the disk.
    Create,
    /// Tag and export an existing disk.
    Adopt,
    /// Make it larger.
    Grow,
    /// Export off and on: some appliances resize only so.
    Toggle,
    /// Repair the export.
    Export,
    /// Move the token to the next generation and end the export.
    Retire,
    /// Remove the disk, then its file.
    Remove,
    /// Remove the file that is left.
    RemoveFile,
    /// Take our tag off.
    Release,
}

/// A compare-and-swap of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A create command is about to be sent.
    BeginCreation,
    /// The disk with our nonce was read back: the file is this object's own and blank.
    Created,
    /// The appliance proved that it did nothing.
    CreationRefused,
    /// An existing disk is about to be tagged: its data is foreign.
    BeginAdoption,
    /// The tag was read back on the existing disk.
    Adopted,
    /// The appliance knows more than the status: take its generation (never lower), nonce, and NQN where exported; holders are
    /// unknown.
    Recover(Generation, Nonce, Option<String>),
    /// The export is about to be switched off and on, with the next generation.
    BeginToggle,
    /// The disk was read back with the generation of the toggle.
    Toggled,
    /// The licence to remove the data, with the next generation.
    BeginDeletion,
    /// The token was moved and the export read back as off.
    Retired,
}

/// One small idempotent step, named like the log line it makes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Read everything about this volume from the appliance, fresh.
    Look,
    /// Take this volume's rows from the shared listing.
    List,
    /// Read the PersistentVolumes with this handle live.
    Backing,
    /// Find out how much room the pool has.
    MeasureRoom,
    /// Compare-and-swap the status.
    Record(Change),
    /// Change the appliance.
    Do(Mutation),
    /// Drop the finalizer: nothing of this volume is left, or what is left stays on purpose.
    Forget,
    /// Nothing more now: report, and look again.
    Rest(Box<Report>, Recheck),
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recheck {
    /// With the slow timer.
    Later,
    /// After a failure that may pass: exponential backoff.
    Backoff,
    /// A person has to help: minutes.
    Slowly,
    /// After this time.
    In(Duration),
}

/// What the status will say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// Ready: True, False or Unknown.
    pub ready: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Only a person can help.
    pub stalled: bool,
    /// Leave the conditions as they are: the appliance cannot be asked and nothing is wanted of it.
    pub keep: bool,
    /// The disk as read.
    pub disk: Option<DiskRow>,
    /// The disk differs from what we made.
    pub drifted: Option<(Reason, String)>,
    /// A growth waits.
    pub expand_pending: Option<(Reason, String)>,
    /// A deletion waits.
    pub deletion_blocked: Option<(Reason, String)>,
    /// A deviation that has to be seen once more.
    pub deviation: Option<Deviation>,
}

impl Report {
    /// A report with nothing but the summary.
    pub(crate) fn new(ready: Option<bool>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            ready,
            reason,
            message: message.into(),
            stalled: false,
            keep: false,
            disk: None,
            drifted: None,
            expand_pending: None,
            deletion_blocked: None,
            deviation: None,
        }
    }

    /// The same, with only a person to help.
    pub(crate) fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::new(Some(false), reason, message)
        }
    }

    /// Rest with this report.
    pub(crate) fn rest(self, again: Recheck) -> Step {
        Step::Rest(Box::new(self), again)
    }
}

impl Mutation {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Create,
        Self::Adopt,
        Self::Grow,
        Self::Toggle,
        Self::Export,
        Self::Retire,
        Self::Remove,
        Self::RemoveFile,
        Self::Release,
    ];

    /// For logs and crash points.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Grow => "grow",
            Self::Toggle => "toggle",
            Self::Export => "export",
            Self::Retire => "retire",
            Self::Remove => "remove",
            Self::RemoveFile => "remove-file",
            Self::Release => "release",
        }
    }
}

impl Change {
    /// Names of all of them.
    pub(crate) const NAMES: [&'static str; 10] = [
        "record-begin-creation",
        "record-created",
        "record-creation-refused",
        "record-begin-adoption",
        "record-adopted",
        "record-recovered",
        "record-begin-toggle",
        "record-toggled",
        "record-begin-deletion",
        "record-retired",
    ];

    /// For logs and crash points.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::BeginCreation => Self::NAMES[0],
            Self::Created => Self::NAMES[1],
            Self::CreationRefused => Self::NAMES[2],
            Self::BeginAdoption => Self::NAMES[3],
            Self::Adopted => Self::NAMES[4],
            Self::Recover(..) => Self::NAMES[5],
            Self::BeginToggle => Self::NAMES[6],
            Self::Toggled => Self::NAMES[7],
            Self::BeginDeletion => Self::NAMES[8],
            Self::Retired => Self::NAMES[9],
        }
    }
}
