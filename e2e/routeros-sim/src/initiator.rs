//! What initiators see of the appliance: connecting, losing and finding an export again, writing.
//!
//! Sessions follow every change of a row within the line that makes it, so that even `off` and `on` in one line cut
//! them. Initiators that lost their export try again whenever somebody looks: there is no clock behind them.

use crate::appliance::Appliance;
use crate::disk::Disk;
use crate::file::file_name;
use crate::knobs::{ExportOff, Knobs, NamespaceUuid, Reconnect};
use crate::session::{Backing, Dead, Link, Refused, Session, SessionId, Write};
use crate::simulator::Simulator;
use crate::state::State;
use crate::view::DiskView;
use std::time::Instant;

/// Whether a host is in the list. That it is one of names with commas between, compared byte by byte, is a guess.
fn allowed(list: &str, host: &str) -> bool {
    list.is_empty() || list.split(',').any(|h| h.trim() == host)
}

/// Rows that a test exports by hand have no identifier; they count as unchanged.
fn other_namespace(a: &Backing, b: &Backing) -> bool {
    a.uuid.is_some() && b.uuid.is_some() && a.uuid != b.uuid
}

impl State {
    /// Whether the NVMe/TCP port answers: not while the appliance boots, and then as the knob says.
    pub fn port_open(&self, knobs: &Knobs) -> bool {
        let booted = self.ports_from.is_none_or(|at| Instant::now() >= at);
        booted && (self.exports_up() || knobs.port_before_exports)
    }

    fn backing(&self, d: &Disk, knobs: &Knobs) -> Backing {
        let file = d.path().and_then(|p| self.files.get(file_name(p)));
        Backing {
            row: d.id,
            slot: d.slot.clone(),
            path: d.path().unwrap_or(&d.slot).to_owned(),
            file: file.map_or(0, |f| f.id),
            port: d.export.port,
            uuid: d
                .export
                .namespace_uuid
                .clone()
                .filter(|_| knobs.namespace_uuid != NamespaceUuid::Absent),
        }
    }

    /// What a host gets that asks for this name now. With two rows of one name, the first.
    fn reach(&self, knobs: &Knobs, nqn: &str, host: &str) -> Result<Backing, Refused> {
        if !self.port_open(knobs) {
            return Err(Refused::PortClosed);
        }
        let view = DiskView { state: self, knobs };
        let row = view.named(nqn).find(|d| d.export.on && !d.disabled);
        let row = row.filter(|_| self.exports_up()).ok_or(Refused::UnknownSubsystem)?;
        if allowed(&row.export.allow_host_name, host) {
            Ok(self.backing(row, knobs))
        } else {
            Err(Refused::HostNotAllowed)
        }
    }

    fn still_served(&self, s: &Session, knobs: &Knobs) -> bool {
        let view = DiskView { state: self, knobs };
        self.exports_up()
            && self.disks.get(s.backing.row).is_some_and(|d| {
                let same_file = d.path().is_none_or(|p| p == s.backing.path);
                d.export.on && !d.disabled && same_file && d.export.port == s.backing.port && view.nqn(d) == s.nqn
            })
    }

    fn cut(&mut self, id: SessionId, knobs: &Knobs) {
        let link = match knobs.reconnect {
            Reconnect::Never => Link::Ended,
            Reconnect::Retries | Reconnect::UntilRefused => Link::Lost,
        };
        self.sessions.turn(id, link);
    }

    /// What became of one session since the last look.
    fn follow(&mut self, id: SessionId, knobs: &Knobs) {
        let Some(s) = self.sessions.get(id) else { return };
        match s.link {
            Link::Served if !self.still_served(s, knobs) => {
                if knobs.export_off == ExportOff::LeavesSessions {
                    self.sessions.turn(id, Link::Orphaned);
                } else {
                    self.cut(id, knobs);
                }
            }
            Link::Lost => self.attempt(id, knobs),
            Link::Served | Link::Orphaned | Link::Ended => {}
        }
    }

    /// The initiator of a lost session tries once more.
    fn attempt(&mut self, id: SessionId, knobs: &Knobs) {
        let Some(s) = self.sessions.get(id) else { return };
        if knobs.reconnect == Reconnect::Never {
            return self.sessions.turn(id, Link::Ended);
        }
        match self.reach(knobs, &s.nqn, &s.host) {
            // It asks at the port it knows, where nobody is now.
            Ok(found) if found.port != s.backing.port => {}
            // Linux drops a namespace whose identifiers changed behind its back.
            Ok(found) if other_namespace(&found, &s.backing) => self.sessions.turn(id, Link::Ended),
            Ok(found) => self.sessions.revive(id, found),
            Err(Refused::PortClosed) => {}
            Err(Refused::UnknownSubsystem | Refused::HostNotAllowed) => {
                if knobs.reconnect == Reconnect::UntilRefused {
                    self.sessions.turn(id, Link::Ended);
                }
            }
        }
    }

    /// Lets sessions follow a change of one row: those it served, and those that wait for the name it has now.
    pub(crate) fn settle(&mut self, row: u32, knobs: &Knobs) {
        for id in self.sessions.of_row(row) {
            if self.sessions.get(id).is_some_and(|s| s.link == Link::Served) {
                self.follow(id, knobs);
            }
        }
        let view = DiskView { state: self, knobs };
        let served = self.disks.get(row).filter(|d| d.export.on && !d.disabled);
        let Some(nqn) = served.map(|d| view.nqn(d)) else { return };
        for id in self.sessions.of_nqn(&nqn) {
            if self.sessions.get(id).is_some_and(|s| s.link == Link::Lost) {
                self.attempt(id, knobs);
            }
        }
    }

