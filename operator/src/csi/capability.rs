//! How a volume is to be used: access modes, filesystem or block, mount options.
//!
//! ReadWriteMany is for raw block only (R69): a filesystem that two nodes mount is destroyed.

use csi_proto::csi::v1::VolumeCapability;
use csi_proto::csi::v1::volume_capability::{AccessType, access_mode::Mode};
use rds_crds::RdsVolumeSpec;
use rds_crds::volume::{AccessMode, FsType, VolumeMode};

use super::failure::{Failure, shown};

/// Longest list of mount options, and longest option; as in the schema of RdsVolume.
const OPTIONS_MAX: usize = 32;
const OPTION_MAX: usize = 128;

/// The capabilities of one request, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Filesystem or block.
    pub mode: VolumeMode,
    /// In order, each once.
    pub access: Vec<AccessMode>,
    /// If said.
    pub fs_type: Option<FsType>,
    /// In the order given.
    pub mount_options: Vec<String>,
}

impl Capabilities {
    /// Reads and checks the list of a request.
    pub fn parse(list: &[VolumeCapability]) -> Result<Self, Failure> {
        let mut parsed: Option<Self> = None;
        for one in list {
            let next = Self::one(one)?;
            match &mut parsed {
                None => parsed = Some(next),
                Some(all) => all.join(next)?,
            }
        }
        let all = parsed
            .ok_or_else(|| Failure::Invalid("volume_capabilities is empty: say at least one access mode".into()))?;
        if all.mode == VolumeMode::Filesystem && all.access.contains(&AccessMode::ReadWriteMany) {
            return Err(Failure::Invalid(
                "ReadWriteMany with a filesystem is refused, as a filesystem that two nodes mount is destroyed: use \
                 volumeMode: Block, or access mode ReadWriteOnce"
                    .into(),
            ));
        }
        Ok(all)
    }

    fn one(capability: &VolumeCapability) -> Result<Self, Failure> {
        let mode = capability.access_mode.as_ref().map(|m| m.mode());
        let access = match mode {
            Some(Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter) => AccessMode::ReadWriteOnce,
            Some(Mode::SingleNodeSingleWriter) => AccessMode::ReadWriteOncePod,
            Some(Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly) => AccessMode::ReadOnlyMany,
            Some(Mode::MultiNodeMultiWriter) => AccessMode::ReadWriteMany,
            Some(Mode::MultiNodeSingleWriter) => {
                return Err(Failure::Invalid(
                    "access mode MULTI_NODE_SINGLE_WRITER is not supported: use ReadWriteOnce, or ReadWriteMany with \
                     volumeMode: Block"
                        .into(),
                ));
            }
            Some(Mode::Unknown) | None => {
                return Err(Failure::Invalid(
                    "a capability has no known access_mode: say one of CSI 1.12".into(),
                ));
            }
        };
        let (mode, fs_type, mount_options) = match &capability.access_type {
            Some(AccessType::Block(_)) => (VolumeMode::Block, None, Vec::new()),
            Some(AccessType::Mount(mount)) => (
                VolumeMode::Filesystem,
                filesystem(&mount.fs_type)?,
                options(&mount.mount_flags)?,
            ),
            None => {
                return Err(Failure::Invalid(
                    "a capability has no access_type: say block or mount".into(),
                ));
            }
        };
        Ok(Self {
            mode,
            access: vec![access],
            fs_type,
            mount_options,
        })
    }

    fn join(&mut self, next: Self) -> Result<(), Failure> {
        if self.mode != next.mode {
            return Err(Failure::Invalid(
                "the capabilities ask for block and filesystem at once: make two volumes, one of each volumeMode"
                    .into(),
            ));
        }
        if self.fs_type != next.fs_type || self.mount_options != next.mount_options {
            return Err(Failure::Invalid(
                "the capabilities differ in filesystem or mount options: a volume has one of each, ask for the same"
                    .into(),
            ));
        }
        self.access.extend(next.access);
        self.access.sort_unstable();
        self.access.dedup();
        Ok(())
    }

