//! Calls as kubelet makes them, through the gRPC service, against a host and an API server in memory.

mod api;
mod bad_input;
mod host;
mod identity;
mod life;

use std::path::Path;
use std::sync::Arc;

use csi_proto::csi::v1 as csi;
use csi_proto::csi::v1::node_server::Node as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status};

use self::api::{Api, NQN, VOLUME};
use self::host::Fake;
use super::{Metrics, Node, Settings};
use crate::attachment::act::Agent;
use crate::attachment::model;
use crate::nvme;
use crate::unreported_losses::UnreportedLosses;

const STAGING: &str = "/k/plugins/kubernetes.io/csi/driver/hash/globalmount";
const TARGET: &str = "/k/pods/pod-1/volumes/kubernetes.io~csi/pvc-1/mount";
const NODE_TARGET: &str = "/k/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/pod-1";

struct Lab {
    api: Api,
    host: Fake,
    node: Node,
    state: TempDir,
    // What is woken is not read here.
    _woken: mpsc::UnboundedReceiver<String>,
}

impl Lab {
    fn new() -> Self {
        let (api, host) = (Api::new(), Fake::new());
        let this = model::Host {
            node: "n1".into(),
            boot_id: "b".into(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            node_uid: Some("u".into()),
        };
        let prefix = "nqn.2000-02.com.mikrotik:pvc-".to_owned();
        let identity = nvme::identity::Identity {
            machine_id: "m".into(),
            host_nqn: String::new(),
            host_id: String::new(),
        };
        // The service never connects: what the agent's loop does is not part of these tests.
        let nowhere = nvme::Kernel::new(Path::new("/nowhere"), Path::new("/k"), &prefix, identity);
        let state = tempfile::tempdir().unwrap();
        let unreported = UnreportedLosses::load(state.path()).unwrap();
        let agent = Arc::new(Agent::new(api.client(), Arc::new(nowhere), this, prefix, unreported));
        agent.remember(&rds_crds::identity::attachment_name(VOLUME, "n1"), NQN);
        let (wake, woken) = mpsc::unbounded_channel();
        let settings = Settings {
            driver_name: "rds.csi.srvlab.io".into(),
            kubelet_dir: "/k".into(),
            max_volumes: 128,
            zone: "default".into(),
        };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let node = Node::new(agent, Arc::new(host.clone()), settings, wake, metrics);
        Self {
            api,
            host,
            node,
            state,
            _woken: woken,
        }
    }

    fn block() -> Self {
        let lab = Self::new();
        lab.api.change(|s| s.volume["spec"]["volumeMode"] = json!("Block"));
        lab
    }

    async fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<(), Status> {
        self.node.node_stage_volume(soon(request)).await.map(|_| ())
    }

    async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), Status> {
        self.node.node_publish_volume(soon(request)).await.map(|_| ())
    }

    async fn unpublish(&self, target: &str) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: VOLUME.into(),
            target_path: target.into(),
        };
        self.node.node_unpublish_volume(soon(request)).await.map(|_| ())
    }

    async fn unstage(&self) -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: STAGING.into(),
        };
        self.node.node_unstage_volume(soon(request)).await.map(|_| ())
    }

    async fn expand(&self, path: &str, bytes: i64) -> Result<i64, Status> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: VOLUME.into(),
            volume_path: path.into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        let answer = self.node.node_expand_volume(soon(request)).await?;
        Ok(answer.into_inner().capacity_bytes)
    }
}

/// With a short deadline, so that what waits in vain says so soon.
fn soon<T>(message: T) -> Request<T> {
    within("400m", message)
}

/// With that deadline, as gRPC spells it.
fn within<T>(timeout: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

fn mounted(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn raw() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeMultiWriter.into(),
        }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

fn stage(capability: csi::VolumeCapability) -> csi::NodeStageVolumeRequest {
    csi::NodeStageVolumeRequest {
        volume_id: VOLUME.into(),
        staging_target_path: STAGING.into(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

fn publish(capability: csi::VolumeCapability, target: &str) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: VOLUME.into(),
        staging_target_path: STAGING.into(),
        target_path: target.into(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

fn writer() -> csi::VolumeCapability {
    mounted(Mode::SingleNodeMultiWriter)
}

fn code(done: &Result<(), Status>) -> Code {
    done.as_ref().err().map_or(Code::Ok, Status::code)
}
