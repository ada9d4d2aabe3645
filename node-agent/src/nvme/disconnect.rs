//! The one door through which a controller is deleted.
//!
//! Only what begins with the managed prefix goes through (I6, R12), with one of the keys. NQN and controller are read and written
//! through one held folder, so that a controller that takes over a name in between is out of reach (B32, I10).

use std::thread;
use std::time::{Duration, Instant};

use super::connect_line::check_nqn;
use super::{Kernel, sysfs, usage};
use crate::attachment::decide::DisconnectKey;
use crate::attachment::model::Use;
use crate::fabrics::FabricsError;

/// Until a deleted controller has to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const REST_WITHIN: Duration = Duration::from_secs(2);
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

    /// Ends the connection. What the target has cut is past saving; all else has to be proven unused here and now, and is held
    /// and written back until it is gone.
    pub(super) fn delete_controller(&self, nqn: &str, key: DisconnectKey) -> Result<(), FabricsError> {
        self.managed(nqn)?;
        if self.of(nqn).map_err(|e| FabricsError(e.to_string()))?.is_empty() {
            return Ok(());
        }
        match key {
            DisconnectKey::Fenced => self.delete_all(nqn),
            DisconnectKey::Unused | DisconnectKey::Orphan => {
                let proof = usage::prove(&self.root, &self.walks, nqn).map_err(|used| {
                    FabricsError(match used {
                        Use::Used(by) => format!("in use: {by}"),
                        Use::Unknown(why) => format!("it is not proven that nothing uses it: {why}"),
                        Use::Unused => "in use".to_owned(),
                    })
                })?;
                proof.flush().map_err(FabricsError)?;
                self.delete_all(nqn)?;
                drop(proof);
                self.wait_for_the_rest(nqn);
                Ok(())
            }
        }
    }

    /// What the kernel keeps of it goes with our hold on the disk, a moment later.
    fn wait_for_the_rest(&self, nqn: &str) {
        let end = Instant::now() + REST_WITHIN;
        let left = || sysfs::objects_of(&self.root, nqn).is_ok_and(|o| !o.subsystems.is_empty());
        while left() && Instant::now() < end {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Deletes every controller of that NQN, and sees that they are gone.
    fn delete_all(&self, nqn: &str) -> Result<(), FabricsError> {
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
