//! Registration with kubelet: a socket of our own in kubelet's folder of plugins, so that no sidecar is needed.
//!
//! Kubelet finds the socket, asks who is there, tries the CSI endpoint, and says how that went. A refusal is no end: kubelet tries again
//! by itself. A socket that somebody removed is made anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use csi_proto::pluginregistration::v1 as api;
use csi_proto::server::socket::bind_anew;
use prost::Message;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{SOCKET_MODE, unary};

/// Kind of the plugin, as kubelet spells it.
const KIND: &str = "CSIPlugin";
/// Versions of the interface between kubelet and a CSI plugin.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// How often the socket is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What kubelet is told.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Name of the driver.
    pub driver: String,
    /// The CSI socket as kubelet sees it.
    pub endpoint: PathBuf,
}

impl Plugin {
    /// The socket in that folder.
    #[must_use]
    pub fn socket(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-reg.sock", self.driver))
    }
}

impl Plugin {
    /// Only GetInfo has an empty request; the other call says how the registration went.
    fn answer(&self, message: &[u8]) -> Vec<u8> {
        if message.is_empty() {
            let info = api::PluginInfo {
                r#type: KIND.to_owned(),
                name: self.driver.clone(),
                endpoint: self.endpoint.display().to_string(),
                supported_versions: VERSIONS.map(str::to_owned).into(),
            };
            return info.encode_to_vec();
        }
        match api::RegistrationStatus::decode(message) {
            Ok(status) if status.plugin_registered => info!(driver = self.driver, "registered with kubelet"),
            Ok(status) => warn!(
                driver = self.driver,
                why = status.error,
                "kubelet did not register the driver; it tries again by itself"
            ),
            Err(error) => {
                warn!(driver = self.driver, %error, "kubelet said something unreadable about the registration")
            }
        }
        api::RegistrationStatusResponse {}.encode_to_vec()
    }
}

/// Serves the registration until `stop`, then removes the socket: kubelet forgets the driver until the next agent is there.
///
/// # Errors
/// When the socket cannot be made.
pub async fn run(plugin: Plugin, folder: PathBuf, stop: CancellationToken) -> anyhow::Result<()> {
    let path = plugin.socket(&folder);
    while !stop.is_cancelled() {
        let listener = bind_anew(&path, SOCKET_MODE)?;
        let ours = inode(&path);
        let gone = stop.child_token();
        let watch = async {
            let mut tick = interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while gone.run_until_cancelled(tick.tick()).await.is_some() {
                if inode(&path) != ours {
                    warn!(socket = %path.display(), "the registration socket is gone or another one: it is made anew");
                    gone.cancel();
                }
            }
        };
        let answering = plugin.clone();
        let serve = unary::serve(listener, Arc::new(move |message: &[u8]| answering.answer(message)));
        // A connection that kubelet keeps open must hold up neither the new socket nor the end.
        tokio::select! {
            served = serve => served?,
            () = watch => {}
        }
    }
    std::fs::remove_file(&path).ok();
    Ok(())
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use csi_proto::pluginregistration::v1::registration_client::RegistrationClient;

    use super::*;

    async fn ask(path: &Path) -> api::PluginInfo {
        for _ in 0..200 {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
            if let Ok(channel) = endpoint.connect().await
                && let mut kubelet = RegistrationClient::new(channel)
                && let Ok(answer) = kubelet.get_info(api::InfoRequest {}).await
            {
                let refused = api::RegistrationStatus {
                    plugin_registered: false,
                    error: "ownerReferences.uid: must not be empty".to_owned(),
                };
                kubelet.notify_registration_status(refused).await.unwrap();
                return answer.into_inner();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody answers on {}", path.display());
    }

    #[tokio::test]
    async fn kubelet_is_answered_again_after_a_refusal_and_after_the_socket_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = Plugin {
            driver: "rds.csi.srvlab.io".to_owned(),
            endpoint: "/var/lib/kubelet/plugins/rds.csi.srvlab.io/csi.sock".into(),
        };
        let path = plugin.socket(folder.path());
        let stop = CancellationToken::new();
        let served = tokio::spawn(run(plugin.clone(), folder.path().to_owned(), stop.clone()));
        let info = ask(&path).await;
        assert_eq!((info.r#type.as_str(), info.name), ("CSIPlugin", plugin.driver.clone()));
        assert_eq!(info.endpoint, plugin.endpoint.display().to_string());
        assert_eq!(info.supported_versions, ["1.0.0"]);
        assert_eq!(ask(&path).await.name, plugin.driver, "refused, and still there");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ask(&path).await.name, plugin.driver, "made anew");
        stop.cancel();
        served.await.unwrap().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}
