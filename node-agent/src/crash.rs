//! Crash points for tests: a debug build ends itself, without any cleaning up, right after the step that
//! `RDS_CRASH_AFTER` names.
//!
//! Release builds contain none of it. [`STEPS`] names them all, so that the crash test takes its list from here: a step that it does
//! not reach fails it, and a step that is not listed ends the first test that takes it.

/// Environment variable that names the step.
pub const VARIABLE: &str = "RDS_CRASH_AFTER";

/// Every step that changes something, in the order of a volume's life on a node.
pub const STEPS: [&str; 23] = [
    "intent",
    "connect",
    "report",
    "stage-ask",
    "stage-format",
    "stage-report",
    "stage-check",
    "stage-mount",
    "stage-block",
    "stage-say",
    "stage-count",
    "publish-mount",
    "publish-node",
    "expand-grow",
    "expand-say",
    "say-loss",
    "clear-stale-mount",
    "unpublish-unmount",
    "unpublish-remove",
    "unstage-unmount",
    "unstage-say",
    "disconnect",
    "disconnected",
];

/// What a process says last that ends itself after `step`.
#[must_use]
pub fn last_words(step: &str) -> String {
    format!("ends right after {step}, as {VARIABLE} says")
}

/// Ends the process if `step` is the one that the environment names.
#[inline]
pub(crate) fn after(step: &str) {
    #[cfg(debug_assertions)]
    {
        assert!(
            STEPS.contains(&step),
            "the step {step} is missing in the list of crash.rs"
        );
        if std::env::var(VARIABLE).is_ok_and(|named| named == step) {
            eprintln!("{}", last_words(step));
            // Not `exit`: nothing may run any more, as after SIGKILL.
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}
