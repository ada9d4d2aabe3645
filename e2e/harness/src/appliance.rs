//! A simulated appliance and the objects that name it: Secret, RdsServer, StorageClass, all of one name.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use rds_crds::RdsServer;
use routeros_sim::{Config, Fault, Knobs, Simulator};
use serde_json::{Value, json};

use crate::agent::Control;
use crate::lab::NAMESPACE;
use crate::{Lab, wait_until};

/// Where the images are, as in the Go driver's documentation.
pub const BASE_PATH: &str = "/storage-pool/metal-csi";

/// The operator's user.
pub(crate) const USER: &str = "metal-csi";

/// An appliance in this process, and how to look into it from outside, not over SSH.
pub struct Appliance {
    /// Name of the RdsServer, the Secret and the StorageClass.
    pub name: String,
    sim: Arc<Simulator>,
    key: PathBuf,
}

/// A file disk as it is on the appliance.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Slot.
    pub slot: String,
    /// Path of the image, with leading slash.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Comment.
    pub comment: String,
    /// NQN as set.
    pub nqn: String,
    /// Whether it is exported.
    pub exported: bool,
}

/// What tells a copy of a disk from its original.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Slot.
    pub slot: String,
    /// Path of the image, with leading slash.
    pub path: String,
    /// Comment.
    pub comment: String,
    /// NQN of the export.
    pub nqn: String,
}

/// A command that came over SSH.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The line.
    pub text: String,
    /// What it printed.
    pub reply: String,
    /// The fault that hit it.
    pub fault: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Lab {
    /// Starts an appliance with its RdsServer, Secret and StorageClass, and waits until the RdsServer is Ready.
    pub async fn appliance(&self, name: &str, knobs: Knobs) -> Result<Appliance> {
        self.appliance_with(name, knobs, json!({})).await
    }

    /// The same with more in the spec of the RdsServer.
    pub async fn appliance_with(&self, name: &str, knobs: Knobs, more: Value) -> Result<Appliance> {
        let appliance = self.appliance_made(name, knobs, more, None).await?;
        appliance.ready(self).await?;
        Ok(appliance)
    }

    /// The same without waiting.
    pub async fn appliance_unready(&self, name: &str, knobs: Knobs, more: Value) -> Result<Appliance> {
        self.appliance_made(name, knobs, more, None).await
    }

    /// An appliance whose host key is not the one that the Secret pins.
    pub async fn imposter(&self, name: &str) -> Result<Appliance> {
        let pinned = Simulator::start(Config::default()).await?.host_key_line();
        self.appliance_made(name, Knobs::default(), json!({}), Some(pinned))
            .await
    }

    async fn appliance_made(&self, name: &str, knobs: Knobs, more: Value, pinned: Option<String>) -> Result<Appliance> {
        let sim = Simulator::start(Config {
            knobs,
            ..Config::default()
        })
        .await?;
        let key = self.cluster.dir().join(format!("{name}.key"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key)?;
        file.write_all(sim.client_private_key().as_bytes())?;
        let appliance = Appliance {
            name: name.into(),
            sim: Arc::new(sim),
            key,
        };
        let mut spec = json!({
            "management": {"address": "127.0.0.1", "port": appliance.port(), "user": USER},
            "secretRef": {"name": name},
            "storage": {"address": "127.0.0.1"},
            "basePath": BASE_PATH,
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        self.kubectl()
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": {
                    "rds-private-key": appliance.private_key(),
                    "rds-host-key": pinned.unwrap_or_else(|| appliance.sim.host_key_line()),
                }},
                {"apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsServer", "metadata": {"name": name}, "spec": spec},
            ]}))
            .await?;
        self.class(name, name, json!({})).await?;
        Ok(appliance)
    }
}

