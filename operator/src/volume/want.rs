//! [`Want`]: what an RdsVolume asks for, parsed once. Behind this line no id is a `String`.

use rds_crds::identity::{base_nqn, default_path, default_slot};
use rds_crds::names::{ANNOTATION_DELETE_REQUESTED, LABEL_MADE_BY, MADE_BY_CSI};
use rds_crds::volume::{AccessMode, DeletionPolicy, VolumeMode};
use rds_crds::{RdsServer, RdsVolume};

use crate::routeros::{Bytes, ClusterId, DiskId, DiskPath, Generation, Nonce, Nqn, OwnerTag, Slot, VolumeUid};
use crate::server::facts::{nqn_prefix, storage_port};

/// What an RdsVolume asks for.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    /// Slot, file and effective NQN.
    pub id: DiskId,
    /// The base NQN: what every generation's NQN begins with.
    pub base: String,
    /// Wanted size, rounded up to what the appliance can make.
    pub size: Bytes,
    /// TCP port of the export.
    pub port: u16,
    /// Address at which nodes reach it.
    pub address: String,
    /// Bind an existing disk instead of making one.
    pub adopt: bool,
    /// What happens to the data at the end.
    pub policy: DeletionPolicy,
    /// Made by CreateVolume.
    pub made_by_csi: bool,
    /// DeleteVolume (or a person) recorded its request for this very UID (D2).
    pub delete_requested: bool,
    /// The object is going away.
    pub deleting: bool,
    /// `namespace/claim`, for people.
    pub label: String,
    cluster: ClusterId,
    uid: VolumeUid,
}

/// A spec that cannot be fulfilled: what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfulfillable(pub String);

impl Want {
    /// Reads the spec. `server` is the RdsServer that it names.
    pub(crate) fn of(volume: &RdsVolume, server: &RdsServer, cluster: &ClusterId) -> Result<Self, Unfulfillable> {
        let (spec, status) = (&volume.spec, volume.status.as_ref());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let uid_text = volume.metadata.uid.as_deref().unwrap_or_default();
        let bad = |what: &str, why: &dyn std::fmt::Display| Unfulfillable(format!("{what} of volume {name}: {why}"));
        let uid: VolumeUid = uid_text.parse().map_err(|e| bad("uid", &e))?;
        let slot_text = spec
            .slot
            .clone()
            .or_else(|| status.and_then(|s| s.slot.clone()))
            .unwrap_or_else(|| default_slot(name, uid_text));
        let slot: Slot = slot_text.parse().map_err(|e| bad("spec.slot", &e))?;
        let base: DiskPath = server
            .spec
            .base_path
            .parse()
            .map_err(|e| bad("basePath of the server", &e))?;
        let path_text = spec
            .path
            .clone()
            .or_else(|| status.and_then(|s| s.path.clone()))
            .unwrap_or_else(|| default_path(base.as_str(), slot.as_str()));
        let path: DiskPath = path_text.parse().map_err(|e| bad("spec.path", &e))?;
        if !base.contains(path.as_str()) {
            return Err(bad(
                "spec.path",
                &format!("{path} is not below {base}, the basePath of server {}", spec.server),
            ));
        }
        let prefix = nqn_prefix(server);
        let base_name = spec.nqn.clone().unwrap_or_else(|| base_nqn(prefix, name));
        if !base_name.starts_with(prefix) {
            let why = format!(
                "`{base_name}` does not begin with `{prefix}`, the nqnPrefix of server {}: nodes would refuse it",
                spec.server
            );
            return Err(bad("spec.nqn", &why));
        }
        // After a fence the effective NQN is in the status; before, it is the base. While one runs it is the one to come, so
        // that the status says it before it is opened.
        let coming = status.and_then(|s| s.fence.as_ref()).map(|f| f.nqn.clone());
        let effective = coming
            .or_else(|| status.and_then(|s| s.nqn.clone()))
            .filter(|n| n.starts_with(&base_name))
            .unwrap_or_else(|| base_name.clone());
        let nqn: Nqn = effective.parse().map_err(|e| bad("spec.nqn", &e))?;
        let size = Bytes(spec.capacity.bytes())
            .aligned()
            .ok_or_else(|| bad("spec.capacity", &"is too large"))?;
        if spec.access_modes.contains(&AccessMode::ReadWriteMany) && spec.volume_mode != Some(VolumeMode::Block) {
            return Err(bad("spec.accessModes", &"ReadWriteMany needs volumeMode: Block"));
        }
        if spec.source.is_some() {
            return Err(bad(
                "spec.source",
                &"volumes from snapshots or volumes are not available yet; leave source out",
            ));
        }
        let connection = spec.connection.clone().unwrap_or_default();
        Ok(Self {
            id: DiskId { slot, path, nqn },
            base: base_name,
            size,
            port: connection.port.unwrap_or_else(|| storage_port(server)),
            address: connection
                .address
                .unwrap_or_else(|| server.spec.storage.address.clone()),
            adopt: spec.adopt == Some(true),
            policy: match (spec.adopt, spec.deletion_policy) {
                (Some(true), _) => DeletionPolicy::Retain,
                (_, policy) => policy.unwrap_or(DeletionPolicy::Retain),
            },
            made_by_csi: volume
                .metadata
                .labels
                .as_ref()
                .and_then(|l| l.get(LABEL_MADE_BY))
                .is_some_and(|v| v == MADE_BY_CSI),
            delete_requested: volume
                .metadata
                .annotations
                .as_ref()
                .and_then(|a| a.get(ANNOTATION_DELETE_REQUESTED))
                .is_some_and(|v| v == uid_text && !v.is_empty()),
            deleting: volume.metadata.deletion_timestamp.is_some(),
            label: spec
                .claim
                .as_ref()
                .map(|c| format!("{}/{}", c.namespace, c.name))
                .unwrap_or_default(),
            cluster: cluster.clone(),
            uid,
        })
    }

    /// The owner tag of a generation of this volume.
    pub(crate) fn tag(&self, generation: Generation, nonce: &Nonce) -> OwnerTag {
        OwnerTag::new(
            self.cluster.clone(),
            self.uid.clone(),
            generation,
            nonce.clone(),
            &self.label,
        )
    }

    /// Whether a tag names this volume of this cluster, in whatever generation.
    pub(crate) fn owns(&self, tag: &OwnerTag) -> bool {
        tag.cluster == self.cluster && tag.volume == self.uid
    }
}
