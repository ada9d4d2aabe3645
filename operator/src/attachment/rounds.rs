//! The full pass over all attachments, every few minutes and first of all after the lead was won: what a lost event would leave,
//! and what is left of a lost object store.
//!
//! A VolumeAttachment that is attached and has no RdsAttachment gets one again, exactly as ControllerPublishVolume would make
//! it. That admits nobody: the record of holders decides, as always (I4); where its node is missing in it too, the record has holes,
//! and that is recorded first. An error of the API skips and concludes nothing (R59).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use csi_proto::csi::v1 as csi;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use rds_crds::names::manager;
use rds_crds::volume::Role;
use rds_crds::{RdsAttachment, RdsVolume};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::metrics::AttachmentMetrics;
use super::record::{Change, changed};
use crate::crash;
use crate::server::fleet::Fleet;
use crate::telemetry::{Telemetry, chain};
use crate::volume::Trigger;
use crate::world::World;

/// Crash point behind an attachment that was made again.
pub(crate) const REBUILD: &str = "rebuild";

/// What a round needs.
pub(crate) struct Rounds {
    pub(crate) world: World,
    pub(crate) driver: String,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) triggers: Trigger,
    pub(crate) telemetry: Telemetry,
    pub(crate) metrics: AttachmentMetrics,
    pub(crate) every: Duration,
}

/// A first round that could not see all is made again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// Why an attachment could not be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The API server did not answer, or something changed meanwhile.
    Api,
    /// There is no such volume, or it cannot be attached so.
    Volume,
}

/// What Kubernetes holds for attached.
struct Wanted {
    wish: VolumeAttachment,
    volume: PersistentVolume,
    handle: String,
}

impl Rounds {
    /// Runs until `stop`, the first round at once (R57).
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            loop {
                if stop.run_until_cancelled(self.round()).await.is_none() {
                    return;
                }
                // Nobody new is admitted before the first one has seen all.
                if self.fleet.attachments_are_rebuilt() {
                    break;
                }
                if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    }

    async fn round(&self) {
        let (started, now) = (Instant::now(), Timestamp::now());
        let looked = self.wake();
        match self.rebuild().await {
            Ok((made, missing, unsure)) => {
                if unsure == 0 {
                    self.fleet.attachments_were_rebuilt();
                }
                if missing == 0 {
                    self.fleet.attachments_were_complete(now);
                }
                info!(
                    looked,
                    made,
                    missing,
                    took = started.elapsed().as_secs_f64(),
                    "round over the attachments"
                );
            }
            Err(error) => warn!(
                error = chain(&error),
                "the VolumeAttachments cannot be read: nothing is concluded"
            ),
        }
        self.telemetry
            .attachment_operation_seconds
            .with_label_values(&["reconcile"])
            .observe(started.elapsed().as_secs_f64());
    }

    /// Every volume that somebody holds, was cut from, or asks for, is looked at again, each by itself (R58, R60).
    fn wake(&self) -> usize {
        let mut names: BTreeSet<Arc<str>> = self.world.volumes.names_in_use().into_iter().collect();
        let migrates = |name: &Arc<str>| {
            let volume = self.world.volumes.get(name);
            let holders = volume
                .as_ref()
                .and_then(|v| v.status.as_ref())
                .map(|s| s.holders.as_slice());
            holders.is_some_and(|all| all.len() > 1 && all.iter().any(|h| h.role == Role::MigrationTarget))
        };
        self.metrics
            .migrating(names.iter().filter(|name| migrates(name)).count());
        names.extend(self.world.attachments.iter().map(|a| a.spec.volume.into()));
        names
            .into_iter()
            .filter(|name| self.triggers.send(name.clone()).is_ok())
            .count()
    }

    /// How many were made, how many could not be, and of these how many since the API server did not answer.
    async fn rebuild(&self) -> Result<(usize, usize, usize), kube::Error> {
        let (mut made, mut missing, mut unsure) = (0, 0, 0);
        for wanted in self.wanted().await? {
            match self.restore(&wanted).await {
                Ok(true) => made += 1,
                Ok(false) => {}
                Err((trouble, why)) => {
                    missing += 1;
                    unsure += usize::from(trouble == Trouble::Api);
                    warn!(
                        volume = wanted.handle,
                        node = wanted.wish.spec.node_name,
                        why,
                        "attached, and its RdsAttachment is missing"
                    );
                }
            }
        }
        Ok((made, missing, unsure))
    }

