//! The circuit breaker of a volume: agents count, this folds. Pure.
//!
//! Agents' counts only grow, and what was folded of each attachment is remembered, so that nothing counts twice after a repeated
//! status, a restart of anybody, or a cache that is behind. A success anywhere ends the row (R36).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rds_crds::condition::whole_seconds;
use rds_crds::volume::{BreakerState, CircuitBreaker, CircuitBreakerStatus, FoldedCounts, Trial};

/// Failures in a row that open it, unless the spec says otherwise.
const THRESHOLD: u32 = 3;
/// Seconds that it stays open, unless the spec says otherwise.
const OPEN_SECONDS: u32 = 300;
/// How long one trial may take: longer than kubelet waits between two tries.
const TRIAL_SECONDS: i64 = 180;

/// One attachment, as its agent reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// UID of the RdsAttachment.
    pub attachment: String,
    /// Failures since it was made.
    pub failures: u32,
    /// Of them, those since its last success.
    pub in_row: u32,
    /// Successes since it was made.
    pub successes: u32,
    /// Text of its last failure.
    pub last_error: Option<String>,
    /// Admitted, not going away, and not staged: it would try if it might.
    pub would_try: bool,
}

/// What happened, for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Too many failures in a row, or a failed trial.
    Opened,
    /// One trial may run.
    Trial,
    /// A success.
    Closed,
    /// A person's word.
    Reset,
}

/// The breaker as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folded {
    /// For `status.circuitBreaker`; its trial is told to the attachment as well.
    pub status: CircuitBreakerStatus,
    /// What happened.
    pub news: Option<News>,
}

/// Folds what the attachments report. `reset`: an annotation asks for it.
pub(crate) fn fold(
    spec: Option<&CircuitBreaker>,
    before: Option<&CircuitBreakerStatus>,
    all: &[Counts],
    reset: bool,
    now: Timestamp,
) -> Folded {
    let mut status = before.cloned().unwrap_or_default();
    let threshold = spec.and_then(|s| s.failure_threshold).unwrap_or(THRESHOLD).max(1);
    let open_for = i64::from(spec.and_then(|s| s.open_seconds).unwrap_or(OPEN_SECONDS));
    let after = |seconds: i64| {
        whole_seconds(
            now.checked_add(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MAX),
        )
    };
    let taken = take(&mut status, all);
    let token = spec.and_then(|s| s.reset_token.clone());
    let asked = reset || (token != status.observed_reset_token && token.is_some());
    status.observed_reset_token = token;
    if asked {
        // What was counted until now belongs to the time before.
        close(&mut status);
        return Folded {
            status,
            news: (before.is_some_and(|b| b.state != BreakerState::Closed) || reset).then_some(News::Reset),
        };
    }
    let mut news = None;
    if taken.succeeded && status.consecutive_failures < threshold {
        news = (status.state != BreakerState::Closed).then_some(News::Closed);
        let row = status.consecutive_failures;
        close(&mut status);
        status.consecutive_failures = row;
    }
    let open = |status: &mut CircuitBreakerStatus| {
        status.state = BreakerState::Open;
        status.opened_at = Some(Time(whole_seconds(now)));
        status.retry_at = Some(Time(after(open_for)));
        status.trial = None;
    };
    let mut unused = None;
    match status.state {
        BreakerState::Closed if status.consecutive_failures >= threshold => {
            open(&mut status);
            news = Some(News::Opened);
        }
        BreakerState::HalfOpen if taken.failed => {
            open(&mut status);
            news = Some(News::Opened);
        }
        BreakerState::HalfOpen => {
            let runs = |t: &Trial| t.until.0 > now && all.iter().any(|c| c.attachment == t.attachment_uid);
            if !status.trial.as_ref().is_some_and(runs) {
                // Nobody has used it: the next one who would try gets another.
                status.state = BreakerState::Open;
                status.retry_at = Some(Time(whole_seconds(now)));
                unused = status.trial.take();
            }
        }
        BreakerState::Closed | BreakerState::Open => {}
    }
    let ripe = status.state == BreakerState::Open && status.retry_at.as_ref().is_none_or(|at| at.0 <= now);
    if let Some(one) = next(all, unused.as_ref()).filter(|_| ripe) {
        status.state = BreakerState::HalfOpen;
        status.trial = Some(Trial {
            attachment_uid: one.attachment.clone(),
            until: Time(after(TRIAL_SECONDS)),
        });
        news = Some(News::Trial);
    }
    Folded { status, news }
}

/// Who gets the next trial: after one that was not used the next in order, around, so that nobody who does not try keeps it from others.
fn next<'a>(all: &'a [Counts], unused: Option<&Trial>) -> Option<&'a Counts> {
    let had = unused.and_then(|t| all.iter().position(|c| c.attachment == t.attachment_uid));
    let (before, after) = all.split_at(had.map_or(0, |at| at + 1));
    after.iter().chain(before).find(|c| c.would_try)
}

