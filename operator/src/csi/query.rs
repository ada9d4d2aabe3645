//! What only reads: ValidateVolumeCapabilities, ListVolumes, GetCapacity. All from the caches, but for "not found".

use std::sync::Arc;

use csi_proto::csi::v1 as csi;
use kube::ResourceExt;
use rds_crds::RdsVolume;
use rds_crds::condition::is_true;
use rds_crds::identity::is_canary;

use super::capability::Capabilities;
use super::failure::{Failure, shown};
use super::parameters::Parameters;
use super::{Csi, context, placement, rpc, size};
use crate::attachment::ADMITTED;

/// Largest page, also when the caller sets no limit.
pub(super) const PAGE: usize = 500;
/// Before the last name in a token: a name alone could not be told from a token of somebody else.
const TOKEN: &str = "after/";

impl Csi {
    pub(super) async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Failure> {
        let name = request.volume_id.as_str();
        rpc::about(name);
        if name.is_empty() {
            return Err(Failure::Invalid("volume_id is empty: say which volume to check".into()));
        }
        if request.volume_capabilities.is_empty() {
            return Err(Failure::Invalid(
                "volume_capabilities is empty: say what to check".into(),
            ));
        }
        let cached = self.world.volumes.get(name).map(|v| v.spec.clone());
        let spec = match cached {
            Some(spec) => spec,
            None => self.live(name).await?.map(|v| v.spec).ok_or_else(|| {
                Failure::NotFound(format!(
                    "volume {} does not exist: check the PersistentVolume's volumeHandle",
                    shown(name)
                ))
            })?,
        };
        // A capability that no volume of ours has is an answer here, not an error.
        let problem = match Capabilities::parse(&request.volume_capabilities) {
            Ok(asked) => asked.unsupported_by(&spec),
            Err(failure) => Some(failure.to_string()),
        };
        let problem = problem.or_else(|| Parameters::parse(&request.parameters).err().map(|f| f.to_string()));
        Ok(match problem {
            Some(message) => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            },
            None => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        })
    }

    pub(super) fn list(&self, request: &csi::ListVolumesRequest) -> Result<csi::ListVolumesResponse, Failure> {
        self.synced()?;
        let names = self.world.volumes.names();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let (range, next_token) = page(&names, request.max_entries, &request.starting_token)?;
        // The canary of the self-test is nobody's volume.
        let made = |v: &Arc<RdsVolume>| !is_canary(v) && v.status.as_ref().is_some_and(|s| s.capacity.is_some());
        let volumes = names[range].iter().filter_map(|name| self.world.volumes.get(name));
        let entries = volumes.filter(made).map(|volume| {
            let server = self.world.servers.get(&volume.spec.server);
            let topology = server
                .as_ref()
                .and_then(|s| placement::topology(s, None).ok())
                .unwrap_or_default();
            csi::list_volumes_response::Entry {
                volume: Some(context::volume(&volume, server.as_deref(), topology)),
                status: Some(csi::list_volumes_response::VolumeStatus {
                    published_node_ids: published(&volume, &self.admitted(&volume.name_any())),
                    volume_condition: None,
                }),
            }
        });
        Ok(csi::ListVolumesResponse {
            entries: entries.collect(),
            next_token,
        })
    }

    /// The admitted attachments of a volume, as node and UID.
    fn admitted(&self, volume: &str) -> Vec<(String, String)> {
        let of_volume = self.world.attachments.of_volume(volume);
        let admitted = of_volume.iter().filter(|attachment| {
            let conditions = attachment.status.as_ref().map(|s| s.conditions.as_slice());
            is_true(conditions.unwrap_or_default(), ADMITTED)
        });
        admitted
            .map(|a| (a.spec.node.clone(), a.uid().unwrap_or_default()))
            .collect()
    }

    pub(super) async fn capacity(&self, request: csi::GetCapacityRequest) -> Result<csi::GetCapacityResponse, Failure> {
        self.synced()?;
        if !request.volume_capabilities.is_empty() {
            Capabilities::parse(&request.volume_capabilities)?;
        }
        let parameters = Parameters::parse(&request.parameters)?;
        let name = self.server_name(&parameters)?;
        let server = self.find_server(&name).await?;
        self.missing.note(&name, server.is_some());
        let Some(server) = server else {
            // Nothing can be made there, and that is an answer: the scheduler looks elsewhere.
            return Ok(told(0));
        };
        placement::check(&parameters, &server)?;
        let elsewhere = server.spec.topology.as_ref().zip(request.accessible_topology.as_ref());
        let available = if elsewhere.is_some_and(|(has, asked)| !placement::reaches(has, &asked.segments)) {
            0
        } else {
            let seen = server.status.as_ref().and_then(|s| s.available).ok_or_else(|| {
                Failure::Unavailable(format!(
                    "the free space of RdsServer {} is not known yet: look at its conditions with `kubectl describe \
                     rdsserver {0}`",
                    server.name_any()
                ))
            })?;
            seen.bytes()
        };
        Ok(told(available))
    }
}

