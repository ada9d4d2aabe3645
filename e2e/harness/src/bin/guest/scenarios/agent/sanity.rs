//! csi-sanity, the conformance suite of the CSI project: the operator's service and the agent's together.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::vm::SHARE;

use crate::node::PLUGIN;
use crate::plane::{KUBELET, Plane, SERVER};
use crate::rig::Rig;

/// Nothing is left out: what is not advertised skips itself.
pub(super) fn passes(_: &Rig, plane: &Plane) -> Result<()> {
    let home = Path::new(KUBELET).join("plugins/csi-sanity");
    fs::create_dir_all(&home)?;
    let parameters = home.join("parameters.yaml");
    fs::write(&parameters, format!("server: {SERVER}\n"))?;
    let done = Command::new(plane.options.tools.join("csi-sanity"))
        .arg(format!("-csi.endpoint=unix://{PLUGIN}/csi.sock"))
        .arg(format!("-csi.controllerendpoint=dns:///{}", plane.options.controller))
        .arg(format!("-csi.testvolumeparameters={}", parameters.display()))
        .arg(format!("-csi.mountdir={}", home.join("mount").display()))
        .arg(format!("-csi.stagingdir={}", home.join("staging").display()))
        .args(["-csi.testvolumesize=1073741824", "-csi.testvolumeexpandsize=2147483648"])
        .arg("-ginkgo.no-color")
        .output()
        .context("run csi-sanity")?;
    let printed = [done.stdout, done.stderr].concat();
    fs::write(Path::new(SHARE).join("csi-sanity.log"), &printed)?;
    let printed = String::from_utf8_lossy(&printed);
    let ran = printed
        .lines()
        .find(|line| line.starts_with("Ran "))
        .unwrap_or_default();
    println!("   {ran}");
    let failed: Vec<&str> = printed.lines().filter(|line| line.contains("[FAIL]")).collect();
    ensure!(
        printed.contains("SUCCESS!") && !printed.contains("0 Passed"),
        "{ran}; all of it is in share/csi-sanity.log: {}",
        failed.join("; ")
    );
    Ok(())
}
