//! Retire: the token moves up and the export ends. The first exec of a deletion, and of a fence.

use super::export::retire_order;
use super::*;
use crate::routeros::error::CommandKind;

/// Token g<n> -> g<next> and export off, in one `set`.
///
/// Late or doubled: the old token no longer matches. From here on every older command for this disk changes nothing, whenever it runs.
pub(crate) struct Retire {
    pub(crate) guard: Guard,
    pub(crate) next: Generation,
}

impl Command for Retire {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Retire,
            slot: Some(self.guard.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        self.guard.identity(None)
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.next)
    }

    fn validate(&self) -> Result<(), String> {
        retire_order(&self.guard, self.next)
    }

    fn body(&self) -> Script {
        self.guard
            .bind()
            .code("/disk/set $rdsIds comment=")
            .text(&self.guard.tag.at(self.next).to_string())
            .code(" nvme-tcp-export=no; ")
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        match outcome {
            Outcome::Done(look) => match look.row_of(&self.guard.tag.at(self.next)) {
                Some(row) if !row.exported => Ok(row.clone()),
                Some(_) => Err(cx.read_back("the disk still exported", look)),
                None => Err(cx.read_back("no disk with this slot, file and the new tag", look)),
            },
            Outcome::Stopped(words, look) => Err(cx.refused_by_guard(&self.guard, words, look)),
        }
    }
}
