//! What kubelet does for containers: starts them, and starts them again when they end.
//!
//! Sidecars exit when their driver goes away, so a test that kills the operator needs this; there is no restart backoff, for a
//! test has no use for one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;

type Make = Box<dyn Fn() -> Command + Send + Sync>;

/// A process that is started again whenever it ends, until it is held or dropped.
pub struct Supervised(Arc<Inner>);

struct Inner {
    name: String,
    log: PathBuf,
    state: Mutex<State>,
}

struct State {
    make: Make,
    process: Option<Process>,
    wanted: bool,
    starts: u32,
}

impl Supervised {
    /// Starts it and watches over it. Needs to be called on the runtime of [`crate::run`].
    pub fn start(name: &str, log: PathBuf, make: impl Fn() -> Command + Send + Sync + 'static) -> Result<Self> {
        let state = State {
            make: Box::new(make),
            process: None,
            wanted: true,
            starts: 0,
        };
        let inner = Arc::new(Inner {
            name: name.into(),
            log,
            state: Mutex::new(state),
        });
        inner.tend()?;
        tokio::spawn(watch(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// Replaces how it is started from now on.
    pub fn remake(&self, make: impl Fn() -> Command + Send + Sync + 'static) {
        self.0.state().make = Box::new(make);
    }

    /// SIGKILL, and starts it again at once.
    pub fn restart(&self) -> Result<()> {
        self.0.state().process = None;
        self.release()
    }

    /// SIGKILL, and leaves it dead until [`Self::release`].
    pub fn hold(&self) {
        let mut state = self.0.state();
        state.wanted = false;
        state.process = None;
    }

    /// Lets the end that is coming be the last one: after it the process stays dead until [`Self::release`].
    pub fn once(&self) {
        self.0.state().wanted = false;
    }

    /// Starts it again after [`Self::hold`] or [`Self::once`].
    pub fn release(&self) -> Result<()> {
        self.0.state().wanted = true;
        self.0.tend()
    }

    /// How often it was started so far.
    pub fn starts(&self) -> u32 {
        self.0.state().starts
    }

    /// Asks something of the running process.
    pub fn with<T>(&self, ask: impl FnOnce(&Process) -> Result<T>) -> Result<T> {
        let state = self.0.state();
        ask(state
            .process
            .as_ref()
            .with_context(|| format!("{} is held down", self.0.name))?)
    }

    /// The last lines of its log, over all its lives.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.0.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.hold();
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tend(&self) -> Result<()> {
        let mut state = self.state();
        if state.wanted && state.process.as_ref().is_none_or(|process| process.ended().is_some()) {
            state.process = Some(Process::start(&self.name, (state.make)(), &self.log)?);
            state.starts += 1;
        }
        Ok(())
    }
}

async fn watch(inner: Weak<Inner>) {
    // On an emulated processor a look costs milliseconds.
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.tend() {
            tracing::error!("start {} again: {error:#}", inner.name);
        }
    }
}
