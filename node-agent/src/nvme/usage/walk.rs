//! One look at everything on this host that can use a disk: mounts of every mount namespace, open descriptors of every process,
//! device nodes below kubelet's folders, loop devices.
//!
//! What ends while it is looked at is not there; any other error ends the look, since a list with a hole proves nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, major, minor, statx};
use rustix::io::Errno;

use super::super::folder::Folder;
use super::super::sysfs::Number;

/// The first process namespace has this number on every kernel (include/linux/proc_ns.h).
const FIRST_PROCESSES: &str = "pid:[4026531836]";
/// Folders below kubelet's with what it publishes as block devices.
const PUBLISHED: &str = "plugins/kubernetes.io/csi/volumeDevices";
const PODS: &str = "pods";
const POD_DEVICES: &str = "volumeDevices";
/// kubelet's own are five deep.
const DEEPEST: usize = 8;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Each with a process that sees it.
    pub(super) mounts: BTreeMap<Mount, String>,
    /// Block and character devices that are open, each with one of those who have it open.
    pub(super) open: BTreeMap<(Kind, Number), String>,
    pub(super) published: Vec<(Number, PathBuf)>,
    pub(super) loops: Vec<Loop>,
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A disk.
    Block,
    /// Also the generic device of a namespace, by which it can be written.
    Character,
}

/// A mount that could be of a disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mount {
    pub(super) dev: Number,
    /// Path within the filesystem.
    pub(super) within: String,
    pub(super) point: String,
    pub(super) kind: String,
    pub(super) source: String,
}

/// A loop device with something behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) behind: Behind,
}

/// What is behind a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Device(Number),
    /// On a filesystem, which is mounted then.
    File,
    /// Its path leads nowhere that we can see.
    Unseen,
}

/// Looks.
pub(super) fn walk(root: &Path, kubelet: &Path) -> Result<Walk, String> {
    let proc = root.join("proc");
    let namespace = fs::read_link(proc.join("1/ns/pid")).map_err(|e| said(&proc.join("1/ns/pid"), e))?;
    if namespace != Path::new(FIRST_PROCESSES) {
        return Err(format!(
            "{} shows the processes of a container only: run the agent's pod with hostPID and the host's /proc",
            proc.display()
        ));
    }
    let mut seen = Walk::default();
    // By mount namespace, one process in it.
    let mut namespaces: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for process in numbers(&proc)? {
        let at = proc.join(&process);
        for task in going(numbers(&at.join("task")))?.unwrap_or_default() {
            let at = at.join("task").join(&task);
            let link = at.join("ns/mnt");
            let Some(namespace) = going(fs::read_link(&link).map_err(|e| Fault::at(&link, e)))? else {
                continue;
            };
            if !namespaces.contains_key(&namespace) && mounts(&at, &mut seen.mounts)? {
                namespaces.insert(namespace, at);
            }
        }
        descriptors(&at, &mut seen.open)?;
    }
    published(kubelet, &mut seen.published)?;
    let roots: Vec<PathBuf> = namespaces.into_values().map(|at| at.join("root")).collect();
    seen.loops = loops(root, &roots)?;
    Ok(seen)
}

/// Tasks that wait where no signal reaches them: an umount or the end of a process may hang in there, with data that no list of
/// mounts or descriptors shows any more.
pub(super) fn stuck(root: &Path) -> Result<Vec<String>, String> {
    let proc = root.join("proc");
    let mut all = Vec::new();
    for process in numbers(&proc)? {
        let tasks = proc.join(&process).join("task");
        for task in going(numbers(&tasks))?.unwrap_or_default() {
            let path = tasks.join(&task).join("stat");
            let Some(stat) = going(fs::read(&path).map_err(|e| Fault::at(&path, e)))? else {
                continue;
            };
            // The name before it may have any character, a bracket as well.
            let stat = String::from_utf8_lossy(&stat);
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            match state {
                Some('D') => all.push(who(&proc.join(&process))),
                Some(_) => {}
                None => return Err(format!("{} is not understood: {stat:?}", path.display())),
            }
        }
    }
    all.dedup();
    Ok(all)
}

/// An error of one path.
struct Fault {
    path: PathBuf,
    source: io::Error,
}

