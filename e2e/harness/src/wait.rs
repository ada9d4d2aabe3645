//! Waiting for conditions, never for time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

const POLL: Duration = Duration::from_millis(50);

/// Asks `probe` every 50 ms until it says `Ok`. Past the deadline the error says what was waited for and what was seen last.
///
/// `probe` answers with an error that says what it sees instead, so `?` and `ensure!` are all that a probe needs.
pub async fn wait_until<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut last = anyhow!("nothing: the first look did not come back");
    loop {
        match timeout_at(start + deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => return Err(anyhow!("waited {deadline:?} for {what}; seen last: {last:#}")),
        }
        if start.elapsed() >= deadline {
            return Err(anyhow!("waited {deadline:?} for {what}; seen last: {last:#}"));
        }
        sleep(POLL).await;
    }
}
