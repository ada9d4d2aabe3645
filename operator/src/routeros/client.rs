//! One server's client: its commands, and one shared listing for all readers. Cheap to clone.
//!
//! A command that was handed to the transport runs to its end whether or not its caller still waits, so the connection is never left
//! in the middle of a reply and every mutation gets its audit line.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::command::ToggleExport;
use super::command::{Adopt, CreateDisk, Export, Grow, Guard, Release, Remove, RemoveFile, Removed, Retire};
use super::encode::{ExecNonce, Script};
use super::error::{CommandKind, RdsError, Redacted, ServerName};
use super::exec::joined;
use super::gate::Gate;
use super::inventory::{self, Inventory};
use super::look::{self, Identity, Look};
use super::metrics::RouterosMetrics;
use super::reply::Answer;
use super::row::DiskRow;
use super::ssh::OpensshTransport;
use super::target::Target;
use super::transport::Transport;
use super::types::{Bytes, DiskId, DiskPath, Generation, Nqn, Slot};
use super::version::RouterOsVersion;

type Listing = Shared<BoxFuture<'static, Result<Arc<Inventory>, RdsError>>>;

#[derive(Default)]
struct Listings {
    last: Option<Arc<Inventory>>,
    running: Option<Listing>,
    version: Option<RouterOsVersion>,
}

pub(super) struct Inner {
    pub(super) server: ServerName,
    pub(super) address: String,
    pub(super) user: String,
    pub(super) base: DiskPath,
    pub(super) command_timeout: Duration,
    pub(super) queue_timeout: Duration,
    pub(super) gate: Gate,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) metrics: Option<RouterosMetrics>,
    listings: Mutex<Listings>,
    pub(super) tasks: TaskTracker,
}

/// See the module.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Inner>);

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
    pub(super) fn check_version(&self) -> Result<(), RdsError> {
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
}
