//! One plain line about who uses a volume, who waits for it, and why: what `kubectl get rdsvolumes -o wide` shows of attachments.

use super::decide::{Owed, Said, Seen};
use super::model::Standing;

/// The line; `None` while nobody has or wants the volume.
pub(crate) fn line(seen: &Seen, owed: Option<&Owed>) -> Option<String> {
    let volume = &seen.volume;
    let mut said = Vec::new();
    for holder in &volume.holders {
        let how = match holder.standing {
            Standing::Alive => "",
            Standing::Leaving => ", which is letting go",
            Standing::Lost => ", which is lost",
            Standing::Doubtful => ", which is not Ready or silent",
        };
        said.push(format!("used by node {}{how}", holder.node));
    }
    if let Some(deadline) = volume.migration_deadline {
        let over = if seen.now >= deadline { "was to end" } else { "may take" };
        said.push(format!("a migration that {over} until {deadline}"));
    }
    for attachment in seen.attachments.iter().filter(|a| !a.deleting) {
        match &attachment.said {
            Said::Refused(why, text) => said.push(format!("node {} waits ({why}): {text}", attachment.ask.node)),
            Said::Nothing => said.push(format!("node {} waits", attachment.ask.node)),
            Said::Admitted(_) | Said::Withdrawn => {}
        }
    }
    if let Some(owed) = owed {
        said.push(match owed.node.as_str() {
            "" => format!("a cut is owed: {}", owed.why),
            node => format!("a cut of node {node} is owed: {}", owed.why),
        });
    }
    (!said.is_empty()).then(|| said.join("; "))
}
