//! How a record is seen: its properties in schema order, their types, and how each prints.

use crate::disk::{Disk, Key};
use crate::knobs::{DefaultNqn, Knobs};
use crate::schema::{DISK_FLAGS, DISK_PROPS, Version};
use crate::state::State;
use crate::value::{Value, grouped, human};
use std::collections::BTreeSet;

/// What stands before the slot in an NQN that nobody set.
const DEFAULT_AUTHORITY: &str = "nqn.2000-02.com.mikrotik:";

/// How a property prints in detail and in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In quotes.
    Quoted,
    /// As it is; booleans as yes and no.
    Plain,
    /// Digits in groups of three.
    Grouped,
    /// `1024.0GiB`
    Human,
}

/// One property of one record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    /// What scripts see.
    pub value: Value,
    /// How it prints.
    pub shown: Shown,
}

impl Cell {
    /// A cell.
    pub(crate) fn new(value: Value, shown: Shown) -> Self {
        Self { value, shown }
    }

    /// As in a table, without quotes.
    pub(crate) fn plain(&self) -> String {
        match (&self.value, self.shown) {
            (Value::Bool(b), _) => if *b { "yes" } else { "no" }.to_owned(),
            (Value::Num(n), Shown::Grouped) => grouped(n.unsigned_abs()),
            (Value::Num(n), Shown::Human) => human(n.unsigned_abs()),
            (v, _) => v.text(),
        }
    }

