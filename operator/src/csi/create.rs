//! CreateVolume: write the RdsVolume, wait until it is ready.
//!
//! Idempotent by name. A refusal that nothing can change is answered only after the object that this call made is gone
//! (by UID), and only where no earlier call of the name has left one, so that a final code never leaves anything behind.
//! The one exception is AlreadyExists, which CSI asks for where the volume of that name is another one than is wanted.

use std::sync::Arc;

use csi_proto::csi::v1::{CreateVolumeRequest, CreateVolumeResponse, Topology, TopologyRequirement};
use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::identity::volume_name;
use rds_crds::names::{FINALIZER, LABEL_MADE_BY, MADE_BY_CSI, manager};
use rds_crds::volume::{AccessMode, DeletionPolicy, VolumeMode};
use rds_crds::{RdsServer, RdsVolume, RdsVolumeSpec};
use tokio::time::Instant;

use super::capability::Capabilities;
use super::failure::{Failure, Verdict, shown, verdict};
use super::parameters::Parameters;
use super::size::Range;
use super::{Csi, VOLUME_STEPS, context, is_code, placement, rpc};
use crate::crash;

/// Longest CSI name: that of the schema.
const NAME_MAX: usize = 256;

/// A checked request.
#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    request_name: Option<String>,
    range: Range,
    capabilities: Capabilities,
    parameters: Parameters,
    topology: Option<TopologyRequirement>,
}

/// The name of the object for that of a request.
fn object_name(name: &str) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::Invalid("name is empty: say the name of the volume".into()));
    }
    if name.len() > NAME_MAX {
        return Err(Failure::Invalid(format!(
            "name has {} bytes: give one of at most {NAME_MAX}",
            name.len()
        )));
    }
    Ok(volume_name(name))
}

/// Whether a new, empty volume of these modes can ever be of use.
fn usable(access: &[AccessMode]) -> Result<(), Failure> {
    if !access.contains(&AccessMode::ReadOnlyMany) {
        return Ok(());
    }
    let how =
        "ask for ReadWriteOnce alone, fill the volume, and let pods that only read mount the claim with readOnly: true";
    if access.iter().all(|mode| *mode == AccessMode::ReadOnlyMany) {
        return Err(Failure::Invalid(format!(
            "a volume of ReadOnlyMany alone would stay empty for ever, as nothing can write to it and it cannot be made from a \
             snapshot or another volume yet: {how}"
        )));
    }
    if access.contains(&AccessMode::ReadWriteMany) {
        return Ok(());
    }
    Err(Failure::Invalid(format!(
        "ReadOnlyMany together with {:?} is refused, as csi-attacher never attaches a PersistentVolume that has both: {how}",
        access[0]
    )))
}

impl Wanted {
    fn parse(name: String, request: CreateVolumeRequest) -> Result<Self, Failure> {
        let capabilities = Capabilities::parse(&request.volume_capabilities)?;
        usable(&capabilities.access)?;
        if request.volume_content_source.is_some() {
            return Err(Failure::Invalid(
                "volumes from a snapshot or another volume are not supported yet: create an empty one and copy the data"
                    .into(),
            ));
        }
        if let Some(key) = request.mutable_parameters.keys().min() {
            return Err(Failure::Invalid(format!(
                "mutable parameter `{}` is not supported: remove the VolumeAttributesClass",
                shown(key)
            )));
        }
        let mut parameters = Parameters::parse(&request.parameters)?;
        parameters.fs_type = match (capabilities.mode, capabilities.fs_type, parameters.fs_type) {
            (VolumeMode::Block, _, _) => None,
            (VolumeMode::Filesystem, asked, given) => asked.or(given),
        };
        Ok(Self {
            request_name: (name != request.name).then_some(request.name),
            name,
            range: Range::for_creation(request.capacity_range.as_ref())?,
            capabilities,
            parameters,
            topology: request.accessibility_requirements,
        })
    }

