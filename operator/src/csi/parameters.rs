//! Parameters of a StorageClass, read in one strict place (B55): an unknown key, or a value outside its range, is refused
//! by name. `docs/parameters.md` lists them; a test compares.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use rds_crds::volume::{ClaimReference, Connection, FsType, MigrationPolicy};
use tracing::warn;

use super::capability::filesystem;
use super::failure::{Failure, shown};

/// Every key that is known. Those under `csi.storage.k8s.io/` come from the provisioner and its `--extra-create-metadata`.
pub const KEYS: [&str; 19] = [
    "server",
    "rdsAddress",
    "sshPort",
    "volumePath",
    "nqnPrefix",
    "nvmeAddress",
    "nvmePort",
    "ctrlLossTmo",
    "reconnectDelay",
    "keepAliveTmo",
    "ioQueues",
    "migrationTimeoutSeconds",
    "migrationPolicy",
    "fsType",
    "mkfsOptions",
    "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/pvc/name",
    "csi.storage.k8s.io/pvc/namespace",
    "csi.storage.k8s.io/pv/name",
];

/// Name of the RdsServer when the StorageClass names none.
pub const DEFAULT_SERVER: &str = "default";
/// Seconds that a migration may take unless said otherwise (R62).
pub const MIGRATION_DEFAULT: u32 = 300;
/// Bounds of the seconds that a migration may take (R62).
const MIGRATION_RANGE: (u32, u32) = (30, 3600);
/// Arguments of mkfs that would make it overwrite what it finds (I1), in any spelling.
const MKFS_FORCE: [&str; 3] = ["-f", "-F", "--force"];

/// The parameters, typed. An absent one is `None`: defaults belong to the server and to the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Name of the RdsServer.
    pub server: Option<String>,
    /// Management address that the RdsServer must have.
    pub rds_address: Option<String>,
    /// Management port that the RdsServer must have.
    pub ssh_port: Option<u16>,
    /// Directory for the image file.
    pub volume_path: Option<String>,
    /// Prefix of the NQN.
    pub nqn_prefix: Option<String>,
    /// How nodes connect.
    pub connection: Option<Connection>,
    /// Seconds that a migration may take; within its bounds.
    pub migration_timeout_seconds: Option<u32>,
    /// Who may be the second node.
    pub migration_policy: Option<MigrationPolicy>,
    /// Filesystem.
    pub fs_type: Option<FsType>,
    /// Further arguments of mkfs.
    pub mkfs_options: Vec<String>,
    /// The claim that asks.
    pub claim: Option<ClaimReference>,
}

impl Parameters {
    /// Reads and checks all of them.
    pub fn parse(given: &HashMap<String, String>) -> Result<Self, Failure> {
        let mut unknown: Vec<&str> = given
            .keys()
            .map(String::as_str)
            .filter(|key| !KEYS.contains(key))
            .collect();
        unknown.sort_unstable();
        if let Some(key) = unknown.first() {
            return Err(Failure::Invalid(format!(
                "StorageClass parameter `{}` is not known: remove it, or use one of {}",
                shown(key),
                KEYS[..15].join(", ")
            )));
        }
        let get = |key: &str| given.get(key).map(String::as_str);
        let connection = Connection {
            address: get("nvmeAddress").map(|v| address("nvmeAddress", v)).transpose()?,
            port: get("nvmePort").map(|v| number("nvmePort", v, 1, 65535)).transpose()?,
            ctrl_loss_tmo: get("ctrlLossTmo")
                .map(|v| number("ctrlLossTmo", v, -1, i32::MAX))
                .transpose()?,
            reconnect_delay: get("reconnectDelay")
                .map(|v| number("reconnectDelay", v, 1, i32::MAX))
                .transpose()?,
            keep_alive_tmo: get("keepAliveTmo")
                .map(|v| number("keepAliveTmo", v, 0, i32::MAX))
                .transpose()?,
            io_queues: get("ioQueues").map(|v| number("ioQueues", v, 1, 128)).transpose()?,
        };
        let claim = get("csi.storage.k8s.io/pvc/namespace").zip(get("csi.storage.k8s.io/pvc/name"));
        Ok(Self {
            server: get("server").map(|v| object_name("server", v)).transpose()?,
            rds_address: get("rdsAddress").map(|v| not_empty("rdsAddress", v)).transpose()?,
            ssh_port: get("sshPort").map(|v| number("sshPort", v, 1, 65535)).transpose()?,
            volume_path: get("volumePath").map(directory).transpose()?,
            nqn_prefix: get("nqnPrefix").map(nqn_prefix).transpose()?,
            connection: (connection != Connection::default()).then_some(connection),
            migration_timeout_seconds: get("migrationTimeoutSeconds").map(migration_timeout),
            migration_policy: get("migrationPolicy").map(migration_policy).transpose()?,
            fs_type: one_filesystem(get("csi.storage.k8s.io/fstype"), get("fsType"))?,
            mkfs_options: get("mkfsOptions").map(mkfs_options).transpose()?.unwrap_or_default(),
            claim: claim.map(|(namespace, name)| ClaimReference {
                namespace: namespace.into(),
                name: name.into(),
            }),
        })
    }
}

