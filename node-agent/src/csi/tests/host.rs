//! A host of one disk, in memory. It logs every call that could change something, and reads of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::api::{CONNECTION, IDENTITY, NQN};
use crate::csi::host::{Device, Disk, Flush, Flushed, Found, Host, HostError, Kind, Mount, MountAs, Usage, Verdict};

pub(super) const DEVICE: Device = Device { major: 259, minor: 1 };
/// A device that the kernel does not know.
pub(super) const GONE: Device = Device { major: 259, minor: 9 };
/// Free for a disk of another number.
pub(super) const OTHER: Device = Device { major: 259, minor: 2 };

#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: Option<Disk>,
    /// Disks of other volumes.
    pub(super) others: BTreeSet<Device>,
    pub(super) content: Result<Found, HostError>,
    pub(super) check: Verdict,
    pub(super) mounts: Vec<Mount>,
    /// What is unmounted goes from below other folders too, as where kubelet's folder is a bind mount.
    pub(super) mirrored: bool,
    pub(super) paths: BTreeMap<PathBuf, Kind>,
    /// Whose device nodes are, by kubelet's records.
    pub(super) volumes: BTreeMap<PathBuf, String>,
    /// What each further rescan makes of the size.
    pub(super) grows_to: Option<u64>,
    pub(super) flushed: Flushed,
    pub(super) held: bool,
    /// Whether its filesystem refuses writes.
    pub(super) refuses_writes: Result<Option<String>, HostError>,
    /// Whether nodes can be opened where they are made.
    pub(super) nodes_work: Result<(), HostError>,
    /// What the next mount mounts instead: the name has come to mean that one.
    pub(super) mounts_instead: Option<Device>,
    pub(super) log: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Fake(pub(super) Arc<Mutex<World>>);

impl Fake {
    pub(super) fn new() -> Self {
        let disk = Disk {
            nqn: NQN.into(),
            path: "/dev/nvme0n1".into(),
            device: DEVICE,
            size: 1 << 30,
            live: true,
            read_only: false,
            identity: Some(IDENTITY.into()),
            connections: vec![CONNECTION.into()],
            sequence: Some(1),
        };
        Self(Arc::new(Mutex::new(World {
            disk: Some(disk),
            others: BTreeSet::new(),
            content: Ok(Found::Blank),
            check: Verdict::Good,
            mounts: Vec::new(),
            mirrored: false,
            paths: BTreeMap::new(),
            volumes: BTreeMap::new(),
            grows_to: None,
            flushed: Flushed::Clean,
            held: false,
            refuses_writes: Ok(None),
            nodes_work: Ok(()),
            mounts_instead: None,
            log: Vec::new(),
        })))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The log since the last call.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.world().log)
    }

    fn did(&self, what: impl Into<String>) -> MutexGuard<'_, World> {
        let mut world = self.world();
        world.log.push(what.into());
        world
    }
}

impl Host for Fake {
    fn disk(&self, nqn: &str) -> Result<Option<Disk>, HostError> {
        Ok(self.world().disk.clone().filter(|d| d.nqn == nqn))
    }

    fn rescan(&self, _: &str) -> Result<(), HostError> {
        let mut world = self.did("rescan");
        if let (Some(size), Some(disk)) = (world.grows_to, &mut world.disk) {
            disk.size = size;
        }
        Ok(())
    }

    fn alive(&self, device: Device) -> Result<Option<bool>, HostError> {
        let world = self.world();
        let own = world.disk.as_ref().filter(|d| d.device == device);
        Ok(own.map(|d| d.live).or(world.others.contains(&device).then_some(true)))
    }

    fn mounts(&self) -> Result<Vec<Mount>, HostError> {
        Ok(self.world().mounts.clone())
    }

    fn kind(&self, path: &Path) -> Result<Kind, HostError> {
        Ok(self.world().paths.get(path).copied().unwrap_or(Kind::Missing))
    }

    fn nodes(&self, folder: &Path) -> Result<Vec<(PathBuf, Device)>, HostError> {
        let world = self.world();
        let nodes = world.paths.iter().filter_map(|(path, kind)| match kind {
            Kind::Block(device) if path.starts_with(folder) => Some((path.clone(), *device)),
            Kind::Block(_) | Kind::Missing | Kind::Folder | Kind::File(_) | Kind::Other => None,
        });
        Ok(nodes.collect())
    }

    fn volume_of(&self, node: &Path, _: &str) -> Result<Option<String>, HostError> {
        Ok(self.world().volumes.get(node).cloned())
    }

