//! Threads, with stacks that cost what is used of them.

use std::thread::{Builder, JoinHandle};

/// Size of each stack of this process: a little less than a huge page of 2 MiB, which is also what a stack has that nobody asked for.
/// Where the kernel gives huge pages to whoever can use one, as Debian's does, a stack of that size that lies on a boundary is
/// resident in whole from the first call on, and the C library keeps it when its thread ends: 2 MiB for nothing.
pub const STACK: usize = (2 << 20) - (64 << 10);

const _: () = assert!(STACK < 2 << 20, "no huge page fits");

/// Starts `work` on a thread of that name.
///
/// # Errors
/// When the kernel gives no thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(STACK).spawn(work)
}
