//! Whom this leader has begun to cut, known at once: passes over many volumes run side by side, and the cache shows none of them the
//! fences that the others have just recorded (I19).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fence_permission::FENCE_WINDOW;

/// Node and volume of each fence that was begun within the window, or is about to be.
#[derive(Default)]
pub(super) struct FenceQuota(Mutex<BTreeMap<(String, String), Instant>>);

impl FenceQuota {
    /// Those that still count.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Instant>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = Duration::from_secs(FENCE_WINDOW.unsigned_abs());
        all.retain(|_, at| at.elapsed() < window);
        all
    }

    /// The nodes; one that had several volumes may be there several times.
    pub(super) fn nodes(&self) -> Vec<String> {
        nodes_of(&self.lock())
    }

    /// Takes a place for the fence of that node on that volume, if it may be begun beside those of these nodes.
    pub(super) fn reserve(&self, node: &str, volume: &str, may: impl FnOnce(Vec<String>) -> bool) -> bool {
        let mut all = self.lock();
        let may = may(nodes_of(&all));
        if may {
            all.insert((node.to_owned(), volume.to_owned()), Instant::now());
        }
        may
    }

    /// The fence was not begun.
    pub(super) fn give_back(&self, node: &str, volume: &str) {
        self.lock().remove(&(node.to_owned(), volume.to_owned()));
    }
}

fn nodes_of(all: &BTreeMap<(String, String), Instant>) -> Vec<String> {
    all.keys().map(|(node, _)| node.clone()).collect()
}
