//! The state of the appliance, all of it in memory; a JSON file holds it between runs if asked.

use crate::disk::{Disk, Disks, Image, Key, Pool};
use crate::file::{File, Files};
use crate::session::{Sessions, Writes};
use crate::value::Value;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A btrfs subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subvolume {
    /// Internal id.
    pub id: u32,
    /// Label of the file system.
    pub fs: String,
    /// Path below the top of the file system.
    pub fullname: String,
    /// What it was made from.
    pub parent: String,
    /// Flag r.
    pub read_only: bool,
    /// UUID.
    pub uuid: String,
    /// `YYYY-MM-DD HH:MM:SS`
    pub created: String,
    /// Flag D, until it is gone.
    #[serde(skip)]
    pub dead_until: Option<std::time::Instant>,
}

/// Everything the appliance knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// `/system/identity`
    pub identity: String,
    /// `/disk`
    pub disks: Disks,
    /// `/file`
    pub files: Files,
    /// Files of pools that are not mounted: they are there, and nobody sees them.
    pub unmounted: Files,
    /// `/disk/btrfs/subvolume`
    pub subvolumes: Vec<Subvolume>,
    /// The highest id ever given in `/disk`.
    pub last_disk_id: u32,
    /// The highest id ever given in `/file`.
    pub last_file_id: u32,
    /// What initiators wrote.
    pub writes: Writes,
    /// Who is connected; a new program starts without anybody.
    #[serde(skip)]
    pub sessions: Sessions,
    /// `:global` variables.
    #[serde(skip)]
    pub globals: BTreeMap<String, Value>,
    /// Until then exports are not back from a reboot.
    #[serde(skip)]
    pub exports_from: Option<std::time::Instant>,
    /// Until then the NVMe/TCP port is closed by a reboot.
    #[serde(skip)]
    pub ports_from: Option<std::time::Instant>,
    /// When the appliance started.
    #[serde(skip, default = "std::time::Instant::now")]
    pub started: std::time::Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            identity: "MikroTik".into(),
            disks: Disks::default(),
            files: Files::default(),
            unmounted: Files::default(),
            subvolumes: Vec::new(),
            last_disk_id: 0,
            last_file_id: 0,
            writes: Writes::default(),
            sessions: Sessions::default(),
            globals: BTreeMap::new(),
            exports_from: None,
            ports_from: None,
            started: std::time::Instant::now(),
        }
    }
}

/// The clock of the appliance as it prints.
pub fn now() -> String {
    Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// Two appliances or moments compare equal when these do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Rows of `/disk` by slot and path: ids and counters of exports are left out.
    pub disks: Vec<Disk>,
    /// Names and sizes in `/file`.
    pub files: Vec<(String, u64)>,
}

impl State {
    /// A fresh appliance with one drive and one pool on it.
    pub fn with_pool(slot: &str, size: u64, fs: &str) -> Self {
        let mut state = Self::default();
        let drive = |n: &str| {
            BTreeMap::from(
                [
                    ("model", "TS1TUTE210T"),
                    ("serial", n),
                    ("interface", "PCIe 2x8 GT/s"),
                    ("raid-master", slot),
                    ("raid-role", "0"),
                    ("raid-member-state", "0:in_sync"),
                ]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
            )
        };
        state.add_disk(Disk {
            kind: "hardware".into(),
            slot: "nvme1".into(),
            slot_default: "nvme1".into(),
            size,
            mount_filesystem: false,
            extra: drive("RDS0001"),
            ..Disk::default()
        });
        state.add_disk(Disk {
            kind: "raid".into(),
            slot: slot.into(),
            size,
            pool: Some(Pool {
                fs: fs.into(),
                label: format!("{slot}-fs"),
                uuid: "40437dbc-2318-45dc-817b-b3bb95cf48ab".into(),
                mount_point: slot.into(),
                // An empty XFS with reflink reports about 0.7 % as used.
                overhead: size / 1000 * 7,
                ..Pool::default()
            }),
            extra: BTreeMap::from(
                [
                    ("model", "RAID0 striped"),
                    ("raid-type", "0"),
                    ("raid-device-count", "1"),
                    ("raid-max-component-size", "none"),
                    ("raid-chunk-size", "256K"),
                    ("raid-uuid", "eadca0af-ecff031c-239758ad-951a47de"),
                ]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
            ),
            ..Disk::default()
        });
        state.add_file(slot, "disk", 0, 0, "");
        state
    }

