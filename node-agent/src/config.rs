//! Settings of the agent: flags with an environment variable beside each, and the one setting that has no default, the
//! managed NQN prefix.
//!
//! Refuses to start on anything malformed: a wrong prefix would make a machine's own disks look like ours (I6).

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use csi_proto::server::Endpoint;
use rds_crds::identity::{BadPrefix, DEFAULT_NQN_PREFIX, check_prefix};

/// The variable that holds the managed prefix. A variable and not a flag: it comes from ConfigMap `rds-csi-config`.
pub const PREFIX_VARIABLE: &str = "CSI_MANAGED_NQN_PREFIX";

/// Flags of the agent.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "rds-node-agent",
    version,
    about = "Connects, checks and mounts RDS volumes on one node"
)]
pub struct Config {
    /// Unix socket of the CSI services, as `unix:///path` or a plain path.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    pub endpoint: Endpoint,
    /// Name of the Node object of this machine.
    #[arg(long, env = "NODE_ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub node_id: String,
    /// Where /livez, /readyz and /metrics are served; `:9809` means every IPv4 address.
    #[arg(long, env = "METRICS_ADDRESS", default_value = ":9809", value_parser = listen_address)]
    pub metrics_address: SocketAddr,
    /// How long a shutdown may take before the process gives up and exits with 1.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub shutdown_timeout: Duration,
    /// Namespace of the agent's Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "rds-csi")]
    pub namespace: String,
    /// Folder on the host for what must outlive the agent: its lock and the host identity.
    #[arg(long, env = "STATE_DIR", default_value = "/var/lib/rds-csi")]
    pub state_dir: PathBuf,
    /// kubelet's folder on the host.
    #[arg(long, env = "KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// Name of the CSI driver, as the CSIDriver object has it.
    #[arg(long, env = "CSI_DRIVER_NAME", default_value = rds_crds::names::DOMAIN)]
    pub driver_name: String,
    /// Folder in which kubelet looks for sockets of plugins.
    #[arg(long, env = "REGISTRATION_DIR", default_value = "/var/lib/kubelet/plugins_registry")]
    pub registration_dir: PathBuf,
    /// The CSI socket as kubelet sees it; the endpoint's path if not given.
    #[arg(long, env = "KUBELET_ENDPOINT")]
    pub kubelet_endpoint: Option<PathBuf>,
    /// Volumes that Kubernetes may put on this node; 0 for no limit.
    #[arg(long, env = "MAX_VOLUMES", default_value_t = 128)]
    pub max_volumes: u32,
    /// Zone of this node, reported as `topology.rds.csi.srvlab.io/zone`.
    #[arg(long, env = "TOPOLOGY_ZONE", default_value = "default", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub zone: String,
    /// Where the host's /proc, /sys, /dev and /etc are.
    #[arg(long, env = "HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
    /// Sessions on a simulated appliance instead of the kernel's: the URL of its control interface. For tests.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    pub fake_fabrics: Option<String>,
    /// Form of the log lines on stderr.
    #[arg(long, env = "LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The prefix of every NQN that this agent may ever touch (R7 to R10, R13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedPrefix(String);

/// Why a prefix was refused. Each text names the variable, the rule and the value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not set, or empty.
    #[error(
        "{PREFIX_VARIABLE} is not set: it is required and has no default; set it from key `nqn-prefix` of ConfigMap \
         `rds-csi-config`, for example nqn.2000-02.com.mikrotik:pvc-"
    )]
    Missing,
    /// Not text.
    #[error("{PREFIX_VARIABLE} is not valid UTF-8, its value reads {0:?}; set it to an NQN prefix in plain ASCII")]
    NotText(OsString),
    /// Against one of the rules.
    #[error("{PREFIX_VARIABLE} is refused: {0}; take for example {DEFAULT_NQN_PREFIX}")]
    Rule(#[from] BadPrefix),
}

impl ManagedPrefix {
    /// Judges the value of the variable; `None` is an unset one.
    pub fn from_variable(value: Option<OsString>) -> Result<Self, PrefixError> {
        let value = value.unwrap_or_default().into_string().map_err(PrefixError::NotText)?;
        if value.is_empty() {
            return Err(PrefixError::Missing);
        }
        check_prefix(&value)?;
        Ok(Self(value))
    }
}

impl fmt::Display for ManagedPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `30s`, `5m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|e| format!("`{text}` is not a duration such as 30s or 5m: {e}"))?;
    Duration::try_from(parsed).map_err(|_| format!("`{text}` is negative, give a duration such as 30s"))
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
        .ok_or_else(|| format!("`{text}` is not an address to listen on, give for example :9809 or 127.0.0.1:9809"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn refused(value: Option<&str>) -> String {
        ManagedPrefix::from_variable(value.map(OsString::from))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn r7_an_unset_or_empty_prefix_is_refused_by_the_name_of_the_variable() {
        for value in [None, Some("")] {
            assert!(
                refused(value).starts_with("CSI_MANAGED_NQN_PREFIX is not set"),
                "{value:?}"
            );
        }
    }

    #[test]
    fn r8_each_rule_names_itself_and_shows_the_value() {
        let long = format!("nqn.2000-02.com.mikrotik:{}", "x".repeat(224 - 25));
        assert_eq!(long.len(), 224);
        for (value, rule) in [
            ("pvc-", "does not begin with `nqn.`"),
            ("NQN.2000-02.com.mikrotik:pvc-", "does not begin with `nqn.`"),
            (" nqn.2000-02.com.mikrotik:pvc-", "does not begin with `nqn.`"),
            ("nqn.2000-02.com.mikrotik", "has no `:`"),
            (long.as_str(), "at most 223 are allowed"),
        ] {
            let message = refused(Some(value));
            assert!(message.contains(rule), "{value}: {message}");
            assert!(message.contains(value), "{value}: {message}");
            assert!(message.contains(PREFIX_VARIABLE), "{value}: {message}");
        }
    }

    #[test]
    fn r8_223_bytes_are_accepted() {
        let longest = format!("nqn.2000-02.com.mikrotik:{}", "x".repeat(223 - 25));
        assert!(ManagedPrefix::from_variable(Some(longest.into())).is_ok());
        assert!(ManagedPrefix::from_variable(Some("nqn.2000-02.com.mikrotik:pvc-".into())).is_ok());
    }

    #[test]
    fn b61_every_flag_is_in_the_document_with_its_default() {
        let text = include_str!("../../docs/options.md");
        let (_, text) = text.split_once("## rds-node-agent").unwrap();
        for argument in Config::command().get_arguments().filter(|a| !a.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            if matches!(long, "help" | "version") {
                continue;
            }
            let row = text.lines().find(|line| line.starts_with(&format!("| `--{long}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/options.md has no row of --{long}"));
            let variable = argument.get_env().and_then(|v| v.to_str()).unwrap();
            let mut all = vec![variable.to_owned()];
            all.extend(
                argument
                    .get_default_values()
                    .iter()
                    .map(|v| v.to_str().unwrap().to_owned()),
            );
            for value in all {
                assert!(row.contains(&format!("| `{value}` |")), "{row} lacks {value}");
            }
        }
    }

    #[test]
    fn durations_and_addresses() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("30").is_err() && duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(listen_address(":9809").unwrap().to_string(), "0.0.0.0:9809");
        assert!(listen_address("nonsense").unwrap_err().contains(":9809"));
    }
}
