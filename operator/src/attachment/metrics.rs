//! Series about fences, the self-test, and what persons said. Labels are closed sets.

use prometheus::{IntCounterVec, Opts, Registry};

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
pub struct FenceMetrics {
    fences: IntCounterVec,
    tests: IntCounterVec,
    words: IntCounterVec,
}

impl FenceMetrics {
    /// Registers the series.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, results: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), &["result"])?;
            registry.register(Box::new(series.clone()))?;
            // All of them from the start, so that the first one shows as an increase.
            for result in results {
                series.with_label_values(&[result]).reset();
            }
            prometheus::Result::Ok(series)
        };
        Ok(Self {
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
