//! What agents say about the use of a volume, folded into the volume: the format ledger, the circuit breaker, its health, and the
//! identity under which they see its disk.
//!
//! [`format`], [`breaker`] and [`identity`] are pure. The shell runs in the pass over the volume, so that one volume is never worked
//! on twice at once by one process; between processes the compare-and-swap decides.

mod breaker;
mod format;
mod identity;
mod reset;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use rds_crds::attachment::{AGENT_REASONS, AgentFormat, AgentStatus, kind as said_kind};
use rds_crds::condition::{Saying, clear_condition, find_condition, is_true, kind, set_condition};
use rds_crds::volume::{BreakerState, FormatLedger, RdsVolumeStatus, VolumeMode};
use rds_crds::{RdsAttachment, RdsVolume, Reason};
use tracing::info;

pub(crate) use self::breaker::News;
use self::identity::Turn;
use crate::crash;
use crate::events::Announcer;
use crate::queue::Action;
use crate::volume::{ApiError, Store, applied_part};
use crate::world::World;

/// Names of the mutating steps, for the crash test.
pub(crate) const STEPS: [&str; 4] = ["record-format", "apply-breaker", "forget-reset", "tell-trial"];

/// The reason of an agent whose node has lost data.
const LOSS: &str = "PossibleDataLoss";

/// Instead of a reason that no agent of this release gives.
const OTHER: &str = "Other";

/// While a breaker is not closed, words of a person on the PersistentVolume are looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Hears the agents of one volume. `Some`: when to look again.
pub(crate) async fn hear(
    volume: &mut RdsVolume,
    world: &World,
    announcer: &Announcer,
) -> Result<Option<Action>, ApiError> {
    let name = volume.name_any();
    let mut attachments = world.attachments.of_volume(&name);
    attachments.sort_by_key(|a| (a.metadata.creation_timestamp.clone(), a.name_any()));
    if let Some(entry) = next_entry(volume, &attachments) {
        let mut next = volume.clone();
        next.status.get_or_insert_default().format = Some(entry.clone());
        *volume = Store::new(&world.client).swap_status(&next).await?;
        crash::after(STEPS[0]);
        info!(volume = name, entry = ?entry.state, fs = entry.fs_type, node = entry.node, "format ledger");
        announcer.format(volume, &entry);
    }
    count(volume, &attachments, world, announcer).await
}

/// Breaker and health.
async fn count(
    volume: &mut RdsVolume,
    attachments: &[Arc<RdsAttachment>],
    world: &World,
    announcer: &Announcer,
) -> Result<Option<Action>, ApiError> {
    let now = Timestamp::now();
    let before = volume.status.as_ref().and_then(|s| s.circuit_breaker.clone());
    let tripped = before
        .as_ref()
        .is_some_and(|b| b.state != BreakerState::Closed || b.consecutive_failures > 0);
    let asked = reset::asked(volume, attachments, world, tripped).await?;
    let counts: Vec<breaker::Counts> = attachments.iter().map(|a| counts(a)).collect();
    let spec = volume.spec.circuit_breaker.as_ref();
    let folded = breaker::fold(spec, before.as_ref(), &counts, !asked.is_empty(), now);
    let mut next = applied_part(volume);
    if before.is_some() || !breaker::says_nothing(&folded.status) {
        next.circuit_breaker = Some(folded.status.clone());
    }
    let illness = tell_health(volume, attachments, &mut next, now);
    let changed = tell_identity(volume, attachments, &mut next, now);
    if next != applied_part(volume) {
        *volume = Store::new(&world.client).apply_status(volume, &next).await?;
        crash::after(STEPS[1]);
        if let Some(news) = folded.news {
            info!(
                volume = volume.name_any(),
                ?news,
                failures = folded.status.consecutive_failures,
                "circuit breaker"
            );
            announcer.breaker(volume, news, &folded.status);
        }
        if let Some((reason, message)) = illness {
            announcer.ill(volume, reason, message);
        }
        if let Some(message) = changed {
            announcer.ill(volume, kind::IDENTITY_CHANGED, message);
        }
    }
    reset::tell_trial(attachments, &folded.status, world).await?;
    // Only once acted upon: a crash before this repeats the reset, which does no harm.
    reset::forget(&asked, world).await?;
    Ok(wait(
        &folded.status.state,
        folded.status.retry_at.as_ref().map(|t| t.0),
        now,
    ))
}

