//! A simulator and the system's `ssh` in front of it: an implementation that shares nothing with the server's.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use routeros_sim::{Config, Knobs, Simulator};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::process::Command;

/// What `ssh` gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Standard output, byte for byte.
    pub out: String,
    /// Exit status; 255 is the transport's.
    pub status: Option<i32>,
    /// Standard error.
    pub err: String,
}

/// A running simulator with a client key on disk.
pub struct Bench {
    /// The simulator.
    pub sim: Simulator,
    dir: tempfile::TempDir,
}

impl Bench {
    /// With all defaults.
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// With knobs.
    pub async fn knobs(f: impl FnOnce(&mut Knobs)) -> Self {
        let mut config = Config::default();
        f(&mut config.knobs);
        Self::with(config).await
    }

    /// With a configuration.
    pub async fn with(config: Config) -> Self {
        let sim = Simulator::start(config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, sim.client_private_key()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let known = format!("[127.0.0.1]:{} {}\n", sim.addr().port(), sim.host_key_line());
        std::fs::write(dir.path().join("known_hosts"), known).unwrap();
        Self { sim, dir }
    }

    /// The `ssh` command up to the host.
    pub fn command(&self, user: &str, options: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg("none").arg("-i").arg(self.dir.path().join("key"));
        for o in [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            format!("UserKnownHostsFile={}", self.dir.path().join("known_hosts").display()),
        ] {
            ssh.arg("-o").arg(o);
        }
        ssh.args(options)
            .arg("-p")
            .arg(self.sim.addr().port().to_string())
            .arg(format!("{user}@127.0.0.1"));
        ssh.kill_on_drop(true);
        ssh
    }

    /// Runs a line as the operator's user and gives all of the reply.
    pub async fn run(&self, line: &str) -> Reply {
        self.run_as("metal-csi", line).await
    }

    /// Runs a line as a user.
    pub async fn run_as(&self, user: &str, line: &str) -> Reply {
        let output = self.command(user, &["-T"]).arg("--").arg(line).output();
        let output = tokio::time::timeout(Duration::from_secs(30), output)
            .await
            .unwrap()
            .unwrap();
        Reply {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            status: output.status.code(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line that must end with status 0 and an empty standard error, and gives standard output.
    pub async fn ssh(&self, line: &str) -> String {
        let reply = self.run(line).await;
        assert_eq!((reply.status, reply.err.as_str()), (Some(0), ""), "{line}: {reply:?}");
        reply.out
    }
}

/// The lines of a reply, which all end in CRLF, without blank ones.
pub fn lines(reply: &str) -> Vec<&str> {
    reply
        .split("\r\n")
        .map(str::trim_end)
        .filter(|l| !l.is_empty())
        .collect()
}
