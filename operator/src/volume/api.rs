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
    /// A write failed.
    #[error("cannot write {name}")]
    Api {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A read failed that a decision about the object needs.
    #[error("cannot read {what} for {name}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// The object that it was read for.
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

    /// What a failed read means. It is no conflict, whatever its code: no object of ours has changed.
    pub(crate) fn read(what: &'static str, volume: &RdsVolume, source: kube::Error) -> Self {
        Self::Read {
            what,
            name: volume.name_any(),
            source,
        }
    }
}

/// It has changed (409) or is gone (404).
fn is_conflict(status: &Status) -> bool {
    matches!(status.code, 409 | 404)
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

    /// Server-side apply of the other status fields, on the object as it was read: fails with [`ApiError::Conflict`] if it has changed.
    ///
    /// `status.nqn` is one of them, the name under which the disk is exported. Written by a leader that has slept, or whose watch has
    /// stood still, over a fence of its successor it would let a node in again that was cut (I3, I18).
    pub(crate) async fn apply_status(
        &self,
        volume: &RdsVolume,
        status: &RdsVolumeStatus,
    ) -> Result<RdsVolume, ApiError> {
        let patch = json!({
            "apiVersion": format!("{DOMAIN}/v1alpha1"),
            "kind": "RdsVolume",
            "metadata": {
                "name": volume.name_any(),
                "uid": volume.metadata.uid,
                "resourceVersion": volume.metadata.resource_version,
            },
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use kube::client::Body;
    use serde_json::Value;
    use tonic::codegen::http::{Request, Response};

    use super::*;

    fn volume() -> RdsVolume {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": "test-db", "uid": "u1", "resourceVersion": "7"},
            "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn i3_a_status_is_applied_to_the_object_that_was_read_and_no_other() {
        let sent = Arc::new(Mutex::new(Value::Null));
        let keep = sent.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let keep = keep.clone();
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                *keep.lock().unwrap() = serde_json::from_slice(&body).unwrap();
                Ok::<_, Infallible>(Response::new(Body::from(serde_json::to_vec(&volume()).unwrap())))
            }
        });
        let store = Store::new(&Client::new(service, "default"));
        store
            .apply_status(&volume(), &RdsVolumeStatus::default())
            .await
            .unwrap();
        assert_eq!(
            sent.lock().unwrap()["metadata"],
            json!({"name": "test-db", "uid": "u1", "resourceVersion": "7"})
        );
    }

    #[test]
    fn only_an_object_that_has_changed_or_gone_is_a_conflict() {
        let failed = |code: u16| {
            let status = Status {
                code,
                message: "RdsVolume \"test-db\" is invalid".into(),
                ..Status::default()
            };
            kube::Error::Api(Box::new(status))
        };
        for (code, conflict) in [(404, true), (409, true), (422, false), (403, false), (500, false)] {
            let error = ApiError::of(&volume(), failed(code));
            assert_eq!(matches!(error, ApiError::Conflict(_)), conflict, "{code}: {error}");
            let error = ApiError::read("its Node", &volume(), failed(code));
            assert_eq!(error.to_string(), "cannot read its Node for test-db", "{code}");
        }
    }
}
