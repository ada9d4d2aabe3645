//! How much a new or larger disk may take: from the last listing, less what was promised since.
//!
//! Whether images are sparse is not known for certain, so both bounds hold: the free space, and the sum of what is
//! provisioned against the size of the pool (B52).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::routeros::{Bytes, DiskRow, Inventory, Slot};

/// A promise of which no listing has shown the disk is forgotten after this time.
const FORGET: Duration = Duration::from_secs(300);

/// Limits from the spec of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes that volumes never get.
    pub reserved: u64,
    /// Per cent of the pool's size that may be provisioned.
    pub overcommit_percent: u64,
}

/// Room for disks according to a listing alone: `None` when it shows no mounted pool with its size and free space, as for a while
/// after the appliance has started. That is not the same as no room.
pub(crate) fn available(inventory: &Inventory, limits: Limits) -> Option<Bytes> {
    let pool = inventory.pool.as_ref().filter(|pool| pool.is_mounted())?;
    let (size, free) = (pool.size?.0, pool.free?.0);
    let by_free = free.saturating_sub(limits.reserved);
    let allowed = u128::from(size.saturating_sub(limits.reserved)) * u128::from(limits.overcommit_percent) / 100;
    let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
    Some(Bytes(by_free.min(allowed.saturating_sub(provisioned(inventory).0))))
}

/// Sum of the sizes of all image disks of the pool, whoever owns them. The listing has those of other pools too, which may be the
/// pools of other RdsServers.
pub(crate) fn provisioned(inventory: &Inventory) -> Bytes {
    let sizes = inventory
        .disks
        .iter()
        .filter(|disk| !inventory.pool.as_ref().is_some_and(|pool| is_elsewhere(disk, pool)))
        .filter_map(|disk| disk.size);
    Bytes(sizes.fold(0u64, |sum, size| sum.saturating_add(size.0)))
}

/// Whether the image certainly lies on another pool.
fn is_elsewhere(disk: &DiskRow, pool: &DiskRow) -> bool {
    let first = |path: &str| path.trim_start_matches('/').split('/').next().map(str::to_owned);
    let ours = pool
        .mount_point
        .as_deref()
        .and_then(first)
        .unwrap_or_else(|| pool.slot.clone());
    disk.path
        .as_deref()
        .and_then(first)
        .is_some_and(|theirs| theirs != ours)
}

/// What was promised and is not in the listing yet.
#[derive(Debug, Default)]
pub(crate) struct Promises(HashMap<Slot, (Bytes, Instant)>);

impl Promises {
    /// Bytes promised to others than `slot` after the listing was taken.
    pub(crate) fn since(&mut self, taken_at: Instant, slot: &Slot) -> Bytes {
        self.0.retain(|_, (_, at)| *at >= taken_at || at.elapsed() < FORGET);
        let open = self
            .0
            .iter()
            .filter(|(other, (_, at))| *other != slot && *at >= taken_at);
        Bytes(open.fold(0u64, |sum, (_, (bytes, _))| sum.saturating_add(bytes.0)))
    }

    /// Promises `bytes` more to a disk.
    pub(crate) fn promise(&mut self, slot: &Slot, bytes: Bytes) {
        self.0.insert(slot.clone(), (bytes, Instant::now()));
    }

    /// The disk was made or refused just now: a promise that was kept counts until a listing shows the disk.
    pub(crate) fn settle(&mut self, slot: &Slot, made: bool) {
        match self.0.get_mut(slot) {
            Some((_, at)) if made => *at = Instant::now(),
            _ => {
                self.0.remove(slot);
            }
        }
    }
}
