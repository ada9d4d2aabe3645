//! The limit of nodes that are cut per time, held by passes whose caches know nothing of each other.

use std::time::Duration;

use rds_crds::{RdsServer, RdsVolume};
use serde_json::{Value, json};

use super::observations::Observations;
use super::observe::{Outside, Patience};
use super::reconcile::{Place, reconcile};
use super::resync_tests::{Bed, DRIVER, OURS, bed, nowhere, typed};
use crate::events::Announcer;
use crate::routeros::Client;
use crate::volume::ApiError;

/// A volume that a node holds which is gone, and which nobody can speak for any more.
fn held(name: &str, node: &str, word: Option<&str>) -> RdsVolume {
    typed(json!({
        "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
        "metadata": {"name": name, "uid": name, "annotations": word.map(|w| json!({"rds.csi.srvlab.io/fence-now": w}))},
        "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "status": {"exportGeneration": 1, "holders": [
            {"node": node, "attachmentUID": "u", "role": "Primary", "since": "2026-01-01T00:00:00Z"}]},
    }))
}

struct Passes {
    bed: Bed,
    server: RdsServer,
    client: Client,
    observations: Observations,
}

impl Passes {
    fn new() -> Self {
        Self {
            bed: bed(),
            server: typed(
                json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": "s"},
                "spec": {"management": {"address": "a", "user": "u"}, "secretRef": {"name": "s"},
                         "storage": {"address": "a"}, "basePath": "/p", "fencing": "Assume"}}),
            ),
            client: nowhere(),
            observations: Observations::default(),
        }
    }

    /// One pass over that volume, of which nothing comes back into the caches; what it recorded as being cut.
    async fn pass(&self, mut volume: RdsVolume) -> Result<Option<String>, ApiError> {
        let world = &self.bed.resync.world;
        let outside = Outside {
            world,
            observations: &self.observations,
            patience: Patience {
                grace: Duration::ZERO,
                lease: Duration::ZERO,
            },
            driver: DRIVER,
        };
        let place = Place {
            server: &self.server,
            client: Some(&self.client),
            guard: None,
            port: 4420,
            base: "nqn".to_owned(),
            gate: &self.bed.resync.fleet.gate,
        };
        let (announcer, _poster) = Announcer::new(world.client.clone(), "test", self.bed.resync.metrics.clone());
        let name = volume.metadata.name.clone().unwrap();
        self.bed.server.put(
            &format!("{OURS}/rdsvolumes/{name}"),
            serde_json::to_value(&volume).unwrap(),
        );
        reconcile(&mut volume, &place, &outside, &announcer).await?;
        Ok(volume.status.and_then(|s| s.fence).map(|f| f.node))
    }

    async fn cut(&self, name: &str, node: &str) -> Option<String> {
        self.pass(held(name, node, None)).await.unwrap()
    }

    fn refuse(&self, name: &str) {
        let path = format!("{OURS}/rdsvolumes/{name}/status");
        self.bed.server.put(&path, Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn i19_no_third_node_is_cut_by_passes_that_run_side_by_side() {
    let passes = Passes::new();
    assert_eq!(passes.cut("a", "n1").await.as_deref(), Some("n1"));
    assert_eq!(passes.cut("b", "n2").await.as_deref(), Some("n2"));
    assert_eq!(passes.cut("c", "n3").await, None);
    assert_eq!(passes.cut("d", "n1").await.as_deref(), Some("n1"), "its other volumes");
    let told = passes.pass(held("c", "n3", Some("n3"))).await.unwrap();
    assert_eq!(told.as_deref(), Some("n3"), "a person has looked");
    tokio::time::advance(Duration::from_secs(599)).await;
    assert_eq!(passes.cut("e", "n4").await, None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(passes.cut("e", "n4").await.as_deref(), Some("n4"));
}

#[tokio::test(start_paused = true)]
async fn i19_a_fence_that_was_not_recorded_takes_no_place() {
    let passes = Passes::new();
    assert_eq!(passes.cut("a", "n1").await.as_deref(), Some("n1"));
    passes.refuse("b");
    assert!(passes.pass(held("b", "n2", None)).await.is_err());
    assert_eq!(passes.cut("c", "n3").await.as_deref(), Some("n3"));
    // Another volume of a node that was cut gives back only its own place.
    passes.refuse("d");
    assert!(passes.pass(held("d", "n3", None)).await.is_err());
    assert_eq!(passes.cut("e", "n4").await, None);
}
