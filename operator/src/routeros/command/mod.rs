//! The mutating commands: each builds its line with the one encoder, and judges what came back. Pure; the client runs them.
//!
//! Each is ONE exec of the shape `{ :onerror e in={ guard; change; ok } do={ err $e }; read back; :put verdict }`: the guard is tested
//! on the appliance in the same line, so a late or doubled execution changes nothing (D1).

mod adopt;
mod create;
mod export;
mod grow;
mod release;
mod remove;
mod retire;

#[cfg(test)]
mod tests;

pub use adopt::Adopt;
pub use create::CreateDisk;
pub(crate) use export::{Export, ToggleExport};
pub(crate) use grow::Grow;
pub(crate) use release::Release;
pub use remove::Removed;
pub(crate) use remove::{Remove, RemoveFile};
pub(crate) use retire::Retire;

use super::encode::{ExecNonce, Script};
use super::error::{Occupied, RdsError, Redacted, ServerName};
use super::look::{self, Identity, Look, naming};
use super::reply::{FREE, is_permission};
use super::row::DiskRow;
use super::tag::{OwnerTag, Ownership};
use super::types::{Bytes, DiskPath, Generation, Nqn, Slot, shown};

/// Whose disk a command is for: it runs only where exactly one row has this slot, this path and this token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Slot of the row.
    pub slot: Slot,
    /// Its image file.
    pub path: DiskPath,
    /// Its token: cluster, volume, generation and creation nonce. The label does not count.
    pub tag: OwnerTag,
}

impl Guard {
    fn at(&self) -> Script {
        at(&self.slot, &self.path)
    }

    /// The condition that holds for our row and no other.
    fn matching(&self) -> Script {
        self.at().code(" && comment~").starts_with(&self.tag.fixed())
    }

    fn identity(&self, nqn: Option<&Nqn>) -> Identity {
        Identity {
            slot: Some(self.slot.clone()),
            path: self.path.clone(),
            nqn: nqn.cloned(),
        }
    }

    /// Binds `$rdsIds` to our row, or stops.
    fn bind(&self) -> Script {
        Script::default()
            .code(":local rdsIds [/disk/find where ")
            .then(self.matching())
            .code("]; :if ([:len $rdsIds] != 1) do={ :error \"rds-guard\" }; ")
    }

    /// Says what does not match.
    fn mismatch(&self, look: &Look) -> String {
        let rows: Vec<&DiskRow> = look.slot_rows().chain(look.path_rows()).collect();
        let Some(row) = look.row() else {
            return match rows.first() {
                None => format!("no disk has the slot {} or the file {}", self.slot, self.path),
                Some(_) => format!(
                    "slot {} and file {} are not those of one and only one disk",
                    self.slot, self.path
                ),
            };
        };
        match &row.owner {
            Ownership::Tagged(tag) if tag.same_volume(&self.tag) && tag.generation != self.tag.generation => {
                format!(
                    "the disk is of generation {}, not {}",
                    tag.generation, self.tag.generation
                )
            }
            Ownership::Tagged(tag) if tag.same_volume(&self.tag) => "the disk was made by another create".to_owned(),
            owner @ (Ownership::Untagged | Ownership::Foreign(_) | Ownership::Mangled(_) | Ownership::Tagged(_)) => {
                format!("it is {owner}")
            }
        }
    }
}

/// `slot="s" && (file-path="/p" || file-path="p")`.
fn at(slot: &Slot, path: &DiskPath) -> Script {
    Script::default()
        .code("slot=")
        .text(slot.as_str())
        .code(" && (")
        .then(naming(path))
        .code(")")
}

/// Stops with `code` unless no disk row matches.
fn assert_no_disk(condition: Script, code: &'static str) -> Script {
    Script::default()
        .code(":if ([:len [/disk/find where ")
        .then(condition)
        .code("]] != 0) do={ :error \"")
        .code(code)
        .code("\" }; ")
}

/// What RouterOS would otherwise do on its own: mount the guest's file system (corruption), share it.
const PRIVATE: &str = " mount-filesystem=no smb-sharing=no nfs-sharing=no media-sharing=no";

/// Turns the export on in one `set` of `target` (an expression that yields ids).
fn export_on(target: Script, nqn: &Nqn, port: u16) -> Script {
    Script::default()
        .code("/disk/set ")
        .then(target)
        .code(PRIVATE)
        .code(" nvme-tcp-server-port=")
        .number(port.into())
        .code(" nvme-tcp-server-nqn=")
        .text(nqn.as_str())
        .code(" nvme-tcp-export=yes; ")
}

/// How the script ended, and what it read back.
pub(crate) enum Outcome {
    /// It ran to its end.
    Done(Look),
    /// It stopped with these words; nothing after that point ran.
    Stopped(String, Look),
}