    /// Lets all sessions follow, and every lost one try.
    pub(crate) fn settle_all(&mut self, knobs: &Knobs) {
        for id in self.sessions.ids() {
            self.follow(id, knobs);
        }
    }

    /// A reboot cuts everybody, whatever the knob says of exports.
    pub(crate) fn cut_all_sessions(&mut self, knobs: &Knobs) {
        for id in self.sessions.ids() {
            if self.sessions.get(id).is_some_and(|s| s.link.is_alive()) {
                self.cut(id, knobs);
            }
        }
    }

    /// Whether somebody can write through this row now.
    pub(crate) fn row_in_use(&mut self, row: u32, knobs: &Knobs) -> bool {
        for id in self.sessions.of_row(row) {
            self.follow(id, knobs);
        }
        self.sessions.row_in_use(row)
    }

    fn connect(&mut self, knobs: &Knobs, nqn: &str, host: &str) -> Result<(SessionId, bool), Refused> {
        let found = self.reach(knobs, nqn, host)?;
        for id in self.sessions.of_nqn(nqn) {
            self.follow(id, knobs);
            let Some(s) = self.sessions.get(id).filter(|s| s.host == host) else {
                continue;
            };
            if s.link.is_alive() {
                return Ok((id, false));
            }
            // Forgotten by its host, or waiting at another port: a fresh connection takes its place.
            self.sessions.remove(id);
        }
        Ok((self.sessions.add(nqn, host, found), true))
    }

    fn write(&mut self, knobs: &Knobs, id: SessionId, tag: &str) -> Result<(), Dead> {
        self.follow(id, knobs);
        let s = self.sessions.get(id).ok_or(Dead::NoSession)?;
        match s.link {
            Link::Served | Link::Orphaned => {}
            Link::Lost => return Err(Dead::Lost),
            Link::Ended => return Err(Dead::Ended),
        }
        let file = self.files.by_id(s.backing.file).map(|f| f.name.clone());
        self.writes.push(file.as_deref().unwrap_or(file_name(&s.path)), s, tag);
        if let Some(name) = file {
            self.files.update(&name, |f| tag.clone_into(&mut f.contents));
        }
        Ok(())
    }

    /// A file that was removed and made anew is another one; one that is only gone is still written to.
    fn writers(&self, path: &str) -> Vec<String> {
        let now = self.files.get(file_name(path)).map(|f| f.id);
        let mut hosts: Vec<String> = self
            .sessions
            .iter()
            .filter(|s| s.link.is_alive())
            .filter(|s| match now {
                Some(id) => s.backing.file == id,
                None => file_name(&s.path) == file_name(path),
            })
            .map(|s| s.host.clone())
            .collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

impl Appliance {
    /// All sessions, after every lost one tried again.
    pub fn sessions(&self) -> Vec<Session> {
        let knobs = self.knobs();
        let mut state = self.state();
        state.settle_all(&knobs);
        state.sessions.iter().cloned().collect()
    }

    /// Connects a host to a subsystem; the second value is false when it was connected already.
    ///
    /// # Errors
    /// When the port is closed, no row is exported under exactly that name, or the host is not allowed.
    pub fn connect(&self, nqn: &str, host: &str) -> Result<(SessionId, bool), Refused> {
        let knobs = self.knobs();
        self.state().connect(&knobs, nqn, host)
    }

    /// Ends a session; false when there was none.
    pub fn disconnect(&self, id: SessionId) -> bool {
        self.state().sessions.remove(id).is_some()
    }

    /// Writes through a session.
    ///
    /// # Errors
    /// When the session is not alive.
    pub fn write(&self, id: SessionId, tag: &str) -> Result<(), Dead> {
        let knobs = self.knobs();
        self.state().write(&knobs, id, tag)?;
        self.touch();
        Ok(())
    }

    /// Writes that arrived in files of that name, oldest first.
    pub fn writes(&self, path: &str) -> Vec<Write> {
        self.state().writes.of(file_name(path)).to_vec()
    }

    /// The hosts that can write into the file at this moment: the oracle of every test about fencing.
    pub fn live_writers(&self, path: &str) -> Vec<String> {
        let knobs = self.knobs();
        let mut state = self.state();
        state.settle_all(&knobs);
        state.writers(path)
    }
}

impl Simulator {
    /// All sessions, after every lost one tried again.
    pub fn sessions(&self) -> Vec<Session> {
        self.appliance().sessions()
    }

    /// One session, after every lost one tried again.
    pub fn session(&self, id: SessionId) -> Option<Session> {
        self.sessions().into_iter().find(|s| s.id == id)
    }

    /// Connects a host to a subsystem. A second call gives the session that is there, as the kernel's EALREADY does.
    ///
    /// # Errors
    /// When the port is closed, no row is exported under exactly that name, or the host is not allowed.
    pub fn connect(&self, nqn: &str, host: &str) -> Result<SessionId, Refused> {
        self.appliance().connect(nqn, host).map(|(id, _)| id)
    }

    /// Ends a session; false when there was none.
    pub fn disconnect(&self, id: SessionId) -> bool {
        self.appliance().disconnect(id)
    }

    /// Writes through a session.
    ///
    /// # Errors
    /// When the session is not alive.
    pub fn write(&self, id: SessionId, tag: &str) -> Result<(), Dead> {
        self.appliance().write(id, tag)
    }

    /// Writes that arrived in files of that name, oldest first.
    pub fn writes(&self, path: &str) -> Vec<Write> {
        self.appliance().writes(path)
    }

    /// The hosts that can write into the file at this moment.
    pub fn live_writers(&self, path: &str) -> Vec<String> {
        self.appliance().live_writers(path)
    }
}
