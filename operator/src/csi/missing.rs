//! RdsServers that were asked for and do not exist: said once when that begins and once when it ends. The provisioner asks for
//! the capacity of every StorageClass each minute, and a StorageClass may come long before its server.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

/// Clones share what was said.
#[derive(Clone, Default)]
pub(super) struct Missing(Arc<Mutex<BTreeSet<String>>>);

impl Missing {
    /// Notes whether the server exists; true if that is news.
    pub(super) fn note(&self, server: &str, exists: bool) -> bool {
        let mut missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if exists {
            let news = missing.remove(server);
            if news {
                info!(server, "the RdsServer whose capacity was asked for exists now");
            }
            return news;
        }
        let news = missing.insert(server.to_owned());
        if news {
            warn!(
                server,
                "capacity of an RdsServer that does not exist was asked for: create it, or correct the StorageClass"
            );
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_is_news_once_until_it_comes_and_goes_again() {
        let missing = Missing::default();
        assert!(!missing.note("a", true), "nothing was said of it");
        assert!(missing.note("a", false));
        assert!(!missing.note("a", false) && !missing.clone().note("a", false));
        assert!(missing.note("b", false), "another one");
        assert!(missing.note("a", true));
        assert!(!missing.note("a", true));
        assert!(missing.note("a", false));
    }
}
