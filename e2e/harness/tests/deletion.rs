//! D2: no object's deletion alone removes the data of a PV. What is refused, what happens where a refusal was passed by, and
//! how each ends well.

use anyhow::{Context, Result, ensure};
use e2e::claims::SOON;
use e2e::lab::{NAMESPACE, Options};
use e2e::{Lab, wait_until};
use kube::Api;
use rds_crds::RdsServer;
use routeros_sim::Knobs;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static LAB: OnceCell<Lab> = OnceCell::const_new();

async fn lab() -> Result<&'static Lab> {
    LAB.get_or_try_init(|| async { Lab::start("deletion", &Options::default()).await })
        .await
}

/// The message of a condition that is True.
async fn blocked(lab: &Lab, volume: &str) -> Result<String> {
    let what = format!("DeletionBlocked on RdsVolume {volume}");
    wait_until(&what, SOON, async || {
        let conditions = lab
            .volumes()
            .get(volume)
            .await?
            .status
            .map(|status| status.conditions)
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|c| c.type_ == "DeletionBlocked" && c.status == "True");
        Ok(found
            .with_context(|| format!("conditions are {conditions:?}"))?
            .message
            .clone())
    })
    .await
}

#[test]
fn d2_a_volume_forced_into_deletion_keeps_its_data_and_works_on_through_its_pv() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("forced", Knobs::default()).await?;
        lab.claim("forced", "forced", "1Gi").await?;
        let volume = lab.bound("forced").await?;
        let kubectl = lab.kubectl();

        let refused = wait_until("the deletion to be refused", SOON, async || {
            kubectl
                .refused(&["delete", "rdsvolume", &volume, "--dry-run=server"], None)
                .await
        })
        .await?;
        ensure!(
            refused.contains("PersistentVolumeClaim") || refused.contains("PVC"),
            "not the right way: {refused}"
        );
        let refused = kubectl
            .refused(
                &["delete", "crd", "rdsvolumes.rds.csi.srvlab.io", "--dry-run=server"],
                None,
            )
            .await?;
        ensure!(refused.contains("confirm-delete"), "{refused}");

        let confirm = format!("rds.csi.srvlab.io/confirm-delete={volume}");
        kubectl.run(&["annotate", "rdsvolume", &volume, &confirm]).await?;
        kubectl.run(&["delete", "rdsvolume", &volume, "--wait=false"]).await?;
        let message = blocked(lab, &volume).await?;
        ensure!(
            message.contains(&volume),
            "DeletionBlocked does not name the PV: {message}"
        );
        ensure!(appliance.only_disk()?.exported, "the disk of a bound PV was touched");

        lab.resize("forced", "2Gi").await?;
        lab.grown("forced", "2Gi").await?;
        lab.delete_claim("forced").await?;
        appliance.assert_empty()
    })
}

#[test]
fn d2_a_server_forced_into_deletion_works_on_and_goes_after_its_volumes() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("server", Knobs::default()).await?;
        lab.claim("server", "server", "1Gi").await?;
        lab.bound("server").await?;
        let kubectl = lab.kubectl();
        // Its count of volumes, which the policy goes by, follows in a moment.
        let refused = wait_until("the deletion to be refused", SOON, async || {
            kubectl
                .refused(&["delete", "rdsserver", "server", "--dry-run=server"], None)
                .await
        })
        .await?;
        ensure!(refused.contains("has 1 volume"), "not the reason: {refused}");

        let confirm = "rds.csi.srvlab.io/confirm-delete=server";
        kubectl.run(&["annotate", "rdsserver", "server", confirm]).await?;
        kubectl.run(&["delete", "rdsserver", "server", "--wait=false"]).await?;
        let said = told(lab, "server", "DeletionBlocked", "True").await?;
        ensure!(said.contains("VolumesExist"), "{said}");
        ensure!(appliance.only_disk()?.exported, "the disk of a bound PV was touched");

        lab.resize("server", "2Gi").await?;
        lab.grown("server", "2Gi").await?;
        lab.delete_claim("server").await?;
        appliance.assert_empty()?;
        kubectl
            .run(&["wait", "--for=delete", "rdsserver/server", "--timeout=120s"])
            .await
            .map(drop)
    })
}

#[test]
fn d2_a_secret_that_is_gone_costs_no_data_and_all_works_again_once_it_is_back() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("secret", Knobs::default()).await?;
        lab.claim("secret", "secret", "1Gi").await?;
        lab.bound("secret").await?;
        let kubectl = lab.kubectl();
        let secret = ["secret", "-n", NAMESPACE, "secret"];
        let refused = kubectl
            .refused(&[&["delete", "--dry-run=server"][..], &secret].concat(), None)
            .await?;
        ensure!(
            refused.contains("RdsServer secret logs in"),
            "not the reason: {refused}"
        );

        let kept = kubectl.run(&[&["get", "-o", "json"][..], &secret].concat()).await?;
        let kept: Value = serde_json::from_str(&kept)?;
        let confirm = "rds.csi.srvlab.io/confirm-delete=secret";
        kubectl.run(&[&["annotate"][..], &secret, &[confirm]].concat()).await?;
        kubectl.run(&[&["delete"][..], &secret].concat()).await?;
        let said = told(lab, "secret", "Ready", "False").await?;
        ensure!(said.contains("SecretInvalid"), "{said}");
        lab.resize("secret", "2Gi").await?;
        ensure!(appliance.only_disk()?.exported, "the disk of a bound PV was touched");

        let back = json!({"apiVersion": "v1", "kind": "Secret", "data": kept["data"],
            "metadata": {"name": "secret", "namespace": NAMESPACE}});
        kubectl.apply(&back).await?;
        told(lab, "secret", "Ready", "True").await?;
        lab.grown("secret", "2Gi").await?;
        lab.delete_claim("secret").await?;
        appliance.assert_empty()
    })
}

