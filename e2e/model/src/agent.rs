//! Agents: what they read, the shipped decision, what they do.

use std::cell::RefCell;
use std::collections::HashMap;

use rds_crds::attachment;
use rds_node_agent::attachment::decide::{Step, cut_at_target, decide};
use rds_node_agent::attachment::loss::cut_off;
use rds_node_agent::attachment::model::{
    Admission, AttachmentSeen, Fact, Grant, Host, InFlight, Reason, Report, Said, Seen, SessionSeen, Sessions, Use,
    VolumeSeen, Word as Condition,
};

use crate::volume::FRESH;
use crate::world::{Attachment, Intent, Said as Operator, World};
use crate::{Mutation, Protocol};

/// What one pass of an agent read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which attachment.
    pub(crate) uid: u8,
    attachment: Attachment,
    machine: u8,
    boot: u8,
    knows: bool,
    generation: u8,
    nqn: u8,
    holds: bool,
    fenced: bool,
    controllers: Vec<u8>,
    /// Of these, which have a live session.
    live: Vec<u8>,
    connecting: bool,
    used: bool,
    trusts_the_name: bool,
}

/// A step of an agent, as far as it changes anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Do {
    Rest,
    Intend(u8),
    Connect(u8),
    Report(Word),
    Disconnect(u8),
    Declare(Word),
}

/// What a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    cleared: bool,
    lost: bool,
    connected: bool,
    unused: bool,
}

thread_local! {
    /// The decision is pure: what was decided once needs no second time.
    static DECIDED: RefCell<HashMap<View, Do>> = RefCell::default();
}

/// What the agent of that machine reads now; `None` where its node has no attachment.
pub(crate) fn look(model: &Protocol, world: &mut World, machine: u8) -> Option<View> {
    let bearer = world.machines[usize::from(machine)].node;
    let uid = world.named(bearer)?;
    let attachment = world.attachments[uid];
    let node = world.nodes[usize::from(bearer)];
    let me = &mut world.machines[usize::from(machine)];
    // As the shell: the Node's UID is read when the intent is not the present one, and counts when the Node speaks of this boot.
    let granted = match attachment.said {
        Operator::Admitted(generation, _) => {
            attachment.intent
                != Some(Intent {
                    machine,
                    boot: me.boot,
                    generation,
                })
        }
        Operator::Nothing | Operator::Refused(_) | Operator::Withdrawn | Operator::NodeOff => false,
    };
    let older = attachment
        .intent
        .is_some_and(|i| i.machine == machine && i.boot != me.boot);
    let admitted = matches!(attachment.said, Operator::Admitted(..));
    if granted || ((admitted || older) && !me.knows) {
        me.knows = (node.machine, node.boot) == (machine, me.boot);
    }
    let me = &world.machines[usize::from(machine)];
    let record = &world.record;
    let uid = u8::try_from(uid).ok()?;
    Some(View {
        uid,
        attachment,
        machine,
        boot: me.boot,
        knows: me.knows,
        generation: record.generation.max(1),
        nqn: world.nqn,
        holds: record.holders.iter().any(|h| (h.node, h.attachment) == (bearer, uid)),
        fenced: record.fenced.contains(&bearer),
        controllers: me.controllers.clone(),
        live: me
            .controllers
            .iter()
            .copied()
            .filter(|nqn| world.target.sessions.contains(&(machine, *nqn)))
            .collect(),
        connecting: me.connecting.is_some(),
        used: me.pods != 0,
        trusts_the_name: model.wrong(Mutation::TrustTheName),
    })
}

/// The shipped decision.
pub(crate) fn decided(view: &View) -> Do {
    if let Some(known) = DECIDED.with_borrow(|all| all.get(view).copied()) {
        return known;
    }
    let new = step(view);
    DECIDED.with_borrow_mut(|all| all.insert(view.clone(), new));
    new
}

fn step(view: &View) -> Do {
    let said = |report: &Report| Word {
        cleared: report.cleared,
        lost: report.healthy.is_some(),
        connected: report.connected.as_ref().is_some_and(|c| c.status),
        unused: report.used_by.as_ref().is_some_and(Vec::is_empty),
    };
    match decide(&seen(view)) {
        // There is no canary in the model, so nothing is asked; and nothing that was not told.
        Step::Rest(_) | Step::Ask(_) | Step::ForgetLoss(_) => Do::Rest,
        Step::RecordIntent(intent) => Do::Intend(u8::try_from(intent.generation).unwrap_or(0)),
        Step::Connect(grant) => Do::Connect(number(&grant.nqn)),
        Step::Disconnect(nqn, _) => Do::Disconnect(number(&nqn)),
        Step::Report(report) => Do::Report(said(&report)),
        Step::DeclareDisconnected(_, report) => Do::Declare(said(&report)),
    }
}

/// The step, done on what the world is by now.
pub(crate) fn act(model: &Protocol, world: &mut World, view: &View) {
    let step = decided(view);
    write(world, view, step);
    let me = &mut world.machines[usize::from(view.machine)];
    match step {
        Do::Connect(nqn) => (me.connecting, me.reads) = (Some(nqn), view.attachment.reads),
        Do::Intend(_) if model.wrong(Mutation::ConnectFromCache) => {
            if let Operator::Admitted(_, nqn) = view.attachment.said {
                me.connecting = Some(nqn);
            }
        }
        Do::Disconnect(nqn) => disconnect(world, view.machine, nqn),
        Do::Rest | Do::Intend(_) | Do::Report(_) | Do::Declare(_) => {}
    }
}

