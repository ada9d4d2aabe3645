//! Leaders: observation, the shipped decision, the write or the command.

use std::time::Duration;

use jiff::Timestamp;
use rds_crds::attachment::Intent;
use rds_crds::volume::{AccessMode, Role};
use rds_operator::attachment::decide::{self, AttachmentView, Did, Licence, Seen, Step, decide};
use rds_operator::attachment::model::{Ask, FenceView, HolderView, Standing, VolumeView, Word};
use rds_operator::attachment::standing::{NodeFacts, Pulse, standing, word};

use crate::world::{Command, Exec, Holder, Leader, Record, Said, Snapshot};
use crate::{Action, Mutation, Protocol, World};

pub(crate) fn actions(_model: &Protocol, world: &World, actions: &mut Vec<Action>) {
    for (i, leader) in world.leaders.iter().enumerate() {
        if leader.waits {
            continue;
        }
        // The first acts on what it has just read; the second may act on anything that it read once.
        if i > 0 && leader.view.is_none() {
            actions.push(Action::Observe(i));
        }
        if i == 0 || leader.view.is_some() {
            actions.push(Action::Act(i));
        }
        if world.faults > 0 && leader.did.is_some() {
            actions.push(Action::LeaderDies(i));
        }
    }
    for (i, exec) in world.execs.iter().enumerate() {
        if exec.waiting.is_some() {
            actions.push(Action::Run(i));
            if world.faults > 0 {
                actions.extend([Action::RunUnheard(i), Action::GiveUp(i), Action::Drop(i)]);
            }
        } else {
            actions.push(Action::RunUnheard(i));
        }
    }
}

impl Snapshot {
    fn of(world: &World) -> Self {
        Self {
            record: world.record.clone(),
            attachments: world.attachments.clone(),
            nodes: world.nodes.clone(),
        }
    }
}

pub(crate) fn next(model: &Protocol, world: &mut World, action: &Action) {
    match *action {
        Action::Observe(i) => {
            let view = Some(Box::new(Snapshot::of(world)));
            world.leaders[i].view = view;
        }
        Action::Act(i) => act(model, world, i),
        Action::LeaderDies(i) => {
            world.fault();
            world.leaders[i] = Leader::default();
            for exec in world.execs.iter_mut().filter(|e| e.waiting == Some(i)) {
                exec.waiting = None;
            }
        }
        Action::Run(i) => {
            let exec = world.execs.remove(i);
            let done = run(model, world, exec.command);
            answer(world, &exec, done);
        }
        Action::RunUnheard(i) => {
            let exec = world.execs.remove(i);
            run(model, world, exec.command);
            if exec.waiting.is_some() {
                world.fault();
                unheard(model, world, &exec);
            }
        }
        Action::GiveUp(i) => {
            world.fault();
            let exec = world.execs[i].clone();
            world.execs[i].waiting = None;
            unheard(model, world, &exec);
        }
        Action::Drop(i) => {
            world.fault();
            let exec = world.execs.remove(i);
            unheard(model, world, &exec);
        }
        Action::Publish(_)
        | Action::Unpublish(_)
        | Action::Intend(..)
        | Action::Arrive(_)
        | Action::Disconnect(_)
        | Action::Declare(..)
        | Action::AgentRestarts(_)
        | Action::CutOff(_)
        | Action::Heal(_)
        | Action::Reboot(_)
        | Action::Replace(_)
        | Action::Taint(_) => {}
    }
}

/// The command on the appliance: its guard, its change, and whether it was read back as done.
fn run(model: &Protocol, world: &mut World, command: Command) -> bool {
    match command {
        Command::Cut(to) => {
            if world.target.token + 1 == to {
                world.target.token = to;
                world.target.highest = world.target.highest.max(to);
                world.target.exported = None;
                let online = |node: u8| world.nodes[usize::from(node)].online;
                let wanted = |node: u8| {
                    world
                        .attachments
                        .iter()
                        .any(|a| a.node == node && !a.gone && !a.deleting)
                        && world.record.holders.iter().any(|h| h.node == node)
                };
                let alive = |s: &(crate::Machine, u8, u8)| {
                    let state = &world.nodes[usize::from(s.1)];
                    state.machine == s.0 && online(s.1) && !state.tainted && wanted(s.1)
                };
                let fenced = world.record.fence.map(|f| f.0);
                let peer = world.target.sessions.iter().any(|s| alive(s) && Some(s.1) != fenced);
                world.cut_a_live_peer |= peer;
                world.target.sessions.clear();
                return true;
            }
            world.target.token == to && world.target.exported.is_none()
        }
        Command::Reopen(generation) => {
            if world.target.token == generation || model.wrong(Mutation::RepairWithoutToken) {
                world.target.exported = Some(generation);
                return true;
            }
            false
        }
    }
}