fn refuse(key: &str, value: &str, how: &str) -> Failure {
    Failure::Invalid(format!("StorageClass parameter `{key}` is `{}`: {how}", shown(value)))
}

/// Digits with at most a leading minus; what else `parse` would take (a plus sign) is refused (B55).
fn number<T: FromStr + PartialOrd + std::fmt::Display>(key: &str, text: &str, least: T, most: T) -> Result<T, Failure> {
    let plain = text
        .strip_prefix('-')
        .unwrap_or(text)
        .chars()
        .all(|c| c.is_ascii_digit());
    match text.parse::<T>() {
        Ok(value) if plain && value >= least && value <= most => Ok(value),
        Ok(_) | Err(_) => Err(refuse(
            key,
            text,
            &format!("give a whole number from {least} to {most}"),
        )),
    }
}

fn not_empty(key: &str, text: &str) -> Result<String, Failure> {
    if text.is_empty() {
        return Err(refuse(key, text, "give a value, or remove the parameter"));
    }
    Ok(text.to_owned())
}

fn object_name(key: &str, text: &str) -> Result<String, Failure> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if text.is_empty() || text.len() > 63 || !text.chars().all(inner) || text.starts_with(['-', '.']) {
        return Err(refuse(
            key,
            text,
            "give the name of an RdsServer, as `kubectl get rdsservers` shows it",
        ));
    }
    Ok(text.to_owned())
}

fn address(key: &str, text: &str) -> Result<String, Failure> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => Err(refuse(
            key,
            text,
            "give a literal IP address, as nodes resolve no names for it",
        )),
    }
}

/// An absolute directory of the alphabet that RdsVolume.spec.path has; whether it is below the server's is judged later.
fn directory(text: &str) -> Result<String, Failure> {
    let path = if text.len() > 1 {
        text.strip_suffix('/').unwrap_or(text)
    } else {
        text
    };
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    match path.strip_prefix('/') {
        Some(rest) if path.len() <= 200 && rest.split('/').all(plain) => Ok(path.to_owned()),
        _ => Err(refuse(
            "volumePath",
            text,
            "give an absolute path of letters, digits, `.`, `_` and `-`, without `..`, such as /storage-pool/metal-csi",
        )),
    }
}

fn nqn_prefix(text: &str) -> Result<String, Failure> {
    rds_crds::identity::check_prefix(text).map_err(|e| refuse("nqnPrefix", text, &format!("{e}; correct it")))?;
    let alphabet = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | ':');
    if !text.chars().all(alphabet) {
        return Err(refuse(
            "nqnPrefix",
            text,
            "use lower-case letters, digits and . - _ : only",
        ));
    }
    Ok(text.to_owned())
}

