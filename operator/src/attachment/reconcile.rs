//! The thin shell around [`decide`]: observe, decide, act, until there is nothing more to do now.
//!
//! It runs behind the pass over the volume itself, in the same queue, so that one volume is never worked on twice at once by one
//! process; two processes are kept apart by the compare-and-swaps and the tokens.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::attachment::Intent;
use rds_crds::names::{ANNOTATION_FENCE_NOW, ANNOTATION_NODE_IS_OFF, FINALIZER};
use rds_crds::volume::{FencePhase, Holder};
use rds_crds::{RdsServer, RdsVolume};
use tracing::{info, warn};

use crate::crash;
use crate::events::Announcer;
use crate::queue::Action;
use crate::routeros::{Client, Generation, Guard, Nonce, Nqn, OwnerTag, RdsError};

use super::admission_gate::AdmissionGate;
use super::api::{ApiError, Store};
use super::decide::{Did, Owed, Release, Said, Seen, Step, decide};
use super::explain;
use super::fence_permission::full;
use super::migration::turn;
use super::observe::{Outside, seen};
use super::record::{Change, changed};

/// Steps of one pass.
const MAX_STEPS: usize = 64;

/// Whoever asks while the gate is closed is looked at again so soon: it opens with the first list of a new leader.
const GATE: Duration = Duration::from_millis(200);

/// Crash points behind the commands of a fence.
pub(crate) const COMMANDS: [&str; 2] = ["cut", "reopen"];

/// What the volume's own pass knows and this one needs.
pub(crate) struct Place<'a> {
    /// The server of the volume.
    pub(crate) server: &'a RdsServer,
    /// Its connection, when it can be asked.
    pub(crate) client: Option<&'a Client>,
    /// Slot, file and token of the recorded generation.
    pub(crate) guard: Option<Guard>,
    /// Port of the export.
    pub(crate) port: u16,
    /// The base NQN.
    pub(crate) base: String,
    /// Which volumes were looked at for what a lost object store has lost.
    pub(crate) gate: &'a AdmissionGate,
}

