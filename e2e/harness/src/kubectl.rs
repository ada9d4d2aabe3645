//! kubectl, as a person would type it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// kubectl with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) cache: PathBuf,
}

/// What a kubectl run printed, and whether it went well.
#[derive(Clone, Debug)]
pub struct Printed {
    /// Exit status 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// Runs with these arguments, whatever comes of it.
    pub async fn try_run(&self, arguments: &[&str], stdin: Option<&str>) -> Result<Printed> {
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .current_dir(crate::tools::root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("run {}", self.program.display()))?;
        let mut input = child.stdin.take().context("kubectl's stdin")?;
        // kubectl that refuses its arguments closes its stdin early: what it printed says more than a broken pipe.
        input.write_all(stdin.unwrap_or_default().as_bytes()).await.ok();
        drop(input);
        let done = child.wait_with_output().await?;
        Ok(Printed {
            success: done.status.success(),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Runs with these arguments; its standard output, or an error with what it printed.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        good(arguments, self.try_run(arguments, None).await?)
    }

    /// `apply -f -`.
    pub async fn apply(&self, manifest: &serde_json::Value) -> Result<String> {
        let arguments = ["apply", "-f", "-"];
        good(&arguments, self.try_run(&arguments, Some(&manifest.to_string())).await?)
    }

    /// Runs what must be refused; the words of the refusal.
    pub async fn refused(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String> {
        let printed = self.try_run(arguments, stdin).await?;
        if printed.success {
            bail!("`kubectl {}` was not refused: {}", arguments.join(" "), printed.stdout);
        }
        Ok(printed.stderr)
    }
}

fn good(arguments: &[&str], printed: Printed) -> Result<String> {
    if !printed.success {
        bail!(
            "`kubectl {}` failed: {}{}",
            arguments.join(" "),
            printed.stderr,
            printed.stdout
        );
    }
    Ok(printed.stdout)
}
