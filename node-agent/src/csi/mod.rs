//! CSI Identity and Node on a unix socket, and the registration with kubelet.
//!
//! Each call is: validate, take the volume's guard, read live what this node may use, act on the host, say what was done. Nothing is
//! remembered between calls: mounts are read from mountinfo, devices from sysfs, permissions from the API server.

mod attached;
pub mod call;
pub mod failure;
mod grow;
pub mod host;
mod identity;
pub mod kernel;
mod metrics;
mod node;
pub mod plan;
mod preflight;
mod publish;
mod record;
pub mod registration;
pub mod request;
mod stage;
mod status_writer;
#[cfg(test)]
mod tests;
mod unary;
mod unstage;
pub mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_proto::csi::v1::identity_server::IdentityServer;
use csi_proto::csi::v1::node_server::NodeServer;
use rds_crds::identity::attachment_name;
use tokio::net::UnixListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use self::call::{Call, InFlight};
use self::failure::Failure;
use self::host::{Host, HostError, Kind, Mount};
pub use self::metrics::Metrics;
use self::request::Paths;
use crate::attachment::act::Agent;

/// Mode of the sockets: only root, which kubelet is.
pub const SOCKET_MODE: u32 = 0o600;

/// Largest message.
const MESSAGE_MAX: usize = 16 << 20;

/// Settings of the services.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the driver.
    pub driver_name: String,
    /// Kubelet's folder: nothing outside of it is touched.
    pub kubelet_dir: PathBuf,
    /// What NodeGetInfo says of the number of volumes; 0 leaves that to Kubernetes.
    pub max_volumes: u32,
    /// What NodeGetInfo says of the topology.
    pub zone: String,
}

/// The services; clones share everything.
#[derive(Clone, Debug)]
pub struct Node {
    agent: Arc<Agent>,
    host: Arc<dyn Host>,
    settings: Arc<Settings>,
    in_flight: InFlight,
    /// Looks that change nothing: they neither hold up a call that does, nor wait for one.
    looks: InFlight,
    wake: UnboundedSender<String>,
    metrics: Metrics,
}

impl Node {
    /// Services on that host. Names of attachments whose use has changed go into `wake`.
    #[must_use]
    pub fn new(
        agent: Arc<Agent>,
        host: Arc<dyn Host>,
        settings: Settings,
        wake: UnboundedSender<String>,
        metrics: Metrics,
    ) -> Self {
        Self {
            agent,
            host,
            settings: Arc::new(settings),
            in_flight: InFlight::default(),
            looks: InFlight::default(),
            wake,
            metrics,
        }
    }

    /// Serves until `stop`, then stops accepting and finishes what is under way.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn serve(self, listener: UnixListener, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let identity = IdentityServer::new(self.clone()).max_decoding_message_size(MESSAGE_MAX);
        let node = NodeServer::new(self).max_decoding_message_size(MESSAGE_MAX);
        tonic::transport::Server::builder()
            .add_service(identity)
            .add_service(node)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await
    }

    fn paths(&self) -> Paths {
        Paths {
            kubelet: self.settings.kubelet_dir.clone(),
        }
    }

    fn attachment_name(&self, volume: &str) -> String {
        attachment_name(volume, &self.agent.node())
    }

    /// The loop looks at the attachment again. A receiver that is gone means that the process ends.
    fn wake(&self, attachment: &str) {
        self.wake.send(attachment.to_owned()).ok();
    }

    async fn mounts(&self, call: &Call) -> Result<Vec<Mount>, Failure> {
        let host = self.host.clone();
        call.run("the look at the mounts", move || Ok(host.mounts()?)).await
    }

    /// The topmost mount at a path.
    async fn top(&self, call: &Call, at: &Path) -> Result<Option<Mount>, Failure> {
        Ok(self.mounts(call).await?.into_iter().rfind(|m| m.point == at))
    }

    async fn kind(&self, call: &Call, at: &Path) -> Result<Kind, Failure> {
        let (host, at) = (self.host.clone(), at.to_owned());
        call.run("the look at the path", move || Ok(host.kind(&at)?)).await
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Volume(why) => Self::Volume(why),
            HostError::InUse(why) => Self::NotNow(why),
            HostError::Host(why) => Self::Unavailable(why),
        }
    }
}
