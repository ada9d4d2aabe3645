//! Stories of a volume, each told from beginning to end; together they pass through every mutating step of the operator.

use anyhow::{Context, Result, ensure};
use e2e::appliance::Appliance;
use e2e::claims::SOON;
use e2e::{Lab, wait_until};
use rds_crds::Size;
use routeros_sim::Knobs;
use routeros_sim::knobs::Resize;
use serde_json::{Value, json};

/// One way through a volume's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// From a claim: made, grown, deleted.
    Claim,
    /// Written by hand, with deletionPolicy Delete.
    ByHand,
    /// An existing disk is adopted, and stays when the object goes.
    Adopted,
    /// Somebody switches the export off; it is repaired.
    LostExport,
    /// Somebody else has the slot.
    Taken,
    /// The appliance shows a new size only after its export was toggled.
    Toggled,
    /// The appliance is ahead of the API, as after a restore from an older backup.
    Restored,
    /// Somebody removes the disk's row; the file is still ours to remove.
    LostRow,
    /// There is no room for a growth; it is taken back, and a smaller one succeeds.
    GrowthRefused,
}

impl Story {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Claim,
        Self::ByHand,
        Self::Adopted,
        Self::LostExport,
        Self::Taken,
        Self::Toggled,
        Self::Restored,
        Self::LostRow,
        Self::GrowthRefused,
    ];
}

/// Where the stories take place.
pub(crate) struct World<'a> {
    lab: &'a Lab,
    plain: Appliance,
    toggling: Appliance,
    full: Appliance,
}

/// The appliances of the stories.
pub(crate) async fn world(lab: &Lab) -> Result<World<'_>> {
    let plain = lab.appliance("plain", Knobs::default()).await?;
    let toggling = lab
        .appliance(
            "toggling",
            Knobs {
                resize: Resize::AfterToggle,
                ..Knobs::default()
            },
        )
        .await?;
    let full = lab.appliance("full", Knobs::default()).await?;
    Ok(World {
        lab,
        plain,
        toggling,
        full,
    })
}

