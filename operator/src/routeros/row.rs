//! Rows as the appliance prints them, read name-tolerantly: RouterOS versions differ in how they spell numbers, booleans and paths.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::tag::{OwnerTag, Ownership};
use super::types::{Bytes, DiskPath, Slot, normalise_path, shown};

/// One value of a reply: integer, float (`1234.000000`), text, boolean or nothing; of a list the first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Scalar {
    #[default]
    Missing,
    Bool(bool),
    Int(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Missing => None,
            Self::Bool(b) => Some(if *b { "yes" } else { "no" }.to_owned()),
            Self::Int(n) => Some(n.to_string()),
            Self::Float(f) => Some(f.to_string()),
            Self::Text(s) => Some(s.trim().to_owned()).filter(|s| !s.is_empty()),
        }
    }

    /// A whole number: `5`, `5.000000`, `"5"`, `"53 687 091 200"`. `Err` when there is a value and it is none.
    pub(crate) fn number(&self) -> Result<Option<u64>, String> {
        // 2^53: from there on a float no longer holds every integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self {
            Self::Missing => Ok(None),
            Self::Int(n) => Ok(Some(*n)),
            Self::Float(f) if f.fract() == 0.0 && (0.0..EXACT).contains(f) => Ok(Some(*f as u64)),
            Self::Text(s) => {
                let digits: String = s.chars().filter(|c| !matches!(c, ' ' | '\u{a0}')).collect();
                let whole = digits.split_once('.').map_or(digits.as_str(), |(whole, fraction)| {
                    if !fraction.is_empty() && fraction.bytes().all(|b| b == b'0') {
                        whole
                    } else {
                        "?"
                    }
                });
                match whole {
                    "" => Ok(None),
                    whole => whole
                        .parse()
                        .map(Some)
                        .map_err(|_| format!("`{s}` is not a whole number")),
                }
            }
            Self::Bool(_) | Self::Float(_) => Err(format!("{self:?} is not a whole number")),
        }
    }

    pub(crate) fn bool(&self) -> Result<Option<bool>, String> {
        match self {
            Self::Missing => Ok(None),
            Self::Bool(b) => Ok(Some(*b)),
            Self::Int(n @ 0..=1) => Ok(Some(*n == 1)),
            Self::Text(s) => match s.trim().to_ascii_lowercase().as_str() {
                "" => Ok(None),
                "yes" | "true" => Ok(Some(true)),
                "no" | "false" => Ok(Some(false)),
                other => Err(format!("`{other}` is neither yes nor no")),
            },
            Self::Int(_) | Self::Float(_) => Err(format!("{self:?} is neither yes nor no")),
        }
    }

    /// Sharing columns are not plain booleans on every version: anything but "off" counts as on.
    fn is_on(&self) -> bool {
        !matches!(self.text().as_deref(), None | Some("no" | "false" | "none" | "0"))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar::Int(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
                Ok(u64::try_from(v).map_or(Scalar::Float(v as f64), Scalar::Int))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(v.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Missing)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                let first = seq.next_element::<Scalar>()?.unwrap_or_default();
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(first)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Missing)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A list of rows; a bare object counts as a list of one.
struct Rows<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Rows<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rows")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows<T>, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    rows.push(row);
                }
                Ok(Rows(rows))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rows<T>, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(|row| Rows(vec![row]))
            }
        }
        deserializer.deserialize_any(List(std::marker::PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct RawDisk {
    slot: Scalar,
    r#type: Scalar,
    file_path: Scalar,
    size: Scalar,
    free: Scalar,
    comment: Scalar,
    disabled: Scalar,
    fs: Scalar,
    state: Scalar,
    mounted: Scalar,
    mount_point: Scalar,
    mount_filesystem: Scalar,
    nvme_tcp_export: Scalar,
    nvme_tcp_server_port: Scalar,
    nvme_tcp_server_nqn: Scalar,
    smb_sharing: Scalar,
    nfs_sharing: Scalar,
    media_sharing: Scalar,
}

/// A row of `/disk`: one of our images, or anything else the appliance has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RawDisk")]
pub struct DiskRow {
    /// Name of the row.
    pub slot: String,
    /// `file`, `raid`, `hardware`, ..
    pub kind: String,
    /// Image file of a file disk, with one leading slash.
    pub path: Option<String>,
    /// Exact size in bytes, as measured (`size`; never the rounded `file-size`).
    pub size: Option<Bytes>,
    /// Free bytes of a mounted file system.
    pub free: Option<Bytes>,
    /// Whose it is, by its comment.
    pub owner: Ownership,
    /// Switched off as a whole.
    pub disabled: bool,
    /// Exported over NVMe/TCP.
    pub exported: bool,
    /// NQN of the export; printed only while exported.
    pub nqn: Option<String>,
    /// Port of the export; printed only while exported.
    pub port: Option<u16>,
    /// Whether RouterOS would mount the guest's file system; must be `Some(false)` for images.
    pub mount_filesystem: Option<bool>,
    /// SMB, NFS or media sharing is on.
    pub shared: bool,
    /// File system on it.
    pub fs: Option<String>,
    /// RAID state: `clean`, ..
    pub state: Option<String>,
    /// Mounted on the appliance.
    pub mounted: bool,
    /// Where.
    pub mount_point: Option<String>,
}

impl DiskRow {
    /// True when this row has exactly this slot and names exactly this path.
    pub fn is_at(&self, slot: &Slot, path: &DiskPath) -> bool {
        self.slot == slot.as_str() && self.names(path)
    }

    /// True when the row's image is this file.
    pub fn names(&self, path: &DiskPath) -> bool {
        self.path.as_deref() == Some(path.as_str())
    }

    /// True when the comment carries exactly this token (cluster, volume, generation and nonce).
    pub fn carries(&self, tag: &OwnerTag) -> bool {
        self.owner.tag().is_some_and(|t| t.same_token(tag))
    }

    /// True when the row of a file system says that it is mounted.
    pub fn is_mounted(&self) -> bool {
        self.mounted || self.mount_point.is_some()
    }

    /// True when the row is an image (has a file behind it).
    pub fn is_file(&self) -> bool {
        self.kind == "file" || self.path.is_some()
    }
}

impl TryFrom<RawDisk> for DiskRow {
    type Error = String;
    fn try_from(raw: RawDisk) -> Result<Self, String> {
        let slot = raw.slot.text().unwrap_or_default();
        let row = |what: &str, why: String| format!("{what} of the disk `{}`: {why}", shown(&slot));
        let kind = raw.r#type.text().unwrap_or_default();
        let path = raw.file_path.text().map(|p| normalise_path(&p));
        if kind == "file" && (slot.is_empty() || path.is_none()) {
            return Err(format!("a file disk without slot or path (slot `{}`)", shown(&slot)));
        }
        let port = raw.nvme_tcp_server_port.number().map_err(|e| row("port", e))?;
        Ok(Self {
            path,
            // Sizes of foreign rows may be anything; those of images must be numbers.
            size: match raw.size.number() {
                Ok(size) => size.map(Bytes),
                Err(e) if kind == "file" => return Err(row("size", e)),
                Err(_) => None,
            },
            free: raw.free.number().ok().flatten().map(Bytes),
            owner: Ownership::parse(&raw.comment.text().unwrap_or_default()),
            disabled: raw.disabled.bool().map_err(|e| row("disabled", e))?.unwrap_or(false),
            exported: raw
                .nvme_tcp_export
                .bool()
                .map_err(|e| row("nvme-tcp-export", e))?
                .unwrap_or(false),
            nqn: raw.nvme_tcp_server_nqn.text(),
            port: port
                .map(u16::try_from)
                .transpose()
                .map_err(|e| row("port", e.to_string()))?,
            mount_filesystem: raw.mount_filesystem.bool().map_err(|e| row("mount-filesystem", e))?,
            shared: raw.smb_sharing.is_on() || raw.nfs_sharing.is_on() || raw.media_sharing.is_on(),
            fs: raw.fs.text().filter(|fs| fs != "-"),
            state: raw.state.text(),
            mounted: raw.mounted.bool().map_err(|e| row("mounted", e))?.unwrap_or(false),
            mount_point: raw.mount_point.text(),
            kind,
            slot,
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFile {
    name: Scalar,
    size: Scalar,
    r#type: Scalar,
}

/// A file or folder of `/file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawFile")]
pub struct FileRow {
    /// Path with one leading slash.
    pub path: String,
    /// Bytes, where it is printed as a number.
    pub size: Option<Bytes>,
    /// True for a folder.
    pub directory: bool,
}

impl TryFrom<RawFile> for FileRow {
    type Error = String;
    fn try_from(raw: RawFile) -> Result<Self, String> {
        let name = raw.name.text().ok_or("a file without name")?;
        Ok(Self {
            path: normalise_path(&name),
            size: raw.size.number().ok().flatten().map(Bytes),
            directory: matches!(raw.r#type.text().as_deref(), Some("directory" | "disk")),
        })
    }
}

/// One row that cannot be read fails the listing: a listing with holes would make disks look absent.
pub(crate) fn rows<'a, Row: Deserialize<'a>>(json: &'a str, what: &str) -> Result<Vec<Row>, String> {
    serde_json::from_str(json)
        .map(|Rows(rows)| rows)
        .map_err(|e| format!("{what}: {e}"))
}

/// Reads a listing of `/disk`.
pub(crate) fn disk_rows(json: &str) -> Result<Vec<DiskRow>, String> {
    rows(json, "the list of disks")
}

/// Reads a listing of `/file`.
pub(crate) fn file_rows(json: &str) -> Result<Vec<FileRow>, String> {
    rows(json, "the list of files")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn one(json: &str) -> DiskRow {
        disk_rows(json).unwrap().remove(0)
    }

    #[rstest]
    #[case::ints(r#"{"slot":"s","type":"file","file-path":"/p/s.img","size":1649267441664,"nvme-tcp-export":true,"nvme-tcp-server-port":4420,"mount-filesystem":false}"#)]
    #[case::floats(r#"{"slot":"s","type":"file","file-path":"p/s.img","size":1649267441664.000000,"nvme-tcp-export":true,"nvme-tcp-server-port":4420.000000,"mount-filesystem":"no"}"#)]
    #[case::strings(r#"{"slot":"s","type":"file","file-path":"p/s.img","size":"1649267441664","nvme-tcp-export":"yes","nvme-tcp-server-port":"4420","mount-filesystem":"false"}"#)]
    #[case::spaced(r#"{"slot":"s","type":"file","file-path":"/p/s.img","size":"1 649 267 441 664","nvme-tcp-export":"true","nvme-tcp-server-port":["4420"],"mount-filesystem":"no"}"#)]
    #[case::float_strings(r#"{"slot":"s","type":"file","file-path":"/p/s.img","size":"1649267441664.000000","nvme-tcp-export":1,"nvme-tcp-server-port":4420,"mount-filesystem":0}"#)]
    fn every_spelling_reads_the_same(#[case] json: &str) {
        for json in [json.to_owned(), format!("[{json}]")] {
            let row = one(&json);
            assert_eq!(row.size, Some(Bytes(3 << 39)));
            assert_eq!(
                (row.exported, row.port, row.mount_filesystem),
                (true, Some(4420), Some(false))
            );
            assert_eq!(row.path.as_deref(), Some("/p/s.img"));
        }
    }

    #[test]
    fn missing_keys_are_unknown_or_off() {
        let row = one(r#"{"slot":"s","type":"file","file-path":"p"}"#);
        assert_eq!(
            (row.size, row.exported, row.mount_filesystem, row.shared),
            (None, false, None, false)
        );
        assert_eq!(row.owner, Ownership::Untagged);
    }

    #[test]
    fn one_unreadable_image_fails_the_listing() {
        for bad in [
            r#"[{"slot":"a","type":"file","file-path":"p"},{"type":"file","slot":"b"}]"#,
            r#"[{"slot":"a","type":"file","file-path":"p","size":"1.5GiB"}]"#,
            r#"[{"slot":"a","type":"file","file-path":"p","size":1.5}]"#,
            r#"[{"slot":"a","type":"file","file-path":"p","nvme-tcp-export":"maybe"}]"#,
            r#"[{"slot":"a","#,
            "",
            "null",
            "\"\"",
        ] {
            assert!(disk_rows(bad).is_err(), "{bad}");
        }
        assert_eq!(disk_rows("[]").unwrap(), []);
    }

    #[test]
    fn rows_of_others_may_be_odd() {
        let row = one(
            r#"[{".id":"*1","slot":10.000000,"type":"hardware","size":"-","fs":"-","parent":{"a":1},"smb-sharing":"yes"}]"#,
        );
        assert_eq!(
            (row.size, row.fs, row.shared, row.slot.as_str()),
            (None, None, true, "10")
        );
    }
}