/// Pure: the nodes that have the volume: admitted, recorded as holders, and not cut. csi-attacher attaches and detaches by
/// this list, so a node that was cut must never be on it.
fn published(volume: &RdsVolume, admitted: &[(String, String)]) -> Vec<String> {
    let Some(status) = &volume.status else {
        return Vec::new();
    };
    let admitted = |node: &str, uid: &str| admitted.iter().any(|(n, u)| n == node && u == uid);
    let holders = status
        .holders
        .iter()
        .filter(|h| admitted(&h.node, &h.attachment_uid) && !status.fenced.iter().any(|fenced| fenced.node == h.node));
    holders.map(|h| h.node.clone()).collect()
}

fn told(available: u64) -> csi::GetCapacityResponse {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    csi::GetCapacityResponse {
        available_capacity: bytes(available),
        maximum_volume_size: Some(bytes(available.min(size::MAX.bytes()))),
        minimum_volume_size: Some(bytes(size::MIN.bytes())),
    }
}

/// Which of the sorted names are on the page, and the token of the next one. A token stays good when its volume has gone.
fn page(names: &[&str], max_entries: i32, token: &str) -> Result<(std::ops::Range<usize>, String), Failure> {
    let max = usize::try_from(max_entries)
        .map_err(|_| Failure::Invalid(format!("max_entries is {max_entries}: give 0 for no limit, or a limit")))?;
    let start = match (token, token.strip_prefix(TOKEN)) {
        ("", _) => 0,
        (_, Some(last)) if !last.is_empty() => names.partition_point(|name| *name <= last),
        _ => {
            return Err(Failure::Busy(format!(
                "starting_token `{}` is not one of ours: list from the start, with an empty token",
                shown(token)
            )));
        }
    };
    let length = if max == 0 { PAGE } else { max.min(PAGE) };
    let end = (start + length).min(names.len());
    let next = if end < names.len() {
        format!("{TOKEN}{}", names[end - 1])
    } else {
        String::new()
    };
    Ok((start..end, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_also_when_volumes_come_and_go() {
        let names = ["a", "b", "c", "d", "e"];
        assert_eq!(page(&names, 0, "").unwrap(), (0..5, String::new()));
        assert_eq!(page(&names, 2, "").unwrap(), (0..2, "after/b".to_owned()));
        assert_eq!(page(&names, 2, "after/b").unwrap(), (2..4, "after/d".to_owned()));
        assert_eq!(
            page(&["a", "c", "d"], 2, "after/b").unwrap(),
            (1..3, String::new()),
            "b has gone"
        );
        assert_eq!(page(&names, 2, "after/e").unwrap(), (5..5, String::new()));
        assert_eq!(page(&[], 0, "").unwrap(), (0..0, String::new()));
    }

    #[test]
    fn a_page_has_at_most_500_also_without_a_limit() {
        let names: Vec<String> = (0..1200).map(|n| format!("v{n:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for max in [0, 1000] {
            assert_eq!(page(&names, max, "").unwrap(), (0..500, "after/v0499".to_owned()));
        }
    }

    #[test]
    fn foreign_tokens_are_aborted() {
        for token in ["invalid-token", "5", "after/", "a"] {
            assert!(matches!(page(&["a"], 0, token), Err(Failure::Busy(_))), "{token}");
        }
        assert!(matches!(page(&["a"], -1, ""), Err(Failure::Invalid(_))));
    }
}
