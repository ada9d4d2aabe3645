//! Crash points for tests: a debug build ends itself, without any cleaning up, right after the step that
//! `RDS_CRASH_AFTER` names. `rds-operator steps` prints all names, so that the crash test takes its list from the code.
//!
//! Release builds contain none of it.

/// Environment variable that names the step.
pub const VARIABLE: &str = "RDS_CRASH_AFTER";

/// Ends the process if `step` is the one that the environment names.
#[inline]
pub(crate) fn after(step: &str) {
    #[cfg(debug_assertions)]
    if std::env::var(VARIABLE).is_ok_and(|named| named == step) {
        // Not `exit`: nothing may run any more, as after SIGKILL.
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}

/// Names of all mutating steps of a volume's life, in the order of the code.
#[must_use]
pub fn steps() -> Vec<&'static str> {
    let mut all = crate::csi::VOLUME_STEPS.to_vec();
    all.extend(crate::volume::steps());
    all
}

/// Names of all mutating steps of an attachment's life, those of a fence among them.
#[must_use]
pub fn attachment_steps() -> Vec<&'static str> {
    crate::attachment::steps()
}

/// Names of the steps by which agents are heard: the format ledger and the circuit breaker.
#[must_use]
pub fn report_steps() -> Vec<&'static str> {
    crate::agent_reports::STEPS.into()
}

/// Names of the steps of the self-test of fencing, its fence not among them.
#[must_use]
pub fn self_test_steps() -> Vec<&'static str> {
    crate::server::selftest::STEPS.into()
}
