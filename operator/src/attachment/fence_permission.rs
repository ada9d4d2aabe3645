//! Whether a lost node may be cut at the target now: the proof of the self-test, what the administrator wants, and the limit of
//! nodes per time (I19).

use jiff::Timestamp;
use kube::ResourceExt;
use rds_crds::condition::{find_condition, is_true, kind};
use rds_crds::identity::is_canary;
use rds_crds::server::Fencing;
use rds_crds::{RdsServer, RdsVolume};

use super::decide::FencePermission;

/// At most so many nodes are cut within [`FENCE_WINDOW`]; more looks like our own mistake (I19).
const MAX_FENCED_NODES: usize = 2;
pub(super) const FENCE_WINDOW: i64 = 600;

const PEOPLE: &str =
    "wait for the node or its reboot, or annotate the RdsVolume with rds.csi.srvlab.io/node-is-off: <node>/<bootID>";

/// Whether the nodes in `lost` may be cut. `begun`: those that this leader has begun to cut. `told` is the node of the annotation
/// `fence-now`: a person has looked.
pub(super) fn fence_permission<'a>(
    server: &RdsServer,
    volumes: impl IntoIterator<Item = &'a RdsVolume>,
    begun: Vec<String>,
    lost: &[&str],
    told: Option<&str>,
    now: Timestamp,
) -> FencePermission {
    let name = server.name_any();
    match server.spec.fencing.unwrap_or_default() {
        Fencing::Plan => {
            return FencePermission::Withheld(format!(
                "it would be cut, but spec.fencing of server {name} is Plan: {PEOPLE}"
            ));
        }
        Fencing::Auto => {
            if let Err(why) = proven(server) {
                return FencePermission::Withheld(format!(
                    "it would be cut, but that a fence ends sessions on server {name} is not proven ({why}): {PEOPLE}, or set \
                     spec.fencing to Assume if you know that it does"
                ));
            }
        }
        Fencing::Assume => {}
    }
    match full(volumes, begun, lost, told, now) {
        Some(recent) => FencePermission::Withheld(format!(
            "{} were cut within 10 minutes, which is the limit: look whether they are really lost, then annotate the RdsVolume with rds.csi.srvlab.io/fence-now: <node>",
            recent.join(" and ")
        )),
        None => FencePermission::Granted,
    }
}

/// The nodes that were cut lately, where it is too many of them for those in `lost`.
pub(super) fn full<'a>(
    volumes: impl IntoIterator<Item = &'a RdsVolume>,
    begun: Vec<String>,
    lost: &[&str],
    told: Option<&str>,
    now: Timestamp,
) -> Option<Vec<String>> {
    let recent = recently(volumes, begun, now);
    let new = lost
        .iter()
        .any(|node| !recent.iter().any(|r| r == node) && told != Some(node));
    (new && recent.len() >= MAX_FENCED_NODES).then_some(recent)
}

/// The verdict counts for the version that it is about, and for no other.
fn proven(server: &RdsServer) -> Result<(), String> {
    let status = server.status.as_ref();
    let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
    let tested = status
        .and_then(|s| s.fence_test.as_ref())
        .and_then(|t| t.version.as_ref());
    let runs = status.and_then(|s| s.version.as_ref());
    match (is_true(conditions, kind::FENCE_PROVEN), tested, runs) {
        (true, Some(tested), Some(runs)) if tested == runs => Ok(()),
        (true, Some(tested), Some(runs)) => Err(format!("the self-test was about RouterOS {tested}, and {runs} runs")),
        (true, _, _) => Err("it is not known which RouterOS version the self-test was about".to_owned()),
        (false, _, _) => Err(find_condition(conditions, kind::FENCE_PROVEN)
            .map_or("there was no self-test".to_owned(), |c| {
                format!("FenceProven is {}: {}", c.status, c.reason)
            })),
    }
}

