//! The full pass over all attachments, every few minutes and first of all after the lead was won: what a lost event would leave,
//! and what is left of a lost object store.
//!
//! A VolumeAttachment that is attached and has no RdsAttachment gets one again, exactly as ControllerPublishVolume would make
//! it. That admits nobody: the record of holders decides, as always (I4); where its node is missing in it too, the record has holes,
//! and that is recorded first. An error of the API skips and concludes nothing (R59).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
use super::shared_host_nqn::SharedHostNqns;
use super::unwanted::{Asked, Unwanted, asked_by_csi};
use super::volume_attachments::{Wanted, is_attached, request, wanted};
use crate::crash;
use crate::events::Announcer;
use crate::server::fleet::Fleet;
use crate::telemetry::{Telemetry, chain};
use crate::volume::Trigger;
use crate::world::World;

/// Crash point behind an attachment that was made again.
pub(crate) const REBUILD: &str = "rebuild";

/// What a round needs.
pub(crate) struct Resync {
    pub(crate) world: World,
    pub(crate) driver: String,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) triggers: Trigger,
    pub(crate) telemetry: Telemetry,
    pub(crate) metrics: AttachmentMetrics,
    pub(crate) announcer: Announcer,
    pub(crate) shared_host_nqns: SharedHostNqns,
    pub(crate) every: Duration,
    pub(crate) unwanted: Unwanted,
}

