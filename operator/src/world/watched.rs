//! The cache of one kind: its objects, who waits for one of them, and the stream of changes.
//!
//! Objects are kept packed, see [`super::packed`]: whoever asks for one gets a copy of his own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, stream};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use rds_crds::{RdsAttachment, RdsVolume};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::index::{CUT, IN_USE, Index, IndexKeys, by_uid, of_node, of_volume, on_server};
use super::packed::{Packed, Packer};

/// Changes that a slow reader may fall behind before it is told to read everything again.
const CHANGES: usize = 1024;

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnded {
    /// The deadline passed.
    Deadline,
    /// The process is about to end.
    Closing,
}

/// A kind that can be kept.
pub trait Kept: Resource<DynamicType = ()> + IndexKeys + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource<DynamicType = ()> + IndexKeys + Serialize + DeserializeOwned + Send + Sync + 'static> Kept for K {}

/// The cache of one kind; clones share it.
pub struct Watched<K> {
    shared: Arc<Shared>,
    of: std::marker::PhantomData<fn() -> K>,
}

impl<K> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            of: self.of,
        }
    }
}

struct Shared {
    kind: &'static str,
    synced: watch::Sender<bool>,
    objects: Mutex<Objects>,
    changes: broadcast::Sender<Change>,
    waiters: Mutex<HashMap<String, watch::Sender<()>>>,
    malformed: Mutex<BTreeMap<String, String>>,
}

/// By name. The index never lacks an object that is here.
#[derive(Default)]
struct Objects {
    all: BTreeMap<Arc<str>, Arc<Packed>>,
    index: Index,
}

#[derive(Clone)]
enum Change {
    One(Arc<Packed>),
    All,
}

/// The writing end of a [`Watched`].
pub struct Feed<K> {
    watched: Watched<K>,
    packer: Packer,
    /// A list that is not complete yet.
    coming: Objects,
}

impl<K: Kept> Watched<K> {
    /// An empty cache and its writing end.
    #[must_use]
    pub fn new(kind: &'static str) -> (Self, Feed<K>) {
        let watched = Self {
            shared: Arc::new(Shared {
                kind,
                synced: watch::channel(false).0,
                objects: Mutex::default(),
                changes: broadcast::channel(CHANGES).0,
                waiters: Mutex::default(),
                malformed: Mutex::default(),
            }),
            of: std::marker::PhantomData,
        };
        let feed = Feed {
            watched: watched.clone(),
            packer: Packer::default(),
            coming: Objects::default(),
        };
        (watched, feed)
    }