    fn set_read_only(&self, _: &Disk) -> Result<(), HostError> {
        if let Some(disk) = &mut self.did("read-only").disk {
            disk.read_only = true;
        }
        Ok(())
    }

    fn probe(&self, _: &Disk, _: &str) -> Result<Found, HostError> {
        self.did("probe").content.clone()
    }

    fn format(&self, _: &Disk, fs: &str, uid: &str, _: &[String]) -> Result<(), HostError> {
        self.did(format!("format {fs}")).content = Ok(Found::Filesystem {
            fs: fs.into(),
            uuid: uid.into(),
        });
        Ok(())
    }

    fn check(&self, _: &Disk, fs: &str) -> Result<Verdict, HostError> {
        Ok(self.did(format!("check {fs}")).check.clone())
    }

    fn check_reader(&self, _: &Disk, _: &str) -> Result<Verdict, HostError> {
        Ok(self.did("look").check.clone())
    }

    fn judge_options(&self, _: &str, options: &[String]) -> Result<(), String> {
        match options.iter().find(|o| *o == "suid,evil") {
            Some(bad) => Err(format!("mount option {bad} is refused: remove it")),
            None => Ok(()),
        }
    }

    fn mount(&self, disk: &Disk, at: &Path, how: &MountAs) -> Result<(), HostError> {
        let word = if how.read_only { "mount-ro" } else { "mount" };
        let mut world = self.did(format!("{word} {}", how.fs));
        let device = world.mounts_instead.take().unwrap_or(disk.device);
        world.mounts.push(Mount {
            device,
            point: at.to_owned(),
            root: "/".into(),
            fs: how.fs.clone(),
            read_only: how.shows_read_only(),
            mounted_read_only: how.shows_read_only(),
        });
        Ok(())
    }

    fn refuses_writes(&self, _: &Disk, _: &Path) -> Result<Option<String>, HostError> {
        self.world().refuses_writes.clone()
    }

    fn bind(&self, from: &Path, to: &Path, read_only: bool) -> Result<(), HostError> {
        let mut world = self.did(if read_only { "bind-ro" } else { "bind" });
        let staged = world.mounts.iter().rfind(|m| m.point == from).cloned();
        let staged = staged.ok_or_else(|| HostError::Host("nothing is mounted there".into()))?;
        world.mounts.push(Mount {
            point: to.to_owned(),
            read_only,
            ..staged
        });
        Ok(())
    }

    fn write_out(&self, _: &Path, _: Device) -> Result<Flushed, HostError> {
        // The kernel tells whoever asks first.
        Ok(std::mem::replace(&mut self.world().flushed, Flushed::Clean))
    }

    fn unmount(&self, at: &Path, device: Device, flush: Flush) -> Result<Flushed, HostError> {
        let mut world = self.did(if flush == Flush::Yes {
            "flush unmount"
        } else {
            "unmount"
        });
        if let Some(i) = world.mounts.iter().rposition(|m| m.point == at) {
            if world.mounts[i].device != device {
                return Err(HostError::InUse("another volume's".into()));
            }
            world.mounts.remove(i);
        }
        if world.mirrored {
            world
                .mounts
                .retain(|m| !m.point.ends_with(at.strip_prefix("/").unwrap()));
        }
        Ok(world.flushed.clone())
    }

    fn free(&self, _: &Disk) -> Result<bool, HostError> {
        Ok(!self.world().held)
    }

    fn make_folder(&self, at: &Path) -> Result<(), HostError> {
        self.world().paths.insert(at.to_owned(), Kind::Folder);
        Ok(())
    }

    fn make_node(&self, at: &Path, device: Device, read_only: bool) -> Result<(), HostError> {
        if self.kind(at) == Ok(Kind::Block(device)) {
            return self.world().nodes_work.clone();
        }
        let mut world = self.did(if read_only { "node-ro" } else { "node" });
        world.paths.insert(at.to_owned(), Kind::Block(device));
        world.nodes_work.clone()
    }

    fn remove(&self, at: &Path) -> Result<(), HostError> {
        self.did("remove").paths.remove(at);
        Ok(())
    }

    fn grow(&self, _: &Disk, fs: &str, _: &Path) -> Result<(), HostError> {
        drop(self.did(format!("grow {fs}")));
        Ok(())
    }

    fn usage(&self, _: &Path) -> Result<Usage, HostError> {
        Ok(Usage {
            bytes: 100,
            used: Some((40, 60)),
            inodes: Some((10, 3, 7)),
        })
    }
}
