//! From claim to disk and back, through the real sidecars, with two replicas of the controller.

use anyhow::{Context, Result, ensure};
use e2e::claims::SOON;
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use kube::Api;
use rds_crds::{RdsServer, Size};
use routeros_sim::{Knobs, knobs::TooLong};
use serde_json::json;
use tokio::sync::OnceCell;

static LAB: OnceCell<Lab> = OnceCell::const_new();

async fn lab() -> Result<&'static Lab> {
    let options = Options {
        replicas: 2,
        ..Options::default()
    };
    LAB.get_or_try_init(|| async { Lab::start("provisioning", &options).await })
        .await
}

#[test]
fn a_claim_is_bound_grown_and_deleted_and_leaves_nothing() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("plain", Knobs::default()).await?;
        lab.claim("plain", "plain", "1Gi").await?;
        let volume = lab.bound("plain").await?;

        let disk = appliance.only_disk()?;
        ensure!(disk.size == Size::GI, "the disk has {} bytes", disk.size);
        ensure!(
            disk.exported && disk.nqn.ends_with(&volume),
            "{disk:?} is not exported as {volume}"
        );
        ensure!(
            disk.slot.len() <= 32 && disk.comment.contains("default/plain"),
            "{disk:?}"
        );
        let object = lab.volumes().get(&volume).await?;
        let status = object.status.context("an RdsVolume without status")?;
        ensure!(
            status.nqn.as_deref() == Some(&disk.nqn),
            "status.nqn is {:?}, the disk's {}",
            status.nqn,
            disk.nqn
        );

        lab.resize("plain", "2Gi").await?;
        lab.grown("plain", "2Gi").await?;
        ensure!(appliance.only_disk()?.size == 2 * Size::GI);

        lab.delete_claim("plain").await?;
        appliance.assert_empty()
    })
}

#[test]
fn sizes_are_exact_bytes() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("sizes", Knobs::default()).await?;
        // 1.5 TiB became 1 TiB in the Go driver (B42).
        for (name, size) in [
            ("size-tib", "1.5Ti"),
            ("size-mib", "1025Mi"),
            ("size-g", "2G"),
            ("size-odd", "1073741825"),
        ] {
            lab.claim(name, "sizes", size).await?;
            let volume = lab.bound(name).await?;
            let disk = appliance
                .disks()
                .into_iter()
                .find(|disk| disk.nqn.ends_with(&volume))
                .context("no disk")?;
            let wanted: Size = size.parse()?;
            ensure!(
                (wanted.0..wanted.0 + 4096).contains(&disk.size),
                "{size} became {} bytes",
                disk.size
            );
            let told = lab
                .persistent_volumes()
                .get(&volume)
                .await?
                .spec
                .and_then(|s| s.capacity)
                .and_then(|mut c| c.remove("storage"));
            let told: Size = told.context("a PV without capacity")?.0.parse()?;
            ensure!(
                told.0 == disk.size,
                "Kubernetes was told {told}, the disk has {}",
                disk.size
            );
            lab.delete_claim(name).await?;
        }
        appliance.assert_empty()
    })
}

#[test]
fn retain_keeps_the_disk() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("retain", Knobs::default()).await?;
        lab.class("retain-kept", "retain", json!({"reclaimPolicy": "Retain"}))
            .await?;
        lab.claim("retain", "retain-kept", "1Gi").await?;
        let volume = lab.bound("retain").await?;
        lab.kubectl().run(&["delete", "pvc", "retain"]).await?;
        lab.kubectl().run(&["delete", "pv", &volume]).await?;
        wait_until("the PV to be gone", SOON, async || {
            ensure!(
                lab.persistent_volumes().get_opt(&volume).await?.is_none(),
                "it is there"
            );
            Ok(())
        })
        .await?;
        ensure!(
            appliance.only_disk()?.exported,
            "the disk of a retained volume was touched"
        );
        ensure!(
            lab.volumes().get_opt(&volume).await?.is_some(),
            "the RdsVolume of a retained volume is gone"
        );
        Ok(())
    })
}