/// Reason and message of a condition of an RdsServer, once it has this status.
async fn told(lab: &Lab, server: &str, kind: &str, status: &str) -> Result<String> {
    let servers = Api::<RdsServer>::all(lab.cluster.client());
    let what = format!("{kind}={status} on RdsServer {server}");
    wait_until(&what, SOON, async || {
        let said = servers.get(server).await?.status.context("no status")?.conditions;
        let found = said.iter().find(|c| c.type_ == kind && c.status == status);
        let found = found.with_context(|| format!("conditions are {said:?}"))?;
        Ok(format!("{}: {}", found.reason, found.message))
    })
    .await
}

#[test]
fn d2_a_git_prune_of_a_hand_written_volume_leaves_the_disk() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("by-hand", Knobs::default()).await?;
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "by-hand"},
            "spec": {"server": "by-hand", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}});
        lab.kubectl().apply(&object).await?;
        lab.kubectl()
            .run(&["wait", "--for=condition=Ready", "rdsvolume/by-hand", "--timeout=60s"])
            .await?;
        let disk = appliance.only_disk()?;
        lab.kubectl()
            .run(&["delete", "rdsvolume", "by-hand", "--timeout=60s"])
            .await?;
        let kept = appliance.only_disk()?;
        ensure!(
            (&kept.slot, &kept.path, kept.size) == (&disk.slot, &disk.path, disk.size),
            "{disk:?} became {kept:?}"
        );
        ensure!(
            !kept.comment.contains("rds1:"),
            "our tag stayed on a disk that is no longer ours: {}",
            kept.comment
        );

        // Written again with adopt, the same disk comes back.
        let adopt = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "by-hand"},
            "spec": {"server": "by-hand", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"],
                     "adopt": true, "slot": disk.slot, "path": disk.path}});
        lab.kubectl().apply(&adopt).await?;
        lab.kubectl()
            .run(&["wait", "--for=condition=Ready", "rdsvolume/by-hand", "--timeout=60s"])
            .await?;
        ensure!(appliance.only_disk()?.size == disk.size);
        lab.kubectl()
            .run(&["delete", "rdsvolume", "by-hand", "--timeout=60s"])
            .await?;
        appliance.only_disk().map(drop)
    })
}

#[test]
fn a_hand_written_volume_with_delete_goes_with_its_disk() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("by-hand-gone", Knobs::default()).await?;
        let object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "by-hand-gone"},
            "spec": {"server": "by-hand-gone", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"], "deletionPolicy": "Delete"}});
        lab.kubectl().apply(&object).await?;
        lab.kubectl()
            .run(&[
                "wait",
                "--for=condition=Ready",
                "rdsvolume/by-hand-gone",
                "--timeout=60s",
            ])
            .await?;
        appliance.only_disk()?;
        lab.kubectl()
            .run(&["delete", "rdsvolume", "by-hand-gone", "--timeout=60s"])
            .await?;
        appliance.assert_empty()
    })
}

#[test]
fn d2_the_deletion_of_the_crd_itself_removes_no_data() -> Result<()> {
    e2e::run(async {
        // A control plane of its own: the others could make no volumes any more.
        let lab = Lab::start("deletion-crd", &Options::default()).await?;
        let appliance = lab.appliance("cascade", Knobs::default()).await?;
        lab.claim("cascade", "cascade", "1Gi").await?;
        let volume = lab.bound("cascade").await?;
        let kubectl = lab.kubectl();
        let crd = "rdsvolumes.rds.csi.srvlab.io";
        kubectl
            .run(&[
                "annotate",
                "crd",
                crd,
                &format!("rds.csi.srvlab.io/confirm-delete={crd}"),
            ])
            .await?;
        kubectl.run(&["delete", "crd", crd, "--wait=false"]).await?;
        blocked(&lab, &volume).await?;
        ensure!(appliance.only_disk()?.exported, "the disk of a bound PV was touched");
        lab.resize("cascade", "2Gi").await?;
        lab.grown("cascade", "2Gi").await?;
        lab.delete_claim("cascade").await.or_else(|error| {
            // With the last object the CRD goes, and then there is nothing left to ask for.
            if format!("{error:#}").contains("404") {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        appliance.assert_empty()
    })
}