impl Fault {
    fn at(path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        said(&fault.path, fault.source)
    }
}

fn said(path: &Path, e: impl Display) -> String {
    format!("cannot read {}: {e}", path.display())
}

/// `None` for what belongs to a process that has ended. A dead one answers EINVAL for its mounts.
fn going<T>(result: Result<T, Fault>) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) => match Errno::from_io_error(&fault.source) {
            Some(Errno::NOENT | Errno::SRCH | Errno::INVAL) => Ok(None),
            _ => Err(fault.into()),
        },
    }
}

/// Names in a folder that are numbers.
fn numbers(folder: &Path) -> Result<Vec<String>, Fault> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Fault::at(folder, e))? {
        let entry = entry.map_err(|e| Fault::at(folder, e))?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            all.push(name.to_owned());
        }
    }
    Ok(all)
}

fn who(process: &Path) -> String {
    let id = process.file_name().unwrap_or_default().to_string_lossy();
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    format!("process {id} ({})", name.trim())
}

/// Whether there was a list.
fn mounts(task: &Path, into: &mut BTreeMap<Mount, String>) -> Result<bool, String> {
    let path = task.join("mountinfo");
    let Some(bytes) = going(fs::read(&path).map_err(|e| Fault::at(&path, e)))? else {
        return Ok(false);
    };
    let by = who(task);
    for line in String::from_utf8_lossy(&bytes).lines() {
        let mount = mount(line).ok_or_else(|| format!("{} is not understood: {line:?}", path.display()))?;
        if mount.dev.0 != 0 || mount.source.starts_with("/dev/") || mount.kind == "devtmpfs" {
            into.entry(mount).or_insert_with(|| by.clone());
        }
    }
    Ok(true)
}

/// `36 35 98:0 /within /point rw,noatime shared:1 - ext4 /dev/source rw` (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let mut right = right.split(' ');
    Some(Mount {
        dev: super::super::sysfs::number(left.next()?)?,
        within: plain(left.next()?),
        point: plain(left.next()?),
        kind: right.next()?.to_owned(),
        source: plain(right.next()?),
    })
}

/// Blanks and backslashes are written as `\040`.
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits
            .and_then(|d| u8::from_str_radix(d, 8).ok())
            .filter(|_| first == b'\\')
        {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn descriptors(process: &Path, into: &mut BTreeMap<(Kind, Number), String>) -> Result<(), String> {
    let folder = process.join("fd");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&folder, flags, Mode::empty()).map_err(|e| Fault::at(&folder, e));
    let Some(fd) = going(opened)? else { return Ok(()) };
    let Some(entries) = going(Dir::read_from(&fd).map_err(|e| Fault::at(&folder, e)))? else {
        return Ok(());
    };
    for entry in entries {
        let Some(entry) = going(entry.map_err(|e| Fault::at(&folder, e)))? else {
            return Ok(());
        };
        if entry.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        // What is known of the file is enough: nobody asks a server that may be away.
        let stat = statx(
            &fd,
            entry.file_name(),
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::BASIC_STATS,
        );
        let name = entry.file_name().to_string_lossy();
        let stat = stat.map_err(|e| Fault::at(&folder.join(&*name), e));
        let stat = match going(stat) {
            Ok(Some(stat)) => stat,
            Ok(None) => continue,
            Err(why) => match no_device(process, &name) {
                Ok(()) => continue,
                Err(doubt) => return Err(format!("{why} ({}), and {doubt}", who(process))),
            },
        };
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::BlockDevice => Kind::Block,
            FileType::CharacterDevice => Kind::Character,
            FileType::RegularFile
            | FileType::Directory
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::Unknown => continue,
        };
        let number = (stat.stx_rdev_major, stat.stx_rdev_minor);
        into.entry((kind, number)).or_insert_with(|| who(process));
    }
    Ok(())
}

