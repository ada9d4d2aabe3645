//! Requests, parsed once: behind this line no path is unchecked and no capability is open.
//!
//! Contexts and secrets of a request are not read at all: a node uses only what its RdsAttachment says, so that a PersistentVolume with
//! forged attributes reaches nothing.

use std::path::{Component, Path, PathBuf};

use csi_proto::csi::v1 as csi;
use csi_proto::csi::v1::volume_capability::AccessType;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;

use super::failure::{Failure, shown, shown_path};

/// How a volume is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a raw device.
    Block,
    /// With a filesystem: its type, if named, and the options of its mount.
    Filesystem {
        /// `None`: that of the volume.
        fs: Option<String>,
        /// In the order of the request.
        flags: Vec<String>,
    },
}

/// A capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// How.
    pub access: Access,
    /// The mode allows no writer.
    pub reads_only: bool,
}

/// NodeStageVolume.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The volume.
    pub volume: String,
    /// Where.
    pub staging: PathBuf,
    /// How.
    pub capability: Capability,
}

/// NodePublishVolume.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The volume.
    pub volume: String,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where the pod will see it.
    pub target: PathBuf,
    /// How.
    pub capability: Capability,
    /// The pod may only read.
    pub read_only: bool,
}

/// Checks paths against kubelet's folder.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Kubelet's folder.
    pub kubelet: PathBuf,
}

