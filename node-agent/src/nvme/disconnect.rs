//! The one door through which a controller is deleted.
//!
//! Only what begins with the managed prefix goes through (I6, R12), with one of the keys. NQN and controller are read and written
//! through one held folder, so that a controller that takes over a name in between is out of reach (B32, I10); one that is connected
//! in between is left alone as well, as nothing was proven of it.

use std::thread;
use std::time::{Duration, Instant};

use super::connect_line::check_nqn;
use super::folder::{Folder, SysfsError};
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
        // Before the proof, which is then about all of these. What comes later is another connection, that nothing was proven of.
        let held = self.held(nqn)?;
        if held.is_empty() {
            return Ok(());
        }
        match key {
            DisconnectKey::Fenced => self.delete_exactly(nqn, &held),
            DisconnectKey::Unused | DisconnectKey::Orphan => {
                let proof = usage::prove(&self.root, &self.walks, nqn).map_err(|used| {
                    FabricsError(match used {
                        Use::Used(by) => format!("in use: {by}"),
                        Use::Unknown(why) => format!("it is not proven that nothing uses it: {why}"),
                        Use::Unused => "in use".to_owned(),
                    })
                })?;
                proof.flush().map_err(FabricsError)?;
                self.delete_exactly(nqn, &held)?;
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

    /// The controllers of that NQN, held: their numbers are not given again meanwhile, and their names lead nowhere else.
    fn held(&self, nqn: &str) -> Result<Vec<Held>, FabricsError> {
        let all = sysfs::held(&self.root, nqn).map_err(failed)?;
        let held = all.into_iter().map(|(name, folder)| {
            let number = folder.number().map_err(failed)?;
            Ok(Held { name, number, folder })
        });
        held.collect()
    }

    /// Deletes these controllers of that NQN and no other one, and sees that nothing of the NQN is left.
    fn delete_exactly(&self, nqn: &str, held: &[Held]) -> Result<(), FabricsError> {
        let end = Instant::now() + GONE_WITHIN;
        loop {
            let now = self.held(nqn)?;
            let there = |one: &&Held| now.iter().any(|other| other.number == one.number);
            let left: Vec<&Held> = held.iter().filter(there).collect();
            if left.is_empty() {
                return no_other(nqn, &now);
            }
            if Instant::now() >= end {
                return Err(FabricsError(format!(
                    "{} of {nqn} did not go within {GONE_WITHIN:?}",
                    names(left)
                )));
            }
            for one in left {
                one.delete(nqn)?;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// A controller and its folder of sysfs, by which it alone is reached.
struct Held {
    name: String,
    number: u64,
    folder: Folder,
}

impl Held {
    fn delete(&self, nqn: &str) -> Result<(), FabricsError> {
        match self.folder.read("transport").map_err(failed)?.as_deref() {
            Some("tcp") => {}
            // It goes by itself.
            None => return Ok(()),
            Some(other) => {
                return Err(FabricsError(format!(
                    "{} of {nqn} is connected by {other}, not tcp: it is no connection of this agent, and left alone",
                    self.name
                )));
            }
        }
        // Returns when it is done; one that is gone, or goes, answers as if it were not there.
        self.folder.write("delete_controller", "1").map_err(failed)?;
        Ok(())
    }
}

/// What was connected since was not meant: it is somebody's, and nothing was proven of it.
fn no_other(nqn: &str, now: &[Held]) -> Result<(), FabricsError> {
    if now.is_empty() {
        return Ok(());
    }
    Err(FabricsError(format!(
        "{} of {nqn} was connected while an earlier connection was ended: it is left alone, and looked at anew",
        names(now)
    )))
}

fn names<'a>(all: impl IntoIterator<Item = &'a Held>) -> String {
    let names: Vec<&str> = all.into_iter().map(|one| one.name.as_str()).collect();
    names.join(", ")
}

fn failed(e: SysfsError) -> FabricsError {
    FabricsError(e.to_string())
}
