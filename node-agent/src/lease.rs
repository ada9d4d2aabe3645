//! The agent's Lease: its sign of life to the operator. Nothing owns it, and an API server that is away stops nothing here.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use rds_crds::names::{ANNOTATION_HOST_NQN, manager};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::chain;

/// Between two renewals.
const EVERY: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(8);
/// After this without a renewal the operator takes the agent for silent.
const GOOD_FOR_SECONDS: i32 = 40;

/// Name of the Lease of a node's agent.
#[must_use]
pub fn name(node: &str) -> String {
    format!("rds-node-{node}")
}

/// What the Lease says.
#[derive(Clone, Debug)]
pub struct Sign {
    /// Name of the Node.
    pub node: String,
    /// How this machine names itself to appliances; two nodes with the same one are clones.
    pub host_nqn: String,
}

/// Renews until `stop`.
pub async fn run(client: Client, namespace: String, sign: Sign, stop: CancellationToken) {
    let node = &sign.node;
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut works = None;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let why = match timeout(WITHIN, renew(&leases, &sign)).await {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(chain(&e)),
            Err(_) => Some(format!("no answer within {WITHIN:?}")),
        };
        let now = why.is_none();
        match why {
            None if works != Some(true) => info!(lease = name(node), "the Lease is renewed"),
            Some(why) if works != Some(false) => {
                warn!(lease = name(node), why, "cannot renew the Lease, it is tried again");
            }
            None | Some(_) => {}
        }
        works = Some(now);
    }
}

async fn renew(leases: &Api<Lease>, sign: &Sign) -> Result<(), kube::Error> {
    let node = &sign.node;
    let annotation = (ANNOTATION_HOST_NQN.to_owned(), sign.host_nqn.clone());
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name(node)),
            annotations: Some([annotation].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.clone()),
            lease_duration_seconds: Some(GOOD_FOR_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let params = PatchParams::apply(manager::AGENT).force();
    leases.patch(&name(node), &params, &Patch::Apply(&lease)).await?;
    Ok(())
}
