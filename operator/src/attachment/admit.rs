//! Who may use a volume: one pure function.
//!
//! Invariants: at most one node that can write, except in an admitted migration of two (I3); nobody enters while another holder
//! is lost, leaving or doubtful (I4); a lost holder never makes the newcomer a migration.

use jiff::Timestamp;
use rds_crds::volume::{AccessMode, Role};

use super::model::{Ask, HolderState, HolderView, Refusal, Verdict, VolumeView};

/// Decides about one wish. The caller records an admission by compare-and-swap on `holders`.
#[must_use]
pub fn admit(ask: &Ask, volume: &VolumeView, now: Timestamp) -> Verdict {
    let name = &volume.name;
    if volume.holders.iter().any(|h| h.attachment == ask.attachment) {
        return Verdict::Held;
    }
    let refuse = |why, message: String| Verdict::Refuse(why, message);
    if volume.deleting {
        return refuse(Refusal::Deleting, format!("volume {name} is being deleted"));
    }
    if let Err(message) = fits(ask, volume) {
        return refuse(Refusal::AccessMode, message);
    }
    // The same node again under a new attachment: its old one has to be gone first.
    if let Some(old) = volume.holders.iter().find(|h| h.node == ask.node) {
        return refuse(
            Refusal::Handoff,
            format!(
                "volume {name}: the former attachment of node {} ({}) is still going away, retry",
                old.node, old.attachment
            ),
        );
    }
    if volume.fence.is_some() {
        return refuse(
            Refusal::FencePending,
            format!(
                "volume {name}: a former holder has to be cut at the target first; see `kubectl describe rdsvolume {name}`"
            ),
        );
    }
    if volume.fenced.contains(&ask.node) {
        return refuse(
            Refusal::FencePending,
            format!(
                "volume {name}: node {} was cut and has not acknowledged it yet",
                ask.node
            ),
        );
    }
    if !volume.ready {
        return refuse(
            Refusal::VolumeNotReady,
            format!("volume {name} is not ready; see `kubectl describe rdsvolume {name}`"),
        );
    }
    let (role, deadline) = match others(ask, volume, now) {
        Ok(admitted) => admitted,
        Err((why, message)) => return refuse(why, message),
    };
    if volume.holders_unknown {
        return refuse(
            Refusal::FencePending,
            format!(
                "volume {name}: the record of who uses it was lost, so all former connections have to be cut first; see `kubectl \
                 describe rdsvolume {name}`"
            ),
        );
    }
    Verdict::Admit { role, deadline }
}

/// Whether the request fits what the volume was made for (B16: the recorded modes count, not the request alone).
fn fits(ask: &Ask, volume: &VolumeView) -> Result<(), String> {
    let name = &volume.name;
    if ask.mode == AccessMode::ReadWriteMany && !volume.block {
        return Err(format!(
            "volume {name} has a filesystem: ReadWriteMany would destroy it, use volumeMode: Block"
        ));
    }
    if ask.mode.served_by(&volume.access_modes) {
        return Ok(());
    }
    let modes: Vec<String> = volume.access_modes.iter().map(|m| format!("{m:?}")).collect();
    Err(format!(
        "volume {name} was made for {}, not for {:?}",
        modes.join(", "),
        ask.mode
    ))
}

type Admitted = (Role, Option<Timestamp>);

fn others(ask: &Ask, volume: &VolumeView, now: Timestamp) -> Result<Admitted, (Refusal, String)> {
    let name = &volume.name;
    let reads = ask.read_only || ask.mode == AccessMode::ReadOnlyMany;
    if volume.holders.is_empty() {
        return Ok((if reads { Role::Reader } else { Role::Primary }, None));
    }
    if let Some(late) = overdue(volume, now) {
        return Err((Refusal::MigrationOverdue, late));
    }
    let readers_only = volume.holders.iter().all(|h| h.role == Role::Reader);
    // A lost reader among readers writes nothing: it leaves without a fence, which is owed before the next writer.
    if reads && readers_only {
        return Ok((Role::Reader, None));
    }
    for holder in &volume.holders {
        match holder.state {
            HolderState::Lost => return Err((Refusal::FencePending, lost(name, holder))),
            HolderState::Leaving => {
                return Err((
                    Refusal::Handoff,
                    format!(
                        "volume {name} is being detached from node {}: handoff in progress, retry",
                        holder.node
                    ),
                ));
            }
            HolderState::Alive | HolderState::Doubtful => {}
        }
    }
    let migrates = ask.mode == AccessMode::ReadWriteMany && !ask.read_only && volume.block && !readers_only;
    if !migrates {
        return Err((Refusal::Conflict, conflict(ask, volume)));
    }
    if volume.holders.len() >= 2 {
        let nodes: Vec<&str> = volume.holders.iter().map(|h| h.node.as_str()).collect();
        return Err((
            Refusal::MigrationLimit,
            format!(
                "Volume {name} already attached to 2 nodes (migration limit). Wait for migration to complete. Attached nodes: [{}]",
                nodes.join(" ")
            ),
        ));
    }
    beside(ask, volume, now)
}

