//! One call in flight: its deadline, and the guard that lets only one call a volume through.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::failure::{Failure, shown};

/// We answer this long before the caller's deadline, with the reason, rather than let the caller's clock cut the call.
const MARGIN: Duration = Duration::from_secs(1);

/// When the answer is due: the caller's `grpc-timeout` less a margin, or `otherwise` when it has set none.
#[must_use]
pub fn deadline(metadata: &MetadataMap, otherwise: Duration) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|v| v.to_str().ok())
        .and_then(timeout);
    let left = asked.map_or(otherwise, |asked| asked - MARGIN.min(asked / 10));
    Instant::now() + left
}

/// The value of `grpc-timeout`: at most 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// The volumes with a call under way in this process. Only an optimisation: safety comes from names and compare-and-swap.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<String>>>);

/// A place taken; given back on drop.
pub struct Guard {
    all: InFlight,
    name: String,
}

impl InFlight {
    /// Takes the place of that volume, or says that somebody has it.
    pub fn enter(&self, name: &str) -> Result<Guard, Failure> {
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned())
        {
            return Ok(Guard {
                all: self.clone(),
                name: name.to_owned(),
            });
        }
        Err(Failure::Busy(format!(
            "another call for volume {} is under way: wait for it, then call again",
            shown(name)
        )))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_a_volume() {
        let all = InFlight::default();
        let first = all.enter("a").unwrap();
        assert!(matches!(all.enter("a"), Err(Failure::Busy(_))));
        assert!(all.enter("b").is_ok());
        drop(first);
        assert!(all.enter("a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_before_the_callers_deadline() {
        let mut metadata = MetadataMap::new();
        let left = |m: &MetadataMap| deadline(m, Duration::from_secs(60)) - Instant::now();
        assert_eq!(left(&metadata), Duration::from_secs(60));
        for (header, seconds) in [
            ("60S", 59.0),
            ("5000m", 4.5),
            ("1M", 59.0),
            ("x", 60.0),
            ("999999999S", 60.0),
        ] {
            metadata.insert("grpc-timeout", header.parse().unwrap());
            assert!(
                (left(&metadata).as_secs_f64() - seconds).abs() < 1e-6,
                "{header}: {:?}",
                left(&metadata)
            );
        }
    }
}
