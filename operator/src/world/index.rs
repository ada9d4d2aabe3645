//! Finds objects by something else than their name. A pass over one volume shall not cost a walk over all attachments.
//!
//! Invariant: the index never lacks an object that the cache holds. Words come before the object does and go after it; a name
//! that is left over finds nothing.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};

/// What an object is found by, beside its name.
pub trait Words {
    /// The words. None: the kind is found by name only.
    fn words(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Words for Lease {}
impl Words for Node {}
impl Words for RdsServer {}
impl Words for RdsVolume {}

impl Words for RdsAttachment {
    /// Its volume and its own UID.
    fn words(&self) -> Vec<String> {
        std::iter::once(self.spec.volume.clone()).chain(self.uid()).collect()
    }
}

/// Names of objects by word.
#[derive(Default)]
pub(super) struct Index(HashMap<String, BTreeSet<String>>);

impl Index {
    pub(super) fn names(&self, word: &str) -> Vec<String> {
        self.0
            .get(word)
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn add(&mut self, object: &(impl Words + ResourceExt)) {
        for word in object.words() {
            self.0.entry(word).or_default().insert(object.name_any());
        }
    }

    /// Takes away the words of `old` that `new` does not have.
    pub(super) fn remove<K: Words + ResourceExt>(&mut self, old: &K, new: Option<&K>) {
        let kept = new.map(Words::words).unwrap_or_default();
        for word in old.words().into_iter().filter(|word| !kept.contains(word)) {
            if let Some(names) = self.0.get_mut(&word) {
                names.remove(&old.name_any());
                if names.is_empty() {
                    self.0.remove(&word);
                }
            }
        }
    }
}
