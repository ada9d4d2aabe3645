//! Release: our tag goes, the disk and its export stay.

use super::*;
use crate::routeros::error::CommandKind;

/// Replaces our tag by its part for people.
///
/// Late or doubled: the token is gone, so it stops; a new tag from an adoption has another nonce.
pub(crate) struct Release {
    pub(crate) guard: Guard,
}

impl Command for Release {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Release,
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
        self.guard
            .bind()
            .code("/disk/set $rdsIds comment=")
            .text(self.guard.tag.label())
            .code("; ")
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        match outcome {
            Outcome::Done(look) => match look.row() {
                Some(row) if !matches!(row.owner, Ownership::Tagged(_) | Ownership::Mangled(_)) => Ok(row.clone()),
                Some(_) => Err(cx.read_back("the disk with a tag", look)),
                None => Err(cx.read_back("no disk with this slot and file", look)),
            },
            Outcome::Stopped(words, look) => Err(cx.refused_by_guard(&self.guard, words, look)),
        }
    }
}
