//! Says when an attachment is looked at: its watch, the sweep, and the waits of earlier passes. One pass at a time for each.
//!
//! The watch only names objects; every pass reads its own. Nothing begins before the first list is complete, and that list
//! only reads (I8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use rds_crds::RdsAttachment;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::act::{Again, Agent};
use crate::chain;

/// Attachments that are worked on at once.
const CONCURRENCY: usize = 16;
/// A pass that takes longer is given up; its next one reads what became of it.
const PASS_WITHIN: Duration = Duration::from_secs(60);
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Between two passes of one attachment, so that nothing can spin.
const BREATH: Duration = Duration::from_millis(20);

/// When each attachment is due.
#[derive(Default)]
struct Queue {
    due: BTreeMap<String, Instant>,
    running: BTreeSet<String>,
    /// Changed while its pass ran.
    again: BTreeSet<String>,
}

impl Queue {
    /// Looks at it no later than `at`.
    fn push(&mut self, name: String, at: Instant) {
        if self.running.contains(&name) {
            self.again.insert(name);
            return;
        }
        let due = self.due.entry(name).or_insert(at);
        *due = at.min(*due);
    }

    fn next(&self) -> Option<Instant> {
        (self.running.len() < CONCURRENCY)
            .then(|| self.due.values().min().copied())
            .flatten()
    }

    /// One that is due.
    fn pop(&mut self, now: Instant) -> Option<String> {
        let name = self.due.iter().find(|(_, at)| **at <= now)?.0.clone();
        self.due.remove(&name);
        self.running.insert(name.clone());
        Some(name)
    }

    fn done(&mut self, name: String, again: Again, now: Instant) {
        self.running.remove(&name);
        let soon = self.again.remove(&name).then(|| now + BREATH);
        let wanted = match again {
            Again::Now => Some(now + BREATH),
            Again::In(wait) => Some(now + wait),
            Again::Never => None,
        };
        if let Some(at) = soon.into_iter().chain(wanted).min() {
            self.push(name, at);
        }
    }
}

/// Runs until `stop`; then lets passes end that have begun.
///
/// # Errors
/// When the watch ends by itself, which it never should.
pub async fn run(
    client: Client,
    agent: Arc<Agent>,
    mut woken: UnboundedReceiver<String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let node = agent.node();
    let api: Api<DeserializeGuard<RdsAttachment>> = Api::all(client);
    let ours = watcher::Config::default().fields(&format!("spec.node={node}"));
    let mut events = watcher(api, ours).default_backoff().boxed();
    let mut queue = Queue::default();
    let mut passes = JoinSet::new();
    let (mut synced, mut failing) = (false, false);
    loop {
        while synced && passes.len() < CONCURRENCY {
            let Some(name) = queue.pop(Instant::now()) else { break };
            let agent = agent.clone();
            passes.spawn(async move {
                let again = pass(&agent, &name).await;
                (name, again)
            });
        }
        let due = queue.next().filter(|_| synced);
        let wake = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.next() => match event {
                None => anyhow::bail!("the watch of RdsAttachments ended"),
                Some(Ok(event)) => {
                    if std::mem::take(&mut failing) {
                        info!("the watch of RdsAttachments works again");
                    }
                    match event {
                        Event::Init => {}
                        Event::InitDone => {
                            agent.set_synced();
                            if !std::mem::replace(&mut synced, true) {
                                info!(attachments = queue.due.len(), "attachments of this node read");
                            }
                        }
                        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
                            queue.push(name_of(&object), Instant::now());
                        }
                    }
                }
                Some(Err(e)) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = chain(&e), "the watch of RdsAttachments failed, it is tried again");
                    }
                }
            },
            Some(name) = woken.recv() => queue.push(name, Instant::now()),
            Some(ended) = passes.join_next() => {
                let (name, again) = ended?;
                queue.done(name, again, Instant::now());
            }
            () = wake => {}
        }
    }
    while let Some(ended) = passes.join_next().await {
        ended?;
    }
    Ok(())
}

fn name_of(object: &DeserializeGuard<RdsAttachment>) -> String {
    match &object.0 {
        Ok(object) => object.name_any(),
        Err(malformed) => malformed.metadata.name.clone().unwrap_or_default(),
    }
}

async fn pass(agent: &Agent, name: &str) -> Again {
    match timeout(PASS_WITHIN, agent.pass(name)).await {
        Ok(Ok(again)) => again,
        Ok(Err(e)) => {
            warn!(attachment = name, error = chain(&e), "will be tried again");
            Again::In(AFTER_ERROR)
        }
        Err(_) => {
            warn!(attachment = name, "a pass took longer than {PASS_WITHIN:?}");
            Again::In(AFTER_ERROR)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_pass_at_a_time_and_no_change_is_lost() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push("a".into(), now);
        queue.push("a".into(), now + Duration::from_secs(9));
        assert_eq!(queue.next(), Some(now), "the earlier one counts");
        assert_eq!(queue.pop(now).as_deref(), Some("a"));
        assert_eq!(queue.pop(now), None);
        queue.push("a".into(), now);
        assert_eq!(queue.pop(now), None, "its pass still runs");
        queue.done("a".into(), Again::Never, now);
        assert_eq!(queue.pop(now + BREATH).as_deref(), Some("a"), "it changed meanwhile");
        queue.done("a".into(), Again::Never, now);
        assert_eq!(queue.next(), None);
    }
}
