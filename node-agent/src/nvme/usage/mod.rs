//! Whether anything on this host uses a disk, or what is left of one.
//!
//! *Unused* is a proof: no mount in any namespace, no open descriptor, no published device node, no loop device, no holder, and
//! at last the kernel lets us have the disk for ourselves. The last alone proves nothing, since a virtual machine opens its disk
//! without asking for that; the others alone do not either, since an umount that hangs has left the list of mounts already. Any
//! doubt is [`Use::Unknown`].

mod walk;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use self::walk::{Behind, Kind, Mount, Walk};
use super::sysfs::{self, Disk, Number};
use crate::attachment::model::Use;

/// How long an answer waits for a look that somebody else has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that a verdict looks at besides the walk.
#[derive(Debug, Default)]
struct Subject {
    /// Device numbers of disks and partitions.
    blocks: BTreeSet<Number>,
    /// Device numbers of their generic devices.
    characters: BTreeSet<Number>,
    /// Names of the disks now.
    names: BTreeSet<String>,
    /// The largest disk.
    size_bytes: u64,
    holders: Vec<String>,
    /// Numbers in the names of its subsystems and controllers: the kernel gives none of them again while something of it is left.
    instances: BTreeSet<u32>,
}

/// Disks that nothing uses, held so that nothing can mount them meanwhile.
#[derive(Debug, Default)]
pub(super) struct Proof {
    held: Vec<(OwnedFd, Disk)>,
}

impl Proof {
    /// Writes back what is left of a user that is gone. Only to live disks: nothing else can be written, and it would wait for ever.
    pub(super) fn flush(&self) -> Result<(), String> {
        for (fd, disk) in &self.held {
            if disk.live() {
                rustix::fs::fsync(fd).map_err(|e| format!("writing back {}: {e}", disk.name))?;
            }
        }
        Ok(())
    }
}

/// Proof that nothing uses the disks of that NQN.
///
/// # Errors
/// What uses them, or why that cannot be told.
pub(super) fn prove(root: &Path, walks: &Walks, nqn: &str) -> Result<Proof, Use> {
    let unknown = |why: String| Use::Unknown(why);
    let disks = sysfs::disks_of(root, nqn).map_err(|e| unknown(e.to_string()))?;
    let objects = sysfs::objects_of(root, nqn).map_err(|e| unknown(format!("cannot read sysfs: {e}")))?;
    if objects.subsystems.is_empty() && objects.controllers.is_empty() {
        return Ok(Proof::default());
    }
    let subject = Subject::of(&disks, &objects);
    let seen = walks.fresh();
    let seen = match &*seen {
        Ok(seen) => seen,
        Err(why) => return Err(unknown(why.clone())),
    };
    judge(seen, &subject, |mount| is_stale(root, mount))?;
    if objects.controllers.is_empty() {
        // The kernel keeps it for as long as something has its disk open.
        return Err(Use::Used(format!(
            "its connection is gone, and something still holds what is left of its disk ({})",
            objects.subsystems.join(", ")
        )));
    }
    let mut proof = Proof::default();
    for disk in disks {
        let fd = hold(&disk)?;
        proof.held.push((fd, disk));
    }
    if proof.held.iter().all(|(_, disk)| disk.live()) {
        return Ok(proof);
    }
    // Data on its way to a disk that does not answer shows in nothing but whoever waits for it.
    match walk::stuck(root).map_err(unknown)?.as_slice() {
        [] => Ok(proof),
        [first, ..] => Err(unknown(format!(
            "its connection is not live, and {first} hangs in the kernel, maybe with data for it"
        ))),
    }
}

/// All but the last test, on what was seen.
fn judge(seen: &Walk, subject: &Subject, is_stale: impl Fn(&Mount) -> bool) -> Result<(), Use> {
    let used = |by: String| Err(Use::Used(by));
    if let Some(holder) = subject.holders.first() {
        return used(format!("{holder} is on top of it"));
    }
    for (mount, by) in &seen.mounts {
        if subject.mounts(mount) {
            return used(format!("mounted on {}, as {by} sees it", mount.point));
        }
    }
    for (number, path) in &seen.published {
        if subject.blocks.contains(number) {
            return used(format!("published as block device {}", path.display()));
        }
    }
    for (kind, numbers) in [(Kind::Block, &subject.blocks), (Kind::Character, &subject.characters)] {
        for number in numbers {
            if let Some(by) = seen.open.get(&(kind, *number)) {
                return used(format!("open in {by}"));
            }
        }
    }
    for each in &seen.loops {
        match each.behind {
            Behind::Device(number) if subject.blocks.contains(&number) => {
                return used(format!("{} is a loop device on it ({})", each.name, each.path));
            }
            Behind::Unseen if each.size_bytes <= subject.size_bytes => {
                return Err(Use::Unknown(format!(
                    "{} is a loop device on {}, which leads nowhere any more and may have been it: end it with losetup -d",
                    each.name, each.path
                )));
            }
            Behind::Device(_) | Behind::Unseen | Behind::File => {}
        }
    }
    let stale = seen.mounts.iter().find(|(mount, _)| {
        subject_instance(&mount.source).is_some_and(|n| subject.instances.contains(&n)) && is_stale(mount)
    });
    match stale {
        Some((mount, by)) => used(format!(
            "mounted on {}, as {by} sees it, and the device of that mount is gone: unmount it",
            mount.point
        )),
        None => Ok(()),
    }
}

