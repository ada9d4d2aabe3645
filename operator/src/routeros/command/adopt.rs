//! Adopt: a disk that exists already gets our tag.

use super::*;
use crate::routeros::error::CommandKind;
use crate::routeros::types::DiskId;

/// Tags an untagged file disk at exactly this slot, path and size, and exports it if it is not.
///
/// An export that runs under this NQN and port is left alone; one under another NQN or port is refused, as changing it would cut
/// whoever uses it. Late or doubled: the disk has a tag by then, which stops it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopt {
    /// Slot, file and NQN, as they are.
    pub id: DiskId,
    /// Its exact size.
    pub size: Bytes,
    /// Port of the export.
    pub port: u16,
    /// The tag it gets.
    pub tag: OwnerTag,
}

impl Command for Adopt {
    type Output = DiskRow;

    fn command(&self) -> Redacted {
        Redacted {
            kind: CommandKind::Adopt,
            slot: Some(self.id.slot.clone()),
        }
    }

    fn identity(&self) -> Identity {
        Identity::from(&self.id)
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.tag.generation)
    }

    fn body(&self) -> Script {
        let at = || at(&self.id.slot, &self.id.path);
        let guard = Guard {
            slot: self.id.slot.clone(),
            path: self.id.path.clone(),
            tag: self.tag.clone(),
        };
        let other_name = naming(&self.id.path).code(") && slot!=").text(self.id.slot.as_str());
        let other_export = at()
            .code(" && nvme-tcp-export=yes && (nvme-tcp-server-nqn!=")
            .text(self.id.nqn.as_str())
            .code(" || nvme-tcp-server-port!=")
            .number(self.port.into())
            .code(")");
        let taken = Script::default()
            .code("nvme-tcp-server-nqn=")
            .text(self.id.nqn.as_str())
            .code(" && slot!=")
            .text(self.id.slot.as_str());
        Script::default()
            .code(":local rdsIds [/disk/find where ")
            .then(at())
            .code("]; :if ([:len $rdsIds] != 1) do={ :error \"rds-absent\" }; ")
            .then(assert_no_disk(
                Script::default().code("(").then(other_name),
                "rds-alias",
            ))
            .then(assert_no_disk(
                at().code(" && comment~").starts_with("rds1"),
                "rds-tagged",
            ))
            .code(":if ([/disk/get $rdsIds size] != ")
            .number(self.size.0)
            .code(") do={ :error \"rds-size\" }; ")
            .then(assert_no_disk(other_export, "rds-exported"))
            .then(assert_no_disk(taken, "rds-nqn"))
            .code("/disk/set $rdsIds comment=")
            .text(&self.tag.to_string())
            .code(PRIVATE)
            .code("; :if ([:len [/disk/find where ")
            .then(guard.matching())
            .code("]] != 1) do={ :error \"rds-mangled\" }; :if ([:len [/disk/find where ")
            .then(at())
            .code(" && nvme-tcp-export=yes]] = 0) do={ ")
            .then(export_on(Script::default().code("$rdsIds"), &self.id.nqn, self.port))
            .code("}; ")
    }

    fn judge(&self, cx: &Context<'_>, outcome: Outcome) -> Result<DiskRow, RdsError> {
        let (words, look) = match outcome {
            Outcome::Done(look) => {
                return exported_row(&look, &self.tag, &self.id.nqn, self.port)
                    .map_err(|detail| cx.read_back(detail, look));
            }
            Outcome::Stopped(words, look) => (words, look),
        };
        let has = |code: &str| words.contains(code);
        let detail = if has("rds-absent") {
            format!(
                "no disk has both the slot {} and the file {}",
                self.id.slot, self.id.path
            )
        } else if has("rds-alias") {
            "another disk names the same file".to_owned()
        } else if has("rds-tagged") {
            let by = look
                .slot_rows()
                .next()
                .map_or("somebody".to_owned(), |r| r.owner.to_string());
            format!("it is owned already: {by}")
        } else if has("rds-size") {
            let size = look
                .row()
                .and_then(|r| r.size)
                .map_or("unknown".to_owned(), |s| s.to_string());
            format!("its size is {size} bytes, not {}", self.size)
        } else if has("rds-exported") {
            let row = look.row();
            let nqn = row.and_then(|r| r.nqn.clone()).unwrap_or_default();
            let port = row.and_then(|r| r.port).map_or("none".to_owned(), |p| p.to_string());
            let nqn = shown(&nqn);
            format!("it is exported under another NQN or port: the NQN {nqn} and the port {port}")
        } else if has("rds-nqn") {
            return Err(cx.taken(Occupied::Nqn, look));
        } else {
            return Err(cx.refused(words, look));
        };
        Err(cx.precondition(detail, look))
    }
}
