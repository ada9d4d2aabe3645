//! The series of the Node service, in the agent's own registry. Names of the Go driver where the meaning is the same (K16).

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

/// Buckets of operations on volumes, in seconds (K16), and finer ones below.
const BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Clones share the series.
#[derive(Clone, Debug)]
pub struct Metrics {
    operations: IntCounterVec,
    seconds: HistogramVec,
    rpcs: IntCounterVec,
    stale: IntCounter,
    lost: IntCounter,
    failures: IntCounter,
}

impl Metrics {
    /// All series, registered there.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let series = IntCounter::new(name, help)?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(series.clone()))?;
            prometheus::Result::Ok(series)
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "rds_csi_volume_operation_duration_seconds",
                "Time of operations on volumes, with waiting",
            )
            .buckets(BUCKETS.to_vec()),
            &["operation"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            operations: counters(
                "rds_csi_volume_operations_total",
                "Operations on volumes by outcome",
                &["operation", "status"],
            )?,
            seconds,
            rpcs: counters(
                "rds_csi_rpcs_total",
                "CSI calls by method and gRPC code",
                &["method", "code"],
            )?,
            stale: counter(
                "rds_csi_stale_mounts_detected_total",
                "Mounts found whose devices are gone",
            )?,
            lost: counter(
                "rds_csi_possible_data_loss_total",
                "Unmounts after which unwritten data may be lost",
            )?,
            failures: counter(
                "rds_csi_volume_failures_total",
                "Failures counted by the circuit breakers of volumes",
            )?,
        })
    }

    /// One call, by method and code; `operation` where it is one on a volume.
    pub(super) fn call(&self, method: &str, operation: Option<&str>, code: tonic::Code, seconds: f64) {
        self.rpcs.with_label_values(&[method, &format!("{code:?}")]).inc();
        let Some(operation) = operation else { return };
        let status = if code == tonic::Code::Ok { "success" } else { "failure" };
        self.operations.with_label_values(&[operation, status]).inc();
        self.seconds.with_label_values(&[operation]).observe(seconds);
    }

    pub(super) fn stale_mount(&self) {
        self.stale.inc();
    }

    pub(super) fn possible_loss(&self) {
        self.lost.inc();
    }

    pub(super) fn volume_failure(&self) {
        self.failures.inc();
    }
}
