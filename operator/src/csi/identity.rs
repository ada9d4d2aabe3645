//! CSI Identity: who we are and whether this process can serve.

use csi::identity_server::Identity;
use csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
use csi_proto::csi::v1 as csi;
use tonic::{Request, Response, Status};

use super::Csi;

/// Version that is told to Kubernetes: that of the crate, with the commit when the build names one.
const VERSION: &str = match option_env!("RDS_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// What the plugin as a whole advertises (K13, B61: each of these works).
#[must_use]
pub(super) fn capabilities() -> Vec<csi::PluginCapability> {
    let service = |kind: service::Type| Type::Service(Service { r#type: kind.into() });
    let expansion = VolumeExpansion {
        r#type: volume_expansion::Type::Online.into(),
    };
    [
        service(service::Type::ControllerService),
        service(service::Type::VolumeAccessibilityConstraints),
        Type::VolumeExpansion(expansion),
    ]
    .map(|kind| csi::PluginCapability { r#type: Some(kind) })
    .into()
}

#[tonic::async_trait]
impl Identity for Csi {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.settings.driver_name.clone(),
            vendor_version: VERSION.to_owned(),
            manifest: [("component".to_owned(), "rds-operator".to_owned())].into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: capabilities(),
        }))
    }

    /// Ready once the caches are filled. An appliance that is down is no reason: sidecars block on Probe at their start.
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse {
            ready: Some(self.world.is_synced()),
        }))
    }
}
