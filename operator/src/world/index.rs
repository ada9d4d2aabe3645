//! Finds objects by something else than their name. A pass over one volume shall not cost a walk over all others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use rds_crds::{RdsAttachment, RdsServer, RdsVolume};

/// What an object is found by, beside its name.
pub trait IndexKeys {
    /// The words. None: the kind is found by name only.
    fn words(&self) -> Vec<String> {
        Vec::new()
    }
}

impl IndexKeys for Lease {}
impl IndexKeys for Node {}
impl IndexKeys for RdsServer {}

impl IndexKeys for RdsVolume {
    /// Its server, the nodes that hold it or were cut off from it, whether there was any cut, and whether it is in use.
    fn words(&self) -> Vec<String> {
        let mut words = vec![on_server(&self.spec.server)];
        let Some(status) = &self.status else { return words };
        words.extend(status.holders.iter().map(|h| of_node(&h.node)));
        words.extend(status.fenced.iter().map(|f| of_node(&f.node)));
        let cut = status.fence.is_some() || !status.fenced.is_empty();
        let in_use = cut || !status.holders.is_empty() || status.holders_unknown_since.is_some();
        words.extend(cut.then(|| CUT.to_owned()));
        words.extend(in_use.then(|| IN_USE.to_owned()));
        words
    }
}

impl IndexKeys for RdsAttachment {
    /// Its volume and its own UID.
    fn words(&self) -> Vec<String> {
        let uid = self.uid().map(|uid| by_uid(&uid));
        std::iter::once(of_volume(&self.spec.volume)).chain(uid).collect()
    }
}

/// Volumes from which a node was cut off, or is being.
pub(super) const CUT: &str = "cut";

/// Volumes that somebody holds, may hold, or was cut off from.
pub(super) const IN_USE: &str = "in-use";

pub(super) fn on_server(name: &str) -> String {
    format!("server/{name}")
}

pub(super) fn of_node(name: &str) -> String {
    format!("node/{name}")
}

pub(super) fn of_volume(name: &str) -> String {
    format!("volume/{name}")
}

pub(super) fn by_uid(uid: &str) -> String {
    format!("uid/{uid}")
}

/// Names of objects by word.
#[derive(Default)]
pub(super) struct Index {
    names: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    words: HashMap<Arc<str>, Box<[Arc<str>]>>,
}

impl Index {
    pub(super) fn names(&self, word: &str) -> Vec<Arc<str>> {
        let names = self.names.get(word);
        names.map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn count(&self, word: &str) -> usize {
        self.names.get(word).map_or(0, BTreeSet::len)
    }

    /// Takes the place of what was known of that name.
    pub(super) fn put(&mut self, name: &Arc<str>, words: Vec<String>) {
        self.remove(name);
        let mut known = Vec::with_capacity(words.len());
        for word in words {
            // One copy of a word, however many objects have it.
            let there = self.names.get_key_value(word.as_str()).map(|(word, _)| word.clone());
            let word = there.unwrap_or_else(|| Arc::from(word));
            self.names.entry(word.clone()).or_default().insert(name.clone());
            known.push(word);
        }
        if !known.is_empty() {
            self.words.insert(name.clone(), known.into_boxed_slice());
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        for word in self.words.remove(name).into_iter().flatten() {
            if let Some(names) = self.names.get_mut(&word) {
                names.remove(name);
                if names.is_empty() {
                    self.names.remove(&word);
                }
            }
        }
    }
}