/// One pass over the attachments of one volume. `None`: nothing is waited for.
pub(crate) async fn reconcile(
    volume: &mut RdsVolume,
    place: &Place<'_>,
    outside: &Outside<'_>,
    announcer: &Announcer,
) -> Result<Option<Action>, ApiError> {
    let store = Store::new(&outside.world.client);
    for attachment in outside.world.attachments.of_volume(&volume.name_any()) {
        if attachment.metadata.deletion_timestamp.is_none() && !attachment.finalizers().iter().any(|f| f == FINALIZER) {
            warn!(
                attachment = attachment.name_any(),
                "somebody has taken the finalizer off: it is put back"
            );
            store.protect(&attachment).await?;
        }
    }
    let mut did = None;
    let mut failed = false;
    for _ in 0..MAX_STEPS {
        let now = Timestamp::now();
        let mut seen = seen(volume, place.server, place.client.is_some(), outside, now)
            .await
            .map_err(|e| ApiError::read("nodes and attachments", volume, e))?;
        (seen.did, seen.appliance_failed) = (did, failed || place.client.is_none());
        let step = decide(&seen);
        info_unless_rest(volume, &step);
        let holders = volume.status.as_ref().map(|s| s.holders.clone()).unwrap_or_default();
        match step {
            Step::Rest(owed) => return rest(volume, &store, owed, &seen, announcer).await,
            Step::Withdraw(uid) => store.withdraw(outside, &uid).await?,
            Step::SayNodeOff(uid) => store.say_node_off(outside, &uid).await?,
            Step::Recall(ask, role) => {
                let node = ask.node.clone();
                swap(volume, &store, &Change::Admit(ask, role), now).await?;
                announcer.recalled(volume, &node);
            }
            Step::Grant(uid) => store.grant(volume, outside, &uid).await?,
            Step::Deny(uid, why, text) => {
                store.deny(outside, &uid, why, &text).await?;
                let before = seen.attachments.iter().find(|a| a.ask.attachment == uid);
                if !before.is_some_and(|a| matches!(&a.said, Said::Refused(word, _) if word == why.word())) {
                    announcer.denied(volume, why, &text);
                }
            }
            Step::Defer(uid) => {
                let intent = intent_of(outside, &uid);
                swap(volume, &store, &Change::Defer(uid, intent), now).await?;
            }
            Step::Forget(uid) => store.forget(outside, &uid).await?,
            // Who came before may be missing in a restored object store: nobody new gets in before that was looked at.
            Step::Admit(..) if !place.gate.is_open(&volume.name_any()) => return Ok(Some(Action::requeue(GATE))),
            Step::Admit(ask, role, _) => {
                let node = ask.node.clone();
                swap(volume, &store, &Change::Admit(ask, role), now).await?;
                announcer.attached(volume, &node);
            }
            Step::Succeed(old, new) => swap(volume, &store, &Change::Succeed(old, new), now).await?,
            Step::Release(uid, why) => {
                swap(volume, &store, &Change::Release(uid), now).await?;
                announcer.released(volume, why);
                if why == Release::NodeIsOff {
                    store.drop_annotation(volume, ANNOTATION_NODE_IS_OFF).await?;
                }
            }
            Step::RefuseNodeOffClaim(why) => {
                announcer.not_believed(volume, &why);
                store.drop_annotation(volume, ANNOTATION_NODE_IS_OFF).await?;
            }
            Step::BeginFence(node, attachment) => {
                let nqn = next_nqn(&place.base, seen.volume.generation + 1);
                let begin = Change::BeginFence {
                    node: node.clone(),
                    attachment,
                    nqn,
                };
                if seen.canary.is_none() && !reserve(volume, outside, &seen, &node) {
                    // Another pass was quicker: the next look says so.
                    continue;
                }
                // Told once it is recorded: one that loses the compare-and-swap is tried again, and would be told again.
                if let Err(error) = swap(volume, &store, &begin, now).await {
                    if refused(&error) {
                        outside.observations.fence_quota.give_back(&node, &volume.name_any());
                    }
                    return Err(error);
                }
                announcer.fencing(volume, &node);
                // The volume's own pass says the new NQN in the status before it is opened.
                return Ok(Some(Action::requeue(Duration::ZERO)));
            }
            Step::Acknowledge(nodes) => swap(volume, &store, &Change::Acknowledged(nodes), now).await?,
            Step::Cut => match cut(volume, place).await {
                Ok(()) => did = Some(Did::Cut),
                Err(error) => failed = failure(volume, "cut", &error, announcer),
            },
            Step::RecordCut => {
                swap(volume, &store, &Change::RecordCut, now).await?;
                did = None;
            }
            Step::Reopen => match reopen(volume, place).await {
                Ok(()) => did = Some(Did::Reopened),
                Err(error) => failed = failure(volume, "reopen", &error, announcer),
            },
            Step::EndFence => {
                let node = volume
                    .status
                    .as_ref()
                    .and_then(|s| s.fence.as_ref())
                    .map(|f| f.node.clone())
                    .unwrap_or_default();
                swap(volume, &store, &Change::EndFence, now).await?;
                did = None;
                announcer.fenced(volume, &node);
                if volume.annotations().get(ANNOTATION_FENCE_NOW) == Some(&node) {
                    store.drop_annotation(volume, ANNOTATION_FENCE_NOW).await?;
                }
            }
        }
        let after = volume.status.as_ref().map(|s| s.holders.as_slice()).unwrap_or_default();
        let nodes = |all: &[Holder]| all.iter().map(|h| h.node.clone()).collect::<Vec<_>>();
        place.gate.passed(&volume.name_any(), &nodes(&holders), &nodes(after));
        if let Some(turn) = turn(&holders, after, now) {
            let late = seen.volume.migration_deadline.is_some_and(|deadline| now >= deadline);
            announcer.migration(volume, &turn, late);
        }
        // What was written on an attachment is not in the cache yet: deciding again would repeat it.
        if store.wrote() {
            return Ok(Some(Action::requeue(Duration::from_millis(20))));
        }
    }
    warn!(
        volume = volume.name_any(),
        "a pass over attachments did not come to an end"
    );
    Ok(Some(Action::requeue(Duration::from_secs(60))))
}