fn answer(world: &mut World, exec: &Exec, done: bool) {
    let Some(leader) = exec.waiting.and_then(|i| world.leaders.get_mut(i)) else {
        return;
    };
    leader.waits = false;
    if done {
        leader.view = None;
        leader.did = Some(match exec.command {
            Command::Cut(_) => Did::Cut,
            Command::Reopen(_) => Did::Reopened,
        });
    } else {
        *leader = Leader::default();
    }
}

fn unheard(model: &Protocol, world: &mut World, exec: &Exec) {
    if model.wrong(Mutation::SkipVerify) {
        return answer(world, exec, true);
    }
    if let Some(leader) = exec.waiting.and_then(|i| world.leaders.get_mut(i)) {
        // The pass rests and begins anew from what it reads then.
        *leader = Leader::default();
    }
}

fn act(model: &Protocol, world: &mut World, i: usize) {
    if i == 0 || world.leaders[i].did.is_some() {
        let fresh = Some(Box::new(Snapshot::of(world)));
        world.leaders[i].view = fresh;
    }
    let Some(view) = world.leaders[i].view.clone() else {
        return;
    };
    let step = decide(&seen(model, &view, &world.leaders[i]));
    let swap = |world: &mut World, change: &dyn Fn(&mut Record)| {
        if world.record.version == view.record.version || model.wrong(Mutation::DropCompareAndSwap) {
            let mut next = view.record.clone();
            change(&mut next);
            next.version = world.record.version + 1;
            world.record = next;
        }
        // Written or refused: either way it reads again.
        world.leaders[i] = Leader::default();
    };
    let uid = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
    match step {
        Step::Rest(_) => world.leaders[i] = Leader::default(),
        Step::Withdraw(a) => say(world, i, uid(&a), Said::Withdrawn),
        Step::Grant(a) => say(world, i, uid(&a), Said::Admitted(view.record.generation)),
        Step::Deny(a, why, _) => say(world, i, uid(&a), Said::Refused(why.word())),
        Step::Forget(a) => {
            // Our finalizer goes by the object's resourceVersion: only as it was read.
            let a = uid(&a);
            if world.attachments.get(a) == view.attachments.get(a)
                && let Some(attachment) = world.attachments.get_mut(a)
            {
                attachment.gone = true;
            }
            world.leaders[i] = Leader::default();
        }
        Step::Admit(ask, role, _) => swap(world, &|record| {
            let node = ask.node.parse().unwrap_or(0);
            let attachment = ask.attachment.parse().unwrap_or(0);
            record.holders.push(Holder {
                node,
                attachment,
                second: role == Role::MigrationTarget,
            });
        }),
        Step::Succeed(old, new) => swap(world, &|record| {
            let theirs = record
                .holders
                .iter_mut()
                .filter(|h| usize::from(h.attachment) == uid(&old));
            theirs.for_each(|h| h.attachment = new.parse().unwrap_or(0));
        }),
        Step::Release(a, _) => swap(world, &|record| {
            record.holders.retain(|h| usize::from(h.attachment) != uid(&a))
        }),
        // No person speaks in this world.
        Step::RefuseVouch(_) => {}
        Step::Acknowledge(nodes) => swap(world, &|record| {
            record.fenced.retain(|n| !nodes.contains(&n.to_string()))
        }),
        Step::BeginFence(node, a) => swap(world, &|record| {
            record.generation += 1;
            record.fence = Some((node.parse().unwrap_or(0), a.parse().unwrap_or(0), false));
        }),
        Step::RecordCut => swap(world, &|record| {
            if let Some(fence) = &mut record.fence {
                fence.2 = true;
            }
        }),
        Step::EndFence => swap(world, &|record| {
            if let Some((node, attachment, _)) = record.fence.take() {
                record.holders.retain(|h| h.attachment != attachment);
                record.fenced.retain(|n| *n != node);
                record.fenced.push(node);
            }
        }),
        Step::Cut => send(world, i, Command::Cut(view.record.generation)),
        Step::Reopen => send(world, i, Command::Reopen(view.record.generation)),
    }
}

fn send(world: &mut World, i: usize, command: Command) {
    // Two equal commands on their way are as one: the guard lets one of them through.
    world.execs.push(Exec {
        command,
        waiting: Some(i),
    });
    world.leaders[i].waits = true;
}

