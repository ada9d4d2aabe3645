//! What the service says in `status.agent` of its attachments: one write for each call that has changed something.

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::Size;
use rds_crds::attachment::{AgentFormat, AgentStatus, kind};
use rds_crds::condition::is_true;
use tracing::warn;

use super::Node;
use super::attached::Attached;
use super::call::Call;
use super::failure::Failure;
use super::host::Disk;
use crate::attachment::model::Reason;
use crate::attachment::status_writer::say;

/// Nothing is said of what was not staged.
pub(super) fn unstaged(agent: &mut AgentStatus, now: Timestamp) {
    if is_true(&agent.conditions, kind::STAGED) {
        let message = "it is not used on this node";
        say(agent, kind::STAGED, false, Reason::Unstaged, message, now);
    }
}

impl Node {
    /// Its half of the format handshake.
    pub(super) async fn say_format(&self, attached: &Attached, step: &str, format: AgentFormat) -> Result<(), Failure> {
        let change = |agent: &mut AgentStatus| agent.format = Some(format.clone());
        self.amend(attached, step, change).await
    }

    /// The volume is ready for pods: a success for the breaker, in the same write.
    pub(super) async fn say_staged(
        &self,
        attached: &Attached,
        disk: &Disk,
        how: Reason,
        checked: Option<(Reason, String)>,
    ) -> Result<(), Failure> {
        let now = Timestamp::now();
        let message = if how == Reason::RawDevice {
            "the device is ready for pods"
        } else {
            "the filesystem is mounted for pods"
        };
        let (reason, health) = checked.unwrap_or((Reason::Checked, "in order".to_owned()));
        let change = |agent: &mut AgentStatus| {
            say(agent, kind::STAGED, true, how, message, now);
            say(agent, kind::HEALTHY, true, reason, &health, now);
            agent.device = Some(disk.path.display().to_string());
            agent.size = Some(Size(disk.size));
            agent.successes = Some(agent.successes.unwrap_or(0).saturating_add(1));
            agent.failures_in_row = None;
            agent.last_error = None;
        };
        self.amend(attached, "stage-say", change).await?;
        self.wake(&attached.name());
        Ok(())
    }

    /// Counts a failure that is the volume's (R36), and gives it back. A volume that was to be staged and is not is none that was
    /// staged before: else nobody would be seen to try it again, and an open breaker gives its trial to whoever would (R38).
    pub(super) async fn count(&self, name: &str, uid: &str, done: Result<(), Failure>) -> Result<(), Failure> {
        let Err(failure) = &done else { return done };
        if !failure.counts() {
            return done;
        }
        let (text, now) = (failure.to_string(), Timestamp::now());
        let reason = if matches!(failure, Failure::Refused(_)) {
            Reason::UnexpectedData
        } else if matches!(failure, Failure::Damaged(_)) {
            Reason::Damaged
        } else {
            Reason::UseFailed
        };
        self.metrics.volume_failure();
        let change = |agent: &mut AgentStatus| {
            agent.failures = Some(agent.failures.unwrap_or(0).saturating_add(1));
            agent.failures_in_row = Some(agent.failures_in_row.unwrap_or(0).saturating_add(1));
            agent.last_error = Some(text.chars().take(1000).collect());
            say(agent, kind::HEALTHY, false, reason, &text, now);
            unstaged(agent, now);
        };
        if let Err(e) = self.agent.amend(name, uid, "stage-count", change).await {
            warn!(
                attachment = name,
                error = crate::chain(&e),
                "a failure could not be counted"
            );
        }
        done
    }

    /// That the kernel does not write to the filesystem any more. The caller says it too, so that a failure of this is no other.
    pub(super) async fn say_read_only(&self, attached: &Attached, why: &str) {
        let now = Timestamp::now();
        let change = |agent: &mut AgentStatus| say(agent, kind::HEALTHY, false, Reason::TurnedReadOnly, why, now);
        if let Err(failure) = self.amend(attached, "report", change).await {
            warn!(attachment = attached.name(), "{failure}");
        }
    }

    /// The size that the kernel shows.
    pub(super) async fn say_size(&self, attached: &Attached, bytes: u64) -> Result<(), Failure> {
        self.amend(attached, "expand-say", |agent| agent.size = Some(Size(bytes)))
            .await
    }

    /// Possible loss of data, before the evidence goes. Where the volume has no attachment here, it is kept for the next one.
    pub(super) async fn report_loss(&self, call: &Call, why: &str) -> Result<(), Failure> {
        let name = self.attachment_name(call.volume());
        let message = format!(
            "data of volume {} that node {} had not written is lost: {why}. Check the data, and restart the pods that used it here",
            call.volume(),
            self.agent.node()
        );
        warn!(volume = call.volume(), why, "possible data loss");
        let failed = |e| Failure::api(&format!("report a possible data loss in RdsAttachment {name}"), &e);
        let now = Timestamp::now();
        let change =
            |agent: &mut AgentStatus| say(agent, kind::HEALTHY, false, Reason::PossibleDataLoss, &message, now);
        let told = match self.agent.attachments().get_opt(&name).await.map_err(failed)? {
            Some(object) => {
                let uid = object.uid().unwrap_or_default();
                self.agent
                    .amend(&name, &uid, "say-loss", change)
                    .await
                    .map_err(failed)?
            }
            None => None,
        };
        if told.is_some() {
            return Ok(());
        }
        let volume = self.agent.volumes().get_opt(call.volume()).await;
        match volume.map_err(|e| Failure::api(&format!("read RdsVolume {}", call.volume()), &e))? {
            Some(volume) => {
                let kept = self.agent.keep_loss(&volume, &message).await;
                kept.map_err(|e| Failure::Unavailable(format!("keep a possible data loss of {}: {e}", call.volume())))?;
                // There may be an attachment again.
                self.wake(&name);
            }
            None => warn!(
                volume = call.volume(),
                "the RdsVolume is gone too: nobody is left to be told"
            ),
        }
        Ok(())
    }

    async fn amend(&self, attached: &Attached, step: &str, change: impl Fn(&mut AgentStatus)) -> Result<(), Failure> {
        let (name, uid) = (attached.name(), attached.uid().to_owned());
        let stored = self.agent.amend(&name, &uid, step, change).await;
        let stored = stored.map_err(|e| Failure::api(&format!("write status.agent of RdsAttachment {name}"), &e))?;
        match stored {
            Some(_) => Ok(()),
            None => Err(Failure::Unavailable(format!(
                "RdsAttachment {name} is gone, or is another one of the same name now: call again"
            ))),
        }
    }
}