#[test]
fn several_servers_serve_side_by_side() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let one = lab.appliance("many-1", Knobs::default()).await?;
        let two = lab.appliance("many-2", Knobs::default()).await?;
        for (claim, class) in [("many-a", "many-1"), ("many-b", "many-2"), ("many-c", "many-1")] {
            lab.claim(claim, class, "1Gi").await?;
        }
        for claim in ["many-a", "many-b", "many-c"] {
            lab.bound(claim).await?;
        }
        ensure!(
            (one.disks().len(), two.disks().len()) == (2, 1),
            "disks landed on the wrong appliance"
        );
        // One of them is away: the other goes on.
        one.set(|knobs| knobs.down = true);
        lab.claim("many-d", "many-2", "1Gi").await?;
        lab.bound("many-d").await?;
        one.set(|knobs| knobs.down = false);
        for claim in ["many-a", "many-b", "many-c", "many-d"] {
            lab.delete_claim(claim).await?;
        }
        one.assert_empty()?;
        two.assert_empty()
    })
}

#[test]
fn a_failed_expansion_is_taken_back() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("taken-back", Knobs::default()).await?;
        lab.claim("taken-back", "taken-back", "1Ti").await?;
        lab.bound("taken-back").await?;
        // Room for 1.2Ti, not for 2Ti.
        appliance.leave_free(Size::TI / 2);
        lab.resize("taken-back", "2Ti").await?;
        wait_until("the expansion to be refused", SOON, async || {
            let events = lab.events("PersistentVolumeClaim", "taken-back").await?;
            ensure!(
                events.iter().any(|event| event.starts_with("VolumeResizeFailed")),
                "{events:?}"
            );
            Ok(())
        })
        .await?;
        ensure!(
            appliance.only_disk()?.size == Size::TI,
            "a refused expansion changed the disk"
        );
        lab.resize("taken-back", "1.2Ti").await?;
        lab.grown("taken-back", "1319413956608").await?;
        let size = appliance.only_disk()?.size;
        ensure!(
            (1_319_413_953_332..1_319_413_953_332 + 4096).contains(&size),
            "1.2Ti became {size} bytes"
        );
        lab.delete_claim("taken-back").await?;
        appliance.assert_empty()
    })
}

#[test]
fn a_full_pool_is_a_final_answer_that_leaves_nothing() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("full", Knobs::default()).await?;
        appliance.leave_free(Size::MI);
        lab.claim("full", "full", "1Gi").await?;
        wait_until("the provisioning to fail", SOON, async || {
            let events = lab.events("PersistentVolumeClaim", "full").await?;
            ensure!(
                events.iter().any(|event| event.starts_with("ProvisioningFailed")),
                "{events:?}"
            );
            Ok(())
        })
        .await?;
        appliance.assert_empty()?;
        appliance.leave_free(Size::TI);
        lab.bound("full").await?;
        lab.delete_claim("full").await?;
        appliance.assert_empty()
    })
}

#[test]
fn it_works_with_every_habit_of_the_appliance() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let mut index = 0;
        for version in ["7.21", "7.24"] {
            for width in [0, 80] {
                for slot_limit in [32, 40] {
                    index += 1;
                    let name = format!("habit-{index}");
                    let knobs = Knobs {
                        version: version.parse().map_err(|e| anyhow::anyhow!("{e}"))?,
                        width,
                        slot_limit,
                        slot_too_long: TooLong::Truncate,
                        ..Knobs::default()
                    };
                    let habit = format!("RouterOS {version}, width {width}, slots of {slot_limit}");
                    let appliance = lab.appliance(&name, knobs).await?;
                    lab.claim(&name, &name, "1Gi").await?;
                    lab.bound(&name).await.context(habit.clone())?;
                    lab.resize(&name, "2Gi").await?;
                    lab.grown(&name, "2Gi").await.context(habit.clone())?;
                    lab.delete_claim(&name).await.context(habit.clone())?;
                    appliance.assert_empty().context(habit)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn an_old_version_is_refused_with_the_reason_in_the_condition() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let knobs = Knobs {
            version: "7.20".parse().map_err(|e| anyhow::anyhow!("{e}"))?,
            ..Knobs::default()
        };
        let appliance = lab.appliance_unready("old", knobs, json!({})).await?;
        let servers = Api::<RdsServer>::all(lab.cluster.client());
        wait_until("RdsServer old to be refused", SOON, async || {
            let conditions = servers
                .get("old")
                .await?
                .status
                .map(|status| status.conditions)
                .unwrap_or_default();
            let compatible = conditions
                .iter()
                .find(|c| c.type_ == "Compatible")
                .context("no condition Compatible yet")?;
            ensure!(
                compatible.status == "False" && compatible.message.contains("7.21"),
                "{compatible:?}"
            );
            Ok(())
        })
        .await?;
        lab.claim("old", "old", "1Gi").await?;
        wait_until("the claim to hear why", SOON, async || {
            let events = lab.events("PersistentVolumeClaim", "old").await?;
            ensure!(
                events
                    .iter()
                    .any(|e| e.starts_with("ProvisioningFailed") && e.contains("7.2")),
                "{events:?}"
            );
            Ok(())
        })
        .await?;
        lab.kubectl().run(&["delete", "pvc", "old"]).await?;
        appliance.assert_empty()
    })
}