/// The step's write, if it has one: accepted only onto what was read.
pub(crate) fn write(world: &mut World, view: &View, step: Do) {
    let Some(attachment) = world
        .attachments
        .get_mut(usize::from(view.uid))
        .filter(|a| **a == view.attachment)
    else {
        return;
    };
    match step {
        Do::Intend(generation) => {
            attachment.intent = Some(Intent {
                machine: view.machine,
                boot: view.boot,
                generation,
            });
            attachment.cleared = false;
        }
        Do::Report(word) => attachment.hear(word),
        Do::Declare(word) => {
            attachment.hear(word);
            attachment.disconnected = true;
        }
        Do::Rest | Do::Connect(_) | Do::Disconnect(_) => {}
    }
}

impl Attachment {
    fn hear(&mut self, word: Word) {
        (self.cleared, self.lost) = (word.cleared, word.lost);
        (self.connected, self.unused) = (word.connected, word.unused);
    }
}

/// Sessions of which no attachment speaks: those that the target has cut go.
pub(crate) fn sweep(world: &mut World, machine: u8) {
    let me = &world.machines[usize::from(machine)];
    if world.named(me.node).is_some() {
        return;
    }
    let volume = volume(world.record.generation.max(1), world.nqn, false, false);
    let cut = me
        .controllers
        .iter()
        .copied()
        .find(|n| cut_at_target("nqn", &session(*n, "live", false), &volume));
    if let Some(nqn) = cut {
        disconnect(world, machine, nqn);
    }
}

fn disconnect(world: &mut World, machine: u8, nqn: u8) {
    world.machines[usize::from(machine)].controllers.retain(|n| *n != nqn);
    world.target.sessions.retain(|s| *s != (machine, nqn));
}

fn seen(view: &View) -> Seen {
    let id = |machine: u8| machine.to_string();
    let host = Host {
        node: "n".to_owned(),
        boot_id: format!("{}-{}", view.machine, view.boot),
        system_uuid: id(view.machine),
        machine_id: id(view.machine),
        node_uid: view.knows.then(|| "n".to_owned()),
    };
    let intent = view.attachment.intent.map(|i| {
        let machine = if view.trusts_the_name { view.machine } else { i.machine };
        attachment::Intent {
            boot_id: format!("{machine}-{}", i.boot),
            system_uuid: id(machine),
            machine_id: id(machine),
            node_uid: "n".to_owned(),
            generation: u32::from(i.generation),
        }
    });
    let condition = |status, reason| {
        move || Condition {
            status,
            reason,
            message: String::new(),
        }
    };
    let said = &view.attachment;
    let sessions = view.controllers.iter().map(|n| {
        let state = if view.live.contains(n) { "live" } else { "connecting" };
        session(*n, state, view.used)
    });
    let losses: Vec<String> = view.controllers.iter().map(|n| cut_off(&name(*n))).collect();
    let losses = losses.join("; ");
    Seen {
        host,
        prefix: "nqn".to_owned(),
        attachment: AttachmentSeen {
            node: "n".to_owned(),
            deleting: view.attachment.deleting,
            read_only: false,
            admission: match view.attachment.said {
                Operator::Admitted(generation, nqn) => Admission::Granted(Grant {
                    nqn: name(nqn),
                    address: "192.0.2.1".to_owned(),
                    port: 4420,
                    generation: u32::from(generation),
                }),
                Operator::Withdrawn => Admission::Withdrawn,
                Operator::Nothing | Operator::Refused(_) | Operator::NodeOff => Admission::None,
            },
            said: Said {
                intent,
                disconnected: view.attachment.disconnected,
                report: Report {
                    // Whatever loss there was is said: which one is no matter of who can write.
                    healthy: said.lost.then(|| Condition {
                        message: losses,
                        ..condition(false, Reason::PossibleDataLoss)()
                    }),
                    connected: said.connected.then(condition(true, Reason::Connected)),
                    used_by: said.unused.then(Vec::new),
                    cleared: said.cleared,
                    ..Report::default()
                },
            },
        },
        volume: Fact::Present(volume(view.generation, view.nqn, view.holds, view.fenced)),
        sessions: Sessions::Known(sessions.collect()),
        users: None,
        leftover: match view.used && view.controllers.is_empty() {
            true => Use::Used("pod".to_owned()),
            false => Use::Unused,
        },
        unreported: None,
        in_flight: match view.connecting {
            true => InFlight::Running,
            false => InFlight::None,
        },
        failure: None,
        may_retry: true,
        watched: false,
        asked: None,
    }
}

fn volume(generation: u8, nqn: u8, holds: bool, fenced: bool) -> VolumeSeen {
    VolumeSeen {
        generation: u32::from(generation),
        nqn: Some(name(nqn)),
        holds,
        fenced,
        canary: None,
    }
}

fn session(nqn: u8, state: &str, used: bool) -> SessionSeen {
    SessionSeen {
        nqn: name(nqn),
        generation: Some(u32::from(nqn % FRESH)),
        state: state.to_owned(),
        disk: true,
        identity: None,
        connection: "nvme0/7".into(),
        used: match used {
            true => Use::Used("pod".to_owned()),
            false => Use::Unused,
        },
    }
}

fn name(nqn: u8) -> String {
    format!("nqn.{nqn}")
}

fn number(nqn: &str) -> u8 {
    nqn.rsplit_once('.').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}