impl Appliance {
    /// Waits until the RdsServer is Ready.
    pub async fn ready(&self, lab: &Lab) -> Result<()> {
        let servers = Api::<RdsServer>::all(lab.cluster.client());
        let what = format!("RdsServer {} to be Ready", self.name);
        let waited = wait_until(&what, Duration::from_secs(90), async || {
            let conditions = servers
                .get(&self.name)
                .await?
                .status
                .map(|status| status.conditions)
                .unwrap_or_default();
            ensure!(
                conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
                "conditions are {conditions:?}"
            );
            Ok(())
        });
        lab.explained(waited.await, "-").await
    }

    /// Its file disks.
    pub fn disks(&self) -> Vec<Disk> {
        let exports = self.sim.exports();
        let disk = |row: routeros_sim::Disk| Disk {
            path: row.path().unwrap_or_default().into(),
            size: row.image.as_ref().map(|image| image.size).unwrap_or_default(),
            exported: exports.iter().any(|export| export.slot == row.slot),
            slot: row.slot,
            comment: row.comment,
            nqn: row.export.nqn,
        };
        self.sim.file_disks().into_iter().map(disk).collect()
    }

    /// The simulator itself.
    pub fn simulator(&self) -> Arc<Simulator> {
        self.sim.clone()
    }

    /// The hosts that can write, each with the NQN that it is connected to.
    pub fn sessions(&self) -> Vec<(String, String)> {
        let alive = self.sim.sessions().into_iter().filter(|s| s.link.is_alive());
        alive.map(|s| (s.host, s.nqn)).collect()
    }

    /// Its one and only file disk.
    pub fn only_disk(&self) -> Result<Disk> {
        let mut disks = self.disks();
        ensure!(disks.len() == 1, "{} has {} disks: {disks:?}", self.name, disks.len());
        ensure!(
            self.images().len() == 1,
            "{} has {} files: {:?}",
            self.name,
            self.images().len(),
            self.images()
        );
        disks.pop().context("no disk")
    }

    /// Image files below the base path.
    pub fn images(&self) -> Vec<String> {
        let below = format!("{}/", BASE_PATH.trim_start_matches('/'));
        let files = self
            .sim
            .files()
            .into_iter()
            .filter(|file| !file.is_directory() && file.name.starts_with(&below));
        files.map(|file| file.name).collect()
    }

    /// Free bytes of the pool.
    pub fn free(&self) -> u64 {
        let appliance = self.sim.appliance();
        let state = appliance.state();
        let free = state
            .pool_of(BASE_PATH.trim_start_matches('/'))
            .map(|pool| state.free(pool));
        free.unwrap_or_default()
    }

    /// Fills the pool with something that is not ours, up to this many free bytes.
    pub fn leave_free(&self, bytes: u64) {
        let free = self.free();
        self.sim.edit(|state| {
            let pool = state.pool_of(BASE_PATH.trim_start_matches('/')).map(|pool| pool.id);
            let Some(id) = pool else { return };
            state.disks.update(id, |disk| {
                if let Some(pool) = &mut disk.pool {
                    pool.foreign = (pool.foreign + free).saturating_sub(bytes);
                }
            });
        });
    }

    /// An error that names what is left, if anything is.
    pub fn assert_empty(&self) -> Result<()> {
        let (disks, files) = (self.disks(), self.images());
        ensure!(
            disks.is_empty() && files.is_empty(),
            "left on {}: {disks:?} {files:?}",
            self.name
        );
        Ok(())
    }

