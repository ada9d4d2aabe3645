//! The writes of the volume controller to the API server, one function each, with the field manager that owns the fields.

use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Client, ResourceExt};
use rds_crds::RdsVolume;
use rds_crds::names::{DOMAIN, FINALIZER, manager};
use rds_crds::volume::RdsVolumeStatus;
use serde_json::json;

/// What the API server answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The object changed or went meanwhile: read and decide again.
    #[error("{0} changed meanwhile")]
    Conflict(String),
    /// Anything else.
    #[error("cannot write {name}")]
    Api {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

impl ApiError {
    /// What a failed write of a volume means.
    pub(crate) fn of(volume: &RdsVolume, source: kube::Error) -> Self {
        Self::named(volume.name_any(), source)
    }

    /// What a failed write of an object means.
    pub(crate) fn named(name: String, source: kube::Error) -> Self {
        if let kube::Error::Api(status) = &source
            && is_conflict(status)
        {
            return Self::Conflict(name);
        }
        Self::Api { name, source }
    }
}

fn is_conflict(status: &Status) -> bool {
    // 404: it is gone; 422: a `test` of a JSON patch failed.
    matches!(status.code, 409 | 404) || (status.code == 422 && status.message.contains("test"))
}

/// The API server, for RdsVolumes.
pub(crate) struct Store {
    volumes: Api<RdsVolume>,
}

impl Store {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            volumes: Api::all(client.clone()),
        }
    }

    /// Compare-and-swap of the status: fails with [`ApiError::Conflict`] unless the object is still the one that was read.
    pub(crate) async fn swap_status(&self, next: &RdsVolume) -> Result<RdsVolume, ApiError> {
        let params = PostParams {
            field_manager: Some(manager::ADMISSION.to_owned()),
            ..PostParams::default()
        };
        self.volumes
            .replace_status(&next.name_any(), &params, next)
            .await
            .map_err(|e| ApiError::of(next, e))
    }

    /// Server-side apply of the other status fields. The UID keeps it off an object of the same name made since.
    pub(crate) async fn apply_status(
        &self,
        volume: &RdsVolume,
        status: &RdsVolumeStatus,
    ) -> Result<RdsVolume, ApiError> {
        let patch = json!({
            "apiVersion": format!("{DOMAIN}/v1alpha1"),
            "kind": "RdsVolume",
            "metadata": {"name": volume.name_any(), "uid": volume.metadata.uid},
            "status": status,
        });
        let params = PatchParams::apply(manager::OPERATOR).force();
        self.volumes
            .patch_status(&volume.name_any(), &params, &Patch::Apply(&patch))
            .await
            .map_err(|e| ApiError::of(volume, e))
    }

    /// Adds our finalizer to the object as it was read.
    pub(crate) async fn add_finalizer(&self, volume: &RdsVolume) -> Result<RdsVolume, ApiError> {
        let mut finalizers = volume.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        self.set_finalizers(volume, &finalizers).await
    }

    /// Removes our finalizer from the object as it was read. An object that is gone already is no error.
    pub(crate) async fn drop_finalizer(&self, volume: &RdsVolume) -> Result<(), ApiError> {
        let rest: Vec<String> = volume
            .finalizers()
            .iter()
            .filter(|f| *f != FINALIZER)
            .cloned()
            .collect();
        self.set_finalizers(volume, &rest).await.map(|_| ())
    }

    async fn set_finalizers(&self, volume: &RdsVolume, finalizers: &[String]) -> Result<RdsVolume, ApiError> {
        // A merge patch with uid and resourceVersion is refused with 409 unless the object is still the one that was read.
        let patch = json!({"metadata": {
            "uid": volume.metadata.uid,
            "resourceVersion": volume.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let params = PatchParams {
            field_manager: Some(manager::OPERATOR.to_owned()),
            ..PatchParams::default()
        };
        self.volumes
            .patch(&volume.name_any(), &params, &Patch::Merge(&patch))
            .await
            .map_err(|e| ApiError::of(volume, e))
    }
}
