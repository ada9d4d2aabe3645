//! Settings of the operator: clap flags, each with an environment variable. `docs/options.md` lists them; a test compares.
//!
//! Where the appliances are is no setting: that stands in RdsServer objects. The kubeconfig is found as kubectl does
//! (`KUBECONFIG`, then the service account of the pod).

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use csi_proto::server::Endpoint;

/// Flags of the operator.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "rds-operator",
    version,
    about = "Reconciles RDS storage and serves the CSI Controller"
)]
pub struct Config {
    /// Unix socket of the CSI services, as `unix:///path` or a plain path.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    pub endpoint: Endpoint,
    /// Name of the CSI driver; equals the name of the CSIDriver object. The API group does not change with it.
    #[arg(long, env = "CSI_DRIVER_NAME", default_value = rds_crds::names::DOMAIN, value_parser = driver_name)]
    pub driver_name: String,
    /// Where /livez, /readyz and /metrics are served; port 0 takes a free one and logs it.
    #[arg(long, env = "METRICS_ADDRESS", default_value = "0.0.0.0:9809", value_parser = listen_address)]
    pub metrics_address: SocketAddr,
    /// Namespace of the operator: where its Lease and the Secrets of the RdsServers live.
    #[arg(long, env = "POD_NAMESPACE", default_value = "rds-csi", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub namespace: String,
    /// Name under which this process holds the Lease; unique among the replicas. Default: the host name and the process id.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Name of the Lease that the replicas compete for.
    #[arg(long, env = "LEADER_ELECT_LEASE_NAME", default_value = "rds-operator")]
    pub lease_name: String,
    /// How long a Lease is good for without renewal; a successor waits that long.
    #[arg(long, env = "LEADER_ELECT_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,
    /// How long before the end of a Lease its holder begins to renew it. What could not be renewed ends the lead 1 s before its end.
    #[arg(long, env = "LEADER_ELECT_LEASE_GRACE", default_value = "5s", value_parser = duration)]
    pub lease_grace: Duration,
    /// Form of the log lines on stderr. What is logged follows RUST_LOG, by default `info`.
    #[arg(long, env = "LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// How long a shutdown may take before the process gives up and exits with 1.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub shutdown_timeout: Duration,
    /// How long a CSI call without a deadline of its own may wait for the reconcilers.
    #[arg(long, env = "CALL_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub call_timeout: Duration,
    /// Longest time after which a command that was sent to an appliance may still run there.
    #[arg(long, env = "MAX_EXEC_AGE", default_value = "2m", value_parser = duration)]
    pub max_exec_age: Duration,
    /// How often each appliance is listed: capacity, drift, orphans. One read, however many volumes.
    #[arg(long, env = "INVENTORY_INTERVAL", default_value = "60s", value_parser = duration)]
    pub inventory_interval: Duration,
    /// How often a volume at rest is compared with the last listing.
    #[arg(long, env = "RESYNC_INTERVAL", default_value = "10m", value_parser = duration)]
    pub resync_interval: Duration,
    /// How long a Node has to be gone before its volumes are released, through a fence (R49, R58).
    #[arg(long, env = "ATTACHMENT_GRACE_PERIOD", default_value = "30s", value_parser = duration)]
    pub attachment_grace_period: Duration,
    /// How often all attachments are looked at, whatever happened or not, and made again where they were lost (R56).
    #[arg(long, env = "ATTACHMENT_RECONCILE_INTERVAL", default_value = "5m", value_parser = duration)]
    pub attachment_reconcile_interval: Duration,
    /// How long an agent's Lease has to be silent before a Node that is not Ready counts as lost.
    #[arg(long, env = "AGENT_LEASE_PERIOD", default_value = "40s", value_parser = duration)]
    pub agent_lease_period: Duration,
    /// Volumes that are reconciled at once; those of one RdsServer get half of that. Each appliance has its own, smaller gate besides.
    #[arg(long, env = "CONCURRENCY", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
}

/// Shortest grace: a renewal needs some time, and the lead ends 1 s before the Lease does.
const SHORTEST_GRACE: Duration = Duration::from_secs(2);

