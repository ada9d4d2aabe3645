//! The mount table of this process's namespace: /proc/self/mountinfo, read whole within 10 s or not at all (R44, R45).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Dev, makedev};

/// Limit for reading it.
pub const LIMIT: Duration = Duration::from_secs(10);

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// The mount below it.
    pub parent: u64,
    /// Device number of its files; for btrfs that is not the disk's.
    pub device: Dev,
    /// Which folder of the filesystem.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Options of this mount: `rw,noatime`.
    pub options: String,
    /// Filesystem, as the kernel calls it.
    pub fs: String,
    /// What was given as the device when it was mounted. It may mean another disk by now.
    pub source: PathBuf,
    /// Options of the filesystem.
    pub super_options: String,
}

impl Entry {
    /// Whether it is on that disk.
    #[must_use]
    pub fn is_on(&self, disk: Dev) -> bool {
        self.disk() == Some(disk)
    }

    /// Device number of its disk. btrfs shows a number of its own: there it is that of the node it was mounted from, and `None`
    /// when that node is gone.
    #[must_use]
    pub fn disk(&self) -> Option<Dev> {
        if self.fs != "btrfs" {
            return Some(self.device);
        }
        let about = std::fs::metadata(&self.source).ok()?;
        about.file_type().is_block_device().then(|| about.rdev())
    }

    /// Whether this mount or its filesystem is read-only. A filesystem that the kernel has given up after an error is, though some
    /// kernels show it with other words than `ro` (ext4), and others not at all (XFS): see [`super::Mounts::refuses_writes`].
    #[must_use]
    pub fn read_only(&self) -> bool {
        let given_up = ["ro", "emergency_ro", "shutdown"];
        let any = |options: &str, words: &[&str]| options.split(',').any(|option| words.contains(&option));
        any(&self.options, &["ro"]) || any(&self.super_options, &given_up)
    }

    /// Whether the filesystem was mounted read-only, so that nothing was ever written by it. After an error only the filesystem is
    /// read-only, and of a read-only bind only the mount.
    #[must_use]
    pub fn mounted_read_only(&self) -> bool {
        let ro = |options: &str| options.split(',').any(|option| option == "ro");
        ro(&self.options) && ro(&self.super_options)
    }
}

/// All mounts, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// Why there is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It could not be read.
    #[error("cannot read the mount table {0}: {1}")]
    Read(PathBuf, String),
    /// It took too long.
    #[error(
        "the mount table could not be read within {LIMIT:?}: it is very long, or the node is in trouble; look at its mounts"
    )]
    Slow,
    /// A line that is not understood: what it says is not known, so nothing is.
    #[error("line {0} of the mount table is not understood: {1}")]
    Line(usize, String),
}

impl Table {
    /// Reads it.
    ///
    /// # Errors
    /// When it was not read whole and in time.
    pub fn read(host_root: &Path) -> Result<Self, TableError> {
        let path = host_root.join("proc/self/mountinfo");
        super::limited("mountinfo", LIMIT, move || {
            let bytes = std::fs::read(&path).map_err(|e| TableError::Read(path, e.to_string()))?;
            Self::parse(&bytes)
        })
        .unwrap_or(Err(TableError::Slow))
    }

