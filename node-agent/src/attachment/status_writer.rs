//! What the Node service says in `status.agent`: the same compare-and-swap as the loop's, so that neither overwrites the other.

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::RdsAttachment;
use rds_crds::attachment::{AgentStatus, kind};
use rds_crds::condition::{Saying, find_condition, set_condition};

use super::act::{Again, Agent, lock};
use super::loss::with_loss;
use super::model::Reason;
use super::namespace::{Shown, Verdict, judge};
use super::observe;

/// Tries of one change against others' changes.
const TRIES: usize = 20;

impl Agent {
    /// Changes `status.agent` of the attachment of that name and UID; one that is gone is no error. Answers with what is stored now.
    ///
    /// # Errors
    /// When the API server does not do what was asked, or the object changes all the time.
    pub(crate) async fn amend(
        &self,
        name: &str,
        uid: &str,
        step: &str,
        change: impl Fn(&mut AgentStatus),
    ) -> Result<Option<RdsAttachment>, kube::Error> {
        let mut last = None;
        for _ in 0..TRIES {
            let Some(object) = self.attachments().get_opt(name).await? else {
                return Ok(None);
            };
            if object.uid().as_deref() != Some(uid) {
                return Ok(None);
            }
            let before = observe::agent(&object);
            let mut after = before.clone();
            change(&mut after);
            if before == after {
                return Ok(Some(object));
            }
            match self.write(&object, step, after).await? {
                Written::Done(object) => return Ok(Some(*object)),
                Written::Changed(why) => last = Some(why),
            }
        }
        Err(last.unwrap_or_else(|| kube::Error::Service("the object changes all the time".into())))
    }

    /// Whether the object's intent is of this boot of this machine, for the generation that is granted.
    pub(crate) fn intends(&self, object: &RdsAttachment) -> bool {
        let generation = object.status.as_ref().and_then(|s| s.export_generation);
        let intent = observe::agent(object).intent;
        let host = lock(&self.host).clone();
        generation.is_some_and(|g| intent.is_some() && intent == host.intent(g))
    }

    /// Whether that is the disk that its connection began with, as the object records it.
    pub(crate) fn judge(&self, object: &RdsAttachment, connections: &[String], identity: Option<&str>) -> Verdict {
        let said = observe::agent(object);
        let boot_id = lock(&self.host).boot_id.clone();
        let connections: Vec<&str> = connections.iter().map(String::as_str).collect();
        let shown = Shown {
            boot_id: &boot_id,
            connections: &connections,
            identity,
        };
        judge(said.intent.as_ref(), said.namespace.as_ref(), &shown)
    }

    /// The NQN of a volume as the last pass over its attachment read it: for what changes nothing.
    pub(crate) fn remembered(&self, attachment: &str) -> Option<String> {
        lock(&self.memory).get(attachment)?.granted.clone()
    }
}

#[cfg(test)]
impl Agent {
    /// As after a pass.
    pub(crate) fn remember(&self, attachment: &str, nqn: &str) {
        lock(&self.memory).entry(attachment.to_owned()).or_default().granted = Some(nqn.to_owned());
    }
}

/// What became of a write.
pub(super) enum Written {
    /// It is stored.
    Done(Box<RdsAttachment>),
    /// Somebody else was faster, or it is gone.
    Changed(kube::Error),
}

impl Written {
    /// Either way it is read again.
    pub(super) fn again(&self) -> Again {
        match self {
            Self::Done(_) | Self::Changed(_) => Again::Now,
        }
    }
}

/// Says one condition of the data path. A loss that was reported stays, and another is said beside it.
pub(crate) fn say(agent: &mut AgentStatus, kind: &str, status: bool, reason: Reason, message: &str, now: Timestamp) {
    // Conditions are at most 32 KiB long.
    let mut message: String = message.chars().take(4000).collect();
    let lost = find_condition(&agent.conditions, kind::HEALTHY)
        .filter(|c| c.reason == Reason::PossibleDataLoss.as_str() && c.status == "False");
    if let Some(lost) = lost.filter(|_| kind == kind::HEALTHY) {
        if reason != Reason::PossibleDataLoss {
            return;
        }
        message = with_loss(Some(&lost.message), &message);
    }
    let saying = Saying {
        kind,
        status: Some(status),
        reason: reason.as_str(),
        message,
    };
    set_condition(&mut agent.conditions, saying, None, now);
}
