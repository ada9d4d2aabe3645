//! The self-test of fencing: whether switching an export off really ends the sessions through it, on this appliance and this
//! RouterOS version. RouterOS lists no initiators, so only a node can tell.
//!
//! An RdsVolume of the operator's own, the canary, is connected by one live node, cut by the very steps of every other fence, and
//! removed. [`decide`] is pure; [`run`] observes, asks it, and does it. Invariant: FenceProven becomes True only on a node's
//! positive evidence about this very run (I17, I18).

mod act;
mod decide;
mod model;
mod observe;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::server::FenceTest;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attachment::{Observations, Patience};
use crate::events::Announcer;
use crate::telemetry::chain;
use crate::volume::Trigger;
use crate::world::World;

use decide::decide;
use model::Step;

/// Names of the mutating steps, for the crash test.
pub(crate) const STEPS: [&str; 6] = [
    "self-test-record",
    "self-test-volume",
    "self-test-attachment",
    "self-test-cut",
    "self-test-remove-attachment",
    "self-test-remove-volume",
];

/// How often is looked while a test runs, and else. Only caches are read.
const BUSY: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(2);
/// A write of our own shows in the cache within this time; until then the old record is not acted upon.
const LAG: Duration = Duration::from_secs(5);

/// What the self-test works with.
pub(crate) struct Context {
    pub(crate) world: World,
    pub(crate) observations: Observations,
    pub(crate) patience: Patience,
    pub(crate) announcer: Announcer,
    pub(crate) triggers: Trigger,
}

/// Runs until `stop`.
pub(crate) async fn run(cx: Context, stop: CancellationToken) {
    let mut written: HashMap<String, (FenceTest, Instant)> = HashMap::new();
    loop {
        let mut busy = false;
        for server in cx.world.servers.iter() {
            let name = server.name_any();
            let record = server
                .status
                .as_ref()
                .and_then(|s| s.fence_test.clone())
                .unwrap_or_default();
            let lags = |(ours, at): &(FenceTest, Instant)| *ours != record && at.elapsed() < LAG;
            if written.get(&name).is_some_and(lags) {
                busy = true;
                continue;
            }
            let seen = observe::seen(&server, record, &cx, Timestamp::now());
            let step = decide(&seen);
            busy |= seen.record.run.is_some() || seen.canary.is_some();
            if step == Step::Rest {
                continue;
            }
            info!(server = name, ?step, "self-test of fencing");
            if let Step::Write(write) = &step {
                written.insert(name.clone(), (write.record.clone(), Instant::now()));
            }
            if let Err(error) = act::perform(&server, &step, &cx).await {
                // Read again, decide again.
                written.remove(&name);
                warn!(
                    server = name,
                    error = chain(&error),
                    "self-test of fencing: a write failed"
                );
            }
        }
        let pause = if busy { BUSY } else { IDLE };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}
