//! The work queue of a controller: names in, one pass a name at a time, again when the pass says so.
//!
//! kube's own runner needs a store with every object in it, whole; ours keeps a name and a time. A name that comes while its pass
//! runs is passed over once more after it (level-triggered); the earliest of several times counts.

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, FuturesUnordered};
use futures::{Stream, StreamExt};
use kube::runtime::scheduler::{ScheduleRequest, scheduler};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The name of an object of a cluster-scoped kind.
pub(crate) type Name = Arc<str>;

/// When to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action(Option<Duration>);

impl Action {
    /// After this time, or when something changes.
    pub(crate) fn requeue(after: Duration) -> Self {
        Self(Some(after))
    }

    /// When something changes.
    pub(crate) fn await_change() -> Self {
        Self(None)
    }
}

/// Runs `pass` for each name, as soon as its time has come, at most `concurrency` at once, until `stop`; then finishes what is under way.
pub(crate) async fn work<F: Future<Output = Action>>(
    names: impl Stream<Item = (Name, Duration)>,
    concurrency: usize,
    stop: CancellationToken,
    pass: impl Fn(Name) -> F,
) {
    let (again, requeues) = mpsc::unbounded_channel();
    let now = names.map(|(message, after)| ScheduleRequest {
        message,
        run_at: Instant::now() + after,
    });
    let later = stream::unfold(requeues, |mut rx| async move { rx.recv().await.map(|r| (r, rx)) });
    let mut scheduler = pin!(scheduler(stream::select(now, later)));
    let mut running: HashSet<Name> = HashSet::new();
    let mut passes = FuturesUnordered::new();
    let run = |name: Name| {
        let pass = pass(name.clone());
        async move { (name, pass.await) }
    };
    loop {
        let mut due = scheduler.as_mut().hold_unless(|name: &Name| !running.contains(name));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some((name, action)) = passes.next() => {
                running.remove(&name);
                if let Action(Some(after)) = action {
                    // The other end lives as long as this loop.
                    let _ = again.send(ScheduleRequest { message: name, run_at: Instant::now() + after });
                }
            }
            Some(name) = due.next(), if passes.len() < concurrency => {
                running.insert(name.clone());
                passes.push(run(name));
            }
            else => break,
        }
    }
    while passes.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen {
        running: HashSet<Name>,
        most: usize,
        passes: BTreeMap<Name, u32>,
    }

    async fn drive(names: Vec<&str>, concurrency: usize, next: impl Fn(u32) -> Action, enough: usize) -> Seen {
        let stop = CancellationToken::new();
        let seen = Mutex::new(Seen::default());
        let names: Vec<_> = names
            .into_iter()
            .map(|name| (Name::from(name), Duration::ZERO))
            .collect();
        let names = stream::iter(names).chain(stream::pending());
        let (seen_by, next, stopper) = (&seen, &next, stop.clone());
        let pass = move |name: Name| {
            let stopper = stopper.clone();
            async move {
                {
                    let mut seen = seen_by.lock().unwrap();
                    assert!(seen.running.insert(name.clone()), "two passes over {name} at once");
                    seen.most = seen.most.max(seen.running.len());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut seen = seen_by.lock().unwrap();
                seen.running.remove(&name);
                let count = seen.passes.entry(name).or_default();
                *count += 1;
                let action = next(*count);
                if seen.passes.values().sum::<u32>() as usize == enough {
                    stopper.cancel();
                }
                action
            }
        };
        work(names, concurrency, stop, pass).await;
        seen.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_pass_a_name_at_a_time_and_no_more_than_allowed() {
        let seen = drive(vec!["a", "b", "c", "d", "a", "a"], 2, |_| Action::await_change(), 4).await;
        assert_eq!(seen.most, 2);
        assert_eq!(
            seen.passes.values().sum::<u32>(),
            4,
            "what waits in the queue counts once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_says_when_it_comes_again() {
        let begin = Instant::now();
        let again = |count| match count {
            1 => Action::requeue(Duration::from_secs(60)),
            _ => Action::await_change(),
        };
        let seen = drive(vec!["a"], 4, again, 2).await;
        assert_eq!(seen.passes["a"], 2);
        assert!(begin.elapsed() >= Duration::from_secs(62));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_a_pass_is_not_lost_and_comes_before_the_requeue() {
        let (tx, rx) = mpsc::unbounded_channel();
        let names = stream::unfold(rx, |mut rx| async move {
            rx.recv().await.map(|n| ((n, Duration::ZERO), rx))
        });
        let (stop, count) = (CancellationToken::new(), Mutex::new(0));
        tx.send(Name::from("a")).unwrap();
        let begin = Instant::now();
        let pass = |name: Name| {
            let (tx, stop, count) = (tx.clone(), stop.clone(), &count);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count == 1 {
                    tx.send(name).unwrap();
                } else {
                    stop.cancel();
                }
                Action::requeue(Duration::from_secs(600))
            }
        };
        work(names, 4, stop.clone(), pass).await;
        assert_eq!(*count.lock().unwrap(), 2);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_lets_the_passes_under_way_end() {
        let seen = drive(vec!["a", "b", "c"], 3, |_| Action::requeue(Duration::ZERO), 1).await;
        assert!(seen.running.is_empty());
        assert_eq!(seen.passes.len(), 3);
    }
}
