//! The control plane on the host, as scenarios with an agent use it: the operator works for the appliance of the rig, the agent is the
//! one that ships, and the scenario plays kubelet at its socket.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use csi_proto::csi::v1 as csi;
use csi_proto::csi::v1::node_client::NodeClient;
use e2e::lab::NAMESPACE;
use e2e::vm::SHARE;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rds_crds::attachment::AgentStatus;
use rds_crds::condition::is_true;
use rds_crds::identity::attachment_name;
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};
use rds_node_agent::crash;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::node::{self, PLUGIN};
use crate::rig::{Rig, TARGET, until};
use e2e::supervisor::Supervised;

/// The RdsServer of the rig's appliance. Called `default`, since GetCapacity without parameters asks for that one.
pub(crate) const SERVER: &str = "default";

/// Emulated processors, and a control plane that shares them.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// How long kubelet waits for a call.
const CALL: Duration = Duration::from_secs(120);

/// Where kubelet would stage and publish.
pub(crate) const KUBELET: &str = "/var/lib/kubelet";

/// Where it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Port of the host's loopback that leads to SSH of the appliance.
    #[arg(long)]
    ssh_port: u16,
    /// Name of the Node that the agent is on.
    #[arg(long)]
    pub(crate) node: String,
    /// Name of another Node, whose agent is played on the host.
    #[arg(long)]
    pub(crate) other: String,
    /// Address and port of the operator's CSI service.
    #[arg(long)]
    pub(crate) controller: String,
    /// Folder of the programs of `e2e/tools`.
    #[arg(long)]
    pub(crate) tools: PathBuf,
}

/// It, from inside.
pub(crate) struct Plane {
    pub(crate) client: Client,
    /// The agent; it is started again when it ends.
    pub(crate) agent: Supervised,
    /// Where all is.
    pub(crate) options: Options,
}

/// Lives of the agent that end by themselves.
pub(crate) struct Doomed {
    steps: Vec<&'static str>,
    left: Arc<Mutex<VecDeque<&'static str>>>,
    /// Its log when they began.
    before: usize,
}

impl Plane {
    /// Makes the objects of the appliance, which the operator reaches at a port of the host's loopback, and starts the agent.
    pub(crate) fn start(rig: &Rig, options: Options) -> Result<Self> {
        node::prepare(&options.node, None)?;
        e2e::run(async {
            let client = e2e::cluster::client(&Path::new(SHARE).join("admin.kubeconfig")).await?;
            let plane = Self {
                agent: node::agent(&options.node)?,
                client,
                options,
            };
            plane.register(rig, plane.options.ssh_port).await?;
            Ok(plane)
        })
    }

    pub(crate) fn node(&self) -> &str {
        &self.options.node
    }