    /// What `spec` does not support of this, in words; `None` if it supports all of it.
    #[must_use]
    pub fn unsupported_by(&self, spec: &RdsVolumeSpec) -> Option<String> {
        let mode = spec.volume_mode.unwrap_or_default();
        if self.mode != mode {
            return Some(format!(
                "the volume has volumeMode {mode:?}, not {:?}: ask for that",
                self.mode
            ));
        }
        // The same rule by which the operator admits.
        if let Some(missing) = self.access.iter().find(|mode| !mode.served_by(&spec.access_modes)) {
            return Some(format!(
                "the volume has access modes {:?}, not {missing:?}: ask for one of them",
                spec.access_modes
            ));
        }
        let fs_type = spec.fs_type.unwrap_or_default();
        match self.fs_type {
            Some(asked) if asked != fs_type => {
                Some(format!("the volume has fsType {fs_type:?}, not {asked:?}: ask for that").to_lowercase())
            }
            _ => None,
        }
    }
}

/// A filesystem by its name; empty means that nothing was said.
pub fn filesystem(name: &str) -> Result<Option<FsType>, Failure> {
    match name {
        "" => Ok(None),
        "ext4" => Ok(Some(FsType::Ext4)),
        "ext3" => Ok(Some(FsType::Ext3)),
        "xfs" => Ok(Some(FsType::Xfs)),
        "btrfs" => Ok(Some(FsType::Btrfs)),
        other => Err(Failure::Invalid(format!(
            "filesystem `{}` is not supported: use ext4, ext3, xfs or btrfs",
            shown(other)
        ))),
    }
}