/// R62: what cannot be used is corrected and logged, never refused.
fn migration_timeout(text: &str) -> u32 {
    let (least, most) = MIGRATION_RANGE;
    let seconds = match text.trim().parse::<i64>() {
        Ok(n) if n > 0 => u32::try_from(n).unwrap_or(u32::MAX).clamp(least, most),
        Ok(_) | Err(_) => MIGRATION_DEFAULT,
    };
    if seconds.to_string() != text {
        warn!(
            given = text,
            used = seconds,
            "StorageClass parameter migrationTimeoutSeconds was corrected"
        );
    }
    seconds
}

fn migration_policy(text: &str) -> Result<MigrationPolicy, Failure> {
    match text {
        "any" => Ok(MigrationPolicy::Any),
        "kubevirt" => Ok(MigrationPolicy::Kubevirt),
        other => Err(refuse("migrationPolicy", other, "give any or kubevirt")),
    }
}

fn one_filesystem(new: Option<&str>, old: Option<&str>) -> Result<Option<FsType>, Failure> {
    match (new, old) {
        (Some(new), Some(old)) if new != old => Err(refuse(
            "fsType",
            old,
            &format!("`csi.storage.k8s.io/fstype` says `{}`; keep only that one", shown(new)),
        )),
        (given, other) => given.or(other).map(filesystem).transpose().map(Option::flatten),
    }
}

