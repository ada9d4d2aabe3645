//! The record of every login and every command, for assertions and benchmarks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Replies are kept up to this many bytes.
const REPLY_LIMIT: usize = 64 * 1024;

/// One command, or a login with an empty command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it arrived.
    pub at: Timestamp,
    /// Number of the connection; 0 for the control interface.
    pub connection: u64,
    /// Who.
    pub user: String,
    /// The line as it came; empty for a login.
    pub command: String,
    /// What the command printed before a fault distorted it, cut at 64 KiB.
    pub reply: String,
    /// The fault that hit it.
    pub fault: Option<String>,
    /// Whether the command ran.
    pub executed: bool,
    /// Whether it ended in an error.
    pub failed: bool,
    /// Milliseconds from arrival to the end of the reply.
    pub milliseconds: f64,
}

/// All entries since the last `clear`, and perhaps a file that gets each as a line of JSON.
#[derive(Debug, Default)]
pub struct Log {
    entries: Mutex<Vec<LogEntry>>,
    file: Option<Mutex<File>>,
}

impl Log {
    /// A log that also appends to a file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn new(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file
            .map(|p| File::options().create(true).append(true).open(p))
            .transpose()?;
        Ok(Self {
            entries: Mutex::default(),
            file: file.map(Mutex::new),
        })
    }

    /// Adds an entry.
    pub fn push(&self, mut entry: LogEntry) {
        if entry.reply.len() > REPLY_LIMIT {
            let end = (0..=REPLY_LIMIT)
                .rev()
                .find(|i| entry.reply.is_char_boundary(*i))
                .unwrap_or(0);
            entry.reply.truncate(end);
        }
        if let Some(file) = &self.file
            && let Ok(mut line) = serde_json::to_vec(&entry)
        {
            line.push(b'\n');
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(&line) {
                tracing::warn!(%error, "the command log cannot be written");
            }
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// A copy of all entries.
    pub fn entries(&self) -> Vec<LogEntry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all entries; the file keeps its lines.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
