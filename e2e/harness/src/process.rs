//! Child processes that cannot outlive the test run.
//!
//! Each child gets SIGKILL from the kernel when we die (`setpriv --pdeathsig`, from util-linux: a `pre_exec` of our own would
//! need unsafe code) and leads a process group, so that a Ctrl-C meant for us does not reach it first. The kernel ties that
//! signal to the *thread* that forked, so all children are forked by one thread that lives as long as the process.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

type Job = (Command, Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (jobs, inbox) = channel::<Job>();
    std::thread::spawn(move || {
        for (mut command, reply) in inbox {
            // A caller that no longer waits dropped its receiver; its child is then killed by the drop of `Child`'s owner: us.
            if let Err(unclaimed) = reply.send(command.spawn())
                && let Ok(mut child) = unclaimed.0
            {
                child.kill().ok();
                child.wait().ok();
            }
        }
    });
    Mutex::new(jobs)
});

/// A command for `program` that dies with this process. Add arguments and environment, then [`Process::start`] it.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
    command
}

/// A running child, its log file, and its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts what [`command`] made. Standard output and error are appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        let (reply, result) = channel();
        SPAWNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((command, reply))
            .map_err(|_| anyhow!("the thread that starts processes is gone"))?;
        let child = result
            .recv()?
            .with_context(|| format!("start {name} (is setpriv of util-linux installed?)"))?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id")?;
        Ok(Self {
            name: name.into(),
            pid,
            log: log.into(),
            child: Mutex::new(child),
        })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// `Some` once the process has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_wait()
            .ok()
            .flatten()
    }

    /// An error with the last lines of the log if the process has ended.
    pub fn alive(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its last lines:\n{}", self.name, self.tail(15)),
        }
    }

    /// SIGKILL for the process and its group, and waits for its end.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.try_wait().ok().flatten().is_none() {
            kill_process_group(self.pid, Signal::KILL).ok();
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// SIGTERM, as kubelet sends it.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::TERM)?)
    }

    /// SIGSTOP, or SIGCONT: frozen it keeps its connections and answers nothing.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        Ok(kill_process_group(self.pid, signal)?)
    }

    /// Waits for the end of the process.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        crate::wait_until(&format!("{} to end", self.name), deadline, async || {
            self.ended().context("still running")
        })
        .await
    }

    /// Resident memory in bytes, from /proc.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    pub fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("{field} in /proc/PID/status"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Processor time used so far, user and system together.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The second field is the name in parentheses, which may hold anything: count from behind it. utime and stime are 14 and 15.
        let rest = stat.rsplit_once(')').context("a name in /proc/PID/stat")?.1;
        let ticks: Vec<u64> = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|word| word.parse().ok())
            .collect();
        // USER_HZ is 100 on every architecture that Linux exports it on.
        Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 10))
    }

    /// The last `lines` of the log.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills every ssh process whose command line names this folder, which must be one of ours alone.
///
/// The connections that OpenSSH keeps in the background are no children of the operator any more. In a container they end with
/// it, as all of its processes do; here nobody else would end them, and they would fill the sessions of the appliance.
pub fn sweep(folder: &Path) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    let marker = folder.as_os_str().as_encoded_bytes();
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = !marker.is_empty() && line.windows(marker.len()).any(|part| part == marker);
        if ours && std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "ssh") {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}