/// Nodes that were or are being cut. The canary's are the self-test's, and nobody's loss.
fn recently<'a>(volumes: impl IntoIterator<Item = &'a RdsVolume>, begun: Vec<String>, now: Timestamp) -> Vec<String> {
    let mut recent = begun;
    for volume in volumes {
        let Some(status) = volume.status.as_ref().filter(|_| !is_canary(volume)) else {
            continue;
        };
        let cut = status.fenced.iter().map(|f| (&f.node, f.at.0));
        let cutting = status.fence.iter().map(|f| (&f.node, f.started_at.0));
        recent.extend(
            cut.chain(cutting)
                .filter(|(node, at)| !node.is_empty() && now.as_second() - at.as_second() < FENCE_WINDOW)
                .map(|(node, _)| node.clone()),
        );
    }
    recent.sort();
    recent.dedup();
    recent
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(fencing: &str, status: Value) -> RdsServer {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
            "spec": {"management": {"address": "a", "user": "u"}, "secretRef": {"name": "s"}, "storage": {"address": "192.0.2.1"},
                     "basePath": "/p/d", "fencing": fencing},
            "status": status,
        }))
        .unwrap()
    }

    fn verdict(status: &str, tested: &str, runs: &str) -> Value {
        json!({"version": runs, "fenceTest": {"version": tested}, "conditions": [{"type": "FenceProven", "status": status,
               "reason": "SessionSurvived", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    }

    fn cut(nodes: &[&str], label: &str, name: &str) -> RdsVolume {
        let fenced: Vec<Value> = nodes
            .iter()
            .map(|n| json!({"node": n, "generation": 1, "at": "2026-01-01T00:00:00Z"}))
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": name, "labels": {"rds.csi.srvlab.io/made-by": label}},
            "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}, "status": {"fenced": fenced},
        }))
        .unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn i18_auto_cuts_only_where_the_running_version_was_proven() {
        let now = at("2026-01-01T00:00:00Z");
        for (fencing, status, why) in [
            ("Auto", verdict("True", "7.24.4", "7.24.4"), None),
            (
                "Auto",
                verdict("True", "7.24.4", "7.25"),
                Some("about RouterOS 7.24.4, and 7.25 runs"),
            ),
            (
                "Auto",
                json!({"version": "7.24.4", "conditions": verdict("True", "", "")["conditions"]}),
                Some("which RouterOS"),
            ),
            ("Auto", verdict("False", "7.24.4", "7.24.4"), Some("SessionSurvived")),
            (
                "Auto",
                verdict("Unknown", "7.24.4", "7.24.4"),
                Some("FenceProven is Unknown"),
            ),
            ("Auto", json!({}), Some("no self-test")),
            ("Plan", verdict("True", "7.24.4", "7.24.4"), Some("Plan")),
            ("Assume", verdict("False", "7.24.4", "7.24.4"), None),
            ("Assume", json!({}), None),
        ] {
            match (
                fence_permission(&server(fencing, status.clone()), [], vec![], &["n1"], Some("n1"), now),
                why,
            ) {
                (FencePermission::Granted, None) => {}
                (FencePermission::Withheld(text), Some(why)) => {
                    assert!(
                        text.contains(why) && text.contains("node-is-off"),
                        "{fencing} {status}: {text}"
                    );
                }
                (other, _) => panic!("{fencing} {status}: {other:?}"),
            }
        }
    }

    #[test]
    fn i19_no_third_node_within_ten_minutes_without_a_persons_word() {
        let server = server("Assume", json!({}));
        let volumes = [cut(&["n1"], "csi", "pvc-1"), cut(&["n2", "n1"], "csi", "pvc-2")];
        let soon = at("2026-01-01T00:09:59Z");
        let FencePermission::Withheld(why) = fence_permission(&server, &volumes, vec![], &["n3"], None, soon) else {
            panic!("a third node is cut");
        };
        assert!(why.contains("n1 and n2"), "{why}");
        assert_eq!(
            fence_permission(&server, &volumes, vec![], &["n2"], None, soon),
            FencePermission::Granted,
            "its other volumes"
        );
        assert_eq!(
            fence_permission(&server, &volumes, vec![], &["n3"], Some("n3"), soon),
            FencePermission::Granted
        );
        let other = fence_permission(&server, &volumes, vec![], &["n3"], Some("n4"), soon);
        assert!(
            matches!(other, FencePermission::Withheld(_)),
            "a word about another node"
        );
        assert_eq!(
            fence_permission(&server, &volumes, vec![], &["n3"], None, at("2026-01-01T00:10:00Z")),
            FencePermission::Granted
        );
        let canary = [cut(&["n1"], "csi", "pvc-1"), cut(&["n2"], "self-test", "rds-canary-1")];
        assert_eq!(
            fence_permission(&server, &canary, vec![], &["n3"], None, soon),
            FencePermission::Granted,
            "a canary is nobody's loss"
        );
    }
}
