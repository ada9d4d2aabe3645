//! What scenarios find: a simulated appliance whose exports are real, behind a network of its own, in the same kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use routeros_sim::{Config, Nvmet, Simulator};

use crate::fabric;

/// Where the target listens, behind a pair of virtual network cards.
pub(crate) const TARGET: &str = "10.9.0.2";

/// Where its SSH listens; forwarded from the host where an operator works for it.
pub(crate) const SSH_PORT: u16 = 22;

/// The folder of the images, in memory.
const IMAGES: &str = "/run/images";

const NETNS: &str = "/run/netns/target";

/// The rig.
pub(crate) struct Rig {
    /// The appliance.
    pub(crate) sim: Simulator,
    key: PathBuf,
}

/// Runs a program to its end.
pub(crate) fn sh(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        done.status.success(),
        "{program} {} ended with {}: {} {}",
        arguments.join(" "),
        done.status,
        text(&done.stderr),
        text(&done.stdout)
    );
    Ok(text(&done.stdout))
}

/// Asks until the answer is good; the error is the last answer.
pub(crate) fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("waited {:.0} s for {what}", limit.as_secs_f32())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Rig {
    /// Lays the network and starts the appliance.
    pub(crate) fn start() -> Result<Self> {
        sh("ip", &["netns", "add", "target"])?;
        sh(
            "ip",
            &[
                "link", "add", "ini0", "type", "veth", "peer", "name", "tgt0", "netns", "target",
            ],
        )?;
        sh("ip", &["addr", "add", "10.9.0.1/24", "dev", "ini0"])?;
        sh("ip", &["link", "set", "ini0", "up"])?;
        sh("ip", &["-n", "target", "addr", "add", "10.9.0.2/24", "dev", "tgt0"])?;
        sh("ip", &["-n", "target", "link", "set", "tgt0", "up"])?;
        let address: Ipv4Addr = TARGET.parse()?;
        let sim = e2e::run(Simulator::start(Config {
            listen: ([0, 0, 0, 0], SSH_PORT).into(),
            nvmet: Some(Nvmet {
                address: IpAddr::V4(address),
                images: IMAGES.into(),
                netns: Some(NETNS.into()),
            }),
            ..Config::default()
        }))?;
        let key = PathBuf::from("/run/appliance.key");
        std::fs::write(&key, sim.client_private_key())?;
        sh("chmod", &["600", &key.display().to_string()])?;
        Ok(Self { sim, key })
    }

    /// Gives a command to the appliance over SSH, as the operator's user; its reply.
    pub(crate) fn ssh(&self, line: &str) -> Result<String> {
        let port = self.sim.addr().port().to_string();
        let mut arguments = vec!["-p", &port, "-i"];
        let key = self.key.display().to_string();
        arguments.push(&key);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "IdentityAgent=none",
        ] {
            arguments.extend(["-o", option]);
        }
        arguments.extend(["metal-csi@127.0.0.1", line]);
        sh("ssh", &arguments)
    }

    /// Gives a command to the appliance by its console.
    pub(crate) fn console(&self, line: &str) -> Result<()> {
        let done = e2e::run(self.sim.exec(line));
        ensure!(!done.failed, "{line}: {}", done.output);
        Ok(())
    }

    /// Cuts or mends the cable between this kernel and the target.
    pub(crate) fn cable(&self, up: bool) -> Result<()> {
        sh("ip", &["link", "set", "ini0", if up { "up" } else { "down" }]).map(drop)
    }

    /// An error that names what a scenario left behind.
    pub(crate) fn clean(&self) -> Result<()> {
        let disks: Vec<_> = self.sim.file_disks().into_iter().map(|disk| disk.slot).collect();
        ensure!(disks.is_empty(), "left on the appliance: {disks:?}");
        let sessions = fabric::sessions()?;
        ensure!(sessions.is_empty(), "left connected: {sessions:?}");
        let exports = Path::new("/sys/kernel/config/nvmet/subsystems");
        let exports: Vec<_> = std::fs::read_dir(exports)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        ensure!(exports.is_empty(), "left exported: {exports:?}");
        Ok(())
    }

    /// Takes away what a scenario that failed left behind, as far as it goes.
    pub(crate) fn sweep(&self) {
        self.cable(true).ok();
        self.sim.knobs(|knobs| *knobs = routeros_sim::Knobs::default());
        for nqn in fabric::sessions().unwrap_or_default() {
            fabric::disconnect(&nqn).ok();
        }
        self.console("/disk remove [find type=file]").ok();
        self.console("/file remove [find name~\"img$\"]").ok();
    }
}
