//! The host's NVMe over fabrics: what the agent asks of the kernel, and nothing else.
//!
//! Every call blocks, for up to seconds, and runs on a thread of its own. No answer is guessed: what cannot be told is an
//! error or [`Use::Unknown`].

use std::fmt;

use crate::attachment::decide::DisconnectKey;
use crate::attachment::model::{Failure, Reason, Use};

/// Where and how to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Subsystem NQN.
    pub nqn: String,
    /// IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Times and queues.
    pub options: Options,
}

/// Times and queues of a connection; always passed explicitly, as the kernel's defaults differ from ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Seconds until the kernel gives a lost controller up; -1 for never.
    pub ctrl_loss_tmo: i32,
    /// Seconds between two attempts to reconnect.
    pub reconnect_delay: i32,
    /// Seconds between keep-alives; 0 for the kernel's default.
    pub keep_alive_tmo: i32,
    /// I/O queues; `None` for the smaller of 4 and the number of CPUs.
    pub io_queues: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ctrl_loss_tmo: -1,
            reconnect_delay: 5,
            keep_alive_tmo: 0,
            io_queues: None,
        }
    }
}

/// A controller of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// Subsystem NQN.
    pub nqn: String,
    /// State as the kernel spells it, the whole line.
    pub state: String,
    /// The kernel shows a disk behind it. A live one may have none: the target shows no namespace, or another than before.
    pub disk: bool,
    /// What the kernel calls that disk; `None` without one.
    pub identity: Option<String>,
    /// What tells this connection from every other of this boot, also after one more that has the same name.
    pub connection: String,
}

/// A connection that the kernel has, with or without its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Live, with a disk of that name that can be read.
    Ready(String),
    /// There, and still without what is said here: a normal answer.
    Pending(String),
}

/// Why a connect failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// EIO: the target does not know the subsystem, or does not let this host in. The errno does not tell which.
    #[error(
        "{0} was refused by the target: it knows no such subsystem, or does not let this host in; see the RdsVolume and RouterOS"
    )]
    Refused(String),
    /// ECONNREFUSED, ETIMEDOUT, ENETUNREACH.
    #[error("no connection to {0}: {1}; check the network between node and appliance")]
    Unreachable(String, String),
    /// Anything else.
    #[error("cannot connect {0}: {1}")]
    Other(String, String),
}

impl ConnectError {
    /// For the condition.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let reason = match self {
            Self::Refused(_) => Reason::Refused,
            Self::Unreachable(..) => Reason::Unreachable,
            Self::Other(..) => Reason::ConnectFailed,
        };
        Failure {
            reason,
            message: self.to_string(),
        }
    }
}

/// Why something else failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FabricsError(pub String);

/// The host's initiator.
pub trait Fabrics: Send + Sync + fmt::Debug {
    /// Connects; a session that is there already is success, live or not.
    ///
    /// # Errors
    /// When there is no session afterwards.
    fn connect(&self, to: &Target) -> Result<Link, ConnectError>;

    /// Deletes every controller of that NQN; none is success. What the target has not cut is written back before, and proven
    /// unused once more.
    ///
    /// # Errors
    /// When one may be left.
    fn disconnect(&self, nqn: &str, key: DisconnectKey) -> Result<(), FabricsError>;

    /// All sessions of this host, ours and others'.
    ///
    /// # Errors
    /// When the list may not be complete.
    fn sessions(&self) -> Result<Vec<Session>, FabricsError>;

    /// Whether anything on this host uses the disk of that NQN, or what is left of it. Any doubt is not [`Use::Unused`].
    fn in_use(&self, nqn: &str) -> Use;

    /// Has the session of that NQN take over these times, where it can; says what it changed.
    ///
    /// # Errors
    /// When the kernel does not do it.
    fn retime(&self, _nqn: &str, _options: &Options) -> Result<Vec<String>, FabricsError> {
        Ok(Vec::new())
    }
}