/// Proof that an open file is no device, where the file itself cannot be asked: its filesystem may be another user's (FUSE), or its
/// server away. On a mount with `nodev` the kernel opens none. The kind of a filesystem alone proves nothing: kubelet's folder, with
/// the nodes that are published there, may lie on NFS.
fn no_device(process: &Path, name: &str) -> Result<(), String> {
    let path = process.join("fdinfo").join(name);
    let Some(about) = going(fs::read_to_string(&path).map_err(|e| Fault::at(&path, e)))? else {
        // It was closed meanwhile.
        return Ok(());
    };
    let mount = about
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .map(str::trim);
    let mount = mount.ok_or_else(|| format!("{} names no mount", path.display()))?;
    let path = process.join("mountinfo");
    let bytes = fs::read(&path).map_err(|e| said(&path, e))?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|line| line.split(' ').next() == Some(mount));
    // A mount that was taken away, or is another namespace's.
    let line = line.ok_or_else(|| format!("its mount {mount} is not in {}", path.display()))?;
    let options = line.split(' ').nth(5).unwrap_or_default();
    if options.split(',').any(|option| option == "nodev") {
        return Ok(());
    }
    Err(format!("it may be a device: its mount is not nodev: {line}"))
}

fn published(kubelet: &Path, into: &mut Vec<(Number, PathBuf)>) -> Result<(), String> {
    nodes(&kubelet.join(PUBLISHED), DEEPEST, into)?;
    let pods = kubelet.join(PODS);
    for pod in entries(&pods)? {
        nodes(&pod.join(POD_DEVICES), DEEPEST, into)?;
    }
    Ok(())
}

/// Block devices below a folder: nodes as they are published, and files that one is mounted on.
fn nodes(folder: &Path, deep: usize, into: &mut Vec<(Number, PathBuf)>) -> Result<(), String> {
    for path in entries(folder)? {
        let Some(stat) = going(fs::symlink_metadata(&path).map_err(|e| Fault::at(&path, e)))? else {
            continue;
        };
        match FileType::from_raw_mode(stat.mode()) {
            FileType::BlockDevice => into.push(((major(stat.rdev()), minor(stat.rdev())), path)),
            FileType::Directory if deep == 0 => return Err(format!("{} is nested too deep", path.display())),
            FileType::Directory => nodes(&path, deep - 1, into)?,
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::Unknown => {}
        }
    }
    Ok(())
}

/// Empty for a folder that is not there, or is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            let all: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|e| e.path())).collect();
            all.map_err(|e| said(folder, e))
        }
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(Vec::new()),
        Err(e) => Err(said(folder, e)),
    }
}

fn loops(root: &Path, roots: &[PathBuf]) -> Result<Vec<Loop>, String> {
    let text = |e: super::super::SysfsError| format!("cannot read sysfs: {e}");
    let sys = Folder::sys(root).map_err(text)?;
    let mut all = Vec::new();
    let Some(disks) = sys.folder("block").map_err(text)? else {
        return Ok(all);
    };
    for (name, _) in disks.names().map_err(text)? {
        let at = Path::new("block").join(&name);
        let Some(backing) = sys.folder(at.join("loop")).map_err(text)? else {
            continue;
        };
        let path = backing
            .read("backing_file")
            .map_err(text)?
            .filter(|path| !path.is_empty());
        let disk = sys.folder(&at).map_err(text)?;
        let (Some(path), Some(disk)) = (path, disk) else {
            continue;
        };
        let size = disk.read("size").map_err(text)?.unwrap_or_default();
        let blocks: u64 = size
            .parse()
            .map_err(|_| format!("the size of {name} in sysfs reads {size:?}"))?;
        all.push(Loop {
            behind: behind(&path, root, roots),
            size_bytes: blocks.saturating_mul(512),
            name,
            path,
        });
    }
    Ok(all)
}

/// The kernel gives a path as whoever set the loop device up sees it.
fn behind(path: &str, root: &Path, roots: &[PathBuf]) -> Behind {
    for root in std::iter::once(root).chain(roots.iter().map(PathBuf::as_path)) {
        let at = root.join(OsStr::from_bytes(path.trim_start_matches('/').as_bytes()));
        let stat = statx(rustix::fs::CWD, &at, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS);
        let Ok(stat) = stat else { continue };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::BlockDevice => return Behind::Device((stat.stx_rdev_major, stat.stx_rdev_minor)),
            FileType::RegularFile => return Behind::File,
            FileType::Directory
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::Unknown => {}
        }
    }
    Behind::Unseen
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
