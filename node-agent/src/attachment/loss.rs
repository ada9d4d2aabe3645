//! Losses of data on this node: said before what shows them is torn down, and kept where nobody can be told (I7).

use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::act::Agent;
use super::decide::{Look, Step};
use super::model::{Reason, Word};
use super::reach::blocking;

/// How long the host may take to store a few hundred bytes.
const STORE_WITHIN: Duration = Duration::from_secs(10);

/// What is said of a session that the target has cut.
pub(super) fn cut_off(nqn: &str) -> String {
    format!(
        "this node was cut from the volume while it was connected as {nqn}: what it had not written by then is lost. Check the data, \
         and restart the pods that used it here"
    )
}

impl Look<'_> {
    /// A loss that was found while nobody could be told. It is forgotten once it is stored; an attachment that has said its last word
    /// may be gone before anybody hears of it.
    pub(super) fn untold(&self) -> Option<Step> {
        let why = self.seen.untold.as_ref()?;
        if self.has_said_a_loss() {
            return Some(Step::ForgetLoss);
        }
        (!self.seen.attachment.said.disconnected).then(|| self.say_loss(why.clone()))
    }

    pub(super) fn has_said_a_loss(&self) -> bool {
        let said = &self.seen.attachment.said.report;
        said.healthy.as_ref().map(|w| w.reason) == Some(Reason::PossibleDataLoss)
    }

    pub(super) fn say_loss(&self, message: String) -> Step {
        let mut report = self.report(None);
        report.healthy = Some(Word {
            status: false,
            reason: Reason::PossibleDataLoss,
            message,
        });
        Step::Report(report)
    }
}

impl Agent {
    /// Keeps a loss of which nobody can be told now; it is said on the volume's next attachment here.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn keep_loss(&self, volume: &str, why: &str) -> Result<(), String> {
        let (untold, volume) = (self.untold.clone(), volume.to_owned());
        let why = format!(
            "{why} (found at {:.0}, when node {} had no RdsAttachment of it)",
            Timestamp::now(),
            self.node()
        );
        let kept = blocking(STORE_WITHIN, move || {
            untold.keep(&volume, &why).map_err(|e| e.to_string())
        });
        kept.await.unwrap_or_else(Err)
    }

    /// The loss of that volume was told.
    pub(super) async fn forget_loss(&self, volume: String) {
        let (untold, name) = (self.untold.clone(), volume.clone());
        let forgotten = blocking(STORE_WITHIN, move || untold.forget(&volume).map_err(|e| e.to_string()));
        if let Err(why) = forgotten.await.unwrap_or_else(Err) {
            warn!(
                volume = name,
                why, "a loss that was told cannot be forgotten: the next agent process tells it once more"
            );
        }
    }
}
