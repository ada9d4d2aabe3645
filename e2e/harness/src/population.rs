//! Many volumes at rest, made in seconds: objects and disks as the operator leaves them, copied from one that it made itself.
//!
//! The operator must not run meanwhile: it would find objects without disks, or disks without objects.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use rds_crds::RdsVolume;
use rds_crds::identity::{default_path, default_slot};
use rds_crds::names::manager;
use serde_json::{Value, json};

use crate::Lab;
use crate::appliance::{Appliance, BASE_PATH, Copy};

/// Requests to the API server at once.
const AT_ONCE: usize = 50;

impl Lab {
    /// Makes `count` more volumes like `template`, which is at rest on `appliance`.
    pub async fn populate(&self, appliance: &Appliance, template: &str, count: usize) -> Result<()> {
        let template = self.volumes().get(template).await?;
        let slot = template.status.as_ref().and_then(|s| s.slot.clone());
        let slot = slot.context("the template has a slot")?;
        let copies: Vec<Copy> = stream::iter(0..count)
            .map(|_| self.copy(&template, &slot))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        appliance.copy_disk(&slot, copies)
    }

    async fn copy(&self, template: &RdsVolume, old_slot: &str) -> Result<Copy> {
        let name = format!("pvc-{}", uuid::Uuid::new_v4());
        let old = template.name_any();
        let text = serde_json::to_string(&json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {
                "name": old,
                "annotations": template.metadata.annotations,
                "labels": template.metadata.labels,
                "finalizers": template.metadata.finalizers,
            },
            "spec": template.spec,
        }))?;
        // Slot and file are derived from the name, and stand in the spec too.
        let slot = default_slot(&name, "");
        let made = serde_json::from_str(&text.replace(&old, &name).replace(old_slot, &slot))?;
        let params = PostParams {
            field_manager: Some(manager::CSI.to_owned()),
            ..PostParams::default()
        };
        let made = self.volumes().create(&params, &made).await?;

        let uid = |v: &RdsVolume| v.uid().context("a stored object has a UID");
        let (old_uid, uid) = (uid(template)?, uid(&made)?);
        let change = |text: &str| {
            text.replace(&old, &name)
                .replace(&old_uid, &uid)
                .replace(&old_uid.replace('-', ""), &uid.replace('-', ""))
                .replace(old_slot, &slot)
        };
        let status: Value = serde_json::from_str(&change(&serde_json::to_string(&template.status)?))?;
        let params = PatchParams {
            field_manager: Some(manager::OPERATOR.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "status": status }));
        let made = self.volumes().patch_status(&name, &params, &patch).await?;

        let status = made.status.context("a status")?;
        let text = |text: Option<String>| text.context("the status is whole");
        let copy = Copy {
            slot,
            path: text(status.path)?,
            nqn: text(status.nqn)?,
            comment: text(status.disk.and_then(|disk| disk.comment))?,
        };
        ensure!(
            copy.path == default_path(BASE_PATH, &copy.slot),
            "odd path {}",
            copy.path
        );
        Ok(copy)
    }
}
