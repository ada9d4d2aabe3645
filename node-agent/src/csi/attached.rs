//! What this node may use: the RdsAttachment of this node and its RdsVolume, read live, and the disk behind them.
//!
//! Nothing of a request but the volume's name comes in here, and nothing is taken from a cache.

use std::time::Duration;

use kube::ResourceExt;
use rds_crds::attachment::{AgentFormat, kind};
use rds_crds::condition::{find_condition, is_true};
use rds_crds::identity::attachment_name;
use rds_crds::volume::{FormatLedger, VolumeMode};
use rds_crds::{RdsAttachment, RdsVolume};
use tokio::time::Instant;

use super::Node;
use super::call::Call;
use super::failure::Failure;
use super::host::Disk;
use super::request::Access;
use crate::attachment::namespace::{Verdict, refusal};

/// Between two looks at the host.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two reads of the API server while waiting.
const READ_EVERY: Duration = Duration::from_secs(2);
/// The first waits for the operator's answer; then twice as long, up to [`READ_EVERY`].
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// An attachment of this node and its volume.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) object: RdsAttachment,
    pub(super) volume: RdsVolume,
}

impl Attached {
    pub(super) fn name(&self) -> String {
        self.object.name_any()
    }

    pub(super) fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn volume_uid(&self) -> &str {
        self.volume.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn read_only(&self) -> bool {
        self.object.reads_only()
    }

    pub(super) fn block(&self) -> bool {
        self.volume.spec.volume_mode == Some(VolumeMode::Block)
    }

    /// The filesystem that the volume is made with.
    pub(super) fn fs(&self) -> &'static str {
        self.volume.spec.fs_type.unwrap_or_default().as_str()
    }

    pub(super) fn ledger(&self) -> Option<&FormatLedger> {
        self.volume.status.as_ref()?.format.as_ref()
    }

    pub(super) fn said(&self) -> AgentFormat {
        let agent = self.object.status.as_ref().and_then(|s| s.agent.as_ref());
        agent.and_then(|a| a.format.clone()).unwrap_or_default()
    }

    pub(super) fn staged(&self) -> bool {
        let agent = self.object.status.as_ref().and_then(|s| s.agent.as_ref());
        agent.is_some_and(|a| is_true(&a.conditions, kind::STAGED))
    }

    /// The NQN to use; `None` while it is not admitted.
    fn nqn(&self) -> Option<&str> {
        let status = self.object.status.as_ref()?;
        status
            .nqn
            .as_deref()
            .filter(|_| is_true(&status.conditions, kind::ADMITTED))
    }

    /// Whether it was ever told where its disk is.
    pub(super) fn has_nqn(&self) -> bool {
        self.object.status.as_ref().is_some_and(|s| s.nqn.is_some())
    }

    /// A detach is under way, or done: nothing begins any more.
    fn leaving(&self) -> bool {
        let status = self.object.status.as_ref();
        let admitted = status.and_then(|s| find_condition(&s.conditions, kind::ADMITTED));
        let agent = status.and_then(|s| s.agent.as_ref());
        self.object.metadata.deletion_timestamp.is_some()
            || admitted.is_some_and(|c| c.reason == kind::WITHDRAWN)
            || agent.is_some_and(|a| is_true(&a.conditions, kind::DISCONNECTED))
    }

    /// What is waited for, in words.
    fn waits_for(&self) -> String {
        let status = self.object.status.as_ref();
        let of = |all: Option<&[_]>, kind| {
            all.and_then(|c| find_condition(c, kind))
                .map(|c| format!("{}: {}", c.reason, c.message))
        };
        let admitted = of(status.map(|s| s.conditions.as_slice()), kind::ADMITTED);
        let agent = status.and_then(|s| s.agent.as_ref());
        let connected = of(agent.map(|a| a.conditions.as_slice()), kind::CONNECTED);
        match (self.nqn(), admitted, connected) {
            (None, Some(why), _) => format!("it is not admitted ({why})"),
            (None, None, _) => "the operator has not admitted it yet".to_owned(),
            (Some(_), _, Some(why)) => format!("the connection, and the identity of the disk behind it ({why})"),
            (Some(_), _, None) => "the connection to the appliance, and the identity of the disk behind it".to_owned(),
        }
    }

    /// The request fits the volume.
    pub(super) fn fits(&self, access: &Access) -> Result<(), Failure> {
        let name = self.volume.name_any();
        match (access, self.block()) {
            (Access::Block, true) | (Access::Filesystem { .. }, false) => Ok(()),
            (Access::Block, false) => Err(Failure::NotNow(format!(
                "volume {name} has volumeMode Filesystem and is asked for as a raw block device: use volumeMode: Filesystem, or \
                 make a volume with volumeMode: Block"
            ))),
            (Access::Filesystem { .. }, true) => Err(Failure::NotNow(format!(
                "volume {name} has volumeMode Block and is asked for with a filesystem: use volumeMode: Block, or make a volume \
                 with volumeMode: Filesystem"
            ))),
        }
    }
}

