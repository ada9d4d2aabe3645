//! ControllerPublishVolume: write the RdsAttachment, wait until the lease holder has admitted it.
//!
//! Nothing is decided here: who may use a volume is decided by compare-and-swap on the RdsVolume. A refused RdsAttachment
//! stays, as it shows why a pod waits and is admitted once it can be; ControllerUnpublishVolume removes it.

use std::collections::HashMap;

use csi_proto::csi::v1::ControllerPublishVolumeRequest;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use rds_crds::attachment::{RdsAttachment, RdsAttachmentSpec};
use rds_crds::condition::find_condition;
use rds_crds::identity::attachment_name;
use rds_crds::names::{FINALIZER, LABEL_MADE_BY, MADE_BY_CSI, manager};
use rds_crds::volume::{AccessMode, Role, VolumeMode};
use rds_crds::{RdsVolume, RdsVolumeSpec};
use tokio::time::{Instant, sleep, timeout_at};

use super::capability::Capabilities;
use super::failure::{Admission, Failure, admission, shown};
use super::{Csi, LAG, STEPS, could_be_a_subdomain, is_code, rpc};
use crate::attachment::ADMITTED;
use crate::crash;
use crate::world::WaitEnded;

/// A checked request.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) volume: String,
    pub(super) node: String,
    mode: Mode,
    asked: Capabilities,
    read_only: bool,
}

impl TryFrom<ControllerPublishVolumeRequest> for Wish {
    type Error = Failure;

    fn try_from(request: ControllerPublishVolumeRequest) -> Result<Self, Failure> {
        // The VolumeContext is what a PV was told once: the volume itself counts, and of it nothing is compared.
        let said = |value: &str, what: &str| match value {
            "" => Err(Failure::Invalid(what.to_owned())),
            _ => Ok(()),
        };
        said(&request.volume_id, "volume_id is empty: say which volume to attach")?;
        said(
            &request.node_id,
            "node_id is empty: say the name of the node to attach it to",
        )?;
        let capability = request
            .volume_capability
            .ok_or_else(|| Failure::Invalid("volume_capability is missing: say how the volume will be used".into()))?;
        Ok(Self {
            volume: request.volume_id,
            node: request.node_id,
            mode: capability.access_mode.as_ref().map(|m| m.mode()).unwrap_or_default(),
            asked: Capabilities::parse(std::slice::from_ref(&capability))?,
            read_only: request.readonly,
        })
    }
}

/// The RdsAttachment that this request asks for, for whoever makes it again.
pub(crate) fn attachment(
    request: ControllerPublishVolumeRequest,
    volume: &RdsVolumeSpec,
) -> Result<RdsAttachment, Failure> {
    Wish::try_from(request)?.object(volume)
}

impl Wish {
    /// How the node will use the volume.
    fn usage(&self, volume: &RdsVolumeSpec) -> Result<(AccessMode, bool), Failure> {
        let has = volume.volume_mode.unwrap_or_default();
        if self.asked.mode != has {
            return Err(Failure::Invalid(format!(
                "volume {} has volumeMode {has:?}, not {:?}: correct volumeMode of its PersistentVolume",
                self.volume, self.asked.mode
            )));
        }
        let plain = self.asked.access.first().copied().unwrap_or(AccessMode::ReadWriteOnce);
        Ok(match self.mode {
            // One node that only reads is one node: the volume's own mode for that is the closest.
            Mode::SingleNodeReaderOnly => {
                let single = [AccessMode::ReadWriteOnce, AccessMode::ReadWriteOncePod];
                let own = single.into_iter().find(|mode| volume.access_modes.contains(mode));
                (own.unwrap_or(AccessMode::ReadOnlyMany), true)
            }
            Mode::MultiNodeReaderOnly => (plain, true),
            Mode::SingleNodeWriter
            | Mode::SingleNodeMultiWriter
            | Mode::SingleNodeSingleWriter
            | Mode::MultiNodeMultiWriter
            | Mode::MultiNodeSingleWriter
            | Mode::Unknown => (plain, self.read_only),
        })
    }

    /// The object that asks for it. The finalizer is there from the start: that saves a write and a gap.
    fn object(&self, volume: &RdsVolumeSpec) -> Result<RdsAttachment, Failure> {
        let (access_mode, reads) = self.usage(volume)?;
        let spec = RdsAttachmentSpec {
            volume: self.volume.clone(),
            node: self.node.clone(),
            read_only: reads.then_some(true),
            access_mode,
        };
        let mut attachment = RdsAttachment::new(&attachment_name(&self.volume, &self.node), spec);
        attachment
            .labels_mut()
            .insert(LABEL_MADE_BY.to_owned(), MADE_BY_CSI.to_owned());
        attachment.finalizers_mut().push(FINALIZER.to_owned());
        Ok(attachment)
    }
}

/// How an attachment is used, for people.
fn usage(spec: &RdsAttachmentSpec) -> String {
    let reads = if spec.read_only.unwrap_or_default() {
        "read-only"
    } else {
        "read-write"
    };
    format!("{:?} {reads}", spec.access_mode)
}