impl Paths {
    /// A path of a request: absolute, plain, and below kubelet's folder.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check(&self, what: &str, path: &str) -> Result<PathBuf, Failure> {
        let bad = |why: String| Failure::Invalid(format!("{what} `{}` {why}", shown(path)));
        if path.is_empty() {
            return Err(Failure::Invalid(format!("{what} is missing from the request")));
        }
        let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
        let given = Path::new(path);
        let dots = path.split('/').any(|part| part == "." || part == "..");
        if path.contains('\0') || path.len() > 4095 || dots || !given.is_absolute() || !given.components().all(plain) {
            return Err(bad("is not an absolute path without `.` and `..`".to_owned()));
        }
        let normal: PathBuf = given.components().collect();
        if normal == self.kubelet || !normal.starts_with(&self.kubelet) {
            return Err(bad(format!(
                "is not below {}, kubelet's folder: nothing else is touched. Set --kubelet-dir if kubelet's folder is elsewhere",
                shown_path(&self.kubelet)
            )));
        }
        Ok(normal)
    }

    /// Where a volume is said to be already: at a path where none can be, it is not.
    ///
    /// # Errors
    /// When it is missing, or no path of ours.
    pub fn published(&self, what: &str, path: &str) -> Result<PathBuf, Failure> {
        match self.check(what, path) {
            Err(Failure::Invalid(why)) if !path.is_empty() => Err(Failure::NotFound(why)),
            judged => judged,
        }
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// When something is missing or wrong.
    pub fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<Stage, Failure> {
        let volume = volume(&request.volume_id)?;
        if request.staging_target_path.is_empty() {
            return Err(Failure::Invalid(
                "staging_target_path is missing from the request".to_owned(),
            ));
        }
        let capability = capability(request.volume_capability.as_ref())?;
        Ok(Stage {
            volume,
            capability,
            staging: self.check("staging_target_path", &request.staging_target_path)?,
        })
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// When something is missing or wrong.
    pub fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<Publish, Failure> {
        let volume = volume(&request.volume_id)?;
        if request.target_path.is_empty() {
            return Err(Failure::Invalid("target_path is missing from the request".to_owned()));
        }
        let capability = capability(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(Failure::NotNow(
                "staging_target_path is missing from the request: volumes of this driver are staged first".to_owned(),
            ));
        }
        Ok(Publish {
            volume,
            read_only: request.readonly || capability.reads_only,
            capability,
            staging: self.check("staging_target_path", &request.staging_target_path)?,
            target: self.check("target_path", &request.target_path)?,
        })
    }
}

/// A volume id of a request. One that cannot be the name of an object is a volume that does not exist.
///
/// # Errors
/// When it is missing, or no volume can have it.
pub fn volume(id: &str) -> Result<String, Failure> {
    if id.is_empty() {
        return Err(Failure::Invalid("volume_id is missing from the request".to_owned()));
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if id.len() > 63 || !id.chars().all(inner) || id.starts_with(['-', '.']) {
        return Err(Failure::NotFound(format!(
            "volume `{}` does not exist: it is no name that an RdsVolume can have. Check volumeHandle of the PersistentVolume",
            shown(id)
        )));
    }
    Ok(id.to_owned())
}

/// A capability of a request.
///
/// # Errors
/// When it is missing, incomplete, or of a kind that this driver does not serve.
pub fn capability(given: Option<&csi::VolumeCapability>) -> Result<Capability, Failure> {
    let missing = |what: &str| Failure::Invalid(format!("{what} is missing from the request"));
    let given = given.ok_or_else(|| missing("volume_capability"))?;
    let mode = given
        .access_mode
        .as_ref()
        .ok_or_else(|| missing("access_mode of volume_capability"))?
        .mode;
    let mode = Mode::try_from(mode).unwrap_or(Mode::Unknown);
    let reads_only = match mode {
        Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly => true,
        Mode::SingleNodeWriter
        | Mode::SingleNodeSingleWriter
        | Mode::SingleNodeMultiWriter
        | Mode::MultiNodeMultiWriter => false,
        Mode::Unknown | Mode::MultiNodeSingleWriter => {
            return Err(Failure::Invalid(format!(
                "access mode {} is not served: use ReadWriteOnce, ReadWriteOncePod, ReadOnlyMany, or ReadWriteMany with \
                 volumeMode: Block",
                mode.as_str_name()
            )));
        }
    };
    let access = match given
        .access_type
        .as_ref()
        .ok_or_else(|| missing("access_type of volume_capability"))?
    {
        AccessType::Block(_) => Access::Block,
        AccessType::Mount(_) if mode == Mode::MultiNodeMultiWriter => {
            return Err(Failure::Invalid(
                "two nodes that mount one filesystem destroy it: ReadWriteMany needs volumeMode: Block (R69)"
                    .to_owned(),
            ));
        }
        AccessType::Mount(mount) if !mount.volume_mount_group.is_empty() => {
            return Err(Failure::Invalid(
                "volume_mount_group is not served: kubelet sets the group of the files itself (fsGroupPolicy: File)"
                    .to_owned(),
            ));
        }
        AccessType::Mount(mount) => Access::Filesystem {
            fs: Some(mount.fs_type.clone()).filter(|fs| !fs.is_empty()),
            flags: mount.mount_flags.clone(),
        },
    };
    Ok(Capability { access, reads_only })
}

/// UID of the pod that a target path is for: `<kubelet>/pods/<uid>/..`, or the last part of a block publish,
/// `<kubelet>/plugins/kubernetes.io/csi/volumeDevices/publish/<volume>/<uid>`.
#[must_use]
pub fn pod_of(kubelet: &Path, target: &Path) -> Option<String> {
    let rest = target.strip_prefix(kubelet).ok()?;
    let parts: Vec<&str> = rest.iter().filter_map(|p| p.to_str()).collect();
    let uid = match parts.as_slice() {
        ["pods", uid, _, ..] => uid,
        ["plugins", "kubernetes.io", "csi", "volumeDevices", "publish", _, uid] => uid,
        _ => return None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!uid.is_empty() && uid.len() <= 128 && uid.chars().all(plain)).then(|| (*uid).to_owned())
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn paths() -> Paths {
        Paths {
            kubelet: "/var/lib/kubelet".into(),
        }
    }

    #[test]
    fn only_plain_paths_below_kubelets_folder() {
        let check = |path: &str| paths().check("target_path", path);
        assert_eq!(
            check("/var/lib/kubelet/pods/u/volumes/x/mount/").unwrap(),
            Path::new("/var/lib/kubelet/pods/u/volumes/x/mount")
        );
        let long = format!("/var/lib/kubelet/{}", "x".repeat(5000));
        for bad in [
            "",
            "pods/u",
            "/",
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubelet-other/x",
            "/var/lib/kubelet/../../etc",
            "/var/lib/kubelet/./x",
            "/etc/passwd",
            "/var/lib/kubelet/a\0b",
            long.as_str(),
        ] {
            let failure = check(bad).unwrap_err();
            assert_eq!(failure.code(), Code::InvalidArgument, "{bad}");
            assert!(failure.to_string().contains("target_path"), "{failure}");
            let code = if bad.is_empty() {
                Code::InvalidArgument
            } else {
                Code::NotFound
            };
            assert_eq!(paths().published("volume_path", bad).unwrap_err().code(), code, "{bad}");
        }
    }

    #[test]
    fn forged_handles_are_volumes_that_do_not_exist() {
        let long = "x".repeat(64);
        for bad in ["../x", "a/b", "A", "a b", "-a", "ü", long.as_str()] {
            assert_eq!(volume(bad).unwrap_err().code(), Code::NotFound, "{bad}");
        }
        assert_eq!(volume("").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(volume("pvc-1").unwrap(), "pvc-1");
    }

    fn mount(mode: Mode, group: &str) -> csi::VolumeCapability {
        csi::VolumeCapability {
            access_mode: Some(csi::volume_capability::AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(csi::volume_capability::MountVolume {
                fs_type: "xfs".into(),
                mount_flags: vec!["noatime".into()],
                volume_mount_group: group.into(),
            })),
        }
    }

    #[test]
    fn table_of_capabilities() {
        let fs = Access::Filesystem {
            fs: Some("xfs".into()),
            flags: vec!["noatime".into()],
        };
        for (mode, reads) in [
            (Mode::SingleNodeWriter, false),
            (Mode::SingleNodeSingleWriter, false),
            (Mode::SingleNodeMultiWriter, false),
            (Mode::SingleNodeReaderOnly, true),
            (Mode::MultiNodeReaderOnly, true),
        ] {
            let parsed = capability(Some(&mount(mode, ""))).unwrap();
            assert_eq!((parsed.access, parsed.reads_only), (fs.clone(), reads), "{mode:?}");
        }
        let mut no_type = mount(Mode::SingleNodeWriter, "");
        no_type.access_type = None;
        let mut no_mode = mount(Mode::SingleNodeWriter, "");
        no_mode.access_mode = None;
        for bad in [
            None,
            Some(no_type),
            Some(no_mode),
            Some(mount(Mode::Unknown, "")),
            Some(mount(Mode::MultiNodeSingleWriter, "")),
            Some(mount(Mode::MultiNodeMultiWriter, "")),
            Some(mount(Mode::SingleNodeWriter, "1000")),
        ] {
            assert_eq!(
                capability(bad.as_ref()).unwrap_err().code(),
                Code::InvalidArgument,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_pod_of_a_target() {
        let pod = |path: &str| pod_of(Path::new("/k"), Path::new(path));
        assert_eq!(
            pod("/k/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount").as_deref(),
            Some("u-1")
        );
        assert_eq!(
            pod("/k/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/u-1").as_deref(),
            Some("u-1")
        );
        for none in ["/k/pods/u-1", "/k/plugins/x/y", "/other/pods/u/x", "/k/pods/a b/x"] {
            assert_eq!(pod(none), None, "{none}");
        }
    }
}
