//! One listing for all readers: the system, its packages, the pool, all file disks and the image files below the base path.

use std::sync::Arc;

use serde::Deserialize;
use tokio::time::Instant;

use super::encode::{ExecNonce, Script};
use super::error::{RdsError, ServerName};
use super::look::{is_pool, section};
use super::reply::Answer;
use super::row::{DiskRow, FileRow, Scalar, disk_rows, file_rows, rows};
use super::types::DiskPath;
use super::version::RouterOsVersion;

/// A listing. Complete or not there at all.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// When it was asked for: what happened on the appliance later may be missing.
    pub taken_at: Instant,
    /// RouterOS version.
    pub version: RouterOsVersion,
    /// Model, where printed.
    pub board: String,
    /// Names of the installed packages.
    pub packages: Vec<String>,
    /// The file system that the base path is on.
    pub pool: Option<DiskRow>,
    /// All file disks, whoever owns them and wherever they are.
    pub disks: Vec<DiskRow>,
    /// Files (not folders) below the base path.
    pub files: Vec<FileRow>,
}

impl Inventory {
    /// 7.21 or newer.
    pub fn check_version(&self, server: &ServerName) -> Result<(), RdsError> {
        if self.version.is_supported() {
            Ok(())
        } else {
            Err(RdsError::VersionTooOld {
                server: Arc::clone(server),
                version: self.version,
            })
        }
    }

    /// True when the package that brings `/disk` its storage features is installed (its name differs between versions).
    pub fn has_storage_package(&self) -> bool {
        self.packages.iter().any(|p| p == "rose-storage" || p == "storage")
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RawResource {
    version: Scalar,
    board_name: Scalar,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPackage {
    name: Scalar,
    disabled: Scalar,
}

/// The line. It uses nothing that came after 7.16, so that an old version can say that it is old.
pub(crate) fn script(base: &DiskPath, nonce: &ExecNonce) -> Script {
    let plain = |code: &'static str| Script::default().code(code);
    // Unanchored: anchors and escapes in patterns over file names do not work on every version. The reader checks the names.
    let files = plain("/file/print detail as-value where name~").contains(base.file_name());
    let report = section(0, nonce, plain("/system/resource/print as-value"))
        .code("; ")
        .then(section(1, nonce, plain("/system/package/print as-value")))
        .code("; ")
        .then(section(2, nonce, plain("/disk/print detail as-value")))
        .code("; ")
        .then(section(3, nonce, files));
    Script::judged(nonce, report.code("; "), Script::default())
}

/// Reads the listing; every section must be whole.
pub(crate) fn read(base: &DiskPath, taken_at: Instant, answer: &Answer) -> Result<Inventory, String> {
    let resource = answer.section(0, |json| rows::<RawResource>(json, "the system resource"))?;
    let resource = resource.into_iter().next().ok_or("the system resource is empty")?;
    let packages = answer.section(1, |json| rows::<RawPackage>(json, "the packages"))?;
    let mut disks = answer.section(2, disk_rows)?;
    let mut files = answer.section(3, file_rows)?;
    let version = resource.version.text().unwrap_or_default();
    let pool = disks.iter().find(|r| !r.is_file() && is_pool(r, base)).cloned();
    disks.retain(DiskRow::is_file);
    disks.shrink_to_fit();
    files.retain(|f| !f.directory && base.contains(&f.path));
    files.shrink_to_fit();
    Ok(Inventory {
        taken_at,
        version: version.parse().map_err(|e: super::types::Malformed| e.to_string())?,
        board: resource.board_name.text().unwrap_or_default(),
        packages: packages
            .into_iter()
            .filter(|p| p.disabled.bool() != Ok(Some(true)))
            .filter_map(|p| p.name.text())
            .collect(),
        pool,
        disks,
        files,
    })
}
