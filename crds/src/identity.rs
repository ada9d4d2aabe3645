//! One identity: PV name = volumeHandle = RdsVolume name = suffix of the base NQN (predecessor K1); slot and file stem
//! are derived from the same UUID, as RouterOS 7.24.4 cuts slots off after 32 characters.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::RdsVolume;
use crate::names::{LABEL_MADE_BY, MADE_BY_SELF_TEST};

/// Prefix of NQNs unless the RdsServer says otherwise (R9).
pub const DEFAULT_NQN_PREFIX: &str = "nqn.2000-02.com.mikrotik:pvc-";

/// Longest NQN in bytes (NVMe base specification).
pub const NQN_MAX: usize = 223;

/// Bytes at the end of an NQN that the base NQN leaves free, for `.g<generation>-<random>`.
pub const NQN_RESERVED: usize = 23;

/// Why an NQN prefix cannot be used (R8). Displays the rule that failed and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// It is empty.
    #[error("the NQN prefix is empty: set it, for example to {DEFAULT_NQN_PREFIX}")]
    Empty,
    /// It does not begin with `nqn.`.
    #[error("the NQN prefix `{0}` does not begin with `nqn.`")]
    Start(String),
    /// It has no colon.
    #[error("the NQN prefix `{0}` has no `:` after the naming authority")]
    Colon(String),
    /// It is longer than an NQN.
    #[error("the NQN prefix `{value}` has {length} bytes: at most {NQN_MAX} are allowed")]
    Long {
        /// The value.
        value: String,
        /// Its length in bytes.
        length: usize,
    },
}

/// Checks the rules of an NQN prefix: begins with `nqn.`, contains `:`, at most 223 bytes (R8).
pub fn check_prefix(prefix: &str) -> Result<(), BadPrefix> {
    if prefix.is_empty() {
        return Err(BadPrefix::Empty);
    }
    if prefix.len() > NQN_MAX {
        return Err(BadPrefix::Long {
            value: prefix.to_owned(),
            length: prefix.len(),
        });
    }
    if !prefix.starts_with("nqn.") {
        return Err(BadPrefix::Start(prefix.to_owned()));
    }
    if !prefix.contains(':') {
        return Err(BadPrefix::Colon(prefix.to_owned()));
    }
    Ok(())
}

/// Name of the RdsVolume for a name in a CSI request: `pvc-<uuid>` is kept, anything else becomes `v-<uuid5>`.
#[must_use]
pub fn volume_name(request: &str) -> String {
    match uuid_in(request, "pvc-") {
        Some(_) => request.to_owned(),
        None => format!("v-{}", Uuid::new_v5(&Uuid::NAMESPACE_DNS, request.as_bytes())),
    }
}

/// Default slot of a volume: at most 32 characters of `a-z`, `0-9` and `-`. Names that carry a UUID give theirs; any other
/// name gives that of the object's UID.
#[must_use]
pub fn default_slot(name: &str, uid: &str) -> String {
    for (prefix, digits) in [("pvc-", 28), ("v-", 30)] {
        if let Some(uuid) = uuid_in(name, prefix) {
            return format!("{prefix}{}", &uuid.simple().to_string()[..digits]);
        }
    }
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(30).collect();
    format!("v-{}", hex.to_ascii_lowercase())
}

/// Default path of the image file.
#[must_use]
pub fn default_path(base_path: &str, slot: &str) -> String {
    format!("{}/{slot}.img", base_path.trim_end_matches('/'))
}

/// Default base NQN: the prefix' naming authority and the name, if that begins with the prefix; otherwise prefix and name.
/// With the prefix `nqn.2000-02.com.mikrotik:pvc-` a volume `pvc-1` becomes `nqn.2000-02.com.mikrotik:pvc-1`.
#[must_use]
pub fn base_nqn(prefix: &str, name: &str) -> String {
    let authority = prefix.find(':').map_or(prefix, |colon| &prefix[..=colon]);
    let short = format!("{authority}{name}");
    if short.starts_with(prefix) {
        short
    } else {
        format!("{prefix}{name}")
    }
}