    /// SIGKILL for the agent. Its next lives end right after these steps, one each; the one after them lasts.
    pub(crate) fn doom(&self, steps: &[&'static str]) -> Result<Doomed> {
        let left = Arc::new(Mutex::new(VecDeque::from(steps.to_vec())));
        let (node, queue) = (self.node().to_owned(), left.clone());
        let before = self.agent.tail(usize::MAX).len();
        self.agent.remake(move || {
            let mut agent = node::agent_command(&node);
            let step = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            agent.envs(step.map(|step| (crash::VARIABLE, step)));
            agent
        });
        self.agent.restart()?;
        Ok(Doomed {
            steps: steps.to_vec(),
            left,
            before,
        })
    }

    /// All those lives are over, and each ended as it had to.
    pub(crate) fn survived(&self, doomed: &Doomed) -> Result<()> {
        let left = doomed.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(left.is_empty(), "no life of the agent came to {left:?}");
        let log = self.agent.tail(usize::MAX);
        let log = log.get(doomed.before..).unwrap_or_default();
        for step in &doomed.steps {
            ensure!(
                log.contains(&crash::last_words(step)),
                "no life of the agent ended after {step}"
            );
        }
        Ok(())
    }

    async fn register(&self, rig: &Rig, ssh_port: u16) -> Result<()> {
        let secret = serde_json::from_value(json!({
            "metadata": {"name": SERVER, "namespace": NAMESPACE},
            "stringData": {"rds-private-key": rig.sim.client_private_key(), "rds-host-key": rig.sim.host_key_line()},
        }))?;
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        secrets.create(&PostParams::default(), &secret).await?;
        let server = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": SERVER},
            "spec": {
                "management": {"address": "127.0.0.1", "port": ssh_port, "user": "metal-csi"},
                "secretRef": {"name": SERVER},
                "storage": {"address": TARGET},
                "basePath": "/storage-pool/metal-csi",
                // No self-test: its canary would meet what scenarios do to the appliance.
                "fencing": "Assume",
            },
        }))?;
        let servers: Api<RdsServer> = Api::all(self.client.clone());
        servers.create(&PostParams::default(), &server).await?;
        e2e::wait_until("the RdsServer to be Ready", SOON, async || {
            let status = servers.get(SERVER).await?.status.context("no status")?;
            ensure!(is_true(&status.conditions, "Ready"), "{:?}", status.conditions);
            Ok(())
        })
        .await
    }

    pub(crate) fn volumes(&self) -> Api<RdsVolume> {
        Api::all(self.client.clone())
    }

    pub(crate) fn attachments(&self) -> Api<RdsAttachment> {
        Api::all(self.client.clone())
    }

    /// Makes a volume by hand and waits until it is Ready.
    pub(crate) fn volume(&self, name: &str, more: Value) -> Result<Volume<'_>> {
        let name = format!("pvc-{name}");
        let mut object = json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name},
            "spec": {"server": SERVER, "capacity": "512Mi", "accessModes": ["ReadWriteOnce"], "deletionPolicy": "Delete"},
        });
        if let (Some(spec), Value::Object(more)) = (object["spec"].as_object_mut(), more) {
            spec.extend(more);
        }
        let object: RdsVolume = serde_json::from_value(object)?;
        e2e::run(async {
            self.volumes().create(&PostParams::default(), &object).await?;
            e2e::wait_until(&format!("RdsVolume {name} to be Ready"), SOON, async || {
                let status = self.volumes().get(&name).await?.status.context("no status")?;
                ensure!(is_true(&status.conditions, "Ready"), "{:?}", status.conditions);
                Ok(())
            })
            .await
        })?;
        Ok(Volume { plane: self, name })
    }

    /// Calls the agent at its socket; it may be starting.
    fn call<T>(&self, ask: impl AsyncFn(NodeClient<Channel>) -> Result<T, tonic::Status>) -> Result<T, tonic::Status> {
        e2e::run(async {
            let connected = e2e::wait_until("the agent's socket", SOON, async || socket().await).await;
            let channel = connected.map_err(|error| tonic::Status::unavailable(format!("{error:#}")))?;
            ask(NodeClient::new(channel)).await
        })
    }
}

async fn socket() -> Result<Channel> {
    let connect = tower::service_fn(move |_| async move {
        let stream = tokio::net::UnixStream::connect(format!("{PLUGIN}/csi.sock")).await;
        stream.map(hyper_util::rt::TokioIo::new)
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// A volume, and this node's use of it.
pub(crate) struct Volume<'a> {
    pub(crate) plane: &'a Plane,
    pub(crate) name: String,
}

/// How it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// With a filesystem.
    Mount,
    /// With a filesystem, and on any number of nodes none of which writes.
    Read,
    /// As a raw device.
    Block,
}

impl Use {
    fn capability(self) -> csi::VolumeCapability {
        use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
        csi::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: match self {
                    Self::Mount | Self::Block => Mode::SingleNodeWriter.into(),
                    Self::Read => Mode::MultiNodeReaderOnly.into(),
                },
            }),
            access_type: Some(match self {
                Self::Mount | Self::Read => AccessType::Mount(MountVolume::default()),
                Self::Block => AccessType::Block(BlockVolume::default()),
            }),
        }
    }
}