fn options(flags: &[String]) -> Result<Vec<String>, Failure> {
    if flags.len() > OPTIONS_MAX {
        return Err(Failure::Invalid(format!(
            "{} mount options: give at most {OPTIONS_MAX}",
            flags.len()
        )));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "_-=.:/@%+".contains(c);
    // By number, not by text: mount flags may hold secrets (I16).
    let refused = |f: &String| f.is_empty() || f.len() > OPTION_MAX || !f.chars().all(good);
    match flags.iter().position(refused) {
        None => Ok(flags.to_vec()),
        Some(bad) => Err(Failure::Invalid(format!(
            "mount option number {} is refused: give one option an entry, of 1 to {OPTION_MAX} letters, digits and \
             _-=.:/@%+",
            bad + 1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use csi_proto::csi::v1::volume_capability::{AccessMode as Access, BlockVolume, MountVolume};

    use super::*;

    fn capability(mode: Mode, access_type: Option<AccessType>) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(Access { mode: mode.into() }),
            access_type,
        }
    }

    fn mount(mode: Mode, fs_type: &str, flags: &[&str]) -> VolumeCapability {
        let mount_flags = flags.iter().map(ToString::to_string).collect();
        let mount = MountVolume {
            fs_type: fs_type.into(),
            mount_flags,
            ..Default::default()
        };
        capability(mode, Some(AccessType::Mount(mount)))
    }

    fn block(mode: Mode) -> VolumeCapability {
        capability(mode, Some(AccessType::Block(BlockVolume {})))
    }

    #[test]
    fn k12_modes_that_are_accepted() {
        for (mode, access) in [
            (Mode::SingleNodeWriter, AccessMode::ReadWriteOnce),
            (Mode::SingleNodeMultiWriter, AccessMode::ReadWriteOnce),
            (Mode::SingleNodeSingleWriter, AccessMode::ReadWriteOncePod),
            (Mode::SingleNodeReaderOnly, AccessMode::ReadOnlyMany),
            (Mode::MultiNodeReaderOnly, AccessMode::ReadOnlyMany),
        ] {
            assert_eq!(
                Capabilities::parse(&[mount(mode, "xfs", &["noatime"])]).unwrap().access,
                [access]
            );
            assert_eq!(Capabilities::parse(&[block(mode)]).unwrap().access, [access]);
        }
        let many = Capabilities::parse(&[block(Mode::MultiNodeMultiWriter), block(Mode::SingleNodeWriter)]).unwrap();
        assert_eq!(many.access, [AccessMode::ReadWriteOnce, AccessMode::ReadWriteMany]);
    }

    #[test]
    fn r69_r75_refusals_say_what_and_how() {
        let long = "o".repeat(129);
        for (list, what, how) in [
            (vec![], "volume_capabilities is empty", "say at least one"),
            (
                vec![mount(Mode::MultiNodeMultiWriter, "", &[])],
                "ReadWriteMany with a filesystem",
                "volumeMode: Block",
            ),
            (
                vec![mount(Mode::MultiNodeSingleWriter, "", &[])],
                "MULTI_NODE_SINGLE_WRITER",
                "use ReadWriteOnce",
            ),
            (vec![mount(Mode::Unknown, "", &[])], "no known access_mode", "say one"),
            (
                vec![capability(Mode::SingleNodeWriter, None)],
                "no access_type",
                "say block or mount",
            ),
            (
                vec![mount(Mode::SingleNodeWriter, "zfs", &[])],
                "`zfs`",
                "use ext4, ext3, xfs or btrfs",
            ),
            (
                vec![mount(Mode::SingleNodeWriter, "", &["ro,noexec"])],
                "number 1",
                "one option an entry",
            ),
            (
                vec![mount(Mode::SingleNodeWriter, "", &["a\nb"])],
                "number 1",
                "one option an entry",
            ),
            (
                vec![mount(Mode::SingleNodeWriter, "", &[&long])],
                "mount option",
                "1 to 128",
            ),
            (
                vec![mount(Mode::SingleNodeWriter, "", &["ro"; 33])],
                "33 mount options",
                "at most 32",
            ),
            (
                vec![block(Mode::SingleNodeWriter), mount(Mode::SingleNodeWriter, "", &[])],
                "at once",
                "two volumes",
            ),
            (
                vec![
                    mount(Mode::SingleNodeWriter, "xfs", &[]),
                    mount(Mode::SingleNodeReaderOnly, "ext4", &[]),
                ],
                "differ",
                "ask for the same",
            ),
        ] {
            let failure = Capabilities::parse(&list).unwrap_err();
            assert!(matches!(failure, Failure::Invalid(_)), "{failure:?}");
            let text = failure.to_string();
            assert!(text.contains(what) && text.contains(how), "{text}");
        }
    }

    #[test]
    fn an_existing_volume_is_compared() {
        let spec: RdsVolumeSpec = serde_json::from_value(serde_json::json!({
            "server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"], "fsType": "xfs",
        }))
        .unwrap();
        let asks = |list: &[VolumeCapability]| Capabilities::parse(list).unwrap().unsupported_by(&spec);
        assert_eq!(asks(&[mount(Mode::SingleNodeWriter, "", &[])]), None);
        assert_eq!(asks(&[mount(Mode::SingleNodeSingleWriter, "xfs", &[])]), None);
        assert!(
            asks(&[block(Mode::SingleNodeWriter)])
                .unwrap()
                .contains("volumeMode Filesystem")
        );
        // Whoever only reads fits every volume.
        assert_eq!(asks(&[mount(Mode::MultiNodeReaderOnly, "", &[])]), None);
        let pod: RdsVolumeSpec = serde_json::from_value(serde_json::json!({
            "server": "default", "capacity": "1Gi", "accessModes": ["ReadWriteOncePod"],
        }))
        .unwrap();
        let wider = Capabilities::parse(&[mount(Mode::SingleNodeWriter, "", &[])]).unwrap();
        assert!(wider.unsupported_by(&pod).unwrap().contains("ReadWriteOnce"));
        assert!(
            asks(&[mount(Mode::SingleNodeWriter, "ext4", &[])])
                .unwrap()
                .contains("fstype xfs, not ext4")
        );
    }
}