fn wait(state: &BreakerState, retry_at: Option<Timestamp>, now: Timestamp) -> Option<Action> {
    if *state == BreakerState::Closed {
        return None;
    }
    let left = retry_at
        .map(|at| at.as_second() - now.as_second())
        .filter(|left| *left > 0);
    let left = left.and_then(|left| u64::try_from(left).ok()).map(Duration::from_secs);
    Some(Action::requeue(left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)))
}

fn agent(attachment: &RdsAttachment) -> Option<&AgentStatus> {
    attachment.status.as_ref()?.agent.as_ref()
}

fn counts(attachment: &RdsAttachment) -> breaker::Counts {
    let agent = agent(attachment).cloned().unwrap_or_default();
    let admitted = attachment
        .status
        .as_ref()
        .is_some_and(|s| is_true(&s.conditions, said_kind::ADMITTED));
    breaker::Counts {
        attachment: attachment.uid().unwrap_or_default(),
        failures: agent.failures.unwrap_or(0),
        in_row: agent.failures_in_row.unwrap_or(0),
        successes: agent.successes.unwrap_or(0),
        would_try: admitted
            && attachment.metadata.deletion_timestamp.is_none()
            && !is_true(&agent.conditions, said_kind::STAGED),
        last_error: agent.last_error,
    }
}

/// The worst that any node says. What the last one said stays after its attachment is gone. Answers with what is new and bad.
fn tell_health(
    volume: &RdsVolume,
    attachments: &[Arc<RdsAttachment>],
    next: &mut RdsVolumeStatus,
    now: Timestamp,
) -> Option<(&'static str, String)> {
    let words = attachments.iter().filter_map(|a| {
        let word = find_condition(&agent(a)?.conditions, said_kind::HEALTHY)?;
        Some((a.spec.node.as_str(), word))
    });
    let words: Vec<_> = words.collect();
    let (node, word) = words.iter().find(|(_, w)| w.status == "False").or(words.first())?;
    let reason = known(&word.reason);
    let saying = Saying {
        kind: kind::HEALTHY,
        status: Some(word.status == "True"),
        reason,
        message: format!("node {node}: {}", word.message),
    };
    let message = saying.message.clone();
    let was = find_condition(&next.conditions, kind::HEALTHY).cloned();
    set_condition(&mut next.conditions, saying, volume.metadata.generation, now);
    // Each loss is one of its own, though the reason is the same.
    let same = |was: &Condition| {
        was.status == word.status && was.reason == reason && (reason != LOSS || was.message == message)
    };
    let new = !was.as_ref().is_some_and(same);
    (new && word.status == "False").then_some((reason, message))
}

/// The reason, if it is one of an agent. It becomes the reason of an event and a label of a series, which stays for as long as this
/// process runs; what a node writes beside that is no word of ours.
fn known(reason: &str) -> &'static str {
    let all = AGENT_REASONS.iter();
    all.copied().find(|word| *word == reason).unwrap_or(OTHER)
}

