//! The end of the process: which tasks run, in which order they stop, and how long that may take (R1 to R4, R6, B79).
//!
//! Order: the CSI server stops accepting and finishes what is under way, while the reconcilers still run, as it waits for
//! them; then the reconcilers; then watches and health. Every task is joined. One that ends without being asked to ends
//! the process.

use std::collections::HashMap;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::telemetry::chain;

/// Calls that wait for the appliance are told to come again this long before the shutdown's time is up.
const CLOSING_MARGIN: Duration = Duration::from_secs(5);

/// Tasks that stop together.
pub struct Stage {
    name: &'static str,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
}

/// How one task ended.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub task: &'static str,
    /// What it left; a panic is an error.
    pub result: anyhow::Result<()>,
}

impl Stage {
    /// No tasks yet.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Cancelled when the tasks of this stage shall end.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It shall run until [`Stage::stop`] is cancelled.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits for the next task to end; for ever when there is none. Safe to cancel.
    pub async fn ended(&mut self) -> Ended {
        let (id, result) = match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, result))) => (id, result),
            Some(Err(failed)) => (failed.id(), Err(anyhow::anyhow!("{failed}"))),
        };
        Ended {
            task: self.names.remove(&id).unwrap_or("unnamed task"),
            result,
        }
    }

    async fn drain(&mut self) -> bool {
        self.stop.cancel();
        let mut clean = true;
        while !self.tasks.is_empty() {
            let Ended { task, result } = self.ended().await;
            if let Err(e) = result {
                error!(task, error = chain(e.as_ref()), "ended with an error");
                clean = false;
            }
        }
        info!(stage = self.name, "stopped");
        clean
    }

    fn left(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.names.values().copied()
    }
}

/// SIGTERM and SIGINT. Taken first of all, so that none that comes while the process starts is lost or kills it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them from now on.
    pub fn take() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits for a signal, or for a task that ends by itself, whichever comes first (R1); then stops the stages in their order
/// within `timeout` (R2). `closing` is cancelled shortly before the time is up.
pub async fn run(
    mut signals: Signals,
    stages: &mut [Stage],
    closing: &CancellationToken,
    timeout: Duration,
) -> ExitCode {
    let failed = tokio::select! {
        cause = signals.next() => {
            info!(cause, ?timeout, "shutdown started");
            false
        }
        ended = first_end(stages) => {
            let reason = ended.result.err().map_or_else(|| "it ended without being asked to".into(), |e| chain(e.as_ref()));
            error!(cause = ended.task, reason, ?timeout, "shutdown started");
            true
        }
    };
    let clean = stop(stages, closing, timeout).await;
    if clean && !failed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn first_end(stages: &mut [Stage]) -> Ended {
    let ends: Vec<_> = stages.iter_mut().map(|stage| Box::pin(stage.ended())).collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(ends).await.0
}

/// Stops the stages in their order; says whether all went well in time.
async fn stop(stages: &mut [Stage], closing: &CancellationToken, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    let close_at = end - CLOSING_MARGIN.min(timeout / 2);
    let drained = async {
        let mut clean = true;
        for stage in stages.iter_mut() {
            clean &= stage.drain().await;
        }
        clean
    };
    let closer = async {
        tokio::time::sleep_until(close_at).await;
        closing.cancel();
        std::future::pending::<bool>().await
    };
    let outcome = tokio::time::timeout_at(end, async {
        tokio::select! { clean = drained => clean, clean = closer => clean }
    })
    .await;
    match outcome {
        Ok(clean) => {
            info!("shutdown complete");
            clean
        }
        Err(_) => {
            let left: Vec<_> = stages.iter().flat_map(Stage::left).collect();
            warn!(left = left.join(", "), "shutdown did not complete in time");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn stages(order: &Arc<Mutex<Vec<&'static str>>>) -> Vec<Stage> {
        ["csi", "work", "base"]
            .map(|name| {
                let mut stage = Stage::new(name);
                let (stop, order) = (stage.stop(), order.clone());
                stage.spawn(name, async move {
                    stop.cancelled().await;
                    order.lock().unwrap().push(name);
                    Ok(())
                });
                stage
            })
            .into()
    }

    #[tokio::test(start_paused = true)]
    async fn r6_stages_stop_one_after_the_other() {
        let order = Arc::new(Mutex::new(Vec::new()));
        assert!(stop(&mut stages(&order), &CancellationToken::new(), Duration::from_secs(30)).await);
        assert_eq!(*order.lock().unwrap(), ["csi", "work", "base"]);
    }

    #[tokio::test(start_paused = true)]
    async fn r2_a_stuck_task_does_not_hold_the_process() {
        let mut all = vec![Stage::new("csi")];
        all[0].spawn("stuck task", std::future::pending());
        let (closing, start) = (CancellationToken::new(), Instant::now());
        assert!(!stop(&mut all, &closing, Duration::from_secs(30)).await);
        assert_eq!(start.elapsed().as_secs(), 30);
        assert_eq!(all[0].left().collect::<Vec<_>>(), ["stuck task"]);
    }

    #[tokio::test(start_paused = true)]
    async fn r3_calls_that_wait_are_told_to_come_again_in_time() {
        let closing = CancellationToken::new();
        let mut all = vec![Stage::new("csi")];
        let told = closing.clone();
        all[0].spawn("waiting call", async move {
            told.cancelled().await;
            Ok(())
        });
        let start = Instant::now();
        assert!(stop(&mut all, &closing, Duration::from_secs(30)).await);
        assert_eq!(start.elapsed().as_secs(), 25);
    }

    #[tokio::test]
    async fn r4_a_task_that_ends_by_itself_ends_the_process() {
        let order = Arc::default();
        let mut all = stages(&order);
        all[1].spawn("health", async { Err(anyhow::anyhow!("address in use")) });
        let signals = Signals::take().unwrap();
        let code = run(signals, &mut all, &CancellationToken::new(), Duration::from_secs(30)).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(
            order.lock().unwrap().len(),
            3,
            "the others were stopped in order all the same"
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_end_with_an_error() {
        let mut stage = Stage::new("work");
        stage.spawn("reconciler", async { panic!("boom") });
        let ended = stage.ended().await;
        assert_eq!(ended.task, "reconciler");
        assert!(ended.result.unwrap_err().to_string().contains("panicked"));
    }
}