    /// The kind, for logs and labels.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.shared.kind
    }

    /// How many objects there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.shared.objects).all.len()
    }

    /// The object as last seen. `None` proves nothing: the cache lags.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        let packed = lock(&self.shared.objects).all.get(name).cloned()?;
        self.unpack(&packed).map(Arc::new)
    }

    /// Whether there is an object of that name, as last seen.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        lock(&self.shared.objects).all.contains_key(name)
    }

    /// All names as last seen, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        lock(&self.shared.objects).all.keys().cloned().collect()
    }

    /// All objects as last seen, in the order of their names, one at a time: together they would be large.
    pub fn iter(&self) -> impl Iterator<Item = K> + use<'_, K> {
        let all: Vec<Arc<Packed>> = lock(&self.shared.objects).all.values().cloned().collect();
        all.into_iter().filter_map(|packed| self.unpack(&packed))
    }

    fn found_by(&self, word: &str) -> Vec<Arc<K>> {
        let names = lock(&self.shared.objects).index.names(word);
        names.iter().filter_map(|name| self.get(name)).collect()
    }

    fn unpack(&self, packed: &Packed) -> Option<K> {
        let object = packed.unpack();
        object
            .inspect_err(|error| error!(kind = self.shared.kind, error, "cannot unpack an object of the cache"))
            .ok()
    }

    /// Stored objects that cannot be read, with the reason. They exist: nothing of theirs is an orphan.
    #[must_use]
    pub fn malformed(&self) -> BTreeMap<String, String> {
        lock(&self.shared.malformed).clone()
    }

    /// Whether the cache has been filled once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits until the cache has been filled once.
    pub async fn synced(&self) {
        // The sending end lives as long as this reader.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Every object now in the cache, then each one that changes or is deleted. A reader that falls far behind gets
    /// everything again. Never ends.
    pub fn changes(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let watched = self.clone();
        let state = (self.shared.changes.subscribe(), watched.everything(), watched);
        stream::unfold(state, |(mut changes, mut pending, watched)| async move {
            loop {
                if let Some(packed) = pending.pop_front() {
                    let Some(object) = watched.unpack(&packed) else {
                        continue;
                    };
                    return Some((Arc::new(object), (changes, pending, watched)));
                }
                match changes.recv().await {
                    Ok(Change::One(packed)) => pending.push_back(packed),
                    Ok(Change::All) | Err(broadcast::error::RecvError::Lagged(_)) => pending = watched.everything(),
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        })
    }

    fn everything(&self) -> VecDeque<Arc<Packed>> {
        lock(&self.shared.objects).all.values().cloned().collect()
    }

    /// Calls `judge` with the object of that name now and after each change of it, until it answers.
    pub async fn wait<T>(
        &self,
        name: &str,
        deadline: Instant,
        closing: &CancellationToken,
        mut judge: impl FnMut(Option<&K>) -> Option<T>,
    ) -> Result<T, WaitEnded> {
        // Registered before the first look: no change is missed in between.
        let mut waiter = Waiter::new(&self.shared, name);
        loop {
            if let Some(answer) = judge(self.get(name).as_deref()) {
                return Ok(answer);
            }
            tokio::select! {
                changed = timeout_at(deadline, waiter.changed()) => changed.map_err(|_| WaitEnded::Deadline)?,
                () = closing.cancelled() => return Err(WaitEnded::Closing),
            }
        }
    }
}

impl Watched<RdsAttachment> {
    /// The attachments of a volume as last seen.
    #[must_use]
    pub fn of_volume(&self, volume: &str) -> Vec<Arc<RdsAttachment>> {
        self.found_by(&of_volume(volume))
    }

    /// The attachment with this UID as last seen.
    #[must_use]
    pub fn of_uid(&self, uid: &str) -> Option<Arc<RdsAttachment>> {
        self.found_by(&by_uid(uid)).pop()
    }
}

impl Watched<RdsVolume> {
    /// How many volumes name this server, as last seen.
    #[must_use]
    pub fn count_on(&self, server: &str) -> usize {
        lock(&self.shared.objects).index.count(&on_server(server))
    }

    /// Names of the volumes that name this server, as last seen.
    #[must_use]
    pub fn names_on(&self, server: &str) -> Vec<Arc<str>> {
        lock(&self.shared.objects).index.names(&on_server(server))
    }

    /// Names of the volumes that the node holds or was cut off from, as last seen.
    #[must_use]
    pub fn names_of(&self, node: &str) -> Vec<Arc<str>> {
        lock(&self.shared.objects).index.names(&of_node(node))
    }

    /// Names of the volumes that somebody holds, may hold, or was cut off from, as last seen.
    #[must_use]
    pub fn names_in_use(&self) -> Vec<Arc<str>> {
        lock(&self.shared.objects).index.names(IN_USE)
    }

    /// The volumes from which a node was cut off or is being, as last seen.
    #[must_use]
    pub fn cut(&self) -> Vec<Arc<RdsVolume>> {
        self.found_by(CUT)
    }
}

/// A place in the list of waiters, given back on drop.
struct Waiter {
    shared: Arc<Shared>,
    name: String,
    changes: Option<watch::Receiver<()>>,
}

impl Waiter {
    fn new(shared: &Arc<Shared>, name: &str) -> Self {
        let changes = lock(&shared.waiters)
            .entry(name.to_owned())
            .or_insert_with(|| watch::channel(()).0)
            .subscribe();
        Self {
            shared: shared.clone(),
            name: name.to_owned(),
            changes: Some(changes),
        }
    }

    async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes
            && changes.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.changes = None;
        let mut waiters = lock(&self.shared.waiters);
        if waiters
            .get(&self.name)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            waiters.remove(&self.name);
        }
    }
}

