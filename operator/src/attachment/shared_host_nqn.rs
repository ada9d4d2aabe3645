//! Nodes whose agents name themselves alike to appliances: machines that were cloned together with their machine ID, or share the
//! agent's folder. An appliance cannot tell them apart, and their recorded intents look like one machine's. Said, never acted upon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use rds_crds::names::ANNOTATION_HOST_NQN;
use tokio::time::Instant;
use tracing::warn;

use super::nodes::lease_name;
use crate::events::Announcer;
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

/// So often it is said again while nothing changes: what Kubernetes keeps of it goes on as one series.
const AGAIN: Duration = Duration::from_secs(240);

/// What was said last, and when.
type Told = Option<(BTreeMap<String, BTreeSet<String>>, Instant)>;

/// Says who shares a host NQN: once for each change, and again every few minutes.
#[derive(Debug, Default)]
pub(crate) struct SharedHostNqns {
    told: Mutex<Told>,
}

impl SharedHostNqns {
    /// Looks at the Leases now.
    pub(super) fn tell(&self, world: &World, telemetry: &Telemetry, announcer: &Announcer) {
        let all = shared(world.leases.iter(), Timestamp::now());
        let nodes: usize = all.values().map(BTreeSet::len).sum();
        telemetry
            .shared_host_nqns
            .with_label_values::<&str>(&[])
            .set(i64::try_from(nodes).unwrap_or(i64::MAX));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !due(&told, &all, now) {
            return;
        }
        for (host_nqn, nodes) in &all {
            let note = note(host_nqn, nodes);
            warn!(host_nqn, ?nodes, "{note}");
            for node in nodes.iter().filter_map(|node| world.nodes.get(node)) {
                announcer.cloned(&node, &note);
            }
        }
        *told = Some((all, now));
    }
}

fn due(told: &Told, all: &BTreeMap<String, BTreeSet<String>>, now: Instant) -> bool {
    match told {
        Some((before, at)) => before != all || (!all.is_empty() && now.duration_since(*at) >= AGAIN),
        None => true,
    }
}

/// For people.
fn note(host_nqn: &str, nodes: &BTreeSet<String>) -> String {
    let names: Vec<&str> = nodes.iter().take(5).map(String::as_str).collect();
    let more = nodes.len() - names.len();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "nodes {}{more} name themselves alike to appliances ({host_nqn}), as machines do that were cloned with their machine ID or share \
         the agent's --state-dir: an appliance cannot tell them apart, and what they record looks like one machine's. Give each a machine \
         ID of its own: drain the node, empty its /etc/machine-id and reboot it; then its agent makes a name of its own",
        names.join(", ")
    )
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

    #[test]
    fn it_is_said_once_for_each_change_and_again_later() {
        let clones = |nodes: &[&str]| {
            let nodes: BTreeSet<String> = nodes.iter().map(|n| (*n).to_owned()).collect();
            BTreeMap::from([("nqn.x".to_owned(), nodes)])
        };
        let start = Instant::now();
        let told = Some((clones(&["a", "b"]), start));
        let soon = start + Duration::from_secs(1);
        assert!(due(&None, &clones(&["a", "b"]), start));
        assert!(!due(&told, &clones(&["a", "b"]), soon));
        assert!(due(&told, &clones(&["a", "b", "c"]), soon));
        assert!(due(&told, &BTreeMap::new(), soon), "so that the next time is a change");
        assert!(due(&told, &clones(&["a", "b"]), start + AGAIN));
        assert!(!due(&Some((BTreeMap::new(), start)), &BTreeMap::new(), start + AGAIN));
    }

    #[test]
    fn the_note_names_the_nodes_and_the_remedy() {
        let nodes: BTreeSet<String> = (10..32).map(|n| format!("node-{n}")).collect();
        let said = note("nqn.x", &nodes);
        for words in ["node-10, node-11", "node-14 and 17 more", "nqn.x", "/etc/machine-id"] {
            assert!(said.contains(words), "{said}");
        }
        let two = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert!(note("nqn.x", &two).starts_with("nodes a, b name themselves alike"));
    }
}