    /// As in `print detail`.
    pub(crate) fn detail(&self) -> String {
        if self.shown != Shown::Quoted {
            return self.plain();
        }
        format!("\"{}\"", self.value.text().replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A record of any menu, ready to print or to serialise.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Internal id.
    pub id: Option<u32>,
    /// Place in the whole table.
    pub number: usize,
    /// Flags that are set, by name.
    pub flags: Vec<&'static str>,
    /// Properties in schema order.
    pub cells: Vec<(&'static str, Cell)>,
    /// Comment, empty for none.
    pub comment: String,
}

/// The eyes on `/disk`.
#[derive(Clone, Copy)]
pub(crate) struct DiskView<'a> {
    /// Where free space comes from.
    pub state: &'a State,
    /// Version and print habits.
    pub knobs: &'a Knobs,
}

fn num(n: u64) -> Value {
    Value::Num(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Text properties that print without quotes.
fn is_plain(name: &str) -> bool {
    !matches!(
        name,
        "model"
            | "serial"
            | "fw-version"
            | "interface"
            | "raid-member-state"
            | "raid-uuid"
            | "nvme-tcp-nqn"
            | "nvme-tcp-host-name"
            | "iscsi-iqn"
            | "iscsi-server-iqn"
            | "smb-server-user"
            | "mount-point-template"
    )
}

impl<'a> DiskView<'a> {
    /// The NQN under which a row is exported.
    pub(crate) fn nqn(&self, disk: &Disk) -> String {
        if self.knobs.version < Version(7, 21, 0) {
            return disk.slot.clone();
        }
        match (disk.export.nqn.as_str(), self.knobs.default_nqn) {
            ("", DefaultNqn::Mikrotik) => format!("{DEFAULT_AUTHORITY}{}", disk.slot),
            ("", DefaultNqn::Slot) => disk.slot.clone(),
            (nqn, _) => nqn.to_owned(),
        }
    }

    /// Ids of the rows that may have this NQN: as set, or by their slot.
    pub(crate) fn may_be_named(&self, nqn: &str) -> BTreeSet<u32> {
        let disks = &self.state.disks;
        let slot = nqn.strip_prefix(DEFAULT_AUTHORITY).unwrap_or(nqn);
        let ids = [(Key::Nqn, nqn), (Key::Slot, nqn), (Key::Slot, slot)].map(|(key, value)| disks.ids(key, value));
        ids.into_iter().flatten().flatten().copied().collect()
    }

    /// Rows that are exported under this NQN, or would be, in table order.
    pub(crate) fn named(self, nqn: &str) -> impl Iterator<Item = &'a Disk> {
        let ids = self.may_be_named(nqn);
        let rows = ids.into_iter().filter_map(move |id| self.state.disks.get(id));
        rows.filter(move |d| self.nqn(d) == nqn)
    }

    /// Flags that are set.
    pub(crate) fn flags(&self, d: &Disk) -> Vec<&'static str> {
        DISK_FLAGS
            .iter()
            .map(|(_, name, _)| *name)
            .filter(|name| self.flag(d, name))
            .collect()
    }

    fn flag(&self, d: &Disk, name: &str) -> bool {
        let extra = |k: &str| d.extra.get(k).map(String::as_str);
        match name {
            "disabled" => d.disabled,
            "block-device" => {
                extra("swap") != Some("yes") && !matches!(d.kind.as_str(), "tmpfs" | "nfs" | "smb" | "sshfs")
            }
            "mounted" => d.pool.as_ref().is_some_and(|p| p.mounted),
            "swap-enabled" => extra("swap") == Some("yes"),
            "raid-member" => extra("raid-master").is_some_and(|m| m != "none"),
            "raid-member-failed" => extra("raid-member-failed") == Some("yes"),
            "partition" => d.kind == "partition",
            "nvme-tcp-export" => d.export.on,
            "iscsi-export" | "nfs-sharing" | "smb-sharing" | "media-sharing" => extra(name) == Some("yes"),
            _ => extra(name) == Some("yes"),
        }
    }

    /// A property for `where` and `get`.
    pub(crate) fn property(&self, d: &Disk, name: &str) -> Value {
        if name == ".id" {
            return Value::Id(d.id);
        }
        if let Some(cell) = self.cell(d, name) {
            return cell.value;
        }
        if DISK_FLAGS.iter().any(|(_, n, _)| *n == name) {
            return Value::Bool(self.flag(d, name));
        }
        Value::Nil
    }

    /// The property as it prints; `None` when this row does not show it.
    pub(crate) fn cell(&self, d: &Disk, name: &str) -> Option<Cell> {
        let quoted = |s: &str| Some(Cell::new(Value::str(s), Shown::Quoted));
        let plain = |s: &str| Some(Cell::new(Value::str(s), Shown::Plain));
        let yes_no = |b: bool| Some(Cell::new(Value::Bool(b), Shown::Plain));
        let bytes = |n: u64| Some(Cell::new(num(n), Shown::Grouped));
        let count = |n: u64| Some(Cell::new(num(n), Shown::Plain));
        let pool = d.pool.as_ref();
        let mounted = pool.filter(|p| p.mounted);
        match name {
            "type" => plain(&d.kind),
            "slot" => quoted(&d.slot),
            "slot-default" => quoted(&d.slot_default),
            "parent" => quoted(d.extra.get("parent").map_or("", String::as_str)),
            "fs-label" => quoted(&pool?.label),
            "fs-uuid" => quoted(&pool?.uuid),
            "fs" => plain(pool.map_or("-", |p| &p.fs)),
            "model" if d.image.is_some() => quoted(d.path()?),
            "size" => bytes(d.size),
            "free" => mounted.and_then(|_| bytes(self.state.free(d))),
            "total-inodes" => mounted.and_then(|_| bytes(inodes(d))),
            "free-inodes" => {
                let used = 3 + self.state.files.count_below(&mounted?.mount_point) as u64;
                bytes(inodes(d).saturating_sub(used))
            }
            "use" => {
                mounted?;
                let used = u128::from(d.size.saturating_sub(self.state.free(d)));
                let percent = (used * 100 + u128::from(d.size) / 2)
                    .checked_div(u128::from(d.size))
                    .unwrap_or(0);
                plain(&format!("{percent}%"))
            }
            "mount-point" => quoted(&mounted?.mount_point),
            "mount-filesystem" => yes_no(d.mount_filesystem),
            "mount-read-only" | "swap" | "nfs-sharing" | "smb-sharing" | "media-sharing" | "iscsi-export" => {
                yes_no(d.extra.get(name).is_some_and(|v| v == "yes"))
            }
            "compress" if self.knobs.version >= Version(7, 18, 0) => {
                yes_no(d.extra.get(name).is_some_and(|v| v == "yes"))
            }
            "sector-size" => count(512),
            "raid-master" | "media-interface" => plain(d.extra.get(name).map_or("none", String::as_str)),
            "state" => quoted(
                pool.map(|p| p.state.as_str())
                    .or(d.extra.get(name).map(String::as_str))?,
            ),
            "nvme-tcp-export" => yes_no(d.export.on),
            "nvme-tcp-server-port" if d.export.on => count(u64::from(d.export.port)),
            "nvme-tcp-server-nqn" if d.export.on && self.knobs.version >= Version(7, 21, 0) => quoted(&self.nqn(d)),
            "nvme-tcp-server-allow-host-name" if d.export.on => quoted(&d.export.allow_host_name),
            "file-path" => {
                let path = d.path()?;
                plain(if self.knobs.path_slash {
                    path
                } else {
                    crate::file::file_name(path)
                })
            }
            "file-size" => Some(Cell::new(num(d.image.as_ref()?.size), Shown::Human)),
            "file-offset" => count(d.image.as_ref()?.offset),
            "comment" => (!d.comment.is_empty()).then(|| Cell::new(Value::str(&d.comment), Shown::Quoted)),
            "disabled"
            | "nvme-tcp-server-password"
            | "nvme-tcp-server-secret"
            | "compress"
            | "nvme-tcp-server-port"
            | "nvme-tcp-server-nqn"
            | "nvme-tcp-server-allow-host-name" => None,
            _ => {
                let text = d.extra.get(name)?;
                if let Ok(n) = text.parse::<i64>() {
                    return Some(Cell::new(Value::Num(n), Shown::Plain));
                }
                if is_plain(name) { plain(text) } else { quoted(text) }
            }
        }
    }

    /// The whole row.
    pub(crate) fn record(&self, d: &Disk, number: usize) -> Record {
        let cells = DISK_PROPS
            .iter()
            .filter(|(name, _, since)| *name != "comment" && self.knobs.version >= *since)
            .filter_map(|(name, _, _)| self.cell(d, name).map(|c| (*name, c)))
            .collect();
        Record {
            id: Some(d.id),
            number,
            flags: self.flags(d),
            cells,
            comment: d.comment.clone(),
        }
    }
}

fn inodes(d: &Disk) -> u64 {
    d.extra
        .get("total-inodes")
        .and_then(|t| t.parse().ok())
        .unwrap_or(d.size / 10_240)
}
