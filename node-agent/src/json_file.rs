//! What the agent keeps in its folder on the host: small JSON files, each of them whole or not there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

/// What the file holds; `None` if there is none. What cannot be understood is set aside and counts as none.
///
/// # Errors
/// When the file cannot be read, or not be set aside.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    match serde_json::from_slice(&bytes) {
        Ok(kept) => Ok(Some(kept)),
        Err(e) => set_aside(path, &e.to_string()).map(|()| None),
    }
}

/// Renames a file of no use, so that a person can look at it.
///
/// # Errors
/// When it cannot be renamed.
pub(crate) fn set_aside(path: &Path, why: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("json.unreadable");
    warn!(path = %path.display(), why, aside = %aside.display(), "the file cannot be understood: set aside");
    fs::rename(path, &aside).with_context(|| format!("rename {}", path.display()))
}

/// Whole or not at all, also after a power cut. The folder is made if there is none.
///
/// # Errors
/// When folder or file cannot be written.
pub(crate) fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(what)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
