//! One agent a host: whoever holds this lock may act. The kernel keeps it until every thread of its holder is gone, one that
//! hangs in a connect included, so that its taker knows that no connect of an earlier process is in flight.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::sleep;
use tracing::{info, warn};

/// The lock; it goes with this.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

impl HostLock {
    /// Waits for it, for as long as it takes.
    ///
    /// # Errors
    /// When the file cannot be opened or locked at all.
    pub async fn take(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}, change --state-dir", folder.display()))?;
        let path = folder.join("agent.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(path = %path.display(), "an earlier agent process is not gone yet: nothing is done until it is");
                    }
                    sleep(Duration::from_millis(200)).await;
                }
                Err(e) => return Err(e).with_context(|| format!("lock {}", path.display())),
            }
        }
        if told {
            info!("the earlier agent process is gone");
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn there_is_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = HostLock::take(folder.path()).await.unwrap();
        let short = Duration::from_millis(300);
        assert!(timeout(short, HostLock::take(folder.path())).await.is_err());
        drop(first);
        HostLock::take(folder.path()).await.unwrap();
    }
}
