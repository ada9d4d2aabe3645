//! What cannot be done: each is refused with a word that helps and the right code, leaves nothing behind, and touches nothing of
//! anybody else's.

use anyhow::{Context, Result, ensure};
use csi_proto::csi::v1 as csi;
use e2e::claims::SOON;
use e2e::controller::{connect, creation, deletion};
use e2e::{Lab, wait_until};
use kube::Api;
use rds_crds::identity::{default_slot, volume_name};
use rds_crds::{RdsServer, Size};
use routeros_sim::Knobs;
use serde_json::json;
use tonic::Code;

use super::lab;

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
fn block_volumes_may_be_shared_filesystems_not_and_none_is_for_readers_alone() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("modes", Knobs::default()).await?;
        let shared = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
        lab.claim_with("modes-block", "modes", "1Gi", shared).await?;
        lab.bound("modes-block").await?;
        for (name, modes, words) in [
            ("modes-fs", json!(["ReadWriteMany"]), "volumeMode: Block"),
            ("modes-read", json!(["ReadOnlyMany"]), "would stay empty for ever"),
            (
                "modes-both",
                json!(["ReadOnlyMany", "ReadWriteOnce"]),
                "csi-attacher never attaches",
            ),
        ] {
            lab.claim_with(name, "modes", "1Gi", json!({"accessModes": modes}))
                .await?;
            wait_until("the claim to hear why not", SOON, async || {
                let events = lab.events("PersistentVolumeClaim", name).await?;
                ensure!(
                    events
                        .iter()
                        .any(|e| e.starts_with("ProvisioningFailed") && e.contains(words)),
                    "{events:?}"
                );
                Ok(())
            })
            .await?;
            lab.kubectl().run(&["delete", "pvc", name]).await?;
        }
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

/// What is stored of a server's volumes.
async fn objects(lab: &Lab, server: &str) -> Result<Vec<String>> {
    let all = lab.volumes().list(&Default::default()).await?.items;
    let ours = all.into_iter().filter(|volume| volume.spec.server == server);
    Ok(ours.filter_map(|volume| volume.metadata.name).collect())
}

#[test]
fn any_name_makes_a_volume_and_none_escapes() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("names", Knobs::default()).await?;
        appliance.add_foreign_disk("photos", "somebody else's");
        let before = appliance.only_disk()?;
        let client = connect(&lab.replicas[0].socket).await?;
        let names = [
            "quoted\"; /disk remove [find]; :put \"",
            "$(/system/reboot) $slot ${x}",
            "[/file remove [find]]",
            "a;b;c",
            "two\nlines\r\n/disk remove [find]\n",
            "\\\" \\24 \u{1b}[31m\u{7f}\0",
            "Größe-名前-🗄",
            "..",
            "../../etc/passwd",
            &"n".repeat(200),
            // A legal name of an object, but too long for a slot.
            "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        ];
        let made = names.map(|name| {
            let (mut client, request) = (client.clone(), creation(name, "names"));
            async move {
                let made = client.create_volume(request.clone()).await;
                let volume = made.with_context(|| format!("create {name:?}"))?.into_inner().volume;
                let again = client.create_volume(request).await;
                let again = again
                    .with_context(|| format!("create {name:?} again"))?
                    .into_inner()
                    .volume;
                ensure!(volume == again, "{name:?} made {volume:?}, then {again:?}");
                anyhow::Ok(volume.context("a reply without a volume")?.volume_id)
            }
        });
        let made = futures::future::try_join_all(made).await?;
        for (name, volume) in names.iter().zip(&made) {
            ensure!(*volume == volume_name(name), "{name:?} became {volume}");
            let disks = appliance.disks();
            let disk = disks.iter().find(|disk| disk.nqn.ends_with(volume));
            let disk = disk.with_context(|| format!("no disk of {name:?}"))?;
            ensure!(
                disk.exported && disk.size == Size::GI && disk.slot.len() <= 32,
                "{disk:?}"
            );
        }
        ensure!(appliance.disks().len() == names.len() + 1, "{:?}", appliance.disks());
        // Another request under a name that is taken, and names that are none.
        let mut client = client;
        for (mut request, code) in [
            (creation("a;b;c", "names"), Code::AlreadyExists),
            (creation("", "names"), Code::InvalidArgument),
            (creation(&"n".repeat(257), "names"), Code::InvalidArgument),
        ] {
            request.capacity_range = Some(csi::CapacityRange {
                required_bytes: 2 << 30,
                limit_bytes: 0,
            });
            let refused = client.create_volume(request.clone()).await;
            let refused = refused.err().with_context(|| format!("{request:?} was accepted"))?;
            ensure!(refused.code() == code, "{refused:?}");
        }
        for volume in &made {
            client.delete_volume(deletion(volume)).await?;
        }
        let after = appliance.only_disk()?;
        ensure!(
            format!("{after:?}") == format!("{before:?}"),
            "{before:?} became {after:?}"
        );
        ensure!(objects(lab, "names").await?.is_empty());
        Ok(())
    })
}

