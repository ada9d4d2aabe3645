//! What this leader has seen by its own clock, and whom it has begun to cut. Empty after it gained the Lease: everything counts anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fence_quota::FenceQuota;

/// Of one leader.
#[derive(Default)]
pub(crate) struct Observations {
    seen: Mutex<HashMap<String, Watched>>,
    /// Whom it has begun to cut.
    pub(super) fence_quota: FenceQuota,
}

struct Watched {
    value: String,
    since: Instant,
    /// It had another value before.
    changed: bool,
}

fn live(key: &str) -> String {
    format!("{key}/live")
}

impl Observations {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long `key` has shown `value` in the cache, since this leader first saw that.
    pub(super) fn unchanged(&self, key: String, value: &str) -> Duration {
        let mut all = self.seen();
        match all.get(&key) {
            Some(known) if known.value == value => known.since.elapsed(),
            other => {
                let watched = Watched {
                    value: value.to_owned(),
                    since: Instant::now(),
                    changed: other.is_some(),
                };
                all.insert(key, watched);
                Duration::ZERO
            }
        }
    }

    /// For how long `key` has had `value`, which was just read live. A watch that stands still shows an old value for minutes: the
    /// cache's time counts only where it shows this one, and has come to show it after a live read that showed another.
    pub(super) fn unchanged_live(&self, key: &str, value: &str) -> Duration {
        let mut all = self.seen();
        let cached = all.get(key).filter(|c| c.value == value).map(|c| c.since);
        let known = all.get(&live(key));
        let since = match known {
            Some(known) if known.value == value => Some(cached.map_or(known.since, |c| c.max(known.since))),
            Some(known) => cached.filter(|since| *since > known.since),
            None => cached,
        };
        let changed =
            known.is_some_and(|k| k.changed || k.value != value) || (cached.is_none() && all.contains_key(key));
        let since = since.unwrap_or_else(Instant::now);
        let watched = Watched {
            value: value.to_owned(),
            since,
            changed,
        };
        all.insert(live(key), watched);
        since.elapsed()
    }

    /// Whether `key` has changed under the eyes of this leader.
    pub(super) fn has_changed(&self, key: &str) -> bool {
        let all = self.seen();
        [key, &live(key)]
            .iter()
            .any(|key| all.get(*key).is_some_and(|known| known.changed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn i4_what_a_new_leader_finds_is_no_renewal_that_it_saw() {
        let observations = Observations::default();
        observations.unchanged("lease/a".to_owned(), "10:00");
        assert!(!observations.has_changed("lease/a") && !observations.has_changed("lease/b"));
        observations.unchanged("lease/a".to_owned(), "10:00");
        observations.unchanged_live("lease/a", "10:00");
        assert!(!observations.has_changed("lease/a"));
        observations.unchanged("lease/a".to_owned(), "10:05");
        observations.unchanged("lease/a".to_owned(), "10:05");
        assert!(observations.has_changed("lease/a"));
        observations.unchanged("lease/b".to_owned(), "10:00");
        observations.unchanged_live("lease/b", "10:05");
        assert!(observations.has_changed("lease/b"), "a live read is seen too");
    }

    #[tokio::test(start_paused = true)]
    async fn i8_what_is_read_live_counts_from_when_it_was_seen_first() {
        let (observations, second) = (Observations::default(), Duration::from_secs(1));
        let cached = |value: &str| observations.unchanged("k".to_owned(), value).as_secs();
        let live = |value: &str| observations.unchanged_live("k", value).as_secs();
        cached("1");
        advance(60 * second).await;
        assert_eq!((cached("1"), live("1")), (60, 60), "both say the same");
        assert_eq!(live("2"), 0, "the watch stands still");
        advance(5 * second).await;
        assert_eq!(
            (cached("1"), live("2")),
            (65, 5),
            "and who renewed last has fallen silent"
        );
        assert_eq!(live("3"), 0);
        advance(5 * second).await;
        assert_eq!(live("1"), 0, "what comes back is no old value");
        advance(second).await;
        cached("3");
        advance(10 * second).await;
        assert_eq!(live("3"), 10, "the cache has seen it since");
        advance(10 * second).await;
        assert_eq!(live(""), 0, "gone is a value too");
    }
}
