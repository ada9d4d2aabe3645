//! Remove: the disk row, then its file. I11: nothing that is not provably ours, and no file that any row names.

use super::*;
use crate::routeros::error::CommandKind;
use crate::routeros::look::file_named;

/// Proof that neither row nor file exists any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// What was read back.
    pub look: Look,
}

/// Removes the file while no row names it, and checks that it is gone.
fn remove_file(path: &DiskPath) -> Script {
    let files = || {
        Script::default()
            .code("[/file/find where ")
            .then(file_named(path))
            .code("]")
    };
    assert_no_disk(naming(path), "rds-named")
        .code("/file/remove ")
        .then(files())
        .code("; :if ([:len ")
        .then(files())
        .code("] != 0) do={ :error \"rds-left\" }; ")
}

/// Without a guard's row the words alone decide; what still exists makes it incomplete, never "removed".
fn judge(cx: &Context<'_>, guard: Option<&Guard>, outcome: Outcome) -> Result<Removed, RdsError> {
    match outcome {
        Outcome::Done(look) if look.path_rows().next().is_some() => {
            Err(cx.read_back("a disk that names the file", look))
        }
        Outcome::Done(look) if look.file.is_some() => Err(cx.read_back("the file", look)),
        Outcome::Done(look) if guard.is_some() && look.slot_rows().next().is_some() => {
            Err(cx.read_back("a disk with the slot", look))
        }
        Outcome::Done(look) => Ok(Removed { look }),
        Outcome::Stopped(words, look) if words.contains("rds-named") => {
            let by = look
                .path_rows()
                .next()
                .map_or("a disk".to_owned(), |r| r.owner.to_string());
            Err(cx.precondition(format!("the file is in use by {by}"), look))
        }
        Outcome::Stopped(words, look) if words.contains("rds-exported") => {
            Err(cx.precondition("the disk is exported (again)", look))
        }
        Outcome::Stopped(words, look) if words.contains("rds-left") => {
            let (server, command) = (cx.server.clone(), cx.command.clone());
            let reply = "the file is still there after its removal".to_owned();
            Err(RdsError::Incomplete {
                server,
                command,
                reply,
                look: Box::new(look),
            })
        }
        Outcome::Stopped(words, look) => Err(match guard {
            Some(guard) => cx.refused_by_guard(guard, words, look),
            None => cx.refused(words, look),
        }),
    }
}

/// Removes a retired disk and its file.
///
/// Late or doubled: no row has the token any more, so it stops before the first change. When the disk is gone and the file is left
/// (a crash or a refusal in between), [`RemoveFile`] finishes.
pub(crate) struct Remove {
    pub(crate) guard: Guard,
}

impl Command for Remove {
    type Output = Removed;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Remove,
            slot: Some(self.guard.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        self.guard.identity(None)
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.guard.tag.generation)
    }

    fn body(&self) -> Script {
        let exported = self.guard.at().code(" && nvme-tcp-export=yes");
        self.guard
            .bind()
            .then(assert_no_disk(exported, "rds-exported"))
            .code("/disk/remove $rdsIds; ")
            .then(remove_file(&self.guard.path))
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<Removed, RdsError> {
        judge(cx, Some(&self.guard), outcome)
    }
}

/// Removes a file that is left over, while no row names it. Only for a recorded deletion: a file carries no tag.
///
/// Late or doubled: the file is gone, which is what it wants; a new disk under this path names the file, and that stops it.
pub(crate) struct RemoveFile {
    pub(crate) slot: Slot,
    pub(crate) path: DiskPath,
}

impl Command for RemoveFile {
    type Output = Removed;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::RemoveFile,
            slot: Some(self.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            slot: Some(self.slot.clone()),
            path: self.path.clone(),
            nqn: None,
        }
    }

    fn generation(&self) -> Option<Generation> {
        None
    }

    fn body(&self) -> Script {
        remove_file(&self.path)
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<Removed, RdsError> {
        judge(cx, None, outcome)
    }
}
