//! The words of the appliance as types: each is parsed once, and what parsed cannot be misread by RouterOS.
//!
//! Invariant: every value here consists of `[A-Za-z0-9._:/@-]` only, so that it fits between double quotes as it is.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// Why a text is not what it should be. The message names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}` {why}", shown(.value))]
pub struct Malformed {
    what: &'static str,
    value: String,
    why: &'static str,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, value: &str, why: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(256).collect(),
            why,
        }
    }
}

/// True for the characters that mean nothing to RouterOS inside double quotes (and nothing to a regular expression but `.`).
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '@' | '-')
}

/// Somebody else's text for a message: control characters made visible, the rest as it is.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// Random lower-case hex digits; not a secret.
pub(crate) fn random_hex(digits: usize) -> String {
    let mut rng = rand::rng();
    (0..digits)
        .map(|_| char::from(b"0123456789abcdef"[rng.random_range(0..16)]))
        .collect()
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text as it is sent.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(value: String) -> Result<Self, Malformed> {
                value.parse()
            }
        }
        impl TryFrom<&str> for $name {
            type Error = Malformed;
            fn try_from(value: &str) -> Result<Self, Malformed> {
                value.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}
pub(crate) use text_type;

/// The name of a disk row: `[a-z0-9-]`, 1 to 32 characters (RouterOS 7.24.4 takes no more, other versions 40).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(String);
text_type!(Slot);

impl Slot {
    /// The longest slot that every known RouterOS version keeps whole.
    pub const MAX: usize = 32;
}

impl FromStr for Slot {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = |why| Err(Malformed::new("slot", s, why));
        if s.is_empty() || s.len() > Self::MAX {
            return bad("must have 1 to 32 characters");
        }
        if !s
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        {
            return bad("may only hold a-z, 0-9 and -");
        }
        Ok(Self(s.to_owned()))
    }
}

/// A path on the appliance, always with one leading slash: `/<pool>/<folders>/<file>`. No `.`, no `..`, no empty part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskPath(String);
text_type!(DiskPath);

impl DiskPath {
    /// The path as `/file` names it: without the leading slash.
    pub fn file_name(&self) -> &str {
        &self.0[1..]
    }

    /// The first part: the slot (and mount point) of the pool that the path is on.
    pub fn pool(&self) -> &str {
        self.file_name().split('/').next().unwrap_or_default()
    }

    /// The path of `slot`'s image in this folder.
    pub fn image(&self, slot: &Slot) -> DiskPath {
        Self(format!("{}/{}.img", self.0, slot))
    }

    /// True when `path` (any spelling) lies below this folder.
    pub fn contains(&self, path: &str) -> bool {
        let path = normalise_path(path);
        path.strip_prefix(&self.0)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    }

    /// True when `path`, with or without the leading slash, is this path.
    pub fn is(&self, path: &str) -> bool {
        normalise_path(path) == self.0
    }
}

/// One leading slash, whatever the reply had: `/disk` prints paths with it, `/file` without.
pub(crate) fn normalise_path(path: &str) -> String {
    format!("/{}", path.trim_matches(['/', ' ']))
}

impl FromStr for DiskPath {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = |why| Err(Malformed::new("path", s, why));
        let inner = s.strip_prefix('/').unwrap_or(s);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() || inner.len() > 255 {
            return bad("must name a folder or file in at most 255 characters");
        }
        if !inner.chars().all(is_plain) {
            return bad("may only hold letters, digits and . _ : / @ -");
        }
        if inner
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return bad("may not have empty, `.` or `..` parts");
        }
        Ok(Self(format!("/{inner}")))
    }
}

/// An NVMe qualified name: `nqn.<year>-<month>.<domain>:<rest>`, at most 223 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nqn(String);
text_type!(Nqn);

impl FromStr for Nqn {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = |why| Err(Malformed::new("nqn", s, why));
        if s.len() > 223 {
            return bad("is longer than 223 bytes");
        }
        if !s.chars().all(is_plain) {
            return bad("may only hold letters, digits and . _ : / @ -");
        }
        let Some((authority, rest)) = s.strip_prefix("nqn.").and_then(|s| s.split_once(':')) else {
            return bad("must look like nqn.<year>-<month>.<domain>:<name>");
        };
        let (date, domain) = authority.split_once('.').unwrap_or((authority, ""));
        let dated = date.len() == 7
            && date
                .bytes()
                .enumerate()
                .all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
        if !dated || domain.is_empty() || rest.is_empty() {
            return bad("must look like nqn.<year>-<month>.<domain>:<name>");
        }
        Ok(Self(s.to_owned()))
    }
}

