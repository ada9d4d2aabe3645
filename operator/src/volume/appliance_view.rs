//! [`ApplianceView`]: what one complete, well-formed answer of the appliance says about one volume.
//!
//! It exists only when there was such an answer. A timeout, a cut reply, a listing with one unreadable row or a pool that is not
//! mounted makes no `ApplianceView`; so `Free` here is proof of absence, never an outage (B47, B53).

use crate::routeros::{DiskRow, Generation, Nonce, OwnerTag, Ownership};

use super::want::Want;

/// Everything on the appliance that touches one volume: rows with its slot, its file or its NQN, and the file itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApplianceView {
    /// Rows that have the slot, name the file or carry the NQN.
    pub rows: Vec<DiskRow>,
    /// Whether the image file exists.
    pub file: bool,
}

/// What an [`ApplianceView`] means for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// Slot, file and NQN are free.
    Free,
    /// No row has the slot or names the file, but the file is there.
    FileOnly,
    /// The row at the slot carries this volume's tag.
    Ours(&'a DiskRow, &'a OwnerTag),
    /// Somebody else has slot, file or NQN; the text names what and whom.
    Taken(String),
}

impl ApplianceView {
    /// What a single row that was just read back says.
    pub(crate) fn of_row(row: DiskRow) -> Self {
        Self {
            rows: vec![row],
            file: true,
        }
    }

    /// What it means for the volume. A row of ours counts only with exactly our slot and path.
    pub(crate) fn place(&self, want: &Want) -> Place<'_> {
        let id = &want.id;
        let at_slot: Vec<&DiskRow> = self.rows.iter().filter(|r| r.slot == id.slot.as_str()).collect();
        let ours = |row: &&DiskRow| row.owner.tag().is_some_and(|tag| want.owns(tag));
        if let [row] = at_slot.as_slice()
            && let Some(tag) = row.owner.tag().filter(|tag| want.owns(tag))
        {
            return if row.names(&id.path) {
                Place::Ours(row, tag)
            } else {
                let path = row.path.as_deref().unwrap_or("no file");
                Place::Taken(format!(
                    "the disk {} carries the tag of this volume but names {path} instead of {}",
                    id.slot, id.path
                ))
            };
        }
        if let Some(row) = at_slot.first() {
            return Place::Taken(format!("the slot {} belongs to {}", id.slot, owner(row)));
        }
        if let Some(row) = self.rows.iter().find(|r| r.names(&id.path)) {
            let whose = if ours(&row) {
                "this volume's own tag, under another slot".to_owned()
            } else {
                owner(row)
            };
            return Place::Taken(format!(
                "the file {} is used by the disk {} ({whose})",
                id.path, row.slot
            ));
        }
        if let Some(row) = self.conflicting_nqn(want) {
            return Place::Taken(format!(
                "the NQN {} is exported by the disk {} ({})",
                id.nqn,
                row.slot,
                owner(row)
            ));
        }
        if self.file { Place::FileOnly } else { Place::Free }
    }

    /// Another row that names the same file: two disks over one file destroy it.
    pub(crate) fn second_row(&self, want: &Want) -> Option<&DiskRow> {
        self.rows
            .iter()
            .find(|r| r.names(&want.id.path) && r.slot != want.id.slot.as_str())
    }

    /// Another row that exports the same NQN.
    pub(crate) fn conflicting_nqn(&self, want: &Want) -> Option<&DiskRow> {
        self.rows
            .iter()
            .find(|r| r.slot != want.id.slot.as_str() && r.nqn.as_deref() == Some(want.id.nqn.as_str()))
    }
}

fn owner(row: &DiskRow) -> String {
    if row.owner == Ownership::Untagged && !row.is_file() {
        return format!("a disk of type {}", row.kind);
    }
    row.owner.to_string()
}

/// How a row's token compares with the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Same generation, same nonce.
    Current,
    /// Same nonce, the appliance is behind: a recorded step has not been taken yet.
    Behind,
    /// Same nonce, the appliance is ahead: our record was lost or restored.
    Ahead,
    /// Another nonce: our record was lost.
    Stranger,
}

/// Compares a row's tag with what the status recorded.
pub(crate) fn token(tag: &OwnerTag, generation: Generation, nonce: &Nonce) -> Token {
    if tag.nonce != *nonce {
        Token::Stranger
    } else if tag.generation > generation {
        Token::Ahead
    } else if tag.generation < generation {
        Token::Behind
    } else {
        Token::Current
    }
}
