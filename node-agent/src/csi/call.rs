//! One call in flight: its deadline, the guard that lets only one call a volume through, and its blocking work.
//!
//! The guard goes with the last thread that works for the call, not with whoever waits for it: an unmount that hangs in the kernel
//! keeps its volume to itself (B29).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, shown};

/// The last look at the host before the time is up needs this.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The volumes with a call under way in this process.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<String>>>);

#[derive(Debug)]
struct Guard {
    all: InFlight,
    volume: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.volume);
    }
}

/// A call that has its volume to itself.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the answer is due.
    pub deadline: Instant,
    guard: Arc<Guard>,
}

impl InFlight {
    /// Takes the place of that volume, or says that somebody has it.
    ///
    /// # Errors
    /// When another call has it.
    pub fn enter(&self, volume: &str, deadline: Instant) -> Result<Call, Failure> {
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(volume.to_owned())
        {
            let guard = Guard {
                all: self.clone(),
                volume: volume.to_owned(),
            };
            return Ok(Call {
                deadline,
                guard: Arc::new(guard),
            });
        }
        Err(Failure::Busy(format!(
            "another call for volume {} is under way on this node: wait for it, then call again",
            shown(volume)
        )))
    }
}

impl Call {
    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &str {
        &self.guard.volume
    }

    /// Whether there is time for nothing more than an answer.
    #[must_use]
    pub fn over(&self) -> bool {
        Instant::now() + LAST_LOOK >= self.deadline
    }

    /// Sleeps, but leaves time for a last look.
    pub async fn pause(&self, wait: Duration) {
        tokio::time::sleep_until((self.deadline - LAST_LOOK).min(Instant::now() + wait)).await;
    }

    /// Runs `work` on a thread of its own and waits for it until the deadline; it goes on all the same, and keeps the volume.
    ///
    /// # Errors
    /// What `work` says, or that it is not done in time.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let guard = self.guard.clone();
        let task = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(guard);
            done
        });
        self.until_due(what, task).await
    }

    /// The same for steps of which none may be left out: what the last of them says is said, however late (I7).
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn see_through<T: Send + 'static>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let guard = self.guard.clone();
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(guard);
            done
        });
        self.until_due(what, task).await
    }

    async fn until_due<T>(&self, what: &str, task: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
        match timeout_at(self.deadline, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(died)) => Err(Failure::Unavailable(format!("{what} died: {died}; call again"))),
            Err(_) => Err(Failure::Pending(format!(
                "{what} of volume {} is not done in time: it goes on, call again",
                self.volume()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b29_the_place_is_kept_until_the_last_thread_is_done() {
        let all = InFlight::default();
        let soon = Instant::now() + Duration::from_millis(50);
        let call = all.enter("a", soon).unwrap();
        assert!(matches!(all.enter("a", soon), Err(Failure::Busy(_))));
        assert!(all.enter("b", soon).is_ok());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let stuck = call.run("unmount", move || {
            held.recv().ok();
            Ok(())
        });
        assert!(matches!(stuck.await, Err(Failure::Pending(_))));
        drop(call);
        assert!(
            matches!(all.enter("a", soon), Err(Failure::Busy(_))),
            "its thread still works"
        );
        drop(release);
        let (said, hears) = tokio::sync::oneshot::channel();
        let call = loop {
            match all.enter("a", soon) {
                Ok(call) => break call,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let late = call.see_through("unmount", async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            said.send("it was lost").ok();
            Ok(())
        });
        assert!(matches!(late.await, Err(Failure::Pending(_))));
        drop(call);
        assert!(matches!(all.enter("a", soon), Err(Failure::Busy(_))));
        assert_eq!(hears.await, Ok("it was lost"), "nobody waits, and it is said");
        while all.enter("a", soon).is_err() {
            tokio::task::yield_now().await;
        }
    }
}