/// How an existing attachment differs from the wanted one.
fn difference(has: &RdsAttachmentSpec, asks: &RdsAttachmentSpec) -> Option<Failure> {
    let (volume, node) = (&asks.volume, &asks.node);
    if (&has.volume, &has.node) != (volume, node) {
        return Some(Failure::Conflict(format!(
            "the RdsAttachment of volume {volume} and node {node} has a name that belongs to volume {} and node {} already: \
             detach that one first",
            has.volume, has.node
        )));
    }
    let same =
        has.access_mode == asks.access_mode && has.read_only.unwrap_or_default() == asks.read_only.unwrap_or_default();
    (!same).then(|| {
        Failure::Conflict(format!(
            "volume {volume} is attached to node {node} as {} already, not as {}: detach it there first, or ask for the same",
            usage(has),
            usage(asks)
        ))
    })
}

/// A volume that a node may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) role: Option<Role>,
    pub(super) nqn: String,
    pub(super) address: String,
    pub(super) port: u16,
}

impl Attached {
    /// The PublishContext (K9). Informational: a node uses what the RdsAttachment says.
    fn context(&self, volume: &RdsVolumeSpec) -> HashMap<String, String> {
        let fs_type = (volume.volume_mode.unwrap_or_default() == VolumeMode::Filesystem)
            .then(|| format!("{:?}", volume.fs_type.unwrap_or_default()).to_lowercase());
        let told = [
            ("nvme_nqn", Some(self.nqn.clone())),
            ("nvme_address", Some(self.address.clone())),
            ("nvme_port", Some(self.port.to_string())),
            ("fs_type", fs_type),
        ];
        told.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect()
    }
}

/// What is seen of the attachment while waiting.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Admitted(Attached),
    /// Another node holds it.
    Conflict(String),
    Refused(Failure),
    Ending,
}

/// Pure: what the status says to a ControllerPublishVolume that waits. `None` is: wait on.
pub(super) fn judge(attachment: &RdsAttachment) -> Option<Seen> {
    if attachment.meta().deletion_timestamp.is_some() {
        return Some(Seen::Ending);
    }
    let status = attachment.status.as_ref()?;
    let said = find_condition(&status.conditions, ADMITTED)?;
    if said.status == "True" {
        return Some(Seen::Admitted(Attached {
            role: status.role,
            nqn: status.nqn.clone()?,
            address: status.address.clone()?,
            port: status.port?,
        }));
    }
    match admission(&said.reason) {
        Admission::Conflict => Some(Seen::Conflict(said.message.clone())),
        Admission::Migration => Some(Seen::Refused(Failure::Held(said.message.clone()))),
        Admission::Invalid => Some(Seen::Refused(Failure::Invalid(said.message.clone()))),
        Admission::Going => Some(Seen::Refused(Failure::Busy(said.message.clone()))),
        Admission::Soon | Admission::NotReady => None,
    }
}

/// Pure: what to answer when the deadline has come and the attachment is neither admitted nor refused.
pub(super) fn not_yet(volume: &str, node: &str, attachment: Option<&RdsAttachment>) -> Failure {
    let conditions = attachment
        .and_then(|a| a.status.as_ref())
        .map(|s| s.conditions.as_slice());
    let Some(said) = conditions.and_then(|c| find_condition(c, ADMITTED)) else {
        return Failure::Pending(format!(
            "volume {volume} is not attached to node {node} yet (nothing was reported so far; check that an operator holds \
             the Lease): call again, it goes on where it is"
        ));
    };
    let text = format!(
        "volume {volume} is not attached to node {node} yet ({}: {}): call again, it goes on where it is",
        said.reason, said.message
    );
    match admission(&said.reason) {
        Admission::NotReady => Failure::Unavailable(text),
        Admission::Soon | Admission::Going | Admission::Conflict | Admission::Migration | Admission::Invalid => {
            Failure::Busy(text)
        }
    }
}

impl Csi {
    fn attachments(&self) -> Api<RdsAttachment> {
        Api::all(self.world.client.clone())
    }

    /// The attachment of that name as it is now. `None` is proof that there is none.
    pub(super) async fn live_attachment(&self, name: &str) -> Result<Option<RdsAttachment>, Failure> {
        let what = format!("read RdsAttachment {name}");
        self.attachments()
            .get_opt(name)
            .await
            .map_err(|e| Failure::api(&what, &e))
    }

    /// The volume, which has to exist: from the cache, else by a fresh read.
    async fn existing(&self, name: &str) -> Result<RdsVolume, Failure> {
        if let Some(volume) = self.world.volumes.get(name) {
            return Ok((*volume).clone());
        }
        self.live(name).await?.ok_or_else(|| {
            Failure::NotFound(format!(
                "volume {} does not exist: check the PersistentVolume's volumeHandle",
                shown(name)
            ))
        })
    }