    /// The object that asks for it. The finalizer is there from the start: that saves a write and a gap.
    fn object(&self, server: &RdsServer) -> Result<RdsVolume, Failure> {
        let parameters = &self.parameters;
        placement::check(parameters, server)?;
        let identity = placement::identity(&self.name, parameters, server)?;
        let block = self.capabilities.mode == VolumeMode::Block;
        let mut volume = RdsVolume::new(
            &self.name,
            RdsVolumeSpec {
                server: server.name_any(),
                capacity: self.range.size,
                slot: Some(identity.slot),
                path: Some(identity.path),
                nqn: Some(identity.nqn),
                request_name: self.request_name.clone(),
                volume_mode: Some(self.capabilities.mode),
                access_modes: self.capabilities.access.clone(),
                fs_type: (!block).then(|| parameters.fs_type.unwrap_or_default()),
                mkfs_options: if block {
                    Vec::new()
                } else {
                    parameters.mkfs_options.clone()
                },
                mount_options: self.capabilities.mount_options.clone(),
                connection: parameters.connection.clone(),
                migration_timeout_seconds: parameters.migration_timeout_seconds,
                migration_policy: parameters.migration_policy,
                circuit_breaker: None,
                deletion_policy: Some(DeletionPolicy::Delete),
                source: None,
                adopt: None,
                claim: parameters.claim.clone(),
            },
        );
        volume
            .labels_mut()
            .insert(LABEL_MADE_BY.to_owned(), MADE_BY_CSI.to_owned());
        volume.finalizers_mut().push(FINALIZER.to_owned());
        Ok(volume)
    }

    /// How an existing volume of this name differs from what is asked, in words.
    fn difference(&self, existing: &RdsVolume, wanted: &RdsVolume) -> Option<String> {
        let (has, asks) = (&existing.spec, &wanted.spec);
        if !self.range.fits(has.capacity) {
            return Some(format!("its size is {}, not {}", has.capacity, asks.capacity));
        }
        // What follows from the server alone may have moved since with the server's spec: only what was said counts.
        let said = &self.parameters;
        let checks = [
            ("requestName", has.request_name == asks.request_name),
            ("server", has.server == asks.server),
            (
                "volumeMode",
                has.volume_mode.unwrap_or_default() == asks.volume_mode.unwrap_or_default(),
            ),
            ("accessModes", has.access_modes == asks.access_modes),
            (
                "fsType",
                has.fs_type.unwrap_or_default() == asks.fs_type.unwrap_or_default(),
            ),
            ("mkfsOptions", has.mkfs_options == asks.mkfs_options),
            ("mountOptions", has.mount_options == asks.mount_options),
            ("connection", has.connection == asks.connection),
            (
                "migrationTimeoutSeconds",
                has.migration_timeout_seconds == asks.migration_timeout_seconds,
            ),
            ("migrationPolicy", has.migration_policy == asks.migration_policy),
            ("volumePath", said.volume_path.is_none() || has.path == asks.path),
            ("nqnPrefix", said.nqn_prefix.is_none() || has.nqn == asks.nqn),
            ("source", has.source.is_none() && !has.adopt.unwrap_or_default()),
        ];
        let differs: Vec<_> = checks
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(what, _)| what)
            .collect();
        (!differs.is_empty()).then(|| format!("it differs in {}", differs.join(", ")))
    }
}

/// What is seen of the volume while waiting.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Ready,
    Failed(Failure),
    Refused(Failure),
    Gone,
}

/// Pure: what the status says to a CreateVolume that waits. `None` is: wait on.
pub(super) fn judge(volume: &RdsVolume) -> Option<Seen> {
    let name = volume.name_any();
    if volume.meta().deletion_timestamp.is_some() {
        return Some(Seen::Failed(going(&name)));
    }
    let status = volume.status.as_ref()?;
    let generation = volume.meta().generation;
    let current = |observed: Option<i64>| observed.zip(generation).is_some_and(|(seen, is)| seen >= is);
    let now = |kind| find_condition(&status.conditions, kind).filter(|c| current(c.observed_generation));
    if is_true(&status.conditions, kind::READY) && now(kind::READY).is_some() && status.capacity.is_some() {
        return Some(Seen::Ready);
    }
    // Only a stalled volume has been refused for good: a mere "not ready" may still turn out to be our own disk.
    let said = now(kind::STALLED).filter(|c| c.status == "True")?;
    let text = |how: &str| format!("volume {name} cannot be made: {}; {how}", said.message);
    match verdict(&said.reason) {
        Verdict::Full => Some(Seen::Refused(Failure::Full(text("free or add space, or ask for less")))),
        Verdict::Taken => Some(Seen::Refused(Failure::Conflict(text(
            "rename or remove what is in the way on the appliance",
        )))),
        Verdict::Invalid => Some(Seen::Refused(Failure::Invalid(text(
            "correct the StorageClass or the claim",
        )))),
        Verdict::Retry => Some(Seen::Failed(Failure::Unavailable(text(
            "it goes on by itself once that is put right",
        )))),
        Verdict::Wait => None,
    }
}

/// What a call has found good, and the volume that was there or was made for it.
struct Begun {
    wanted: Wanted,
    object: RdsVolume,
    server: Arc<RdsServer>,
    topology: Vec<Topology>,
    made: RdsVolume,
}

fn going(name: &str) -> Failure {
    Failure::Busy(format!(
        "a volume named {name} is still being deleted: wait until it is gone, then call again"
    ))
}

