//! Grow: never shrinks, whatever the order of execution.

use super::*;
use crate::routeros::error::CommandKind;

/// Raises a disk's size to `to`.
///
/// Late or doubled: the current size is compared on the appliance, so a 20 GiB grow that runs after one to 30 GiB stops there.
pub(crate) struct Grow {
    pub(crate) guard: Guard,
    pub(crate) to: Bytes,
}

impl Command for Grow {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Grow,
            slot: Some(self.guard.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        self.guard.identity(None)
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.guard.tag.generation)
    }

    fn validate(&self) -> Result<(), String> {
        if self.to.0 == 0 || !self.to.0.is_multiple_of(Bytes::ALIGN) {
            return Err(format!(
                "the size {} is not a positive multiple of {}",
                self.to,
                Bytes::ALIGN
            ));
        }
        Ok(())
    }

    fn body(&self) -> Script {
        self.guard
            .bind()
            .code(":if ([/disk/get $rdsIds size] >= ")
            .number(self.to.0)
            .code(") do={ :error \"rds-size\" }; /disk/set $rdsIds file-size=")
            .number(self.to.0)
            .code("; ")
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        match outcome {
            // The size may still be the old one where only a toggled export resizes: the caller compares `size`.
            Outcome::Done(look) => match look.row_of(&self.guard.tag) {
                Some(row) if row.size.is_some() => Ok(row.clone()),
                Some(_) => Err(cx.read_back("the disk without its size", look)),
                None => Err(cx.read_back("no disk with this slot, file and tag", look)),
            },
            Outcome::Stopped(words, look) if words.contains("rds-size") => {
                let size = look
                    .row()
                    .and_then(|r| r.size)
                    .map_or("unknown".to_owned(), |s| s.to_string());
                Err(cx.precondition(format!("its size is {size} bytes, not below {}", self.to), look))
            }
            Outcome::Stopped(words, look) if words.contains("rds-guard") => {
                Err(cx.refused_by_guard(&self.guard, words, look))
            }
            Outcome::Stopped(words, look) => {
                // Nothing changed if the row is still ours and still smaller than wanted.
                let size = look
                    .row_of(&self.guard.tag)
                    .and_then(|r| r.size)
                    .filter(|size| *size < self.to);
                let Some(size) = size.filter(|_| !is_permission(&words)) else {
                    return Err(cx.refused(words, look));
                };
                let (server, command) = (cx.server.clone(), cx.command.clone());
                let full = cx.pool_full(Bytes(self.to.0 - size.0), &look);
                Err(full.unwrap_or(RdsError::Rejected {
                    server,
                    command,
                    reply: words,
                }))
            }
        }
    }
}
