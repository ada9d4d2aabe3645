//! The command tree: which menus, verbs, arguments and properties exist in which version.

pub(crate) use crate::tables::{Access, DISK_FLAGS, DISK_PROPS, GLOBALS};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A RouterOS version, `7.24.4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)?;
        if self.2 > 0 { write!(f, ".{}", self.2) } else { Ok(()) }
    }
}

impl FromStr for Version {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is no version between 7.17 and 7.24.4");
        let parts: Vec<u16> = s
            .split('.')
            .map(|p| p.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let v = match parts.as_slice() {
            [a, b] => Self(*a, *b, 0),
            [a, b, c] => Self(*a, *b, *c),
            _ => return Err(bad()),
        };
        if v < Self(7, 17, 0) || v >= Self(7, 25, 0) {
            Err(bad())
        } else {
            Ok(v)
        }
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Version> for String {
    fn from(v: Version) -> Self {
        v.to_string()
    }
}

/// A menu with commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Menu {
    Root,
    Disk,
    DiskSettings,
    BtrfsFilesystem,
    BtrfsSubvolume,
    File,
    System,
    Resource,
    Package,
    Identity,
    Clock,
    IpService,
}

/// A command of a menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Print,
    Get,
    Find,
    Add,
    Set,
    Unset,
    Remove,
    Enable,
    Disable,
    Comment,
    Copy,
    Format,
    MonitorTraffic,
    Reboot,
    Export,
    /// In the tree of commands of a real device, but not modelled here.
    Unmodelled,
}

const MENUS: &[(&[&str], Option<Menu>)] = &[
    (&[], Some(Menu::Root)),
    (&["disk"], Some(Menu::Disk)),
    (&["disk", "settings"], Some(Menu::DiskSettings)),
    (&["disk", "btrfs"], None),
    (&["disk", "btrfs", "filesystem"], Some(Menu::BtrfsFilesystem)),
    (&["disk", "btrfs", "subvolume"], Some(Menu::BtrfsSubvolume)),
    (&["file"], Some(Menu::File)),
    (&["system"], Some(Menu::System)),
    (&["system", "resource"], Some(Menu::Resource)),
    (&["system", "package"], Some(Menu::Package)),
    (&["system", "identity"], Some(Menu::Identity)),
    (&["system", "clock"], Some(Menu::Clock)),
    (&["ip"], None),
    (&["ip", "service"], Some(Menu::IpService)),
];

/// Whether `path` names a menu, and which commands it has.
pub(crate) fn menu(path: &[String]) -> Option<Option<Menu>> {
    MENUS
        .iter()
        .find(|(p, _)| p.len() == path.len() && p.iter().zip(path).all(|(a, b)| a == b))
        .map(|(_, m)| *m)
}

impl Menu {
    /// The path of the menu, `/disk`.
    pub fn path(self) -> String {
        let path = MENUS
            .iter()
            .find(|(_, m)| *m == Some(self))
            .map_or(&[] as &[&str], |(p, _)| p);
        format!("/{}", path.join("/"))
    }

    /// Whether the menu holds one record instead of a list.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Resource | Self::Identity | Self::Clock | Self::DiskSettings)
    }

    /// The verb of that name in that version.
    pub fn verb(self, name: &str, v: Version) -> Option<Verb> {
        let table: &[(&str, Verb, Version)] = match self {
            Self::Disk => DISK_VERBS,
            Self::File => FILE_VERBS,
            Self::BtrfsSubvolume => SUBVOLUME_VERBS,
            Self::BtrfsFilesystem => FILESYSTEM_VERBS,
            Self::Root => &[("export", Verb::Export, BASE)],
            Self::System => &[("reboot", Verb::Reboot, BASE)],
            Self::Resource | Self::Clock => &[("print", Verb::Print, BASE), ("get", Verb::Get, BASE)],
            Self::Identity => &[
                ("print", Verb::Print, BASE),
                ("get", Verb::Get, BASE),
                ("set", Verb::Set, BASE),
            ],
            Self::DiskSettings => &[
                ("print", Verb::Print, BASE),
                ("get", Verb::Get, BASE),
                ("set", Verb::Unmodelled, BASE),
            ],
            Self::Package => &[
                ("print", Verb::Print, BASE),
                ("get", Verb::Get, BASE),
                ("find", Verb::Find, BASE),
            ],
            Self::IpService => &[
                ("print", Verb::Print, BASE),
                ("get", Verb::Get, BASE),
                ("find", Verb::Find, BASE),
                ("set", Verb::Set, BASE),
            ],
        };
        if self == Self::Disk && v < Version(7, 19, 0) {
            match name {
                "format-drive" => return Some(Verb::Format),
                "eject-drive" => return Some(Verb::Unmodelled),
                _ => {}
            }
        }
        table
            .iter()
            .find(|(n, _, since)| *n == name && v >= *since)
            .map(|(_, verb, _)| *verb)
    }
}

pub(crate) const BASE: Version = Version(7, 17, 0);
pub(crate) const V18: Version = Version(7, 18, 0);
const V19: Version = Version(7, 19, 0);
pub(crate) const V21: Version = Version(7, 21, 0);
const V22: Version = Version(7, 22, 0);
const V23: Version = Version(7, 23, 0);
const V24: Version = Version(7, 24, 0);

const DISK_VERBS: &[(&str, Verb, Version)] = &[
    ("print", Verb::Print, BASE),
    ("get", Verb::Get, BASE),
    ("find", Verb::Find, BASE),
    ("add", Verb::Add, BASE),
    ("set", Verb::Set, BASE),
    ("unset", Verb::Unset, BASE),
    ("remove", Verb::Remove, BASE),
    ("enable", Verb::Enable, BASE),
    ("disable", Verb::Disable, BASE),
    ("comment", Verb::Comment, BASE),
    ("copy", Verb::Copy, BASE),
    ("monitor-traffic", Verb::MonitorTraffic, BASE),
    ("format", Verb::Format, V19),
    ("reset", Verb::Unmodelled, BASE),
    ("edit", Verb::Unmodelled, BASE),
    ("export", Verb::Unmodelled, BASE),
    ("blink", Verb::Unmodelled, V18),
    ("check", Verb::Unmodelled, V23),
    ("repair", Verb::Unmodelled, V23),
    ("smart-info", Verb::Unmodelled, V23),
    ("eject", Verb::Unmodelled, V19),
    ("nvme-discover", Verb::Unmodelled, BASE),
    ("raid-scrub", Verb::Unmodelled, BASE),
    ("raid-scrub-cancel", Verb::Unmodelled, V24),
    ("reset-counters", Verb::Unmodelled, BASE),
    ("scan", Verb::Unmodelled, BASE),
    ("test", Verb::Unmodelled, BASE),
    ("trim", Verb::Unmodelled, V22),
];
const FILE_VERBS: &[(&str, Verb, Version)] = &[
    ("print", Verb::Print, BASE),
    ("get", Verb::Get, BASE),
    ("find", Verb::Find, BASE),
    ("add", Verb::Add, BASE),
    ("set", Verb::Set, BASE),
    ("remove", Verb::Remove, BASE),
    ("copy", Verb::Copy, V23),
    ("edit", Verb::Unmodelled, BASE),
    ("read", Verb::Unmodelled, BASE),
    ("head", Verb::Unmodelled, V23),
    ("tail", Verb::Unmodelled, V23),
];
const SUBVOLUME_VERBS: &[(&str, Verb, Version)] = &[
    ("print", Verb::Print, V18),
    ("get", Verb::Get, V18),
    ("find", Verb::Find, V18),
    ("add", Verb::Add, V18),
    ("set", Verb::Set, V18),
    ("remove", Verb::Remove, V18),
];
const FILESYSTEM_VERBS: &[(&str, Verb, Version)] = &[
    ("print", Verb::Print, BASE),
    ("get", Verb::Get, V18),
    ("find", Verb::Find, V18),
    ("add", Verb::Unmodelled, V18),
    ("remove", Verb::Unmodelled, V18),
    ("balance", Verb::Unmodelled, V18),
    ("scrub", Verb::Unmodelled, V18),
];

const FILE_PROPS: &[&str] = &["name", "type", "size", "last-modified", "contents"];
const SUBVOLUME_PROPS: &[&str] = &[
    "fs",
    "parent",
    "name",
    "read-only",
    "mount",
    "mountpoint",
    "top-level",
    "fullname",
    "uuid",
    "creation-time",
    "subvolume-id",
    "generation",
    "dead",
    "snapshot",
    "path",
];
const PRINT_FLAGS: &[(&str, Version)] = &[
    ("as-value", BASE),
    ("detail", BASE),
    ("brief", BASE),
    ("terse", BASE),
    ("count-only", BASE),
    ("value-list", BASE),
    ("show-ids", BASE),
    ("stats", BASE),
    ("without-paging", BASE),
    ("show-sensitive", V21),
    ("timestamp", V22),
    ("comments", V22),
];
const PRINT_NAMED: &[(&str, Version)] = &[
    ("proplist", BASE),
    (".proplist", BASE),
    ("group-by", BASE),
    ("order-by", V24),
    ("from", BASE),
];

impl Menu {
    /// Whether `name` is a property of a record of this menu, for `where`, `get` and `proplist`.
    pub fn has_property(self, name: &str, v: Version) -> bool {
        if name == ".id" {
            return true;
        }
        match self {
            Self::Disk => {
                DISK_PROPS.iter().any(|(n, _, since)| *n == name && v >= *since)
                    || DISK_FLAGS.iter().any(|(_, n, _)| *n == name)
            }
            Self::File => FILE_PROPS.contains(&name),
            Self::BtrfsSubvolume => SUBVOLUME_PROPS.contains(&name),
            Self::BtrfsFilesystem => matches!(name, "label" | "uuid" | "total-devs" | "devs" | "default-subvolume"),
            Self::Package => matches!(
                name,
                "name" | "version" | "build-time" | "disabled" | "size" | "available"
            ),
            Self::IpService => matches!(
                name,
                "name" | "port" | "proto" | "vrf" | "max-sessions" | "disabled" | "dynamic" | "address" | "invalid"
            ),
            // One record each; an unknown name is refused when the record is made.
            Self::Root | Self::Resource | Self::Identity | Self::Clock | Self::DiskSettings | Self::System => true,
        }
    }

    /// Whether the command takes `name=value`.
    pub fn takes(self, verb: Verb, name: &str, v: Version) -> bool {
        let writable = || {
            DISK_PROPS
                .iter()
                .any(|(n, access, since)| *n == name && *access == Access::Write && v >= *since)
        };
        match (self, verb) {
            (_, Verb::Print) => {
                PRINT_NAMED.iter().any(|(n, since)| *n == name && v >= *since)
                    || (self == Self::File && name == "path" && v >= V18)
            }
            (_, Verb::Get) => matches!(name, "number" | "value-name"),
            (_, Verb::Remove | Verb::Enable | Verb::Disable) => name == "numbers",
            (_, Verb::Unset) => matches!(name, "numbers" | "value-name"),
            (_, Verb::Comment) => matches!(name, "numbers" | "comment"),
            (Self::Disk, Verb::Add) => name == "copy-from" || writable(),
            (Self::Disk, Verb::Set) => name == "numbers" || writable(),
            (Self::Disk, Verb::Copy) => {
                matches!(
                    name,
                    "src" | "dst" | "src-offset" | "dst-offset" | "size" | "once" | "as-value" | "duration"
                )
            }
            (Self::Disk, Verb::Format) => {
                matches!(
                    name,
                    "file-system" | "label" | "mbr-partition-table" | "numbers" | "number" | "slot"
                )
            }
            (Self::Disk, Verb::MonitorTraffic) => matches!(name, "once" | "as-value" | "interval" | "duration"),
            (Self::File, Verb::Add) => matches!(name, "name" | "type" | "contents" | "copy-from"),
            (Self::File, Verb::Set) => matches!(name, "numbers" | "name" | "contents"),
            (Self::File, Verb::Copy) => matches!(name, "number" | "name"),
            (Self::BtrfsSubvolume, Verb::Add) => {
                matches!(name, "fs" | "parent" | "name" | "read-only" | "mount" | "mountpoint")
            }
            (Self::BtrfsSubvolume, Verb::Set) => {
                matches!(name, "numbers" | "name" | "read-only" | "mount" | "mountpoint")
            }
            (Self::IpService, Verb::Set) => matches!(name, "numbers" | "max-sessions" | "disabled" | "port"),
            (Self::Identity, Verb::Set) => name == "name",
            (_, Verb::Unmodelled) => true,
            (_, _) => false,
        }
    }

    /// Whether the command takes `word` as a switch without value.
    pub fn takes_flag(self, verb: Verb, word: &str, v: Version) -> bool {
        match verb {
            Verb::Print => PRINT_FLAGS.iter().any(|(n, since)| *n == word && v >= *since),
            Verb::MonitorTraffic | Verb::Copy if self == Self::Disk => matches!(word, "once" | "as-value"),
            Verb::Unmodelled => true,
            Verb::Get
            | Verb::Find
            | Verb::Add
            | Verb::Set
            | Verb::Unset
            | Verb::Remove
            | Verb::Enable
            | Verb::Disable
            | Verb::Comment
            | Verb::Copy
            | Verb::Format
            | Verb::MonitorTraffic
            | Verb::Reboot => false,
            Verb::Export => matches!(
                word,
                "terse" | "compact" | "verbose" | "show-sensitive" | "hide-sensitive"
            ),
        }
    }

    /// How many arguments without a name the command takes.
    pub fn positional(self, verb: Verb) -> usize {
        match verb {
            Verb::Get | Verb::Comment | Verb::Unset => 2,
            Verb::Set if self == Self::Identity => 0,
            Verb::Set | Verb::Remove | Verb::Enable | Verb::Disable | Verb::Format | Verb::MonitorTraffic => 1,
            Verb::Copy => usize::from(self == Self::File),
            Verb::Unmodelled => usize::MAX,
            Verb::Print => usize::from(!self.is_single()),
            Verb::Find | Verb::Add | Verb::Reboot | Verb::Export => 0,
        }
    }
}
