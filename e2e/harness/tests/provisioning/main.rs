//! From claim to disk and back, through the real sidecars, with two replicas of the controller.

mod refusals;

use anyhow::{Context, Result, ensure};
use e2e::claims::SOON;
use e2e::lab::Options;
use e2e::{Lab, wait_until};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use kube::Api;
use rds_crds::Size;
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