    /// The VolumeAttachments of this driver that are attached, with their volumes: live lists.
    async fn wanted(&self) -> Result<Vec<Wanted>, kube::Error> {
        let all = Api::<VolumeAttachment>::all(self.world.client.clone())
            .list(&ListParams::default())
            .await?
            .items;
        let ours =
            |a: &VolumeAttachment| a.spec.attacher == self.driver && a.status.as_ref().is_some_and(|s| s.attached);
        let all: Vec<VolumeAttachment> = all.into_iter().filter(ours).collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let volumes = Api::<PersistentVolume>::all(self.world.client.clone())
            .list(&ListParams::default())
            .await?
            .items;
        let volumes: BTreeMap<String, PersistentVolume> = volumes.into_iter().map(|v| (v.name_any(), v)).collect();
        let known = all.into_iter().filter_map(|wish| {
            let volume = volumes.get(wish.spec.source.persistent_volume_name.as_ref()?)?.clone();
            let handle = volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
            Some(Wanted { wish, volume, handle })
        });
        Ok(known.collect())
    }

    /// Whether an RdsAttachment was made.
    async fn restore(&self, wanted: &Wanted) -> Result<bool, (Trouble, String)> {
        let node = &wanted.wish.spec.node_name;
        let name = rds_crds::identity::attachment_name(&wanted.handle, node);
        let holds = |v: &RdsVolume| {
            let status = v.status.as_ref();
            status.is_some_and(|s| s.holders.iter().any(|h| h.node == *node))
        };
        // The first round looks at the holders too: csi-attacher may have made a lost RdsAttachment again by now.
        let first = !self.fleet.attachments_are_rebuilt();
        let recorded = || self.world.volumes.get(&wanted.handle).is_some_and(|v| holds(&v));
        if self.world.attachments.get(&name).is_some() && (!first || recorded()) {
            return Ok(false);
        }
        let told = |what: &str, e: &kube::Error| (Trouble::Api, format!("cannot {what}: {}", chain(e)));
        let attachments: Api<RdsAttachment> = Api::all(self.world.client.clone());
        let found = attachments.get_opt(&name).await.map_err(|e| told("read it", &e))?;
        if found.is_some() && !first {
            return Ok(false);
        }
        let volumes: Api<RdsVolume> = Api::all(self.world.client.clone());
        let volume = volumes.get_opt(&wanted.handle).await;
        let Some(volume) = volume.map_err(|e| told("read its RdsVolume", &e))? else {
            return match found {
                Some(_) => Ok(false),
                None => Err((Trouble::Volume, "its RdsVolume is missing too".to_owned())),
            };
        };
        if !holds(&volume) {
            if wanted.wish.metadata.deletion_timestamp.is_some() {
                // Detached, and about to be forgotten.
                return Ok(false);
            }
            // Kubernetes was told that the node has the volume, and the record does not know of it: it was lost, or is older.
            let name = volume.name_any();
            let store = crate::volume::Store::new(&self.world.client);
            let open = changed(&volume, &Change::OpenRecord, Timestamp::now());
            let told = |e| {
                let why = format!("cannot record that the holders of RdsVolume {name} are not known: {e}");
                (Trouble::Api, why)
            };
            store.swap_status(&open).await.map_err(told)?;
            warn!(
                volume = name,
                node, "attached, and not recorded as a holder: who uses the volume is not known"
            );
        }
        if found.is_some() {
            return Ok(false);
        }
        let request = request(&wanted.volume, &wanted.handle, node);
        let object = crate::csi::attachment(request, &volume.spec).map_err(|e| (Trouble::Volume, e.to_string()))?;
        let parameters = PostParams {
            field_manager: Some(manager::CSI.to_owned()),
            dry_run: false,
        };
        let made = match attachments.create(&parameters, &object).await {
            Ok(made) => made,
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
            Err(e) => return Err(told("make it again", &e)),
        };
        crash::after(REBUILD);
        warn!(
            volume = wanted.handle,
            node, "attached, and its RdsAttachment was missing: made again"
        );
        self.telemetry.attachment_rounds.with_label_values(&["rebuild"]).inc();
        self.still_wanted(wanted, &made).await;
        Ok(true)
    }

