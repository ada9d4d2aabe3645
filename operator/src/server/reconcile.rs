//! The thin shell around [`super::decide`]: one shared listing an interval, the status, and the drift scan that wakes volumes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use rds_crds::condition::{Saying, clear_condition, find_condition, is_true, kind, set_condition, whole_seconds};
use rds_crds::names::{DOMAIN, FINALIZER, manager};
use rds_crds::server::RdsServerStatus;
use rds_crds::{RdsServer, RdsVolume, Reason};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::events::Announcer;
use crate::queue::{self, Action, Name};
use crate::routeros::{Client as RouterOs, ClusterId, Inventory, RouterosMetrics};
use crate::telemetry::chain;
use crate::volume::Trigger;
use crate::world::World;

use super::credentials::{Trouble, fingerprint, target};
use super::decide::{Answer, Known, fitness, status};
use super::drift::{Rows, mark};
use super::fleet::{Fitness, Fleet, Handle};

/// How long after a volume came or went its server says how many there are: a burst is told once.
const COUNTED: Duration = Duration::from_secs(1);

/// So many failed reads of a Secret in a row, in about a minute, are an API server that restarts, and nothing to tell of a server that
/// is ready. More are, missing rights for one.
const BEARABLE: u32 = 6;

/// What all passes share.
pub(crate) struct Context {
    pub(crate) world: World,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) cluster: ClusterId,
    pub(crate) announcer: Announcer,
    pub(crate) namespace: String,
    pub(crate) inventory_interval: Duration,
    pub(crate) metrics: Option<RouterosMetrics>,
    pub(crate) triggers: Trigger,
    /// Failures in a row and the marks of the last rows, by server; may be forgotten at any time.
    pub(crate) memory: Mutex<HashMap<String, Remembered>>,
}

/// What may be forgotten at any time.
#[derive(Default)]
pub(crate) struct Remembered {
    failures: u32,
    rows: Rows,
}

/// Runs until `stop`.
pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    // Status writes of our own come back as changes; a pass whose listing is fresh enough costs nothing on the appliance.
    let changed = super::changes(context.world.servers.changes()).map(|name| (name, Duration::ZERO));
    let counted = super::counts(&context.world).map(|name| (name, COUNTED));
    let names = stream::select(changed, counted);
    queue::work(names, 16, |_| None, stop, |name| pass(name, context.clone())).await;
}

async fn pass(name: Name, cx: Arc<Context>) -> Action {
    let Some(server) = cx.world.servers.get(&name) else {
        debug!(server = &*name, "gone from the cache");
        return Action::await_change();
    };
    match reconcile(server, cx).await {
        Ok(action) => action,
        Err(error) => {
            warn!(server = &*name, error = chain(&error), "reconciling a server failed");
            Action::requeue(Duration::from_secs(2))
        }
    }
}

