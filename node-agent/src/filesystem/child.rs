//! Programs that look at a device or write to it, each with a limit in time.
//!
//! A program that writes is never killed when its time is up: it goes on, its result is [`ChildError::Running`], and no second
//! one is started on that device before it has ended (a half-written filesystem has no owner otherwise). It would not outlive this
//! process, for what is left in a container ends with it: so the process waits for it, see [`Writers::close`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Dev, major, minor};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::thread;

/// Where programs are looked for: images and kubelets differ in whether sbin is on the PATH.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of a program's words a message may carry.
const WORDS: usize = 600;
/// How much of its output is kept.
const OUTPUT: u64 = 1 << 20;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    search: OsString,
}

impl Default for Tools {
    fn default() -> Self {
        Self { search: SEARCH.into() }
    }
}

impl Tools {
    /// Programs of that search path only.
    #[must_use]
    pub fn at(search: impl Into<OsString>) -> Self {
        Self { search: search.into() }
    }

    /// Whether the program is there.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        self.find(program).is_some()
    }

    fn find(&self, program: &str) -> Option<std::path::PathBuf> {
        std::env::split_paths(&self.search)
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
    }
}

/// What a program left when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ended {
    /// Its own words in one line, for a message.
    #[must_use]
    pub fn words(&self) -> String {
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(WORDS) {
            Some((end, _)) => format!("{}..", &line[..end]),
            None if line.is_empty() => "it said nothing".to_owned(),
            None => line,
        }
    }

    /// How it ended, for a message.
    #[must_use]
    pub fn how(&self) -> String {
        match self.code {
            Some(code) => format!("exit code {code}"),
            None => "ended by a signal".to_owned(),
        }
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Not installed.
    #[error("{0} is not installed on this node; use an image of the agent that has it")]
    Missing(String),
    /// It could not be started.
    #[error("cannot start {0}: {1}")]
    Start(String, std::io::Error),
    /// A reader took too long and was killed: it had written nothing.
    #[error("{0} did not end within {1:?} and was stopped; it only reads")]
    Stopped(String, Duration),
    /// A writer takes longer than its time; it goes on.
    #[error("{0} is still at work on the device after {1:?}; its result is not known yet, try again later")]
    Running(String, Duration),
    /// One that was started before still writes.
    #[error("{0}, started earlier, is still at work on the device; try again later")]
    Earlier(String),
    /// A writer is not started any more.
    #[error("{0} is not started, as this agent is ending; try again later")]
    Ending(String),
}

/// What happens when the time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only reads: it is killed.
    Reads,
    /// It writes to that device: it goes on.
    Writes(Dev),
}