/// Name of the RdsAttachment of a volume on a node: the volume and 8 hexadecimal digits that stand for the node, as node names
/// may be longer than what is left.
#[must_use]
pub fn attachment_name(volume: &str, node: &str) -> String {
    let digest = Sha256::digest(node.as_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{volume}-{short}")
}

/// What the name of every canary begins with.
pub const CANARY_PREFIX: &str = "rds-canary-";

/// Name of the canary of a server: by the UID, as several clusters may call their server the same and share an appliance.
#[must_use]
pub fn canary_name(server_uid: &str) -> String {
    format!("{CANARY_PREFIX}{server_uid}")
}

/// Whether an RdsVolume is a canary of the self-test: label and name have to agree.
#[must_use]
pub fn is_canary(volume: &RdsVolume) -> bool {
    let meta = &volume.metadata;
    let made_by = meta.labels.as_ref().and_then(|l| l.get(LABEL_MADE_BY));
    let named = meta.name.as_ref().is_some_and(|n| n.starts_with(CANARY_PREFIX));
    named && made_by.is_some_and(|by| by == MADE_BY_SELF_TEST)
}

fn uuid_in(name: &str, prefix: &str) -> Option<Uuid> {
    let text = name.strip_prefix(prefix)?;
    let uuid = Uuid::try_parse(text).ok()?;
    // Only the canonical spelling: lower case, with dashes.
    (uuid.hyphenated().to_string() == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PVC: &str = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    #[test]
    fn k1_one_identity() {
        assert_eq!(volume_name(PVC), PVC);
        assert_eq!(default_slot(PVC, "unused"), "pvc-0a1b2c3d4e5f60718293a4b5c6d7");
        assert_eq!(default_slot(PVC, "unused").len(), 32);
        assert_eq!(
            base_nqn(DEFAULT_NQN_PREFIX, PVC),
            format!("nqn.2000-02.com.mikrotik:{PVC}")
        );
        assert_eq!(
            base_nqn("nqn.2026-01.io.example:rds.", "db"),
            "nqn.2026-01.io.example:rds.db"
        );
        assert_eq!(base_nqn(DEFAULT_NQN_PREFIX, "v-1"), "nqn.2000-02.com.mikrotik:pvc-v-1");
        assert_eq!(default_path("/pool/metal-csi/", "s"), "/pool/metal-csi/s.img");
    }

    #[test]
    fn hostile_and_odd_names_become_v_names() {
        for name in [
            "x",
            "pvc-1",
            "pvc-0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9",
            "a\"; /disk remove",
            "ü",
            &"n".repeat(200),
        ] {
            let made = volume_name(name);
            assert!(made.starts_with("v-") && made.len() == 38, "{made}");
            assert_eq!(made, volume_name(name), "the same request gives the same name");
            let slot = default_slot(&made, "");
            assert!(
                slot.len() == 32
                    && slot
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            );
        }
    }

    #[test]
    fn hand_written_names_take_the_uid() {
        assert_eq!(
            default_slot("database", "0A1B2C3D-4e5f-6071-8293-a4b5c6d7e8f9"),
            "v-0a1b2c3d4e5f60718293a4b5c6d7e8"
        );
    }

    #[test]
    fn r8_prefix_rules() {
        let long = |n: usize| format!("nqn.{}:", "a".repeat(n - 5));
        assert_eq!(check_prefix(DEFAULT_NQN_PREFIX), Ok(()));
        assert_eq!(check_prefix(&long(223)), Ok(()));
        assert!(matches!(
            check_prefix(&long(224)),
            Err(BadPrefix::Long { length: 224, .. })
        ));
        assert_eq!(check_prefix(""), Err(BadPrefix::Empty));
        assert!(matches!(check_prefix("iqn.2000-02.x:"), Err(BadPrefix::Start(_))));
        assert!(matches!(check_prefix("nqn.2000-02.x"), Err(BadPrefix::Colon(_))));
    }
}
