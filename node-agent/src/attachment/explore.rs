//! Random runs of the decisions against a small world: a node's kernel, a target, an operator and an API server, with crashes
//! after any step, writes and connects that land late, and views that are old when they are acted upon.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::decide::*;
use super::model::*;
use crate::nqn;

const BASE: &str = "nqn.2000-02.com.mikrotik:pvc-1";
const FOREIGN: &str = "nqn.2014-08.org.nvmexpress:root";

#[derive(Clone, Debug)]
enum Event {
    /// The agent reads all it needs.
    Look,
    /// It acts upon what it read last.
    Act,
    /// A connect that is under way ends.
    Land,
    /// The agent dies; what it has sent to the API server may still arrive.
    Crash,
    /// What a dead agent had sent arrives.
    Late,
    /// The machine reboots.
    Reboot,
    /// The operator: admits, withdraws, cuts, goes on after `Disconnected`, forgets a fence.
    Admit,
    Withdraw,
    Delete,
    Fence,
    Release,
    Acknowledge,
    /// Something on the node begins or ends to use the device, or cannot be told.
    Use(u8),
    /// The kernel gives up what the target has cut.
    Drop,
    /// A loss is found while nobody can be told.
    Loss,
    /// A restored status: the generation in the grant is not the volume's.
    Mismatch,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Look),
        8 => Just(Event::Act),
        4 => Just(Event::Land),
        2 => Just(Event::Crash),
        1 => Just(Event::Late),
        1 => Just(Event::Reboot),
        3 => Just(Event::Admit),
        2 => Just(Event::Withdraw),
        1 => Just(Event::Delete),
        1 => Just(Event::Fence),
        2 => Just(Event::Release),
        1 => Just(Event::Acknowledge),
        3 => (0u8..4).prop_map(Event::Use),
        1 => Just(Event::Drop),
        1 => Just(Event::Loss),
        1 => Just(Event::Mismatch),
    ]
}

/// `status.agent` to be written onto that version.
type Pending = (u32, u32, Said);

#[derive(Clone, Debug)]
struct World {
    // API server
    uid: u32,
    version: u32,
    attachment: AttachmentSeen,
    generation: u32,
    holder: Option<u32>,
    fenced: bool,
    // kernel
    boot: u32,
    sessions: BTreeSet<String>,
    used: Use,
    /// A connect in the kernel; it outlives its process.
    connecting: Option<String>,
    // agent
    view: Option<(u32, u32, Seen)>,
    failure: Option<Failure>,
    unreported: bool,
    late: Option<Pending>,
    // what has happened
    intents: BTreeSet<(u32, u32)>,
    finals: BTreeSet<u32>,
}

fn name(generation: u32) -> String {
    match generation {
        1 => BASE.into(),
        n => format!("{BASE}.g{n}-0a1b2c3d"),
    }
}

impl World {
    fn new() -> Self {
        Self {
            uid: 1,
            version: 1,
            attachment: AttachmentSeen {
                node: "n1".into(),
                deleting: false,
                read_only: false,
                admission: Admission::None,
                said: Said::default(),
            },
            generation: 1,
            holder: None,
            fenced: false,
            boot: 1,
            sessions: BTreeSet::from([FOREIGN.to_owned()]),
            used: Use::Unused,
            connecting: None,
            view: None,
            failure: None,
            unreported: false,
            late: None,
            intents: BTreeSet::new(),
            finals: BTreeSet::new(),
        }
    }

