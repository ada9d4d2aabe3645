//! Create: assert that nothing is in the way, add, verify, export.

use super::*;
use crate::routeros::error::CommandKind;
use crate::routeros::look::file_named;

/// A disk to make: file, row, tag and export in one exec.
///
/// Late or doubled: stops at the first assertion, since slot, path, file or NQN is taken (by itself). After the disk was deleted a
/// late one would make it anew, with its old nonce: it carries a token that no status records any more, so it is found as an orphan
/// of this volume and never taken for a disk that may be formatted (I1, I11).
///
/// Leftovers of a create that stopped, all shown by the error's look: the file alone (`add` failed after making it); an unexported row
/// with our tag (the export was refused). A row whose slot or tag came out changed is removed again by the same exec, by the id that
/// `add` returned: nobody could prove later whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDisk {
    /// Slot of the new row.
    pub slot: Slot,
    /// Its image file; the folder must exist.
    pub path: DiskPath,
    /// Its size, a multiple of 4096.
    pub size: Bytes,
    /// NQN of the export.
    pub nqn: Nqn,
    /// Port of the export.
    pub port: u16,
    /// Its tag, with the nonce that the status records already.
    pub tag: OwnerTag,
}

impl CreateDisk {
    fn guard(&self) -> Guard {
        Guard {
            slot: self.slot.clone(),
            path: self.path.clone(),
            tag: self.tag.clone(),
        }
    }
}

impl Command for CreateDisk {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Create,
            slot: Some(self.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            slot: Some(self.slot.clone()),
            path: self.path.clone(),
            nqn: Some(self.nqn.clone()),
        }
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.tag.generation)
    }

    fn validate(&self) -> Result<(), String> {
        if self.size.0 == 0 || !self.size.0.is_multiple_of(Bytes::ALIGN) {
            return Err(format!(
                "the size {} is not a positive multiple of {}",
                self.size,
                Bytes::ALIGN
            ));
        }
        Ok(())
    }

    fn assertions(&self) -> Option<Script> {
        let slot = Script::default().code("slot=").text(self.slot.as_str());
        let nqn = Script::default().code("nvme-tcp-server-nqn=").text(self.nqn.as_str());
        let assertions = assert_no_disk(slot, "rds-slot")
            .then(assert_no_disk(naming(&self.path), "rds-path"))
            .code(":if ([:len [/file/find where ")
            .then(file_named(&self.path))
            .code("]] != 0) do={ :error \"rds-file\" }; ")
            .then(assert_no_disk(nqn, "rds-nqn"));
        Some(assertions)
    }

    fn body(&self) -> Script {
        let guard = self.guard();
        Script::default()
            .code(":local rdsNew [/disk/add type=file slot=")
            .text(self.slot.as_str())
            .code(" file-path=")
            .text(self.path.file_name())
            .code(" file-size=")
            .number(self.size.0)
            .code(" comment=")
            .text(&self.tag.to_string())
            .code(PRIVATE)
            .code(" compress=no]; :if ([:len [/disk/find where ")
            .then(guard.matching())
            .code("]] != 1) do={ /disk/remove $rdsNew; :if ([:len [/disk/find where ")
            .then(naming(&self.path))
            .code("]] = 0) do={ /file/remove [/file/find where ")
            .then(file_named(&self.path))
            .code("] }; :error \"rds-mangled\" }; ")
            .then(export_on(
                Script::default()
                    .code("[/disk/find where ")
                    .then(guard.matching())
                    .code("]"),
                &self.nqn,
                self.port,
            ))
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        let (words, look) = match outcome {
            Outcome::Done(look) => {
                return match exported_row(&look, &self.tag, &self.nqn, self.port) {
                    Ok(row) if row.size >= Some(self.size) => Ok(row),
                    Ok(row) => {
                        let size = row.size.map_or("no size".to_owned(), |s| format!("{s} bytes"));
                        Err(cx.read_back(format!("{size} instead of {}", self.size), look))
                    }
                    Err(detail) => Err(cx.read_back(detail, look)),
                };
            }
            Outcome::Stopped(words, look) => (words, look),
        };
        for (code, what) in [
            ("rds-slot", Occupied::Slot),
            ("rds-path", Occupied::Path),
            ("rds-file", Occupied::File),
            ("rds-nqn", Occupied::Nqn),
        ] {
            if words.contains(code) {
                return Err(cx.taken(what, look));
            }
        }
        // It stopped while it looked whether all was free: nothing of what is there is its own.
        if !look.is_absent() && !cx.was_free && !is_permission(&words) {
            return Err(cx.precondition(words, look));
        }
        if !look.is_absent() && cx.was_free {
            let (server, command) = (cx.server.clone(), cx.command.clone());
            return Err(RdsError::Incomplete {
                server,
                command,
                reply: words,
                look: Box::new(look),
            });
        }
        let (server, command) = (cx.server.clone(), cx.command.clone());
        if is_permission(&words) {
            return Err(RdsError::Permission {
                server,
                command,
                reply: words,
                proven: true,
            });
        }
        if words.contains("rds-mangled") {
            let reply = "slot, path or comment came back changed (cut?), so the new disk was removed again".to_owned();
            return Err(RdsError::Rejected { server, command, reply });
        }
        Err(cx.pool_full(self.size, &look).unwrap_or(RdsError::Rejected {
            server,
            command,
            reply: words,
        }))
    }
}