impl Objects {
    fn put<K: Kept>(&mut self, object: &K, packed: Arc<Packed>) {
        let name = Arc::from(object.name_any());
        self.index.put(&name, object.words());
        self.all.insert(name, packed);
    }

    fn remove(&mut self, name: &str) {
        self.all.remove(name);
        self.index.remove(name);
    }
}

impl<K: Kept> Feed<K> {
    /// The cache that this feeds.
    #[must_use]
    pub fn cache(&self) -> &Watched<K> {
        &self.watched
    }

    /// Takes one event of the watch into the cache, then wakes who waits for it.
    pub fn take(&mut self, event: Event<DeserializeGuard<K>>) {
        let Some(event) = self.readable(event) else { return };
        let (change, name) = match event {
            Event::Init => {
                self.coming = Objects::default();
                return;
            }
            Event::InitApply(object) => {
                if let Some(packed) = self.pack(&object) {
                    self.coming.put(&object, packed);
                }
                return;
            }
            Event::InitDone => {
                *lock(&self.watched.shared.objects) = std::mem::take(&mut self.coming);
                self.watched.shared.synced.send_replace(true);
                (Change::All, None)
            }
            Event::Apply(object) => {
                let Some(packed) = self.pack(&object) else { return };
                let name = object.name_any();
                lock(&self.watched.shared.objects).put(&object, packed.clone());
                (Change::One(packed), Some(name))
            }
            Event::Delete(object) => {
                let name = object.name_any();
                lock(&self.watched.shared.objects).remove(&name);
                let Some(packed) = self.pack(&object) else { return };
                (Change::One(packed), Some(name))
            }
        };
        let shared = &self.watched.shared;
        // No reader at all is no error.
        let _ = shared.changes.send(change);
        let waiters = lock(&shared.waiters);
        match name {
            Some(name) => waiters
                .get(&name)
                .into_iter()
                .for_each(|sender| sender.send_replace(())),
            None => waiters.values().for_each(|sender| sender.send_replace(())),
        }
    }

    fn pack(&mut self, object: &K) -> Option<Arc<Packed>> {
        let kind = self.watched.shared.kind;
        let packed = self.packer.pack(object);
        packed
            .inspect_err(|error| {
                error!(
                    kind,
                    name = object.name_any(),
                    error,
                    "cannot pack an object for the cache"
                )
            })
            .ok()
            .map(Arc::new)
    }