async fn reconcile(server: Arc<RdsServer>, cx: Arc<Context>) -> Result<Action, kube::Error> {
    let name = server.name_any();
    let api: Api<RdsServer> = Api::all(cx.world.client.clone());
    let has_finalizer = server.finalizers().iter().any(|f| f == FINALIZER);
    match (server.metadata.deletion_timestamp.is_some(), has_finalizer) {
        (true, false) => {
            cx.fleet.remove(&name);
            return Ok(Action::await_change());
        }
        (false, false) => {
            set_finalizers(&api, &server, true).await?;
        }
        // The cache may lag behind: only a live list says that there are none.
        (true, true) if cx.world.volumes.count_on(&name) == 0 && !named_by_volumes(&cx.world.client, &name).await? => {
            cx.fleet.remove(&name);
            set_finalizers(&api, &server, false).await?;
            info!(server = name, "released");
            return Ok(Action::await_change());
        }
        (true | false, true) => {}
    }
    let seen = look(&server, &name, &cx).await;
    if let Err(Trouble::Unread(why)) = &seen
        && is_ready(&server)
        && failures(&name, &cx) < BEARABLE
    {
        warn!(
            server = name,
            why, "its Secret cannot be read now, what is known of it stays"
        );
        return Ok(Action::requeue(after(&name, &seen, &cx)));
    }
    let volumes = &cx.world.volumes;
    let incomplete = !volumes.malformed().is_empty() || !volumes.is_synced();
    let known = Known::of(&server, volumes.iter(), incomplete);
    let now = Timestamp::now();
    let answer = match &seen {
        Ok((_, listing)) => Answer::Listing(listing),
        Err(trouble) => {
            let (reason, why) = trouble.said();
            Answer::None(reason, why.to_owned())
        }
    };
    let mut next = status(&server, &answer, &known, &cx.cluster, now);
    if let Some(at) = cx.fleet.attachments_complete_at() {
        next.attachments_complete_at = Some(Time(whole_seconds(at)));
    }
    deletion(&server, known.volumes, &mut next, now);
    write(&api, &server, &next, &cx).await?;
    let mut delay = after(&name, &seen, &cx);
    if server.metadata.deletion_timestamp.is_some() {
        // It goes soon after its last volume; a listing that is fresh enough is not read again for that.
        delay = delay.min(Duration::from_secs(5));
    }
    if let Ok((handle, listing)) = &seen {
        handle.conclude(fitness(&server, listing));
    }
    let fit = cx.fleet.get(&name).map(|handle| handle.fitness());
    let concluded = cx.fleet.conclude(&name, fit);
    wake(&name, seen.as_ref().ok().map(|(_, listing)| &**listing), concluded, &cx);
    Ok(Action::requeue(delay))
}

/// The handle of the server and a listing that is not older than half an interval.
async fn look(server: &RdsServer, name: &str, cx: &Context) -> Result<(Arc<Handle>, Arc<Inventory>), Trouble> {
    let target = match target(server, name, &cx.world.client, &cx.namespace).await {
        Ok(target) => target,
        Err(trouble) => {
            if let (Trouble::Found(reason, why), Some(handle)) = (&trouble, cx.fleet.get(name)) {
                handle.conclude(Fitness::Unusable(*reason, why.clone()));
            }
            return Err(trouble);
        }
    };
    let handle = cx.fleet.ensure(name, fingerprint(&target), || {
        RouterOs::connect(&target, cx.metrics.clone())
    });
    match handle.listing(cx.inventory_interval / 2).await {
        Ok(listing) => Ok((handle, listing)),
        Err(error) => {
            let (reason, why) = (crate::volume::reason(&error), error.to_string());
            // A server that was usable stays so: commands fail for themselves while it is away.
            if handle.fitness() != Fitness::Usable || reason == Reason::AuthenticationFailed {
                handle.conclude(Fitness::Unusable(reason, why.clone()));
            }
            Err(Trouble::Found(reason, why))
        }
    }
}

fn is_ready(server: &RdsServer) -> bool {
    server
        .status
        .as_ref()
        .is_some_and(|s| is_true(&s.conditions, kind::READY))
}

/// Failures in a row before this one.
fn failures(name: &str, cx: &Context) -> u32 {
    let memory = cx.memory.lock().unwrap_or_else(PoisonError::into_inner);
    memory.get(name).map_or(0, |remembered| remembered.failures)
}

/// When to look again: with the interval, or sooner while it fails, 1 s to 30 s, for ever.
fn after(name: &str, seen: &Result<(Arc<Handle>, Arc<Inventory>), Trouble>, cx: &Context) -> Duration {
    let mut memory = cx.memory.lock().unwrap_or_else(PoisonError::into_inner);
    let remembered = memory.entry(name.to_owned()).or_default();
    let jitter = rand::random_range(0.9..1.1);
    if seen.is_ok() {
        remembered.failures = 0;
        return cx.inventory_interval.mul_f64(jitter);
    }
    remembered.failures = remembered.failures.saturating_add(1);
    let backoff = Duration::from_millis(500) * 2u32.saturating_pow(remembered.failures.min(6));
    backoff.min(Duration::from_secs(30)).mul_f64(jitter)
}

