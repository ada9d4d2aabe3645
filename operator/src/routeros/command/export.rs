//! Export: puts a lost export back, or toggles one on boxes that resize only so.

use super::*;
use crate::routeros::error::CommandKind;

/// Exports a disk under its NQN, and switches off mounting and sharing.
///
/// Late or doubled: an export that is already as wanted is not touched (D4: a running session is not cut), and after a fence or a
/// retire the token of the older generation no longer matches.
pub(crate) struct Export {
    pub(crate) guard: Guard,
    pub(crate) nqn: Nqn,
    pub(crate) port: u16,
}

fn other_with_nqn(guard: &Guard, nqn: &Nqn) -> Script {
    let other = Script::default()
        .code("nvme-tcp-server-nqn=")
        .text(nqn.as_str())
        .code(" && slot!=")
        .text(guard.slot.as_str());
    assert_no_disk(other, "rds-nqn")
}

fn judge(guard: &Guard, (nqn, port): (&Nqn, u16), cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
    match outcome {
        Outcome::Done(look) => exported_row(&look, &guard.tag, nqn, port).map_err(|detail| cx.read_back(detail, look)),
        Outcome::Stopped(words, look) => Err(cx.refused_by_guard(guard, words, look)),
    }
}

impl Command for Export {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Export,
            slot: Some(self.guard.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        self.guard.identity(Some(&self.nqn))
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.guard.tag.generation)
    }

    fn body(&self) -> Script {
        self.guard
            .bind()
            .then(other_with_nqn(&self.guard, &self.nqn))
            .code("/disk/set $rdsIds")
            .code(PRIVATE)
            .code("; :if ([:len [/disk/find where ")
            .then(self.guard.at())
            .code(" && nvme-tcp-export=yes && nvme-tcp-server-nqn=")
            .text(self.nqn.as_str())
            .code(" && nvme-tcp-server-port=")
            .number(self.port.into())
            .code("]] = 0) do={ ")
            .then(export_on(Script::default().code("$rdsIds"), &self.nqn, self.port))
            .code("}; ")
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        judge(&self.guard, (&self.nqn, self.port), cx, outcome)
    }
}

/// Switches an export off and on again. Only for a volume without holders: the caller's duty (D4).
///
/// Late or doubled: it moves the token up by one, so it runs at most once; and whoever must rule out that an unknown one still runs
/// (before the next admission) moves the token himself, with `retire` or `export` at a further generation.
pub(crate) struct ToggleExport {
    pub(crate) guard: Guard,
    pub(crate) next: Generation,
    pub(crate) nqn: Nqn,
    pub(crate) port: u16,
}

impl Command for ToggleExport {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::ToggleExport,
            slot: Some(self.guard.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        self.guard.identity(Some(&self.nqn))
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.guard.tag.generation)
    }

    fn validate(&self) -> Result<(), String> {
        retire_order(&self.guard, self.next)
    }

    fn body(&self) -> Script {
        self.guard
            .bind()
            .then(other_with_nqn(&self.guard, &self.nqn))
            .code("/disk/set $rdsIds comment=")
            .text(&self.guard.tag.at(self.next).to_string())
            .code(" nvme-tcp-export=no; ")
            .then(export_on(Script::default().code("$rdsIds"), &self.nqn, self.port))
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        let after = Guard {
            tag: self.guard.tag.at(self.next),
            ..self.guard.clone()
        };
        match outcome {
            Outcome::Stopped(words, look) => Err(cx.refused_by_guard(&self.guard, words, look)),
            Outcome::Done(look) => judge(&after, (&self.nqn, self.port), cx, Outcome::Done(look)),
        }
    }
}

/// D3: a generation only goes up.
pub(super) fn retire_order(guard: &Guard, next: Generation) -> Result<(), String> {
    if next <= guard.tag.generation || next.0 > Generation::MAX {
        return Err(format!("generation {next} does not follow {}", guard.tag.generation));
    }
    Ok(())
}
