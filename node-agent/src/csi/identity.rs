//! CSI Identity of the node.

use csi::identity_server::Identity;
use csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
use csi_proto::csi::v1 as csi;
use tonic::{Request, Response, Status};

use super::Node;

/// Version that is told to Kubernetes: that of the crate, with the commit when the build names one.
const VERSION: &str = match option_env!("RDS_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

#[tonic::async_trait]
impl Identity for Node {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.settings.driver_name.clone(),
            vendor_version: VERSION.to_owned(),
            manifest: [("component".to_owned(), "rds-node-agent".to_owned())].into(),
        }))
    }

    /// The same as the controller's: they are one plugin.
    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: service::Type| Type::Service(Service { r#type: kind.into() });
        let expansion = VolumeExpansion {
            r#type: volume_expansion::Type::Online.into(),
        };
        let all = [
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            Type::VolumeExpansion(expansion),
        ];
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: all.map(|kind| csi::PluginCapability { r#type: Some(kind) }).into(),
        }))
    }

    /// Whoever answers is ready: no state has to be read first.
    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}