/// Wakes the volumes whose rows changed since the last listing, or all if another conclusion was drawn about the server.
fn wake(name: &str, listing: Option<&Inventory>, all: bool, cx: &Context) {
    let changed = listing.map(|listing| {
        let rows = Rows::of(&listing.disks);
        let mut memory = cx.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut memory.entry(name.to_owned()).or_default().rows;
        let changed = rows.changed(known);
        *known = rows;
        changed
    });
    let changed = changed.unwrap_or_default();
    if changed.is_empty() && !all {
        return;
    }
    let concerned = |volume: &RdsVolume| {
        let status = volume.status.as_ref();
        let words = status.map(|s| [&s.slot, &s.path]).into_iter().flatten().flatten();
        words.map(|word| mark(word)).any(|mark| changed.contains(&mark))
    };
    for volume in cx.world.volumes.names_on(name) {
        if all || cx.world.volumes.get(&volume).is_some_and(|v| concerned(&v)) {
            // The receiver ends with the lease; then nobody is to be woken.
            let _ = cx.triggers.send(volume);
        }
    }
}

/// A live answer: a server goes only when no volume names it any more.
async fn named_by_volumes(client: &Client, name: &str) -> Result<bool, kube::Error> {
    let volumes = Api::<RdsVolume>::all(client.clone());
    let mut params = ListParams::default().limit(500);
    loop {
        let page = volumes.list(&params).await?;
        if page.items.iter().any(|v| v.spec.server == name) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(false),
        }
    }
}

fn deletion(server: &RdsServer, volumes: u32, status: &mut RdsServerStatus, now: Timestamp) {
    if server.metadata.deletion_timestamp.is_none() {
        clear_condition(&mut status.conditions, kind::DELETION_BLOCKED);
        return;
    }
    let saying = Saying {
        kind: kind::DELETION_BLOCKED,
        status: Some(true),
        reason: Reason::VolumesExist.as_str(),
        message: format!("{volumes} RdsVolumes name this server and go on working: delete their claims first"),
    };
    set_condition(&mut status.conditions, saying, server.metadata.generation, now);
}

async fn set_finalizers(api: &Api<RdsServer>, server: &RdsServer, ours: bool) -> Result<(), kube::Error> {
    let mut finalizers: Vec<String> = server
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .cloned()
        .collect();
    if ours {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch = json!({"metadata": {
        "uid": server.metadata.uid,
        "resourceVersion": server.metadata.resource_version,
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(manager::OPERATOR.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(&server.name_any(), &params, &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn write(
    api: &Api<RdsServer>,
    server: &RdsServer,
    next: &RdsServerStatus,
    cx: &Context,
) -> Result<(), kube::Error> {
    if server.status.as_ref() == Some(next) {
        return Ok(());
    }
    // What the self-test says is its own to write.
    let mut ours = next.clone();
    ours.fence_test = None;
    ours.conditions.retain(|c| c.type_ != kind::FENCE_PROVEN);
    let patch = json!({
        "apiVersion": format!("{DOMAIN}/v1alpha1"),
        "kind": "RdsServer",
        "metadata": {"name": server.name_any(), "uid": server.metadata.uid},
        "status": ours,
    });
    let written = api
        .patch_status(
            &server.name_any(),
            &PatchParams::apply(manager::OPERATOR).force(),
            &Patch::Apply(&patch),
        )
        .await?;
    let ready = |s: Option<&RdsServerStatus>| {
        s.and_then(|s| find_condition(&s.conditions, kind::READY))
            .map(|c| (c.status.clone(), c.reason.clone()))
    };
    if ready(server.status.as_ref()) != ready(Some(next))
        && let Some(c) = find_condition(&next.conditions, kind::READY)
    {
        cx.announcer.server(&written, c.status == "True", &c.reason, &c.message);
    }
    Ok(())
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
