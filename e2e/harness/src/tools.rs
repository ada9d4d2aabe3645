//! The programs that the harness runs: built from their Go modules by `e2e/tools/build.sh`, ours by cargo.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The checkout that this harness was compiled from.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).into()
}

/// Where the Go-built programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    built: PathBuf,
    assets: Option<PathBuf>,
}

impl Tools {
    /// The folder of what `build.sh` made.
    pub fn folder(&self) -> &Path {
        &self.built
    }

    /// The path of a program. `KUBEBUILDER_ASSETS` goes first for etcd, kube-apiserver and kubectl.
    pub fn path(&self, name: &str) -> PathBuf {
        let own = self
            .assets
            .iter()
            .map(|assets| assets.join(name))
            .find(|path| path.exists());
        own.unwrap_or_else(|| self.built.join(name))
    }
}

/// Builds what is missing, with progress on stderr, and says where it is. Takes minutes once, then a moment.
pub fn ensure() -> Result<Tools> {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock();
    if let Some(tools) = TOOLS.get() {
        return Ok(tools.clone());
    }
    let built = made_by("tools/build.sh", &[])?;
    let tools = Tools {
        built,
        assets: std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from),
    };
    Ok(TOOLS.get_or_init(|| tools).clone())
}

/// Runs a script of `e2e/`, with its progress on stderr.
///
/// # Errors
/// It cannot be run, or fails; why, it has said itself.
pub(crate) fn script(name: &str, arguments: &[&OsStr]) -> Result<String> {
    let path = root().join("e2e").join(name);
    let done = Command::new(&path)
        .args(arguments)
        .env_remove("GOMAXPROCS") // `e2e/test.sh` means it for what a script builds, not for the building
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", path.display()))?;
    ensure!(done.status.success(), "{} failed (see above)", path.display());
    Ok(String::from_utf8(done.stdout)?)
}

/// Runs a script of `e2e/` that ends by printing the path of what it made.
///
/// # Errors
/// As [`script`], and when it prints none.
pub(crate) fn made_by(name: &str, arguments: &[&OsStr]) -> Result<PathBuf> {
    let printed = script(name, arguments)?;
    let last = printed.lines().last();
    Ok(last.with_context(|| format!("{name} printed no path"))?.into())
}

/// Cargo's target folder, wherever configuration puts it.
pub fn target() -> Result<PathBuf> {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    if let Some(target) = TARGET.get() {
        return Ok(target.clone());
    }
    let metadata = Command::new(cargo())
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .context("run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).context("read cargo metadata")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(TARGET.get_or_init(|| target.into()).clone())
}

/// The path of one of our own programs, built now if it is not fresh: a test must never run yesterday's operator.
pub fn own(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<()> = OnceLock::new();
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock();
    if BUILT.get().is_none() {
        // As much of the workspace as `cargo test` builds, and a test among it, for the sake of which cargo takes the features of
        // tests: with another set everything would be compiled twice. All at once, as whoever asks first asks for the others, too.
        let mut build = Command::new(cargo());
        // What cargo told this test about its own package would tell build scripts (ring's) that they have to run again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|start| name.starts_with(start))
            {
                build.env_remove(name.as_ref());
            }
        }
        if profile() == "release" {
            let packages = ["rds-operator", "rds-node-agent", "routeros-sim", "e2e"];
            build.args(["build", "--release", "--bins"]);
            build.args(packages.iter().flat_map(|package| ["--package", package]));
        } else {
            build.args(["build", "--workspace", "--bins", "--test", "wire"]);
        }
        let status = build
            .arg("--quiet")
            .current_dir(root())
            .status()
            .context("run cargo build")?;
        ensure!(status.success(), "cargo build failed (see above)");
        BUILT.get_or_init(|| ());
    }
    Ok(target()?.join(profile()).join(name))
}

/// `release` when `E2E_PROFILE` says so: what is measured is what is shipped.
fn profile() -> &'static str {
    if std::env::var("E2E_PROFILE").is_ok_and(|profile| profile == "release") {
        "release"
    } else {
        "debug"
    }
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