/// What its agent has recorded, as the cache shows it: the object is let go only at the version that the cache shows, and only where
/// that says the same.
fn intent_of(outside: &Outside<'_>, uid: &str) -> Option<Intent> {
    let attachment = outside.world.attachments.of_uid(uid)?;
    let agent = attachment.status.as_ref()?.agent.as_ref()?;
    agent.intent.clone()
}

/// What is not known to have been refused may have been recorded.
fn refused(error: &ApiError) -> bool {
    match error {
        ApiError::Conflict(_) => true,
        ApiError::Api { source, .. } => matches!(source, kube::Error::Api(status) if status.code < 500),
        ApiError::Read { .. } => false,
    }
}

/// The last look at the limit of nodes per time, as other passes have begun fences since this one has looked. A fence of nobody in
/// particular counts for none.
fn reserve(volume: &RdsVolume, outside: &Outside<'_>, seen: &Seen, node: &str) -> bool {
    if node.is_empty() {
        return true;
    }
    let volumes = outside.world.volumes.cut();
    outside
        .observations
        .fence_quota
        .reserve(node, &volume.name_any(), |begun| {
            let volumes = volumes.iter().map(std::sync::Arc::as_ref);
            full(volumes, begun, &[node], seen.cut_now.as_deref(), seen.now).is_none()
        })
}

fn info_unless_rest(volume: &RdsVolume, step: &Step) {
    if !matches!(step, Step::Rest(_)) {
        info!(volume = volume.name_any(), ?step, "attachment step");
    }
}

fn failure(volume: &RdsVolume, what: &str, error: &RdsError, announcer: &Announcer) -> bool {
    announcer.fence_failed(volume);
    warn!(volume = volume.name_any(), what, %error, "the fence did not get on");
    true
}

async fn swap(volume: &mut RdsVolume, store: &Store, change: &Change, now: Timestamp) -> Result<(), ApiError> {
    *volume = store.swap_status(&changed(volume, change, now)).await?;
    crash::after(change.name());
    Ok(())
}

/// Base NQN, generation and a random part that makes it a capability: who was cut cannot guess it.
fn next_nqn(base: &str, generation: u32) -> String {
    format!("{base}.g{generation}-{}", Nonce::random())
}

fn guard_at(volume: &RdsVolume, place: &Place<'_>, behind: u32) -> Option<(Guard, Generation)> {
    let generation = volume.status.as_ref()?.export_generation?;
    let guard = place.guard.as_ref()?;
    let tag: OwnerTag = guard.tag.at(Generation(generation.saturating_sub(behind)));
    Some((Guard { tag, ..guard.clone() }, Generation(generation)))
}

/// Exec 1: token g<n> to g<n+1>, export off, read back. Found done after a crash: the row carries the new token and is off.
async fn cut(volume: &RdsVolume, place: &Place<'_>) -> Result<(), RdsError> {
    let (Some(client), Some((guard, next))) = (place.client, guard_at(volume, place, 1)) else {
        return Err(unreachable(volume));
    };
    match client.retire(&guard, next).await {
        Ok(_) => {}
        Err(error) => {
            let after = guard.tag.at(next);
            // Exported under the name of this fence: the second command ran too, and a person has set the phase back.
            let name = volume.status.as_ref().and_then(|s| s.fence.as_ref()).map(|f| &f.nqn);
            let done = error
                .look()
                .and_then(|look| look.row_of(&after))
                .is_some_and(|row| !row.exported || (row.nqn.is_some() && row.nqn.as_ref() == name));
            if !done {
                // An older configuration of the appliance came back, or a toggle has not run: what the disk carries is moved on.
                let Some(older) = older(&error, &guard, next) else {
                    return Err(error);
                };
                client.retire(&older, next).await?;
            }
        }
    }
    crash::after(COMMANDS[0]);
    Ok(())
}

