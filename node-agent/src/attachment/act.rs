//! One pass over one attachment: read live, decide, take one step.
//!
//! Every write of `status.agent` carries UID and resourceVersion of what was read, so that a late write of a process that is
//! gone changes nothing. A connect follows a live read in the same pass, never a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rds_crds::attachment::{AgentStatus, OldName};
use rds_crds::names::{API_VERSION, DOMAIN, manager};
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info};

use super::decide::{Step, Wait, decide};
use super::host_calls::{Users, options, plain};
use super::model::{Admission, Fact, Failure, Host, InFlight, Seen, Sessions};
use super::observe;
use super::status_writer::Written;
use crate::crash;
use crate::fabrics::{Fabrics, Options, Session};
use crate::unreported_losses::UnreportedLosses;

/// A settled attachment is read again after this; changes of object or session come earlier by themselves.
const RESYNC: Duration = Duration::from_secs(300);
/// How often a use that is waited for is looked at.
const POLL_USE: Duration = Duration::from_secs(1);
/// The session of a canary that was cut is watched for this long: the kernel notices a silent target within 8 s.
const WATCH_CANARY: Duration = Duration::from_secs(10);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At once: a step was taken.
    Now,
    /// After this.
    In(Duration),
    /// Not before it changes: it is gone, or not ours.
    Never,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
#[error("attachment {name}")]
pub struct PassError {
    name: String,
    #[source]
    source: kube::Error,
}

/// What this process remembers of an attachment. Losing it costs a repetition, nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) failure: Option<Failure>,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    waits: u32,
    /// Looks at a session that is not well, since it was.
    doubts: u32,
    /// Since when a canary is known to be cut, and what was answered to its old name.
    cut_seen: Option<Instant>,
    pub(super) asked: Option<OldName>,
    pub(super) bases: BTreeSet<String>,
    pub(super) granted: Option<String>,
    pub(super) sessions: Vec<Session>,
}

/// How long until an attachment of which all is said is looked at again: soon while its session is not well, and less and less often,
/// for an appliance that is away makes all sessions so.
fn doubting(doubts: u32) -> Duration {
    match doubts {
        0 => RESYNC,
        _ => Duration::from_secs(2 << doubts.min(8)).min(RESYNC),
    }
}

/// What is sent of it. Where the last thing that was said is taken back, an empty object would become a null in the API server's
/// merge, which it then refuses: an empty list does not.
fn stated(agent: &AgentStatus) -> serde_json::Value {
    if *agent == AgentStatus::default() {
        return json!({"conditions": []});
    }
    json!(agent)
}

/// The agent's hands.
#[derive(Debug)]
pub struct Agent {
    attachments: Api<RdsAttachment>,
    volumes: Api<RdsVolume>,
    nodes: Api<Node>,
    servers: Api<RdsServer>,
    pub(super) fabrics: Arc<dyn Fabrics>,
    pub(super) host: Mutex<Host>,
    prefix: String,
    pub(super) memory: Mutex<BTreeMap<String, Memory>>,
    pub(super) connecting: Arc<Mutex<BTreeSet<String>>>,
    pub(super) users: OnceLock<Users>,
    pub(super) unreported: Arc<UnreportedLosses>,
    synced: AtomicBool,
}

impl Agent {
    /// Hands on this host. The caller holds the host lock: no earlier process has a connect in flight.
    #[must_use]
    pub fn new(
        client: Client,
        fabrics: Arc<dyn Fabrics>,
        host: Host,
        prefix: String,
        unreported: UnreportedLosses,
    ) -> Self {
        Self {
            attachments: Api::all(client.clone()),
            volumes: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            servers: Api::all(client),
            unreported: Arc::new(unreported),
            synced: AtomicBool::new(false),
            fabrics,
            host: Mutex::new(host),
            prefix,
            memory: Mutex::default(),
            connecting: Arc::default(),
            users: OnceLock::new(),
        }
    }

    /// The attachments of this node were read, once, in full (I8).
    pub(super) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    pub(super) fn has_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    pub(super) fn servers(&self) -> &Api<RdsServer> {
        &self.servers
    }

    pub(crate) fn volumes(&self) -> &Api<RdsVolume> {
        &self.volumes
    }

