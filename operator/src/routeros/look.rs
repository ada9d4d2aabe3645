//! Everything about one volume, read fresh in one exec: rows with its slot, rows naming its file, rows with its NQN, the file, the pool.
//!
//! Invariant: a [`Look`] exists only when both listings came back complete and readable, and without the file only while the pool is
//! mounted; so an empty one is a proof of absence.

use super::encode::{ExecNonce, Script};
use super::reply::{Answer, BEGIN, END};
use super::row::{DiskRow, FileRow, disk_rows, file_rows};
use super::tag::OwnerTag;
use super::types::{DiskId, DiskPath, Nqn, Slot};

/// What to look for; the NQN only where it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Slot of the row.
    pub slot: Option<Slot>,
    /// Image file.
    pub path: DiskPath,
    /// NQN of the export.
    pub nqn: Option<Nqn>,
}

impl From<&DiskId> for Identity {
    fn from(id: &DiskId) -> Self {
        Self {
            slot: Some(id.slot.clone()),
            path: id.path.clone(),
            nqn: Some(id.nqn.clone()),
        }
    }
}

/// The rows and the file that have anything to do with one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What was looked for.
    pub id: Identity,
    /// All disk rows with the slot, the path or the NQN.
    pub rows: Vec<DiskRow>,
    /// The image file, with or without a row.
    pub file: Option<FileRow>,
    /// The pool that the path is on.
    pub pool: Option<DiskRow>,
}

impl Look {
    /// Rows with the slot.
    pub fn slot_rows(&self) -> impl Iterator<Item = &DiskRow> {
        self.rows
            .iter()
            .filter(|r| self.id.slot.as_ref().is_some_and(|s| r.slot == s.as_str()))
    }

    /// Rows that name the file.
    pub fn path_rows(&self) -> impl Iterator<Item = &DiskRow> {
        self.rows.iter().filter(|r| r.names(&self.id.path))
    }

    /// Rows exported under the NQN.
    pub fn nqn_rows(&self) -> impl Iterator<Item = &DiskRow> {
        self.rows
            .iter()
            .filter(|r| r.nqn.is_some() && r.nqn.as_deref() == self.id.nqn.as_ref().map(Nqn::as_str))
    }

    /// The row with both slot and path, if it is the only one with either.
    pub fn row(&self) -> Option<&DiskRow> {
        let mut related = self.slot_rows().chain(self.path_rows().filter(|r| {
            // Each row once: those that slot_rows() has already.
            self.id.slot.as_ref().is_none_or(|s| r.slot != s.as_str())
        }));
        let only = related.next().filter(|r| r.names(&self.id.path))?;
        let at_slot = self.id.slot.as_ref().is_none_or(|s| only.slot == s.as_str());
        (related.next().is_none() && at_slot).then_some(only)
    }

    /// The row that carries exactly this token, if [`Look::row`] does.
    pub fn row_of(&self, tag: &OwnerTag) -> Option<&DiskRow> {
        self.row().filter(|r| r.carries(tag))
    }

    /// True when there is no row with slot or path, and no file. The NQN may still be somebody else's.
    pub fn is_absent(&self) -> bool {
        self.slot_rows().next().is_none() && self.path_rows().next().is_none() && self.file.is_none()
    }
}

/// `file-path="/p" || file-path="p"`: RouterOS takes both and prints the first, so both are compared.
pub(crate) fn naming(path: &DiskPath) -> Script {
    Script::default()
        .code("file-path=")
        .text(path.as_str())
        .code(" || file-path=")
        .text(path.file_name())
}

/// The same for `/file`.
pub(crate) fn file_named(path: &DiskPath) -> Script {
    Script::default()
        .code("name=")
        .text(path.file_name())
        .code(" || name=")
        .text(path.as_str())
}

/// `:put <begin>; :put [:serialize .. <listing>]; :put <end>`: one section of the reply.
pub(crate) fn section(i: usize, nonce: &ExecNonce, listing: Script) -> Script {
    Script::default()
        .mark(BEGIN[i], nonce)
        .code("; :put [:serialize to=json options=json.no-string-conversion [")
        .then(listing)
        .code("]]; ")
        .mark(END[i], nonce)
}

/// The two listings of a look.
pub(crate) fn script(id: &Identity, nonce: &ExecNonce) -> Script {
    let mut disks = Script::default()
        .code("/disk/print detail as-value where ")
        .then(naming(&id.path));
    if let Some(slot) = &id.slot {
        disks = disks.code(" || slot=").text(slot.as_str());
    }
    if let Some(nqn) = &id.nqn {
        disks = disks.code(" || nvme-tcp-server-nqn=").text(nqn.as_str());
    }
    let pool = id.path.pool();
    disks = disks.code(" || slot=").text(pool).code(" || mount-point=").text(pool);
    let files = Script::default()
        .code("/file/print detail as-value where ")
        .then(file_named(&id.path));
    section(0, nonce, disks).code("; ").then(section(1, nonce, files))
}

/// Reads the two listings; what does not belong to the question is dropped, not believed. A file that does not show is gone only
/// if its pool is mounted.
pub(crate) fn read(id: &Identity, answer: &Answer) -> Result<Look, String> {
    let disks = answer.section(0, disk_rows)?;
    let files = answer.section(1, file_rows)?;
    let is_pool = |r: &DiskRow| !r.is_file() && is_pool(r, &id.path);
    let pool = disks.iter().find(|r| is_pool(r)).cloned();
    let mut look = Look {
        id: id.clone(),
        rows: disks,
        file: None,
        pool,
    };
    let related: Vec<DiskRow> = look
        .rows
        .iter()
        .filter(|r| {
            id.slot.as_ref().is_some_and(|s| r.slot == s.as_str())
                || r.names(&id.path)
                || r.nqn.is_some() && r.nqn.as_deref() == id.nqn.as_ref().map(Nqn::as_str)
        })
        .cloned()
        .collect();
    look.rows = related;
    look.file = files.into_iter().find(|f| id.path.is(&f.path));
    // After a start SSH answers before the pool is mounted, and `/file` shows nothing of it until then.
    if look.file.is_none() && !look.pool.as_ref().is_some_and(DiskRow::is_mounted) {
        return Err(format!(
            "the pool {} is not mounted, so nothing is known of its files",
            id.path.pool()
        ));
    }
    Ok(look)
}

/// True when the row is the file system that the path is on.
pub(crate) fn is_pool(row: &DiskRow, path: &DiskPath) -> bool {
    let pool = path.pool();
    let mounted_there = row.mount_point.as_deref().is_some_and(|m| m.trim_matches('/') == pool);
    mounted_there || (row.slot == pool && row.mount_point.is_none())
}
