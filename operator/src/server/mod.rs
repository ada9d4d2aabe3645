//! The controller of RdsServer: connection, compatibility, pool, orphans; and the drift scan that wakes volumes.

pub(crate) mod credentials;
pub(crate) mod decide;
mod drift;
pub mod facts;
pub(crate) mod fleet;
pub(crate) mod reconcile;
pub(crate) mod room;
pub(crate) mod selftest;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use rds_crds::RdsServer;

use crate::queue::Name;
use crate::world::World;

pub(crate) use reconcile::{Context, run};

/// Only what a person or the API server changes: our own status writes wake nobody.
fn changes(all: impl Stream<Item = Arc<RdsServer>>) -> impl Stream<Item = Name> {
    all.scan(HashMap::new(), |known, server| {
        let meta = &server.metadata;
        let print = (
            meta.uid.clone(),
            meta.generation,
            meta.finalizers.clone(),
            meta.deletion_timestamp.is_some(),
        );
        let name = server.name_any();
        let changed = known.insert(name.clone(), print.clone()) != Some(print);
        std::future::ready(Some(changed.then(|| Name::from(name))))
    })
    .filter_map(std::future::ready)
}

/// A server whose number of volumes changed; within a moment, as they come and go in bursts.
fn counts(world: &World) -> impl Stream<Item = Name> + use<> {
    let volumes = world.volumes.clone();
    let changes = volumes.changes();
    changes
        .scan(HashMap::<String, usize>::new(), move |known, volume| {
            let server = volume.spec.server.clone();
            let count = volumes.count_on(&server);
            let changed = known.insert(server.clone(), count) != Some(count);
            std::future::ready(Some(changed.then(|| Name::from(server))))
        })
        .filter_map(std::future::ready)
}
