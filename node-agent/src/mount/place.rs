//! A path below kubelet's folder, opened step by step so that no symbolic link leads elsewhere.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Why a path is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Outside, or with `.` or `..`.
    #[error("{path} is refused: it must be an absolute path below {base}, without `.` and `..`")]
    Outside {
        /// The path.
        path: PathBuf,
        /// Kubelet's folder.
        base: PathBuf,
    },
    /// A symbolic link on the way.
    #[error("{0} is refused: a part of it is a symbolic link")]
    Link(PathBuf),
    /// A part of it is missing.
    #[error("{0}: a folder on the way is missing")]
    Missing(PathBuf),
    /// The kernel says no.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
}

/// A name in an open folder.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: OsString,
    /// The whole path, for messages and to compare with the mount table.
    pub path: PathBuf,
}

/// What is at a place, not following links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Nothing,
    /// A folder.
    Folder,
    /// A block device node with that number.
    Block(rustix::fs::Dev),
    /// A regular file of that size.
    File(u64),
    /// Anything else.
    Other,
}

impl Kind {
    /// In words.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Nothing => "missing",
            Self::Folder => "a folder",
            Self::Block(_) => "a device node",
            Self::File(_) => "a file",
            Self::Other => "something else (a link, a socket)",
        }
    }
}

/// The part of `path` below `base`. Pure.
fn below<'a>(base: &Path, path: &'a Path) -> Option<&'a Path> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::RootDir);
    // `components` drops `.` inside of a path: look at the text for it, and for a doubled or trailing slash.
    let text = path.as_os_str().as_encoded_bytes();
    let odd = text
        .split(|&b| b == b'/')
        .skip(1)
        .any(|part| part.is_empty() || part == b"." || part == b"..");
    let rest = path.strip_prefix(base).ok()?;
    (base.is_absolute() && !odd && path.components().all(plain) && rest.components().next().is_some()).then_some(rest)
}

impl Place {
    /// Opens the folder that holds `path`. With `make`, missing folders on the way are made, as kubelet does.
    ///
    /// # Errors
    /// When it is not below `base`, or not to be reached without a symbolic link.
    pub fn open(base: &Path, path: &Path, make: bool) -> Result<Self, PlaceError> {
        let outside = || PlaceError::Outside {
            path: path.to_owned(),
            base: base.to_owned(),
        };
        let rest = below(base, path).ok_or_else(outside)?;
        let name = rest.file_name().ok_or_else(outside)?.to_owned();
        let fail = |e: Errno| match e {
            Errno::LOOP | Errno::XDEV => PlaceError::Link(path.to_owned()),
            Errno::NOENT => PlaceError::Missing(path.to_owned()),
            other => PlaceError::Io(path.to_owned(), other.into()),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Kubelet's folder itself may well be a link: its owner chose that.
        let mut parent = rustix::fs::openat(CWD, base, flags, Mode::empty()).map_err(fail)?;
        for part in rest.parent().into_iter().flat_map(Path::components) {
            let step = |parent: &OwnedFd| {
                openat2(
                    parent,
                    part.as_os_str(),
                    flags | OFlags::NOFOLLOW,
                    Mode::empty(),
                    straight(),
                )
            };
            parent = match step(&parent) {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o750)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(fail(e)),
                    }
                    step(&parent).map_err(fail)?
                }
                // O_NOFOLLOW and O_DIRECTORY on a link.
                Err(Errno::NOTDIR) if is_link(&parent, part.as_os_str()) => {
                    return Err(PlaceError::Link(path.to_owned()));
                }
                other => other.map_err(fail)?,
            };
        }
        Ok(Self {
            parent,
            name,
            path: path.to_owned(),
        })
    }

    /// What is there.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn kind(&self) -> Result<Kind, PlaceError> {
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => Ok(match FileType::from_raw_mode(about.st_mode) {
                FileType::Directory => Kind::Folder,
                FileType::BlockDevice => Kind::Block(about.st_rdev),
                FileType::RegularFile => Kind::File(u64::try_from(about.st_size).unwrap_or(0)),
                FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::Unknown => Kind::Other,
            }),
            Err(Errno::NOENT) => Ok(Kind::Nothing),
            Err(e) => Err(self.fail(e)),
        }
    }

    /// Opens what is there as a reference, not following a link.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn handle(&self) -> Result<OwnedFd, PlaceError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.parent, &self.name, flags, Mode::empty(), straight()).map_err(|e| self.fail(e))
    }

    /// The same place with a descriptor of its own, for a thread that may outlive this one: the number of a closed descriptor
    /// soon means another folder.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn again(&self) -> Result<Self, PlaceError> {
        Ok(Self {
            parent: self
                .parent
                .try_clone()
                .map_err(|e| PlaceError::Io(self.path.clone(), e))?,
            name: self.name.clone(),
            path: self.path.clone(),
        })
    }

    /// The folder that holds it.
    #[must_use]
    pub fn parent(&self) -> &OwnedFd {
        &self.parent
    }

    /// Its name in that folder.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// A path for calls that know no descriptors, which leads through the open folder.
    #[must_use]
    pub fn through(&self) -> PathBuf {
        by_handle(&self.parent).join(&self.name)
    }

    pub(super) fn fail(&self, error: Errno) -> PlaceError {
        match error {
            Errno::LOOP => PlaceError::Link(self.path.clone()),
            other => PlaceError::Io(self.path.clone(), other.into()),
        }
    }
}