impl World<'_> {
    /// Tells a story under a name of its own; what its end, and its turning point, look like.
    pub(crate) async fn tell(&self, story: Story, name: &str) -> Result<Value> {
        let told = match story {
            Story::Claim => self.claim(&self.plain, name).await,
            Story::Toggled => self.claim(&self.toggling, name).await,
            Story::ByHand => self.by_hand(name).await,
            Story::Adopted => self.adopted(name).await,
            Story::LostExport => self.lost_export(name).await,
            Story::Taken => self.taken(name).await,
            Story::Restored => self.restored(name).await,
            Story::LostRow => self.lost_row(name).await,
            Story::GrowthRefused => self.growth_refused(name).await,
        };
        let end = self.end().await;
        let (told, end) = (told?, end?);
        Ok(json!({"turning point": told, "end": end}))
    }

    async fn claim(&self, appliance: &Appliance, name: &str) -> Result<Value> {
        let lab = self.lab;
        lab.claim(name, &appliance.name, "1Gi").await?;
        let volume = lab.bound(name).await?;
        lab.resize(name, "2Gi").await?;
        lab.grown(name, "2Gi").await?;
        let grown = self.settled(appliance, &volume).await?;
        lab.delete_claim(name).await?;
        appliance.assert_empty()?;
        Ok(grown)
    }

    async fn by_hand(&self, name: &str) -> Result<Value> {
        self.apply(name, json!({"deletionPolicy": "Delete"})).await?;
        let made = self.settled(&self.plain, name).await?;
        self.delete(name).await?;
        self.plain.assert_empty()?;
        Ok(made)
    }

    async fn adopted(&self, name: &str) -> Result<Value> {
        self.plain.add_foreign_disk(name, "");
        let path = format!("{}/{name}.img", e2e::appliance::BASE_PATH);
        self.apply(name, json!({"adopt": true, "slot": name, "path": path}))
            .await?;
        let adopted = self.settled(&self.plain, name).await?;
        self.delete(name).await?;
        let kept = self.plain.only_disk()?;
        self.plain.wipe().await;
        Ok(json!([adopted, kept.size, kept.comment]))
    }

    async fn lost_export(&self, name: &str) -> Result<Value> {
        let lab = self.lab;
        lab.claim(name, &self.plain.name, "1Gi").await?;
        let volume = lab.bound(name).await?;
        self.settled(&self.plain, &volume).await?;
        self.plain.unexport(&volume)?;
        wait_until("the export to be repaired", SOON, async || {
            ensure!(self.plain.only_disk()?.exported, "it is off");
            Ok(())
        })
        .await?;
        let repaired = self.settled(&self.plain, &volume).await?;
        lab.delete_claim(name).await?;
        self.plain.assert_empty()?;
        Ok(repaired)
    }

    async fn taken(&self, name: &str) -> Result<Value> {
        self.plain.add_foreign_disk(name, "not yours");
        self.apply(name, json!({"deletionPolicy": "Delete", "slot": name}))
            .await?;
        wait_until("the volume to say that the slot is taken", SOON, async || {
            let status = self.lab.volumes().get(name).await?.status.context("no status")?;
            let told = |c: &&_| -> bool {
                let c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition = c;
                c.type_ == "Ready" && c.status == "False" && c.message.contains("slot")
            };
            status
                .conditions
                .iter()
                .find(told)
                .map(drop)
                .with_context(|| format!("{:?}", status.conditions))
        })
        .await?;
        self.delete(name).await?;
        let kept = self.plain.only_disk()?;
        self.plain.wipe().await;
        Ok(json!([kept.size, kept.comment]))
    }

    async fn restored(&self, name: &str) -> Result<Value> {
        self.apply(name, json!({"deletionPolicy": "Delete"})).await?;
        self.settled(&self.plain, name).await?;
        let slot = self.plain.only_disk()?.slot;
        let ahead = self.plain.run_ahead(&slot)?;
        let what = format!("RdsVolume {name} to know of generation 3");
        wait_until(&what, SOON, async || {
            let status = self.lab.volumes().get(name).await?.status.context("no status")?;
            ensure!(
                status.export_generation >= Some(3),
                "it is {:?}",
                status.export_generation
            );
            Ok(())
        })
        .await?;
        let restored = self.settled(&self.plain, name).await?;
        // Who was cut knows the older name: it never comes back.
        let nqn = self.plain.only_disk()?.nqn;
        ensure!(nqn == ahead, "the export is {nqn}, not {ahead}");
        self.delete(name).await?;
        self.plain.wipe().await;
        Ok(restored)
    }

    async fn lost_row(&self, name: &str) -> Result<Value> {
        let lab = self.lab;
        lab.claim(name, &self.plain.name, "1Gi").await?;
        let volume = lab.bound(name).await?;
        self.settled(&self.plain, &volume).await?;
        self.plain.remove_row(&volume)?;
        ensure!(self.plain.images().len() == 1, "the file went with its row");
        lab.delete_claim(name).await?;
        self.plain.assert_empty()?;
        Ok(Value::Null)
    }

    async fn growth_refused(&self, name: &str) -> Result<Value> {
        let lab = self.lab;
        self.full.leave_free(Size::TI);
        lab.claim(name, &self.full.name, "1Gi").await?;
        let volume = lab.bound(name).await?;
        self.settled(&self.full, &volume).await?;
        // One GiB of it is kept in reserve.
        self.full.leave_free(2 * Size::GI);
        lab.resize(name, "4Gi").await?;
        let waited = wait_until("the growth to be refused and taken back", SOON, async || {
            let events = lab.events("PersistentVolumeClaim", name).await?;
            ensure!(
                events.iter().any(|event| event.starts_with("VolumeResizeFailed")),
                "{events:?}"
            );
            let asked = lab.volumes().get(&volume).await?.spec.capacity;
            ensure!(asked.0 == Size::GI, "RdsVolume {volume} still asks for {asked}");
            Ok(())
        });
        lab.explained(waited.await, &volume).await?;
        lab.resize(name, "1536Mi").await?;
        lab.grown(name, "1536Mi").await?;
        let grown = self.settled(&self.full, &volume).await?;
        lab.delete_claim(name).await?;
        self.full.assert_empty()?;
        Ok(grown)
    }

    /// Applies a volume written by hand.
    async fn apply(&self, name: &str, more: Value) -> Result<()> {
        let mut object = json!({"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name},
            "spec": {"server": self.plain.name, "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]}});
        if let (Some(spec), Value::Object(more)) = (object["spec"].as_object_mut(), more) {
            spec.extend(more);
        }
        self.lab.kubectl().apply(&object).await.map(drop)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.lab
            .kubectl()
            .run(&["delete", "rdsvolume", name, "--wait=false"])
            .await?;
        let what = format!("RdsVolume {name} to be gone");
        let waited = wait_until(&what, SOON, async || {
            ensure!(self.lab.volumes().get_opt(name).await?.is_none(), "it is there");
            Ok(())
        });
        self.lab.explained(waited.await, name).await
    }

    /// The state of a volume once it is Ready and nothing more is to be done for this generation of its spec: everything but
    /// names, UIDs and times, which differ from run to run.
    async fn settled(&self, appliance: &Appliance, volume: &str) -> Result<Value> {
        let what = format!("RdsVolume {volume} to be Ready");
        let waited = wait_until(&what, SOON, async || {
            let object = self.lab.volumes().get(volume).await?;
            let status = object.status.clone().context("no status")?;
            let ready = status
                .conditions
                .iter()
                .find(|c| c.type_ == "Ready" && c.status == "True");
            let ready = ready.with_context(|| format!("conditions are {:?}", status.conditions))?;
            ensure!(
                ready.observed_generation == object.metadata.generation,
                "Ready speaks of an older spec"
            );
            ensure!(
                status.capacity == Some(object.spec.capacity),
                "capacity is {:?}",
                status.capacity
            );
            Ok((object.spec, status))
        });
        let (spec, status) = self.lab.explained(waited.await, volume).await?;
        let mut conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect();
        conditions.sort();
        let disk = appliance
            .disks()
            .into_iter()
            .find(|disk| Some(&disk.slot) == status.slot.as_ref())
            .context("no disk")?;
        let generation = disk
            .comment
            .split(':')
            .find(|part| part.len() == 9 && part.starts_with('g'))
            .map(str::to_owned);
        Ok(json!({
            "capacity": spec.capacity.0,
            "generation": status.export_generation,
            "conditions": conditions,
            "disk": {"size": disk.size, "exported": disk.exported, "named": Some(disk.nqn) == status.nqn, "generation": generation},
            "format": status.format.map(|ledger| ledger.state),
        }))
    }

    /// What is left when a story is over.
    async fn end(&self) -> Result<Value> {
        let all = Default::default();
        Ok(json!({
            "claims": self.lab.claims().list(&all).await?.items.len(),
            "pvs": self.lab.persistent_volumes().list(&all).await?.items.len(),
            "volumes": self.lab.volumes().list(&all).await?.items.len(),
            "disks": self.plain.disks().len() + self.toggling.disks().len() + self.full.disks().len(),
            "files": self.plain.images().len() + self.toggling.images().len() + self.full.images().len(),
        }))
    }
}
