//! The simulator as a library: start one in a test, look into it, break it.

use crate::appliance::{Account, Appliance};
use crate::disk::Disk;
use crate::faults::Fault;
use crate::file::File;
use crate::interp::{Console, Outcome, Overrides};
use crate::knobs::{Knobs, NamespaceUuid};
use crate::log::{Log, LogEntry};
use crate::nvmet::{Nvmet, Projector};
use crate::persist;
use crate::server::{Server, User};
use crate::state::{Snapshot, State};
use crate::view::DiskView;
use anyhow::Context;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, RsaKeypair};
use russh::keys::{PrivateKey, PublicKey};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The host key of a simulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKey {
    /// A fresh ed25519 key: quick to make, so the default for tests.
    Ed25519,
    /// A fresh RSA key of 2048 bits, what a device has by default. Slow to make without optimisation.
    Rsa,
    /// A key in OpenSSH form.
    Given(String),
}

/// How to start a simulator.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where SSH listens.
    pub listen: SocketAddr,
    /// The user whom the generated client key opens, besides `admin`.
    pub user: Account,
    /// More users for the same keys.
    pub more_users: Vec<Account>,
    /// Public keys that are authorised besides the generated one, as in authorized_keys.
    pub authorized_keys: Vec<String>,
    /// Host key.
    pub host_key: HostKey,
    /// Slot and mount point of the pool.
    pub pool: String,
    /// Bytes of the pool.
    pub pool_size: u64,
    /// `xfs` or `btrfs`
    pub pool_fs: String,
    /// Directories to make in the pool.
    pub directories: Vec<String>,
    /// Knobs at the start.
    pub knobs: Knobs,
    /// Directory of `state.json`, read at the start and written behind every change.
    pub state_dir: Option<PathBuf>,
    /// File that gets every command as a line of JSON.
    pub log_file: Option<PathBuf>,
    /// Makes exports real, by the target of this kernel.
    pub nvmet: Option<Nvmet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            user: Account::operator("metal-csi"),
            more_users: Vec::new(),
            authorized_keys: Vec::new(),
            host_key: HostKey::Ed25519,
            pool: "storage-pool".into(),
            pool_size: 7_681_574_174_720,
            pool_fs: "xfs".into(),
            directories: vec!["metal-csi".into()],
            knobs: Knobs::default(),
            state_dir: None,
            log_file: None,
            nvmet: None,
        }
    }
}

/// A namespace that initiators could connect to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveExport {
    /// Slot of the row.
    pub slot: String,
    /// Subsystem NQN.
    pub nqn: String,
    /// TCP port.
    pub port: u16,
    /// Bytes that initiators see.
    pub size: u64,
    /// UUID of the namespace.
    pub uuid: Option<String>,
    /// Image behind it.
    pub path: String,
}

/// A running simulator.
pub struct Simulator {
    server: Arc<Server>,
    addr: SocketAddr,
    host_key: PublicKey,
    client_key: PrivateKey,
    ends: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
}

fn new_key(kind: &HostKey) -> anyhow::Result<PrivateKey> {
    match kind {
        HostKey::Ed25519 => Ok(Ed25519Keypair::random(&mut russh::keys::key::safe_rng()).into()),
        HostKey::Rsa => Ok(RsaKeypair::random(&mut russh::keys::key::safe_rng(), 2048)?.into()),
        HostKey::Given(text) => PrivateKey::from_openssh(text).context("host key"),
    }
}

/// A fresh key pair in OpenSSH form.
///
/// # Errors
/// When the key cannot be made or written down.
pub fn generate_key(kind: &HostKey) -> anyhow::Result<String> {
    Ok(new_key(kind)?.to_openssh(LineEnding::LF)?.to_string())
}

