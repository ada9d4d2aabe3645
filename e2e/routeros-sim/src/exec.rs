//! One exec from its arrival to the end of its reply, with the fault that hits it.

use crate::appliance::Account;
use crate::faults::FaultKind;
use crate::interp::{Console, Outcome, Overrides};
use crate::knobs::ExitStatus;
use crate::log::LogEntry;
use crate::server::Server;
use jiff::Timestamp;
use russh::ChannelId;
use russh::server::Handle;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A command and who gave it.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) server: Arc<Server>,
    pub(crate) user: Arc<Account>,
    pub(crate) connection: u64,
    pub(crate) line: String,
    pub(crate) arrived: Instant,
    pub(crate) at: Timestamp,
}

/// Where the reply goes.
pub(crate) struct Ends {
    pub(crate) handle: Handle,
    pub(crate) channel: ChannelId,
    pub(crate) closed: CancellationToken,
    pub(crate) cut: CancellationToken,
    pub(crate) width: Option<usize>,
}

impl Job {
    pub(crate) fn log(&self, outcome: &Outcome, fault: Option<&FaultKind>, executed: bool) {
        self.server.appliance.log.push(LogEntry {
            at: self.at,
            connection: self.connection,
            user: self.user.name.clone(),
            command: self.line.clone(),
            reply: outcome.output.clone(),
            fault: fault.map(|f| serde_json::to_string(f).unwrap_or_default()),
            executed,
            failed: outcome.failed,
            milliseconds: self.arrived.elapsed().as_secs_f64() * 1000.0,
        });
    }

    async fn run(&self, width: Option<usize>, overrides: Overrides) -> Outcome {
        let job = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut console = Console {
                width,
                ..Console::default()
            };
            job.server.appliance.run(&job.user, &job.line, &mut console, overrides)
        });
        done.await.unwrap_or_else(|_| Outcome {
            output: "interrupted\r\n".into(),
            failed: true,
        })
    }
}

impl Ends {
    async fn send(&self, reply: &str) {
        for chunk in reply.as_bytes().chunks(16 * 1024) {
            if self.handle.data(self.channel, chunk.to_vec()).await.is_err() {
                return;
            }
        }
    }

    async fn end(&self, status: Option<u32>) {
        if let Some(status) = status {
            let _gone = self.handle.exit_status_request(self.channel, status).await;
        }
        let _gone = self.handle.eof(self.channel).await;
        let _gone = self.handle.close(self.channel).await;
    }

    async fn gone(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = self.cut.cancelled() => {}
        }
    }
}

/// Runs a command and answers it. A command goes on though its channel is closed meanwhile.
pub(crate) async fn run_job(job: Job, ends: Ends) {
    let appliance = job.server.appliance.clone();
    let knobs = appliance.knobs();
    let fault = appliance.take_fault(&job.line);
    let adds = job.line.contains("/disk/add") || job.line.contains("/disk add");
    let latency = knobs.latency_ms + if adds { knobs.add_latency_ms } else { 0 };
    tokio::time::sleep(Duration::from_millis(latency)).await;
    let overrides = Overrides {
        pool_full: fault == Some(FaultKind::PoolFull),
        half_add: fault == Some(FaultKind::HalfAdd),
        read_only: fault == Some(FaultKind::NoPermission),
    };
    match &fault {
        Some(FaultKind::Late { ms, connection }) => {
            let delay = Duration::from_millis(*ms);
            if *connection {
                ends.cut.cancel();
            } else {
                ends.end(None).await;
            }
            let (late, kind, width) = (job.clone(), fault.clone(), ends.width);
            let stop = job.server.stop.clone();
            job.server.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {
                        let outcome = late.run(width, Overrides::default()).await;
                        late.log(&outcome, kind.as_ref(), true);
                    }
                    () = stop.cancelled() => {}
                }
            });
            return;
        }
        Some(FaultKind::Slow { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        _ => {}
    }
    let skipped = matches!(
        fault,
        Some(FaultKind::Error { .. } | FaultKind::Hang { execute: false })
    );
    let outcome = if skipped {
        Outcome {
            failed: true,
            ..Outcome::default()
        }
    } else {
        job.run(ends.width, overrides).await
    };
    let reply = fault
        .as_ref()
        .map_or_else(|| outcome.output.clone(), |f| f.distort(&outcome.output));
    let status = match (&fault, knobs.exit_status) {
        (Some(FaultKind::ExitStatus { code }), _) => *code,
        (_, ExitStatus::Zero) => Some(0),
        (_, ExitStatus::OneOnError) => Some(u32::from(outcome.failed)),
        (_, ExitStatus::Absent) => None,
    };
    match &fault {
        Some(FaultKind::LostReply) => {
            job.log(&outcome, fault.as_ref(), true);
            ends.cut.cancel();
            return;
        }
        Some(FaultKind::Hang { .. }) => {
            job.log(&outcome, fault.as_ref(), !skipped);
            ends.gone().await;
            return;
        }
        Some(FaultKind::Reboot) => {
            job.log(&outcome, fault.as_ref(), true);
            appliance.request_reboot();
            ends.gone().await;
            return;
        }
        Some(FaultKind::Cut { .. }) => {
            job.log(&outcome, fault.as_ref(), true);
            ends.send(&reply).await;
            // What was sent must be on its way before the knife comes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            ends.cut.cancel();
            return;
        }
        Some(FaultKind::SlowReply { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        _ => {}
    }
    job.log(&outcome, fault.as_ref(), !skipped);
    ends.send(&reply).await;
    ends.end(status).await;
}
