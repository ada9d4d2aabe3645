//! The state file: written a moment after a change, never per command, so that a burst costs a few writes.

use crate::appliance::Appliance;
use crate::state::State;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const QUIET: Duration = Duration::from_millis(250);

fn file(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

/// The saved state, if there is one.
pub(crate) async fn load(dir: Option<&Path>) -> anyhow::Result<Option<State>> {
    let Some(dir) = dir else { return Ok(None) };
    tokio::fs::create_dir_all(dir)
        .await
        .with_context(|| format!("make {}", dir.display()))?;
    let path = file(dir);
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?,
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

async fn save(appliance: &Arc<Appliance>, dir: &Path) -> anyhow::Result<()> {
    let appliance = appliance.clone();
    let bytes = tokio::task::spawn_blocking(move || {
        let state = appliance.state().clone();
        serde_json::to_vec(&state)
    })
    .await??;
    let temporary = dir.join("state.json.new");
    tokio::fs::write(&temporary, bytes).await?;
    tokio::fs::rename(&temporary, file(dir)).await?;
    Ok(())
}

/// Saves behind every change until told to stop, and once more then.
pub(crate) async fn keep(appliance: Arc<Appliance>, dir: PathBuf, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = appliance.changed.notified() => false,
            () = stop.cancelled() => true,
        };
        if !stopping {
            tokio::select! {
                () = tokio::time::sleep(QUIET) => {}
                () = stop.cancelled() => {}
            }
        }
        if let Err(error) = save(&appliance, &dir).await {
            tracing::error!(%error, "the state cannot be saved");
        }
        if stopping {
            return;
        }
    }
}
