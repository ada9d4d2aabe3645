//! A person's word on the circuit breaker, where it may stand, and the one trial as its attachment is told of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use rds_crds::names::{ANNOTATION_RESET_BREAKER, manager};
use rds_crds::volume::CircuitBreakerStatus;
use rds_crds::{RdsAttachment, RdsVolume};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::info;

use crate::crash;
use crate::volume::{ApiError, persistent_volumes_of};
use crate::world::World;

/// An object that carries the annotation, by name and UID.
pub(super) enum Asked {
    Volume(String, Option<String>),
    Attachment(String, Option<String>),
    Persistent(String, Option<String>),
}

/// Where a reset is asked for: exactly `"true"` counts (R39). PersistentVolumes are read only while there is something to reset.
pub(super) async fn asked(
    volume: &RdsVolume,
    attachments: &[Arc<RdsAttachment>],
    world: &World,
    tripped: bool,
) -> Result<Vec<Asked>, ApiError> {
    let mut all = Vec::new();
    if says(volume) {
        all.push(Asked::Volume(volume.name_any(), volume.uid()));
    }
    let said = attachments.iter().filter(|a| says(a.as_ref()));
    all.extend(said.map(|a| Asked::Attachment(a.name_any(), a.uid())));
    if tripped {
        let found = persistent_volumes_of(&volume.name_any(), &world.client)
            .await
            .map_err(|e| ApiError::read("the PersistentVolumes", volume, e))?;
        let said = found.iter().filter(|pv| says(*pv));
        all.extend(said.map(|pv| Asked::Persistent(pv.name_any(), pv.uid())));
    }
    Ok(all)
}

fn says(object: &impl Resource) -> bool {
    object
        .annotations()
        .get(ANNOTATION_RESET_BREAKER)
        .is_some_and(|v| v == "true")
}

/// Takes the annotation off what was acted upon.
pub(super) async fn forget(all: &[Asked], world: &World) -> Result<(), ApiError> {
    for asked in all {
        match asked {
            Asked::Volume(name, uid) => drop_word::<RdsVolume>(world, name, uid.as_deref()).await?,
            Asked::Attachment(name, uid) => drop_word::<RdsAttachment>(world, name, uid.as_deref()).await?,
            Asked::Persistent(name, uid) => drop_word::<PersistentVolume>(world, name, uid.as_deref()).await?,
        }
    }
    Ok(())
}

async fn drop_word<K>(world: &World, name: &str, uid: Option<&str>) -> Result<(), ApiError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<Scope = kube::core::ClusterResourceScope>,
{
    let patch = json!({"metadata": {"uid": uid, "annotations": {ANNOTATION_RESET_BREAKER: null}}});
    let api: Api<K> = Api::all(world.client.clone());
    gone_is_fine(
        api.patch(name, &params(), &Patch::Merge(&patch)).await.map(|_| ()),
        name,
    )?;
    info!(target: "audit", kind = %K::kind(&()), name, what = "circuit breaker reset");
    crash::after(super::STEPS[2]);
    Ok(())
}

/// Tells each attachment whether the trial is its own. By a patch of that field alone: what is applied names all others.
pub(super) async fn tell_trial(
    attachments: &[Arc<RdsAttachment>],
    status: &CircuitBreakerStatus,
    world: &World,
) -> Result<(), ApiError> {
    for attachment in attachments {
        let told = attachment.status.as_ref().and_then(|s| s.half_open_trial_until.clone());
        let mine = status
            .trial
            .as_ref()
            .filter(|t| Some(&t.attachment_uid) == attachment.metadata.uid.as_ref());
        let until = mine.map(|t| t.until.clone());
        if told == until {
            continue;
        }
        let patch = json!({"metadata": {"uid": attachment.metadata.uid}, "status": {"halfOpenTrialUntil": until}});
        let api: Api<RdsAttachment> = Api::all(world.client.clone());
        let name = attachment.name_any();
        gone_is_fine(
            api.patch_status(&name, &params(), &Patch::Merge(&patch))
                .await
                .map(|_| ()),
            &name,
        )?;
        crash::after(super::STEPS[3]);
    }
    Ok(())
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(manager::OPERATOR.to_owned()),
        ..PatchParams::default()
    }
}

fn gone_is_fine(done: Result<(), kube::Error>, name: &str) -> Result<(), ApiError> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(ApiError::named(name.to_owned(), error)),
        Ok(()) => Ok(()),
    }
}
