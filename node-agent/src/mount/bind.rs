//! Publishing a staged filesystem: a bind mount of its root, never of a tree of mounts.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::mountinfo::Entry;
use super::options::Options;
use super::place::{Place, by_handle};
use super::{Access, Done, MountError, Mounts, device, limited, numbers};

impl Mounts {
    /// Binds the filesystem that is mounted at `source` to the folder `target`, which is made when it is missing. Of `options`
    /// those of a single mount count (ro, noatime, nosuid, nodev, noexec and so on); the others are the filesystem's.
    ///
    /// # Errors
    /// When it is not there afterwards as wanted; [`MountError::Occupied`] when something else is.
    pub fn bind(&self, source: &Path, target: &Path, access: Access, options: &Options) -> Result<Done, MountError> {
        let from = Place::open(&self.kubelet, source, false)?;
        let place = Place::open(&self.kubelet, target, true)?;
        let table = self.table()?;
        let staged = table
            .top(source)
            .ok_or_else(|| MountError::NotStaged(source.to_owned()))?
            .clone();
        // A bind of what is read-only is read-only whatever is asked.
        let read_only = access == Access::ReadOnly || options.flags.contains(MountFlags::RDONLY) || staged.read_only();
        let kernel = |what: &str, error: rustix::io::Errno| MountError::Kernel {
            what: format!("{what} {}", source.display()),
            target: target.to_owned(),
            error: error.into(),
        };
        if let Some(there) = table.top(target) {
            let same = there.device == staged.device && there.root == staged.root && there.fs == staged.fs;
            return match (same, there.read_only(), read_only) {
                (true, true, true) | (true, false, false) => Ok(Done::Already),
                // A call that ended between the two steps below: it is finished now.
                (true, false, true) => {
                    self.remount_read_only(target, options)?;
                    Ok(Done::Now)
                }
                (true, true, false) | (false, _, _) => Err(MountError::Occupied {
                    target: target.to_owned(),
                    there: told(there),
                    wanted: format!("{} of {}", staged.fs, source.display()),
                }),
            };
        }
        if let Some(disk) = staged.disk() {
            Self::no_storm(&table, disk)?;
        }
        let folder = device::folder(&place)?;
        rustix::mount::mount_bind(by_handle(&from.handle()?), by_handle(&folder)).map_err(|e| kernel("bind", e))?;
        if read_only {
            if let Err(error) = self.remount_read_only(target, options) {
                // Nothing may be left that a pod could write to.
                let _ = rustix::mount::unmount(place.through(), rustix::mount::UnmountFlags::NOFOLLOW);
                return Err(error);
            }
        } else {
            let flags = options.of_a_mount();
            if !flags.is_empty() {
                let flags = MountFlags::BIND | flags | inherited(&staged.options);
                rustix::mount::mount_remount(place.through(), flags, c"")
                    .map_err(|e| kernel("set options of the bind of", e))?;
            }
        }
        Ok(Done::Now)
    }

    /// Why the filesystem that is mounted there takes no writes any more; `None` when it does. The mount table does not say it of
    /// every filesystem: those that the kernel has shut down refuse to have their root opened, or to have it synced.
    ///
    /// # Errors
    /// When that cannot be told in time.
    pub fn refuses_writes(&self, target: &Path, limit: Duration) -> Result<Option<String>, MountError> {
        let place = Place::open(&self.kubelet, target, false)?;
        let failed = |error: std::io::Error| MountError::Kernel {
            what: "a look at the filesystem".to_owned(),
            target: target.to_owned(),
            error,
        };
        let asked = limited("refuses-writes", limit, move || File::open(place.through())?.sync_all());
        let silent = || failed(std::io::Error::other(format!("no answer within {limit:?}")));
        match asked.ok_or_else(silent)? {
            Ok(()) => Ok(None),
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::IO | Errno::SHUTDOWN | Errno::ROFS) => Ok(Some(e.to_string())),
                Some(_) | None => Err(failed(e)),
            },
        }
    }

    /// Makes one mount read-only; the filesystem and its other mounts stay as they are.
    ///
    /// # Errors
    /// When it is not read-only afterwards.
    pub fn remount_read_only(&self, target: &Path, options: &Options) -> Result<(), MountError> {
        let place = Place::open(&self.kubelet, target, false)?;
        let failed = |error: std::io::Error| MountError::Kernel {
            what: "remount read-only".to_owned(),
            target: target.to_owned(),
            error,
        };
        let now = self.table()?.top(target).map(|there| inherited(&there.options));
        let flags = MountFlags::BIND | MountFlags::RDONLY | options.of_a_mount() | now.unwrap_or(MountFlags::empty());
        rustix::mount::mount_remount(place.through(), flags, c"").map_err(|e| failed(e.into()))?;
        match self.table()?.top(target) {
            Some(there) if there.read_only() => Ok(()),
            Some(_) | None => Err(failed(std::io::Error::other("the mount table still says read-write"))),
        }
    }
}

/// A remount sets all flags anew: those that a mount has and must keep. The times of access are kept by the kernel.
fn inherited(options: &str) -> MountFlags {
    let kept = [
        ("nosuid", MountFlags::NOSUID),
        ("nodev", MountFlags::NODEV),
        ("noexec", MountFlags::NOEXEC),
        ("nosymfollow", MountFlags::NOSYMFOLLOW),
    ];
    kept.into_iter()
        .filter(|(name, _)| options.split(',').any(|option| option == *name))
        .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

/// A mount in words.
pub(super) fn told(entry: &Entry) -> String {
    format!(
        "{} of {} ({}{}, {})",
        entry.fs,
        entry.source.display(),
        numbers(entry.device),
        if entry.root == Path::new("/") {
            String::new()
        } else {
            format!(", its folder {}", entry.root.display())
        },
        if entry.read_only() { "read-only" } else { "read-write" }
    )
}
