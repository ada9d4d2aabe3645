//! The SSH side of one connection: login, channels, exec and shell requests.

use crate::appliance::Account;
use crate::exec::{Job, run_job};
use crate::knobs::{Channels, PtyExec};
use crate::server::Server;
use crate::shell::{Key, Shell};
use jiff::Timestamp;
use russh::keys::{Algorithm, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Pty};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// One channel of a connection.
struct Line {
    pty: Option<usize>,
    shell: Option<Shell>,
    closed: CancellationToken,
}

/// What the server keeps for one connection.
pub(crate) struct Connection {
    server: Arc<Server>,
    number: u64,
    cut: CancellationToken,
    user: Option<Arc<Account>>,
    /// Width asked for in the login name, `admin+80w`.
    width: Option<usize>,
    queue: Arc<tokio::sync::Mutex<()>>,
    lines: HashMap<ChannelId, Line>,
}

impl Connection {
    pub(crate) fn new(server: Arc<Server>, number: u64, cut: CancellationToken) -> Self {
        Self {
            server,
            number,
            cut,
            user: None,
            width: None,
            queue: Arc::default(),
            lines: HashMap::new(),
        }
    }

    /// The account for a login name; options behind `+` are no part of the name (facts, 8.1).
    fn account(&self, user: &str, key: &PublicKey) -> Option<Arc<Account>> {
        let name = user.split_once('+').map_or(user, |(name, _)| name);
        if matches!(key.algorithm(), Algorithm::Ecdsa { .. } | Algorithm::Dsa) {
            return None;
        }
        self.server
            .users
            .iter()
            .find(|u| u.account.name == name && u.keys.iter().any(|k| k.key_data() == key.key_data()))
            .filter(|u| u.account.may("ssh"))
            .map(|u| u.account.clone())
    }

    async fn feed(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        let (Some(line), Some(user)) = (self.lines.get_mut(&channel), self.user.clone()) else {
            return Ok(());
        };
        let Some(shell) = &mut line.shell else { return Ok(()) };
        for key in shell.feed(data) {
            match key {
                Key::Echo(text) => session.data(channel, text.into_bytes())?,
                Key::Line(text) => {
                    let job = Job {
                        server: self.server.clone(),
                        user: user.clone(),
                        connection: self.number,
                        line: text,
                        arrived: Instant::now(),
                        at: Timestamp::now(),
                    };
                    let output = shell.run(job).await;
                    session.data(channel, format!("{output}{}", shell.prompt(&user.name)).into_bytes())?;
                }
                Key::End => {
                    session.exit_status_request(channel, 0)?;
                    session.eof(channel)?;
                    session.close(channel)?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.account(user, offer.public_key).is_some() {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let Some(account) = self.account(user, key.public_key) else {
            return Ok(Auth::reject());
        };
        let options = user.split_once('+').map_or("", |(_, o)| o);
        let digits: String = options.chars().skip_while(|c| !c.is_ascii_digit()).collect();
        self.width = digits.strip_suffix('w').and_then(|n| n.parse().ok());
        self.server.log_login(self.number, &account.name);
        self.user = Some(account);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.lines.insert(
            channel.id(),
            Line {
                pty: None,
                shell: None,
                closed: CancellationToken::new(),
            },
        );
        let delay = Duration::from_millis(self.server.appliance.knobs().channel_delay_ms);
        if delay.is_zero() {
            reply.accept().await;
        } else {
            self.server.tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                reply.accept().await;
            });
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(line) = self.lines.get_mut(&channel) {
            line.pty = Some(usize::try_from(columns).unwrap_or(80).max(40));
        }
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let Some(user) = self.user.clone() else {
            return session.channel_failure(channel);
        };
        let Some(line) = self.lines.get_mut(&channel) else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        let identity = self.server.appliance.state().identity.clone();
        let shell = Shell::new(identity, line.pty.is_some(), self.width.or(line.pty));
        let greeting = format!(
            "\r\n  MikroTik RouterOS {} (simulator)\r\n\r\n",
            self.server.appliance.knobs().version
        );
        session.data(channel, format!("{greeting}{}", shell.prompt(&user.name)).into_bytes())?;
        line.shell = Some(shell);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (Some(user), Some(line)) = (self.user.clone(), self.lines.get(&channel)) else {
            return session.channel_failure(channel);
        };
        let knobs = self.server.appliance.knobs();
        if line.pty.is_some() {
            match knobs.pty_exec {
                PtyExec::Deny => return session.channel_failure(channel),
                PtyExec::Hang => return session.channel_success(channel),
                PtyExec::Ignore => {}
            }
        }
        session.channel_success(channel)?;
        let job = Job {
            server: self.server.clone(),
            user,
            connection: self.number,
            line: String::from_utf8_lossy(data).into_owned(),
            arrived: Instant::now(),
            at: Timestamp::now(),
        };
        let queue = (knobs.channels == Channels::Serialised).then(|| self.queue.clone());
        let ends = crate::exec::Ends {
            handle: session.handle(),
            channel,
            closed: line.closed.clone(),
            cut: self.cut.clone(),
            width: self.width,
        };
        // The place in the queue is taken in the order in which the requests came.
        let turn = queue.map(|q| {
            let mut turn = Box::pin(q.lock_owned());
            let first = futures::FutureExt::now_or_never(&mut turn);
            (first, turn)
        });
        self.server.tasks.spawn(async move {
            let guard = match turn {
                Some((Some(guard), _)) => Some(guard),
                Some((None, turn)) => Some(turn.await),
                None => None,
            };
            run_job(job, ends).await;
            drop(guard);
        });
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.feed(channel, data, session).await
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        if self.lines.get(&channel).is_some_and(|l| l.shell.is_some()) {
            session.exit_status_request(channel, 0)?;
            session.close(channel)?;
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(line) = self.lines.remove(&channel) {
            line.closed.cancel();
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for line in self.lines.values() {
            line.closed.cancel();
        }
        self.cut.cancel();
        self.server.forget(self.number);
    }
}
