//! A simulated appliance in a guest of its own, whose exports are real, and the objects that name it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::http::Control;
use super::{HOST, Machine, PROGRAMS, Vm};
use crate::appliance::{BASE_PATH, USER};
use crate::cluster::free_ports;
use crate::lab::NAMESPACE;
use crate::{Lab, wait_until};

/// From power on to a first answer; two more guests may boot beside it.
const BOOT: Duration = Duration::from_secs(120);

/// A running target.
pub struct Target {
    /// Its machine.
    pub vm: Vm,
    /// Its control port: what `routeros_sim::control` has, and `/sh`.
    pub control: Control,
    ssh: u16,
    nvme: u16,
}

impl Target {
    /// Boots it.
    pub async fn boot(name: &str) -> Result<Self> {
        let [ssh, control, nvme] = free_ports()?;
        let machine = Machine {
            memory: 768,
            // A port has the same number inside and outside, as the operator tells the appliance on which port nodes come.
            forwards: vec![(ssh, 22), (control, 80), (nvme, nvme)],
            ..Machine::new(name, &format!("exec {PROGRAMS}/guest target"))
        };
        Ok(Self {
            vm: Vm::start(&machine).await?,
            control: Control { port: control },
            ssh,
            nvme,
        })
    }

    /// Waits until it answers.
    pub async fn up(&self) -> Result<()> {
        wait_until("the appliance in its virtual machine to answer", BOOT, async || {
            self.vm.alive()?;
            self.control.ask("GET", "/healthz", "").await.map(drop)
        })
        .await
    }

    /// Makes Secret, RdsServer and StorageClass of this name, and waits until the RdsServer is Ready.
    pub async fn register(&self, lab: &Lab, name: &str) -> Result<()> {
        self.up().await?;
        let key = self.control.ask("GET", "/client-key", "").await?;
        let host = self.control.ask("GET", "/host-key", "").await?;
        let spec = json!({
            "management": {"address": "127.0.0.1", "port": self.ssh, "user": USER},
            "secretRef": {"name": name},
            "storage": {"address": HOST, "port": self.nvme},
            "basePath": BASE_PATH,
        });
        let kubectl = lab.kubectl();
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
                 "stringData": {"rds-private-key": key, "rds-host-key": host.trim()}},
                {"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": spec},
            ]}))
            .await?;
        lab.class(name, name, json!({})).await?;
        let ready = ["wait", "--for=condition=Ready", "rdsserver", name, "--timeout=60s"];
        kubectl.run(&ready).await.map(drop)
    }

    /// Deletes StorageClass, RdsServer and Secret.
    pub async fn unregister(&self, lab: &Lab, name: &str) -> Result<()> {
        let kubectl = lab.kubectl();
        kubectl.run(&["delete", "storageclass", name]).await?;
        // Its count of volumes, which keeps it, follows the last one in a moment.
        wait_until("the RdsServer to be let go", Duration::from_secs(90), async || {
            kubectl.run(&["delete", "rdsserver", name, "--timeout=30s"]).await
        })
        .await?;
        kubectl
            .run(&["delete", "secret", "-n", NAMESPACE, name])
            .await
            .map(drop)
    }

    /// Slots of its file disks.
    pub async fn disks(&self) -> Result<Vec<String>> {
        let rows: Vec<Value> = serde_json::from_str(&self.control.ask("GET", "/disks", "").await?)?;
        let files = rows.iter().filter(|row| row["type"] == "file");
        Ok(files.filter_map(|row| Some(row["slot"].as_str()?.to_owned())).collect())
    }

    /// Names of its image files.
    pub async fn images(&self) -> Result<Vec<String>> {
        let rows: Vec<Value> = serde_json::from_str(&self.control.ask("GET", "/files", "").await?)?;
        let images = rows.iter().filter(|row| row["kind"] == ".img file");
        Ok(images
            .filter_map(|row| Some(row["name"].as_str()?.to_owned()))
            .collect())
    }

    /// An error that names what is left.
    pub async fn assert_empty(&self) -> Result<()> {
        let (disks, images) = (self.disks().await?, self.images().await?);
        ensure!(
            disks.is_empty() && images.is_empty(),
            "left on the appliance: {disks:?} {images:?}"
        );
        Ok(())
    }

    /// The SHA-256 of pieces of 4 MiB, at these MiB, of the image behind a disk, as the target has them: a line each.
    pub async fn pieces(&self, slot: &str, at: &[u32]) -> Result<String> {
        let rows: Vec<Value> = serde_json::from_str(&self.control.ask("GET", "/files", "").await?)?;
        let file = rows.iter().find(|row| {
            row["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(&format!("/{slot}.img")))
        });
        let id = file.with_context(|| format!("no image of {slot}"))?["id"].clone();
        let at: Vec<String> = at.iter().map(u32::to_string).collect();
        let sum = format!("dd if=/run/images/{id}.img bs=1M skip=$at count=4 status=none | sha256sum");
        let printed = self
            .control
            .sh(&format!("for at in {}; do {sum}; done", at.join(" ")))
            .await?;
        Ok(printed.trim().to_owned())
    }
}