/// The guard that fits what the appliance shows: the disk of this volume, in a generation before `next`.
fn older(error: &RdsError, guard: &Guard, next: Generation) -> Option<Guard> {
    let row = error.look()?.row()?;
    let shown = row.owner.tag()?.generation;
    let tag = guard.tag.at(shown);
    (shown < next && shown != guard.tag.generation && row.carries(&tag)).then(|| Guard { tag, ..guard.clone() })
}

/// Exec 2: new NQN and export on in one `set`, read back.
async fn reopen(volume: &RdsVolume, place: &Place<'_>) -> Result<(), RdsError> {
    let nqn: Option<Nqn> = volume
        .status
        .as_ref()
        .and_then(|s| s.fence.as_ref())
        .filter(|f| f.phase == FencePhase::Reopening)
        .and_then(|f| f.nqn.parse().ok());
    let (Some(client), Some((guard, _)), Some(nqn)) = (place.client, guard_at(volume, place, 0), nqn) else {
        return Err(unreachable(volume));
    };
    if let Err(error) = client.export(&guard, &nqn, place.port).await {
        // The token is the old one: a person has set the phase ahead. What was skipped is done now; the next try opens.
        if older(&error, &guard, guard.tag.generation).is_some() {
            cut(volume, place).await?;
        }
        return Err(error);
    }
    crash::after(COMMANDS[1]);
    Ok(())
}

fn unreachable(volume: &RdsVolume) -> RdsError {
    RdsError::Unreachable {
        server: volume.spec.server.as_str().into(),
        reason: "there is no connection yet".to_owned(),
    }
}

async fn rest(
    volume: &mut RdsVolume,
    store: &Store,
    owed: Option<Owed>,
    seen: &Seen,
    announcer: &Announcer,
) -> Result<Option<Action>, ApiError> {
    // A policy that asks for pods is answered by pods, which nobody watches.
    let asks_pods = seen.volume.kubevirt_only && seen.attachments.iter().any(|a| matches!(a.said, Said::Refused(..)));
    let waits = owed.is_some()
        || asks_pods
        || !seen
            .volume
            .holders
            .iter()
            .all(|h| h.state == super::model::HolderState::Alive);
    forget_cut(volume, store, seen).await?;
    let line = explain::line(seen, owed.as_ref());
    store.say_fence(volume, owed.as_ref(), line, seen, announcer).await?;
    // Evidence ripens with time and not with events: look again while anything is open.
    if waits {
        return Ok(Some(Action::requeue(Duration::from_secs(5))));
    }
    // An overdue migration is said without anybody asking (R67).
    let left = seen
        .volume
        .migration_deadline
        .map(|d| d.as_second() - seen.now.as_second());
    Ok(left
        .and_then(|left| u64::try_from(left).ok())
        .map(|left| Action::requeue(Duration::from_secs(left + 1))))
}

/// A person's word to cut a node ends with that node's hold, whether it was cut or left, and also if a crash came before the word was
/// taken off: kept, it would cut a live peer on another day without anybody's word.
async fn forget_cut(volume: &mut RdsVolume, store: &Store, seen: &Seen) -> Result<(), ApiError> {
    let spent = |node: &String| !seen.volume.holders.iter().any(|h| h.node == *node);
    if seen.volume.fence.is_none() && seen.canary.is_none() && seen.cut_now.as_ref().is_some_and(spent) {
        info!(target: "audit", volume = volume.name_any(), node = ?seen.cut_now, what = "fence-now is taken off: that node holds nothing");
        store.drop_annotation(volume, ANNOTATION_FENCE_NOW).await?;
    }
    Ok(())
}

/// Why a holder was let go, for people.
pub(crate) fn release_note(why: Release) -> &'static str {
    match why {
        Release::Disconnected => "its agent reported that the connection is gone",
        Release::Rebooted => "its machine was rebooted since it connected",
        Release::NodeIsOff => "a person vouched that its node is off",
    }
}
