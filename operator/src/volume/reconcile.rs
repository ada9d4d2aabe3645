//! The thin shell around [`decide`]: observe, decide, act, until there is nothing more to do now.
//!
//! Each mutating step is recorded or read back before the next is decided; a crash between two costs one repetition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::names::FINALIZER;
use rds_crds::{RdsServer, RdsVolume, Reason};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::agent_reports;
use crate::attachment;
use crate::crash;
use crate::events::Announcer;
use crate::queue::Action;
use crate::routeros::{ClusterId, DiskRow, Guard, Inventory, Look, Nonce};
use crate::server::facts;
use crate::server::fleet::{Fitness, Fleet, Handle};
use crate::world::World;

use super::act;
use super::api::{ApiError, Store};
use super::appliance_view::ApplianceView;
use super::decide::{SECOND_LOOK, decide};
use super::deletion;
use super::model::{Change, Deviation, Fact, Ledger, Mutation, Problem, Recheck, Report, Seen, ServerState, Step};
use super::persistent_volumes::PersistentVolumes;
use super::problem;
use super::record;
use super::status;
use super::want::Want;

/// Steps of one pass; a sound decision needs fewer than ten.
const MAX_STEPS: usize = 24;

/// Should the first look at a server wake nobody, they look themselves after this time.
const FIRST_LOOK: Duration = Duration::from_secs(60);

/// What all passes share.
pub(crate) struct Context {
    pub(crate) world: World,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) cluster: ClusterId,
    pub(crate) announcer: Announcer,
    pub(crate) persistent_volumes: PersistentVolumes,
    pub(crate) max_exec_age: Duration,
    pub(crate) inventory_interval: Duration,
    pub(crate) resync_interval: Duration,
    pub(crate) memory: Memory,
    pub(crate) observations: attachment::Observations,
    pub(crate) patience: attachment::Patience,
    pub(crate) driver: String,
}

/// What may be forgotten at any time: backoff and first observations. Of a volume at rest there is nothing.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<String, Remembered>>);

#[derive(Clone, Copy, Default, PartialEq)]
struct Remembered {
    attempts: u32,
    deviation: Option<(Deviation, Instant)>,
}

impl Memory {
    fn with<T>(&self, name: &str, f: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut remembered = all.get(name).copied().unwrap_or_default();
        let answer = f(&mut remembered);
        if remembered == Remembered::default() {
            all.remove(name);
        } else if let Some(there) = all.get_mut(name) {
            *there = remembered;
        } else {
            all.insert(name.to_owned(), remembered);
        }
        answer
    }

    /// Forgets an object.
    pub(crate) fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The next delay of an exponential backoff, 1 s to 2 min, with jitter.
    pub(crate) fn backoff(&self, name: &str) -> Duration {
        let attempt = self.with(name, |r| {
            r.attempts = r.attempts.saturating_add(1);
            r.attempts
        });
        let base = Duration::from_millis(500) * 2u32.saturating_pow(attempt.min(8));
        base.min(Duration::from_secs(120))
            .mul_f64(rand::random_range(0.75..1.25))
    }

    fn calm(&self, name: &str) {
        self.with(name, |r| r.attempts = 0);
    }
}

/// One pass over one volume.
pub(crate) async fn reconcile(volume: Arc<RdsVolume>, cx: Arc<Context>) -> Result<Action, ApiError> {
    let name = volume.name_any();
    let mut volume = Arc::unwrap_or_clone(volume);
    let store = Store::new(&cx.world.client);
    let deleting = volume.metadata.deletion_timestamp.is_some();
    if !volume.finalizers().iter().any(|f| f == FINALIZER) {
        if deleting {
            cx.memory.forget(&name);
            return Ok(Action::await_change());
        }
        volume = store.add_finalizer(&volume).await?;
        crash::after("add-finalizer");
    }
    let server = cx.world.servers.get(&volume.spec.server);
    if server.is_some() && !cx.fleet.has_looked(&volume.spec.server) {
        // Just started: what could be said now would be taken back a moment later. The first look wakes all volumes.
        return Ok(Action::requeue(FIRST_LOOK));
    }
    let wanted = match &server {
        Some(server) => Want::of(&volume, server, &cx.cluster).map_err(|e| (Reason::Invalid, e.0)),
        None => Err(problem::no_server(&volume.spec.server, &cx.world.servers.malformed())),
    };
    let ledger = Ledger::of(volume.status.as_ref()).map_err(|e| (Reason::StatusLost, e));
    match (wanted, ledger, server) {
        (Ok(want), Ok(_), Some(server)) => {
            let mut pass = Pass::new(volume, want, &server, &cx, store);
            let action = pass.run().await?;
            if pass.gone {
                return Ok(action);
            }
            let heard = agent_reports::hear(&mut pass.volume, &cx.world, &cx.announcer).await?;
            match pass.attachments().await? {
                Some(sooner) if !pass.gone => Ok(sooner),
                Some(_) | None => Ok(heard.unwrap_or(action)),
            }
        }
        (Err((reason, why)), _, _) | (_, Err((reason, why)), _) => {
            let step = deletion::unreadable(volume.status.as_ref(), deleting, reason, why);
            finish(&mut volume, None, step, &cx, &store).await
        }
        (Ok(_), Ok(_), None) => Ok(Action::requeue(SECOND_LOOK)),
    }
}

