//! The `/disk` table: hardware, the pool and file disks, with the indexes that keep `[find slot="x"]` cheap.
//!
//! Invariant: ids grow and are never used again; a row's number is its place in the table.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What makes a row a pool: a file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// `xfs`, `btrfs`, `ext4`
    pub fs: String,
    /// Label of the file system.
    pub label: String,
    /// Its UUID.
    pub uuid: String,
    /// `clean`, or what the array is doing.
    pub state: String,
    /// Directory in `/file`; also printed as mount-point.
    pub mount_point: String,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Bytes that the file system takes for itself.
    pub overhead: u64,
    /// Bytes taken by something that is not in `/file`, to fill a pool from outside.
    pub foreign: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            fs: "xfs".into(),
            label: String::new(),
            uuid: String::new(),
            state: "clean".into(),
            mount_point: String::new(),
            mounted: true,
            overhead: 0,
            foreign: 0,
        }
    }
}

/// The image behind a file disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Image {
    /// Path with leading slash.
    pub path: String,
    /// `file-size`
    pub size: u64,
    /// `file-offset`
    pub offset: u64,
}

/// The NVMe/TCP side of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// `nvme-tcp-export`
    pub on: bool,
    /// `nvme-tcp-server-port`
    pub port: u16,
    /// `nvme-tcp-server-nqn` as set; empty for the default.
    pub nqn: String,
    /// `nvme-tcp-server-allow-host-name`
    pub allow_host_name: String,
    /// `nvme-tcp-server-password`
    pub password: String,
    /// UUID of the namespace that initiators see.
    pub namespace_uuid: Option<String>,
    /// Bytes that initiators see; behind `size` when a growth needs a toggle.
    pub visible_size: u64,
    /// How often the export was switched on.
    pub times: u32,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            on: false,
            port: 4420,
            nqn: String::new(),
            allow_host_name: String::new(),
            password: String::new(),
            namespace_uuid: None,
            visible_size: 0,
            times: 0,
        }
    }
}

/// One row of `/disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Internal id, printed `*1F`.
    pub id: u32,
    /// `file`, `raid`, `hardware`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the row.
    pub slot: String,
    /// The slot the row would have by itself.
    pub slot_default: String,
    /// `comment`, empty for none.
    pub comment: String,
    /// Flag X.
    pub disabled: bool,
    /// Bytes.
    pub size: u64,
    /// `mount-filesystem`
    pub mount_filesystem: bool,
    /// Image of a row of type file.
    pub image: Option<Image>,
    /// File system of a pool.
    pub pool: Option<Pool>,
    /// NVMe/TCP.
    pub export: Export,
    /// Everything else that was set or that a hardware row shows, as text.
    pub extra: BTreeMap<String, String>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            id: 0,
            kind: "file".into(),
            slot: String::new(),
            slot_default: String::new(),
            comment: String::new(),
            disabled: false,
            size: 0,
            mount_filesystem: true,
            image: None,
            pool: None,
            export: Export::default(),
            extra: BTreeMap::new(),
        }
    }
}

impl Disk {
    /// The path of the image, if it is a file disk.
    pub fn path(&self) -> Option<&str> {
        self.image.as_ref().map(|i| i.path.as_str())
    }

    fn keys(&self) -> [(Key, &str); 4] {
        [
            (Key::Slot, &self.slot),
            (Key::Path, self.path().unwrap_or("")),
            (Key::Nqn, &self.export.nqn),
            (
                Key::Mount,
                self.pool.as_ref().filter(|p| p.mounted).map_or("", |p| &p.mount_point),
            ),
        ]
    }
}

/// What the table can look up without a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// `slot`
    Slot,
    /// The path of the image, with leading slash.
    Path,
    /// `nvme-tcp-server-nqn` as set.
    Nqn,
    /// `mount-point` of a mounted pool.
    Mount,
}

/// All rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Disk>", into = "Vec<Disk>")]
pub struct Disks {
    rows: BTreeMap<u32, Disk>,
    index: HashMap<(Key, String), BTreeSet<u32>>,
}

impl From<Vec<Disk>> for Disks {
    fn from(list: Vec<Disk>) -> Self {
        let mut disks = Self::default();
        for d in list {
            disks.put(d);
        }
        disks
    }
}

impl From<Disks> for Vec<Disk> {
    fn from(disks: Disks) -> Self {
        disks.rows.into_values().collect()
    }
}

impl Disks {
    /// The row of that id.
    pub fn get(&self, id: u32) -> Option<&Disk> {
        self.rows.get(&id)
    }

    /// In table order.
    pub fn iter(&self) -> impl Iterator<Item = &Disk> {
        self.rows.values()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The highest id in use.
    pub fn last_id(&self) -> u32 {
        self.rows.keys().next_back().copied().unwrap_or(0)
    }

    /// Place of a row in the table.
    pub fn number(&self, id: u32) -> usize {
        self.rows.range(..id).count()
    }

    /// Rows by an indexed key.
    pub fn find(&self, key: Key, value: &str) -> impl Iterator<Item = &Disk> {
        self.ids(key, value)
            .into_iter()
            .flatten()
            .filter_map(|id| self.rows.get(id))
    }

    /// Ids by an indexed key.
    pub fn ids(&self, key: Key, value: &str) -> Option<&BTreeSet<u32>> {
        self.index.get(&(key, value.to_owned()))
    }

    /// The row with that slot.
    pub fn slot(&self, slot: &str) -> Option<&Disk> {
        self.find(Key::Slot, slot).next()
    }

    /// Puts a row in place of the one with its id.
    pub fn put(&mut self, disk: Disk) {
        self.remove(disk.id);
        for (key, value) in disk.keys() {
            if !value.is_empty() {
                self.index.entry((key, value.to_owned())).or_default().insert(disk.id);
            }
        }
        self.rows.insert(disk.id, disk);
    }

    /// Takes a row away.
    pub fn remove(&mut self, id: u32) -> Option<Disk> {
        let disk = self.rows.remove(&id)?;
        for (key, value) in disk.keys() {
            let at = (key, value.to_owned());
            if let Some(set) = self.index.get_mut(&at) {
                set.remove(&id);
                if set.is_empty() {
                    self.index.remove(&at);
                }
            }
        }
        Some(disk)
    }

    /// Changes a row.
    pub fn update(&mut self, id: u32, f: impl FnOnce(&mut Disk)) {
        if let Some(mut disk) = self.remove(id) {
            f(&mut disk);
            self.put(disk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_follow_every_change() {
        let mut disks = Disks::default();
        disks.put(Disk {
            id: 1,
            slot: "a".into(),
            ..Disk::default()
        });
        disks.put(Disk {
            id: 2,
            slot: "b".into(),
            ..Disk::default()
        });
        disks.update(1, |d| d.slot = "c".into());
        assert!(disks.slot("a").is_none());
        assert_eq!(disks.slot("c").map(|d| d.id), Some(1));
        assert_eq!((disks.number(2), disks.last_id()), (1, 2));
        disks.remove(1);
        assert!(disks.slot("c").is_none());
        let again: Disks = serde_json::from_str(&serde_json::to_string(&disks).unwrap()).unwrap();
        assert_eq!(again, disks);
    }
}
