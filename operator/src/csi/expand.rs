//! ControllerExpandVolume: raise `spec.capacity`, wait until the measured size has followed.
//!
//! A capacity that another field manager owns (Git) is not ours to raise. When the pool has no room, the capacity is put
//! back to the measured size before the final code is given: nothing of the request can happen later, and the user can
//! lower the claim.

use csi_proto::csi::v1::{ControllerExpandVolumeRequest, ControllerExpandVolumeResponse};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use rds_crds::condition::{find_condition, kind};
use rds_crds::names::manager;
use rds_crds::{RdsVolume, Reason, Size};
use serde_json::json;
use tokio::time::Instant;

use super::capability::Capabilities;
use super::failure::{Failure, Verdict, shown, verdict};
use super::size::Range;
use super::{Csi, VOLUME_STEPS, context, is_code, rpc};
use crate::crash;

/// Tools with which a person edits once, without owning the object from then on.
const PASSING_MANAGERS: [&str; 3] = ["kubectl-edit", "kubectl-patch", "kubectl-replace"];
/// How often a patch is tried anew when somebody else has just written.
const CONFLICTS: usize = 5;

/// Pure: the other field manager that keeps `spec.capacity`, if there is one.
#[must_use]
pub(super) fn capacity_owner(volume: &RdsVolume) -> Option<&str> {
    volume.meta().managed_fields.as_ref()?.iter().find_map(|entry| {
        let owner = entry.manager.as_deref().unwrap_or("unknown");
        let owns = entry
            .fields_v1
            .as_ref()
            .is_some_and(|fields| fields.0.pointer("/f:spec/f:capacity").is_some());
        let applied = entry.operation.as_deref() == Some("Apply");
        (owns && owner != manager::CSI && (applied || !PASSING_MANAGERS.contains(&owner))).then_some(owner)
    })
}

/// What is seen of the volume while waiting.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Grown(i64),
    Failed(Failure),
    Refused(Failure),
}

/// Pure: what the status says to an expansion to `wanted` that waits. `None` is: wait on.
pub(super) fn judge(volume: &RdsVolume, wanted: Size, generation: i64) -> Option<Seen> {
    let name = volume.name_any();
    let status = volume.status.as_ref()?;
    if status.capacity.is_some_and(|size| size >= wanted) {
        return Some(Seen::Grown(context::measured(volume)));
    }
    let now = |kind| {
        find_condition(&status.conditions, kind)
            .filter(|c| c.observed_generation.is_some_and(|seen| seen >= generation))
    };
    let said = now(kind::EXPAND_PENDING)
        .or_else(|| now(kind::STALLED))
        .filter(|c| c.status == "True")?;
    let text = |how: &str| format!("volume {name} cannot grow to {wanted}: {}; {how}", said.message);
    if said.reason == Reason::NeedsDetach.as_str() {
        return Some(Seen::Failed(Failure::Held(text("it then grows by itself"))));
    }
    match verdict(&said.reason) {
        Verdict::Full => Some(Seen::Refused(Failure::OutOfRange(text(
            "free or add space, or lower the request",
        )))),
        Verdict::Invalid => Some(Seen::Refused(Failure::OutOfRange(text("lower the request")))),
        Verdict::Taken | Verdict::Retry => Some(Seen::Failed(Failure::Unavailable(text(
            "it goes on by itself once that is put right",
        )))),
        Verdict::Wait => None,
    }
}

impl Csi {
    pub(super) async fn expand(
        &self,
        request: ControllerExpandVolumeRequest,
        deadline: Instant,
    ) -> Result<ControllerExpandVolumeResponse, Failure> {
        let name = request.volume_id.as_str();
        rpc::about(name);
        if name.is_empty() {
            return Err(Failure::Invalid(
                "volume_id is empty: say which volume to expand".into(),
            ));
        }
        let range = Range::for_expansion(request.capacity_range.as_ref())?;
        if let Some(capability) = &request.volume_capability {
            Capabilities::parse(std::slice::from_ref(capability))?;
        }
        self.synced()?;
        let _guard = self.in_flight.enter(name)?;
        let volume = self.raise(name, range).await?;
        let (uid, generation) = (
            volume.uid().unwrap_or_default(),
            volume.meta().generation.unwrap_or_default(),
        );
        // A repeated call may find it done already, before the cache does.
        if let Some(Seen::Grown(bytes)) = judge(&volume, range.size, generation) {
            return grown(bytes);
        }
        let seen = self
            .world
            .wait_for_volume(name, &uid, deadline, |volume| judge(volume?, range.size, generation));
        match seen.await.map_err(|ended| self.unfinished(name, "expanded", ended))? {
            Seen::Grown(bytes) => grown(bytes),
            Seen::Failed(failure) => Err(failure),
            Seen::Refused(failure) => {
                self.put_back(name, &uid, range.size).await?;
                Err(failure)
            }
        }
    }

