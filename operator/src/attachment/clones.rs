//! Nodes whose agents name themselves alike to appliances: machines that were cloned together with their machine ID, or share the
//! agent's folder. An appliance cannot tell them apart, and their recorded intents look like one machine's. Said, never acted upon.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use rds_crds::names::ANNOTATION_HOST_NQN;
use tracing::warn;

use super::observe::lease_name;
use crate::telemetry::Telemetry;
use crate::world::World;

/// A Lease that was not renewed for so long is of a node that is gone: its machine may go on under another name.
const RECENT: SignedDuration = SignedDuration::from_mins(5);

/// Host NQNs that several nodes report, with those nodes.
fn shared(leases: impl Iterator<Item = Lease>, now: Timestamp) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for lease in leases {
        let Some(nqn) = lease.annotations().get(ANNOTATION_HOST_NQN) else {
            continue;
        };
        let (nqn, name) = (nqn.clone(), lease.name_any());
        let Some(spec) = lease.spec else { continue };
        let recent = spec.renew_time.is_some_and(|at| now.duration_since(at.0) < RECENT);
        let node = spec.holder_identity.filter(|node| lease_name(node) == name);
        if let (Some(node), true) = (node, recent) {
            all.entry(nqn).or_default().insert(node);
        }
    }
    all.retain(|_, nodes| nodes.len() > 1);
    all
}

/// Says which nodes share a host NQN now.
pub(super) fn tell(world: &World, telemetry: &Telemetry) {
    let all = shared(world.leases.iter(), Timestamp::now());
    let nodes: usize = all.values().map(BTreeSet::len).sum();
    telemetry
        .shared_host_nqns
        .with_label_values::<&str>(&[])
        .set(i64::try_from(nodes).unwrap_or(i64::MAX));
    for (host_nqn, nodes) in all {
        warn!(
            host_nqn,
            ?nodes,
            "these nodes name themselves alike to appliances, as machines do that were cloned with their machine ID: give each a \
             machine ID of its own (empty /etc/machine-id and reboot), then its agent makes a name of its own"
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(node: &str, nqn: Option<&str>, age: i64) -> Lease {
        let renewed = now() - SignedDuration::from_secs(age);
        serde_json::from_value(json!({
            "metadata": {"name": format!("rds-node-{node}"), "annotations": nqn.map(|nqn| json!({ANNOTATION_HOST_NQN: nqn}))},
            "spec": {"holderIdentity": node, "renewTime": format!("{renewed:.6}")},
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn clones_are_nodes_that_live_at_once_under_one_name() {
        let found = shared(
            [
                lease("a", Some("nqn.x"), 1),
                lease("b", Some("nqn.x"), 299),
                lease("c", Some("nqn.y"), 1),
                lease("gone", Some("nqn.y"), 301),
                lease("old", None, 1),
                lease("older", None, 1),
            ]
            .into_iter(),
            now(),
        );
        let nodes = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(found, BTreeMap::from([("nqn.x".to_owned(), nodes)]));
    }

    #[test]
    fn nobody_speaks_for_another_node() {
        let mut forged = lease("a", Some("nqn.x"), 1);
        forged.metadata.name = Some("rds-node-b".into());
        let all = [lease("c", Some("nqn.x"), 1), forged];
        assert!(shared(all.into_iter(), now()).is_empty());
    }
}
