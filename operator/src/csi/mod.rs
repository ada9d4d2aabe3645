//! CSI Identity and Controller on a unix socket.
//!
//! Each call is: validate, take the volume's guard, write a custom resource, wait for its status, map the error. Nothing
//! here talks to an appliance, and nothing is remembered between calls: any replica can serve, and a crash loses nothing.

mod attach;
pub mod call;
pub mod capability;
pub mod context;
mod controller;
mod create;
mod delete;
mod detach;
mod expand;
pub mod failure;
mod identity;
mod meter;
mod missing;
pub mod parameters;
pub mod placement;
mod query;
pub mod rpc;
pub mod size;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use csi_proto::csi::v1::controller_server::ControllerServer;
use csi_proto::csi::v1::identity_server::IdentityServer;
use kube::{Api, Error};
use rds_crds::condition::{find_condition, kind};
use rds_crds::{RdsServer, RdsVolume};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

pub(crate) use self::attach::attachment;
use self::call::InFlight;
use self::failure::Failure;
use self::missing::Missing;
use self::parameters::Parameters;
use crate::server::facts::unreadable;
use crate::telemetry::Telemetry;
use crate::world::{WaitEnded, World};

/// Crash points behind the writes of ControllerPublishVolume and ControllerUnpublishVolume.
pub(crate) const STEPS: [&str; 2] = ["create-attachment", "delete-attachment"];

/// Names of the writes to RdsVolumes, for the crash test.
pub(crate) const VOLUME_STEPS: [&str; 5] = [
    "create-volume",
    "request-deletion",
    "delete-volume",
    "raise-capacity",
    "put-capacity-back",
];

/// How long until a cache that lags behind a fresh read is asked again.
const LAG: Duration = Duration::from_millis(100);

/// Mode of the socket, owner and group: the sidecars share the pod's group.
pub const SOCKET_MODE: u32 = 0o660;

/// Largest message, as in the Go driver: a page of 500 volumes is well below.
const MESSAGE_MAX: usize = 16 << 20;

/// Settings of the services.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the driver.
    pub driver_name: String,
    /// How long a call without a deadline may wait.
    pub call_timeout: Duration,
}

/// The services; clones share everything.
#[derive(Clone)]
pub struct Csi {
    world: World,
    settings: Arc<Settings>,
    telemetry: Telemetry,
    in_flight: InFlight,
    missing: Missing,
}

impl Csi {
    /// Services on that view of the world.
    #[must_use]
    pub fn new(world: World, settings: Settings, telemetry: Telemetry) -> Self {
        Self {
            world,
            settings: Arc::new(settings),
            telemetry,
            in_flight: InFlight::default(),
            missing: Missing::default(),
        }
    }

    /// Serves until `stop`, then stops accepting and finishes what is under way (R3, B79).
    pub async fn serve(self, listener: UnixListener, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let metered = rpc::Metered::new(self.telemetry.clone());
        let identity = IdentityServer::new(self.clone()).max_decoding_message_size(MESSAGE_MAX);
        let controller = ControllerServer::new(self).max_decoding_message_size(MESSAGE_MAX);
        let server = tonic::transport::Server::builder()
            .layer(metered.clone())
            .add_service(identity)
            .add_service(controller)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::select! {
            ended = server => ended,
            // A client that does not take its leave must not hold the process.
            () = metered.drained(stop) => Ok(()),
        }
    }

    fn volumes(&self) -> Api<RdsVolume> {
        Api::all(self.world.client.clone())
    }

    /// A fresh read. `None` is proof that there is no such volume.
    async fn live(&self, name: &str) -> Result<Option<RdsVolume>, Failure> {
        if !could_be_a_name(name) {
            return Ok(None);
        }
        let what = format!("read RdsVolume {name}");
        self.volumes().get_opt(name).await.map_err(|e| Failure::api(&what, &e))
    }