impl Config {
    /// These flags, if they go together.
    ///
    /// # Errors
    /// Which ones do not, and what to do.
    pub fn checked(self) -> Result<Self, String> {
        let (duration, grace) = (self.lease_duration, self.lease_grace);
        let why = if duration.subsec_nanos() != 0 || grace.subsec_nanos() != 0 {
            "a Lease counts whole seconds"
        } else if grace < SHORTEST_GRACE {
            "the grace has to be at least 2s, or a renewal has no time"
        } else if grace >= duration {
            "the grace has to be shorter than the Lease, or its holder renews it without a pause"
        } else {
            return Ok(self);
        };
        Err(format!(
            "--lease-duration {duration:?} with --lease-grace {grace:?}: {why}; give for example --lease-duration 15s --lease-grace 5s"
        ))
    }

    /// The name under which this process holds the Lease.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| {
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                format!("{}-{}", host.trim(), std::process::id())
            })
    }
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `30s`, `5m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|e| format!("`{text}` is not a duration such as 30s or 5m: {e}"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err(format!("`{text}` is not longer than zero, give a duration such as 30s")),
    }
}

/// `host:port`, or `:port` for every IPv4 address.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') {
        format!("0.0.0.0{text}")
    } else {
        text.to_owned()
    };
    full.to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
        .ok_or_else(|| format!("`{text}` is not an address to listen on, give for example 0.0.0.0:9809"))
}

/// A CSI driver name: domain form, at most 63 characters.
fn driver_name(text: &str) -> Result<String, String> {
    let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if text.len() <= 63 && text.chars().all(alphabet) && ends(text.chars().next()) && ends(text.chars().last()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is not a CSI driver name, give at most 63 letters, digits, dots and dashes, for example {}",
        rds_crds::names::DOMAIN
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn defaults_hold_without_any_flag() {
        let config = Config::parse_from(["rds-operator"]);
        assert_eq!(config.driver_name, "rds.csi.srvlab.io");
        assert_eq!(config.metrics_address.to_string(), "0.0.0.0:9809");
        assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(config.endpoint.to_string(), "unix:///csi/csi.sock");
        assert!(!config.identity().is_empty());
    }

    #[test]
    fn bad_values_are_refused_with_an_example() {
        for (flag, value, example) in [
            ("--endpoint", "tcp://1.2.3.4:5", "unix:///csi/csi.sock"),
            ("--endpoint", "csi.sock", "unix:///csi/csi.sock"),
            ("--driver-name", "not a name", "rds.csi.srvlab.io"),
            ("--driver-name", "", "rds.csi.srvlab.io"),
            ("--metrics-address", "nowhere", "0.0.0.0:9809"),
            ("--shutdown-timeout", "30", "30s"),
            ("--shutdown-timeout", "0s", "30s"),
            ("--inventory-interval", "-5m", "30s"),
        ] {
            let error = Config::try_parse_from(["rds-operator", &format!("{flag}={value}")])
                .unwrap_err()
                .to_string();
            assert!(error.contains(example), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn a_lease_that_cannot_be_kept_is_refused_with_both_flags() {
        let check = |duration: &str, grace: &str| {
            let flags = ["rds-operator", "--lease-duration", duration, "--lease-grace", grace];
            Config::try_parse_from(flags).unwrap().checked()
        };
        assert!(Config::parse_from(["rds-operator"]).checked().is_ok());
        assert!(check("3s", "2s").is_ok());
        for (duration, grace, why) in [
            ("15s", "15s", "shorter"),
            ("5s", "15s", "shorter"),
            ("15s", "1s", "at least 2s"),
            ("900ms", "2s", "whole seconds"),
            ("15s", "2500ms", "whole seconds"),
        ] {
            let error = check(duration, grace).unwrap_err();
            for word in ["--lease-duration 15s", "--lease-grace 5s", why] {
                assert!(error.contains(word), "{error}");
            }
        }
    }

    #[test]
    fn b61_every_flag_and_variable_is_in_the_document() {
        let text = include_str!("../../docs/options.md");
        let (text, _) = text.split_once("## rds-node-agent").unwrap();
        for argument in Config::command().get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            if matches!(long, "help" | "version") {
                continue;
            }
            let variable = argument.get_env().and_then(|v| v.to_str()).unwrap();
            let row = text.lines().find(|line| line.starts_with(&format!("| `--{long}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/options.md has no row of --{long}"));
            assert!(row.contains(&format!("| `{variable}` |")), "{row} lacks {variable}");
            for default in argument.get_default_values() {
                let default = default.to_str().unwrap();
                assert!(
                    row.contains(&format!("| `{default}` |")),
                    "{row} lacks the default {default}"
                );
            }
        }
    }
}
