//! From stored objects to [`super::model`] and back. Pure: what was read comes in, what is written goes out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rds_crds::attachment::{AgentStatus, Intent, kind};
use rds_crds::condition::{Saying, clear_condition, find_condition, is_true, set_condition};
use rds_crds::identity::{base_nqn, is_canary};
use rds_crds::{RdsAttachment, RdsVolume};

use super::decide::Last;
use super::model::{Admission, AttachmentSeen, Grant, Reason, Report, Said, VolumeSeen, Word};
use crate::nqn;

/// An attachment as it was read live.
#[must_use]
pub fn attachment(object: &RdsAttachment) -> AttachmentSeen {
    AttachmentSeen {
        node: object.spec.node.clone(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        read_only: object.reads_only(),
        admission: admission(object),
        said: said(&agent(object)),
    }
}

/// What this agent has stored, empty if nothing.
#[must_use]
pub fn agent(object: &RdsAttachment) -> AgentStatus {
    object.status.as_ref().and_then(|s| s.agent.clone()).unwrap_or_default()
}

fn admission(object: &RdsAttachment) -> Admission {
    let Some(status) = &object.status else {
        return Admission::None;
    };
    let Some(admitted) = find_condition(&status.conditions, kind::ADMITTED) else {
        return Admission::None;
    };
    if admitted.status == "False" && admitted.reason == kind::WITHDRAWN {
        return Admission::Withdrawn;
    }
    let place = (&status.nqn, &status.address, status.port, status.export_generation);
    match place {
        (Some(nqn), Some(address), Some(port), Some(generation)) if admitted.status == "True" => {
            Admission::Granted(Grant {
                nqn: nqn.clone(),
                address: address.clone(),
                port,
                generation,
            })
        }
        _ => Admission::None,
    }
}

fn said(agent: &AgentStatus) -> Said {
    let word = |kind: &str| {
        let condition = find_condition(&agent.conditions, kind)?;
        Some(Word {
            status: condition.status == "True",
            reason: Reason::from_word(&condition.reason)?,
            message: condition.message.clone(),
        })
    };
    Said {
        intent: agent.intent.clone(),
        disconnected: is_true(&agent.conditions, kind::DISCONNECTED),
        report: Report {
            connected: word(kind::CONNECTED),
            waiting: word(kind::DISCONNECTED).filter(|w| !w.status),
            healthy: word(kind::HEALTHY),
            cleared: is_true(&agent.conditions, kind::CLEARED),
            evidence: agent.fence_test.clone(),
            controller_state: agent.controller_state.clone(),
            used_by: agent.used_by.clone(),
            namespace: agent.namespace.clone(),
        },
    }
}

/// A volume as it was read live, for the attachment with that UID on that node.
#[must_use]
pub fn volume(object: &RdsVolume, attachment: &str, node: &str) -> VolumeSeen {
    let status = object.status.as_ref();
    let holders = status.map(|s| s.holders.as_slice()).unwrap_or_default();
    VolumeSeen {
        generation: status.and_then(|s| s.export_generation).unwrap_or(1),
        nqn: status.and_then(|s| s.nqn.clone()),
        holds: holders.iter().any(|h| h.node == node && h.attachment_uid == attachment),
        fenced: status.is_some_and(|s| s.fenced.iter().any(|f| f.node == node)),
        canary: canary(object),
    }
}

/// Where the first generation of a canary was: that of its base NQN.
fn canary(object: &RdsVolume) -> Option<Grant> {
    let status = object.status.as_ref().filter(|_| is_canary(object))?;
    Some(Grant {
        nqn: nqn::base(status.nqn.as_deref()?).to_owned(),
        address: status.address.clone()?,
        port: status.port?,
        generation: 1,
    })
}

/// Every base NQN that sessions of the volume may have. More than one only when records differ; a session under any of them
/// counts as left.
#[must_use]
pub fn bases(object: &RdsAttachment, volume: Option<&RdsVolume>, prefix: &str) -> BTreeSet<String> {
    let granted = object.status.as_ref().and_then(|s| s.nqn.as_deref()).map(nqn::base);
    let mut all: BTreeSet<String> = granted.into_iter().map(str::to_owned).collect();
    all.extend(volume.map(|v| base_of(v, prefix)));
    if all.is_empty() {
        all.insert(base_nqn(prefix, &object.spec.volume));
    }
    all
}

/// The base NQN of a volume.
#[must_use]
pub fn base_of(volume: &RdsVolume, prefix: &str) -> String {
    let effective = volume.status.as_ref().and_then(|s| s.nqn.as_deref());
    match (&volume.spec.nqn, effective) {
        (Some(base), _) => base.clone(),
        (None, Some(effective)) => nqn::base(effective).to_owned(),
        (None, None) => base_nqn(prefix, volume.metadata.name.as_deref().unwrap_or_default()),
    }
}

/// The status with the intent. What was said of an earlier fence goes with it: the next one has to be acknowledged anew; and
/// nothing of an earlier boot or connection is staged.
#[must_use]
pub fn with_intent(mut agent: AgentStatus, intent: Intent) -> AgentStatus {
    agent.intent = Some(intent);
    agent.fence_test = None;
    clear_condition(&mut agent.conditions, kind::CLEARED);
    clear_condition(&mut agent.conditions, kind::STAGED);
    agent
}

/// The status with the report.
#[must_use]
pub fn with_report(mut agent: AgentStatus, report: &Report, now: Timestamp) -> AgentStatus {
    let last = is_true(&agent.conditions, kind::DISCONNECTED);
    say(&mut agent, kind::CONNECTED, report.connected.as_ref(), now);
    say(&mut agent, kind::HEALTHY, report.healthy.as_ref(), now);
    if !last {
        say(&mut agent, kind::DISCONNECTED, report.waiting.as_ref(), now);
    }
    let cleared = report.cleared.then(|| Word {
        status: true,
        reason: Reason::NothingLeft,
        message: "no session of an older generation is left on this node".to_owned(),
    });
    say(&mut agent, kind::CLEARED, cleared.as_ref(), now);
    agent.controller_state.clone_from(&report.controller_state);
    agent.used_by.clone_from(&report.used_by);
    agent.namespace.clone_from(&report.namespace);
    agent.fence_test.clone_from(&report.evidence);
    let failed = report.connected.as_ref().filter(|w| failed(w.reason));
    if let Some(word) = failed {
        agent.last_error = Some(word.message.clone());
    }
    agent
}

fn failed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Refused | Reason::Unreachable | Reason::ConnectFailed | Reason::DeviceLost | Reason::NoDisk
    )
}

/// The status with the last word.
#[must_use]
pub fn with_last_word(agent: AgentStatus, last: Last, report: &Report, now: Timestamp) -> AgentStatus {
    let mut agent = with_report(agent, report, now);
    let (reason, message) = match last {
        Last::Clean => (Reason::Clean, "the connection is gone and nothing of it is left"),
        Last::NeverConnected => (Reason::NeverConnected, "this node never connected for this attachment"),
    };
    let word = Word {
        status: true,
        reason,
        message: message.to_owned(),
    };
    say(&mut agent, kind::DISCONNECTED, Some(&word), now);
    agent
}

fn say(agent: &mut AgentStatus, kind: &str, word: Option<&Word>, now: Timestamp) {
    match word {
        Some(word) => {
            let saying = Saying {
                kind,
                status: Some(word.status),
                reason: word.reason.as_str(),
                message: word.message.clone(),
            };
            set_condition(&mut agent.conditions, saying, None, now);
        }
        None => {
            clear_condition(&mut agent.conditions, kind);
        }
    }
}