struct Taken {
    failed: bool,
    succeeded: bool,
}

/// Takes in what is new; forgets attachments that are gone.
fn take(status: &mut CircuitBreakerStatus, all: &[Counts]) -> Taken {
    let mut taken = Taken {
        failed: false,
        succeeded: false,
    };
    for counts in all {
        let known = status.folded.iter().find(|f| f.attachment_uid == counts.attachment);
        let (failures, successes) = known.map_or((0, 0), |f| (f.failures, f.successes));
        let new = counts.failures.saturating_sub(failures);
        if counts.successes > successes {
            taken.succeeded = true;
            status.consecutive_failures = counts.in_row.min(new);
        } else {
            status.consecutive_failures = status.consecutive_failures.saturating_add(new);
        }
        if new > 0 {
            taken.failed = true;
            status.last_failure.clone_from(&counts.last_error);
        }
    }
    let old = std::mem::take(&mut status.folded);
    status.folded = all
        .iter()
        .map(|c| {
            let known = old.iter().find(|f| f.attachment_uid == c.attachment);
            FoldedCounts {
                attachment_uid: c.attachment.clone(),
                failures: c.failures.max(known.map_or(0, |f| f.failures)),
                successes: c.successes.max(known.map_or(0, |f| f.successes)),
            }
        })
        .filter(|f| f.failures > 0 || f.successes > 0)
        .collect();
    taken
}

fn close(status: &mut CircuitBreakerStatus) {
    status.state = BreakerState::Closed;
    status.consecutive_failures = 0;
    status.opened_at = None;
    status.retry_at = None;
    status.trial = None;
}

