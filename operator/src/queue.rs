//! The work queue of a controller: names in, one pass a name at a time, again when the pass says so.
//!
//! kube's own runner needs a store with every object in it, whole; ours keeps a name and a time. A name that comes while its pass
//! runs is passed over once more after it (level-triggered); the earliest of several times counts. Passes that wait for the same
//! thing, such as one appliance, are of one party: it gets half of all places at most, so that one that hangs leaves room for others.

use std::collections::{HashMap, HashSet, VecDeque};
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

/// Who has how many places, and who waits for one. Names wait only where all places of their party are taken.
struct Shares {
    /// Places of one party.
    most: usize,
    parties: HashMap<String, Party>,
}

#[derive(Default)]
struct Party {
    taken: usize,
    waiting: VecDeque<Name>,
    /// The same, to find them.
    known: HashSet<Name>,
}

impl Shares {
    fn of(concurrency: usize) -> Self {
        Self {
            most: concurrency.div_ceil(2),
            parties: HashMap::new(),
        }
    }

    /// Takes a place of the party; if none is free, the name waits for one. Without a party there is no limit.
    fn take(&mut self, party: Option<&str>, name: &Name) -> bool {
        let Some(party) = party else { return true };
        let party = self.parties.entry(party.to_owned()).or_default();
        if party.taken < self.most {
            party.taken += 1;
            return true;
        }
        if party.known.insert(name.clone()) {
            party.waiting.push_back(name.clone());
        }
        false
    }

    /// A place is free again: it goes to the name that waits longest.
    fn give_back(&mut self, party: Option<&str>) -> Option<Name> {
        let key = party?;
        let party = self.parties.get_mut(key)?;
        if let Some(next) = party.waiting.pop_front() {
            party.known.remove(&next);
            return Some(next);
        }
        party.taken -= 1;
        if party.taken == 0 {
            self.parties.remove(key);
        }
        None
    }
}

/// Runs `pass` for each name, as soon as its time has come, at most `concurrency` at once and half of them for one party, until `stop`;
/// then finishes what is under way.
pub(crate) async fn work<F: Future<Output = Action>>(
    names: impl Stream<Item = (Name, Duration)>,
    concurrency: usize,
    party_of: impl Fn(&Name) -> Option<String>,
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
    let mut shares = Shares::of(concurrency);
    let run = |name: Name, party: Option<String>| {
        let pass = pass(name.clone());
        async move { (name, party, pass.await) }
    };
    loop {
        let mut due = scheduler.as_mut().hold_unless(|name: &Name| !running.contains(name));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some((name, party, action)) = passes.next() => {
                running.remove(&name);
                if let Action(Some(after)) = action {
                    // The other end lives as long as this loop.
                    let _ = again.send(ScheduleRequest { message: name, run_at: Instant::now() + after });
                }
                let party: Option<String> = party;
                while let Some(next) = shares.give_back(party.as_deref()) {
                    if running.insert(next.clone()) {
                        passes.push(run(next, party));
                        break;
                    }
                    // It was of no party for a moment, and is passed over already: once more after that.
                    let _ = again.send(ScheduleRequest { message: next, run_at: Instant::now() });
                }
            }
            Some(name) = due.next(), if passes.len() < concurrency => {
                let party = party_of(&name);
                if shares.take(party.as_deref(), &name) {
                    running.insert(name.clone());
                    passes.push(run(name, party));
                }
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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::sync::Semaphore;

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
        work(names, concurrency, |_| None, stop, pass).await;
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
        work(names, 4, |_| None, stop.clone(), pass).await;
        assert_eq!(*count.lock().unwrap(), 2);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    /// All of `a` hang until all of `b` are done.
    #[tokio::test(start_paused = true)]
    async fn a_party_that_hangs_leaves_half_of_the_places_to_others() {
        let (stop, hang) = (CancellationToken::new(), Semaphore::new(0));
        let (running, most, passes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let names = ["a1", "a2", "a3", "a4", "a5", "a6", "a3", "b1", "b2", "b3"];
        // The clock goes on only when nothing else does: by then all of `a` hang or wait.
        let names = names.map(|name| (Name::from(name), Duration::from_secs(name.starts_with('b').into())));
        let names = stream::iter(names).chain(stream::pending());
        let pass = |name: Name| {
            let (stop, hang, running, most, passes) = (&stop, &hang, &running, &most, &passes);
            async move {
                if name.starts_with('a') {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    hang.acquire().await.unwrap().forget();
                    running.fetch_sub(1, SeqCst);
                } else {
                    hang.add_permits(2);
                }
                if passes.fetch_add(1, SeqCst) + 1 == 9 {
                    stop.cancel();
                }
                Action::await_change()
            }
        };
        let party_of = |name: &Name| Some(name[..1].to_owned());
        let work = work(names, 4, party_of, stop.clone(), pass);
        let ended = tokio::time::timeout(Duration::from_secs(60), work).await;
        assert!(ended.is_ok(), "those who hang hold up all");
        assert_eq!((most.into_inner(), passes.into_inner()), (2, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_lets_the_passes_under_way_end() {
        let seen = drive(vec!["a", "b", "c"], 3, |_| Action::requeue(Duration::ZERO), 1).await;
        assert!(seen.running.is_empty());
        assert_eq!(seen.passes.len(), 3);
    }
}
