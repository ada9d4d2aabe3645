//! Crash points for tests: a debug build ends itself, without any cleaning up, right after the step that
//! `RDS_CRASH_AFTER` names.
//!
//! Release builds contain none of it.

/// Environment variable that names the step.
pub(crate) const VARIABLE: &str = "RDS_CRASH_AFTER";

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
