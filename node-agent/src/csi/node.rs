//! CSI Node: validate, guard, use case, code.

use std::future::Future;
use std::time::Duration;

use csi::node_server::Node as NodeService;
use csi::node_service_capability::rpc::Type as Rpc;
use csi::volume_usage::Unit;
use csi_proto::csi::v1 as csi;
use csi_proto::server::deadline;
use rds_crds::names::TOPOLOGY_ZONE;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::Node;
use super::call::Call;
use super::failure::Failure;
use super::host::Usage;
use super::request::volume;

/// How long a call without a deadline may take: that of kubelet.
const CALL_WITHIN: Duration = Duration::from_secs(120);

/// What is advertised: each of it works.
const CAPABILITIES: [Rpc; 4] = [
    Rpc::StageUnstageVolume,
    Rpc::GetVolumeStats,
    Rpc::ExpandVolume,
    Rpc::SingleNodeMultiWriter,
];

/// Whether a call changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It may.
    Changes,
    /// It only looks.
    Looks,
}

/// A method, and its name as an operation on a volume.
struct Method(&'static str, Option<&'static str>, Kind);

impl Node {
    /// Runs a call to its end, whether or not its caller still waits: nothing is ever dropped half done (B70).
    async fn serve_call<T, F>(
        &self,
        method: Method,
        metadata: &MetadataMap,
        name: &str,
        work: impl FnOnce(Self, Call) -> F,
    ) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let begun = Instant::now();
        let places = if method.2 == Kind::Changes {
            &self.in_flight
        } else {
            &self.looks
        };
        let entered = places.enter(name, deadline(metadata, CALL_WITHIN));
        let done = match entered {
            Err(busy) => Err(busy),
            Ok(call) => match tokio::spawn(work(self.clone(), call)).await {
                Ok(done) => done,
                Err(died) => Err(Failure::Unavailable(format!("the call died: {died}"))),
            },
        };
        let code = done.as_ref().err().map_or(tonic::Code::Ok, Failure::code);
        self.metrics
            .call(method.0, method.1, code, begun.elapsed().as_secs_f64());
        match done {
            Ok(answer) => {
                debug!(method = method.0, volume = name, "done");
                Ok(Response::new(answer))
            }
            Err(failure) => {
                warn!(method = method.0, volume = name, ?code, "{failure}");
                Err(failure.into())
            }
        }
    }

    fn refuse(&self, method: &Method, failure: Failure) -> Status {
        self.metrics.call(method.0, method.1, failure.code(), 0.0);
        warn!(method = method.0, code = ?failure.code(), "{failure}");
        failure.into()
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let method = Method("NodeStageVolume", Some("stage"), Kind::Changes);
        let (metadata, _, request) = request.into_parts();
        let asked = self.paths().stage(request).map_err(|f| self.refuse(&method, f))?;
        let name = asked.volume.clone();
        self.serve_call(method, &metadata, &name, |node, call| async move {
            node.stage(&call, asked).await.map(|()| csi::NodeStageVolumeResponse {})
        })
        .await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let method = Method("NodeUnstageVolume", Some("unstage"), Kind::Changes);
        let (metadata, _, request) = request.into_parts();
        let checked = volume(&request.volume_id).and_then(|v| {
            Ok((
                v,
                self.paths()
                    .check("staging_target_path", &request.staging_target_path)?,
            ))
        });
        let (name, staging) = checked.map_err(|f| self.refuse(&method, f))?;
        self.serve_call(method, &metadata, &name, |node, call| async move {
            node.unstage(&call, &staging)
                .await
                .map(|()| csi::NodeUnstageVolumeResponse {})
        })
        .await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let method = Method("NodePublishVolume", Some("publish"), Kind::Changes);
        let (metadata, _, request) = request.into_parts();
        let asked = self.paths().publish(request).map_err(|f| self.refuse(&method, f))?;
        let name = asked.volume.clone();
        self.serve_call(method, &metadata, &name, |node, call| async move {
            node.publish(&call, asked)
                .await
                .map(|()| csi::NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let method = Method("NodeUnpublishVolume", Some("unpublish"), Kind::Changes);
        let (metadata, _, request) = request.into_parts();
        let checked =
            volume(&request.volume_id).and_then(|v| Ok((v, self.paths().check("target_path", &request.target_path)?)));
        let (name, target) = checked.map_err(|f| self.refuse(&method, f))?;
        self.serve_call(method, &metadata, &name, |node, call| async move {
            node.unpublish(&call, &target)
                .await
                .map(|()| csi::NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let method = Method("NodeGetVolumeStats", None, Kind::Looks);
        let (metadata, _, request) = request.into_parts();
        let checked = volume(&request.volume_id)
            .and_then(|v| Ok((v, self.paths().published("volume_path", &request.volume_path)?)));
        let (name, path) = checked.map_err(|f| self.refuse(&method, f))?;
        self.serve_call(method, &metadata, &name, |node, call| async move {
            let usage = node.stats(&call, path).await?;
            Ok(csi::NodeGetVolumeStatsResponse {
                usage: told(&usage),
                volume_condition: None,
            })
        })
        .await
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let method = Method("NodeExpandVolume", Some("expand"), Kind::Changes);
        let (metadata, _, request) = request.into_parts();
        let range = request.capacity_range.unwrap_or_default();
        let bytes =
            |n: i64| u64::try_from(n).map_err(|_| Failure::OutOfRange(format!("a size of {n} bytes cannot be")));
        let checked = volume(&request.volume_id).and_then(|v| {
            let path = self.paths().published("volume_path", &request.volume_path)?;
            let (wanted, limit) = (bytes(range.required_bytes)?, bytes(range.limit_bytes)?);
            if limit > 0 && wanted > limit {
                return Err(Failure::OutOfRange(format!(
                    "required_bytes {wanted} is more than limit_bytes {limit}"
                )));
            }
            let some = |n: u64| Some(n).filter(|n| *n > 0);
            Ok((v, path, some(wanted), some(limit)))
        });
        let (name, path, wanted, limit) = checked.map_err(|f| self.refuse(&method, f))?;
        self.serve_call(method, &metadata, &name, |node, call| async move {
            let bytes = node.expand(&call, path, wanted, limit).await?;
            Ok(csi::NodeExpandVolumeResponse {
                capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            })
        })
        .await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capability = |rpc: Rpc| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(
                csi::node_service_capability::Rpc { r#type: rpc.into() },
            )),
        };
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities: CAPABILITIES.map(capability).into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let segments = [(TOPOLOGY_ZONE.to_owned(), self.settings.zone.clone())].into();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.agent.node(),
            max_volumes_per_node: self.settings.max_volumes.into(),
            accessible_topology: Some(csi::Topology { segments }),
        }))
    }
}

fn told(usage: &Usage) -> Vec<csi::VolumeUsage> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let entry = |unit: Unit, total: u64, used: u64, available: u64| csi::VolumeUsage {
        available: number(available),
        total: number(total),
        used: number(used),
        unit: unit.into(),
    };
    let (used, free) = usage.used.unwrap_or_default();
    let bytes = entry(Unit::Bytes, usage.bytes, used, free);
    let inodes = usage
        .inodes
        .map(|(all, used, free)| entry(Unit::Inodes, all, used, free));
    [Some(bytes), inodes].into_iter().flatten().collect()
}
