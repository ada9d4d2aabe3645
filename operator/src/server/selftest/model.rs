//! What the decision about the self-test looks at, and its steps: plain data.

use jiff::Timestamp;
use rds_crds::Reason;
use rds_crds::attachment::FenceEvidence;
use rds_crds::server::{FenceTest, Fencing};

use crate::attachment::TestResult;

/// Everything that a decision looks at.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Now.
    pub now: Timestamp,
    /// The RdsServer is going away.
    pub deleting: bool,
    /// Why nothing can be made on the server, if so.
    pub unusable: Option<&'static str>,
    /// What the administrator wants.
    pub fencing: Fencing,
    /// RouterOS version as it was last listed.
    pub version: Option<String>,
    /// `status.fenceTest`.
    pub record: FenceTest,
    /// The condition FenceProven as it stands.
    pub said: Option<Word>,
    /// A person asks for the test.
    pub asked: bool,
    /// Nodes whose agents are alive, in order; only looked up where a test could begin.
    pub nodes: Vec<String>,
    /// The canary.
    pub canary: Option<Canary>,
    /// Its RdsAttachments.
    pub attachments: Vec<Attachment>,
}

/// The condition FenceProven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// True, False or Unknown.
    pub status: Option<bool>,
    /// Its reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Word {
    pub(super) fn new(status: Option<bool>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.as_str().to_owned(),
            message: message.into(),
        }
    }
}

/// The canary as the cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canary {
    /// It is made and exported.
    pub ready: bool,
    /// What stands in the way of that.
    pub problem: String,
    /// Its deletion was requested.
    pub going: bool,
    /// Generation of the export.
    pub generation: u32,
    /// A fence is in progress.
    pub fencing: bool,
    /// The cut was asked for, of this node.
    pub asked: Option<String>,
    /// Nodes that were cut and have not acknowledged it.
    pub fenced: Vec<String>,
}

/// An RdsAttachment of the canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its deletion was requested.
    pub going: bool,
    /// The agent says that its session of the first generation is live.
    pub connected: bool,
    /// What is said about it, for people.
    pub words: String,
    /// Boot ID of the recorded intent.
    pub boot_id: String,
    /// What the agent saw of the cut.
    pub evidence: Option<FenceEvidence>,
}

/// What is written on the RdsServer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The condition; `None` leaves it.
    pub word: Option<Word>,
    /// The record.
    pub record: FenceTest,
    /// What people and metrics are told.
    pub event: Option<(TestResult, Reason, String)>,
}

/// One small idempotent step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write condition and record.
    Write(Box<Write>),
    /// Take the person's request off: it was acted upon.
    DropRequest,
    /// Make the canary.
    MakeVolume,
    /// Have that node connect.
    MakeAttachment(String),
    /// Ask for the cut of that node.
    AskCut(String),
    /// Remove that RdsAttachment.
    RemoveAttachment(String),
    /// Remove the canary.
    RemoveVolume,
    /// Nothing now.
    Rest,
}

impl Step {
    /// Write that.
    pub(super) fn write(write: Write) -> Self {
        Self::Write(Box::new(write))
    }
}