/// The second node of a live migration: only beside a holder that is alive.
fn beside(ask: &Ask, volume: &VolumeView, now: Timestamp) -> Result<Admitted, (Refusal, String)> {
    let name = &volume.name;
    let Some(source) = volume.holders.first().filter(|h| h.state == HolderState::Alive) else {
        return Err((Refusal::Handoff, doubtful(volume)));
    };
    if volume.kubevirt_only && ask.same_vm != Some(true) {
        // Pods come and go: what is not known now may be in a moment.
        let (refusal, why) = match ask.same_vm {
            Some(_) => (Refusal::MigrationPolicy, "is not one of the same virtual machine"),
            None => (
                Refusal::Handoff,
                "is not (yet) known to be a launcher of the same virtual machine",
            ),
        };
        return Err((
            refusal,
            format!(
                "volume {name} has migrationPolicy kubevirt and the pod on node {} {why} as on node {}",
                ask.node, source.node
            ),
        ));
    }
    let timeout = jiff::SignedDuration::try_from(volume.migration_timeout).unwrap_or(jiff::SignedDuration::MAX);
    Ok((
        Role::MigrationTarget,
        Some(now.saturating_add(timeout).unwrap_or(Timestamp::MAX)),
    ))
}

/// The message of a migration that took too long (R66); it wins over the limit of two nodes (R67).
pub(super) fn overdue(volume: &VolumeView, now: Timestamp) -> Option<String> {
    let (deadline, started) = (volume.migration_deadline?, volume.migration_started?);
    (volume.holders.len() >= 2 && now >= deadline).then(|| {
        let elapsed = now.as_second().saturating_sub(started.as_second());
        let allowed = volume.migration_timeout.as_secs();
        format!(
            "Volume {} migration timeout exceeded ({elapsed}s elapsed, {allowed}s max). Previous migration may be stuck. \
             Detach source node to reset, or adjust migrationTimeoutSeconds in StorageClass.",
            volume.name
        )
    })
}

/// Whether two refusals say the same. For how long a migration has taken is told when it is refused (R66), not anew with each look:
/// that would be two writes in five seconds for each attachment that waits.
pub(super) fn same_words(one: &str, other: &str) -> bool {
    let timeless = |text| {
        let (before, after) = str::split_once(text, "s elapsed")?;
        Some((before.trim_end_matches(|c: char| c.is_ascii_digit()), after))
    };
    one == other || timeless(one).is_some_and(|one| Some(one) == timeless(other))
}

fn lost(name: &str, holder: &HolderView) -> String {
    format!(
        "volume {name} is held by node {}, which is lost: it is cut at the target first; see `kubectl describe rdsvolume {name}`",
        holder.node
    )
}

fn conflict(ask: &Ask, volume: &VolumeView) -> String {
    let nodes: Vec<String> = volume
        .holders
        .iter()
        .map(|h| match h.state {
            HolderState::Doubtful => format!("{} (not Ready or silent)", h.node),
            HolderState::Alive | HolderState::Leaving | HolderState::Lost => h.node.clone(),
        })
        .collect();
    format!(
        "Volume {} is attached to node {} and cannot be attached to node {} too. Delete the pod that uses it there first.",
        volume.name,
        nodes.join(", "),
        ask.node
    )
}

fn doubtful(volume: &VolumeView) -> String {
    let node = volume.holders.first().map_or("", |h| h.node.as_str());
    format!(
        "volume {}: node {node} holds it and is not known to be alive, so no migration begins; retry",
        volume.name
    )
}
