//! Losses of data of which nobody could be told: this node had no RdsAttachment of the volume when it found out. They are kept in the
//! agent's folder on the host, and said on the volume's next RdsAttachment here (I7).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kept;

const FILE: &str = "untold-losses.json";

/// From the name of an RdsVolume to what is to be said of it.
type Losses = BTreeMap<String, String>;

/// What is still to be told.
#[derive(Debug)]
pub struct Untold {
    path: PathBuf,
    losses: Mutex<Losses>,
}

impl Untold {
    /// What an earlier process has kept. The caller holds the host lock.
    ///
    /// # Errors
    /// When the file cannot be read, or cannot be understood and not be set aside either.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let losses = kept::read(&path)?.unwrap_or_default();
        Ok(Self {
            path,
            losses: Mutex::new(losses),
        })
    }

    /// What is to be said of the volume.
    pub(crate) fn of(&self, volume: &str) -> Option<String> {
        self.losses().get(volume).cloned()
    }

    /// Keeps a loss. Of several that were never told the first one stays.
    ///
    /// # Errors
    /// When it cannot be stored: then it is not kept.
    pub(crate) fn keep(&self, volume: &str, why: &str) -> io::Result<()> {
        let mut losses = self.losses();
        if losses.contains_key(volume) {
            return Ok(());
        }
        let mut next = losses.clone();
        next.insert(volume.to_owned(), why.to_owned());
        kept::write(&self.path, &next)?;
        *losses = next;
        Ok(())
    }

    /// It was told.
    ///
    /// # Errors
    /// When that cannot be stored: then a later process tells it once more.
    pub(crate) fn forget(&self, volume: &str) -> io::Result<()> {
        let mut losses = self.losses();
        match losses.remove(volume) {
            Some(_) => kept::write(&self.path, &*losses),
            None => Ok(()),
        }
    }

    /// Held while the file is written: two writers would lose one of two losses.
    fn losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_a_loss_is_kept_across_processes_until_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        let first = Untold::load(&state).unwrap();
        first.keep("pvc-1", "cut").unwrap();
        first.keep("pvc-1", "cut once more").unwrap();
        first.keep("pvc-2", "gone").unwrap();
        let second = Untold::load(&state).unwrap();
        assert_eq!(second.of("pvc-1").as_deref(), Some("cut"));
        second.forget("pvc-1").unwrap();
        assert_eq!(second.of("pvc-1"), None);
        let third = Untold::load(&state).unwrap();
        assert_eq!((third.of("pvc-1"), third.of("pvc-2").as_deref()), (None, Some("gone")));
    }

    #[test]
    fn what_cannot_be_stored_is_not_kept_and_what_cannot_be_forgotten_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let untold = Untold::load(folder.path()).unwrap();
        untold.keep("pvc-1", "cut").unwrap();
        // A folder of that name cannot be replaced by a file.
        let new = folder.path().join("untold-losses.json.new");
        std::fs::create_dir(&new).unwrap();
        untold.keep("pvc-2", "gone").unwrap_err();
        assert_eq!(untold.of("pvc-2"), None);
        untold.forget("pvc-1").unwrap_err();
        assert_eq!(untold.of("pvc-1"), None, "this process has told it");
        let later = Untold::load(folder.path()).unwrap();
        assert_eq!(later.of("pvc-1").as_deref(), Some("cut"));
    }

    #[test]
    fn a_file_that_cannot_be_understood_keeps_no_node_out_of_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"pvc-1\": ").unwrap();
        let untold = Untold::load(folder.path()).unwrap();
        assert_eq!(untold.of("pvc-1"), None);
        let aside = folder.path().join("untold-losses.json.unreadable");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{\"pvc-1\": ");
    }
}
