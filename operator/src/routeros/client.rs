//! One server's client: queue, deadlines, one shared listing, audit. Cheap to clone.
//!
//! A command that was handed to the transport runs to its end whether or not its caller still waits, so the connection is never left
//! in the middle of a reply and every mutation gets its audit line.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::command::{self, Adopt, Command, Context, CreateDisk, Export, Grow, Guard, Outcome, Release, Remove};
use super::command::{RemoveFile, Removed, Retire, ToggleExport};
use super::encode::{ExecNonce, Script};
use super::error::{CommandKind, RdsError, Redacted, ServerName};
use super::gate::{Gate, Lane};
use super::inventory::{self, Inventory};
use super::look::{self, Identity, Look};
use super::metrics::RouterosMetrics;
use super::reply::{Answer, Verdict, is_permission};
use super::row::DiskRow;
use super::ssh::OpensshTransport;
use super::target::Target;
use super::transport::{End, NotSent, Transport};
use super::types::{Bytes, DiskId, DiskPath, Generation, Nqn, Slot};
use super::version::RouterOsVersion;

type Listing = Shared<BoxFuture<'static, Result<Arc<Inventory>, RdsError>>>;

#[derive(Default)]
struct Listings {
    last: Option<Arc<Inventory>>,
    running: Option<Listing>,
    version: Option<RouterOsVersion>,
}

struct Inner {
    server: ServerName,
    address: String,
    user: String,
    base: DiskPath,
    command_timeout: Duration,
    queue_timeout: Duration,
    gate: Gate,
    transport: Arc<dyn Transport>,
    metrics: Option<RouterosMetrics>,
    listings: Mutex<Listings>,
    tasks: TaskTracker,
}

