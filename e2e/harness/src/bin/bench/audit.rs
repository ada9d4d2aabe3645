//! Who wrote what into the API, from the audit log of kube-apiserver.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// How many writes the operator has made so far.
pub(crate) fn writes(log: &Path) -> Result<usize> {
    writes_of(log, "rds-csi-controller")
}

/// How many writes an account has made so far. Renewals of Leases are left out: they go on for ever, whatever it does.
pub(crate) fn writes_of(log: &Path, account: &str) -> Result<usize> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| is_write_of(event, account)).count())
}

fn is_write_of(event: &Value, account: &str) -> bool {
    let agent = event["userAgent"].as_str().unwrap_or_default();
    let verb = event["verb"].as_str().unwrap_or_default();
    // The sidecars use the same account, but say who they are.
    event["stage"] == "ResponseComplete"
        && event["user"]["username"] == format!("system:serviceaccount:rds-csi:{account}")
        && !agent.starts_with("csi-")
        && ["create", "update", "patch", "delete"].contains(&verb)
        && event["objectRef"]["resource"] != "leases"
}
