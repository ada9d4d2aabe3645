//! Which RdsServer a request means, and what the new volume is called there.
//!
//! Invariant: path and NQN of a volume are below what the server owns, with a boundary (B55); one identity (K1).

use std::collections::{BTreeMap, HashMap};

use csi_proto::csi::v1::{Topology, TopologyRequirement};
use kube::{Resource, ResourceExt};
use rds_crds::RdsServer;
use rds_crds::identity::{DEFAULT_NQN_PREFIX, NQN_MAX, NQN_RESERVED, base_nqn, default_path, default_slot};

use super::failure::{Failure, shown};
use super::parameters::{DEFAULT_SERVER, Parameters};

/// Names of one volume on its appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Slot of the disk.
    pub slot: String,
    /// Path of the image file.
    pub path: String,
    /// The base NQN.
    pub nqn: String,
}

/// The name of the RdsServer that is meant: the one named, else the one with that management address, else `default`.
pub fn server_name(parameters: &Parameters, servers: impl Iterator<Item = RdsServer>) -> Result<String, Failure> {
    if let Some(name) = &parameters.server {
        return Ok(name.clone());
    }
    let Some(address) = &parameters.rds_address else {
        return Ok(DEFAULT_SERVER.to_owned());
    };
    let mut names: Vec<_> = servers
        .filter(|s| s.spec.management.address == *address)
        .filter(|s| parameters.ssh_port.is_none_or(|port| port == ssh_port(s)))
        .map(|s| s.name_any())
        .collect();
    names.sort_unstable();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Invalid(format!(
            "no RdsServer has the management address that StorageClass parameter `rdsAddress` says, `{}`: create one, or \
             name one with parameter `server`",
            shown(address)
        ))),
        several => Err(Failure::Invalid(format!(
            "several RdsServers have the management address of StorageClass parameter `rdsAddress`: {}; name one with \
             parameter `server`",
            several.join(", ")
        ))),
    }
}

/// Checks what the parameters say of the server against the server.
pub fn check(parameters: &Parameters, server: &RdsServer) -> Result<(), Failure> {
    let name = server.name_any();
    if server.meta().deletion_timestamp.is_some() {
        return Err(Failure::Held(format!(
            "RdsServer `{name}` is being deleted: use another one, or create it anew"
        )));
    }
    let differs = |key: &str, given: &str, has: &str| {
        Err(Failure::Invalid(format!(
            "StorageClass parameter `{key}` is `{}`, but RdsServer `{name}` has `{has}`: correct or remove the parameter",
            shown(given)
        )))
    };
    match &parameters.rds_address {
        Some(given) if *given != server.spec.management.address => {
            return differs("rdsAddress", given, &server.spec.management.address);
        }
        _ => {}
    }
    match parameters.ssh_port {
        Some(given) if given != ssh_port(server) => {
            return differs("sshPort", &given.to_string(), &ssh_port(server).to_string());
        }
        _ => {}
    }
    let managed = managed_prefix(server);
    match &parameters.nqn_prefix {
        Some(given) if !given.starts_with(managed) => Err(Failure::Invalid(format!(
            "StorageClass parameter `nqnPrefix` is `{given}`, outside `{managed}` of RdsServer `{name}`: nodes touch \
             nothing else, so begin it with that"
        ))),
        _ => Ok(()),
    }?;
    let base = server.spec.base_path.trim_end_matches('/');
    match &parameters.volume_path {
        Some(given) if given != base && !given.starts_with(&format!("{base}/")) => Err(Failure::Invalid(format!(
            "StorageClass parameter `volumePath` is `{given}`, outside the base path `{base}` of RdsServer `{name}`: give \
             that path or one below it"
        ))),
        _ => Ok(()),
    }
}

/// What a volume of that name is called on that server.
pub fn identity(name: &str, parameters: &Parameters, server: &RdsServer) -> Result<Identity, Failure> {
    let slot = default_slot(name, "");
    let directory = parameters.volume_path.as_deref().unwrap_or(&server.spec.base_path);
    let path = default_path(directory, &slot);
    let prefix = parameters
        .nqn_prefix
        .as_deref()
        .unwrap_or_else(|| managed_prefix(server));
    let nqn = base_nqn(prefix, name);
    if nqn.len() > NQN_MAX - NQN_RESERVED {
        return Err(Failure::Invalid(format!(
            "the NQN `{nqn}` would have {} bytes, at most {} are possible: shorten the NQN prefix",
            nqn.len(),
            NQN_MAX - NQN_RESERVED
        )));
    }
    Ok(Identity { slot, path, nqn })
}

/// Where volumes of that server are reachable: empty means everywhere. Refused if the caller needs it elsewhere.
pub fn topology(server: &RdsServer, asked: Option<&TopologyRequirement>) -> Result<Vec<Topology>, Failure> {
    // A PersistentVolume whose node affinity has no terms is refused by the API server.
    let Some(segments) = server.spec.topology.as_ref().filter(|segments| !segments.is_empty()) else {
        return Ok(Vec::new());
    };
    let requisite = asked.map(|a| a.requisite.as_slice()).unwrap_or_default();
    if !requisite.is_empty() && !requisite.iter().any(|place| reaches(segments, &place.segments)) {
        return Err(Failure::Full(format!(
            "RdsServer `{}` is reachable from {segments:?} only, which is none of the places asked for: use another \
             StorageClass, or schedule the pod there",
            server.name_any()
        )));
    }
    Ok(vec![Topology {
        segments: segments.clone().into_iter().collect(),
    }])
}

