//! csi-sanity, the conformance suite of the CSI project: the operator's service and the agent's together.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use e2e::sanity;
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
    let report = home.join("report.json");
    let mut command = Command::new(plane.options.tools.join("csi-sanity"));
    command
        .arg(format!("-csi.endpoint=unix://{PLUGIN}/csi.sock"))
        .arg(format!("-csi.controllerendpoint=dns:///{}", plane.options.controller))
        .arg(format!("-csi.testvolumeparameters={}", parameters.display()))
        .arg(format!("-csi.mountdir={}", home.join("mount").display()))
        .arg(format!("-csi.stagingdir={}", home.join("staging").display()))
        .args(["-csi.testvolumesize=1073741824", "-csi.testvolumeexpandsize=2147483648"])
        .arg("-ginkgo.no-color")
        .arg(format!("-ginkgo.json-report={}", report.display()));
    let mut printed = String::new();
    for _ in 0..sanity::TRIES {
        printed = sanity::printed(&command.output().context("run csi-sanity")?);
        fs::write(Path::new(SHARE).join("csi-sanity.log"), &printed)?;
        if !sanity::missed_its_connection(&printed) {
            break;
        }
        println!("   csi-sanity missed its connection; once more");
    }
    let ran = sanity::verdict(&printed).context("all of it is in share/csi-sanity.log")?;
    let skipped = sanity::skipped(&fs::read_to_string(&report)?)?;
    println!("   {ran}; {skipped} for what is not advertised");
    Ok(())
}
