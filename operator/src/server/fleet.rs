//! The appliances that this process talks to: one [`Handle`] each, made by the server controller.
//!
//! Only the lease holder has any. A handle is a cache: what destroys something reads fresh first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rds_crds::{RdsServer, Reason};
use tokio::time::Instant;

use crate::attachment::AdmissionGate;
use crate::routeros::{Bytes, Client, Inventory, RdsError, Slot};

use super::room::{Limits, Promises, available};

/// What a server controller last concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// Not looked at yet, or not usable: why and what to do.
    Unusable(Reason, String),
    /// Compatible, with a pool.
    Usable,
}

/// One appliance.
pub(crate) struct Handle {
    /// The connection.
    pub client: Client,
    /// What the connection was made from; another value means another connection.
    pub fingerprint: [u8; 32],
    state: Mutex<State>,
}

struct State {
    fitness: Fitness,
    listing: Option<Arc<Inventory>>,
    promises: Promises,
    touched: HashMap<Slot, Instant>,
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was last concluded.
    pub(crate) fn fitness(&self) -> Fitness {
        self.lock().fitness.clone()
    }

    /// Records a conclusion.
    pub(crate) fn conclude(&self, fitness: Fitness) {
        self.lock().fitness = fitness;
    }

    /// The shared listing, at most `max_age` old.
    pub(crate) async fn listing(&self, max_age: Duration) -> Result<Arc<Inventory>, RdsError> {
        let listing = self.client.inventory(max_age).await?;
        let mut state = self.lock();
        state.touched.retain(|_, at| *at >= listing.taken_at);
        state.listing = Some(listing.clone());
        Ok(listing)
    }

    /// A listing that was asked for after everything that this process did to the disk.
    pub(crate) async fn listing_of(&self, slot: &Slot, max_age: Duration) -> Result<Arc<Inventory>, RdsError> {
        let since = self.lock().touched.get(slot).map(Instant::elapsed);
        self.listing(since.map_or(max_age, |age| age.min(max_age))).await
    }

    /// Bytes that the disk may take more; promises them to it if that is enough. Reads the appliance only when the last
    /// listing does not say that it is. `None`: the pool does not show, so that nothing is known of its room.
    pub(crate) async fn promise(&self, slot: &Slot, need: Bytes, limits: Limits) -> Result<Option<Bytes>, RdsError> {
        if let Some(room) = self.room(slot, need, limits).filter(|room| *room >= need) {
            return Ok(Some(room));
        }
        self.listing(Duration::from_millis(500)).await?;
        Ok(self.room(slot, need, limits))
    }

    /// The same by the last listing alone.
    fn room(&self, slot: &Slot, need: Bytes, limits: Limits) -> Option<Bytes> {
        let mut state = self.lock();
        let listing = state.listing.clone()?;
        let promised = state.promises.since(listing.taken_at, slot);
        let room = Bytes(available(&listing, limits)?.0.saturating_sub(promised.0));
        if room >= need {
            state.promises.promise(slot, need);
        }
        Some(room)
    }

    /// A command that changes the disk is about to be sent, or has ended: older listings do not count for it.
    pub(crate) fn touch(&self, slot: &Slot) {
        self.lock().touched.insert(slot.clone(), Instant::now());
    }

    /// The disk was made or enlarged, or refused.
    pub(crate) fn settle(&self, slot: &Slot, made: bool) {
        self.lock().promises.settle(slot, made);
    }
}

/// All appliances.
#[derive(Default)]
pub(crate) struct Fleet {
    handles: Mutex<HashMap<String, Arc<Handle>>>,
    attachments_complete: Mutex<Option<Timestamp>>,
    /// Who may be admitted so far.
    pub(crate) gate: AdmissionGate,
    /// The last conclusion about each server that was looked at; nothing of one that cannot even be connected to.
    concluded: Mutex<HashMap<String, Option<Fitness>>>,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Handle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At that moment no VolumeAttachment was without its RdsAttachment.
    pub(crate) fn attachments_were_complete(&self, at: Timestamp) {
        *self.attachments_complete.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// The last such moment.
    pub(crate) fn attachments_complete_at(&self) -> Option<Timestamp> {
        *self.attachments_complete.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what a pass over a server concluded; true if that is new.
    pub(crate) fn conclude(&self, server: &str, fitness: Option<Fitness>) -> bool {
        let mut all = self.concluded.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(server.to_owned(), fitness.clone()) != Some(fitness)
    }

    /// Whether anything was concluded about a server yet. What has to be said of its volumes is not known before.
    pub(crate) fn has_looked(&self, server: &str) -> bool {
        let all = self.concluded.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(server)
    }

    /// The handle of a server, if its controller has made one.
    pub(crate) fn get(&self, server: &str) -> Option<Arc<Handle>> {
        self.lock().get(server).cloned()
    }

    /// The handle made from this fingerprint, or a new one.
    pub(crate) fn ensure(&self, server: &str, fingerprint: [u8; 32], connect: impl FnOnce() -> Client) -> Arc<Handle> {
        let mut all = self.lock();
        if let Some(handle) = all.get(server).filter(|h| h.fingerprint == fingerprint) {
            return handle.clone();
        }
        let state = State {
            fitness: Fitness::Unusable(Reason::Unreachable, format!("server {server} was not reached yet")),
            listing: None,
            promises: Promises::default(),
            touched: HashMap::new(),
        };
        let handle = Arc::new(Handle {
            client: connect(),
            fingerprint,
            state: Mutex::new(state),
        });
        all.insert(server.to_owned(), handle.clone());
        handle
    }

    /// Forgets a server.
    pub(crate) fn remove(&self, server: &str) {
        self.lock().remove(server);
        self.concluded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(server);
    }
}

/// The limits of a server.
pub(crate) fn limits(server: &RdsServer) -> Limits {
    Limits {
        reserved: super::facts::reserved(server),
        overcommit_percent: super::facts::overcommit_percent(server),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::routeros::{DiskPath, Target};

    use super::*;

    #[tokio::test]
    async fn a_pool_that_does_not_show_has_no_known_room() {
        let target = Target {
            name: "default".to_owned(),
            address: "192.0.2.1".to_owned(),
            port: 22,
            user: "csi".to_owned(),
            private_key: String::new().into(),
            host_keys: Vec::new(),
            base_path: "/pool/csi".parse::<DiskPath>().unwrap(),
            limits: crate::routeros::Limits::default(),
        };
        let handle = Fleet::default().ensure("default", [0; 32], || Client::connect(&target, None));
        let limits = Limits {
            reserved: 0,
            overcommit_percent: 100,
        };
        let slot: Slot = "a".parse().unwrap();
        let room_with = |pool: serde_json::Value| {
            handle.lock().listing = Some(Arc::new(Inventory {
                taken_at: Instant::now(),
                version: "7.24".parse().unwrap(),
                board: String::new(),
                packages: Vec::new(),
                pool: serde_json::from_value(pool).unwrap(),
                disks: Vec::new(),
                files: Vec::new(),
            }));
            handle.room(&slot, Bytes(1), limits)
        };
        let (size, free) = (100, 60);
        assert_eq!(room_with(json!(null)), None);
        assert_eq!(
            room_with(json!({"slot": "pool", "type": "raid", "size": size, "free": free})),
            None,
            "not mounted yet"
        );
        let mounted =
            json!({"slot": "pool", "type": "raid", "mounted": true, "mount-point": "pool", "size": size, "free": free});
        assert_eq!(room_with(mounted), Some(Bytes(60)));
    }
}