/// See the module.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl Client {
    /// A client over SSH. Connects with the first command.
    pub fn connect(target: &Target, metrics: Option<RouterosMetrics>) -> Self {
        let transport = Arc::new(OpensshTransport::new(target, metrics.clone()));
        Self::new(target, transport, metrics)
    }

    /// A client over any transport.
    pub fn new(target: &Target, transport: Arc<dyn Transport>, metrics: Option<RouterosMetrics>) -> Self {
        Self(Arc::new(Inner {
            server: Arc::from(target.name.as_str()),
            address: target.address.clone(),
            user: target.user.clone(),
            base: target.base_path.clone(),
            command_timeout: target.limits.command_timeout,
            queue_timeout: target.limits.queue_timeout,
            gate: Gate::new(target.limits.max_in_flight),
            transport,
            metrics,
            listings: Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Name of the RdsServer.
    pub fn server(&self) -> &ServerName {
        &self.0.server
    }

    /// The longest that a command can be under way after its call began: queue, connect and execution. What this client sent earlier
    /// than that has ended on our side; RouterOS itself may still be at it.
    pub fn longest_exec(&self) -> Duration {
        self.0.queue_timeout + self.0.command_timeout
    }

    /// Waits until no command is running any more.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.tasks.reopen();
    }

    /// The shared listing, not older than `max_age` at the time of the call; joins one that is young enough, or starts one. 1 exec.
    pub async fn inventory(&self, max_age: Duration) -> Result<Arc<Inventory>, RdsError> {
        let called = Instant::now();
        let fresh = |listing: &Inventory| listing.taken_at + max_age >= called;
        loop {
            let listing = {
                let mut listings = self.listings();
                if let Some(last) = listings.last.as_ref().filter(|l| fresh(l)) {
                    return Ok(last.clone());
                }
                let client = self.clone();
                // A task of its own: it must not wait for a permit in a future that nobody polls.
                let start = || client.clone().list_in_task().boxed().shared();
                listings.running.get_or_insert_with(start).clone()
            };
            let result = listing.await;
            // One that began before this call and is too old: the next round starts or joins a younger one.
            match result {
                Ok(inventory) if fresh(&inventory) => return Ok(inventory),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fresh read, never cached, of everything about one volume. 1 exec.
    pub async fn look(&self, id: &DiskId) -> Result<Look, RdsError> {
        let command = Redacted {
            kind: CommandKind::Look,
            slot: Some(id.slot.clone()),
        };
        self.check_version()?;
        let id = Identity::from(id);
        let nonce = ExecNonce::random();
        let line = Script::judged(&nonce, look::script(&id, &nonce).code("; "), Script::default());
        self.read(command, line, nonce, move |answer, _| look::read(&id, answer))
            .await
    }

    /// Makes, tags and exports a disk. 1 exec. Called again after a success it answers Taken with its own tag: look then.
    pub async fn create(&self, request: &CreateDisk) -> Result<DiskRow, RdsError> {
        self.mutate(request.clone()).await
    }

    /// Raises the size to `to`. 1 exec. The row's `size` is what was measured: boxes that resize only with a toggled export still show
    /// the old one.
    pub async fn grow(&self, guard: &Guard, to: Bytes) -> Result<DiskRow, RdsError> {
        self.mutate(Grow {
            guard: guard.clone(),
            to,
        })
        .await
    }

    /// Puts a lost export back, and switches mounting and sharing off. Leaves an export alone that is as wanted. 1 exec.
    pub async fn export(&self, guard: &Guard, nqn: &Nqn, port: u16) -> Result<DiskRow, RdsError> {
        self.mutate(Export {
            guard: guard.clone(),
            nqn: nqn.clone(),
            port,
        })
        .await
    }

    /// Export off and on, with the token moved to `next` so that it happens at most once. Only without holders (D4). 1 exec.
    pub async fn toggle_export(
        &self,
        guard: &Guard,
        next: Generation,
        nqn: &Nqn,
        port: u16,
    ) -> Result<DiskRow, RdsError> {
        self.mutate(ToggleExport {
            guard: guard.clone(),
            next,
            nqn: nqn.clone(),
            port,
        })
        .await
    }

    /// Token to `next`, export off: the first exec of a deletion. 1 exec.
    pub async fn retire(&self, guard: &Guard, next: Generation) -> Result<DiskRow, RdsError> {
        self.mutate(Retire {
            guard: guard.clone(),
            next,
        })
        .await
    }

    /// Removes a retired disk (`guard` has the new generation) and then its file, while no row names it. 1 exec.
    pub async fn remove(&self, guard: &Guard) -> Result<Removed, RdsError> {
        self.mutate(Remove { guard: guard.clone() }).await
    }

    /// Finishes a [`Client::remove`] that lost the disk and left the file. Only for a recorded deletion. 1 exec.
    pub async fn remove_file(&self, slot: &Slot, path: &DiskPath) -> Result<Removed, RdsError> {
        self.mutate(RemoveFile {
            slot: slot.clone(),
            path: path.clone(),
        })
        .await
    }

    /// Clears our tag and leaves everything else (Retain). 1 exec.
    pub async fn release(&self, guard: &Guard) -> Result<DiskRow, RdsError> {
        self.mutate(Release { guard: guard.clone() }).await
    }

    /// Tags an untagged file disk and exports it if it is not. 1 exec.
    pub async fn adopt(&self, request: &Adopt) -> Result<DiskRow, RdsError> {
        self.mutate(request.clone()).await
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.0.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what an old RouterOS would misread, once a listing has told the version.
    fn check_version(&self) -> Result<(), RdsError> {
        match self.listings().version {
            Some(version) if !version.is_supported() => Err(RdsError::VersionTooOld {
                server: self.0.server.clone(),
                version,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn list_in_task(self) -> impl Future<Output = Result<Arc<Inventory>, RdsError>> + Send + 'static {
        let server = self.0.server.clone();
        let task = self.0.tasks.clone().spawn(async move {
            let result = self.list().await;
            let mut listings = self.listings();
            listings.running = None;
            if let Ok(inventory) = &result {
                listings.version = Some(inventory.version);
                listings.last = Some(inventory.clone());
            }
            result
        });
        let command = Redacted {
            kind: CommandKind::Inventory,
            slot: None,
        };
        joined(task).map(|r| {
            r.unwrap_or_else(|reason| {
                Err(RdsError::Lost {
                    server,
                    command,
                    reason,
                })
            })
        })
    }

    async fn list(&self) -> Result<Arc<Inventory>, RdsError> {
        let nonce = ExecNonce::random();
        let line = inventory::script(&self.0.base, &nonce);
        let base = self.0.base.clone();
        let command = Redacted {
            kind: CommandKind::Inventory,
            slot: None,
        };
        let read = move |answer: &Answer, sent| inventory::read(&base, sent, answer).map(Arc::new);
        self.read(command, line, nonce, read).await
    }

    async fn read<T: Send + 'static>(
        &self,
        command: Redacted,
        line: Script,
        nonce: ExecNonce,
        read: impl FnOnce(&Answer, Instant) -> Result<T, String> + Send + 'static,
    ) -> Result<T, RdsError> {
        let server = self.0.server.clone();
        self.run(command.clone(), line, nonce, move |answer, sent| {
            match answer.verdict.clone() {
                Verdict::Done => read(&answer, sent).map_err(|detail| RdsError::Garbled {
                    server,
                    command,
                    detail,
                }),
                Verdict::Stopped(reply) if is_permission(&reply) => Err(RdsError::Permission {
                    server,
                    command,
                    reply,
                    proven: true,
                }),
                Verdict::Stopped(reply) => Err(RdsError::Rejected { server, command, reply }),
                Verdict::Unknown(_) => Err(RdsError::Garbled {
                    server,
                    command,
                    detail: "no verdict".to_owned(),
                }),
            }
        })
        .await
    }

    async fn mutate<C: Command + Send + 'static>(&self, request: C) -> Result<C::Output, RdsError>
    where
        C::Output: 'static,
    {
        let command = request.command();
        let server = self.0.server.clone();
        self.check_version()?;
        if let Err(reason) = request.validate() {
            return Err(RdsError::Invalid {
                server,
                command,
                reason,
            });
        }
        let nonce = ExecNonce::random();
        let line = command::line(&request, &nonce);
        self.run(command.clone(), line, nonce, move |answer, _| {
            let cx = Context {
                server: &server,
                command: &command,
            };
            let look = look::read(&request.identity(), &answer);
            let result = match (answer.verdict.clone(), look) {
                (Verdict::Done, Ok(look)) => request.judge(&cx, Outcome::Done(look)),
                (Verdict::Stopped(words), Ok(look)) => request.judge(&cx, Outcome::Stopped(words, look)),
                (Verdict::Done, Err(detail)) => Err(RdsError::Garbled {
                    server: server.clone(),
                    command: command.clone(),
                    detail,
                }),
                (Verdict::Stopped(words), Err(detail)) => {
                    let detail = format!("refused with `{words}`, but {detail}");
                    Err(RdsError::Garbled {
                        server: server.clone(),
                        command: command.clone(),
                        detail,
                    })
                }
                (Verdict::Unknown(_), _) => {
                    let detail = "no verdict".to_owned();
                    Err(RdsError::Garbled {
                        server: server.clone(),
                        command: command.clone(),
                        detail,
                    })
                }
            };
            audit(&server, &command, request.generation(), result.as_ref().err());
            result
        })
        .await
    }

    /// Queue, exec, verdict. What follows the queue runs in a task of its own.
    async fn run<T: Send + 'static>(
        &self,
        command: Redacted,
        line: Script,
        nonce: ExecNonce,
        judge: impl FnOnce(Answer, Instant) -> Result<T, RdsError> + Send + 'static,
    ) -> Result<T, RdsError> {
        let inner = self.0.clone();
        let line = line
            .finish()
            .map_err(|e| RdsError::invalid(&inner.server, &command, &e))?;
        let queued = Instant::now();
        let Ok(permit) = timeout(inner.queue_timeout, inner.gate.enter(Lane::of(command.kind))).await else {
            let (server, waited) = (inner.server.clone(), inner.queue_timeout);
            return Err(RdsError::Busy {
                server,
                command,
                waited,
            });
        };
        if let Some(metrics) = &inner.metrics {
            metrics.waited(command.kind, queued.elapsed().as_secs_f64());
        }
        let (server, lost) = (inner.server.clone(), command.clone());
        let task = self.0.tasks.spawn(async move {
            let _permit = permit;
            let _running = inner.metrics.as_ref().map(|m| m.running(&inner.address));
            let sent = Instant::now();
            let result = match inner.exec(&command, &line, &nonce).await {
                Ok(answer) => judge(answer, sent),
                Err(error) => {
                    if command.kind.is_mutation() {
                        audit(&inner.server, &command, None, Some(&error));
                    }
                    Err(error)
                }
            };
            let error = result.as_ref().err();
            if let Some(metrics) = &inner.metrics {
                metrics.finished(command.kind, sent.elapsed().as_secs_f64(), error);
            }
            debug!(server = %inner.server, %command, elapsed = ?sent.elapsed(), error = error.map(RdsError::reason));
            result
        });
        joined(task).await.unwrap_or_else(|reason| {
            Err(RdsError::Lost {
                server,
                command: lost,
                reason,
            })
        })
    }
}

async fn joined<T>(task: impl Future<Output = Result<T, tokio::task::JoinError>>) -> Result<T, String> {
    task.await.map_err(|e| format!("the task that ran it ended: {e}"))
}

impl Inner {
    /// One exec; `Ok` only with a verdict of the script itself.
    async fn exec(&self, command: &Redacted, line: &str, nonce: &ExecNonce) -> Result<Answer, RdsError> {
        let (server, after) = (self.server.clone(), self.command_timeout);
        let deadline = Instant::now() + after;
        let timed_out = || RdsError::Timeout {
            server: server.clone(),
            command: command.clone(),
            after,
        };
        // The transport keeps the deadline; the second clock is for one that does not.
        let grace = deadline + Duration::from_secs(5);
        let Ok(reply) = timeout_at(grace, self.transport.exec(line, deadline)).await else {
            return Err(timed_out());
        };
        let reply = reply.map_err(|not_sent| match not_sent {
            NotSent::Unreachable(reason) => RdsError::Unreachable {
                server: server.clone(),
                reason,
            },
            NotSent::HostKey(reason) => RdsError::HostKey {
                server: server.clone(),
                reason,
            },
            NotSent::Auth(reason) => RdsError::Auth {
                server: server.clone(),
                user: self.user.clone(),
                reason,
            },
        })?;
        let answer = Answer::read(&reply.stdout, nonce);
        let Verdict::Unknown(words) = &answer.verdict else {
            return Ok(answer);
        };
        let command = command.clone();
        Err(match (reply.end, words.clone()) {
            (End::TimedOut, _) => timed_out(),
            (End::Broken(reason), _) => RdsError::Lost {
                server,
                command,
                reason,
            },
            (End::Closed, Some(reply)) if is_permission(&reply) => RdsError::Permission {
                server,
                command,
                reply,
                proven: false,
            },
            (End::Closed, Some(reply)) => RdsError::NotUnderstood { server, command, reply },
            (End::Closed, None) => {
                let exit = reply
                    .exit
                    .map_or("no exit status".to_owned(), |exit| format!("exit status {exit}"));
                let detail = format!("{} bytes without a verdict, {exit}", reply.stdout.len());
                RdsError::Garbled {
                    server,
                    command,
                    detail,
                }
            }
        })
    }
}

/// One line for every attempt to change the appliance.
fn audit(server: &ServerName, command: &Redacted, generation: Option<Generation>, error: Option<&RdsError>) {
    let slot = command.slot.as_ref().map(Slot::as_str);
    let generation = generation.map(|g| g.0);
    let outcome = error.map_or("done", RdsError::reason);
    let unknown = error.is_some_and(RdsError::is_unknown);
    let what = command.kind.label();
    info!(target: "audit", server = %server, slot, what, generation, outcome, unknown, "appliance command");
}