    /// Puts a row at the end of `/disk` and gives it an id.
    pub fn add_disk(&mut self, mut disk: Disk) -> u32 {
        self.last_disk_id = self.last_disk_id.max(self.disks.last_id()) + 1;
        disk.id = self.last_disk_id;
        self.disks.put(disk);
        self.last_disk_id
    }

    /// Puts an entry into `/file` and gives it an id.
    pub fn add_file(&mut self, name: &str, kind: &str, size: u64, allocated: u64, contents: &str) -> u32 {
        self.last_file_id = self.last_file_id.max(self.files.last_id()) + 1;
        self.files.put(File {
            id: self.last_file_id,
            name: crate::file::file_name(name).to_owned(),
            kind: kind.to_owned(),
            size,
            allocated,
            modified: now(),
            contents: contents.to_owned(),
        });
        self.last_file_id
    }

    /// A file disk with its image, as a test or a foreign hand would make it. No checks.
    pub fn add_file_disk(&mut self, slot: &str, path: &str, size: u64, comment: &str) -> u32 {
        let path = format!("/{}", crate::file::file_name(path));
        if self.files.get(crate::file::file_name(&path)).is_none() {
            self.add_file(&path, ".img file", size, size, "");
        }
        self.add_disk(Disk {
            slot: slot.into(),
            comment: comment.into(),
            size,
            mount_filesystem: false,
            image: Some(Image { path, size, offset: 0 }),
            ..Disk::default()
        })
    }

    /// The pool that is mounted at the first component of a file name.
    pub fn pool_of(&self, name: &str) -> Option<&Disk> {
        let root = crate::file::root(crate::file::file_name(name));
        self.disks.find(Key::Mount, root).next()
    }

    /// Mounts all pools, or takes them off: with a pool go its files, out of sight and back.
    pub fn mount_pools(&mut self, mounted: bool) {
        let is_other = |d: &&Disk| d.pool.as_ref().is_some_and(|pool| pool.mounted != mounted);
        let pools: Vec<Disk> = self.disks.iter().filter(is_other).cloned().collect();
        for mut disk in pools {
            let Some(pool) = &mut disk.pool else { continue };
            pool.mounted = mounted;
            let (from, to) = if mounted {
                (&mut self.unmounted, &mut self.files)
            } else {
                (&mut self.files, &mut self.unmounted)
            };
            let mut names = from.below(&pool.mount_point);
            names.push(pool.mount_point.clone());
            for file in names.iter().filter_map(|name| from.remove(name)) {
                to.put(file);
            }
            self.disks.put(disk);
        }
    }

    /// Bytes free in a pool.
    pub fn free(&self, disk: &Disk) -> u64 {
        let Some(pool) = &disk.pool else { return 0 };
        disk.size
            .saturating_sub(pool.overhead)
            .saturating_sub(pool.foreign)
            .saturating_sub(self.files.used(&pool.mount_point))
    }

    /// Whether exports are served: not while a reboot is under way.
    pub fn exports_up(&self) -> bool {
        self.exports_from.is_none_or(|at| std::time::Instant::now() >= at)
    }

    /// What a comparison of two runs looks at: no ids, no times, no secrets of chance.
    pub fn snapshot(&self) -> Snapshot {
        let mut disks: Vec<Disk> = self
            .disks
            .iter()
            .cloned()
            .map(|mut d| {
                d.id = 0;
                d.export.times = 0;
                d.export.namespace_uuid = None;
                d
            })
            .collect();
        disks.sort_by(|a, b| (&a.slot, a.path()).cmp(&(&b.slot, b.path())));
        let files = self.files.iter().map(|f| (f.name.clone(), f.size)).collect();
        Snapshot { disks, files }
    }
}