impl Simulator {
    /// Starts a simulator.
    ///
    /// # Errors
    /// When a key cannot be read, the address is taken, or the state file is damaged.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let host_key = new_key(&config.host_key)?;
        let public = host_key.public_key().clone();
        let client_key = new_key(&HostKey::Ed25519)?;
        let mut keys = vec![client_key.public_key().clone()];
        for line in &config.authorized_keys {
            keys.push(PublicKey::from_openssh(line.trim()).with_context(|| format!("authorised key `{line}`"))?);
        }
        let mut accounts = vec![Account::admin(), config.user.clone()];
        accounts.extend(config.more_users.iter().cloned());
        let users = accounts
            .into_iter()
            .rev()
            .map(|a| User {
                account: Arc::new(a),
                keys: keys.clone(),
            })
            .collect::<Vec<_>>();
        let state = match persist::load(config.state_dir.as_deref()).await? {
            Some(state) => state,
            None => {
                let mut state = State::with_pool(&config.pool, config.pool_size, &config.pool_fs);
                for dir in &config.directories {
                    state.add_file(&format!("{}/{dir}", config.pool), "directory", 0, 0, "");
                }
                state
            }
        };
        let log = Log::new(config.log_file.as_deref()).context("command log")?;
        let projector = config.nvmet.map(Projector::start).transpose()?;
        let appliance = Arc::new(Appliance::with(state, config.knobs.clone(), log, projector));
        appliance.project_now();
        let server = Arc::new(Server::new(appliance.clone(), users));
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listen on {}", config.listen))?;
        let addr = listener.local_addr()?;
        let ssh = Arc::new(russh::server::Config {
            keys: vec![host_key],
            server_id: russh::SshId::Standard("SSH-2.0-ROSSSH".into()),
            auth_rejection_time: Duration::from_millis(10),
            auth_rejection_time_initial: Some(Duration::ZERO),
            inactivity_timeout: None,
            nodelay: true,
            methods: russh::MethodSet::from(&[russh::MethodKind::PublicKey][..]),
            ..russh::server::Config::default()
        });
        let mut ends = vec![tokio::spawn(server.clone().serve(listener, addr, ssh))];
        if let Some(dir) = config.state_dir {
            ends.push(tokio::spawn(persist::keep(appliance, dir, server.stop.clone())));
        }
        Ok(Self {
            server,
            addr,
            host_key: public,
            client_key,
            ends: tokio::sync::Mutex::new(ends),
        })
    }

    /// The appliance behind the wires.
    pub fn appliance(&self) -> Arc<Appliance> {
        self.server.appliance.clone()
    }

    /// Where SSH listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `ssh-ed25519 AAAA…`
    pub fn host_key_line(&self) -> String {
        self.host_key.to_openssh().unwrap_or_default()
    }

    /// The private key of the generated client key, in OpenSSH form.
    pub fn client_private_key(&self) -> String {
        self.client_key
            .to_openssh(LineEnding::LF)
            .map(|k| k.to_string())
            .unwrap_or_default()
    }

    /// Every login and command since the last `clear_log`.
    pub fn log(&self) -> Vec<LogEntry> {
        self.server.appliance.log.entries()
    }

    /// Every command since the last `clear_log`, without logins.
    pub fn commands(&self) -> Vec<LogEntry> {
        self.log().into_iter().filter(|e| !e.command.is_empty()).collect()
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.server.appliance.log.clear();
    }

    /// Adds a fault behind those in force.
    ///
    /// # Panics
    /// When its pattern is no regular expression.
    pub fn set_fault(&self, fault: Fault) {
        let pattern = fault.matching.clone();
        let added = self.server.appliance.add_fault(fault);
        assert!(added.is_ok(), "`{pattern}` is no regular expression");
    }

    /// Faults in force.
    pub fn faults(&self) -> Vec<Fault> {
        self.server.appliance.faults()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.server.appliance.clear_faults();
    }

    /// Turns knobs.
    pub fn knobs(&self, f: impl FnOnce(&mut Knobs)) {
        self.server.appliance.change_knobs(f);
    }

    /// All rows of `/disk`.
    pub fn disks(&self) -> Vec<Disk> {
        self.server.appliance.state().disks.iter().cloned().collect()
    }

    /// Rows of `/disk` that are images.
    pub fn file_disks(&self) -> Vec<Disk> {
        self.disks().into_iter().filter(|d| d.kind == "file").collect()
    }

    /// All entries of `/file`.
    pub fn files(&self) -> Vec<File> {
        self.server.appliance.state().files.iter().cloned().collect()
    }

    /// Changes the state behind everybody's back.
    pub fn edit<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let knobs = self.server.appliance.knobs();
        let mut state = self.server.appliance.state();
        let result = f(&mut state);
        state.settle_all(&knobs);
        self.server.appliance.project(&state, &knobs);
        drop(state);
        self.server.appliance.touch();
        result
    }

    /// Runs a line as `admin`, past SSH, faults and log: a foreign hand.
    pub async fn exec(&self, line: &str) -> Outcome {
        exec_as_admin(self.appliance(), line.to_owned()).await
    }

    /// What an initiator could connect to now.
    pub fn exports(&self) -> Vec<LiveExport> {
        live_exports(&self.server.appliance)
    }

    /// Whether the NVMe/TCP port answers.
    pub fn export_port_open(&self) -> bool {
        let knobs = self.server.appliance.knobs();
        self.server.appliance.state().port_open(&knobs)
    }

    /// State without ids and chance, to compare two runs.
    pub fn snapshot(&self) -> Snapshot {
        self.server.appliance.state().snapshot()
    }

    /// How many SSH connections are open.
    pub fn open_connections(&self) -> usize {
        self.server.open()
    }

    /// Cuts all connections and keeps the state. Returns when the connections are gone; the port opens again after
    /// `reboot_ms`, exports come back `exports_after_ms` later.
    pub async fn reboot(&self) {
        let mut boots = self.server.boots.subscribe();
        self.server.appliance.request_reboot();
        let _stopped = boots.changed().await;
    }

    /// Ends everything and writes the state.
    pub async fn stop(self) {
        self.shut_down().await;
    }

    /// As `stop`, for a simulator that is shared.
    pub async fn shut_down(&self) {
        self.server.appliance.stop();
        self.server.stop.cancel();
        self.server.cut_all();
        self.server.tasks.close();
        for end in self.ends.lock().await.drain(..) {
            if let Err(error) = end.await {
                tracing::error!(%error, "a task of the simulator failed");
            }
        }
        if tokio::time::timeout(Duration::from_secs(5), self.server.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("commands were still running");
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server.appliance.stop();
        self.server.stop.cancel();
        self.server.cut_all();
    }
}

/// Runs a line as `admin` without SSH.
pub(crate) async fn exec_as_admin(appliance: Arc<Appliance>, line: String) -> Outcome {
    let done = tokio::task::spawn_blocking(move || {
        appliance.run(&Account::admin(), &line, &mut Console::default(), Overrides::default())
    });
    done.await.unwrap_or_else(|_| Outcome {
        output: "interrupted\r\n".into(),
        failed: true,
    })
}

/// What an initiator could connect to now.
pub(crate) fn live_exports(appliance: &Appliance) -> Vec<LiveExport> {
    let knobs = appliance.knobs();
    let state = appliance.state();
    if !state.exports_up() {
        return Vec::new();
    }
    let view = DiskView {
        state: &state,
        knobs: &knobs,
    };
    state
        .disks
        .iter()
        .filter(|d| d.export.on && !d.disabled)
        .map(|d| LiveExport {
            slot: d.slot.clone(),
            nqn: view.nqn(d),
            port: d.export.port,
            size: d.export.visible_size,
            uuid: d
                .export
                .namespace_uuid
                .clone()
                .filter(|_| knobs.namespace_uuid != NamespaceUuid::Absent),
            path: d.path().unwrap_or_default().to_owned(),
        })
        .collect()
}