/// A path that means exactly what the descriptor is open on.
#[must_use]
pub fn by_handle(handle: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", handle.as_raw_fd()).into()
}

fn straight() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

fn is_link(parent: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Symlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_below_and_what_is_not() {
        let base = Path::new("/var/lib/kubelet");
        assert_eq!(
            below(base, Path::new("/var/lib/kubelet/pods/x")),
            Some(Path::new("pods/x"))
        );
        for bad in [
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubelet/../x",
            "/var/lib/kubelet/a/../../x",
            "/var/lib/kubelet/./x",
            "/var/lib/kubelet/a/.",
            "/var/lib/kubelet//x",
            "/var/lib/kubelet/x/",
            "/var/lib/kubelet2/x",
            "var/lib/kubelet/x",
            "/etc",
            "",
        ] {
            assert_eq!(below(base, Path::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), base.path().join("link")).unwrap();
        std::fs::create_dir(base.path().join("folder")).unwrap();
        for path in ["link/x", "link/x/y"] {
            for make in [false, true] {
                let error = Place::open(base.path(), &base.path().join(path), make).unwrap_err();
                assert!(matches!(error, PlaceError::Link(_)), "{path}: {error}");
            }
        }
        let place = Place::open(base.path(), &base.path().join("link"), false).unwrap();
        assert_eq!(place.kind().unwrap(), Kind::Other, "the link, not what it leads to");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn missing_folders_are_made_when_asked() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b/c");
        assert!(matches!(
            Place::open(base.path(), &path, false),
            Err(PlaceError::Missing(_))
        ));
        let place = Place::open(base.path(), &path, true).unwrap();
        assert_eq!(place.kind().unwrap(), Kind::Nothing, "only what is on the way");
        assert!(base.path().join("a/b").is_dir());
        std::fs::write(&path, "123").unwrap();
        assert_eq!(place.kind().unwrap(), Kind::File(3));
    }

    proptest! {
        #[test]
        fn nothing_gets_outside(text in "(/?(\\.\\.|\\.|a|var|lib|kubelet|\u{e4} b|)){0,8}/?") {
            let base = Path::new("/var/lib/kubelet");
            let path = PathBuf::from(format!("/var/lib/kubelet{text}"));
            if let Some(rest) = below(base, &path) {
                prop_assert!(rest.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(base.join(rest), path);
            }
        }
    }
}