    /// Sees to it that `spec.capacity` is what is asked. Returns the object as it then is.
    async fn raise(&self, name: &str, range: Range) -> Result<RdsVolume, Failure> {
        for _ in 0..CONFLICTS {
            let volume = self.live(name).await?.ok_or_else(|| {
                Failure::NotFound(format!(
                    "volume {} does not exist: check the PersistentVolume's volumeHandle",
                    shown(name)
                ))
            })?;
            let measured = volume.status.as_ref().and_then(|s| s.capacity);
            if let (Some(has), Some(limit)) = (measured, range.limit)
                && has > limit
            {
                return Err(Failure::OutOfRange(format!(
                    "volume {name} has {has} already, above the limit of {limit}: a volume never shrinks, raise the limit"
                )));
            }
            // Done already, or asked for already by an earlier call. A failed larger request is taken back.
            if measured.is_some_and(|has| has >= range.size) || volume.spec.capacity == range.size {
                return Ok(volume);
            }
            if let Some(owner) = capacity_owner(&volume) {
                if volume.spec.capacity > range.size {
                    return Ok(volume);
                }
                return Err(Failure::Invalid(format!(
                    "spec.capacity of RdsVolume {name} belongs to `{owner}`, not to the CSI driver: raise it in the \
                     manifest"
                )));
            }
            match self.set_capacity(&volume, range.size).await {
                Ok(patched) => {
                    crash::after(VOLUME_STEPS[3]);
                    return Ok(patched);
                }
                Err(e) if is_code(&e, 409) => {}
                Err(e) => return Err(Failure::api(&format!("raise spec.capacity of RdsVolume {name}"), &e)),
            }
        }
        Err(Failure::Busy(format!(
            "RdsVolume {name} is written by others all the time: call again"
        )))
    }

    /// Takes a refused request back, unless somebody has asked for something else since.
    async fn put_back(&self, name: &str, uid: &str, refused: Size) -> Result<(), Failure> {
        for _ in 0..CONFLICTS {
            let Some(volume) = self.live(name).await? else {
                return Ok(());
            };
            let measured = volume.status.as_ref().and_then(|s| s.capacity);
            let Some(measured) = measured.filter(|has| *has < refused) else {
                return Ok(());
            };
            if volume.uid().as_deref() != Some(uid)
                || volume.spec.capacity != refused
                || capacity_owner(&volume).is_some()
            {
                return Ok(());
            }
            match self.set_capacity(&volume, measured).await {
                Ok(_) => {
                    crash::after(VOLUME_STEPS[4]);
                    return Ok(());
                }
                Err(e) if is_code(&e, 409) => {}
                Err(e) => return Err(Failure::api(&format!("put spec.capacity of RdsVolume {name} back"), &e)),
            }
        }
        Err(Failure::Busy(format!(
            "RdsVolume {name} is written by others all the time: call again"
        )))
    }

    async fn set_capacity(&self, volume: &RdsVolume, to: Size) -> Result<RdsVolume, kube::Error> {
        let change = json!({
            "metadata": {"uid": volume.uid(), "resourceVersion": volume.resource_version()},
            "spec": {"capacity": to},
        });
        let parameters = PatchParams {
            field_manager: Some(manager::CSI.to_owned()),
            ..PatchParams::default()
        };
        self.volumes()
            .patch(&volume.name_any(), &parameters, &Patch::Merge(&change))
            .await
    }
}

/// The node step is always asked for: a repeated call must not lose it (B54); a node that has it done says so at once.
fn grown(capacity_bytes: i64) -> Result<ControllerExpandVolumeResponse, Failure> {
    Ok(ControllerExpandVolumeResponse {
        capacity_bytes,
        node_expansion_required: true,
    })
}
