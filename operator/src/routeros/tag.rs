//! The owner tag: the comment of a disk row, the appliance's half of every compare-and-swap.
//!
//! `rds1:c<cluster>:v<volume>:g<generation>:k<nonce>:<namespace/claim>`. All before the last `:` has a fixed length (73 characters);
//! the rest is for people and may be cut by anybody. Invariant I11: ids are compared parsed, never as substrings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::types::{Generation, Malformed, is_plain, random_hex, shown, text_type};

const MAGIC: &str = "rds1:";

fn hex(what: &'static str, s: &str, digits: usize) -> Result<String, Malformed> {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if s.len() == digits && s.bytes().all(lower_hex) {
        Ok(s.to_owned())
    } else {
        Err(Malformed::new(
            what,
            s,
            "must be lower-case hex digits of the fixed length",
        ))
    }
}

/// Which cluster a disk belongs to: 12 hex digits of the SHA-256 of the cluster's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);
text_type!(ClusterId);

impl ClusterId {
    /// From the UID of the namespace `kube-system`.
    pub fn of(cluster_uid: &str) -> Self {
        let digest = Sha256::digest(cluster_uid.as_bytes());
        Self(digest.iter().take(6).map(|b| format!("{b:02x}")).collect())
    }
}

impl FromStr for ClusterId {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        hex("cluster id", s, 12).map(Self)
    }
}

/// The UID of an RdsVolume without dashes: 32 hex digits. Parses with and without dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeUid(String);
text_type!(VolumeUid);

impl FromStr for VolumeUid {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        hex("volume uid", &s.replace('-', "").to_ascii_lowercase(), 32).map(Self)
    }
}

/// Eight hex digits, recorded before a create: only a row that carries them proves that this very create made the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);
text_type!(Nonce);

impl Nonce {
    /// A new one.
    pub fn random() -> Self {
        Self(random_hex(8))
    }
}

impl FromStr for Nonce {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        hex("nonce", s, 8).map(Self)
    }
}

/// Whose disk it is, and of which generation. `Display` is the whole comment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnerTag {
    /// Cluster.
    pub cluster: ClusterId,
    /// RdsVolume.
    pub volume: VolumeUid,
    /// Generation of the export.
    pub generation: Generation,
    /// Creation nonce.
    pub nonce: Nonce,
    label: String,
}

impl OwnerTag {
    /// Length of the fixed part, its last `:` included.
    pub const FIXED: usize = 73;
    /// Longest comment that is sent; the limit of RouterOS is not documented.
    pub const MAX: usize = 120;

    /// `label` is for people (`namespace/claim`): characters that RouterOS could misread are dropped, the rest is cut to fit.
    pub fn new(cluster: ClusterId, volume: VolumeUid, generation: Generation, nonce: Nonce, label: &str) -> Self {
        let label = label
            .chars()
            .filter(|c| is_plain(*c))
            .take(Self::MAX - Self::FIXED)
            .collect();
        Self {
            cluster,
            volume,
            generation,
            nonce,
            label,
        }
    }

    /// The part for people, perhaps cut.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The fixed part: all ids and the last `:`.
    pub fn fixed(&self) -> String {
        let Self {
            cluster,
            volume,
            generation,
            nonce,
            label: _,
        } = self;
        format!("{MAGIC}c{cluster}:v{volume}:g{:08}:k{nonce}:", generation.0)
    }

    /// The same tag with another generation.
    pub fn at(&self, generation: Generation) -> Self {
        Self {
            generation,
            ..self.clone()
        }
    }

    /// True when all ids, the generation and the nonce are the same; the label does not count.
    pub fn same_token(&self, other: &Self) -> bool {
        self.same_volume(other) && self.generation == other.generation && self.nonce == other.nonce
    }

    /// True when cluster and volume are the same, whatever the generation.
    pub fn same_volume(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.volume == other.volume
    }
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.fixed(), self.label)
    }
}