/// Whether somebody at `place` reaches a server with these segments.
#[must_use]
pub fn reaches(segments: &BTreeMap<String, String>, place: &HashMap<String, String>) -> bool {
    segments.iter().all(|(key, value)| place.get(key) == Some(value))
}

fn managed_prefix(server: &RdsServer) -> &str {
    server.spec.nqn_prefix.as_deref().unwrap_or(DEFAULT_NQN_PREFIX)
}

fn ssh_port(server: &RdsServer) -> u16 {
    server.spec.management.port.unwrap_or(22)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(name: &str, more: Value) -> RdsServer {
        let mut spec = json!({
            "management": {"address": "10.0.0.1", "user": "csi"}, "secretRef": {"name": "s"},
            "storage": {"address": "10.1.0.1"}, "basePath": "/pool/csi",
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn parameters(given: &[(&str, &str)]) -> Parameters {
        Parameters::parse(&given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()).unwrap()
    }

    #[test]
    fn the_server_is_named_or_found_by_its_address() {
        let other = json!({"management": {"address": "10.0.0.2", "user": "csi", "port": 2222}});
        let all = [
            server("default", json!({})),
            server("b", other.clone()),
            server("c", other),
        ];
        let name = |given: &[(&str, &str)]| server_name(&parameters(given), all.iter().cloned());
        assert_eq!(name(&[]).unwrap(), "default");
        assert_eq!(name(&[("server", "z")]).unwrap(), "z");
        assert_eq!(name(&[("rdsAddress", "10.0.0.1")]).unwrap(), "default");
        assert!(
            name(&[("rdsAddress", "10.0.0.9")])
                .unwrap_err()
                .to_string()
                .contains("create one")
        );
        assert!(
            name(&[("rdsAddress", "10.0.0.2")])
                .unwrap_err()
                .to_string()
                .contains("b, c; name one")
        );
        assert!(name(&[("rdsAddress", "10.0.0.2"), ("sshPort", "22")]).is_err());
    }

    #[test]
    fn b55_parameters_must_agree_with_the_server() {
        let server = server("default", json!({}));
        let judge = |key, value| check(&parameters(&[(key, value)]), &server);
        for (key, value) in [
            ("rdsAddress", "10.0.0.1"),
            ("sshPort", "22"),
            ("volumePath", "/pool/csi"),
            ("volumePath", "/pool/csi/fast"),
            ("nqnPrefix", "nqn.2000-02.com.mikrotik:pvc-shop-"),
        ] {
            assert_eq!(judge(key, value), Ok(()), "{key}={value}");
        }
        for (key, value) in [
            ("rdsAddress", "10.0.0.2"),
            ("sshPort", "2222"),
            ("volumePath", "/pool/csi-other"),
            ("volumePath", "/pool"),
            ("nqnPrefix", "nqn.2000-02.com.mikrotik:nixos-"),
        ] {
            let failure = judge(key, value).unwrap_err();
            assert!(matches!(failure, Failure::Invalid(_)), "{failure:?}");
            assert!(
                failure.to_string().contains(key) && failure.to_string().contains("`default`"),
                "{failure}"
            );
        }
    }

    #[test]
    fn k1_one_identity() {
        let name = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let made = identity(
            name,
            &parameters(&[("volumePath", "/pool/csi/fast")]),
            &server("default", json!({})),
        )
        .unwrap();
        assert_eq!(made.path, format!("/pool/csi/fast/{}.img", made.slot));
        assert_eq!(made.nqn, format!("nqn.2000-02.com.mikrotik:{name}"));
        let long = parameters(&[(
            "nqnPrefix",
            &format!("nqn.2000-02.com.mikrotik:pvc-{}", "x".repeat(170)),
        )]);
        assert!(
            identity(name, &long, &server("default", json!({})))
                .unwrap_err()
                .to_string()
                .contains("shorten")
        );
    }

    #[test]
    fn topology_is_a_matter_of_the_server() {
        let requirement = |zone: &str| TopologyRequirement {
            requisite: vec![Topology {
                segments: [("zone".to_string(), zone.to_string())].into(),
            }],
            preferred: Vec::new(),
        };
        assert_eq!(
            topology(&server("a", json!({})), Some(&requirement("x"))),
            Ok(Vec::new())
        );
        assert_eq!(topology(&server("a", json!({"topology": {}})), None), Ok(Vec::new()));
        let rack = server("a", json!({"topology": {"zone": "rack-1"}}));
        assert_eq!(topology(&rack, Some(&requirement("rack-1"))).unwrap().len(), 1);
        assert_eq!(topology(&rack, None).unwrap().len(), 1);
        assert!(matches!(
            topology(&rack, Some(&requirement("rack-2"))),
            Err(Failure::Full(_))
        ));
    }
}
