//! DeleteVolume: record the request for this UID, delete the object by UID, wait until it is gone.
//!
//! Invariant D2: the deletion of the object alone removes no data; the reconciler acts on the recorded request.

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use rds_crds::RdsVolume;
use rds_crds::condition::{find_condition, kind};
use rds_crds::names::{ANNOTATION_DELETE_REQUESTED, manager};
use rds_crds::reason::Reason;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::failure::Failure;
use super::{Csi, LAG, VOLUME_STEPS, is_code, rpc};
use crate::crash;
use crate::world::WaitEnded;

/// Pure: who prevents the deletion.
pub(super) fn held(volume: &RdsVolume) -> Option<Failure> {
    let status = volume.status.as_ref()?;
    let nodes: Vec<_> = status.holders.iter().map(|h| h.node.as_str()).collect();
    let name = volume.name_any();
    if !nodes.is_empty() {
        return Some(Failure::Held(format!(
            "volume {name} is in use on {}: stop its pods and wait for the detach, then delete it",
            nodes.join(", ")
        )));
    }
    let blocked = find_condition(&status.conditions, kind::DELETION_BLOCKED).filter(|c| c.status == "True")?;
    (volume.meta().deletion_timestamp.is_some() && blocked.reason == Reason::InUse.as_str()).then(|| {
        Failure::Held(format!(
            "volume {name} cannot be deleted: {}; stop its pods first",
            blocked.message
        ))
    })
}

impl Csi {
    pub(super) async fn delete(&self, name: &str, deadline: Instant) -> Result<(), Failure> {
        rpc::about(name);
        if name.is_empty() {
            return Err(Failure::Invalid(
                "volume_id is empty: say which volume to delete".into(),
            ));
        }
        let _guard = self.in_flight.enter(name)?;
        // What destroys reads fresh first.
        let Some(volume) = self.live(name).await? else {
            return Ok(());
        };
        if let Some(failure) = held(&volume) {
            return Err(failure);
        }
        self.remove(name, &volume.uid().unwrap_or_default(), deadline).await
    }

    /// Asks for the removal of that object and its data, and waits until it is gone. OK means gone (I7).
    pub(super) async fn remove(&self, name: &str, uid: &str, deadline: Instant) -> Result<(), Failure> {
        if !self.request_removal(name, uid).await? {
            return Ok(());
        }
        loop {
            let blocked = self.world.wait_for_volume(name, uid, deadline, |volume| match volume {
                None => Some(None),
                Some(volume) => held(volume).map(Some),
            });
            match blocked.await {
                Ok(Some(failure)) => return Err(failure),
                Ok(None) => {}
                Err(ended) => return Err(self.unfinished(name, "deleted", ended)),
            }
            // The cache may not have seen the object yet: only a fresh read proves absence.
            if self
                .live(name)
                .await?
                .is_none_or(|volume| volume.uid().as_deref() != Some(uid))
            {
                return Ok(());
            }
            if timeout_at(deadline, sleep(LAG)).await.is_err() {
                return Err(self.unfinished(name, "deleted", WaitEnded::Deadline));
            }
        }
    }

    /// Records the request and deletes the object; both hold for this UID only. Says whether there was anything to do.
    async fn request_removal(&self, name: &str, uid: &str) -> Result<bool, Failure> {
        let request = json!({"metadata": {"uid": uid, "annotations": {ANNOTATION_DELETE_REQUESTED: uid}}});
        let parameters = PatchParams {
            field_manager: Some(manager::CSI.to_owned()),
            ..PatchParams::default()
        };
        match self.volumes().patch(name, &parameters, &Patch::Merge(&request)).await {
            Ok(patched) if patched.meta().deletion_timestamp.is_some() => return Ok(true),
            Ok(_) => crash::after(VOLUME_STEPS[1]),
            Err(e) if is_code(&e, 404) => return Ok(false),
            // Another object of that name: ours is gone.
            Err(e) if is_code(&e, 409) || is_code(&e, 422) => return self.still_there(name, uid, &e).await,
            Err(e) => return Err(Failure::api(&format!("record the deletion of RdsVolume {name}"), &e)),
        }
        let preconditions = Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        };
        let parameters = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.volumes().delete(name, &parameters).await {
            Ok(_) => {
                crash::after(VOLUME_STEPS[2]);
                Ok(true)
            }
            Err(e) if is_code(&e, 404) => Ok(false),
            Err(e) if is_code(&e, 409) => self.still_there(name, uid, &e).await,
            Err(e) => Err(Failure::api(&format!("delete RdsVolume {name}"), &e)),
        }
    }

    async fn still_there(&self, name: &str, uid: &str, error: &kube::Error) -> Result<bool, Failure> {
        match self.live(name).await? {
            Some(volume) if volume.uid().as_deref() == Some(uid) => {
                Err(Failure::api(&format!("delete RdsVolume {name}"), error))
            }
            Some(_) | None => Ok(false),
        }
    }
}