impl FromStr for OwnerTag {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = |why| Malformed::new("owner tag", s, why);
        let rest = s.strip_prefix(MAGIC).ok_or_else(|| bad("does not begin with rds1:"))?;
        let mut parts = rest.splitn(5, ':');
        let mut field = |letter: char| {
            let part = parts.next().ok_or_else(|| bad("is cut off"))?;
            part.strip_prefix(letter)
                .ok_or_else(|| bad("has its parts in the wrong order"))
        };
        let (cluster, volume, generation, nonce) = (field('c')?, field('v')?, field('g')?, field('k')?);
        if generation.len() != 8 || !generation.bytes().all(|b| b.is_ascii_digit()) || volume.len() != 32 {
            return Err(bad("has parts of the wrong length"));
        }
        let label = parts.next().ok_or_else(|| bad("is cut off"))?;
        Ok(Self::new(
            cluster.parse()?,
            volume.parse()?,
            generation.parse()?,
            nonce.parse()?,
            label,
        ))
    }
}

/// What a disk's comment says about its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// No comment.
    Untagged,
    /// A comment that is not ours at all.
    Foreign(String),
    /// Begins like a tag and cannot be read as one: cut or edited. Belongs to nobody that can be named.
    Mangled(String),
    /// A whole tag: of this cluster or of another.
    Tagged(Box<OwnerTag>),
}

impl Ownership {
    /// Reads a comment.
    pub fn parse(comment: &str) -> Self {
        let comment = comment.trim();
        if comment.is_empty() {
            Self::Untagged
        } else if let Ok(tag) = comment.parse() {
            Self::Tagged(Box::new(tag))
        } else if comment.starts_with("rds1") {
            Self::Mangled(comment.to_owned())
        } else {
            Self::Foreign(comment.to_owned())
        }
    }

    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&OwnerTag> {
        match self {
            Self::Tagged(tag) => Some(tag),
            Self::Untagged | Self::Foreign(_) | Self::Mangled(_) => None,
        }
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("a disk without owner tag"),
            Self::Foreign(comment) => write!(f, "a disk with the comment `{}`", shown(comment)),
            Self::Mangled(comment) => write!(f, "a disk with the damaged tag `{}`", shown(comment)),
            Self::Tagged(tag) if tag.label.is_empty() => {
                write!(f, "volume {} of cluster {}", tag.volume, tag.cluster)
            }
            Self::Tagged(tag) => write!(f, "volume {} ({}) of cluster {}", tag.volume, tag.label, tag.cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(label: &str) -> OwnerTag {
        let volume = "0b6c1d2e-0000-4000-8000-00000000abcd".parse().unwrap();
        OwnerTag::new(
            ClusterId::of("cluster"),
            volume,
            Generation(7),
            "00c0ffee".parse().unwrap(),
            label,
        )
    }

    proptest! {
        #[test]
        fn tags_round_trip_whatever_the_label(label in any::<String>(), g in 0..=Generation::MAX) {
            let tag = tag(&label).at(Generation(g));
            prop_assert_eq!(tag.fixed().len(), OwnerTag::FIXED);
            prop_assert!(tag.to_string().len() <= OwnerTag::MAX && tag.to_string().chars().all(is_plain));
            prop_assert_eq!(tag.to_string().parse::<OwnerTag>().unwrap(), tag);
        }

        /// The label may be cut anywhere; a cut in the fixed part never reads as a tag.
        #[test]
        fn a_cut_label_keeps_the_ids_and_a_cut_id_is_no_tag(cut in 0..OwnerTag::MAX) {
            let whole = tag("team-a/data-postgres-0");
            let text: String = whole.to_string().chars().take(cut).collect();
            match Ownership::parse(&text) {
                Ownership::Tagged(read) => prop_assert!(cut >= OwnerTag::FIXED && read.same_token(&whole)),
                Ownership::Mangled(_) => prop_assert!((4..OwnerTag::FIXED).contains(&cut)),
                Ownership::Untagged | Ownership::Foreign(_) => prop_assert!(cut < 4),
            }
        }

        #[test]
        fn no_comment_panics(comment in any::<String>()) {
            let _ = Ownership::parse(&comment).to_string();
        }
    }

    #[test]
    fn other_ids_are_other_owners() {
        let mine = tag("a/b");
        assert!(mine.same_token(&tag("renamed")));
        assert!(!mine.same_token(&mine.at(Generation(8))) && mine.same_volume(&mine.at(Generation(8))));
        for text in ["", "golden image", "rds1:", "rds2:c", "rds1:c000000000000:v0:g1:k0:"] {
            assert!(Ownership::parse(text).tag().is_none(), "{text}");
        }
    }
}
