//! The gate of one server: few execs at a time, in a fair order.
//!
//! RouterOS stalls when many channels open at once on one connection, so the default is one. Waiters of one lane are served in order,
//! the lanes in turn: a hundred deletions in the queue delay a creation by one command, not by a hundred.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::CommandKind;

/// Commands of one lane queue behind each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Read,
    Create,
    Change,
    Delete,
}

const LANES: usize = 4;

impl Lane {
    pub(crate) fn of(kind: CommandKind) -> Self {
        match kind {
            CommandKind::Inventory | CommandKind::Look => Self::Read,
            CommandKind::Create => Self::Create,
            CommandKind::Grow
            | CommandKind::Export
            | CommandKind::ToggleExport
            | CommandKind::Release
            | CommandKind::Adopt => Self::Change,
            CommandKind::Retire | CommandKind::Remove | CommandKind::RemoveFile => Self::Delete,
        }
    }
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The lane whose turn is next.
    turn: usize,
    waiting: [VecDeque<oneshot::Sender<Permit>>; LANES],
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Shared);

/// The right to run one exec. Dropped, it goes to the next in turn.
#[derive(Debug)]
pub(crate) struct Permit(Option<Shared>);

impl Gate {
    /// At most `permits` at a time; at least one.
    pub(crate) fn new(permits: usize) -> Self {
        let waiting = std::array::from_fn(|_| VecDeque::new());
        Self(Arc::new(Mutex::new(State {
            free: permits.max(1),
            turn: 0,
            waiting,
        })))
    }

    /// Waits for a permit. A caller that goes away leaves the queue.
    pub(crate) async fn enter(&self, lane: Lane) -> Permit {
        let receiver = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                // A free permit means that nobody waits: each release serves the queue first.
                state.free -= 1;
                return Permit(Some(self.0.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting[lane as usize].push_back(sender);
            receiver
        };
        match receiver.await {
            Ok(permit) => permit,
            // The sender lives in the state that we hold: this cannot be, and waiting for ever is the safe answer.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = lock(&shared);
        for _ in 0..LANES {
            let lane = state.turn;
            state.turn = (lane + 1) % LANES;
            while let Some(waiter) = state.waiting[lane].pop_front() {
                match waiter.send(Permit(Some(shared.clone()))) {
                    Ok(()) => return,
                    // Gone; disarm what came back, as dropping it here would lock again.
                    Err(mut permit) => permit.0 = None,
                }
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn lanes_take_turns_and_keep_their_order() {
        let gate = Gate::new(1);
        let first = gate.enter(Lane::Delete).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (n, lane) in [Lane::Delete, Lane::Delete, Lane::Delete, Lane::Create, Lane::Read]
            .into_iter()
            .enumerate()
        {
            let (gate, order) = (gate.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _permit = gate.enter(lane).await;
                order.lock().unwrap().push(n);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [4, 3, 0, 1, 2]);
    }

    #[tokio::test]
    async fn waiters_that_went_away_lose_no_permit() {
        let gate = Gate::new(2);
        let (a, b) = (gate.enter(Lane::Read).await, gate.enter(Lane::Read).await);
        let mut gone = Box::pin(gate.enter(Lane::Create));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut granted = Box::pin(gate.enter(Lane::Create));
        assert!(granted.as_mut().now_or_never().is_none());
        drop(gone);
        drop(a);
        // The permit is in the channel of `granted`, which goes away without ever looking at it.
        drop(granted);
        drop(b);
        let _all = (
            gate.enter(Lane::Read).now_or_never().unwrap(),
            gate.enter(Lane::Read).now_or_never().unwrap(),
        );
        assert!(gate.enter(Lane::Read).now_or_never().is_none());
    }
}
