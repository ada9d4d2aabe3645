//! The cache of one kind: its objects, who waits for one of them, and the stream of changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::{Stream, stream};
use kube::core::DeserializeGuard;
use kube::runtime::reflector;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use rds_crds::RdsAttachment;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::index::{Index, Words};

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

/// The cache of one kind; clones share it.
pub struct Watched<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    shared: Arc<Shared<K>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            shared: self.shared.clone(),
        }
    }
}

struct Shared<K> {
    kind: &'static str,
    synced: AtomicBool,
    changes: broadcast::Sender<Change<K>>,
    waiters: Mutex<HashMap<String, watch::Sender<()>>>,
    malformed: Mutex<BTreeMap<String, String>>,
    index: Mutex<Index>,
    /// Of a namespaced kind, of which one namespace is watched: that one, once an object was seen.
    namespace: OnceLock<String>,
}

enum Change<K> {
    One(Arc<K>),
    All,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::One(object) => Self::One(object.clone()),
            Self::All => Self::All,
        }
    }
}

/// The writing end of a [`Watched`].
pub struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    watched: Watched<K>,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    /// An empty cache and its writing end.
    #[must_use]
    pub fn new(kind: &'static str) -> (Self, Feed<K>) {
        let (store, writer) = reflector::store();
        let shared = Arc::new(Shared {
            kind,
            synced: AtomicBool::new(false),
            changes: broadcast::channel(CHANGES).0,
            waiters: Mutex::default(),
            malformed: Mutex::default(),
            index: Mutex::default(),
            namespace: OnceLock::new(),
        });
        let watched = Self { store, shared };
        (watched.clone(), Feed { writer, watched })
    }

    /// The kind, for logs and labels.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.shared.kind
    }

    /// The store itself, for a Controller.
    #[must_use]
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// The object as last seen. `None` proves nothing: the cache lags.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        let mut key = ObjectRef::new(name);
        if let Some(namespace) = self.shared.namespace.get() {
            key = key.within(namespace);
        }
        self.store.get(&key)
    }

    /// All objects as last seen, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Stored objects that cannot be read, with the reason. They exist: nothing of theirs is an orphan.
    #[must_use]
    pub fn malformed(&self) -> BTreeMap<String, String> {
        lock(&self.shared.malformed).clone()
    }

    /// Whether the cache has been filled once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared.synced.load(Ordering::Acquire)
    }

    /// Waits until the cache has been filled once; for ever if its loop has died.
    pub async fn synced(&self) {
        if self.store.wait_until_ready().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Every object now in the cache, then each one that changes or is deleted. A reader that falls far behind gets
    /// everything again. Never ends; meant for `Controller::for_shared_stream`.
    pub fn changes(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let state = (
            self.shared.changes.subscribe(),
            VecDeque::from(self.all()),
            self.store.clone(),
        );
        stream::unfold(state, |(mut changes, mut pending, store)| async move {
            loop {
                if let Some(object) = pending.pop_front() {
                    return Some((object, (changes, pending, store)));
                }
                match changes.recv().await {
                    Ok(Change::One(object)) => pending.push_back(object),
                    Ok(Change::All) | Err(broadcast::error::RecvError::Lagged(_)) => pending.extend(store.state()),
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        })
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
    /// The attachments of a volume as last seen, without a walk over all others.
    #[must_use]
    pub fn of_volume(&self, volume: &str) -> Vec<Arc<RdsAttachment>> {
        let mut found = self.found_by(volume);
        found.retain(|a| a.spec.volume == volume);
        found
    }

    /// The attachment with this UID as last seen.
    #[must_use]
    pub fn of_uid(&self, uid: &str) -> Option<Arc<RdsAttachment>> {
        let mut found = self.found_by(uid).into_iter();
        found.find(|a| a.metadata.uid.as_deref() == Some(uid))
    }

    fn found_by(&self, word: &str) -> Vec<Arc<RdsAttachment>> {
        let names = lock(&self.shared.index).names(word);
        names.iter().filter_map(|name| self.get(name)).collect()
    }
}

/// A place in the list of waiters, given back on drop.
struct Waiter<K> {
    shared: Arc<Shared<K>>,
    name: String,
    changes: Option<watch::Receiver<()>>,
}

impl<K> Waiter<K> {
    fn new(shared: &Arc<Shared<K>>, name: &str) -> Self {
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

impl<K> Drop for Waiter<K> {
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

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Words + Clone + Debug + Send + Sync + 'static,
{
    /// The cache that this feeds.
    #[must_use]
    pub fn cache(&self) -> &Watched<K> {
        &self.watched
    }

    /// Takes one event of the watch into the cache, then wakes who waits for it.
    pub fn take(&mut self, event: Event<DeserializeGuard<K>>) {
        let Some(event) = self.readable(event) else { return };
        let shared = &self.watched.shared;
        let old = match &event {
            Event::Apply(object) | Event::InitApply(object) => {
                lock(&shared.index).add(object);
                self.watched.get(&object.name_any())
            }
            Event::Delete(_) | Event::Init | Event::InitDone => None,
        };
        self.writer.apply_watcher_event(&event);
        match (&event, old) {
            (Event::Apply(object), Some(old)) => lock(&shared.index).remove(old.as_ref(), Some(object)),
            (Event::Delete(object), _) => lock(&shared.index).remove(object, None),
            // What went while nobody watched: everything anew.
            (Event::InitDone, _) => {
                let mut index = Index::default();
                self.watched.all().iter().for_each(|object| index.add(object.as_ref()));
                *lock(&shared.index) = index;
            }
            (Event::Apply(_) | Event::Init | Event::InitApply(_), _) => {}
        }
        let (change, name) = match event {
            Event::Apply(object) => {
                let name = object.name_any();
                let object = self.watched.get(&name).unwrap_or_else(|| Arc::new(object));
                (Change::One(object), Some(name))
            }
            Event::Delete(object) => {
                let name = object.name_any();
                (Change::One(Arc::new(object)), Some(name))
            }
            Event::Init | Event::InitApply(_) => return,
            Event::InitDone => {
                shared.synced.store(true, Ordering::Release);
                (Change::All, None)
            }
        };
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

    /// Keeps the last readable version of an object that has become malformed: it exists.
    fn readable(&self, event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
        let shared = &self.watched.shared;
        let read = |guard: DeserializeGuard<K>| match guard.0 {
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
                self.watched.get(&name).map(Arc::unwrap_or_clone)
            }
        };
        let good = |guard: DeserializeGuard<K>| {
            if let Some(namespace) = guard.namespace() {
                shared.namespace.get_or_init(|| namespace);
            }
            read(guard)
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
                    .or_else(|| self.watched.get(&name).map(Arc::unwrap_or_clone));
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

    use futures::StreamExt;
    use k8s_openapi::api::coordination::v1::Lease;
    use rds_crds::RdsVolume;

    use super::*;

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
        assert_eq!(lock(&attachments.shared.index).names("w"), Vec::<String>::new());
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
