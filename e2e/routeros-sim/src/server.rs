//! The listener: accepts connections up to the cap, cuts them, goes down and comes up, reboots.

use crate::appliance::{Account, Appliance};
use crate::log::LogEntry;
use crate::ssh::Connection;
use crate::wire::Wire;
use jiff::Timestamp;
use russh::keys::PublicKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An account and the keys that open it.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) account: Arc<Account>,
    pub(crate) keys: Vec<PublicKey>,
}

/// The SSH service of an appliance.
pub(crate) struct Server {
    pub(crate) appliance: Arc<Appliance>,
    pub(crate) users: Vec<User>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    connections: Mutex<HashMap<u64, CancellationToken>>,
    next: AtomicU64,
    /// How often the appliance rebooted; changes when the old connections are gone.
    pub(crate) boots: watch::Sender<u64>,
}

impl Server {
    pub(crate) fn new(appliance: Arc<Appliance>, users: Vec<User>) -> Self {
        Self {
            appliance,
            users,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            connections: Mutex::default(),
            next: AtomicU64::new(1),
            boots: watch::channel(0).0,
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget(&self, number: u64) {
        self.connections().remove(&number);
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.connections().len()
    }

    pub(crate) fn cut_all(&self) {
        for (_, cut) in self.connections().drain() {
            cut.cancel();
        }
    }

    pub(crate) fn log_login(&self, connection: u64, user: &str) {
        self.appliance.log.push(LogEntry {
            at: Timestamp::now(),
            connection,
            user: user.to_owned(),
            command: String::new(),
            reply: String::new(),
            fault: None,
            executed: false,
            failed: false,
            milliseconds: 0.0,
        });
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, config: &Arc<russh::server::Config>) {
        let cap = usize::try_from(self.appliance.knobs().max_sessions).unwrap_or(usize::MAX);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        {
            let mut open = self.connections();
            if open.len() >= cap {
                tracing::debug!(number, "refused: all sessions are in use");
                return;
            }
            open.insert(number, cut.clone());
        }
        let _small_packets_at_once = stream.set_nodelay(true);
        let (server, config) = (self.clone(), config.clone());
        self.tasks.spawn(async move {
            let connection = Connection::new(server, number, cut.clone());
            match russh::server::run_stream(config, Wire::new(stream, cut), connection).await {
                Ok(session) => {
                    if let Err(error) = session.await {
                        tracing::debug!(number, %error, "connection ended");
                    }
                }
                Err(error) => tracing::debug!(number, %error, "connection not set up"),
            }
        });
    }

    /// Real exports have a clock behind them: those of simulated sessions come back when somebody looks.
    fn bring_exports_back(self: &Arc<Self>) {
        if !self.appliance.is_real() {
            return;
        }
        let server = self.clone();
        self.tasks.spawn(async move {
            let times = {
                let state = server.appliance.state();
                [state.ports_from, state.exports_from]
            };
            for at in times.into_iter().flatten() {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = server.stop.cancelled() => return,
                }
                let appliance = server.appliance.clone();
                let done = tokio::task::spawn_blocking(move || appliance.project_now()).await;
                if let Err(error) = done {
                    tracing::error!(%error, "exports did not come back");
                }
            }
        });
    }

    /// Serves until stopped. The first listener is given; it is bound again behind an outage.
    pub(crate) async fn serve(
        self: Arc<Self>,
        first: TcpListener,
        addr: SocketAddr,
        config: Arc<russh::server::Config>,
    ) {
        let mut listener = Some(first);
        let mut down = self.appliance.down.subscribe();
        loop {
            if *down.borrow_and_update() {
                listener = None;
                self.cut_all();
                tokio::select! {
                    changed = down.changed() => if changed.is_err() { return },
                    () = self.stop.cancelled() => return,
                }
                continue;
            }
            let Some(open) = &listener else {
                match TcpListener::bind(addr).await {
                    Ok(l) => listener = Some(l),
                    Err(error) => {
                        tracing::warn!(%error, %addr, "cannot listen again yet");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                continue;
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = down.changed() => if changed.is_err() { return },
                () = self.appliance.reboot.notified() => {
                    listener = None;
                    self.appliance.restart();
                    self.cut_all();
                    self.boots.send_modify(|n| *n += 1);
                    self.bring_exports_back();
                    tokio::time::sleep(Duration::from_millis(self.appliance.knobs().reboot_ms)).await;
                }
                stream = open.accept() => match stream {
                    Ok((stream, _)) => self.accept(stream, &config),
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
            }
        }
    }
}