    /// Parses one.
    ///
    /// # Errors
    /// Names the line that is not understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let entries = lines.enumerate().map(|(index, line)| {
            entry(line).ok_or_else(|| {
                let text = String::from_utf8_lossy(line);
                TableError::Line(index + 1, text.chars().take(200).collect())
            })
        });
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// The mount at that path that is seen there: the one that none other at the path is on.
    #[must_use]
    pub fn top(&self, path: &Path) -> Option<&Entry> {
        let all: Vec<&Entry> = self.entries.iter().filter(|entry| entry.mount_point == path).collect();
        all.iter()
            .rev()
            .find(|entry| !all.iter().any(|other| other.parent == entry.id && other.id != entry.id))
            .copied()
    }

    /// All mounts of a disk, bind mounts included.
    pub fn of(&self, disk: Dev) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.is_on(disk))
    }
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/x rw`: the fields before `-` are six and any number of optional ones.
fn entry(line: &[u8]) -> Option<Entry> {
    let mut words = line.split(|&byte| byte == b' ');
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let device = text(words.next()?)?;
    let (major, minor) = device.split_once(':')?;
    let root = unescaped(words.next()?);
    let mount_point = unescaped(words.next()?);
    let options = text(words.next()?)?;
    words.find(|word| *word == b"-")?;
    Some(Entry {
        id,
        parent,
        device: makedev(major.parse().ok()?, minor.parse().ok()?),
        root: root.into(),
        mount_point: mount_point.into(),
        options,
        fs: unescaped(words.next()?).into_string().ok()?,
        source: unescaped(words.next()?).into(),
        super_options: String::from_utf8_lossy(words.next()?).into_owned(),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// `\040` and its like are bytes in octal.
fn unescaped(bytes: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let octal = |b: &u8| (b'0'..=b'7').contains(b).then(|| u32::from(b - b'0'));
        let code = match (first, after) {
            (b'\\', [a, b, c, ..]) => match (octal(a), octal(b), octal(c)) {
                (Some(a), Some(b), Some(c)) => u8::try_from(a << 6 | b << 3 | c).ok(),
                (_, _, _) => None,
            },
            (_, _) => None,
        };
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain)
}

/// As the kernel writes a path into the table.
#[must_use]
pub fn escaped(path: &OsStr) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in path.as_bytes() {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
            text.extend(format!("\\{byte:03o}").bytes());
        } else {
            text.push(byte);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn r44_lines_of_real_tables() {
        let text = b"22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,errors=remount-ro\n\
            25 22 0:23 / /sys rw,nosuid shared:7 master:2 propagate_from:3 - sysfs sysfs rw\n\
            40 22 0:36 /@home /a\\040b\\011c\\012d\\134e rw - btrfs /dev/sda1 rw,ssd\n\
            41 22 0:37 / /empty rw - tmpfs  ro,size=4k\n\
            42 22 0:4 net:[4026532] /run/ns ro - nsfs nsfs rw\n";
        let table = Table::parse(text).unwrap();
        assert_eq!(table.entries.len(), 5);
        let [first, sys, home, empty, _] = &table.entries[..] else {
            panic!()
        };
        assert_eq!((first.device, first.fs.as_str()), (makedev(259, 1), "ext4"));
        assert_eq!(first.super_options, "rw,errors=remount-ro");
        assert_eq!(sys.fs, "sysfs", "three optional fields");
        assert_eq!(home.mount_point, Path::new("/a b\tc\nd\\e"));
        assert_eq!(home.root, Path::new("/@home"));
        assert_eq!((empty.source.as_os_str(), empty.read_only()), (OsStr::new(""), true));
        assert!(!home.read_only() && first.is_on(makedev(259, 1)));
    }

    #[test]
    fn a_filesystem_that_the_kernel_has_given_up_is_read_only() {
        for (options, read_only) in [
            ("rw,errors=remount-ro", false),
            ("ro,errors=remount-ro", true),
            ("rw,emergency_ro,errors=continue", true),
            ("rw,shutdown", true),
            ("rw,shutdown_later", false),
        ] {
            let line = format!("1 2 3:4 / /m rw shared:1 - ext4 /dev/x {options}\n");
            let table = Table::parse(line.as_bytes()).unwrap();
            assert_eq!(table.entries[0].read_only(), read_only, "{options}");
        }
    }

    #[test]
    fn read_only_from_the_start_is_told_from_read_only_since_an_error() {
        for (options, of_the_filesystem, from_the_start) in [
            ("rw,relatime", "rw", false),
            ("ro,relatime", "ro,norecovery", true),
            ("rw,relatime", "ro,errors=remount-ro", false),
            ("ro,relatime", "rw", false),
            ("rw", "rw,emergency_ro", false),
            ("ro", "rw,shutdown", false),
        ] {
            let line = format!("1 2 3:4 / /m {options} - ext4 /dev/x {of_the_filesystem}\n");
            let table = Table::parse(line.as_bytes()).unwrap();
            let found = table.entries[0].mounted_read_only();
            assert_eq!(found, from_the_start, "{options} {of_the_filesystem}");
        }
    }

    #[test]
    fn this_kernels_table_is_understood() {
        let table = Table::read(Path::new("/")).unwrap();
        assert_eq!(
            table.top(Path::new("/")).map(|e| e.root.as_path()),
            Some(Path::new("/"))
        );
    }

    #[test]
    fn b38_one_bad_line_fails_all() {
        for bad in [
            "x",
            "1 2 3:4 / /m rw ext4 /dev/x rw",
            "1 2 3 / /m rw - ext4 /dev/x rw",
            "a b c d e f g h i j",
        ] {
            let text = format!("22 1 259:1 / / rw - ext4 /dev/x rw\n{bad}\n");
            let error = Table::parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(&error, TableError::Line(2, line) if line == bad),
                "{bad}: {error}"
            );
        }
        assert!(Table::read(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn the_top_of_a_stack_is_what_is_on_none() {
        let line = |id: u64, parent: u64, at: &str| format!("{id} {parent} 7:{id} / {at} rw - ext4 /dev/x rw\n");
        // The kernel lists a mount after its parent; numbers are used again.
        let text = [line(30, 1, "/m"), line(12, 30, "/m"), line(9, 12, "/m/below")].concat();
        let table = Table::parse(text.as_bytes()).unwrap();
        assert_eq!(table.top(Path::new("/m")).map(|e| e.id), Some(12));
        assert_eq!(table.top(Path::new("/")), None);
    }

    #[test]
    fn r45_a_hundred_thousand_mounts_are_parsed() {
        let mut text = String::new();
        for id in 0..100_000 {
            text.push_str(&format!(
                "{id} 1 7:3 / /var/lib/kubelet/pods/{id}/volumes/x rw,relatime shared:{id} - ext4 /dev/loop3 rw\n"
            ));
        }
        assert_eq!(
            Table::parse(text.as_bytes()).unwrap().of(makedev(7, 3)).count(),
            100_000
        );
    }

    proptest! {
        #[test]
        fn any_path_comes_back_as_it_was(path in proptest::collection::vec(1_u8..=255, 0..40), source in proptest::collection::vec(1_u8..=255, 0..40)) {
            let (path, source) = (OsString::from_vec(path), OsString::from_vec(source));
            let mut line = b"1 2 3:4 / ".to_vec();
            line.extend(escaped(&path));
            line.extend(b" rw shared:1 - ext4 ");
            line.extend(escaped(&source));
            line.extend(b" rw\n");
            let table = Table::parse(&line).unwrap();
            prop_assert_eq!(table.entries.len(), 1);
            prop_assert_eq!(table.entries[0].mount_point.as_os_str(), path);
            prop_assert_eq!(table.entries[0].source.as_os_str(), source);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Table::parse(&bytes);
        }
    }
}