/// The programs at work that write, by device.
#[derive(Debug, Default)]
pub struct Writers {
    state: Mutex<AtWork>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct AtWork {
    all: BTreeMap<Dev, String>,
    closed: bool,
}

/// Those of this process.
pub static WRITERS: Writers = Writers::new();

/// The writer at work on that device, if this process started one.
#[must_use]
pub fn writer_on(device: Dev) -> Option<String> {
    WRITERS.lock().all.get(&device).cloned()
}

impl Writers {
    const fn new() -> Self {
        let at_work = AtWork {
            all: BTreeMap::new(),
            closed: false,
        };
        Self {
            state: Mutex::new(at_work),
            ended: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, AtWork> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None begins from now on. Answers with those at work, in words.
    pub fn close(&self) -> Vec<String> {
        let mut state = self.lock();
        state.closed = true;
        told(&state)
    }

    /// Waits for the end of those at work. Answers with those that are left after `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Vec<String> {
        let waited = self
            .ended
            .wait_timeout_while(self.lock(), limit, |state| !state.all.is_empty());
        told(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

fn told(state: &AtWork) -> Vec<String> {
    let one = |(device, program): (&Dev, &String)| format!("{program} on {}:{}", major(*device), minor(*device));
    state.all.iter().map(one).collect()
}

/// A claim on a device; it goes with the program.
struct Claim {
    writers: &'static Writers,
    device: Dev,
}

impl Claim {
    fn take(writers: &'static Writers, device: Dev, program: &str) -> Result<Self, ChildError> {
        let mut state = writers.lock();
        if state.closed {
            return Err(ChildError::Ending(program.to_owned()));
        }
        if let Some(other) = state.all.get(&device) {
            return Err(ChildError::Earlier(other.clone()));
        }
        state.all.insert(device, program.to_owned());
        Ok(Self { writers, device })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.writers.lock().all.remove(&self.device);
        self.writers.ended.notify_all();
    }
}

/// Runs a program to its end, or to the limit.
///
/// # Errors
/// When there is no result: see [`ChildError`].
pub fn run<S: AsRef<OsStr>>(
    tools: &Tools,
    program: &str,
    arguments: &[S],
    kind: Kind,
    limit: Duration,
) -> Result<Ended, ChildError> {
    run_then(tools, program, arguments, kind, limit, |_| ()).map(|(ended, ())| ended)
}

/// The same, with what is to be done once the program has ended, whoever still waits for it. The device is a writer's until that is
/// done too, and so the end of this process waits for it.
///
/// # Errors
/// As [`run`].
pub fn run_then<S: AsRef<OsStr>, T: Send + 'static>(
    tools: &Tools,
    program: &str,
    arguments: &[S],
    kind: Kind,
    limit: Duration,
    then: impl FnOnce(&Ended) -> T + Send + 'static,
) -> Result<(Ended, T), ChildError> {
    run_among(&WRITERS, tools, program, arguments, kind, limit, then)
}

fn run_among<S: AsRef<OsStr>, T: Send + 'static>(
    writers: &'static Writers,
    tools: &Tools,
    program: &str,
    arguments: &[S],
    kind: Kind,
    limit: Duration,
    then: impl FnOnce(&Ended) -> T + Send + 'static,
) -> Result<(Ended, T), ChildError> {
    let path = tools
        .find(program)
        .ok_or_else(|| ChildError::Missing(program.to_owned()))?;
    let claim = match kind {
        Kind::Reads => None,
        Kind::Writes(device) => Some(Claim::take(writers, device, program)?),
    };
    let mut command = Command::new(path);
    // A fixed environment: variables such as MKE2FS_CONFIG change what these programs do. No terminal: nothing is asked.
    command
        .args(arguments)
        .env_clear()
        .env("PATH", &tools.search)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| {
        if e.kind() == ErrorKind::NotFound {
            ChildError::Missing(program.to_owned())
        } else {
            ChildError::Start(program.to_owned(), e)
        }
    })?;
    // Opened before anybody waits for it: the number may be another process's afterwards, this never is.
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let (done, result) = channel();
    let waiter = thread::spawn(format!("wait-{program}"), move || {
        let ended = wait(child).map(|ended| {
            let done = then(&ended);
            (ended, done)
        });
        drop(claim);
        // Nobody listens any more when the time was up.
        let _ = done.send(ended);
    });
    if let Err(e) = waiter {
        return Err(ChildError::Start(program.to_owned(), e));
    }
    match result.recv_timeout(limit) {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(e)) => Err(ChildError::Start(program.to_owned(), e)),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => match kind {
            Kind::Writes(_) => Err(ChildError::Running(program.to_owned(), limit)),
            Kind::Reads => {
                if let Ok(handle) = handle {
                    let _ = pidfd_send_signal(&handle, Signal::KILL);
                }
                Err(ChildError::Stopped(program.to_owned(), limit))
            }
        },
    }
}

fn wait(mut child: Child) -> std::io::Result<Ended> {
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let reader = thread::spawn("child-stderr", move || drain(stderr));
    let stdout = drain(stdout);
    let stderr = match reader {
        Ok(reader) => reader.join().unwrap_or_default(),
        Err(_) => String::new(),
    };
    let status = child.wait()?;
    Ok(Ended {
        code: status.code(),
        stdout,
        stderr,
    })
}

/// All that comes, kept up to a bound; what is beyond is read and dropped, so that the program does not stall.
fn drain(from: Option<impl Read>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    let _ = from.by_ref().take(OUTPUT).read_to_end(&mut kept);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, Tools) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tool");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let tools = Tools::at(format!("{}:{SEARCH}", folder.path().display()));
        (folder, tools)
    }

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn code_and_words_come_back() {
        let (_folder, tools) = script("echo out; echo \"a  b\" >&2; exit 7");
        let ended = run::<&str>(&tools, "tool", &[], Kind::Reads, LONG).unwrap();
        assert_eq!(ended.code, Some(7));
        assert_eq!((ended.stdout.as_str(), ended.words().as_str()), ("out\n", "a b"));
        assert_eq!(ended.how(), "exit code 7");
    }

    #[test]
    fn a_missing_program_is_told_from_one_that_fails() {
        let error = run::<&str>(&Tools::at("/nonexistent"), "tool", &[], Kind::Reads, LONG).unwrap_err();
        assert!(matches!(error, ChildError::Missing(_)), "{error}");
    }

    #[test]
    fn much_output_does_not_stall_it() {
        let (_folder, tools) =
            script("head -c 3000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero | tr '\\0' y >&2");
        let ended = run::<&str>(&tools, "tool", &[], Kind::Reads, LONG).unwrap();
        assert_eq!(ended.code, Some(0));
        assert_eq!(ended.stdout.len(), 1 << 20);
        assert_eq!(ended.words().len(), WORDS + 2);
    }

    #[test]
    fn b74_a_reader_is_killed_when_its_time_is_up() {
        let (_folder, tools) = script("echo $$ > \"$1\"; exec sleep 1000");
        let pid = tempfile::NamedTempFile::new().unwrap();
        let error = run(&tools, "tool", &[pid.path()], Kind::Reads, Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, ChildError::Stopped(..)), "{error}");
        let pid: i32 = std::fs::read_to_string(pid.path()).unwrap().trim().parse().unwrap();
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_writer_goes_on_and_keeps_its_device() {
        let (folder, tools) = script("while [ ! -e \"$1/go\" ]; do sleep 0.02; done; touch \"$1/done\"");
        let device = 0xfff_0001;
        let go = |limit| run(&tools, "tool", &[folder.path()], Kind::Writes(device), limit);
        let error = go(SHORT).unwrap_err();
        assert!(matches!(error, ChildError::Running(..)), "{error}");
        assert_eq!(writer_on(device).as_deref(), Some("tool"));
        let error = go(SHORT).unwrap_err();
        assert!(
            matches!(error, ChildError::Earlier(_)),
            "a second one beside it: {error}"
        );
        std::fs::write(folder.path().join("go"), "").unwrap();
        while writer_on(device).is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(folder.path().join("done").exists(), "it was not killed");
        assert_eq!(go(LONG).unwrap().code, Some(0));
    }

    #[test]
    fn what_follows_a_late_end_is_done_before_the_device_is_free() {
        let (folder, tools) = script("while [ ! -e \"$1/go\" ]; do sleep 0.02; done; exit 3");
        let device = 0xfff_0002;
        let (said, hears) = channel();
        let (release, held) = channel::<()>();
        let late = run_then(
            &tools,
            "tool",
            &[folder.path()],
            Kind::Writes(device),
            SHORT,
            move |ended| {
                said.send(ended.code).unwrap();
                held.recv().ok();
            },
        );
        assert!(matches!(late, Err(ChildError::Running(..))));
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert_eq!(hears.recv(), Ok(Some(3)));
        assert_eq!(writer_on(device).as_deref(), Some("tool"));
        drop(release);
        while writer_on(device).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_ends_waits_for_a_writer_and_starts_none() {
        let writers: &'static Writers = Box::leak(Box::default());
        let (folder, tools) = script("while [ ! -e \"$1/go\" ]; do sleep 0.02; done; touch \"$1/done\"");
        let go = |device, limit| {
            let arguments = [folder.path()];
            run_among(writers, &tools, "tool", &arguments, Kind::Writes(device), limit, |_| ())
        };
        let device = rustix::fs::makedev(259, 7);
        assert!(matches!(go(device, SHORT), Err(ChildError::Running(..))));
        assert_eq!(writers.close(), ["tool on 259:7"]);
        let error = go(device + 1, SHORT).unwrap_err();
        assert!(matches!(error, ChildError::Ending(_)), "{error}");
        assert_eq!(writers.wait(SHORT), ["tool on 259:7"], "its time is up");
        let waits = std::thread::spawn(|| writers.wait(LONG));
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert_eq!(waits.join().unwrap(), [""; 0]);
        assert!(folder.path().join("done").exists(), "it was not killed");
        let (_folder, tools) = script("exit 0");
        let reads = run_among::<&str, ()>(writers, &tools, "tool", &[], Kind::Reads, LONG, |_| ());
        assert_eq!(reads.unwrap().0.code, Some(0), "who only reads may");
    }
}
