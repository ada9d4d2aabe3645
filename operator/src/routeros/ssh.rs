//! The transport over OpenSSH: one multiplexed connection per server, rebuilt after any error, with backoff and without ever giving up.
//!
//! Refuses: passwords, agents, the user's own SSH configuration, host keys that are not pinned. The private key is on disk (0600, in a
//! private folder) only while a connect lasts; no secret is ever in an argument. One `ssh` master runs per connection; it ends by
//! itself when nobody used it for a minute and a half, so that a killed operator leaves none behind for long.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ::openssh::{Session, Stdio as SshStdio};
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::metrics::RouterosMetrics;
use super::ssh_config::{ALIAS, known_hosts, ssh_config, why};
use super::target::Target;
use super::transport::{End, NotSent, Reply, Transport};

/// A reply beyond this is cut: no listing of a sane appliance is that long.
const MAX_REPLY: usize = 64 << 20;

struct Live {
    session: Session,
    config: PathBuf,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    failures: u32,
    retry_at: Option<Instant>,
    last: Option<NotSent>,
}

/// See the module.
pub struct OpensshTransport {
    target: Target,
    metrics: Option<RouterosMetrics>,
    state: Mutex<State>,
}

impl OpensshTransport {
    /// Connects with the first exec.
    pub fn new(target: &Target, metrics: Option<RouterosMetrics>) -> Self {
        Self {
            target: target.clone(),
            metrics,
            state: Mutex::default(),
        }
    }

    /// The connection, made when there is none. Within the pause after a failed attempt it fails at once, with that attempt's words.
    async fn live(&self) -> Result<Arc<Live>, NotSent> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.take() {
            // A round trip to our own ssh process: a master that is gone shows before anything is sent.
            match live.session.check().await {
                Ok(()) => {
                    state.live = Some(live.clone());
                    return Ok(live);
                }
                Err(error) => self.gone(&error.to_string()),
            }
        }
        if let (Some(retry_at), Some(last)) = (state.retry_at, &state.last)
            && Instant::now() < retry_at
        {
            return Err(last.clone());
        }
        let started = Instant::now();
        // ssh's own timeout covers TCP, banner and key exchange, not the authentication.
        let limit = self.target.limits.connect_timeout + Duration::from_secs(2);
        let result = timeout(limit, connect(&self.target))
            .await
            .unwrap_or_else(|_| Err(NotSent::Unreachable(format!("no connection within {limit:?}"))));
        let (address, port) = (&self.target.address, self.target.port);
        if let Some(metrics) = &self.metrics {
            metrics.reconnected(result.is_ok(), started.elapsed().as_secs_f64());
            metrics.connected(address, result.is_ok());
        }
        match result {
            Ok(live) => {
                info!(server = %self.target.name, %address, port, elapsed = ?started.elapsed(), "connected");
                let live = Arc::new(live);
                *state = State {
                    live: Some(live.clone()),
                    ..State::default()
                };
                Ok(live)
            }
            Err(error) => {
                let pause = backoff(state.failures, self.target.limits.max_backoff);
                warn!(server = %self.target.name, %address, port, ?error, ?pause, "cannot connect");
                state.failures = state.failures.saturating_add(1);
                state.retry_at = Some(Instant::now() + pause);
                state.last = Some(error.clone());
                Err(error)
            }
        }
    }

    fn gone(&self, why: &str) {
        info!(server = %self.target.name, address = %self.target.address, why, "connection gone");
        if let Some(metrics) = &self.metrics {
            metrics.connected(&self.target.address, false);
        }
    }

    /// No new exec on this connection; the last one on it ends its master.
    async fn discard(&self, live: Arc<Live>, why: &str) {
        {
            let mut state = self.state.lock().await;
            if state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, &live)) {
                state.live = None;
                self.gone(why);
            }
        }
        if let Some(live) = Arc::into_inner(live) {
            live.terminate().await;
        }
    }
}

