//! The one door through which a controller is deleted.
//!
//! Only what begins with the managed prefix goes through (I6, R12), with one of the keys. NQN and controller are read and written
//! through one held folder, so that a controller that takes over a name in between is out of reach (B32, I10).

use std::thread;
use std::time::{Duration, Instant};

use super::Kernel;
use super::sysfs;
use super::words::check_nqn;
use crate::fabrics::FabricsError;

/// Until a deleted controller has to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Kernel {
    /// Whether the agent may touch it at all.
    pub(super) fn managed(&self, nqn: &str) -> Result<(), FabricsError> {
        check_nqn(nqn).map_err(FabricsError)?;
        if nqn.starts_with(&self.prefix) {
            return Ok(());
        }
        Err(FabricsError(format!(
            "{nqn} does not begin with {}: it is never touched",
            self.prefix
        )))
    }

    /// Deletes every controller of that NQN, and sees that they are gone.
    pub(super) fn delete_all(&self, nqn: &str) -> Result<(), FabricsError> {
        let failed = |e: super::folder::SysfsError| FabricsError(e.to_string());
        self.managed(nqn)?;
        let end = Instant::now() + GONE_WITHIN;
        loop {
            let all = sysfs::held(&self.root, nqn).map_err(failed)?;
            if all.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let names: Vec<String> = all.into_iter().map(|(name, _)| name).collect();
                return Err(FabricsError(format!(
                    "{} of {nqn} did not go within {GONE_WITHIN:?}",
                    names.join(", ")
                )));
            }
            for (name, folder) in all {
                match folder.read("transport").map_err(failed)?.as_deref() {
                    Some("tcp") => {}
                    // It goes by itself.
                    None => continue,
                    Some(other) => {
                        return Err(FabricsError(format!(
                            "{name} of {nqn} is connected by {other}, not tcp: it is no connection of this agent, and left alone"
                        )));
                    }
                }
                // Returns when it is done; one that is gone, or goes, answers as if it were not there.
                folder.write("delete_controller", "1").map_err(failed)?;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