    /// Checks that there is such a node. Whether it is well is judged by the admission.
    async fn node_exists(&self, name: &str) -> Result<(), Failure> {
        if self.world.nodes.get(name).is_some() {
            return Ok(());
        }
        if !could_be_a_subdomain(name) {
            return Err(Failure::Invalid(format!(
                "node_id `{}` cannot be the name of a node: the node id of this driver is the name of the Node, in lower case",
                shown(name)
            )));
        }
        let api: Api<Node> = Api::all(self.world.client.clone());
        let what = format!("read Node {name}");
        let found = api.get_opt(name).await.map_err(|e| Failure::api(&what, &e))?;
        found.map(drop).ok_or_else(|| {
            Failure::NotFound(format!(
                "node {} does not exist: the node id of this driver is the name of the Node",
                shown(name)
            ))
        })
    }

    pub(super) async fn attach(
        &self,
        wish: Wish,
        deadline: Instant,
    ) -> Result<(Attached, HashMap<String, String>), Failure> {
        let (name, node) = (wish.volume.as_str(), wish.node.as_str());
        rpc::about(name);
        // Before the caches are filled nobody can be told who holds what (B18).
        self.synced()?;
        // By volume and node: while one node waits for the volume, the call that takes it from another has to pass.
        let _guard = self.in_flight.enter(&format!("{name} on node {node}"))?;
        let volume = self.existing(name).await?;
        self.node_exists(node).await?;
        let object = wish.object(&volume.spec)?;
        let id = object.name_any();
        loop {
            let found = self.find_or_attach(&object).await?;
            if let Some(failure) = difference(&found.spec, &object.spec) {
                return Err(failure);
            }
            let uid = found.uid().unwrap_or_default();
            if found.meta().deletion_timestamp.is_some() {
                self.former_gone(&object.spec, &id, &uid, deadline).await?;
                continue;
            }
            let mut there = false;
            let seen = self.world.attachments.wait(&id, deadline, &self.world.closing, |seen| {
                match seen.filter(|a| a.metadata.uid.as_deref() == Some(&uid)) {
                    Some(attachment) => {
                        there = true;
                        judge(attachment)
                    }
                    // Not in the cache yet, or no longer.
                    None => there.then_some(Seen::Ending),
                }
            });
            return match seen.await {
                Ok(Seen::Admitted(attached)) => {
                    let context = attached.context(&volume.spec);
                    Ok((attached, context))
                }
                Ok(Seen::Conflict(message)) => {
                    self.telemetry.attachment_conflicts.inc();
                    Err(Failure::Held(message))
                }
                Ok(Seen::Refused(failure)) => Err(failure),
                Ok(Seen::Ending) => Err(Failure::Busy(format!(
                    "volume {name} was taken from node {node} while it was attached: call again"
                ))),
                Err(WaitEnded::Deadline) => Err(not_yet(name, node, self.world.attachments.get(&id).as_deref())),
                Err(WaitEnded::Closing) => Err(closing(name, node, "attached to")),
            };
        }
    }

    /// A fresh look where the cache knows one, else the attempt to make it: what was found is never a memory.
    async fn find_or_attach(&self, object: &RdsAttachment) -> Result<RdsAttachment, Failure> {
        let name = object.name_any();
        if self.world.attachments.get(&name).is_some()
            && let Some(found) = self.live_attachment(&name).await?
        {
            return Ok(found);
        }
        let parameters = PostParams {
            field_manager: Some(manager::CSI.to_owned()),
            dry_run: false,
        };
        match self.attachments().create(&parameters, object).await {
            Ok(made) => {
                crash::after(STEPS[0]);
                Ok(made)
            }
            Err(e) if is_code(&e, 409) => self
                .live_attachment(&name)
                .await?
                .ok_or_else(|| Failure::Busy(format!("RdsAttachment {name} has just gone: call again"))),
            Err(e) => Err(Failure::api(&format!("create RdsAttachment {name}"), &e)),
        }
    }

    /// Waits until a former attachment of that node, which is being ended, is gone.
    async fn former_gone(
        &self,
        spec: &RdsAttachmentSpec,
        id: &str,
        uid: &str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let gone = self.world.attachments.wait(id, deadline, &self.world.closing, |seen| {
            seen.is_none_or(|a| a.metadata.uid.as_deref() != Some(uid))
                .then_some(())
        });
        let late = match gone.await {
            // A cache that lags behind is asked again after a moment.
            Ok(()) => timeout_at(deadline, sleep(LAG)).await.is_err(),
            Err(WaitEnded::Deadline) => true,
            Err(WaitEnded::Closing) => return Err(closing(&spec.volume, &spec.node, "attached to")),
        };
        if late {
            return Err(Failure::Busy(format!(
                "volume {} is still being detached from node {}, where it is wanted again: call again",
                spec.volume, spec.node
            )));
        }
        Ok(())
    }
}

/// What a waiting call is told when the process ends.
pub(super) fn closing(volume: &str, node: &str, doing: &str) -> Failure {
    Failure::Unavailable(format!(
        "this process is shutting down while volume {volume} is not {doing} node {node} yet: call again, it goes on where \
         it is"
    ))
}

#[cfg(test)]
mod tests;
