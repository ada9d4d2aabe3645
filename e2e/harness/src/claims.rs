//! PersistentVolumeClaims, as the tests use them: made, waited for, expanded, deleted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use rds_crds::{RdsVolume, Size};
use serde_json::{Value, json};

use crate::lab::DRIVER;
use crate::{Lab, wait_until};

/// How long anything may take that needs a handful of commands on the appliance. Generous: a sidecar that failed a few times
/// pauses for 30 s, on a machine that runs virtual machines beside the test.
pub const SOON: Duration = Duration::from_secs(150);

/// How long a claim may stand still before [`Lab::grown`] touches it.
const STILL: Duration = Duration::from_secs(15);

/// The namespace of the claims.
pub const CLAIMS: &str = "default";

impl Lab {
    /// The API of the claims.
    pub fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.cluster.client(), CLAIMS)
    }

    /// The API of PersistentVolumes.
    pub fn persistent_volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.cluster.client())
    }

    /// The API of RdsVolumes.
    pub fn volumes(&self) -> Api<RdsVolume> {
        Api::all(self.cluster.client())
    }

    /// Makes a StorageClass on an RdsServer, with whatever else is in `more`.
    pub async fn class(&self, name: &str, server: &str, more: Value) -> Result<()> {
        let mut class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": DRIVER, "reclaimPolicy": "Delete", "allowVolumeExpansion": true,
            "volumeBindingMode": "Immediate", "parameters": {"server": server},
        });
        if let (Some(class), Value::Object(more)) = (class.as_object_mut(), more) {
            class.extend(more);
        }
        self.kubectl().apply(&class).await.map(drop)
    }

    /// Makes a claim on a StorageClass.
    pub async fn claim(&self, name: &str, class: &str, size: &str) -> Result<()> {
        self.claim_with(name, class, size, json!({})).await
    }

    /// Makes a claim with more in its spec.
    pub async fn claim_with(&self, name: &str, class: &str, size: &str, more: Value) -> Result<()> {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class,
            "resources": {"requests": {"storage": size}},
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let claim = serde_json::from_value(json!({"metadata": {"name": name, "namespace": CLAIMS}, "spec": spec}))?;
        self.claims()
            .create(&PostParams::default(), &claim)
            .await
            .with_context(|| format!("make claim {name}"))?;
        Ok(())
    }

    /// Waits until a claim is bound; the name of its PV, which is the name of its RdsVolume.
    pub async fn bound(&self, name: &str) -> Result<String> {
        let what = format!("claim {name} to be bound");
        let waited = wait_until(&what, SOON, async || {
            let claim = self.claims().get(name).await?;
            let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
            ensure!(phase == "Bound", "it is {phase}");
            claim
                .spec
                .and_then(|spec| spec.volume_name)
                .context("a bound claim without a volume name")
        });
        self.explained(waited.await, name).await
    }

    /// Asks for more (or takes back what failed).
    pub async fn resize(&self, name: &str, size: &str) -> Result<()> {
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        self.claims()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    /// Waits until the PV behind a claim has exactly this size.
    ///
    /// csi-resizer writes claims back into its own cache. When an older answer meets a newer event there, the older one stays:
    /// each further patch is a conflict (`the object has been modified`) until the claim changes again. So a claim that
    /// stands still is touched.
    pub async fn grown(&self, name: &str, size: &str) -> Result<()> {
        let wanted: Size = size.parse()?;
        let volume = self
            .claims()
            .get(name)
            .await?
            .spec
            .and_then(|spec| spec.volume_name)
            .context("the claim is not bound")?;
        let what = format!("the PV of claim {name} to have {size}");
        let mut touched = Instant::now();
        let waited = wait_until(&what, SOON, async || {
            if touched.elapsed() >= STILL {
                touched = Instant::now();
                self.touch(name).await?;
            }
            let pv = self.persistent_volumes().get(&volume).await?;
            let capacity = pv
                .spec
                .and_then(|spec| spec.capacity)
                .and_then(|mut capacity| capacity.remove("storage"));
            let Quantity(capacity) = capacity.context("a PV without capacity")?;
            self.play_kubelet(name, &capacity).await?;
            ensure!(capacity.parse::<Size>()? == wanted, "it has {capacity}");
            Ok(())
        });
        self.explained(waited.await, name).await
    }

    /// Changes a claim in a way that means nothing to anybody.
    async fn touch(&self, name: &str) -> Result<()> {
        let at = jiff::Timestamp::now().to_string();
        let patch = json!({"metadata": {"annotations": {"e2e.rds.csi.srvlab.io/touched": at}}});
        self.claims()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    /// kubelet's part of an expansion, for there is none: without it csi-resizer starts no second one.
    async fn play_kubelet(&self, name: &str, capacity: &str) -> Result<()> {
        let status = self.claims().get(name).await?.status.unwrap_or_default();
        let pending = status.allocated_resource_statuses.unwrap_or_default();
        if pending.get("storage").is_none_or(|state| state != "NodeResizePending") {
            return Ok(());
        }
        let done = json!({"status": {
            "capacity": {"storage": capacity}, "allocatedResourceStatuses": null, "conditions": null,
        }});
        self.claims()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&done))
            .await?;
        Ok(())
    }

    /// Deletes a claim and waits until claim, PV and RdsVolume are gone.
    pub async fn delete_claim(&self, name: &str) -> Result<()> {
        let claim = self.claims().get(name).await?;
        let volume = claim.spec.and_then(|spec| spec.volume_name);
        self.claims().delete(name, &DeleteParams::default()).await?;
        let what = format!("claim {name} and its volume to be gone");
        let waited = wait_until(&what, SOON, async || {
            ensure!(self.claims().get_opt(name).await?.is_none(), "the claim is still there");
            if let Some(volume) = &volume {
                ensure!(
                    self.persistent_volumes().get_opt(volume).await?.is_none(),
                    "PV {volume} is still there"
                );
                ensure!(
                    self.volumes().get_opt(volume).await?.is_none(),
                    "RdsVolume {volume} is still there"
                );
            }
            Ok(())
        });
        self.explained(waited.await, name).await
    }

    /// The messages of the events about an object, oldest first.
    pub async fn events(&self, kind: &str, name: &str) -> Result<Vec<String>> {
        let of = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let mut events = Api::<Event>::all(self.cluster.client())
            .list(&ListParams::default().fields(&of))
            .await?
            .items;
        events.sort_by_key(|event| event.creation_timestamp());
        Ok(events
            .into_iter()
            .map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect())
    }

    /// Adds to an error what is known about a claim: events, RdsVolumes, the last lines of the operator.
    pub async fn explained<T>(&self, result: Result<T>, claim: &str) -> Result<T> {
        let Err(error) = result else { return result };
        let events = self.events("PersistentVolumeClaim", claim).await.unwrap_or_default();
        let volumes = self
            .kubectl()
            .run(&["get", "rdsvolumes,rdsservers", "-o", "wide"])
            .await
            .unwrap_or_default();
        let operators = self
            .replicas
            .iter()
            .map(|replica| format!("{}:\n{}", replica.pod, replica.operator.tail(12)));
        let operators = operators.collect::<Vec<_>>().join("\n");
        let events = events.join("\n");
        Err(error.context(format!(
            "events of {claim}:\n{events}\n{volumes}\nlogs in {}; last lines of {operators}",
            self.cluster.dir().display()
        )))
    }
}
