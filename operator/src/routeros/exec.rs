//! How one command runs: its turn in the queue, a task of its own, the deadline, the verdict, the audit line.
//!
//! What was handed to the transport runs to its end whether or not its caller still waits.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::client::{Client, Inner};
use super::command::{self, Command, Context, Outcome};
use super::encode::{ExecNonce, Script};
use super::error::{RdsError, Redacted, ServerName};
use super::gate::Lane;
use super::look;
use super::reply::{Answer, Verdict, is_permission};
use super::transport::{End, NotSent};
use super::types::{Generation, Slot};

impl Client {
    pub(super) async fn read<T: Send + 'static>(
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

    pub(super) async fn mutate<C: Command + Send + 'static>(&self, request: C) -> Result<C::Output, RdsError>
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
                was_free: answer.was_free,
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

pub(super) async fn joined<T>(task: impl Future<Output = Result<T, tokio::task::JoinError>>) -> Result<T, String> {
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
