//! How a line gets to the appliance and a reply back. Knows nothing about RouterOS.

use futures::future::BoxFuture;
use tokio::time::Instant;

/// How the reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The channel was closed in good order.
    Closed,
    /// The connection broke.
    Broken(String),
    /// The deadline passed.
    TimedOut,
}

/// What came back. It may be incomplete whatever `end` says: only what the reply itself proves counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// All output, standard error behind standard output.
    pub stdout: Vec<u8>,
    /// Exit status, if one came. Proves nothing: RouterOS exits 0 on failure.
    pub exit: Option<i32>,
    /// How it ended.
    pub end: End,
}

/// The line was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSent {
    /// No connection.
    Unreachable(String),
    /// Another host key than the pinned ones.
    HostKey(String),
    /// The key was refused.
    Auth(String),
}

/// Sends one line and waits for its reply until the deadline. `Err` only when the line was certainly not sent.
pub trait Transport: Send + Sync + 'static {
    /// See the trait.
    fn exec<'a>(&'a self, line: &'a str, deadline: Instant) -> BoxFuture<'a, Result<Reply, NotSent>>;
}