impl Node {
    /// Reads live what this node has of the volume.
    pub(super) async fn find(&self, volume: &str) -> Result<Attached, Failure> {
        let node = self.agent.node();
        let name = attachment_name(volume, &node);
        let (object, found) = tokio::join!(
            self.agent.attachments().get_opt(&name),
            self.agent.volumes().get_opt(volume)
        );
        let object = object.map_err(|e| Failure::api(&format!("read RdsAttachment {name}"), &e))?;
        let found = found.map_err(|e| Failure::api(&format!("read RdsVolume {volume}"), &e))?;
        let Some(found) = found else {
            return Err(Failure::NotFound(format!(
                "volume {volume} does not exist: there is no RdsVolume of this name. Check volumeHandle of the PersistentVolume"
            )));
        };
        let ours = |a: &RdsAttachment| a.spec.volume == volume && a.spec.node == node;
        let Some(object) = object.filter(ours) else {
            return Err(Failure::NotFound(format!(
                "volume {volume} is not attached to node {node}: there is no RdsAttachment {name}. It is made by \
                 ControllerPublishVolume: look at the VolumeAttachments and at csi-attacher"
            )));
        };
        Ok(Attached { object, volume: found })
    }

    /// The volume as this node may begin to use it: attached, and not going away.
    pub(super) async fn usable(&self, volume: &str) -> Result<Attached, Failure> {
        let attached = self.find(volume).await?;
        if attached.leaving() {
            return Err(Failure::NotNow(format!(
                "volume {volume} is being detached from node {}: it is attached anew once that is done",
                self.agent.node()
            )));
        }
        Ok(attached)
    }

    /// Waits for the connection, and finds the disk. Kubelet may be faster than the agent's loop, which connects.
    pub(super) async fn connected(&self, call: &Call, mut attached: Attached) -> Result<(Attached, Disk), Failure> {
        let mut read = Instant::now();
        loop {
            if let Some(nqn) = attached
                .nqn()
                .filter(|_| self.agent.intends(&attached.object))
                .map(str::to_owned)
                && let Some(disk) = self.disk(call, nqn).await?
                && disk.live
                && disk.size > 0
                && self.recorded(&attached, &disk)?
            {
                return Ok((attached, disk));
            }
            if call.over() {
                return Err(Failure::Unavailable(format!(
                    "volume {} cannot be used on node {} yet, it waits for: {}",
                    call.volume(),
                    self.agent.node(),
                    attached.waits_for()
                )));
            }
            call.pause(LOOK_EVERY).await;
            // Intent and namespace are written by our own loop, around the connect: read more often until they are there.
            let said = attached.object.status.as_ref().and_then(|s| s.agent.as_ref());
            let every = if self.agent.intends(&attached.object) && said.is_some_and(|a| a.namespace.is_some()) {
                READ_EVERY
            } else {
                LOOK_EVERY * 4
            };
            if read.elapsed() >= every {
                // It may not have looked since the disk came.
                self.wake(&attached.name());
                attached = self.usable(call.volume()).await?;
                read = Instant::now();
            }
        }
    }

    /// Whether the namespace behind that connection is recorded: from then on a change of it is seen.
    fn recorded(&self, attached: &Attached, disk: &Disk) -> Result<bool, Failure> {
        let said = attached.object.status.as_ref().and_then(|s| s.agent.as_ref());
        Ok(match self.same(attached, disk)? {
            Verdict::Fits(now) => said.and_then(|a| a.namespace.as_ref()) == Some(&now),
            Verdict::NotShown | Verdict::Changed(_) => false,
        })
    }

    /// Refuses a disk that is not the one that its connection began with (I5).
    fn same(&self, attached: &Attached, disk: &Disk) -> Result<Verdict, Failure> {
        let identity = disk.identity.as_deref();
        match self.agent.judge(&attached.object, &disk.connections, identity) {
            Verdict::Changed(was) => {
                self.wake(&attached.name());
                let why = refusal(&disk.nqn, &was, identity.unwrap_or_default());
                Err(Failure::NotNow(format!("volume {}: {why}", attached.volume.name_any())))
            }
            fits @ (Verdict::Fits(_) | Verdict::NotShown) => Ok(fits),
        }
    }

    /// The disk of an NQN, looked up anew.
    pub(super) async fn disk(&self, call: &Call, nqn: String) -> Result<Option<Disk>, Failure> {
        let host = self.host.clone();
        let found = call.run("the look at the disk", move || Ok(host.disk(&nqn)?)).await?;
        Ok(found)
    }

    /// The disk of an attached volume, if there is one; another than its connection began with is an error.
    pub(super) async fn disk_of(&self, call: &Call, attached: &Attached) -> Result<Option<Disk>, Failure> {
        let Some(nqn) = attached.object.status.as_ref().and_then(|s| s.nqn.clone()) else {
            return Ok(None);
        };
        let found = self.disk(call, nqn).await?;
        if let Some(disk) = &found {
            self.same(attached, disk)?;
        }
        Ok(found)
    }

    /// Reads the volume again after a wait that grows: for answers of the operator.
    pub(super) async fn again(&self, call: &Call, wait: &mut Duration, what: &str) -> Result<Attached, Failure> {
        if call.over() {
            return Err(Failure::Unavailable(format!(
                "volume {}: the operator has not recorded {what} yet; check that an operator holds its Lease, the call is retried",
                call.volume()
            )));
        }
        *wait = (*wait * 2).clamp(FIRST_WAIT, READ_EVERY);
        call.pause(*wait).await;
        self.usable(call.volume()).await
    }
}