impl Volume<'_> {
    /// What this node has said of it.
    pub(crate) fn said(&self) -> Result<AgentStatus> {
        let object = e2e::run(self.plane.attachments().get(&self.attachment()))?;
        object.status.and_then(|status| status.agent).context("nothing is said")
    }

    /// It, as the API has it now.
    pub(crate) fn read(&self) -> Result<RdsVolume> {
        Ok(e2e::run(self.plane.volumes().get(&self.name))?)
    }

    pub(crate) fn attachment(&self) -> String {
        attachment_name(&self.name, self.plane.node())
    }

    /// The NQN that the operator has given to it now.
    pub(crate) fn nqn(&self) -> Result<String> {
        let volume = e2e::run(self.plane.volumes().get(&self.name))?;
        volume
            .status
            .and_then(|status| status.nqn)
            .context("no NQN in the status")
    }

    /// What ControllerPublish would write, and the wait until the agent says that it is connected.
    pub(crate) fn attach(&self) -> Result<()> {
        self.attach_as("ReadWriteOnce")
    }

    /// The same in another access mode.
    pub(crate) fn attach_as(&self, mode: &str) -> Result<()> {
        let object: RdsAttachment = serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
            "metadata": {"name": self.attachment(), "finalizers": [rds_crds::names::FINALIZER]},
            "spec": {"volume": self.name, "node": self.plane.node(), "accessMode": mode},
        }))?;
        e2e::run(self.plane.attachments().create(&PostParams::default(), &object))?;
        self.until_connected()
    }

    /// Waits until the agent says that it is connected.
    pub(crate) fn until_connected(&self) -> Result<()> {
        until(&format!("{} to be connected", self.attachment()), SOON, || {
            let said = self.said()?.conditions;
            ensure!(is_true(&said, "Connected"), "{said:?}");
            Ok(())
        })
    }

    /// Deletes the attachment and waits until the agent has let go.
    pub(crate) fn detach(&self) -> Result<()> {
        self.detach_from(self.plane.node())
    }

    /// The same on any node.
    pub(crate) fn detach_from(&self, node: &str) -> Result<()> {
        self.wish_detached(node)?;
        let name = attachment_name(&self.name, node);
        e2e::run(e2e::wait_until(&format!("{name} to be gone"), SOON, async || {
            let left = self.plane.attachments().get_opt(&name).await?;
            ensure!(left.is_none(), "{:?}", left.and_then(|left| left.status));
            Ok(())
        }))
    }

    /// Only deletes the attachment.
    pub(crate) fn wish_detached(&self, node: &str) -> Result<()> {
        let (name, attachments) = (attachment_name(&self.name, node), self.plane.attachments());
        e2e::run(async {
            attachments
                .patch(&name, &PatchParams::default(), &confirmed(&name))
                .await?;
            attachments.delete(&name, &DeleteParams::default()).await?;
            Ok(())
        })
    }

    /// Where kubelet would stage it.
    pub(crate) fn staging(&self) -> PathBuf {
        Path::new(KUBELET)
            .join("plugins/kubernetes.io/csi/rds.csi.srvlab.io")
            .join(&self.name)
            .join("globalmount")
    }

    /// Where kubelet would publish it for a pod.
    pub(crate) fn target(&self, pod: &str, used: Use) -> PathBuf {
        let pods = Path::new(KUBELET).join("pods").join(pod);
        match used {
            Use::Mount | Use::Read => pods.join("volumes/kubernetes.io~csi").join(&self.name).join("mount"),
            Use::Block => Path::new(KUBELET)
                .join("plugins/kubernetes.io/csi/volumeDevices/publish")
                .join(&self.name)
                .join(pod),
        }
    }

    pub(crate) fn stage(&self, used: Use) -> Result<(), tonic::Status> {
        let staging = self.staging();
        // kubelet makes this folder, and not the target.
        std::fs::create_dir_all(&staging)?;
        self.plane.call(async |mut node| {
            let request = csi::NodeStageVolumeRequest {
                volume_id: self.name.clone(),
                staging_target_path: staging.display().to_string(),
                volume_capability: Some(used.capability()),
                ..Default::default()
            };
            node.node_stage_volume(request).await.map(drop)
        })
    }

    pub(crate) fn publish(&self, pod: &str, used: Use) -> Result<PathBuf, tonic::Status> {
        let target = self.target(pod, used);
        std::fs::create_dir_all(target.parent().unwrap_or(&target))?;
        self.plane.call(async |mut node| {
            let request = csi::NodePublishVolumeRequest {
                volume_id: self.name.clone(),
                staging_target_path: self.staging().display().to_string(),
                target_path: target.display().to_string(),
                volume_capability: Some(used.capability()),
                ..Default::default()
            };
            node.node_publish_volume(request).await.map(drop)
        })?;
        Ok(target)
    }

    pub(crate) fn unpublish(&self, pod: &str, used: Use) -> Result<(), tonic::Status> {
        self.plane.call(async |mut node| {
            let request = csi::NodeUnpublishVolumeRequest {
                volume_id: self.name.clone(),
                target_path: self.target(pod, used).display().to_string(),
            };
            node.node_unpublish_volume(request).await.map(drop)
        })
    }

    pub(crate) fn unstage(&self) -> Result<(), tonic::Status> {
        self.unstage_within(CALL)
    }

    /// The same for a caller who does not wait longer than this.
    pub(crate) fn unstage_within(&self, patience: Duration) -> Result<(), tonic::Status> {
        self.plane.call(async |mut node| {
            let mut request = tonic::Request::new(csi::NodeUnstageVolumeRequest {
                volume_id: self.name.clone(),
                staging_target_path: self.staging().display().to_string(),
            });
            request.set_timeout(patience);
            node.node_unstage_volume(request).await.map(drop)
        })
    }

    pub(crate) fn expand(&self, used: Use, pod: &str) -> Result<i64, tonic::Status> {
        self.plane.call(async |mut node| {
            let request = csi::NodeExpandVolumeRequest {
                volume_id: self.name.clone(),
                volume_path: self.target(pod, used).display().to_string(),
                staging_target_path: self.staging().display().to_string(),
                volume_capability: Some(used.capability()),
                ..Default::default()
            };
            Ok(node.node_expand_volume(request).await?.into_inner().capacity_bytes)
        })
    }

    /// Changes the wished capacity, as ControllerExpand would, and waits until the appliance has it.
    pub(crate) fn grow(&self, size: &str) -> Result<()> {
        let patch = json!({"spec": {"capacity": size}});
        e2e::run(async {
            let volumes = self.plane.volumes();
            volumes
                .patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
            e2e::wait_until(&format!("{} to have {size}", self.name), SOON, async || {
                let volume = volumes.get(&self.name).await?;
                let has = volume.status.and_then(|status| status.capacity);
                ensure!(has == Some(volume.spec.capacity), "it has {has:?}");
                Ok(())
            })
            .await
        })
    }

    /// The state of its format ledger.
    pub(crate) fn ledger(&self) -> Result<String> {
        let volume = e2e::run(self.plane.volumes().get(&self.name))?;
        let ledger = volume.status.and_then(|status| status.format);
        Ok(ledger.map(|ledger| format!("{:?}", ledger.state)).unwrap_or_default())
    }

    /// Deletes it, disk and all.
    pub(crate) fn delete(&self) -> Result<()> {
        e2e::run(async {
            let volumes = self.plane.volumes();
            volumes
                .patch(&self.name, &PatchParams::default(), &confirmed(&self.name))
                .await?;
            volumes.delete(&self.name, &DeleteParams::default()).await?;
            e2e::wait_until(&format!("RdsVolume {} to be gone", self.name), SOON, async || {
                let left = self.plane.volumes().get_opt(&self.name).await?;
                ensure!(left.is_none(), "{:?}", left.map(|left| left.name_any()));
                Ok(())
            })
            .await
        })
    }

    /// Asks again until it works, as kubelet does; the error is the last answer.
    pub(crate) fn retry<T>(&self, what: &str, ask: impl Fn() -> Result<T, tonic::Status>) -> Result<T> {
        until(what, SOON, || {
            ask().map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))
        })
    }
}

/// A person's word, as no pod of Kubernetes stands behind what a scenario deletes: the policies ask for it.
fn confirmed(name: &str) -> Patch<Value> {
    Patch::Merge(json!({"metadata": {"annotations": {rds_crds::names::ANNOTATION_CONFIRM_DELETE: name}}}))
}

/// An error unless a call was refused with that code and these words.
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: Result<T, tonic::Status>,
    code: tonic::Code,
    words: &str,
) -> Result<()> {
    match answer {
        Ok(done) => bail!("it was done ({done:?}) and shall be refused with {code:?}"),
        Err(status) => {
            ensure!(
                status.code() == code && status.message().contains(words),
                "refused with {:?}: {}",
                status.code(),
                status.message()
            );
            Ok(())
        }
    }
}