/// A number of bytes. Always sent and compared exactly; RouterOS suffixes (`1T`) are never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Image files are made in multiples of this; the sector size of a file disk is 512.
    pub const ALIGN: u64 = 4096;

    /// The next multiple of 4096; sizes go up, never down.
    pub fn aligned(self) -> Option<Self> {
        self.0.checked_next_multiple_of(Self::ALIGN).map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bytes {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        s.parse()
            .map(Self)
            .map_err(|_| Malformed::new("size", s, "must be a whole number of bytes"))
    }
}

/// The generation of an export, counted up by every fence and deletion; eight decimal digits in the comment (D3: never down).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// The highest number that fits the eight digits.
    pub const MAX: u32 = 99_999_999;

    /// The following generation, none after the last.
    pub fn next(self) -> Option<Self> {
        (self.0 < Self::MAX).then(|| Self(self.0 + 1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Generation {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = || Malformed::new("generation", s, "must be a whole number below 100000000");
        let n: u32 = s.parse().map_err(|_| bad())?;
        if n > Self::MAX { Err(bad()) } else { Ok(Self(n)) }
    }
}

/// What a volume occupies on the appliance: its row's slot, its image file, and the NQN it is exported under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskId {
    /// Slot of the disk row.
    pub slot: Slot,
    /// Image file.
    pub path: DiskPath,
    /// Effective NQN of the export.
    pub nqn: Nqn,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever parses prints as something that parses to the same, and holds nothing but harmless characters.
        #[test]
        fn what_parses_round_trips(s in prop_oneof![any::<String>(), "[a-z0-9/.:@_-]{0,40}", "nqn[.]20[0-9]{2}-0[1-9][.][a-z.]{1,9}:[a-z0-9.-]{0,9}"]) {
            macro_rules! check { ($($t:ty),*) => { $(
                if let Ok(v) = s.parse::<$t>() {
                    let text = v.to_string();
                    prop_assert!(text.chars().all(is_plain));
                    prop_assert_eq!(text.parse::<$t>().unwrap(), v);
                }
            )* } }
            check!(Slot, DiskPath, Nqn, Bytes, Generation);
        }

        #[test]
        fn paths_compare_with_and_without_slash(s in "[a-z]{1,5}(/[a-z0-9.-]{3,8}){1,3}") {
            let path: DiskPath = s.parse().unwrap();
            let slashed: DiskPath = format!("/{s}").parse().unwrap();
            prop_assert_eq!(&path, &slashed);
            prop_assert!(path.is(&s) && path.is(slashed.as_str()));
            prop_assert_eq!(path.file_name(), s);
        }
    }

    #[test]
    fn bad_words_are_refused() {
        let long = "a".repeat(33);
        for bad in ["", "UPPER", "a_b", "a/b", "a b", "ü", long.as_str()] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
        for bad in [
            "", "/", "//", "/a//b", "/a/../b", "..", "/a/.", "/a b", "/a\"b", "/a$b", "/a;b",
        ] {
            assert!(bad.parse::<DiskPath>().is_err(), "{bad}");
        }
        let long = format!("nqn.2026-01.io.example:{}", "a".repeat(201));
        for bad in [
            "",
            "nqn.",
            "nqn.2026-01.io.example",
            "nqn.2026-01.io.example:",
            "nqn.26-01.io:x",
            "iqn.2026-01.io:x",
            &long,
        ] {
            assert!(bad.parse::<Nqn>().is_err(), "{bad}");
        }
        assert!(
            format!("nqn.2026-01.io.example:{}", "a".repeat(200))
                .parse::<Nqn>()
                .is_ok()
        );
        assert!(
            "nqn.2014-08.org.nvmexpress:uuid:0b6c0000-0000-4000-8000-000000000000"
                .parse::<Nqn>()
                .is_ok()
        );
    }

    #[test]
    fn a_folder_contains_only_what_is_below_it() {
        let base: DiskPath = "/raid10/csi".parse().unwrap();
        assert!(base.contains("raid10/csi/a.img") && base.contains("/raid10/csi/x/y"));
        assert!(!base.contains("raid10/csi") && !base.contains("raid10/csi/") && !base.contains("raid10/csi2/a.img"));
        assert_eq!(base.pool(), "raid10");
        assert_eq!(base.image(&"pvc-1".parse().unwrap()).as_str(), "/raid10/csi/pvc-1.img");
    }

    #[test]
    fn sizes_go_up_to_whole_blocks() {
        assert_eq!(Bytes(1).aligned(), Some(Bytes(4096)));
        assert_eq!(Bytes(3 << 39).aligned(), Some(Bytes(3 << 39)), "1.5 TiB stays 1.5 TiB");
        assert_eq!(Bytes(u64::MAX).aligned(), None);
    }
}
