//! What agents say about the use of a volume, folded into the volume: the format ledger and the circuit breaker.
//!
//! [`format`] and `breaker` are pure. The shell runs in the pass over the volume, so that one volume is never worked on twice at
//! once by one process; between processes the compare-and-swap decides.

mod format;

use std::sync::Arc;

use kube::ResourceExt;
use rds_crds::attachment::AgentFormat;
use rds_crds::volume::{FormatLedger, VolumeMode};
use rds_crds::{RdsAttachment, RdsVolume};
use tracing::info;

use crate::crash;
use crate::events::Announcer;
use crate::volume::{ApiError, Store};
use crate::world::World;

/// Hears the agents of one volume.
pub(crate) async fn hear(volume: &mut RdsVolume, world: &World, announcer: &Announcer) -> Result<(), ApiError> {
    let name = volume.name_any();
    let attachments: Vec<Arc<RdsAttachment>> = world
        .attachments
        .all()
        .into_iter()
        .filter(|a| a.spec.volume == name)
        .collect();
    let Some(entry) = next_entry(volume, &attachments) else {
        return Ok(());
    };
    let mut next = volume.clone();
    next.status.get_or_insert_default().format = Some(entry.clone());
    *volume = Store::new(&world.client).swap_status(&next).await?;
    crash::after("record-format");
    info!(volume = name, entry = ?entry.state, fs = entry.fs_type, node = entry.node, "format ledger");
    announcer.format(volume, &entry);
    Ok(())
}

fn next_entry(volume: &RdsVolume, attachments: &[Arc<RdsAttachment>]) -> Option<FormatLedger> {
    let status = volume.status.as_ref()?;
    // A disk that is going away gets nothing written any more.
    if status.deletion.is_some() {
        return None;
    }
    let cut = status.fence.as_ref().map(|f| f.attachment_uid.as_str());
    let holders: Vec<String> = status
        .holders
        .iter()
        .map(|h| h.attachment_uid.clone())
        .filter(|uid| Some(uid.as_str()) != cut)
        .collect();
    let silent = AgentFormat::default();
    let speakers: Vec<format::Speaker<'_>> = attachments
        .iter()
        .map(|a| format::Speaker {
            attachment: a.metadata.uid.as_deref().unwrap_or_default(),
            node: &a.spec.node,
            writer: !a.reads_only() && a.metadata.deletion_timestamp.is_none(),
            said: said(a).unwrap_or(&silent),
        })
        .collect();
    let seen = format::Volume {
        uid: volume.metadata.uid.as_deref()?,
        block: volume.spec.volume_mode == Some(VolumeMode::Block),
        fs_type: volume.spec.fs_type.unwrap_or_default().as_str(),
        ledger: status.format.as_ref(),
        holders: &holders,
    };
    format::decide(&seen, &speakers)
}

fn said(attachment: &RdsAttachment) -> Option<&AgentFormat> {
    attachment.status.as_ref()?.agent.as_ref()?.format.as_ref()
}
