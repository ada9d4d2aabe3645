//! NVMe over TCP by the kernel's own files: /dev/nvme-fabrics to connect, sysfs for all else. No nvme-cli, no udev.
//!
//! Owns the one place that connects and the one place that disconnects. Everything is read anew for each answer, so that a restart
//! of the agent changes nothing; what cannot be read is an error or [`Use::Unknown`], never an absence.

mod connect;
mod connect_line;
mod disconnect;
mod folder;
pub mod identity;
pub mod sysfs;
mod usage;

use std::path::{Path, PathBuf};

pub use self::folder::SysfsError;
use self::identity::Identity;
use self::sysfs::{Disk, DiskError};
use self::usage::Walks;
use crate::attachment::decide::DisconnectKey;
use crate::attachment::model::Use;
use crate::fabrics::{ConnectError, Fabrics, FabricsError, Link, Options, Session, Target};

/// The kernel of this host.
#[derive(Debug)]
pub struct Kernel {
    root: PathBuf,
    prefix: String,
    identity: Identity,
    walks: Walks,
}

impl Kernel {
    /// The kernel whose files are below `root`; `kubelet` is kubelet's folder. Only NQNs that begin with `prefix` are ever
    /// connected or disconnected.
    #[must_use]
    pub fn new(root: &Path, kubelet: &Path, prefix: &str, identity: Identity) -> Self {
        Self {
            root: root.to_owned(),
            prefix: prefix.to_owned(),
            identity,
            walks: Walks::new(root, kubelet),
        }
    }

    /// How this machine names itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The disk of that subsystem now.
    ///
    /// # Errors
    /// When sysfs cannot be read, or shows more than one.
    pub fn disk(&self, nqn: &str) -> Result<Option<Disk>, DiskError> {
        sysfs::disk_of(&self.root, nqn)
    }

    /// Has the controllers of that NQN look for changes of their namespaces.
    ///
    /// # Errors
    /// When sysfs cannot be read or written.
    pub fn rescan(&self, nqn: &str) -> Result<(), FabricsError> {
        self.managed(nqn)?;
        for (_, controller) in sysfs::held(&self.root, nqn).map_err(failed)? {
            controller.write("rescan_controller", "1").map_err(failed)?;
        }
        Ok(())
    }

    /// Has the controllers of that NQN take over these times; says what it changed. The keep-alive cannot be changed while
    /// connected.
    ///
    /// # Errors
    /// When sysfs cannot be read or written.
    pub fn set_timeouts(&self, nqn: &str, options: &Options) -> Result<Vec<String>, FabricsError> {
        self.managed(nqn)?;
        let mut changed = Vec::new();
        for (name, controller) in sysfs::held(&self.root, nqn).map_err(failed)? {
            // The kernel keeps a number of attempts, so that the delay has to be right before the time is.
            for (attribute, wanted) in [
                ("reconnect_delay", options.reconnect_delay),
                ("ctrl_loss_tmo", options.ctrl_loss_tmo),
            ] {
                let Some(now) = controller.read(attribute).map_err(failed)? else {
                    continue;
                };
                let reads = match attribute {
                    "ctrl_loss_tmo" => attempts(wanted, options.reconnect_delay),
                    _ => wanted,
                };
                if seconds(&now) == Some(reads) {
                    continue;
                }
                controller.write(attribute, &wanted.to_string()).map_err(failed)?;
                changed.push(format!("{name}: {attribute} {now} -> {wanted}"));
            }
        }
        Ok(changed)
    }
}

/// How a time reads back: as whole attempts, rounded up.
fn attempts(seconds: i32, delay: i32) -> i32 {
    if seconds <= 0 || delay <= 0 {
        return seconds;
    }
    let whole = seconds.saturating_add(delay - 1) / delay;
    whole.saturating_mul(delay)
}

/// -1 reads back as `off`.
fn seconds(text: &str) -> Option<i32> {
    if text == "off" { Some(-1) } else { text.parse().ok() }
}

fn failed(e: SysfsError) -> FabricsError {
    FabricsError(format!("sysfs: {e}"))
}

impl Fabrics for Kernel {
    fn connect(&self, to: &Target) -> Result<Link, ConnectError> {
        self.connect_to(to)
    }

    fn disconnect(&self, nqn: &str, key: DisconnectKey) -> Result<(), FabricsError> {
        self.delete_controller(nqn, key)
    }

    fn sessions(&self) -> Result<Vec<Session>, FabricsError> {
        let all = sysfs::controllers(&self.root).map_err(failed)?;
        // Read after the controllers: a disk that has come meanwhile is no missing one.
        let shown = sysfs::with_disk(&self.root).map_err(failed)?;
        let fabric = all.into_iter().filter(|c| c.transport != "pcie");
        Ok(fabric
            .map(|c| Session {
                disk: shown.contains_key(&c.nqn),
                identity: shown.get(&c.nqn).cloned().flatten(),
                connection: c.instance,
                nqn: c.nqn,
                state: c.state,
            })
            .collect())
    }

    fn in_use(&self, nqn: &str) -> Use {
        match usage::prove(&self.root, &self.walks, nqn) {
            Ok(_) => Use::Unused,
            Err(used) => used,
        }
    }

    fn retime(&self, nqn: &str, options: &Options) -> Result<Vec<String>, FabricsError> {
        self.set_timeouts(nqn, options)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree;