    /// Keeps the last readable version of an object that has become malformed: it exists.
    fn readable(&self, event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
        let shared = &self.watched.shared;
        let good = |guard: DeserializeGuard<K>| match guard.0 {
            Ok(object) => {
                lock(&shared.malformed).remove(&object.name_any());
                Some(object)
            }
            Err(invalid) => {
                let name = invalid.metadata.name.clone().unwrap_or_default();
                warn!(
                    kind = shared.kind,
                    name,
                    error = invalid.error,
                    "cannot read a stored object, it is left alone"
                );
                lock(&shared.malformed).insert(name.clone(), invalid.error);
                self.watched.get(&name).and_then(Arc::into_inner)
            }
        };
        match event {
            Event::Apply(guard) => good(guard).map(Event::Apply),
            Event::InitApply(guard) => good(guard).map(Event::InitApply),
            Event::Delete(guard) => {
                let name = guard.name_any();
                lock(&shared.malformed).remove(&name);
                let object = guard
                    .0
                    .ok()
                    .or_else(|| self.watched.get(&name).and_then(Arc::into_inner));
                object.map(Event::Delete)
            }
            Event::Init => {
                lock(&shared.malformed).clear();
                Some(Event::Init)
            }
            Event::InitDone => Some(Event::InitDone),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use std::time::Duration;

    use super::*;
    use futures::StreamExt;
    use k8s_openapi::api::coordination::v1::Lease;

    fn guard(name: &str, uid: &str, capacity: Value) -> DeserializeGuard<RdsVolume> {
        serde_json::from_value(json!({
            "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume",
            "metadata": {"name": name, "uid": uid},
            "spec": {"server": "default", "capacity": capacity, "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap()
    }

    fn filled(objects: &[(&str, &str)]) -> (Watched<RdsVolume>, Feed<RdsVolume>) {
        let (watched, mut feed) = Watched::new("RdsVolume");
        feed.take(Event::Init);
        for (name, uid) in objects {
            feed.take(Event::InitApply(guard(name, uid, json!("1Gi"))));
        }
        feed.take(Event::InitDone);
        (watched, feed)
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_its_object_and_leaves_nothing_behind() {
        let (volumes, mut feed) = filled(&[("a", "1")]);
        assert!(volumes.is_synced());
        let deadline = Instant::now() + Duration::from_secs(10);
        let closing = CancellationToken::new();
        let mut looks = 0;
        let wait = volumes.wait("a", deadline, &closing, |seen| {
            looks += 1;
            seen.filter(|v| v.uid().as_deref() == Some("2"))
                .map(ResourceExt::name_any)
        });
        let act = async {
            tokio::task::yield_now().await;
            feed.take(Event::Apply(guard("b", "9", json!("1Gi"))));
            tokio::task::yield_now().await;
            feed.take(Event::Apply(guard("a", "2", json!("1Gi"))));
        };
        let (answer, ()) = tokio::join!(wait, act);
        assert_eq!(answer, Ok("a".to_owned()));
        assert_eq!(looks, 2, "the other object did not wake it");
        assert!(lock(&volumes.shared.waiters).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_deadline_or_when_the_process_does() {
        let (volumes, _feed) = filled(&[]);
        let closing = CancellationToken::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(
            volumes.wait("a", deadline, &closing, |_| None::<()>).await,
            Err(WaitEnded::Deadline)
        );
        closing.cancel();
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(
            volumes.wait("a", deadline, &closing, |_| None::<()>).await,
            Err(WaitEnded::Closing)
        );
        assert!(lock(&volumes.shared.waiters).is_empty());
    }

    #[test]
    fn a_malformed_object_neither_blocks_the_kind_nor_counts_as_gone() {
        let (volumes, mut feed) = filled(&[("a", "1"), ("b", "1")]);
        feed.take(Event::Apply(guard("a", "1", json!({"no": "size"}))));
        feed.take(Event::Apply(guard("c", "1", json!("2Gi"))));
        assert_eq!(volumes.malformed().keys().collect::<Vec<_>>(), ["a"]);
        assert!(volumes.get("a").is_some() && volumes.get("c").is_some());
        feed.take(Event::Delete(guard("a", "1", json!({"no": "size"}))));
        assert!(volumes.get("a").is_none() && volumes.malformed().is_empty());
    }

    #[test]
    fn attachments_are_found_by_volume_and_by_uid() {
        let attachment = |name: &str, uid: &str, volume: &str| -> DeserializeGuard<RdsAttachment> {
            serde_json::from_value(json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsAttachment",
                "metadata": {"name": name, "uid": uid},
                "spec": {"volume": volume, "node": "n", "accessMode": "ReadWriteOnce"},
            }))
            .unwrap()
        };
        let (attachments, mut feed) = Watched::new("RdsAttachment");
        let of = |volume: &str| -> Vec<String> {
            let found = attachments.of_volume(volume).into_iter();
            found.map(|a| a.name_any()).collect()
        };
        feed.take(Event::Init);
        feed.take(Event::InitApply(attachment("a", "1", "v")));
        feed.take(Event::InitApply(attachment("b", "2", "v")));
        feed.take(Event::InitDone);
        feed.take(Event::Apply(attachment("c", "3", "w")));
        assert_eq!((of("v"), of("w")), (vec!["a".into(), "b".into()], vec!["c".to_owned()]));
        assert_eq!(attachments.of_uid("2").unwrap().name_any(), "b");
        assert!(
            attachments.of_uid("v").is_none() && of("1").is_empty(),
            "the words do not mix"
        );
        feed.take(Event::Apply(attachment("a", "9", "v")));
        assert!(attachments.of_uid("1").is_none() && attachments.of_uid("9").is_some());
        feed.take(Event::Delete(attachment("b", "2", "v")));
        assert_eq!(of("v"), ["a"]);
        // A new list without `c`: it went while the watch was broken.
        feed.take(Event::Init);
        feed.take(Event::InitApply(attachment("a", "9", "v")));
        assert_eq!(of("w"), ["c"], "until the new list is complete, the old one holds");
        feed.take(Event::InitDone);
        assert!(of("w").is_empty() && attachments.of_uid("3").is_none());
        assert_eq!(lock(&attachments.shared.objects).index.count("volume/w"), 0);
    }

    #[test]
    fn volumes_are_found_by_server_by_node_and_by_cut() {
        let volume = |name: &str, server: &str, holders: &[&str]| -> DeserializeGuard<RdsVolume> {
            let holders: Vec<_> = holders
                .iter()
                .map(|node| json!({"node": node, "attachmentUID": "u", "role": "Primary", "since": "2026-11-21T11:51:55Z"}))
                .collect();
            let fenced = json!([{"node": "lost", "at": "2026-11-21T11:51:55Z", "generation": 2}]);
            let fenced = if name == "cut" { fenced } else { json!([]) };
            serde_json::from_value(json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": name, "uid": name},
                "spec": {"server": server, "capacity": "1Gi", "accessModes": ["ReadWriteOnce"]},
                "status": {"holders": holders, "fenced": fenced},
            }))
            .unwrap()
        };
        let (volumes, mut feed) = Watched::<RdsVolume>::new("RdsVolume");
        feed.take(Event::Init);
        feed.take(Event::InitApply(volume("a", "s", &["n"])));
        feed.take(Event::InitApply(volume("b", "u", &[])));
        feed.take(Event::InitApply(volume("cut", "s", &[])));
        feed.take(Event::InitDone);
        let names = |found: Vec<Arc<str>>| found.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!((volumes.count_on("s"), volumes.count_on("t")), (2, 0));
        assert_eq!(names(volumes.names_on("s")), ["a", "cut"]);
        assert_eq!(
            (names(volumes.names_of("n")), names(volumes.names_of("lost"))),
            (vec!["a".into()], vec!["cut".into()])
        );
        assert_eq!(volumes.cut().len(), 1);
        assert_eq!(names(volumes.names_in_use()), ["a", "cut"]);
        feed.take(Event::Apply(volume("a", "s", &["m"])));
        assert!(volumes.names_of("n").is_empty(), "it moved to another node");
        assert_eq!(names(volumes.names_of("m")), ["a"]);
        feed.take(Event::Delete(volume("cut", "s", &[])));
        assert!(
            volumes.cut().is_empty(),
            "by what was known of it, not by how it was last seen"
        );
        assert_eq!(volumes.count_on("s"), 1);
    }

    #[test]
    fn i8_a_lease_in_its_namespace_is_found_by_name() {
        let (leases, mut feed) = Watched::<Lease>::new("Lease");
        let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                            "metadata": {"name": "rds-node-n1", "namespace": "rds-csi"}});
        feed.take(Event::Init);
        feed.take(Event::InitApply(serde_json::from_value(object).unwrap()));
        feed.take(Event::InitDone);
        assert!(leases.get("rds-node-n1").is_some());
        assert!(leases.get("rds-node-n2").is_none());
    }

    #[tokio::test]
    async fn changes_begin_with_what_is_there_and_go_on() {
        let (volumes, mut feed) = filled(&[("a", "1")]);
        let mut changes = Box::pin(volumes.changes());
        assert_eq!(changes.next().await.unwrap().name_any(), "a");
        feed.take(Event::Delete(guard("a", "1", json!("1Gi"))));
        assert_eq!(
            changes.next().await.unwrap().name_any(),
            "a",
            "a deletion is a change too"
        );
        for n in 0..3 * CHANGES {
            feed.take(Event::Apply(guard(&format!("v{n}"), "1", json!("1Gi"))));
        }
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 3 * CHANGES {
            seen.insert(changes.next().await.unwrap().name_any());
        }
    }
}