    /// Turns knobs.
    pub fn set(&self, change: impl FnOnce(&mut Knobs)) {
        self.sim.knobs(change);
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.sim.set_fault(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.sim.clear_faults();
    }

    /// Forgets the commands so far.
    pub fn clear_log(&self) {
        self.sim.clear_log();
    }

    /// The commands so far.
    pub fn commands(&self) -> Vec<Seen> {
        let entries = self.sim.commands().into_iter();
        entries
            .map(|entry| Seen {
                text: entry.command,
                reply: entry.reply,
                fault: entry.fault,
                took: Duration::from_secs_f64(entry.milliseconds / 1000.0),
            })
            .collect()
    }

    /// How many commands have named the disk at `slot` and changed it.
    pub fn changes(&self, slot: &str) -> usize {
        let verbs = ["/disk/add", "/disk/set", "/disk/remove"];
        let changed = |c: &&Seen| c.text.contains(slot) && verbs.iter().any(|verb| c.text.contains(verb));
        self.commands().iter().filter(changed).count()
    }

    /// Waits until a command with this text was hit by a fault.
    pub async fn hit(&self, text: &str) -> Result<()> {
        wait_until(
            &format!("a fault to hit a command with {text}"),
            Duration::from_secs(90),
            async || {
                ensure!(
                    self.commands()
                        .iter()
                        .any(|c| c.fault.is_some() && c.text.contains(text)),
                    "not yet"
                );
                Ok(())
            },
        )
        .await
    }

    /// Switches an export off as a person at the console would.
    pub fn unexport(&self, volume: &str) -> Result<()> {
        self.sim.edit(|state| {
            let found = state
                .disks
                .iter()
                .find(|disk| disk.export.nqn.ends_with(volume))
                .map(|disk| disk.id);
            let id = found.with_context(|| format!("no disk of {volume}"))?;
            state.disks.update(id, |disk| disk.export.on = false);
            Ok(())
        })
    }

    /// Raises the generation in the owner tag and gives the export the name of a later fence, as if the cluster had been restored
    /// from an older backup. The name.
    pub fn run_ahead(&self, slot: &str) -> Result<String> {
        self.sim.edit(|state| {
            let disk = state.disks.slot(slot).with_context(|| format!("no disk {slot}"))?;
            let (id, nqn) = (disk.id, format!("{}.g3-0a1b2c3d", disk.export.nqn));
            state.disks.update(id, |disk| {
                disk.comment = disk.comment.replacen(":g00000001:", ":g00000003:", 1);
                disk.export.nqn.clone_from(&nqn);
            });
            Ok(nqn)
        })
    }

    /// Lowers the generation in the owner tag from 2 to 1, as if an older configuration of the appliance had come back.
    pub fn go_back(&self, slot: &str) -> Result<()> {
        self.sim.edit(|state| {
            let disk = state.disks.slot(slot).with_context(|| format!("no disk {slot}"))?;
            let (id, comment) = (disk.id, disk.comment.replacen(":g00000002:", ":g00000001:", 1));
            ensure!(comment != disk.comment, "{comment} is not of generation 2");
            state.disks.update(id, |disk| disk.comment = comment);
            Ok(())
        })
    }

    /// Removes the row of a disk as a person at the console would: the file stays.
    pub fn remove_row(&self, volume: &str) -> Result<()> {
        self.sim.edit(|state| {
            let found = state
                .disks
                .iter()
                .find(|disk| disk.export.nqn.ends_with(volume))
                .map(|disk| disk.id);
            state
                .disks
                .remove(found.with_context(|| format!("no disk of {volume}"))?);
            Ok(())
        })
    }

    /// Removes every file disk with its file: the end of a test that left some on purpose.
    pub async fn wipe(&self) {
        self.sim.exec("/disk remove [find type=file]").await;
        self.sim
            .exec(&format!(
                "/file remove [find name~\"^{}/.*img\"]",
                BASE_PATH.trim_start_matches('/')
            ))
            .await;
    }

    /// Puts somebody else's disk there.
    pub fn add_foreign_disk(&self, slot: &str, comment: &str) {
        let path = format!("{BASE_PATH}/{slot}.img");
        self.sim
            .edit(|state| state.add_file_disk(slot, &path, 1 << 30, comment));
    }

    /// Its control interface, for agents whose sessions are here.
    pub async fn control(&self) -> Result<Control> {
        Control::serve(self.sim.clone()).await
    }

    /// The hosts that can write into the image at this moment: the oracle of every test about fencing.
    pub fn live_writers(&self, path: &str) -> Vec<String> {
        self.sim.live_writers(path)
    }

    /// Ends all sessions of a host, as when it loses power.
    pub fn power_off(&self, host: &str) {
        for session in self.sim.sessions().iter().filter(|s| s.host == host) {
            self.sim.disconnect(session.id);
        }
    }

    /// The private key of the operator's user.
    pub fn private_key(&self) -> String {
        self.sim.client_private_key()
    }

    /// Copies the row at `slot`, with images that take no room.
    pub fn copy_disk(&self, slot: &str, copies: Vec<Copy>) -> Result<()> {
        self.sim.edit(|state| {
            let template = state.disks.slot(slot).cloned();
            let template = template.with_context(|| format!("no disk {slot}"))?;
            for copy in copies {
                let mut disk = template.clone();
                state.add_file(&copy.path, ".img file", disk.size, 0, "");
                if let Some(image) = &mut disk.image {
                    image.path = copy.path;
                }
                (disk.slot, disk.comment, disk.export.nqn) = (copy.slot, copy.comment, copy.nqn);
                disk.export.namespace_uuid = None;
                state.add_disk(disk);
            }
            Ok(())
        })
    }

    /// Waits until no command that is late or hangs can still come: what was delayed has run.
    pub async fn quiet(&self, longest: Duration) -> Result<()> {
        let start = tokio::time::Instant::now();
        wait_until(
            "late commands to have run",
            longest + Duration::from_secs(5),
            async || {
                ensure!(start.elapsed() >= longest, "they may still come");
                Ok(())
            },
        )
        .await
    }

    /// Deletes StorageClass and RdsServer and, once that is gone, the Secret.
    pub async fn remove(&self, lab: &Lab) -> Result<()> {
        let kubectl = lab.kubectl();
        kubectl.run(&["delete", "storageclass", &self.name]).await?;
        // Its count of volumes, which keeps it, follows the last one in a moment.
        wait_until("the RdsServer to be let go", Duration::from_secs(90), async || {
            kubectl.run(&["delete", "rdsserver", &self.name, "--timeout=30s"]).await
        })
        .await?;
        kubectl
            .run(&["delete", "secret", "-n", NAMESPACE, &self.name])
            .await
            .map(drop)
    }

    /// The port of SSH on loopback.
    pub fn port(&self) -> u16 {
        self.sim.addr().port()
    }

    /// Address and port of SSH.
    pub fn address(&self) -> String {
        self.sim.addr().to_string()
    }

    /// How a person logs in.
    pub fn ssh_command(&self) -> String {
        let options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        format!(
            "ssh -p {} -i {} {options} {USER}@127.0.0.1 /disk print",
            self.port(),
            self.key.display()
        )
    }

    /// Prints what goes over SSH as it comes, until the task is aborted. Reads are one line, changes are shown in full.
    pub fn show_commands(&self) -> tokio::task::JoinHandle<()> {
        let sim = self.sim.clone();
        tokio::spawn(async move {
            let mut shown = 0;
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tick.tick().await;
                let entries = sim.log();
                for entry in entries.iter().skip(shown).filter(|entry| !entry.command.is_empty()) {
                    show(&entry.command, &entry.reply, entry.milliseconds);
                }
                shown = entries.len();
            }
        })
    }
}

fn show(command: &str, reply: &str, milliseconds: f64) {
    let changes = ["/disk/add", "/disk/set", "/disk/remove", "/file/remove"]
        .iter()
        .any(|verb| command.contains(verb));
    if !changes {
        println!(
            "  ssh> a read of {} bytes, answered with {} in {milliseconds:.0} ms",
            command.len(),
            reply.len()
        );
        return;
    }
    println!(
        "  ssh> one command of {} bytes, done in {milliseconds:.0} ms:",
        command.len()
    );
    // Behind the first sentinel comes the reading back, the same in every command.
    let (changing, _) = command.split_once("; :put \"b0-").unwrap_or((command, ""));
    for statement in changing.split("; ") {
        println!("  ssh>   {statement}");
    }
    println!("  ssh>   .. and reads disk and file back");
}
