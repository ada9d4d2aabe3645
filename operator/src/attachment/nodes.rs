//! What is known of a node: its Node and its agent's Lease, from the watch caches and read live.
//!
//! Invariant: a watch may stand still for minutes while everything else works, so that all nodes look dead: what ends a hold for that
//! is read live (I8).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::world::World;

use super::holder_state::{NodeFacts, Pulse, holder_state};
use super::model::HolderState;
use super::observations::Observations;
use super::observe::{Outside, Patience};

/// Name of an agent's Lease.
pub(crate) fn lease_name(node: &str) -> String {
    format!("rds-node-{node}")
}

pub(super) fn lease_key(node: &str) -> String {
    format!("lease/{}", lease_name(node))
}

fn node_key(node: &str) -> String {
    format!("node/{node}")
}

/// The Node, as the cache shows it.
pub(super) fn node_facts(world: &World, observations: &Observations, name: &str) -> NodeFacts {
    let node = world.nodes.get(name);
    let shown = observations.unchanged(node_key(name), &uid_of(node.as_deref()));
    facts_of(node.as_deref(), shown)
}

/// The same, read live.
pub(super) async fn live_facts(outside: &Outside<'_>, name: &str) -> Result<NodeFacts, kube::Error> {
    let nodes: Api<Node> = Api::all(outside.world.client.clone());
    let node = nodes.get_opt(name).await?;
    let shown = outside
        .observations
        .unchanged_live(&node_key(name), &uid_of(node.as_ref()));
    Ok(facts_of(node.as_ref(), shown))
}

/// Absent has none.
fn uid_of(node: Option<&Node>) -> String {
    node.and_then(|n| n.metadata.uid.clone()).unwrap_or_default()
}

/// `shown`: for how long it has been there, or has not.
fn facts_of(node: Option<&Node>, shown: Duration) -> NodeFacts {
    let Some(node) = node else {
        return NodeFacts {
            gone_for: Some(shown),
            ..NodeFacts::default()
        };
    };
    let status = node.status.as_ref();
    let info = status.and_then(|s| s.node_info.as_ref());
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    NodeFacts {
        gone_for: None,
        ready,
        out_of_service: taints.is_some_and(|all| all.iter().any(|t| t.key == "node.kubernetes.io/out-of-service")),
        uid: uid_of(Some(node)),
        boot_id: info.map(|i| i.boot_id.clone()).unwrap_or_default(),
        system_uuid: info.map(|i| i.system_uuid.clone()).unwrap_or_default(),
        machine_id: info.map(|i| i.machine_id.clone()).unwrap_or_default(),
    }
}

/// The last renewal; empty where there is none.
fn renewed(lease: Option<&Lease>) -> String {
    let spec = lease.and_then(|l| l.spec.as_ref());
    spec.and_then(|s| s.renew_time.as_ref())
        .map(|t| t.0.to_string())
        .unwrap_or_default()
}

fn pulse_of(renewed: &str, silent: Duration, patience: Patience) -> Pulse {
    match (silent < patience.lease, renewed.is_empty()) {
        (true, false) => Pulse::Fresh,
        (true, true) => Pulse::Unknown,
        (false, _) => Pulse::Stale,
    }
}

/// The agent's Lease, as the cache shows it.
pub(super) fn pulse(world: &World, observations: &Observations, node: &str, patience: Patience) -> Pulse {
    let renewed = renewed(world.leases.get(&lease_name(node)).as_deref());
    let silent = observations.unchanged(lease_key(node), &renewed);
    pulse_of(&renewed, silent, patience)
}

/// The same, read live. Stale only where this very renewal was the last one for the whole period; a Lease that the cache has and the
/// API server has not counts from now.
pub(super) async fn live_pulse(outside: &Outside<'_>, node: &str) -> Result<Pulse, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(outside.world.client.clone(), &outside.world.namespace);
    let renewed = renewed(leases.get_opt(&lease_name(node)).await?.as_ref());
    let silent = outside.observations.unchanged_live(&lease_key(node), &renewed);
    Ok(pulse_of(&renewed, silent, outside.patience))
}

/// Nodes that are Ready, untainted, and whose agents are alive, by name.
pub(crate) fn alive_nodes(world: &World, observations: &Observations, patience: Patience) -> Vec<String> {
    let alive = |name: &String| {
        let facts = node_facts(world, observations, name);
        let pulse = pulse(world, observations, name, patience);
        holder_state(&facts, pulse, false, false, patience.grace) == HolderState::Alive
    };
    let mut names: Vec<String> = world
        .nodes
        .names()
        .iter()
        .map(ToString::to_string)
        .filter(alive)
        .collect();
    names.sort();
    names
}
