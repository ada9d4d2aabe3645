//! The kernel's initiator by hand, without any code of the agent: how scenarios look at what the agent did, and play others.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::rig::until;

const HOST_ID: &str = "11111111-1111-4111-8111-111111111111";

fn attribute(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn list(folder: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    Ok(entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?)
}

/// One write is one connect, and its errno is the answer.
pub(crate) fn connect(nqn: &str, address: &str, port: u16) -> Result<String> {
    let options = format!(
        "transport=tcp,traddr={address},trsvcid={port},nqn={nqn},hostnqn=nqn.2014-08.org.nvmexpress:uuid:{HOST_ID},\
         hostid={HOST_ID},ctrl_loss_tmo=600,reconnect_delay=2,keep_alive_tmo=5,nr_io_queues=1"
    );
    let mut file = fs::File::options().read(true).write(true).open("/dev/nvme-fabrics")?;
    file.write_all(options.as_bytes())
        .with_context(|| format!("connect {nqn}"))?;
    let mut reply = [0; 128];
    let length = file.read(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply[..length]).trim().to_owned();
    let instance = reply.strip_prefix("instance=").and_then(|rest| rest.split(',').next());
    Ok(format!(
        "nvme{}",
        instance.with_context(|| format!("the kernel answered `{reply}`"))?
    ))
}

/// Waits for the disk of a subsystem that is connected, and gives its device node.
pub(crate) fn disk(nqn: &str) -> Result<PathBuf> {
    until(&format!("a disk of {nqn}"), Duration::from_secs(60), || {
        for subsystem in list("/sys/class/nvme-subsystem")? {
            if attribute(&subsystem.join("subsysnqn")) != nqn {
                continue;
            }
            for name in list(&subsystem.display().to_string())? {
                let ready = attribute(&name.join("hidden")) == "0" && attribute(&name.join("size")) != "0";
                let node = Path::new("/dev").join(name.file_name().unwrap_or_default());
                if ready && node.exists() {
                    return Ok(node);
                }
            }
        }
        anyhow::bail!("there is none")
    })
}

/// NQNs of all controllers.
pub(crate) fn sessions() -> Result<Vec<String>> {
    let all = list("/sys/class/nvme")?.into_iter();
    Ok(all.map(|controller| attribute(&controller.join("subsysnqn"))).collect())
}

/// States of the controllers of a subsystem, as the kernel spells them.
pub(crate) fn states(nqn: &str) -> Result<Vec<String>> {
    let ours = list("/sys/class/nvme")?.into_iter();
    let ours = ours.filter(|controller| attribute(&controller.join("subsysnqn")) == nqn);
    Ok(ours.map(|controller| attribute(&controller.join("state"))).collect())
}

/// Deletes all controllers of a subsystem.
pub(crate) fn disconnect(nqn: &str) -> Result<()> {
    for controller in list("/sys/class/nvme")? {
        if attribute(&controller.join("subsysnqn")) == nqn {
            fs::write(controller.join("delete_controller"), "1").with_context(|| format!("disconnect {nqn}"))?;
            ensure!(!controller.exists(), "{} is still there", controller.display());
        }
    }
    Ok(())
}
