//! Host NQN and host ID: one pair a machine, made once, kept in the agent's folder on the host.
//!
//! The pair is bound to the machine ID: a machine that was cloned from another's image makes its own. What cannot be read as a
//! pair is set aside and made anew; what cannot be read at all is an error, since a pair that changes at each start is none.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use uuid::Uuid;

use crate::json_file;

const FILE: &str = "host-identity.json";

/// How this machine names itself to targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Machine ID that the pair was made for.
    pub machine_id: String,
    /// Host NQN.
    pub host_nqn: String,
    /// Host ID: the UUID in the host NQN.
    pub host_id: String,
}

impl Identity {
    fn new(machine_id: &str) -> Self {
        let id = Uuid::new_v4();
        Self {
            machine_id: machine_id.to_owned(),
            host_nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{id}"),
            host_id: id.to_string(),
        }
    }

    /// As it is made here, and in no other form.
    fn is_well_formed(&self) -> bool {
        let id = self
            .host_id
            .parse::<Uuid>()
            .is_ok_and(|id| id.to_string() == self.host_id && !id.is_nil());
        id && self.host_nqn.strip_prefix("nqn.2014-08.org.nvmexpress:uuid:") == Some(&self.host_id)
    }
}

/// The pair of this machine, made if there is none yet. The caller holds the host lock.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn load(folder: &Path, machine_id: &str) -> anyhow::Result<Identity> {
    let path = folder.join(FILE);
    match json_file::read::<Identity>(&path)? {
        Some(kept) if kept.is_well_formed() && kept.machine_id == machine_id => return Ok(kept),
        Some(kept) if kept.is_well_formed() => warn!(
            path = %path.display(),
            host_nqn = kept.host_nqn,
            "the host identity was made for another machine ID, as on a cloned image: this machine makes its own"
        ),
        Some(_) => json_file::set_aside(&path, "it is not a pair that an agent made")?,
        None => {}
    }
    let made = Identity::new(machine_id);
    json_file::write(&path, &made).with_context(|| format!("write {}, change --state-dir", path.display()))?;
    info!(
        host_nqn = made.host_nqn,
        host_id = made.host_id,
        "made the host identity of this machine"
    );
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_pair_a_machine_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        let first = load(&state, "m1").unwrap();
        assert!(first.is_well_formed());
        assert_eq!(load(&state, "m1").unwrap(), first);
        assert_ne!(
            load(folder.path(), "m1").unwrap().host_id,
            first.host_id,
            "random, not derived"
        );
    }

    #[test]
    fn a_clone_with_a_machine_id_of_its_own_makes_a_pair_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = load(folder.path(), "m1").unwrap();
        let second = load(folder.path(), "m2").unwrap();
        assert_ne!((&first.host_nqn, &first.host_id), (&second.host_nqn, &second.host_id));
        assert_eq!(load(folder.path(), "m2").unwrap(), second);
    }

    #[test]
    fn what_is_no_pair_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let good = load(folder.path(), "m").unwrap();
        let mut other_id = good.clone();
        other_id.host_id = Uuid::new_v4().to_string();
        let mut upper = good.clone();
        upper.host_id = upper.host_id.to_uppercase();
        let texts = [other_id, upper].map(|bad| serde_json::to_string(&bad).unwrap());
        for text in texts
            .iter()
            .map(String::as_str)
            .chain(["", "{", "{\"machineId\":\"m\"}"])
        {
            fs::write(&path, text).unwrap();
            let made = load(folder.path(), "m").unwrap();
            assert!(made.is_well_formed() && made != good, "{text}");
            assert_eq!(
                fs::read_to_string(path.with_extension("json.unreadable")).unwrap(),
                text
            );
            assert_eq!(load(folder.path(), "m").unwrap(), made);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        assert!(format!("{:#}", load(folder.path(), "m").unwrap_err()).contains(FILE));
    }
}
