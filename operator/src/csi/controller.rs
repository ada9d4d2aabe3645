//! CSI Controller: each method validates, calls its use-case, and maps the failure. Nothing else happens here.

use csi::controller_server::Controller;
use csi::controller_service_capability::{Rpc, Type, rpc::Type as Feature};
use csi_proto::csi::v1 as csi;
use csi_proto::server::deadline;
use tonic::{Request, Response, Status};

use super::Csi;
use super::failure::Failure;
use super::meter::Meter;

/// What the Controller advertises (B61: each works, and nothing else is served).
pub(super) const FEATURES: [Feature; 8] = [
    Feature::CreateDeleteVolume,
    Feature::ExpandVolume,
    Feature::ListVolumes,
    Feature::GetCapacity,
    Feature::SingleNodeMultiWriter,
    Feature::PublishUnpublishVolume,
    Feature::PublishReadonly,
    Feature::ListVolumesPublishedNodes,
];

fn not_served<T>(what: &str, how: &str) -> Result<Response<T>, Status> {
    Err(Failure::NotServed(format!("this version does not {what}: {how}")).into())
}

#[tonic::async_trait]
impl Controller for Csi {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let deadline = deadline(request.metadata(), self.settings.call_timeout);
        Ok(self.create(request.into_inner(), deadline).await.map(Response::new)?)
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let deadline = deadline(request.metadata(), self.settings.call_timeout);
        self.delete(&request.into_inner().volume_id, deadline).await?;
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        let deadline = deadline(request.metadata(), self.settings.call_timeout);
        Ok(self.expand(request.into_inner(), deadline).await.map(Response::new)?)
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        Ok(self.validate(request.into_inner()).await.map(Response::new)?)
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        Ok(self.list(request.get_ref()).map(Response::new)?)
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        Ok(self.capacity(request.into_inner()).await.map(Response::new)?)
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let capability = |feature: Feature| csi::ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: feature.into() })),
        };
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
            capabilities: FEATURES.into_iter().map(capability).collect(),
        }))
    }

    async fn controller_publish_volume(
        &self,
        request: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
        let deadline = deadline(request.metadata(), self.settings.call_timeout);
        let meter = Meter::start(&self.telemetry);
        let done = match request.into_inner().try_into() {
            Ok(wish) => self.attach(wish, deadline).await,
            Err(failure) => Err(failure),
        };
        meter.attached(done.as_ref().map(|(attached, _)| attached));
        let (_, publish_context) = done?;
        Ok(Response::new(csi::ControllerPublishVolumeResponse { publish_context }))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
        let deadline = deadline(request.metadata(), self.settings.call_timeout);
        let meter = Meter::start(&self.telemetry);
        let request = request.into_inner();
        let done = self.detach(&request.volume_id, &request.node_id, deadline).await;
        meter.detached(done.as_ref());
        done?;
        Ok(Response::new(csi::ControllerUnpublishVolumeResponse {}))
    }

    async fn create_snapshot(
        &self,
        _: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        not_served("make snapshots", "copy the data with a pod instead")
    }

    async fn delete_snapshot(
        &self,
        _: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        not_served("know snapshots", "remove it on the appliance by hand")
    }

    async fn list_snapshots(
        &self,
        _: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        not_served("know snapshots", "list them on the appliance")
    }

    async fn get_snapshot(
        &self,
        _: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        not_served("know snapshots", "look on the appliance")
    }

    async fn controller_get_volume(
        &self,
        _: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        not_served(
            "tell single volumes",
            "use ListVolumes, or `kubectl describe rdsvolume`",
        )
    }

    async fn controller_modify_volume(
        &self,
        _: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        not_served(
            "modify volumes",
            "remove the VolumeAttributesClass, or edit the RdsVolume",
        )
    }
}
