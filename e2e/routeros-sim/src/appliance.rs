//! The appliance without its wires: state, knobs, faults, log and users, shared by SSH and the control interface.

use crate::faults::{Fault, FaultKind, Faults};
use crate::interp::{Console, Outcome, Overrides, run_line};
use crate::knobs::Knobs;
use crate::log::Log;
use crate::nvmet::{Projector, Wanted};
use crate::state::State;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// A user and what the group allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Policies of the group: `ssh`, `read`, `write`, `test`, …
    pub policies: BTreeSet<String>,
}

impl Account {
    /// A user with these policies.
    pub fn new(name: &str, policies: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            policies: policies.iter().map(|p| (*p).to_owned()).collect(),
        }
    }

    /// A user who may do everything.
    pub fn admin() -> Self {
        Self::new(
            "admin",
            &["ssh", "read", "write", "test", "policy", "reboot", "ftp", "sensitive"],
        )
    }

    /// The group that the operator's documentation asks for.
    pub fn operator(name: &str) -> Self {
        Self::new(name, &["ssh", "read", "write", "test"])
    }

    /// Whether the group has a policy.
    pub fn may(&self, policy: &str) -> bool {
        self.policies.contains(policy)
    }
}

/// The shared appliance.
#[derive(Debug)]
pub struct Appliance {
    state: Mutex<State>,
    knobs: RwLock<Arc<Knobs>>,
    faults: Mutex<Faults>,
    /// Every command.
    pub log: Log,
    stopped: AtomicBool,
    /// Rings when the state changed and should be saved.
    pub(crate) changed: Notify,
    /// Rings when the appliance shall reboot.
    pub(crate) reboot: Notify,
    /// Whether knob `down` is set.
    pub(crate) down: watch::Sender<bool>,
    projector: Option<Projector>,
}

impl Appliance {
    /// An appliance in that state.
    pub fn new(state: State, knobs: Knobs, log: Log) -> Self {
        Self::with(state, knobs, log, None)
    }

    /// The same with real exports.
    pub(crate) fn with(mut state: State, knobs: Knobs, log: Log, projector: Option<Projector>) -> Self {
        let (down, _) = watch::channel(knobs.down);
        state.mount_pools(knobs.pool_mounted);
        Self {
            state: Mutex::new(state),
            knobs: RwLock::new(Arc::new(knobs)),
            faults: Mutex::default(),
            log,
            stopped: AtomicBool::new(false),
            changed: Notify::new(),
            reboot: Notify::new(),
            down,
            projector,
        }
    }

    /// The state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The knobs as they are now.
    pub fn knobs(&self) -> Arc<Knobs> {
        self.knobs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Turns knobs.
    pub fn change_knobs(&self, f: impl FnOnce(&mut Knobs)) {
        let mut guard = self.knobs.write().unwrap_or_else(PoisonError::into_inner);
        let mut knobs = Knobs::clone(&guard);
        let was_mounted = knobs.pool_mounted;
        f(&mut knobs);
        let knobs = Arc::new(knobs);
        *guard = knobs.clone();
        drop(guard);
        self.down
            .send_if_modified(|d| std::mem::replace(d, knobs.down) != knobs.down);
        if was_mounted != knobs.pool_mounted {
            let mut state = self.state();
            state.mount_pools(knobs.pool_mounted);
            state.settle_all(&knobs);
            self.project(&state, &knobs);
            drop(state);
            self.touch();
        }
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// When its pattern is no regular expression.
    pub fn add_fault(&self, fault: Fault) -> Result<(), regex::Error> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).add(fault)
    }

    /// Faults in force.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).list()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The fault that hits this command, if any.
    pub fn take_fault(&self, command: &str) -> Option<FaultKind> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).take(command)
    }

    /// Whether commands that wait shall give up.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends commands that wait.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether exports are real.
    pub(crate) fn is_real(&self) -> bool {
        self.projector.is_some()
    }

    /// Makes real exports follow the state, and returns when they do.
    pub(crate) fn project(&self, state: &State, knobs: &Knobs) {
        if let Some(projector) = &self.projector {
            projector.project(Wanted::of(state, knobs));
        }
    }

    /// The same with the state as it is now.
    pub(crate) fn project_now(&self) {
        if self.is_real() {
            let knobs = self.knobs();
            self.project(&self.state(), &knobs);
        }
    }

    /// Says that the state changed.
    pub(crate) fn touch(&self) {
        self.changed.notify_one();
    }

    /// Asks for a reboot.
    pub(crate) fn request_reboot(&self) {
        self.reboot.notify_one();
    }

    /// What a reboot does to the state: exports and sessions go, exports come back later;
    /// everything that is configured stays.
    pub(crate) fn restart(&self) {
        let knobs = self.knobs();
        let mut state = self.state();
        let ports_from = Instant::now() + Duration::from_millis(knobs.reboot_ms);
        state.started = Instant::now();
        state.globals.clear();
        state.ports_from = Some(ports_from);
        state.exports_from = Some(ports_from + Duration::from_millis(knobs.exports_after_ms));
        state.cut_all_sessions(&knobs);
        self.project(&state, &knobs);
    }

    /// Runs a line and gives what it prints. Blocks during `:delay`.
    pub fn run(&self, user: &Account, line: &str, console: &mut Console, overrides: Overrides) -> Outcome {
        run_line(self, user, line, overrides, console)
    }
}
