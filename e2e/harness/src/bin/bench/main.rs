//! `make bench`: measures what the operator costs, prints a table, writes `target/bench/report.json` as name: value.
//!
//! Nothing is asserted on time: numbers are to be read. `BENCH=burst` runs only the parts whose name contains the word;
//! `BENCH_VOLUMES=0,1000` sets the numbers of idle volumes, ascending.

mod agent;
mod attach;
mod audit;
mod burst;
mod idle;
mod single;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use anyhow::{Context, Result, ensure};
use e2e::tools;

/// Numbers by name; later parts add theirs beside them.
pub(crate) type Report = BTreeMap<String, f64>;

type Part = (&'static str, fn() -> Pin<Box<dyn Future<Output = Result<Report>>>>);

const PARTS: [Part; 5] = [
    ("single", || Box::pin(single::measure())),
    ("burst", || Box::pin(burst::measure())),
    ("idle", || Box::pin(idle::measure())),
    ("attach", || Box::pin(attach::measure())),
    ("agent", || Box::pin(agent::measure())),
];

/// What a whole report holds at least.
const NAMES: [&str; 17] = [
    "routeros_execs_create",
    "routeros_execs_expand",
    "routeros_execs_delete",
    "routeros_reads_idle_per_10s",
    "api_writes_create",
    "api_writes_delete",
    "create_overhead_ms_p50_1",
    "create_overhead_ms_p99_1",
    "create_overhead_ms_p50_100",
    "create_overhead_ms_p99_100",
    "burst_1000_seconds",
    "burst_1000_floor_commands_seconds",
    "burst_1000_floor_noop_seconds",
    "burst_1000_leaks",
    "operator_rss_mib_0",
    "operator_rss_mib_1000",
    "operator_rss_mib_10000",
];

fn main() -> Result<()> {
    let only = std::env::var("BENCH").unwrap_or_default();
    let path = tools::target()?.join("bench/report.json");
    let mut report = Report::new();
    for (name, part) in PARTS.iter().filter(|(name, _)| name.contains(&only)) {
        eprintln!("== {name}");
        let numbers = e2e::run(part()).with_context(|| format!("measure {name}"))?;
        report.extend(numbers);
        // After each part: a failure of a later one shall not cost what was measured.
        std::fs::create_dir_all(path.parent().context("a path with a folder")?)?;
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    }
    println!("{:<34} {:>12}", "name", "value");
    for (name, value) in &report {
        println!("{name:<34} {value:>12.2}");
    }
    println!("written to {}", path.display());
    let all = only.is_empty() && std::env::var_os("BENCH_VOLUMES").is_none();
    let missing: Vec<_> = NAMES
        .iter()
        .filter(|name| all && !report.contains_key(**name))
        .collect();
    ensure!(missing.is_empty(), "the report lacks {missing:?}");
    Ok(())
}

/// The value below which `share` of the sorted samples lie.
pub(crate) fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = (last as f64 * share).ceil() as usize;
    samples.get(at).copied().unwrap_or_default()
}
