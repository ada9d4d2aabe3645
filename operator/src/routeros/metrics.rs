//! Metrics of the management connection. Labels come from closed sets; never an object's name.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::error::{CommandKind, RdsError};

/// Counters of all servers; clone freely.
#[derive(Debug, Clone)]
pub struct RouterosMetrics {
    commands: IntCounterVec,
    duration: HistogramVec,
    waiting: HistogramVec,
    in_flight: IntGaugeVec,
    state: IntGaugeVec,
    reconnects: IntCounterVec,
    reconnect_duration: HistogramVec,
}

impl RouterosMetrics {
    /// Creates and registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            let buckets = vec![0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let this = Self {
            commands: counter(
                "rds_csi_routeros_commands_total",
                "Commands sent to the appliance, by kind and outcome",
                &["command", "outcome"],
            )?,
            duration: seconds(
                "rds_csi_routeros_command_duration_seconds",
                "Time from sending a command to its reply",
                &["command"],
            )?,
            waiting: seconds(
                "rds_csi_routeros_queue_duration_seconds",
                "Time that commands wait for their turn",
                &["command"],
            )?,
            in_flight: gauge("rds_csi_routeros_in_flight", "Commands running now", &["address"])?,
            state: gauge(
                "rds_csi_rds_connection_state",
                "1 when the SSH connection is up, else 0",
                &["address"],
            )?,
            reconnects: counter(
                "rds_csi_rds_reconnect_total",
                "Attempts to connect, by result",
                &["status"],
            )?,
            reconnect_duration: seconds(
                "rds_csi_rds_reconnect_duration_seconds",
                "Time that a connect takes",
                &["status"],
            )?,
        };
        registry.register(Box::new(this.commands.clone()))?;
        registry.register(Box::new(this.duration.clone()))?;
        registry.register(Box::new(this.waiting.clone()))?;
        registry.register(Box::new(this.in_flight.clone()))?;
        registry.register(Box::new(this.state.clone()))?;
        registry.register(Box::new(this.reconnects.clone()))?;
        registry.register(Box::new(this.reconnect_duration.clone()))?;
        Ok(this)
    }

    pub(crate) fn waited(&self, kind: CommandKind, seconds: f64) {
        self.waiting.with_label_values(&[kind.label()]).observe(seconds);
    }

    /// Counts a command as running until the guard is dropped.
    pub(crate) fn running(&self, address: &str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[address]);
        gauge.inc();
        InFlight(gauge)
    }

    pub(crate) fn finished(&self, kind: CommandKind, seconds: f64, error: Option<&RdsError>) {
        self.duration.with_label_values(&[kind.label()]).observe(seconds);
        let outcome = match error {
            None => "ok",
            Some(error) if error.is_unknown() => "unknown",
            Some(error) => error.class().label(),
        };
        self.commands.with_label_values(&[kind.label(), outcome]).inc();
    }

    pub(crate) fn connected(&self, address: &str, up: bool) {
        self.state.with_label_values(&[address]).set(up.into());
    }

    pub(crate) fn reconnected(&self, success: bool, seconds: f64) {
        let status = if success { "success" } else { "failure" };
        self.reconnects.with_label_values(&[status]).inc();
        self.reconnect_duration.with_label_values(&[status]).observe(seconds);
    }
}

pub(crate) struct InFlight(prometheus::IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