    fn host(&self) -> Host {
        Host {
            node: "n1".into(),
            boot_id: self.boot.to_string(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            node_uid: Some("u".into()),
        }
    }

    fn seen(&self) -> Seen {
        let of_volume = |nqn: &String| {
            let generation = nqn::generation(BASE, nqn)?;
            Some(SessionSeen {
                nqn: nqn.clone(),
                generation,
                state: "live".into(),
                disk: true,
                identity: None,
                connection: "nvme0/7".into(),
                used: self.used.clone(),
            })
        };
        let sessions: Vec<SessionSeen> = self.sessions.iter().filter_map(of_volume).collect();
        let leftover = if sessions.is_empty() {
            self.used.clone()
        } else {
            Use::Unused
        };
        Seen {
            host: self.host(),
            prefix: "nqn.2000-02.com.mikrotik:pvc-".into(),
            attachment: self.attachment.clone(),
            volume: Fact::Present(VolumeSeen {
                generation: self.generation,
                nqn: Some(name(self.generation)),
                holds: self.holder == Some(self.uid),
                fenced: self.fenced,
                canary: None,
            }),
            sessions: Sessions::Known(sessions),
            leftover,
            users: None,
            unreported: self.unreported.then(|| "cut".into()),
            in_flight: match self.connecting {
                Some(_) => InFlight::Running,
                None => InFlight::None,
            },
            failure: self.failure.clone(),
            may_retry: true,
            watched: false,
            asked: None,
        }
    }

    fn write(&mut self, (uid, version, said): Pending) {
        if (uid, version) != (self.uid, self.version) {
            return;
        }
        assert!(!self.attachment.said.disconnected || said.disconnected);
        if said.disconnected && self.finals.insert(uid) {
            let ours: Vec<_> = self.sessions.iter().filter(|s| *s != FOREIGN).collect();
            assert!(ours.is_empty(), "Disconnected with {ours:?} left");
            assert_eq!(self.connecting, None, "Disconnected with a connect in flight");
            assert_eq!(self.used, Use::Unused, "Disconnected while in use");
        }
        if let Some(intent) = &said.intent {
            self.intents.insert((uid, intent.generation));
        }
        self.attachment.said = said;
        self.version += 1;
    }

    fn act(&mut self) {
        let Some((uid, version, seen)) = self.view.take() else {
            return;
        };
        let mut said = seen.attachment.said.clone();
        match decide(&seen) {
            Step::Ask(_) => unreachable!("no canary here"),
            Step::RecordIntent(intent) => {
                said.report.cleared = false;
                said.intent = Some(intent);
                self.send((uid, version, said));
            }
            Step::Report(report) => {
                said.report = report;
                self.send((uid, version, said));
            }
            Step::DeclareDisconnected(_, report) => {
                (said.report, said.disconnected) = (report, true);
                self.send((uid, version, said));
            }
            Step::Connect(grant) => {
                assert!(
                    self.intents.contains(&(uid, grant.generation)),
                    "a connect without an accepted intent"
                );
                assert!(!self.finals.contains(&uid), "a connect after the last word");
                let older: Vec<_> = self.sessions.iter().filter(|s| *s != FOREIGN).collect();
                assert!(older.is_empty(), "a connect beside {older:?}");
                self.connecting = Some(grant.nqn);
            }
            Step::Disconnect(nqn, key) => {
                assert_ne!(nqn, FOREIGN);
                let generation = nqn::generation(BASE, &nqn).flatten().unwrap();
                match key {
                    DisconnectKey::Unused => assert_eq!(seen.leftover, Use::Unused),
                    DisconnectKey::Orphan => panic!("{nqn} has an attachment"),
                    DisconnectKey::Fenced => assert!(generation < self.generation, "{nqn} was not cut"),
                }
                self.sessions.remove(&nqn);
            }
            Step::ForgetLoss(_) => {
                let told = said
                    .report
                    .healthy
                    .is_some_and(|w| w.reason == Reason::PossibleDataLoss);
                assert!(told, "a loss is forgotten that was not told");
                self.unreported = false;
            }
            Step::Rest(_) => {}
        }
    }

    fn send(&mut self, pending: Pending) {
        self.late = Some(pending.clone());
        self.write(pending);
    }

    fn happen(&mut self, event: &Event) {
        match event {
            // The host lock: a new process begins only when no connect of an earlier one is left. Within one process, the mark.
            Event::Look => self.view = Some((self.uid, self.version, self.seen())),
            Event::Act => self.act(),
            Event::Land => {
                if let Some(nqn) = self.connecting.take() {
                    // The target serves the present generation only.
                    if nqn == name(self.generation) {
                        self.sessions.insert(nqn);
                        self.failure = None;
                    } else {
                        self.failure = Some(Failure {
                            reason: Reason::Refused,
                            message: nqn,
                        });
                    }
                }
            }
            Event::Crash => {
                // What was decided may have been sent, and not yet have arrived.
                if let Some((uid, version, seen)) = self.view.take()
                    && let Step::RecordIntent(intent) = decide(&seen)
                {
                    let mut said = seen.attachment.said.clone();
                    said.intent = Some(intent);
                    self.late = Some((uid, version, said));
                }
                self.failure = None;
            }
            Event::Late => {
                if let Some(late) = self.late.take() {
                    self.write(late);
                }
            }
            Event::Reboot => {
                self.boot += 1;
                self.sessions = BTreeSet::from([FOREIGN.to_owned()]);
                (self.connecting, self.view, self.failure, self.used) = (None, None, None, Use::Unused);
            }
            Event::Admit => {
                let wanted =
                    !self.attachment.deleting && !self.fenced && self.attachment.admission != Admission::Withdrawn;
                if wanted && self.holder.is_none_or(|uid| uid == self.uid) && !self.attachment.said.disconnected {
                    self.holder = Some(self.uid);
                    self.grant(self.generation);
                }
            }
            Event::Mismatch => {
                if matches!(self.attachment.admission, Admission::Granted(_)) {
                    self.grant(self.generation + 1);
                }
            }
            Event::Loss => self.unreported = true,
            Event::Withdraw => self.change(|a| a.admission = Admission::Withdrawn),
            Event::Delete => self.change(|a| (a.deleting, a.admission) = (true, Admission::Withdrawn)),
            Event::Fence => {
                if self.holder.take().is_some() {
                    self.generation += 1;
                    self.fenced = true;
                }
            }
            Event::Release => {
                if self.attachment.said.disconnected || self.holder != Some(self.uid) {
                    // The object goes; the next one of the same name is another.
                    self.holder = self.holder.filter(|uid| *uid != self.uid);
                    self.uid += 1;
                    self.change(|a| (a.deleting, a.admission, a.said) = (false, Admission::None, Said::default()));
                }
            }
            Event::Acknowledge => self.fenced &= !self.attachment.said.report.cleared,
            Event::Use(kind) => {
                // A use begins on what is connected, and while nobody wants the attachment gone (kubelet's order).
                let wanted = !self.attachment.deleting && self.attachment.admission != Admission::Withdrawn;
                if self.sessions.contains(&name(self.generation)) && wanted && self.view.is_none() {
                    self.used = match kind {
                        0 => Use::Used("pod".into()),
                        1 => Use::Unknown("timeout".into()),
                        _ => Use::Unused,
                    };
                } else if *kind > 1 {
                    self.used = Use::Unused;
                }
            }
            Event::Drop => {
                let live = name(self.generation);
                self.sessions.retain(|s| s == FOREIGN || *s == live);
            }
        }
        self.hold();
    }

    fn grant(&mut self, generation: u32) {
        self.change(|a| {
            a.admission = Admission::Granted(Grant {
                nqn: name(generation),
                address: "192.0.2.1".into(),
                port: 4420,
                generation,
            });
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut AttachmentSeen)) {
        change(&mut self.attachment);
        self.version += 1;
    }

    /// What holds at every moment.
    fn hold(&self) {
        assert!(self.sessions.contains(FOREIGN), "a foreign session was touched");
        let live = self.sessions.contains(&name(self.generation));
        assert!(!live || self.holder.is_some(), "this node can write and is no holder");
        let ours = self.sessions.iter().filter(|s| *s != FOREIGN).count();
        assert!(ours <= 1, "two sessions of one volume: {:?}", self.sessions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn i3_i4_whatever_happens_in_whatever_order(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        // Left alone, a wish to leave is granted: the operator can go on.
        world.happen(&Event::Delete);
        world.happen(&Event::Land);
        world.happen(&Event::Use(3));
        world.view = None;
        for _ in 0..12 {
            world.happen(&Event::Look);
            world.happen(&Event::Act);
        }
        prop_assert!(world.attachment.said.disconnected, "{:?}", world);
        world.happen(&Event::Look);
        let (_, _, seen) = world.view.clone().unwrap();
        prop_assert_eq!(decide(&seen), Step::Rest(Wait::Settled));
    }

    #[test]
    fn left_alone_a_granted_attachment_connects(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        // A new object after whatever was, and an operator that does its work.
        for event in [Event::Delete, Event::Land, Event::Use(3)] {
            world.happen(&event);
        }
        for _ in 0..12 {
            world.happen(&Event::Look);
            world.happen(&Event::Act);
        }
        world.happen(&Event::Release);
        for _ in 0..6 {
            for event in [Event::Look, Event::Act, Event::Acknowledge, Event::Admit, Event::Land] {
                world.happen(&event);
            }
            for _ in 0..3 {
                for event in [Event::Look, Event::Act, Event::Land] {
                    world.happen(&event);
                }
            }
        }
        let said = &world.attachment.said.report;
        prop_assert!(said.connected.as_ref().is_some_and(|w| w.status), "{:?}", world);
        prop_assert!(world.sessions.contains(&name(world.generation)));
        prop_assert!(!world.unreported, "{:?}", world);
    }
}
