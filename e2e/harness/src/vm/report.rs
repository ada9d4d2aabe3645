//! What scenarios in a guest report to the host: one line of JSON each, in the shared folder.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// File in the shared folder.
pub const FILE: &str = "report.jsonl";

/// How one scenario ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name, by which it is run alone.
    pub name: String,
    /// How long it took.
    pub seconds: f32,
    /// What went wrong.
    pub error: Option<String>,
}

/// Adds a line.
pub fn write(folder: &Path, outcome: &Outcome) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join(FILE))?;
    let line = serde_json::to_string(outcome)? + "\n";
    file.write_all(line.as_bytes()).context("write the report")
}

/// The lines so far. One that is not complete yet is left for the next look.
pub fn read(folder: &Path) -> Result<Vec<Outcome>> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
}
