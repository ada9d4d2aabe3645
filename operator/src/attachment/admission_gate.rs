//! Who may be admitted by a new leader: nobody before it has looked for what a lost object store has lost, volume by volume.
//!
//! Invariant: a volume whose VolumeAttachments could not all be judged admits nobody; it holds up no other one.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one leader knows of it; empty when the Lease is gained.
#[derive(Default)]
pub(crate) struct AdmissionGate(Mutex<State>);

#[derive(Default)]
struct State {
    /// Volumes that are to be judged still. `None`: nothing was listed so far.
    undecided: Option<BTreeSet<String>>,
    /// Volume and node: let go by this leader, and not admitted since.
    let_go: BTreeSet<(String, String)>,
}

impl AdmissionGate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All VolumeAttachments were listed, and those of these volumes do not fit the records. Only the first list closes a volume.
    pub(super) fn listed(&self, undecided: impl IntoIterator<Item = String>) {
        self.lock()
            .undecided
            .get_or_insert_with(|| undecided.into_iter().collect());
    }

    /// The record of holders of that volume is complete now, or says that it is not.
    pub(super) fn decided(&self, volume: &str) {
        if let Some(undecided) = &mut self.lock().undecided {
            undecided.remove(volume);
        }
    }

    /// Whether anybody may be admitted to that volume.
    pub(crate) fn is_open(&self, volume: &str) -> bool {
        self.lock().undecided.as_ref().is_some_and(|all| !all.contains(volume))
    }

    /// Whether it is open for all volumes.
    pub(super) fn is_wide_open(&self) -> bool {
        self.lock().undecided.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Takes note of who came and who went by a write of this leader.
    pub(super) fn passed(&self, volume: &str, before: &[String], after: &[String]) {
        let mut state = self.lock();
        let of = |node: &String| (volume.to_owned(), node.clone());
        for node in before.iter().filter(|n| !after.contains(n)) {
            state.let_go.insert(of(node));
        }
        for node in after {
            state.let_go.remove(&of(node));
        }
    }

    /// Whether this leader has let that node go since it was a holder.
    pub(super) fn has_let_go(&self, volume: &str, node: &str) -> bool {
        self.lock().let_go.contains(&(volume.to_owned(), node.to_owned()))
    }

    /// Forgets who is not attached any more for Kubernetes either.
    pub(super) fn forget(&self, attached: impl Fn(&str, &str) -> bool) {
        self.lock().let_go.retain(|(volume, node)| attached(volume, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_a_volume_that_cannot_be_judged_holds_up_no_other() {
        let gate = AdmissionGate::default();
        assert!(!gate.is_open("a"), "nothing was listed yet");
        gate.decided("a");
        assert!(!gate.is_open("a") && !gate.is_wide_open());
        gate.listed(["b".to_owned(), "c".to_owned()]);
        assert!(gate.is_open("a"), "a list is all that a healthy volume waits for");
        assert!(!gate.is_open("b") && !gate.is_open("c"));
        gate.decided("b");
        assert!(gate.is_open("b") && !gate.is_open("c") && !gate.is_wide_open());
        gate.listed(["a".to_owned()]);
        assert!(gate.is_open("a"), "a later list closes nothing");
        gate.decided("c");
        assert!(gate.is_wide_open());
    }

    #[test]
    fn who_was_let_go_is_known_until_it_comes_back() {
        let gate = AdmissionGate::default();
        let nodes = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        gate.passed("a", &nodes(&["n1", "n2"]), &nodes(&["n2"]));
        assert!(gate.has_let_go("a", "n1"));
        assert!(!gate.has_let_go("a", "n2") && !gate.has_let_go("b", "n1"));
        gate.passed("a", &nodes(&["n2"]), &nodes(&["n2", "n1"]));
        assert!(!gate.has_let_go("a", "n1"));
        gate.passed("a", &nodes(&["n2", "n1"]), &nodes(&[]));
        gate.forget(|_, node| node == "n1");
        assert!(gate.has_let_go("a", "n1") && !gate.has_let_go("a", "n2"));
    }
}