impl Subject {
    fn of(disks: &[Disk], objects: &sysfs::Objects) -> Self {
        let mut subject = Self {
            characters: objects.generic.iter().copied().collect(),
            ..Self::default()
        };
        for name in objects.subsystems.iter().chain(&objects.controllers) {
            subject.instances.extend(instance(name));
        }
        for disk in disks {
            subject.blocks.insert((disk.major, disk.minor));
            subject.blocks.extend(&disk.partitions);
            subject.names.insert(disk.name.clone());
            subject.size_bytes = subject.size_bytes.max(disk.size_bytes);
            subject.holders.extend(disk.holders.iter().cloned());
        }
        subject
    }

    /// By device number; by name where the filesystem has a number of its own (btrfs); by node where the node is mounted.
    fn mounts(&self, mount: &Mount) -> bool {
        let named = |path: &str| {
            let last = path.rsplit('/').next().unwrap_or_default();
            // `nvme0n1p2` is a partition of `nvme0n1`.
            let disk = last
                .split_once('p')
                .filter(|(_, n)| n.parse::<u32>().is_ok())
                .map_or(last, |(disk, _)| disk);
            self.names.contains(last) || self.names.contains(disk)
        };
        self.blocks.contains(&mount.dev)
            || (mount.source.starts_with("/dev/") && named(&mount.source))
            || (mount.kind == "devtmpfs" && mount.within != "/" && named(&mount.within))
    }
}

/// The number in `nvme-subsys7` or `nvme7`.
fn instance(name: &str) -> Option<u32> {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// The 7 in `/dev/nvme7n1`: of the subsystem, or of the controller where multipath is off. Only ever used for a doubt.
fn subject_instance(source: &str) -> Option<u32> {
    let (number, _) = source.strip_prefix("/dev/nvme")?.split_once('n')?;
    number.parse().ok()
}

/// The device of the mount does not exist any more.
fn is_stale(root: &Path, mount: &Mount) -> bool {
    let at = match mount.dev {
        // btrfs.
        (0, _) => root.join(mount.source.trim_start_matches('/')),
        (major, minor) => root.join(format!("sys/dev/block/{major}:{minor}")),
    };
    !at.exists()
}

fn hold(disk: &Disk) -> Result<OwnedFd, Use> {
    disk.open(OFlags::RDONLY | OFlags::EXCL).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::BUSY) => Use::Used(format!(
            "{} is held by the kernel: mounted where the agent does not see it, an umount that hangs, or another disk on top of it",
            disk.name
        )),
        _ => Use::Unknown(format!("cannot open {}: {e}", disk.path.display())),
    })
}

/// Looks that serve everybody who asked before they began, so that a hundred volumes that leave at once cost one or two.
#[derive(Debug)]
pub(super) struct Walks {
    root: PathBuf,
    kubelet: PathBuf,
    state: Mutex<State>,
    done: Condvar,
}

type Seen = Arc<Result<Walk, String>>;

#[derive(Debug, Default)]
struct State {
    runs: bool,
    begun: u64,
    last: Option<(u64, Seen)>,
}

impl Walks {
    pub(super) fn new(root: &Path, kubelet: &Path) -> Self {
        Self {
            root: root.to_owned(),
            kubelet: kubelet.to_owned(),
            state: Mutex::default(),
            done: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that begins after this call.
    fn fresh(&self) -> Seen {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        let wanted = state.begun + 1;
        loop {
            if let Some((number, seen)) = &state.last
                && *number >= wanted
            {
                return seen.clone();
            }
            if !state.runs {
                state.runs = true;
                state.begun += 1;
                let number = state.begun;
                drop(state);
                let seen = Arc::new(walk::walk(&self.root, &self.kubelet));
                state = self.lock();
                state.runs = false;
                state.last = Some((number, seen));
                self.done.notify_all();
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arc::new(Err(format!(
                    "an earlier look at the processes has not ended within {PATIENCE:?}"
                )));
            }
            state = match self.done.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

#[cfg(test)]
mod tests;
