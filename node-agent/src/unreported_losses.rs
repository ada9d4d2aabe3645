//! Losses of data of which nobody could be told: this node had no RdsAttachment of the volume when it found out. They are kept in the
//! agent's folder on the host, and said on the volume's next RdsAttachment here (I7).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::attachment::act::lock;
use crate::json_file;

const FILE: &str = "unreported-losses.json";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loss {
    /// UID of the RdsVolume: another one of its name has lost nothing.
    uid: String,
    /// For people.
    message: String,
}

/// By name of the RdsVolume.
type Losses = BTreeMap<String, Loss>;

/// What is still to be told.
#[derive(Debug)]
pub struct UnreportedLosses {
    path: PathBuf,
    losses: Mutex<Losses>,
    /// Held while the file is written: of two writers at once one would lose the other's loss. Whoever only asks waits for no disk.
    writing: Mutex<()>,
}

impl UnreportedLosses {
    /// What an earlier process has kept. The caller holds the host lock.
    ///
    /// # Errors
    /// When the file cannot be read, or cannot be understood and not be set aside either.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let losses = json_file::read(&path)?.unwrap_or_default();
        Ok(Self {
            path,
            losses: Mutex::new(losses),
            writing: Mutex::default(),
        })
    }

    /// What is to be said of the volume.
    pub(crate) fn of(&self, volume: &str, uid: &str) -> Option<String> {
        let losses = lock(&self.losses);
        let loss = losses.get(volume).filter(|loss| loss.uid == uid)?;
        Some(loss.message.clone())
    }

    /// Keeps a loss. Of several of one volume that were never told the first one stays.
    ///
    /// # Errors
    /// When it cannot be stored: then it is not kept.
    pub(crate) fn keep(&self, volume: &str, uid: &str, message: &str) -> io::Result<()> {
        let _alone = lock(&self.writing);
        let mut next = lock(&self.losses).clone();
        if next.get(volume).is_some_and(|loss| loss.uid == uid) {
            return Ok(());
        }
        let loss = Loss {
            uid: uid.to_owned(),
            message: message.to_owned(),
        };
        next.insert(volume.to_owned(), loss.clone());
        json_file::write(&self.path, &next)?;
        lock(&self.losses).insert(volume.to_owned(), loss);
        Ok(())
    }

    /// That was told of the volume; another loss that came since stays.
    ///
    /// # Errors
    /// When that cannot be stored: then a later process tells it once more.
    pub(crate) fn forget(&self, volume: &str, message: &str) -> io::Result<()> {
        {
            let mut losses = lock(&self.losses);
            if losses.get(volume).is_none_or(|loss| loss.message != message) {
                return Ok(());
            }
            losses.remove(volume);
        }
        let _alone = lock(&self.writing);
        let left = lock(&self.losses).clone();
        json_file::write(&self.path, &left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_a_loss_is_kept_across_processes_until_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        let first = UnreportedLosses::load(&state).unwrap();
        first.keep("pvc-1", "u1", "cut").unwrap();
        first.keep("pvc-1", "u1", "cut once more").unwrap();
        first.keep("pvc-2", "u2", "gone").unwrap();
        let second = UnreportedLosses::load(&state).unwrap();
        assert_eq!(second.of("pvc-1", "u1").as_deref(), Some("cut"));
        second.forget("pvc-1", "another").unwrap();
        second.forget("pvc-2", "gone").unwrap();
        let third = UnreportedLosses::load(&state).unwrap();
        assert_eq!(third.of("pvc-1", "u1").as_deref(), Some("cut"));
        assert_eq!(third.of("pvc-2", "u2"), None);
    }

    #[test]
    fn a_volume_does_not_inherit_the_loss_of_another_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let unreported = UnreportedLosses::load(folder.path()).unwrap();
        unreported.keep("data", "u1", "cut").unwrap();
        assert_eq!(unreported.of("data", "u2"), None);
        unreported.keep("data", "u2", "gone").unwrap();
        assert_eq!(unreported.of("data", "u2").as_deref(), Some("gone"));
    }

    #[test]
    fn what_cannot_be_stored_is_not_kept_and_what_cannot_be_forgotten_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let unreported = UnreportedLosses::load(folder.path()).unwrap();
        unreported.keep("pvc-1", "u1", "cut").unwrap();
        // A folder of that name cannot be replaced by a file.
        let new = folder.path().join("unreported-losses.json.new");
        std::fs::create_dir(&new).unwrap();
        unreported.keep("pvc-2", "u2", "gone").unwrap_err();
        assert_eq!(unreported.of("pvc-2", "u2"), None);
        unreported.forget("pvc-1", "cut").unwrap_err();
        assert_eq!(unreported.of("pvc-1", "u1"), None, "this process has told it");
        let later = UnreportedLosses::load(folder.path()).unwrap();
        assert_eq!(later.of("pvc-1", "u1").as_deref(), Some("cut"));
    }

    #[test]
    fn a_file_that_cannot_be_understood_keeps_no_node_out_of_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"pvc-1\": ").unwrap();
        let unreported = UnreportedLosses::load(folder.path()).unwrap();
        assert_eq!(unreported.of("pvc-1", "u1"), None);
        let aside = folder.path().join("unreported-losses.json.unreadable");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{\"pvc-1\": ");
    }
}