fn say(world: &mut World, i: usize, a: usize, said: Said) {
    // Server-side apply by UID: a stale leader may say what is no longer so.
    if let Some(attachment) = world.attachments.get_mut(a).filter(|a| !a.gone) {
        attachment.said = said;
    }
    world.leaders[i] = Leader::default();
}

/// What the shell makes of a snapshot.
fn seen(model: &Protocol, view: &Snapshot, leader: &Leader) -> Seen {
    let mode = if model.shared {
        AccessMode::ReadWriteMany
    } else {
        AccessMode::ReadWriteOnce
    };
    let holders = view.record.holders.iter().map(|h| holder(model, view, h)).collect();
    let live = view.attachments.iter().enumerate().filter(|(_, a)| !a.gone);
    let cleared = |node: &u8| view.attachments.iter().any(|a| a.node == *node && !a.gone && a.cleared);
    Seen {
        volume: VolumeView {
            name: "v".to_owned(),
            ready: view.record.fence.is_none(),
            deleting: false,
            block: model.shared,
            access_modes: vec![mode],
            generation: u32::from(view.record.generation),
            holders,
            holders_unknown: false,
            fence: view.record.fence.map(|(node, attachment, cut)| FenceView {
                node: node.to_string(),
                attachment: attachment.to_string(),
                cut,
            }),
            fenced: view.record.fenced.iter().map(ToString::to_string).collect(),
            migration_timeout: Duration::from_secs(300),
            migration_deadline: None,
            migration_started: None,
            kubevirt_only: false,
        },
        attachments: live
            .map(|(i, a)| AttachmentView {
                ask: Ask {
                    node: a.node.to_string(),
                    attachment: i.to_string(),
                    mode,
                    read_only: false,
                    same_vm: None,
                },
                deleting: a.deleting,
                said: match &a.said {
                    Said::Nothing => decide::Said::Nothing,
                    Said::Admitted(generation) => decide::Said::Admitted(u32::from(*generation)),
                    Said::Refused(word) => decide::Said::Refused((*word).to_owned(), String::new()),
                    Said::Withdrawn => decide::Said::Withdrawn,
                },
                vouches: false,
            })
            .collect(),
        licence: Licence::Granted,
        acknowledged: view
            .record
            .fenced
            .iter()
            .filter(|n| cleared(n))
            .map(ToString::to_string)
            .collect(),
        cut_now: None,
        vouch: None,
        canary: None,
        did: leader.did,
        appliance_failed: leader.failed,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn holder(model: &Protocol, view: &Snapshot, holder: &Holder) -> HolderView {
    let node = &view.nodes[usize::from(holder.node)];
    let attachment = view.attachments.get(usize::from(holder.attachment)).filter(|a| !a.gone);
    let going = attachment.is_none_or(|a| a.deleting);
    let facts = NodeFacts {
        gone_for: None,
        ready: node.online,
        out_of_service: node.tainted,
        uid: "n".to_owned(),
        boot_id: format!("{}-{}", node.machine.id, node.machine.boot),
        system_uuid: if model.wrong(Mutation::BootIdAlone) {
            "m".to_owned()
        } else {
            node.machine.id.to_string()
        },
        machine_id: "m".to_owned(),
    };
    let pulse = if node.online { Pulse::Fresh } else { Pulse::Stale };
    let mut is = standing(&facts, pulse, going, false, Duration::ZERO);
    if model.wrong(Mutation::AdmitBesideLost) && is == Standing::Lost {
        is = Standing::Alive;
    }
    let intent = attachment.and_then(|a| a.intent).map(|(machine, generation)| Intent {
        boot_id: format!("{}-{}", machine.id, machine.boot),
        system_uuid: if model.wrong(Mutation::BootIdAlone) {
            "m".to_owned()
        } else {
            machine.id.to_string()
        },
        machine_id: "m".to_owned(),
        node_uid: "n".to_owned(),
        generation: u32::from(generation),
    });
    let mut said = word(intent.as_ref(), attachment.is_some_and(|a| a.disconnected), &facts);
    if model.wrong(Mutation::ReleaseOnUnknown) && matches!(said, Word::Silent | Word::Intent) && going {
        said = Word::Disconnected;
    }
    HolderView {
        node: holder.node.to_string(),
        attachment: holder.attachment.to_string(),
        role: if holder.second {
            Role::MigrationTarget
        } else {
            Role::Primary
        },
        standing: is,
        word: said,
        unpublished: false,
    }
}
