//! Losses of data on this node: said before what shows them is torn down, and kept where nobody can be told (I7).

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::RdsVolume;
use tracing::warn;

use super::act::Agent;
use super::decide::{Look, Step};
use super::host_calls::blocking;
use super::model::{Reason, Word};

/// How long the host may take to store a few hundred bytes.
const STORE_WITHIN: Duration = Duration::from_secs(10);

/// What is said of a session that the target has cut.
#[must_use]
pub fn cut_off(nqn: &str) -> String {
    format!(
        "this node was cut from the volume while it was connected as {nqn}: what it had not written by then is lost. Check the data, \
         and restart the pods that used it here"
    )
}

/// What is said of a loss where an earlier one is said already: both. Nobody can take a loss back, and none hides another.
pub(crate) fn with_loss(said: Option<&str>, loss: &str) -> String {
    // Conditions are at most 32 KiB long; what comes first is what was not looked at for longest.
    const LONGEST: usize = 4000;
    let text = match said {
        Some(said) if said.contains(loss) => said.to_owned(),
        Some(said) => format!("{said}; {loss}"),
        None => loss.to_owned(),
    };
    text.chars().take(LONGEST).collect()
}

impl Look<'_> {
    /// A loss that was found while nobody could be told. It is forgotten once it is stored; an attachment that has said its last word
    /// may be gone before anybody hears of it.
    pub(super) fn unreported(&self) -> Option<Step> {
        let loss = self.seen.unreported.as_ref()?;
        match self.loss_to_say(loss) {
            None => Some(Step::ForgetLoss(loss.clone())),
            Some(_) if self.seen.attachment.said.disconnected => None,
            say => say,
        }
    }

    /// Says that loss, unless that is stored already.
    pub(super) fn loss_to_say(&self, loss: &str) -> Option<Step> {
        let said = self.seen.attachment.said.report.healthy.as_ref();
        let losses = said.filter(|w| w.reason == Reason::PossibleDataLoss);
        let losses = losses.map(|w| w.message.as_str());
        let message = with_loss(losses, loss);
        if losses == Some(message.as_str()) {
            return None;
        }
        let mut report = self.report(None);
        report.healthy = Some(Word {
            status: false,
            reason: Reason::PossibleDataLoss,
            message,
        });
        Some(Step::Report(report))
    }
}

impl Agent {
    /// Keeps a loss of which nobody can be told now; it is said on the volume's next attachment here.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn keep_loss(&self, volume: &RdsVolume, loss: &str) -> Result<(), String> {
        let unreported = self.unreported.clone();
        let (name, uid) = (volume.name_any(), volume.uid().unwrap_or_default());
        let loss = format!(
            "{loss} (found at {:.0}, when node {} had no RdsAttachment of it)",
            Timestamp::now(),
            self.node()
        );
        let kept = blocking(STORE_WITHIN, move || {
            unreported.keep(&name, &uid, &loss).map_err(|e| e.to_string())
        });
        kept.await.unwrap_or_else(Err)
    }

    /// That loss of the volume was told.
    pub(super) async fn forget_loss(&self, volume: String, loss: String) {
        let (unreported, name) = (self.unreported.clone(), volume.clone());
        let forgotten = blocking(STORE_WITHIN, move || {
            unreported.forget(&volume, &loss).map_err(|e| e.to_string())
        });
        if let Err(why) = forgotten.await.unwrap_or_else(Err) {
            warn!(
                volume = name,
                why, "a loss that was told cannot be forgotten: the next agent process tells it once more"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_no_loss_hides_another() {
        let first = with_loss(None, "cut as g1");
        assert_eq!(with_loss(Some(&first), "cut as g1"), first);
        let both = with_loss(Some(&first), "the disk went");
        assert_eq!(both, "cut as g1; the disk went");
        assert_eq!(with_loss(Some(&both), "cut as g1"), both);
        // Where there is no room for more, what is stored counts as said.
        let long = with_loss(Some(&"x".repeat(5000)), "cut");
        assert_eq!((long.len(), with_loss(Some(&long), "cut")), (4000, long.clone()));
    }
}
