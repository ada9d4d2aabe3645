//! The controller of RdsServer: connection, compatibility, pool, orphans; and the drift scan that wakes volumes.

pub(crate) mod credentials;
pub(crate) mod decide;
pub mod facts;
pub(crate) mod fleet;
pub(crate) mod reconcile;
pub(crate) mod room;
pub(crate) mod selftest;

use std::collections::HashMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use rds_crds::RdsServer;

pub(crate) use reconcile::{Context, run};

/// Only what a person or the API server changes: our own status writes wake nobody.
fn changes(all: impl Stream<Item = Arc<RdsServer>>) -> impl Stream<Item = reconcile::Request> {
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
        std::future::ready(Some(changed.then(|| reconcile::Request::new(&name))))
    })
    .filter_map(std::future::ready)
}