    /// The name of the server that the parameters mean. That none has the address is proven only when all can be read.
    fn server_name(&self, parameters: &Parameters) -> Result<String, Failure> {
        placement::server_name(parameters, self.world.servers.iter()).map_err(|failure| {
            let malformed = self.world.servers.malformed().into_iter();
            let unread: Vec<_> = malformed.map(|(name, error)| unreadable(&name, &error)).collect();
            if unread.is_empty() {
                failure
            } else {
                Failure::Unavailable(format!("{failure}; not all could be looked at: {}", unread.join("; ")))
            }
        })
    }

    /// The server of that name: from the cache, else by a fresh read. `None` is proof that there is none.
    async fn find_server(&self, name: &str) -> Result<Option<Arc<RdsServer>>, Failure> {
        if let Some(server) = self.world.servers.get(name) {
            return Ok(Some(server));
        }
        // A fresh read would fail as well, and say less.
        if let Some(error) = self.world.servers.malformed().get(name) {
            return Err(Failure::Unavailable(unreadable(name, error)));
        }
        let api: Api<RdsServer> = Api::all(self.world.client.clone());
        let found = api
            .get_opt(name)
            .await
            .map_err(|e| Failure::api(&format!("read RdsServer {name}"), &e))?;
        Ok(found.map(Arc::new))
    }

    /// The server of that name, which has to exist.
    async fn server(&self, name: &str) -> Result<Arc<RdsServer>, Failure> {
        self.find_server(name).await?.ok_or_else(|| {
            Failure::Invalid(format!(
                "RdsServer `{name}` does not exist: create it, or name another one with StorageClass parameter `server`"
            ))
        })
    }

    fn synced(&self) -> Result<(), Failure> {
        if self.world.is_synced() {
            return Ok(());
        }
        Err(Failure::Unavailable(
            "the caches of this process are not filled yet: call again, and check the API server if this lasts".into(),
        ))
    }

    /// What to answer when a wait for the volume ended without success; `doing` completes "volume x is not ...".
    fn unfinished(&self, name: &str, doing: &str, ended: WaitEnded) -> Failure {
        if ended == WaitEnded::Closing {
            return Failure::Unavailable(format!(
                "this process is shutting down while volume {name} is not {doing} yet: call again, it goes on where it is"
            ));
        }
        let volume = self.world.volumes.get(name);
        let server = volume.as_ref().and_then(|v| self.world.servers.get(&v.spec.server));
        let seen = volume.as_deref().and_then(explanation);
        let text = format!(
            "volume {name} is not {doing} yet ({}): call again, it goes on where it is",
            seen.as_deref()
                .unwrap_or("nothing was reported so far; check that an operator holds the Lease")
        );
        let reachable = server.as_deref().and_then(|s| s.status.as_ref());
        let conditions = reachable.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let down = find_condition(conditions, kind::REACHABLE).is_some_and(|c| c.status == "False");
        if down {
            Failure::Unavailable(text)
        } else {
            Failure::Pending(text)
        }
    }
}

/// What the volume's status says of itself, for people.
fn explanation(volume: &RdsVolume) -> Option<String> {
    let status = volume.status.as_ref()?;
    let of = |kind| find_condition(&status.conditions, kind).map(|c| format!("{}: {}", c.reason, c.message));
    if volume.metadata.deletion_timestamp.is_some()
        && let Some(blocked) = of(kind::DELETION_BLOCKED)
    {
        return Some(blocked);
    }
    of(kind::STALLED)
        .or_else(|| of(kind::EXPAND_PENDING))
        .or_else(|| status.explain.clone())
        .or_else(|| of(kind::READY))
}

/// Whether an object of that name can exist at all: otherwise the API server need not be asked, nor be given the text.
fn could_be_a_name(name: &str) -> bool {
    name.len() <= 63 && could_be_a_subdomain(name)
}

/// The same for objects whose names may be longer, as Nodes.
fn could_be_a_subdomain(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    !name.is_empty() && name.len() <= 253 && name.chars().all(inner) && !name.starts_with(['-', '.'])
}

fn is_code(error: &Error, code: u16) -> bool {
    matches!(error, Error::Api(status) if status.code == code)
}