#[test]
fn capacity_is_published_and_right() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("capacity", Knobs::default()).await?;
        let capacities = Api::<CSIStorageCapacity>::namespaced(lab.cluster.client(), e2e::lab::NAMESPACE);
        wait_until("a CSIStorageCapacity of the class", SOON, async || {
            let all = capacities.list(&Default::default()).await?.items;
            let ours = all
                .iter()
                .find(|capacity| capacity.storage_class_name == "capacity")
                .context("none yet")?;
            let told: Size = ours.capacity.as_ref().context("no capacity in it yet")?.0.parse()?;
            let free = appliance.free();
            ensure!(
                told.0 > 0 && told.0 <= free,
                "it says {told}, the pool has {free} bytes free"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn block_volumes_may_be_shared_and_filesystems_not() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("modes", Knobs::default()).await?;
        let shared = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
        lab.claim_with("modes-block", "modes", "1Gi", shared).await?;
        lab.bound("modes-block").await?;
        lab.claim_with("modes-fs", "modes", "1Gi", json!({"accessModes": ["ReadWriteMany"]}))
            .await?;
        wait_until("the claim to hear why not", SOON, async || {
            let events = lab.events("PersistentVolumeClaim", "modes-fs").await?;
            ensure!(
                events
                    .iter()
                    .any(|e| e.starts_with("ProvisioningFailed") && e.contains("Block")),
                "{events:?}"
            );
            Ok(())
        })
        .await?;
        lab.kubectl().run(&["delete", "pvc", "modes-fs"]).await?;
        lab.delete_claim("modes-block").await?;
        appliance.assert_empty()
    })
}

#[test]
fn parameters_that_cannot_work_are_refused_by_name() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("parameters", Knobs::default()).await?;
        for (index, (key, value)) in [
            ("raidLevel", "6"),
            ("nvmePort", "70000"),
            ("csi.storage.k8s.io/fstype", "ntfs"),
            ("volumePath", "/storage-pool/../etc"),
            ("volumePath", "/elsewhere"),
            ("nqnPrefix", "pvc-"),
            ("ctrlLossTmo", "soon"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("parameters-{index}");
            let parameters = json!({"parameters": {"server": "parameters", key: value}});
            lab.class(&name, "parameters", parameters).await?;
            lab.claim(&name, &name, "1Gi").await?;
            let named = key.rsplit('/').next().unwrap_or(key);
            wait_until(&format!("{key}={value} to be refused"), SOON, async || {
                let events = lab.events("PersistentVolumeClaim", &name).await?;
                let told = |e: &String| {
                    e.starts_with("ProvisioningFailed") && [named, value].iter().any(|word| e.contains(word))
                };
                ensure!(events.iter().any(told), "{events:?}");
                Ok(())
            })
            .await?;
            lab.kubectl().run(&["delete", "pvc", &name]).await?;
        }
        appliance.assert_empty()?;
        let left = lab.volumes().list(&Default::default()).await?.items;
        ensure!(
            left.iter().all(|volume| volume.spec.server != "parameters"),
            "an RdsVolume was left behind"
        );
        Ok(())
    })
}