/// What `judge` needs to speak.
pub(crate) struct Context<'a> {
    pub(crate) server: &'a ServerName,
    pub(crate) command: &'a Redacted,
    /// The assertions of the script held.
    pub(crate) was_free: bool,
}

impl Context<'_> {
    fn read_back(&self, detail: impl Into<String>, look: Look) -> RdsError {
        RdsError::ReadBack {
            server: self.server.clone(),
            command: self.command.clone(),
            detail: detail.into(),
            look: Box::new(look),
        }
    }

    fn precondition(&self, detail: impl Into<String>, look: Look) -> RdsError {
        RdsError::Precondition {
            server: self.server.clone(),
            command: self.command.clone(),
            detail: detail.into(),
            look: Box::new(look),
        }
    }

    fn taken(&self, what: Occupied, look: Look) -> RdsError {
        let owner = |row: Option<&DiskRow>| row.map_or(Ownership::Untagged, |r| r.owner.clone());
        let by = match what {
            Occupied::Slot => owner(look.slot_rows().next()),
            Occupied::Path => owner(look.path_rows().next()),
            Occupied::Nqn => owner(
                look.nqn_rows()
                    .find(|r| look.id.slot.as_ref().is_none_or(|s| r.slot != s.as_str())),
            ),
            Occupied::File => Ownership::Untagged,
        };
        let (server, command) = (self.server.clone(), self.command.clone());
        RdsError::Taken {
            server,
            command,
            what,
            by: Box::new(by),
            look: Box::new(look),
        }
    }

    /// The codes that every guarded script may stop with.
    fn refused_by_guard(&self, guard: &Guard, words: String, look: Look) -> RdsError {
        if words.contains("rds-guard") {
            let detail = guard.mismatch(&look);
            self.precondition(detail, look)
        } else if words.contains("rds-nqn") {
            self.taken(Occupied::Nqn, look)
        } else {
            self.refused(words, look)
        }
    }

    /// Words of the appliance itself. The guard had matched, so `look` says how far it got.
    fn refused(&self, reply: String, look: Look) -> RdsError {
        let (server, command) = (self.server.clone(), self.command.clone());
        if is_permission(&reply) {
            RdsError::Permission {
                server,
                command,
                reply,
                proven: true,
            }
        } else {
            RdsError::Incomplete {
                server,
                command,
                reply,
                look: Box::new(look),
            }
        }
    }

    /// `Some` when the pool was read back with less free space than needed: the only ground for "full".
    fn pool_full(&self, needed: Bytes, look: &Look) -> Option<RdsError> {
        let free = look.pool.as_ref()?.free?;
        let (server, command) = (self.server.clone(), self.command.clone());
        (free < needed).then_some(RdsError::PoolFull {
            server,
            command,
            needed,
            free,
        })
    }
}

/// One mutating command.
pub(crate) trait Command {
    type Output: Send;
    fn command(&self) -> Redacted;
    /// What to read back.
    fn identity(&self) -> Identity;
    /// For the audit line.
    fn generation(&self) -> Option<Generation>;
    /// What can be refused without asking the appliance.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
    /// What has to be free before anything is made, each statement ending in `; `. Only a script that says that it was may have made
    /// what is there afterwards.
    fn assertions(&self) -> Option<Script> {
        None
    }
    /// Guard and change, each statement ending in `; `.
    fn body(&self) -> Script;
    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<Self::Output, RdsError>;
}

/// The whole line of a command.
pub(crate) fn line(command: &impl Command, nonce: &ExecNonce) -> Script {
    let body = match command.assertions() {
        Some(assertions) => assertions.mark(FREE, nonce).code("; ").then(command.body()),
        None => command.body(),
    };
    Script::judged(nonce, body, look::script(&command.identity(), nonce))
}

/// The exported row that `create`, `export`, `toggle_export` and `adopt` must read back.
fn exported_row(look: &Look, tag: &OwnerTag, nqn: &Nqn, port: u16) -> Result<DiskRow, String> {
    let Some(row) = look.row_of(tag) else {
        return Err("no disk with this slot, file and tag".to_owned());
    };
    if !row.exported {
        return Err("the disk without its export".to_owned());
    }
    if row.nqn.as_deref() != Some(nqn.as_str()) || row.port != Some(port) {
        let (nqn, port) = (
            row.nqn.as_deref().unwrap_or("none"),
            row.port.map_or("none".to_owned(), |p| p.to_string()),
        );
        return Err(format!("the NQN {} and the port {port}", shown(nqn)));
    }
    if row.mount_filesystem == Some(true) || row.shared {
        return Err("mounting or sharing switched on".to_owned());
    }
    Ok(row.clone())
}
