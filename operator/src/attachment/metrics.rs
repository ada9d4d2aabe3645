//! Series about attachments: fences, the self-test, migrations, breakers, what persons said; and about the events that tell of
//! them. Labels are closed sets.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};

use crate::agent_reports::News;
use crate::telemetry::Telemetry;

/// How a fence went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceResult {
    /// The cut was read back.
    Done,
    /// A command failed, or its result is not known.
    Failed,
    /// It is owed, and not allowed now.
    Withheld,
}

/// How a self-test goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestResult {
    /// It began.
    Begun,
    /// A fence works.
    Proven,
    /// A fence does not work.
    Failed,
    /// No evidence either way.
    Inconclusive,
}

/// The series; clones share them.
#[derive(Clone, Debug)]
pub struct AttachmentMetrics {
    fences: IntCounterVec,
    tests: IntCounterVec,
    words: IntCounterVec,
    migrations: IntCounterVec,
    migration_seconds: Histogram,
    migrating: IntGauge,
    cleared: IntCounter,
    waits: IntCounter,
    breakers: IntCounterVec,
    posted: IntCounterVec,
    rounds: IntCounterVec,
}

/// Seconds that migrations take (K16).
const MIGRATION_BUCKETS: [f64; 8] = [15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0];

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MigrationResult {
    /// The source has left.
    Success,
    /// The target has left.
    Failed,
    /// It takes longer than it may. Counted when that is seen, and not again when it ends.
    Timeout,
}

impl AttachmentMetrics {
    /// Registers the series.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(telemetry: &Telemetry) -> prometheus::Result<Self> {
        let registry = telemetry.registry();
        let labelled = |name: &str, help: &str, label: &str, values: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(series.clone()))?;
            // All of them from the start, so that the first one shows as an increase.
            for value in values {
                series.with_label_values(&[value]).reset();
            }
            prometheus::Result::Ok(series)
        };
        let counter = |name: &str, help: &str, results: &[&str]| labelled(name, help, "result", results);
        let migration_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "rds_csi_migration_duration_seconds",
                "Time for which two nodes had a volume",
            )
            .buckets(MIGRATION_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(migration_seconds.clone()))?;
        let migrating = IntGauge::new("rds_csi_migration_active_migrations", "Volumes that two nodes have now")?;
        registry.register(Box::new(migrating.clone()))?;
        let one = |name: &str, help: &str| {
            let series = IntCounter::new(name, help)?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        Ok(Self {
            migrations: counter(
                "rds_csi_migration_migrations_total",
                "Live migrations by result",
                &["success", "failed", "timeout"],
            )?,
            migration_seconds,
            migrating,
            cleared: one(
                "rds_csi_attachment_stale_cleared_total",
                "Holders on lost nodes that were let go",
            )?,
            waits: one(
                "rds_csi_attachment_grace_period_used_total",
                "Attachments that waited for a node that was letting go",
            )?,
            fences: counter(
                "rds_csi_fences_total",
                "Fences of lost nodes by result",
                &["done", "failed", "withheld"],
            )?,
            tests: counter(
                "rds_csi_fence_self_tests_total",
                "Self-tests of fencing by result",
                &["proven", "failed", "inconclusive"],
            )?,
            breakers: labelled(
                "rds_csi_circuit_breaker_total",
                "Turns of the circuit breakers of volumes",
                "event",
                &["opened", "trial", "closed", "reset"],
            )?,
            posted: labelled(
                "rds_csi_events_posted_total",
                "Kubernetes Events that were posted",
                "reason",
                &[],
            )?,
            rounds: telemetry.attachment_rounds.clone(),
            words: counter(
                "rds_csi_node_is_off_total",
                "Annotations node-is-off by result",
                &["believed", "refused"],
            )?,
        })
    }

    pub(crate) fn ended(&self, result: FenceResult) {
        let word = match result {
            FenceResult::Done => "done",
            FenceResult::Failed => "failed",
            FenceResult::Withheld => "withheld",
        };
        self.fences.with_label_values(&[word]).inc();
    }

    pub(crate) fn migrated(&self, result: MigrationResult) {
        let word = match result {
            MigrationResult::Success => "success",
            MigrationResult::Failed => "failed",
            MigrationResult::Timeout => "timeout",
        };
        self.migrations.with_label_values(&[word]).inc();
    }

    /// Two nodes had a volume for so long.
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    pub(crate) fn migration_took(&self, seconds: i64) {
        self.migration_seconds.observe(seconds as f64);
    }

    /// As the record of holders says (B26: computed, so that it cannot drift).
    pub(crate) fn migrating(&self, now: usize) {
        self.migrating.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// A holder on a lost node was let go.
    pub(crate) fn cleared(&self) {
        self.cleared.inc();
        self.rounds.with_label_values(&["clear_stale"]).inc();
    }

    /// A holder that was missing in the record is in it again.
    pub(crate) fn recalled(&self) {
        self.rounds.with_label_values(&["recall"]).inc();
    }

    /// A breaker has turned.
    pub(crate) fn breaker(&self, news: News) {
        let word = match news {
            News::Opened => "opened",
            News::Trial => "trial",
            News::Closed => "closed",
            News::Reset => "reset",
        };
        self.breakers.with_label_values(&[word]).inc();
    }

    /// An event was posted. Its reason is a word of the program.
    pub(crate) fn posted(&self, reason: &str) {
        self.posted.with_label_values(&[reason]).inc();
    }

    /// Somebody waits for a node that is letting go.
    pub(crate) fn waited(&self) {
        self.waits.inc();
    }

    pub(crate) fn person(&self, believed: bool) {
        let word = if believed { "believed" } else { "refused" };
        self.words.with_label_values(&[word]).inc();
    }

    pub(crate) fn tested(&self, result: TestResult) {
        let word = match result {
            TestResult::Begun => return,
            TestResult::Proven => "proven",
            TestResult::Failed => "failed",
            TestResult::Inconclusive => "inconclusive",
        };
        self.tests.with_label_values(&[word]).inc();
    }
}