fn mkfs_options(text: &str) -> Result<Vec<String>, Failure> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let good = |c: char| c.is_ascii_alphanumeric() || "_-=.:,^+%".contains(c);
    let bad = |word: &&String| word.len() > 128 || !word.chars().all(good);
    if let Some(word) = words.iter().find(|word| MKFS_FORCE.contains(&word.as_str())) {
        return Err(refuse(
            "mkfsOptions",
            text,
            &format!("remove `{word}`: a filesystem is never made over data"),
        ));
    }
    if words.len() > 16 || words.iter().any(|word| bad(&word)) {
        return Err(refuse(
            "mkfsOptions",
            text,
            "give at most 16 words of letters, digits and _-=.:,^+%",
        ));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Parameters, Failure> {
        Parameters::parse(&given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn nothing_given_is_nothing_said() {
        assert_eq!(parse(&[]).unwrap(), Parameters::default());
    }

    #[test]
    fn k7_every_key_is_read() {
        let all = parse(&[
            ("server", "rack-1"),
            ("rdsAddress", "10.42.241.3"),
            ("sshPort", "22"),
            ("volumePath", "/storage-pool/metal-csi/"),
            ("nqnPrefix", "nqn.2000-02.com.mikrotik:pvc-"),
            ("nvmeAddress", "10.42.68.1"),
            ("nvmePort", "4420"),
            ("ctrlLossTmo", "-1"),
            ("reconnectDelay", "5"),
            ("keepAliveTmo", "0"),
            ("ioQueues", "4"),
            ("migrationTimeoutSeconds", "600"),
            ("migrationPolicy", "kubevirt"),
            ("fsType", "xfs"),
            ("mkfsOptions", "-m  crc=1 -O ^has_journal"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "data"),
            ("csi.storage.k8s.io/pvc/namespace", "shop"),
            ("csi.storage.k8s.io/pv/name", "pvc-1"),
        ])
        .unwrap();
        let connection = all.connection.unwrap();
        assert_eq!(all.volume_path.as_deref(), Some("/storage-pool/metal-csi"));
        assert_eq!(
            (connection.port, connection.ctrl_loss_tmo, connection.io_queues),
            (Some(4420), Some(-1), Some(4))
        );
        assert_eq!(
            (all.migration_timeout_seconds, all.fs_type),
            (Some(600), Some(FsType::Xfs))
        );
        assert_eq!(all.mkfs_options, ["-m", "crc=1", "-O", "^has_journal"]);
        assert_eq!(
            all.claim,
            Some(ClaimReference {
                namespace: "shop".into(),
                name: "data".into()
            })
        );
    }

    #[test]
    fn r62_migration_timeouts_are_corrected_not_refused() {
        for (given, used) in [
            ("300", 300),
            ("1", 30),
            ("29", 30),
            ("3601", 3600),
            ("99999999999", 3600),
            ("0", 300),
            ("-5", 300),
            ("soon", 300),
            ("", 300),
        ] {
            let made = parse(&[("migrationTimeoutSeconds", given)]).unwrap();
            assert_eq!(made.migration_timeout_seconds, Some(used), "{given}");
        }
    }

    #[test]
    fn b55_r75_bad_values_are_refused_by_key_with_the_way_out() {
        for (key, value, how) in [
            ("nvmePort", "4420abc", "from 1 to 65535"),
            ("nvmePort", "0", "from 1 to 65535"),
            ("nvmePort", "65536", "from 1 to 65535"),
            ("nvmePort", "+4420", "from 1 to 65535"),
            ("nvmePort", " 4420", "from 1 to 65535"),
            ("nvmePort", "", "from 1 to 65535"),
            ("sshPort", "-22", "from 1 to 65535"),
            ("ctrlLossTmo", "-2", "from -1 to"),
            ("reconnectDelay", "0", "from 1 to"),
            ("keepAliveTmo", "-1", "from 0 to"),
            ("keepAliveTmo", "1.5", "from 0 to"),
            ("ioQueues", "129", "from 1 to 128"),
            ("nvmeAddress", "rds.example.org", "literal IP address"),
            ("nvmeAddress", "10.0.0.256", "literal IP address"),
            ("rdsAddress", "", "give a value"),
            ("server", "Rack 1", "kubectl get rdsservers"),
            ("server", "", "kubectl get rdsservers"),
            ("volumePath", "relative", "absolute path"),
            ("volumePath", "/pool/../other", "without `..`"),
            ("volumePath", "/pool//x", "absolute path"),
            ("volumePath", "/", "absolute path"),
            ("volumePath", "/pool/$x", "absolute path"),
            ("volumePath", "/pool\n/disk remove", "absolute path"),
            ("nqnPrefix", "pvc-", "does not begin with `nqn.`"),
            ("nqnPrefix", "nqn.2000-02.com.mikrotik", "no `:`"),
            ("nqnPrefix", "nqn.2000-02.com.mikrotik:\"", "lower-case letters"),
            ("migrationPolicy", "all", "any or kubevirt"),
            ("fsType", "ntfs", "use ext4"),
            ("mkfsOptions", "-F", "never made over data"),
            ("mkfsOptions", "-L $(x)", "at most 16 words"),
            ("mkfsOptions", "/dev/sda", "at most 16 words"),
        ] {
            let failure = parse(&[(key, value)]).unwrap_err();
            assert!(matches!(failure, Failure::Invalid(_)), "{key}={value}: {failure:?}");
            let text = failure.to_string();
            assert!(text.contains(how), "{key}={value}: {text}");
            assert!(text.contains(key) || key == "fsType", "{key}={value}: {text}");
        }
        let text = parse(&[("nvmeAdress", "10.0.0.1")]).unwrap_err().to_string();
        assert!(
            text.contains("`nvmeAdress` is not known") && text.contains("nvmeAddress"),
            "{text}"
        );
        let text = parse(&[("fsType", "ext4"), ("csi.storage.k8s.io/fstype", "xfs")])
            .unwrap_err()
            .to_string();
        assert!(text.contains("keep only that one"), "{text}");
    }

    #[test]
    fn b61_every_key_is_in_the_document() {
        let text = include_str!("../../../docs/parameters.md");
        for key in KEYS {
            assert!(text.contains(&format!("`{key}`")), "docs/parameters.md lacks {key}");
        }
        // The StorageClass that ships explains all that a person may write.
        let class = include_str!("../../../config/storage/rds-nvme.yaml");
        for key in KEYS.iter().filter(|key| !key.contains("/pv")) {
            assert!(class.contains(key), "config/storage/rds-nvme.yaml lacks {key}");
        }
    }
}
