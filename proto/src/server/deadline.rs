//! The time that a caller leaves for an answer.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// We answer this long before the caller's deadline, with the reason, rather than let the caller's clock cut the call.
const MARGIN: Duration = Duration::from_secs(1);

/// When the answer is due: the caller's `grpc-timeout` less a margin, or `otherwise` from now when it has set none.
#[must_use]
pub fn deadline(metadata: &MetadataMap, otherwise: Duration) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|v| v.to_str().ok())
        .and_then(timeout);
    Instant::now() + asked.map_or(otherwise, |asked| asked - MARGIN.min(asked / 10))
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

#[cfg(test)]
mod tests {
    use super::*;

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