    /// A detach that ended meanwhile found nothing to delete: then it is deleted here. One that comes later finds it.
    async fn still_wanted(&self, wanted: &Wanted, made: &RdsAttachment) {
        let wishes: Api<VolumeAttachment> = Api::all(self.world.client.clone());
        match wishes.get_opt(&wanted.wish.name_any()).await {
            Ok(Some(now)) if now.metadata.uid == wanted.wish.metadata.uid => return,
            Ok(_) => {}
            Err(error) => {
                debug!(error = chain(&error), "cannot read the VolumeAttachment again");
                return;
            }
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: made.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let attachments: Api<RdsAttachment> = Api::all(self.world.client.clone());
        if let Err(error) = attachments.delete(&made.name_any(), &parameters).await {
            warn!(
                attachment = made.name_any(),
                error = chain(&error),
                "nobody wants it any more, and it cannot be deleted"
            );
        }
    }
}

/// What csi-attacher asks for such a volume.
fn request(volume: &PersistentVolume, handle: &str, node: &str) -> csi::ControllerPublishVolumeRequest {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
    let spec = volume.spec.clone().unwrap_or_default();
    let source = spec.csi.unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    let mode = match (has("ReadWriteMany"), has("ReadOnlyMany"), has("ReadWriteOnce")) {
        (true, _, _) => Mode::MultiNodeMultiWriter,
        (false, true, true) => Mode::MultiNodeSingleWriter,
        (false, true, false) => Mode::MultiNodeReaderOnly,
        (false, false, _) if has("ReadWriteOncePod") => Mode::SingleNodeSingleWriter,
        (false, false, _) => Mode::SingleNodeMultiWriter,
    };
    let access_type = if spec.volume_mode.as_deref() == Some("Block") {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: source.fs_type.unwrap_or_default(),
            mount_flags: spec.mount_options.unwrap_or_default(),
            ..MountVolume::default()
        })
    };
    csi::ControllerPublishVolumeRequest {
        volume_id: handle.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(access_type),
        }),
        readonly: source.read_only.unwrap_or_default(),
        ..csi::ControllerPublishVolumeRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use rds_crds::volume::{AccessMode, RdsVolumeSpec};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_restored_attachment_is_the_one_that_publish_would_make() {
        let volume = |modes: serde_json::Value, mode: &str, read_only: bool| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pvc-1"}, "spec": {
                "accessModes": modes, "volumeMode": mode, "mountOptions": ["noatime"],
                "csi": {"driver": "d", "volumeHandle": "pvc-1", "fsType": "ext4", "readOnly": read_only},
            }}))
            .unwrap()
        };
        let spec = |modes: serde_json::Value, mode: &str| -> RdsVolumeSpec {
            serde_json::from_value(json!({"server": "s", "capacity": "1Gi", "accessModes": modes, "volumeMode": mode}))
                .unwrap()
        };
        for (modes, mode, read_only, wanted) in [
            (
                json!(["ReadWriteOnce"]),
                "Filesystem",
                false,
                (AccessMode::ReadWriteOnce, None),
            ),
            (
                json!(["ReadWriteOnce"]),
                "Filesystem",
                true,
                (AccessMode::ReadWriteOnce, Some(true)),
            ),
            (
                json!(["ReadWriteOncePod"]),
                "Filesystem",
                false,
                (AccessMode::ReadWriteOncePod, None),
            ),
            (
                json!(["ReadOnlyMany"]),
                "Filesystem",
                false,
                (AccessMode::ReadOnlyMany, Some(true)),
            ),
            (
                json!(["ReadWriteMany"]),
                "Block",
                false,
                (AccessMode::ReadWriteMany, None),
            ),
        ] {
            let asked = request(&volume(modes.clone(), mode, read_only), "pvc-1", "n1");
            let made = crate::csi::attachment(asked, &spec(modes, mode)).unwrap();
            assert_eq!((made.spec.access_mode, made.spec.read_only), wanted);
            assert_eq!(made.finalizers(), [rds_crds::names::FINALIZER]);
            assert_eq!((made.spec.volume.as_str(), made.spec.node.as_str()), ("pvc-1", "n1"));
        }
    }
}