impl Csi {
    pub(super) async fn create(
        &self,
        request: CreateVolumeRequest,
        deadline: Instant,
    ) -> Result<CreateVolumeResponse, Failure> {
        let name = object_name(&request.name)?;
        rpc::about(&name);
        self.synced()?;
        let _guard = self.in_flight.enter(&name)?;
        let Begun {
            wanted,
            object,
            server,
            topology,
            made,
        } = match self.begin(name.clone(), request).await {
            Ok(begun) => begun,
            Err(refusal) => return Err(self.unless_there(&name, refusal).await),
        };
        if made.meta().deletion_timestamp.is_some() {
            return Err(going(&name));
        }
        if let Some(difference) = wanted.difference(&made, &object) {
            return Err(Failure::Conflict(format!(
                "volume {name} exists already and {difference}: delete it first, or ask for the same"
            )));
        }
        let uid = made.uid().unwrap_or_default();
        let mut there = false;
        let mut ready = None;
        let seen = self
            .world
            .wait_for_volume(&name, &uid, deadline, |volume| {
                let Some(volume) = volume else {
                    // Not in the cache yet, or no longer.
                    return there.then_some(Seen::Gone);
                };
                there = true;
                let seen = judge(volume);
                if seen == Some(Seen::Ready) {
                    ready = Some(volume.clone());
                }
                seen
            })
            .await
            .map_err(|ended| self.unfinished(&name, "ready", ended))?;
        match seen {
            Seen::Ready => {}
            Seen::Failed(failure) => return Err(failure),
            Seen::Gone => {
                return Err(Failure::Busy(format!(
                    "volume {name} was deleted while it was made: call again"
                )));
            }
            Seen::Refused(failure) => {
                // Final only once nothing is left; whatever prevents that makes it retryable.
                let gone = self.remove(&name, &uid, deadline).await;
                return Err(gone.err().map_or(failure.clone(), |left| {
                    Failure::Busy(format!("{failure}; what was begun is not cleaned up yet: {left}"))
                }));
            }
        }
        let volume = ready.unwrap_or(made);
        Ok(CreateVolumeResponse {
            volume: Some(context::volume(&volume, Some(&server), topology)),
        })
    }

    /// All that can be refused, and the one write.
    async fn begin(&self, name: String, request: CreateVolumeRequest) -> Result<Begun, Failure> {
        let wanted = Wanted::parse(name, request)?;
        let server = self.server_name(&wanted.parameters)?;
        let server = self.server(&server).await?;
        let topology = placement::topology(&server, wanted.topology.as_ref())?;
        let object = wanted.object(&server)?;
        let made = self.find_or_create(&object).await?;
        Ok(Begun {
            wanted,
            object,
            server,
            topology,
            made,
        })
    }

    /// A final refusal lets the provisioner forget the claim. What an earlier call has begun under that name would be left behind,
    /// seen by nobody: while it is there the call is to be repeated.
    async fn unless_there(&self, name: &str, refusal: Failure) -> Failure {
        if !refusal.is_final() {
            return refusal;
        }
        let found = match self.world.volumes.get(name) {
            Some(volume) => Ok(Some((*volume).clone())),
            None => self.live(name).await,
        };
        match found {
            Ok(None) => refusal,
            Ok(Some(volume)) if volume.meta().deletion_timestamp.is_some() => {
                Failure::Busy(format!("{refusal}; {}", going(name)))
            }
            Ok(Some(_)) => Failure::Busy(format!(
                "{refusal}; RdsVolume {name} of an earlier call is there, so this is tried again until that is put right: to \
                 give it up, delete the claim, then that object"
            )),
            Err(unread) => Failure::Unavailable(format!(
                "{refusal}; whether an earlier call has begun volume {name} is not known: {unread}"
            )),
        }
    }

    async fn find_or_create(&self, object: &RdsVolume) -> Result<RdsVolume, Failure> {
        let name = object.name_any();
        if let Some(existing) = self.world.volumes.get(&name) {
            return Ok((*existing).clone());
        }
        let parameters = PostParams {
            field_manager: Some(manager::CSI.to_owned()),
            dry_run: false,
        };
        match self.volumes().create(&parameters, object).await {
            Ok(made) => {
                crash::after(VOLUME_STEPS[0]);
                Ok(made)
            }
            Err(e) if is_code(&e, 409) => self
                .live(&name)
                .await?
                .ok_or_else(|| Failure::Busy(format!("volume {name} has just gone: call again"))),
            Err(e) => Err(Failure::api(&format!("create RdsVolume {name}"), &e)),
        }
    }
}