struct Pass<'a> {
    volume: RdsVolume,
    want: Want,
    server: &'a RdsServer,
    handle: Option<Arc<Handle>>,
    cx: &'a Context,
    store: Store,
    nonce: Nonce,
    seen: Seen,
    /// The object was let go.
    gone: bool,
}

impl<'a> Pass<'a> {
    fn new(volume: RdsVolume, want: Want, server: &'a RdsServer, cx: &'a Context, store: Store) -> Self {
        let handle = cx.fleet.get(&volume.spec.server);
        let state = match handle.as_ref().map(|h| h.fitness()) {
            Some(Fitness::Usable) if server.spec.maintenance == Some(true) => ServerState::Maintenance,
            Some(Fitness::Usable) => ServerState::Usable,
            Some(Fitness::Unusable(reason, why)) => ServerState::Unusable(reason, why),
            None => ServerState::Unusable(
                Reason::ServerNotUsable,
                format!("server {} was not looked at yet", volume.spec.server),
            ),
        };
        let remembered = cx.memory.with(&volume.name_any(), |r| r.deviation);
        let seen = Seen {
            server: state,
            view: Fact::NotRead,
            backing: Fact::NotRead,
            room: Fact::NotRead,
            own_record: false,
            last: None,
            half_made: None,
            seen_before: remembered
                .filter(|(_, at)| at.elapsed() + Duration::from_millis(500) >= SECOND_LOOK)
                .map(|(d, _)| d),
            now: Timestamp::now(),
            max_exec_age: cx.max_exec_age + patience_beyond_default(server),
        };
        Self {
            volume,
            want,
            server,
            handle,
            cx,
            store,
            nonce: Nonce::random(),
            seen,
            gone: false,
        }
    }

    async fn run(&mut self) -> Result<Action, ApiError> {
        for _ in 0..MAX_STEPS {
            let ledger = Ledger::of(self.volume.status.as_ref()).unwrap_or_default();
            let step = decide(&self.want, &ledger, &self.seen);
            debug!(volume = self.volume.name_any(), ?step, "decided");
            match step {
                Step::Look => self.look().await,
                Step::List => self.list().await,
                Step::Backing => self.seen.backing = self.cx.persistent_volumes.of(&self.volume.name_any()).await,
                Step::MeasureRoom => self.measure(&ledger).await,
                Step::Record(change) => {
                    // Not when the pass began: it may have waited for the appliance since, and the age of a command counts from here.
                    let next = record::changed(&self.volume, &self.want, &change, &self.nonce, Timestamp::now());
                    self.volume = self.store.swap_status(&next).await?;
                    crash::after(change.name());
                    self.cx.announcer.recorded(&self.volume, &change);
                    // The rest of this pass works with the NQN that was just recorded, and says no other one.
                    let recorded = self.volume.status.as_ref().and_then(|s| s.nqn.as_ref());
                    if let (Change::Recover(..), Some(Ok(nqn))) = (&change, recorded.map(|n| n.parse())) {
                        self.want.id.nqn = nqn;
                    }
                    self.seen.own_record = true;
                }
                Step::Do(mutation) => self.act(mutation, &ledger).await,
                Step::Forget | Step::Rest(..) => {
                    self.gone = step == Step::Forget;
                    return finish(&mut self.volume, Some(&self.want), step, self.cx, &self.store).await;
                }
            }
        }
        let report = Report::new(
            Some(false),
            Reason::InternalError,
            "a pass did not come to an end: please report this with the operator's log",
        );
        finish(
            &mut self.volume,
            Some(&self.want),
            report.rest(Recheck::Slowly),
            self.cx,
            &self.store,
        )
        .await
    }