/// What new connections show as the identity of the disk. Answers with what is to be told.
fn tell_identity(
    volume: &RdsVolume,
    attachments: &[Arc<RdsAttachment>],
    next: &mut RdsVolumeStatus,
    now: Timestamp,
) -> Option<String> {
    let generation = volume.status.as_ref().and_then(|s| s.export_generation).unwrap_or(1);
    let words: Vec<identity::Word<'_>> = attachments
        .iter()
        .filter_map(|a| {
            Some(identity::Word {
                attachment: a.metadata.uid.as_deref()?,
                node: &a.spec.node,
                namespace: agent(a)?.namespace.as_ref()?,
            })
        })
        .collect();
    let folded = identity::fold(next.namespace.as_ref(), &words, generation);
    next.namespace = folded.seen;
    match folded.turn {
        Turn::None => None,
        Turn::Over => {
            clear_condition(&mut next.conditions, kind::IDENTITY_CHANGED);
            None
        }
        Turn::Changed { node, was, now: is } => {
            let message = identity::message(&volume.name_any(), node, &was, is);
            let saying = Saying {
                kind: kind::IDENTITY_CHANGED,
                status: Some(true),
                reason: Reason::NewConnection.as_str(),
                message: message.clone(),
            };
            set_condition(&mut next.conditions, saying, volume.metadata.generation, now);
            Some(message)
        }
    }
}

fn next_entry(volume: &RdsVolume, attachments: &[Arc<RdsAttachment>]) -> Option<FormatLedger> {
    let status = volume.status.as_ref()?;
    // A disk that is going away gets nothing written any more.
    if status.deletion.is_some() {
        return None;
    }
    let cut = status.fence.as_ref().map(|f| f.attachment_uid.as_str());
    let holders: Vec<String> = status
        .holders
        .iter()
        .map(|h| h.attachment_uid.clone())
        .filter(|uid| Some(uid.as_str()) != cut)
        .collect();
    let silent = AgentFormat::default();
    let speakers: Vec<format::Speaker<'_>> = attachments
        .iter()
        .map(|a| format::Speaker {
            attachment: a.metadata.uid.as_deref().unwrap_or_default(),
            node: &a.spec.node,
            writer: !a.reads_only() && a.metadata.deletion_timestamp.is_none(),
            said: said(a).unwrap_or(&silent),
        })
        .collect();
    let seen = format::Volume {
        uid: volume.metadata.uid.as_deref()?,
        block: volume.spec.volume_mode == Some(VolumeMode::Block),
        fs_type: volume.spec.fs_type.unwrap_or_default().as_str(),
        ledger: status.format.as_ref(),
        holders: &holders,
    };
    format::decide(&seen, &speakers)
}

fn said(attachment: &RdsAttachment) -> Option<&AgentFormat> {
    agent(attachment)?.format.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_new_is_told_and_a_word_that_a_node_made_up_is_not_repeated_as_ours() {
        let volume: RdsVolume = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "a", "generation": 1},
            "spec": {"server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap();
        let mut next = RdsVolumeStatus::default();
        let mut told = |reason: &str, message: &str| {
            let attachment: RdsAttachment = serde_json::from_value(json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment", "metadata": {"name": "a.n1"},
                "spec": {"volume": "a", "node": "n1", "accessMode": "ReadWriteOnce"},
                "status": {"agent": {"conditions": [{
                    "type": "Healthy", "status": "False", "reason": reason, "message": message,
                    "lastTransitionTime": "2026-11-01T00:00:00Z",
                }]}},
            }))
            .unwrap();
            let told = tell_health(&volume, &[Arc::new(attachment)], &mut next, Timestamp::UNIX_EPOCH);
            let said = find_condition(&next.conditions, kind::HEALTHY).unwrap().reason.clone();
            (told.map(|(reason, _)| reason), said)
        };
        assert_eq!(told("Damaged", "as seen"), (Some("Damaged"), "Damaged".to_owned()));
        assert_eq!(told("MadeUp1", "as seen"), (Some("Other"), "Other".to_owned()));
        assert_eq!(
            told("MadeUp2", "as seen"),
            (None, "Other".to_owned()),
            "nothing new is to be told"
        );
        let lost = || (Some(LOSS), LOSS.to_owned());
        assert_eq!(told(LOSS, "cut"), lost());
        assert_eq!(told(LOSS, "cut"), (None, LOSS.to_owned()));
        assert_eq!(told(LOSS, "cut; the disk went"), lost(), "another one");
    }
}