impl Transport for OpensshTransport {
    fn exec<'a>(&'a self, line: &'a str, deadline: Instant) -> BoxFuture<'a, Result<Reply, NotSent>> {
        async move {
            let Ok(live) = timeout_at(deadline, self.live()).await else {
                return Err(NotSent::Unreachable("no connection in time".to_owned()));
            };
            let live = live?;
            let mut reply = Reply {
                stdout: Vec::new(),
                exit: None,
                end: End::TimedOut,
            };
            if let Ok(end) = timeout_at(deadline, run(&live.session, line, &mut reply)).await {
                reply.end = end.map_or_else(|e| End::Broken(chain(&e)), |()| End::Closed);
            }
            let why = match &reply.end {
                End::Closed => return Ok(reply),
                End::Broken(why) => why.clone(),
                End::TimedOut => "no reply in time".to_owned(),
            };
            self.discard(live, &why).await;
            Ok(reply)
        }
        .boxed()
    }
}

/// Exponential from half a second, with jitter of a half.
fn backoff(failures: u32, max: Duration) -> Duration {
    let full = Duration::from_millis(500)
        .saturating_mul(1 << failures.min(16))
        .min(max);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Runs one line; `reply` fills as the output comes, so that a deadline loses nothing of it.
async fn run(session: &Session, line: &str, reply: &mut Reply) -> Result<(), ::openssh::Error> {
    let mut child = session
        .raw_command(line)
        .stdin(SshStdio::null())
        .stdout(SshStdio::piped())
        .stderr(SshStdio::piped())
        .spawn()
        .await?;
    let mut stderr = Vec::new();
    let (out, err) = (child.stdout().take(), child.stderr().take());
    let (out, err) = tokio::join!(read(out, &mut reply.stdout), read(err, &mut stderr));
    reply.stdout.append(&mut stderr);
    out.and(err).map_err(::openssh::Error::ChildIo)?;
    match child.wait().await {
        Ok(status) => reply.exit = status.code(),
        // The crate turns 127 into an error; to us it is a status like any other.
        Err(::openssh::Error::Remote(_)) => reply.exit = Some(127),
        // No status: the habit of some server, or the end of the connection. Only our own ssh process can tell.
        Err(::openssh::Error::RemoteProcessTerminated) => {
            session.check().await.map_err(|_| ::openssh::Error::Disconnected)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn read(from: Option<impl AsyncRead + Unpin>, to: &mut Vec<u8>) -> std::io::Result<()> {
    if let Some(mut from) = from {
        while to.len() < MAX_REPLY && from.read_buf(to).await? > 0 {}
    }
    Ok(())
}

impl Live {
    /// Ends the master at once, with whatever channel still hangs on it.
    async fn terminate(self) {
        let stop = ssh(&self.config).args(["-O", "exit", ALIAS]).status();
        if let Err(error) = timeout(Duration::from_secs(2), stop).await {
            debug!(%error, "the ssh master does not answer");
        }
    }
}

fn ssh(config: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-F").arg(config).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn connect(target: &Target) -> Result<Live, NotSent> {
    let local = |e: std::io::Error| NotSent::Unreachable(format!("cannot prepare the connection: {e}"));
    let known_hosts = known_hosts(&target.host_keys)?;
    let dir = tempfile::Builder::new().prefix("rds-ssh-").tempdir().map_err(local)?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).map_err(local)?;
    let (key, config, log) = (
        dir.path().join("key"),
        dir.path().join("config"),
        dir.path().join("log"),
    );
    write_private(&key, &format!("{}\n", target.private_key.expose_secret().trim())).map_err(local)?;
    write_private(&dir.path().join("known_hosts"), &known_hosts).map_err(local)?;
    write_private(&config, &ssh_config(target, &dir)?).map_err(local)?;
    // -f: returns when logged in, and leaves the master behind.
    let status = ssh(&config)
        .arg("-E")
        .arg(&log)
        .args(["-M", "-N", "-f", ALIAS])
        .status()
        .await;
    let removed = std::fs::remove_file(&key);
    let status = status.map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        if missing {
            NotSent::Unreachable("the program `ssh` is not installed".to_owned())
        } else {
            local(e)
        }
    })?;
    removed.map_err(local)?;
    if !status.success() {
        return Err(why(&std::fs::read_to_string(&log).unwrap_or_default()));
    }
    Ok(Live {
        session: Session::new_native_mux(dir),
        config,
    })
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit_and_never_ends() {
        let max = Duration::from_secs(30);
        for failures in [0, 1, 5, 40, u32::MAX] {
            let pause = backoff(failures, max);
            assert!(
                pause >= Duration::from_millis(250) && pause <= max,
                "{failures}: {pause:?}"
            );
        }
        assert!(backoff(20, max) >= max / 2);
    }
}