    /// The attachments of the volume, behind the volume itself.
    async fn attachments(&mut self) -> Result<Option<Action>, ApiError> {
        if self.gone {
            return Ok(None);
        }
        let ledger = Ledger::of(self.volume.status.as_ref()).unwrap_or_default();
        let guard = ledger
            .creation
            .as_ref()
            .zip(ledger.generation)
            .map(|(creation, generation)| Guard {
                slot: self.want.id.slot.clone(),
                path: self.want.id.path.clone(),
                tag: self.want.tag(generation, &creation.nonce),
            });
        let usable = self.seen.server == ServerState::Usable;
        let handle = self.handle.clone().filter(|_| usable);
        let place = attachment::Place {
            server: self.server,
            client: handle.as_ref().map(|h| &h.client),
            guard,
            port: self.want.port,
            base: self.want.base.clone(),
            gate: &self.cx.fleet.gate,
        };
        let outside = attachment::Outside {
            world: &self.cx.world,
            observations: &self.cx.observations,
            patience: self.cx.patience,
            driver: &self.cx.driver,
        };
        // Only a fence sends commands: older listings do not count for this disk then.
        let fenced = |volume: &RdsVolume| volume.status.as_ref().is_some_and(|s| s.fence.is_some());
        let before = fenced(&self.volume);
        let next = attachment::reconcile(&mut self.volume, &place, &outside, &self.cx.announcer).await;
        if let Some(handle) = handle.as_ref().filter(|_| before || fenced(&self.volume)) {
            handle.touch(&self.want.id.slot);
        }
        next
    }

    fn handle(&self) -> Result<Arc<Handle>, Problem> {
        self.handle.clone().ok_or_else(|| Problem {
            reason: Reason::ServerNotUsable,
            message: format!("server {} was not looked at yet", self.volume.spec.server),
            unknown: false,
            incomplete: false,
        })
    }

    async fn look(&mut self) {
        self.seen.view = match self.handle() {
            Err(problem) => Fact::Unknown(problem),
            Ok(handle) => match handle.client.look(&self.want.id).await {
                Ok(look) => Fact::Known(sight_of(&look)),
                Err(error) => Fact::Unknown((&error).into()),
            },
        };
    }

    async fn list(&mut self) {
        let since = self
            .cx
            .memory
            .with(&self.volume.name_any(), |r| r.deviation)
            .map(|(_, at)| at.elapsed());
        let max_age = since
            .unwrap_or(self.cx.inventory_interval * 2)
            .min(self.cx.inventory_interval * 2);
        self.seen.view = match self.handle() {
            Err(problem) => Fact::Unknown(problem),
            Ok(handle) => match handle.listing_of(&self.want.id.slot, max_age).await {
                Ok(listing) => sight_in(&listing, &self.want, &self.volume.spec.server),
                Err(error) => Fact::Unknown((&error).into()),
            },
        };
    }

    async fn measure(&mut self, ledger: &Ledger) {
        let have = ledger.capacity.map_or(0, |c| c.0);
        let need = crate::routeros::Bytes(self.want.size.0.saturating_sub(have));
        let limits = crate::server::fleet::limits(self.server);
        self.seen.room = match self.handle() {
            Err(problem) => Fact::Unknown(problem),
            Ok(handle) => {
                let measured = handle.promise(&self.want.id.slot, need, limits).await;
                problem::room(measured, &self.volume.spec.server)
            }
        };
    }

    async fn act(&mut self, mutation: Mutation, ledger: &Ledger) {
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(problem) => {
                self.seen.ended(mutation, Some(problem));
                return;
            }
        };
        handle.touch(&self.want.id.slot);
        let done = act::perform(mutation, &handle.client, &self.want, ledger, &self.seen.view).await;
        handle.touch(&self.want.id.slot);
        if matches!(mutation, Mutation::Create | Mutation::Adopt | Mutation::Grow) {
            // Unknown counts as made until a listing says otherwise.
            handle.settle(&self.want.id.slot, !matches!(&done, Err(e) if !e.is_unknown()));
        }
        crash::after(mutation.name());
        match done {
            Ok(view) => {
                info!(
                    volume = self.volume.name_any(),
                    step = mutation.name(),
                    "done on the appliance"
                );
                self.seen.view = view.map_or(Fact::NotRead, Fact::Known);
                self.seen.ended(mutation, None);
            }
            Err(error) => {
                info!(volume = self.volume.name_any(), step = mutation.name(), %error, "not done on the appliance");
                self.seen.view = error.look().map_or(Fact::NotRead, |look| Fact::Known(sight_of(look)));
                self.seen.ended(mutation, Some((&error).into()));
            }
        }
    }
}