    pub(crate) fn attachments(&self) -> &Api<RdsAttachment> {
        &self.attachments
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn node(&self) -> String {
        lock(&self.host).node.clone()
    }

    /// One pass.
    ///
    /// # Errors
    /// When the API server does not do what was asked; conflicts are no error.
    pub async fn pass(&self, name: &str) -> Result<Again, PassError> {
        let failed = |source| PassError {
            name: name.to_owned(),
            source,
        };
        let Some(object) = self.attachments.get_opt(name).await.map_err(failed)? else {
            lock(&self.memory).remove(name);
            return Ok(Again::Never);
        };
        if object.spec.node != self.node() {
            return Ok(Again::Never);
        }
        let volume = match self.volumes.get_opt(&object.spec.volume).await {
            Ok(Some(volume)) => Fact::Present(volume),
            Ok(None) => Fact::Absent,
            Err(e) => Fact::Unknown(format!("RdsVolume {}: {e}", object.spec.volume)),
        };
        let seen = self.observe(&object, &volume).await.map_err(failed)?;
        let step = decide(&seen);
        if !matches!(step, Step::Rest(_)) {
            info!(attachment = name, ?step, "next");
        }
        self.act(&object, &volume, step).await.map_err(failed)
    }

    async fn observe(&self, object: &RdsAttachment, volume: &Fact<RdsVolume>) -> Result<Seen, kube::Error> {
        let name = object.name_any();
        let attachment = observe::attachment(object);
        let said = attachment.said.intent.as_ref();
        let unclear = {
            let host = lock(&self.host);
            let grants = match &attachment.admission {
                Admission::Granted(grant) => Some(host.intent(grant.generation)),
                // It may have to own up to a session.
                Admission::None => said.is_none().then(|| host.intent(0)).filter(Option::is_none),
                Admission::Withdrawn => None,
            };
            grants.is_some_and(|wanted| wanted.is_none() || wanted.as_ref() != said)
                || said.is_some_and(|intent| host.recorded(intent).is_none())
        };
        if unclear {
            self.learn_node_uid().await?;
        }
        let uid = object.uid().unwrap_or_default();
        let host = lock(&self.host).clone();
        let (known, fact) = match volume {
            Fact::Present(v) => (Some(v), Fact::Present(observe::volume(v, &uid, &host.node))),
            Fact::Absent => (None, Fact::Absent),
            Fact::Unknown(why) => (None, Fact::Unknown(why.clone())),
        };
        let bases = observe::bases(object, known, &self.prefix);
        let granted = object.status.as_ref().and_then(|s| s.nqn.clone());
        let (sessions, leftover) = self.look(&bases, granted.clone()).await;
        let users = self.users(granted.clone()).await;
        let connecting = lock(&self.connecting).contains(&object.spec.volume);
        let mut all = lock(&self.memory);
        let memory = all.entry(name).or_default();
        memory.bases = bases;
        memory.granted = granted;
        // What is remembered is about one canary, not about the next of its name.
        if !matches!(&fact, Fact::Present(v) if v.canary.is_some() && v.generation > 1) {
            (memory.cut_seen, memory.asked) = (None, None);
        } else if matches!(&fact, Fact::Present(v) if v.fenced) {
            memory.cut_seen.get_or_insert_with(Instant::now);
        }
        let watched = memory.cut_seen;
        if let Sessions::Known(list) = &sessions {
            memory.sessions = plain(list);
        }
        Ok(Seen {
            host,
            prefix: self.prefix.clone(),
            attachment,
            volume: fact,
            sessions,
            leftover,
            users,
            in_flight: if connecting { InFlight::Running } else { InFlight::None },
            unreported: known.and_then(|v| self.unreported.of(&object.spec.volume, v.metadata.uid.as_deref()?)),
            failure: memory.failure.clone(),
            may_retry: memory.retry_at.is_none_or(|at| at <= Instant::now()),
            watched: watched.is_some_and(|since| since.elapsed() >= WATCH_CANARY),
            asked: memory.asked,
        })
    }

    /// The UID of our Node, read live: it is recorded in the intent and tells a replacement of the same name apart. Not before the
    /// Node speaks of this boot: an intent that is newer than the Node would look like one of a boot that is over.
    async fn learn_node_uid(&self) -> Result<(), kube::Error> {
        let node = self.node();
        let found = self.nodes.get_opt(&node).await?;
        let mut host = lock(&self.host);
        let ours = |node: &Node| {
            let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
            info.is_none_or(|i| i.boot_id.is_empty() || i.boot_id == host.boot_id)
        };
        host.node_uid = found.filter(ours).and_then(|n| n.uid());
        Ok(())
    }

    async fn act(&self, object: &RdsAttachment, volume: &Fact<RdsVolume>, step: Step) -> Result<Again, kube::Error> {
        let name = object.name_any();
        let agent = observe::agent(object);
        let now = Timestamp::now();
        match step {
            Step::RecordIntent(intent) => {
                let agent = observe::with_intent(agent, intent);
                Ok(self.write(object, "intent", agent).await?.again())
            }
            Step::Report(report) => {
                let agent = observe::with_report(agent, &report, now);
                Ok(self.write(object, "report", agent).await?.again())
            }
            Step::DeclareDisconnected(last, report) => {
                let agent = observe::with_last_word(agent, last, &report, now);
                Ok(self.write(object, "disconnected", agent).await?.again())
            }
            Step::Connect(grant) => {
                let options = match volume {
                    Fact::Present(v) => options(v),
                    Fact::Absent | Fact::Unknown(_) => Options::default(),
                };
                self.connect(&name, &object.spec.volume, grant, options).await;
                Ok(Again::Now)
            }
            Step::Ask(old) => {
                self.ask(&name, &object.spec.volume, old).await;
                Ok(Again::Now)
            }
            Step::Disconnect(nqn, key) => {
                self.disconnect(&name, nqn, key).await;
                Ok(Again::Now)
            }
            Step::ForgetLoss(loss) => {
                self.forget_loss(object.spec.volume.clone(), loss).await;
                Ok(Again::Now)
            }
            Step::Rest(wait) => {
                if let (Wait::Settled, Fact::Present(volume)) = (&wait, volume) {
                    self.retime(&name, options(volume)).await;
                }
                Ok(self.rest(&name, &wait))
            }
        }
    }

    fn rest(&self, name: &str, wait: &Wait) -> Again {
        debug!(attachment = name, ?wait, "rests");
        let mut all = lock(&self.memory);
        let Some(memory) = all.get_mut(name) else {
            return Again::Never;
        };
        let doubled = Duration::from_millis(500 << memory.waits.min(6)).min(LONGEST_WAIT);
        match wait {
            Wait::Settled => {
                memory.waits = 0;
                // RdsVolumes are not watched: a session that came to its end may have been cut before its fence could be read.
                let well = memory
                    .sessions
                    .iter()
                    .all(|session| session.state == "live" && session.disk);
                memory.doubts = if well { 0 } else { memory.doubts.saturating_add(1) };
                Again::In(doubting(memory.doubts))
            }
            Wait::Use => Again::In(POLL_USE),
            Wait::NotOurs => Again::Never,
            Wait::ConnectRuns => Again::In(Duration::from_millis(300)),
            Wait::Backoff => {
                let left = memory.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
                Again::In(left.unwrap_or_default() + Duration::from_millis(10))
            }
            Wait::Predecessor | Wait::Answer(_) | Wait::Operator => {
                memory.waits += 1;
                if memory.waits == 1 {
                    info!(attachment = name, ?wait, "waits");
                }
                Again::In(doubled)
            }
        }
    }

    /// Compare-and-swap of `status.agent`.
    pub(super) async fn write(
        &self,
        object: &RdsAttachment,
        step: &str,
        agent: AgentStatus,
    ) -> Result<Written, kube::Error> {
        let name = object.name_any();
        let patch = json!({
            "apiVersion": format!("{DOMAIN}/{API_VERSION}"),
            "kind": "RdsAttachment",
            "metadata": {"name": name, "uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version},
            "status": {"agent": stated(&agent)},
        });
        let params = PatchParams::apply(manager::AGENT).force();
        let done = self
            .attachments
            .patch_status(&name, &params, &Patch::Apply(&patch))
            .await;
        match done {
            Ok(now) => {
                crash::after(step);
                if let Some(memory) = lock(&self.memory).get_mut(&name) {
                    memory.waits = 0;
                }
                Ok(Written::Done(Box::new(now)))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!(attachment = name, step, "changed meanwhile, it is read again");
                Ok(Written::Changed(kube::Error::Api(status)))
            }
            Err(e) => Err(e),
        }
    }
}

/// Locks, poisoned or not: nothing here panics between two writes.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_is_not_well_is_looked_at_soon_and_then_less_and_less_often() {
        assert_eq!(doubting(0), RESYNC);
        let waits: Vec<u64> = (1..10).map(|n| doubting(n).as_secs()).collect();
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(doubting(u32::MAX), RESYNC);
    }

    #[test]
    fn the_last_word_is_taken_back_by_an_empty_list() {
        assert_eq!(stated(&AgentStatus::default()), json!({"conditions": []}));
        let used = AgentStatus {
            used_by: Some(vec!["pod".into()]),
            ..AgentStatus::default()
        };
        assert_eq!(stated(&used), json!({"usedBy": ["pod"]}));
    }
}