#[test]
fn impossible_requests_reach_no_appliance() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("impossible", Knobs::default()).await?;
        let mut client = connect(&lab.replicas[0].socket).await?;
        let range = |required_bytes, limit_bytes| {
            Some(csi::CapacityRange {
                required_bytes,
                limit_bytes,
            })
        };
        const GI: i64 = 1 << 30;
        for (asked, code, how) in [
            (
                range(2 * GI, GI),
                Code::InvalidArgument,
                "raise the limit or lower the request",
            ),
            (range((16 << 40) + 1, 0), Code::OutOfRange, "at most 16Ti"),
            (range(i64::MAX, 0), Code::OutOfRange, "at most 16Ti"),
            (range(GI + 1, GI + 2), Code::OutOfRange, "raise the limit"),
            (range(0, 1), Code::OutOfRange, "raise the limit"),
            (range(-1, 0), Code::InvalidArgument, "cannot be negative"),
        ] {
            let mut request = creation("impossible", "impossible");
            request.capacity_range = asked;
            let refused = client.create_volume(request).await;
            let refused = refused.err().with_context(|| format!("{asked:?} was accepted"))?;
            ensure!(
                refused.code() == code && refused.message().contains(how),
                "{asked:?}: {refused:?}"
            );
        }
        // An NQN has 223 bytes at most.
        let mut long = creation("impossible", "impossible");
        let prefix = format!("nqn.2000-02.com.mikrotik:pvc-{}", "x".repeat(195));
        long.parameters.insert("nqnPrefix".to_owned(), prefix);
        let refused = client.create_volume(long).await.err().context("an NQN too long")?;
        ensure!(
            refused.code() == Code::InvalidArgument && refused.message().contains("223"),
            "{refused:?}"
        );
        ensure!(objects(lab, "impossible").await?.is_empty());

        // What is possible: no size and one byte are the smallest volume, an odd size is rounded up to a block; none shrinks.
        let mut made = Vec::new();
        for (name, asked, size) in [
            ("none", None, GI),
            ("zero", range(0, 0), GI),
            ("byte", range(1, 0), GI),
            ("odd", range(GI + 1, 0), GI + 4096),
        ] {
            let mut request = creation(&format!("impossible-{name}"), "impossible");
            request.capacity_range = asked;
            let volume = client.create_volume(request).await?.into_inner().volume;
            let volume = volume.context("a reply without a volume")?;
            ensure!(volume.capacity_bytes == size, "{name}: {volume:?}");
            made.push(volume.volume_id);
        }
        let odd = made.last().context("four volumes")?;
        let grow = async |required, limit| {
            let request = csi::ControllerExpandVolumeRequest {
                volume_id: odd.clone(),
                capacity_range: range(required, limit),
                ..Default::default()
            };
            client.clone().controller_expand_volume(request).await
        };
        let same = grow(GI, 0).await?.into_inner();
        ensure!(same.capacity_bytes == GI + 4096, "it shrank to {}", same.capacity_bytes);
        let refused = grow(GI, GI).await.err().context("a limit below the size")?;
        ensure!(refused.code() == Code::OutOfRange, "{refused:?}");
        for volume in &made {
            client.delete_volume(deletion(volume)).await?;
        }
        appliance.assert_empty()
    })
}

#[test]
fn i11_a_slot_a_file_or_an_nqn_of_somebody_else_is_a_final_answer() -> Result<()> {
    e2e::run(async {
        let lab = lab().await?;
        let appliance = lab.appliance("taken", Knobs::default()).await?;
        let mut client = connect(&lab.replicas[0].socket).await?;
        for what in ["slot", "path", "file", "NQN"] {
            let name = format!("pvc-{}", uuid::Uuid::new_v4());
            let slot = default_slot(&name, "");
            let base = e2e::appliance::BASE_PATH;
            let (theirs, elsewhere) = (format!("{base}/{slot}.img"), format!("{base}/{what}.img"));
            let simulator = appliance.simulator();
            simulator.edit(|state| match what {
                "slot" => drop(state.add_file_disk(&slot, &elsewhere, 1 << 30, "theirs")),
                "path" => drop(state.add_file_disk("theirs", &theirs, 1 << 30, "")),
                "file" => drop(state.add_file(&theirs, ".img file", 1 << 30, 1 << 30, "")),
                _ => {
                    let id = state.add_file_disk("theirs", &elsewhere, 1 << 30, "theirs");
                    state.disks.update(id, |disk| {
                        disk.export.on = true;
                        disk.export.nqn = rds_crds::identity::base_nqn(rds_crds::identity::DEFAULT_NQN_PREFIX, &name);
                    });
                }
            });
            let all = || format!("{:?} {:?}", appliance.disks(), appliance.images());
            let before = all();
            let refused = client.create_volume(creation(&name, "taken")).await;
            let refused = refused.err().with_context(|| format!("the {what} was taken over"))?;
            ensure!(refused.code() == Code::AlreadyExists, "{what}: {refused:?}");
            ensure!(
                refused.message().contains("in the way"),
                "{what}: {}",
                refused.message()
            );
            ensure!(all() == before, "{what}: {before} became {}", all());
            ensure!(objects(lab, "taken").await?.is_empty(), "{what}: an RdsVolume was left");
            appliance.wipe().await;
        }
        Ok(())
    })
}