/// `max_exec_age` presumes the default timeout of commands: what is waited for longer may run longer.
fn patience_beyond_default(server: &RdsServer) -> Duration {
    facts::command_timeout(server).saturating_sub(crate::routeros::Limits::default().command_timeout)
}

/// Everything about this volume from a fresh read.
fn sight_of(look: &Look) -> ApplianceView {
    ApplianceView {
        rows: look.rows.clone(),
        file: look.file.is_some(),
    }
}

/// Everything about this volume from the shared listing. A file that does not show is gone only if its pool is mounted.
fn sight_in(listing: &Inventory, want: &Want, server: &str) -> Fact<ApplianceView> {
    let id = &want.id;
    let concerns = |row: &&DiskRow| {
        row.slot == id.slot.as_str() || row.names(&id.path) || row.nqn.as_deref() == Some(id.nqn.as_str())
    };
    let file = listing.files.iter().any(|f| f.path == id.path.as_str());
    if !file && !listing.pool.as_ref().is_some_and(DiskRow::is_mounted) {
        return Fact::Unknown(problem::pool_not_mounted(server));
    }
    Fact::Known(ApplianceView {
        rows: listing.disks.iter().filter(concerns).cloned().collect(),
        file,
    })
}

/// Writes what there is to say, and says when to come again.
async fn finish(
    volume: &mut RdsVolume,
    want: Option<&Want>,
    step: Step,
    cx: &Context,
    store: &Store,
) -> Result<Action, ApiError> {
    let name = volume.name_any();
    let (report, again) = match step {
        Step::Forget => {
            store.drop_finalizer(volume).await?;
            crash::after("drop-finalizer");
            cx.memory.forget(&name);
            info!(volume = name, "gone");
            return Ok(Action::await_change());
        }
        Step::Rest(report, again) => (report, again),
        Step::Look | Step::List | Step::Backing | Step::MeasureRoom | Step::Record(_) | Step::Do(_) => {
            return Ok(Action::requeue(SECOND_LOOK));
        }
    };
    let next = status::applied(volume, want, &report, Timestamp::now());
    if status::differs(volume, &next) {
        let before = volume.status.take();
        *volume = store.apply_status(volume, &next).await?;
        crash::after("apply-status");
        cx.announcer.transitions(volume, before.as_ref());
    }
    cx.memory.with(&name, |r| {
        r.deviation = report.deviation.map(|d| match r.deviation {
            Some((old, at)) if old == d => (d, at),
            _ => (d, Instant::now()),
        });
    });
    Ok(match again {
        Recheck::Backoff => Action::requeue(cx.memory.backoff(&name)),
        Recheck::Slowly => Action::requeue(Duration::from_secs(300).mul_f64(rand::random_range(0.8..1.2))),
        Recheck::In(delay) => Action::requeue(delay),
        Recheck::Later => {
            cx.memory.calm(&name);
            Action::requeue(cx.resync_interval.mul_f64(rand::random_range(0.8..1.2)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_a_command_that_is_waited_for_longer_may_run_longer() {
        let server = |seconds: Option<u32>| -> RdsServer {
            let object = serde_json::json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
                "spec": {"management": {"address": "a", "user": "u"}, "limits": {"commandTimeoutSeconds": seconds},
                         "secretRef": {"name": "s"}, "storage": {"address": "a"}, "basePath": "/p"},
            });
            serde_json::from_value(object).unwrap()
        };
        let default = crate::routeros::Limits::default().command_timeout;
        assert_eq!(patience_beyond_default(&server(None)), Duration::ZERO);
        assert_eq!(patience_beyond_default(&server(Some(1))), Duration::ZERO);
        let long = default + Duration::from_secs(90);
        let asked = u32::try_from(long.as_secs()).unwrap();
        assert_eq!(patience_beyond_default(&server(Some(asked))), Duration::from_secs(90));
    }
}
