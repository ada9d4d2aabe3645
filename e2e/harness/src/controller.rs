//! The CSI controller socket, called directly: what no claim can ask for, and what is to be counted or timed.

use std::path::Path;

use anyhow::Result;
use csi::controller_client::ControllerClient;
use csi_proto::csi::v1 as csi;
use tonic::transport::Channel;

/// A client of the controller service on a unix socket.
pub async fn connect(socket: &Path) -> Result<ControllerClient<Channel>> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    Ok(ControllerClient::new(endpoint.connect_with_connector(connect).await?))
}

/// The request for a volume of 1 GiB with a filesystem, for one node.
#[must_use]
pub fn creation(name: &str, server: &str) -> csi::CreateVolumeRequest {
    use csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: 1 << 30,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![csi::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }],
        parameters: [("server".to_owned(), server.to_owned())].into(),
        ..Default::default()
    }
}

/// The request to delete a volume.
#[must_use]
pub fn deletion(volume: &str) -> csi::DeleteVolumeRequest {
    csi::DeleteVolumeRequest {
        volume_id: volume.to_owned(),
        ..Default::default()
    }
}