/// A round that left a volume undecided is made again: so soon, and ever later.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Resync {
    /// Runs until `stop`, the first round at once (R57).
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = AGAIN.0;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            loop {
                if stop.run_until_cancelled(self.round()).await.is_none() {
                    return;
                }
                // Nobody new is admitted to what no round could judge.
                if self.fleet.gate.is_wide_open() {
                    break;
                }
                if stop.run_until_cancelled(sleep(again)).await.is_none() {
                    return;
                }
                again = (again * 2).min(AGAIN.1);
            }
        }
    }

    async fn round(&self) {
        let (started, now) = (Instant::now(), Timestamp::now());
        let looked = self.wake();
        self.shared_host_nqns
            .tell(&self.world, &self.telemetry, &self.announcer);
        match self.rebuild().await {
            Ok((made, missing)) => {
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

    /// How many were made, and how many could not be.
    pub(super) async fn rebuild(&self) -> Result<(usize, usize), kube::Error> {
        // Before the lists: what is in them then is as young as what is judged by them, or younger.
        let asked = asked_by_csi(self.world.attachments.iter());
        let (wishes, volumes) = self.listed().await?;
        for unwanted in self.unwanted.ripe(&self.driver, asked, &wishes, &volumes) {
            self.end(&unwanted).await;
        }
        let all = wanted(&self.driver, wishes, volumes);
        let known: BTreeSet<(&str, &str)> = all
            .iter()
            .map(|w| (w.handle.as_str(), w.va.spec.node_name.as_str()))
            .collect();
        let gate = &self.fleet.gate;
        gate.forget(|volume, node| known.contains(&(volume, node)));
        let mut volumes: BTreeMap<&str, Vec<&Wanted>> = BTreeMap::new();
        for wanted in all.iter().filter(|w| !self.fits(w)) {
            volumes.entry(&wanted.handle).or_default().push(wanted);
        }
        gate.listed(volumes.keys().map(|volume| (*volume).to_owned()));
        let (mut made, mut missing) = (0, 0);
        for (volume, wishes) in volumes {
            let mut decided = true;
            for wanted in wishes {
                let done = match self.judge(wanted).await {
                    Ok(true) => self.restore(wanted).await,
                    Ok(false) => Ok(false),
                    Err(why) => {
                        decided = false;
                        Err(why)
                    }
                };
                match done {
                    Ok(restored) => made += usize::from(restored),
                    Err(why) => {
                        missing += 1;
                        warn!(
                            volume,
                            node = wanted.va.spec.node_name,
                            why,
                            "attached, and its RdsAttachment is missing"
                        );
                    }
                }
            }
            if decided {
                gate.decided(volume);
            }
        }
        Ok((made, missing))
    }

    /// Live.
    async fn listed(&self) -> Result<(Vec<VolumeAttachment>, Vec<PersistentVolume>), kube::Error> {
        let (wishes, volumes) = (
            Api::<VolumeAttachment>::all(self.world.client.clone()),
            Api::<PersistentVolume>::all(self.world.client.clone()),
        );
        let params = ListParams::default();
        let (wishes, volumes) = tokio::try_join!(wishes.list(&params), volumes.list(&params))?;
        Ok((wishes.items, volumes.items))
    }

    /// Asks for the detach that csi-attacher never asked for.
    async fn end(&self, unwanted: &Asked) {
        warn!(
            attachment = unwanted.name,
            volume = unwanted.volume,
            node = unwanted.node,
            "no VolumeAttachment wants it any more, and nobody has asked for its detach: it is asked for now"
        );
        self.telemetry.attachment_rounds.with_label_values(&["unwanted"]).inc();
        self.delete(&unwanted.name, &unwanted.uid).await;
    }

    /// Whether the caches show all that belongs to it. The first look at a volume wants its holder too: csi-attacher may have made a
    /// lost RdsAttachment again by now.
    fn fits(&self, wanted: &Wanted) -> bool {
        let node = &wanted.va.spec.node_name;
        let name = rds_crds::identity::attachment_name(&wanted.handle, node);
        let recorded = || self.world.volumes.get(&wanted.handle).is_some_and(|v| holds(&v, node));
        self.world.attachments.get(&name).is_some() && (self.fleet.gate.is_open(&wanted.handle) || recorded())
    }

    /// Opens the record of holders where it misses that node; whether its RdsAttachment is missing. An error: nothing is known.
    async fn judge(&self, wanted: &Wanted) -> Result<bool, String> {
        let node = &wanted.va.spec.node_name;
        let told = |what: &str, e: &kube::Error| format!("cannot {what}: {}", chain(e));
        let attachments: Api<RdsAttachment> = Api::all(self.world.client.clone());
        let name = rds_crds::identity::attachment_name(&wanted.handle, node);
        let found = attachments.get_opt(&name).await.map_err(|e| told("read it", &e))?;
        if found.is_some() && self.fleet.gate.is_open(&wanted.handle) {
            return Ok(false);
        }
        let volumes: Api<RdsVolume> = Api::all(self.world.client.clone());
        let volume = volumes
            .get_opt(&wanted.handle)
            .await
            .map_err(|e| told("read its RdsVolume", &e))?
            .ok_or("its RdsVolume is missing too")?;
        if holds(&volume, node) {
            return Ok(found.is_none());
        }
        // A detach is asked for before a holder goes: read behind the holders, only this tells a hole from a detach.
        let wishes: Api<VolumeAttachment> = Api::all(self.world.client.clone());
        let va = wishes.get_opt(&wanted.va.name_any()).await;
        let va = va.map_err(|e| told("read its VolumeAttachment again", &e))?;
        let still = |w: &VolumeAttachment| {
            w.metadata.uid == wanted.va.metadata.uid && w.metadata.deletion_timestamp.is_none() && is_attached(w)
        };
        if !va.as_ref().is_some_and(still) {
            return Ok(false);
        }
        let explained = cut_since(&volume, &wanted.va) || self.fleet.gate.has_let_go(&wanted.handle, node);
        if !explained && !is_open(&volume) {
            let open = Change::OpenRecord;
            let store = crate::volume::Store::new(&self.world.client);
            store
                .swap_status(&changed(&volume, &open, Timestamp::now()))
                .await
                .map_err(|e| format!("cannot record that the holders of its RdsVolume are not known: {e}"))?;
            crash::after(open.name());
            warn!(
                volume = volume.name_any(),
                node, "attached, and not recorded as a holder: who uses the volume is not known"
            );
        }
        Ok(found.is_none())
    }

    /// Makes the RdsAttachment again; whether it was missing still.
    async fn restore(&self, wanted: &Wanted) -> Result<bool, String> {
        let node = &wanted.va.spec.node_name;
        let told = |what: &str, e: &kube::Error| format!("cannot {what}: {}", chain(e));
        let pv = wanted.volume.as_ref().ok_or("its PersistentVolume is missing too")?;
        let volumes: Api<RdsVolume> = Api::all(self.world.client.clone());
        let volume = volumes
            .get(&wanted.handle)
            .await
            .map_err(|e| told("read its RdsVolume", &e))?;
        let object =
            crate::csi::attachment(request(pv, &wanted.handle, node), &volume.spec).map_err(|e| e.to_string())?;
        let parameters = PostParams {
            field_manager: Some(manager::CSI.to_owned()),
            dry_run: false,
        };
        let attachments: Api<RdsAttachment> = Api::all(self.world.client.clone());
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
        match wishes.get_opt(&wanted.va.name_any()).await {
            Ok(Some(now)) if now.metadata.uid == wanted.va.metadata.uid => return,
            Ok(_) => {}
            Err(error) => {
                debug!(error = chain(&error), "cannot read the VolumeAttachment again");
                return;
            }
        }
        self.delete(&made.name_any(), made.uid().as_deref().unwrap_or_default())
            .await;
    }

    /// That very object.
    async fn delete(&self, name: &str, uid: &str) {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let attachments: Api<RdsAttachment> = Api::all(self.world.client.clone());
        if let Err(error) = attachments.delete(name, &parameters).await {
            warn!(
                attachment = name,
                error = chain(&error),
                "nobody wants it any more, and it cannot be deleted"
            );
        }
    }
}

fn holds(volume: &RdsVolume, node: &str) -> bool {
    let status = volume.status.as_ref();
    status.is_some_and(|s| s.holders.iter().any(|h| h.node == node))
}

/// Whether it is said already that the record of holders has holes.
fn is_open(volume: &RdsVolume) -> bool {
    let status = volume.status.as_ref();
    status.is_some_and(|s| s.holders_unknown_since.is_some())
}

/// Whether the node was cut off after it was attached: then it is no holder rightly. A cut of before says nothing, as the node may have
/// got the volume again since.
fn cut_since(volume: &RdsVolume, va: &VolumeAttachment) -> bool {
    let Some(made) = &va.metadata.creation_timestamp else {
        return false;
    };
    let status = volume.status.as_ref();
    status.is_some_and(|s| s.fenced.iter().any(|f| f.node == va.spec.node_name && f.at.0 > made.0))
}
