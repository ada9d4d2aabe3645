//! Live NVMe/TCP sessions: who is connected to what, and what was written by whom.
//!
//! Invariant: a session writes into the file it was connected to, never into a later one of the same name.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A session, counted from 1 since the program started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// Its export is served: it can write.
    Served,
    /// Its export was taken away under it and it goes on all the same: it can write.
    Orphaned,
    /// It was cut, and its initiator tries again.
    Lost,
    /// It was cut for good.
    Ended,
}

impl Link {
    /// Whether writes arrive.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Served | Self::Orphaned)
    }
}

/// What an initiator reached. Not the row alone: its port, file and namespace as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) row: u32,
    pub(crate) slot: String,
    pub(crate) path: String,
    /// Id in `/file`; 0 for a row without image.
    pub(crate) file: u32,
    pub(crate) port: u16,
    pub(crate) uuid: Option<String>,
}

/// One host connected to one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// Subsystem NQN.
    pub nqn: String,
    /// Who is connected: a node name or a host NQN, as the test likes.
    pub host: String,
    /// Slot of the row behind it.
    pub slot: String,
    /// Image behind it, with leading slash; the slot for a row without image.
    pub path: String,
    /// When it was last established.
    pub since: Timestamp,
    /// How often it was cut.
    pub losses: u32,
    /// UUID of the namespace that it shows, if the appliance gives one.
    pub uuid: Option<String>,
    /// Whether writes arrive.
    pub alive: bool,
    /// How it stands.
    pub link: Link,
    #[serde(skip)]
    pub(crate) backing: Backing,
}

impl Session {
    fn turn(&mut self, link: Link) {
        self.link = link;
        self.alive = link.is_alive();
    }
}

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Nothing listens.
    #[error("connection refused: the NVMe/TCP port is closed")]
    PortClosed,
    /// No row is exported under that NQN.
    #[error("unknown subsystem")]
    UnknownSubsystem,
    /// `nvme-tcp-server-allow-host-name` does not name the host.
    #[error("host not allowed")]
    HostNotAllowed,
}

/// Why a write did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Dead {
    /// There is no such session, or no longer.
    #[error("no such session")]
    NoSession,
    /// It was cut; its initiator tries again.
    #[error("the session is lost; its initiator tries to reconnect")]
    Lost,
    /// It was cut for good.
    #[error("the session has ended")]
    Ended,
}

/// A write that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Place in the order of all writes to this appliance.
    pub seq: u64,
    /// Who wrote.
    pub host: String,
    /// What was written.
    pub tag: String,
    /// Under which name the writer had connected.
    pub nqn: String,
    /// Id of the file, to tell a file from a later one of the same name.
    pub file: u32,
}

/// All writes by file name without leading slash; kept when the file is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Writes {
    last: u64,
    by_name: BTreeMap<String, Vec<Write>>,
}

impl Writes {
    /// Notes a write.
    pub(crate) fn push(&mut self, name: &str, session: &Session, tag: &str) {
        self.last += 1;
        self.by_name.entry(name.to_owned()).or_default().push(Write {
            seq: self.last,
            host: session.host.clone(),
            tag: tag.to_owned(),
            nqn: session.nqn.clone(),
            file: session.backing.file,
        });
    }

    /// Writes to files of that name, oldest first.
    pub fn of(&self, name: &str) -> &[Write] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

/// All sessions, with the indexes that keep ten thousand of them cheap.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    all: BTreeMap<SessionId, Session>,
    by_nqn: HashMap<String, BTreeSet<SessionId>>,
    by_row: HashMap<u32, BTreeSet<SessionId>>,
    last: u64,
}

fn unlink<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<SessionId>>, key: &K, id: SessionId) {
    if let Some(set) = index.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            index.remove(key);
        }
    }
}

impl Sessions {
    /// A session.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id)
    }

    /// In the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values()
    }

    /// All ids.
    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.all.keys().copied().collect()
    }

    /// Those that connected under this name.
    pub(crate) fn of_nqn(&self, nqn: &str) -> Vec<SessionId> {
        self.by_nqn.get(nqn).into_iter().flatten().copied().collect()
    }

    /// Those that reached this row.
    pub(crate) fn of_row(&self, row: u32) -> Vec<SessionId> {
        self.by_row.get(&row).into_iter().flatten().copied().collect()
    }

    /// Whether somebody can write through this row.
    pub(crate) fn row_in_use(&self, row: u32) -> bool {
        self.of_row(row)
            .iter()
            .filter_map(|id| self.get(*id))
            .any(|s| s.link.is_alive())
    }

    /// Makes a session.
    pub(crate) fn add(&mut self, nqn: &str, host: &str, backing: Backing) -> SessionId {
        self.last += 1;
        let id = SessionId(self.last);
        self.by_nqn.entry(nqn.to_owned()).or_default().insert(id);
        self.by_row.entry(backing.row).or_default().insert(id);
        let session = Session {
            id,
            nqn: nqn.to_owned(),
            host: host.to_owned(),
            slot: backing.slot.clone(),
            path: backing.path.clone(),
            since: Timestamp::now(),
            losses: 0,
            uuid: backing.uuid.clone(),
            alive: true,
            link: Link::Served,
            backing,
        };
        self.all.insert(id, session);
        id
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.all.remove(&id)?;
        unlink(&mut self.by_nqn, &session.nqn, id);
        unlink(&mut self.by_row, &session.backing.row, id);
        Some(session)
    }

    /// A lost session reached its subsystem again, behind whatever row that is now.
    pub(crate) fn revive(&mut self, id: SessionId, backing: Backing) {
        let Some(session) = self.all.get_mut(&id) else { return };
        unlink(&mut self.by_row, &session.backing.row, id);
        self.by_row.entry(backing.row).or_default().insert(id);
        session.turn(Link::Served);
        session.since = Timestamp::now();
        session.slot.clone_from(&backing.slot);
        session.path.clone_from(&backing.path);
        session.uuid.clone_from(&backing.uuid);
        session.backing = backing;
    }

    /// Says how a session stands.
    pub(crate) fn turn(&mut self, id: SessionId, link: Link) {
        if let Some(session) = self.all.get_mut(&id) {
            if session.link.is_alive() && !link.is_alive() {
                session.losses += 1;
            }
            session.turn(link);
        }
    }
}