/// Nothing was ever counted and nothing was asked for: no status is written for that.
pub(crate) fn says_nothing(status: &CircuitBreakerStatus) -> bool {
    *status == CircuitBreakerStatus::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn counts(attachment: &str, failures: u32, in_row: u32, successes: u32) -> Counts {
        Counts {
            attachment: attachment.into(),
            failures,
            in_row,
            successes,
            last_error: (failures > 0).then(|| "mkfs failed".into()),
            would_try: true,
        }
    }

    /// Folds one report after another into what was there, as passes do.
    struct Life {
        spec: Option<CircuitBreaker>,
        status: Option<CircuitBreakerStatus>,
    }

    impl Life {
        fn new() -> Self {
            Self {
                spec: None,
                status: None,
            }
        }

        fn pass(&mut self, all: Vec<Counts>, seconds: i64) -> Option<News> {
            let folded = fold(self.spec.as_ref(), self.status.as_ref(), &all, false, at(seconds));
            self.status = Some(folded.status);
            folded.news
        }

        fn trial(&self) -> Option<&str> {
            Some(self.status.as_ref()?.trial.as_ref()?.attachment_uid.as_str())
        }

        fn state(&self) -> BreakerState {
            self.status.as_ref().unwrap().state
        }

        fn row(&self) -> u32 {
            self.status.as_ref().unwrap().consecutive_failures
        }
    }

    #[test]
    fn r36_opens_after_three_in_a_row_and_repeats_count_once() {
        let mut life = Life::new();
        for pass in 0..5 {
            assert_eq!(life.pass(vec![counts("a", 2, 2, 0)], pass), None);
            assert_eq!(
                (life.state(), life.row()),
                (BreakerState::Closed, 2),
                "seen before, or by a restarted operator"
            );
        }
        assert_eq!(life.pass(vec![counts("a", 1, 1, 0)], 5), None, "a cache that is behind");
        assert_eq!(life.pass(vec![counts("a", 3, 3, 0)], 6), Some(News::Opened));
        let status = life.status.clone().unwrap();
        assert_eq!(status.retry_at.unwrap().0, at(306));
        assert_eq!(status.last_failure.as_deref(), Some("mkfs failed"));
        assert_eq!(life.pass(vec![counts("a", 3, 3, 0)], 7), None);
        assert_eq!(life.state(), BreakerState::Open);
    }

    #[test]
    fn r36_a_success_ends_the_row() {
        let mut life = Life::new();
        life.pass(vec![counts("a", 2, 2, 0)], 0);
        life.pass(vec![counts("a", 2, 0, 1)], 1);
        assert_eq!(life.row(), 0);
        life.pass(vec![counts("a", 4, 2, 1)], 2);
        assert_eq!((life.state(), life.row()), (BreakerState::Closed, 2));
        // Both happened between two passes: only what came after the success counts.
        life.pass(vec![counts("a", 9, 1, 2)], 3);
        assert_eq!((life.state(), life.row()), (BreakerState::Closed, 1));
    }

    #[test]
    fn b72_failures_survive_rescheduling() {
        let mut life = Life::new();
        life.pass(vec![counts("a", 2, 2, 0)], 0);
        life.pass(vec![], 100);
        assert_eq!(life.row(), 2);
        assert_eq!(
            life.pass(vec![counts("b", 1, 1, 0)], 4000),
            Some(News::Opened),
            "however long ago"
        );
    }

    #[test]
    fn r38_one_trial_and_what_comes_of_it() {
        let mut life = Life::new();
        life.pass(vec![counts("a", 3, 3, 0)], 0);
        assert_eq!(life.pass(vec![counts("a", 3, 3, 0), counts("b", 0, 0, 0)], 299), None);
        assert_eq!(
            life.pass(vec![counts("a", 3, 3, 0), counts("b", 0, 0, 0)], 300),
            Some(News::Trial)
        );
        assert_eq!(life.state(), BreakerState::HalfOpen);
        assert_eq!(life.trial(), Some("a"), "one of them");
        assert_eq!(life.pass(vec![counts("a", 3, 3, 0), counts("b", 0, 0, 0)], 301), None);
        assert_eq!(life.trial(), Some("a"), "and no other while it runs");
        assert_eq!(
            life.pass(vec![counts("a", 4, 4, 0), counts("b", 0, 0, 0)], 302),
            Some(News::Opened)
        );
        assert_eq!(life.trial(), None);
        assert_eq!(life.pass(vec![counts("a", 4, 4, 0)], 602), Some(News::Trial));
        assert_eq!(life.pass(vec![counts("a", 4, 0, 1)], 603), Some(News::Closed));
        assert_eq!(
            (life.state(), life.row(), life.trial()),
            (BreakerState::Closed, 0, None)
        );
    }

    #[test]
    fn r38_a_trial_that_nobody_uses_is_given_to_the_next() {
        let mut life = Life::new();
        life.pass(vec![counts("a", 3, 3, 0)], 0);
        let idle = Counts {
            would_try: false,
            ..counts("a", 3, 3, 0)
        };
        assert_eq!(life.pass(vec![idle], 400), None, "nobody would try");
        assert_eq!(life.state(), BreakerState::Open);
        life.pass(vec![counts("a", 3, 3, 0)], 401);
        assert_eq!(
            life.pass(vec![counts("b", 0, 0, 0)], 402),
            Some(News::Trial),
            "a is gone"
        );
        assert_eq!(life.trial(), Some("b"));
        assert_eq!(
            life.pass(vec![counts("b", 0, 0, 0)], 600),
            Some(News::Trial),
            "its time was up"
        );
        // With several that would try it goes around.
        let all = || ["a", "b", "c"].map(|name| counts(name, 0, 0, 0)).to_vec();
        for (seconds, whose) in [(800, "c"), (1000, "a"), (1200, "b"), (1400, "c")] {
            assert_eq!(life.pass(all(), seconds), Some(News::Trial));
            assert_eq!(life.trial(), Some(whose));
        }
    }

    #[test]
    fn r39_resets_by_annotation_and_by_token() {
        let mut life = Life::new();
        life.pass(vec![counts("a", 3, 3, 0)], 0);
        let all = [counts("a", 3, 3, 0)];
        let reset = fold(None, life.status.as_ref(), &all, true, at(1));
        assert_eq!(reset.news, Some(News::Reset));
        assert_eq!(
            (reset.status.state, reset.status.consecutive_failures),
            (BreakerState::Closed, 0)
        );
        let after = fold(None, Some(&reset.status), &all, false, at(2));
        assert_eq!(
            (after.news, after.status.consecutive_failures),
            (None, 0),
            "old failures stay folded"
        );

        let spec = |token: &str| CircuitBreaker {
            failure_threshold: Some(1),
            open_seconds: None,
            reset_token: Some(token.into()),
        };
        life.spec = Some(spec("one"));
        assert_eq!(life.pass(all.to_vec(), 3), Some(News::Reset));
        assert_eq!(
            life.status.as_ref().unwrap().observed_reset_token.as_deref(),
            Some("one")
        );
        assert_eq!(life.pass(all.to_vec(), 4), None, "once");
        assert_eq!(
            life.pass(vec![counts("a", 4, 4, 0)], 5),
            Some(News::Opened),
            "by the threshold of the spec"
        );
        life.spec = Some(spec("two"));
        assert_eq!(life.pass(vec![counts("a", 4, 4, 0)], 6), Some(News::Reset));
    }

    #[test]
    fn a_volume_that_never_failed_has_nothing_to_say() {
        let folded = fold(None, None, &[counts("a", 0, 0, 0)], false, at(0));
        assert!(says_nothing(&folded.status) && folded.news.is_none());
    }
}
