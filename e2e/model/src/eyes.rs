//! What a leader's pass makes of its caches and live reads, and the shipped decision on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use rds_crds::attachment;
use rds_crds::volume::{AccessMode, Role};
use rds_operator::attachment::admit::admit;
use rds_operator::attachment::decide::{AttachmentView, Did, FencePermission, Said, Seen, Step, decide};
use rds_operator::attachment::holder_state::{NodeFacts, Pulse, holder_state, may_be_connected, replaced, word};
use rds_operator::attachment::model::{Ask, FenceView, HolderState, HolderView, Verdict, VolumeView, Word};
use rds_operator::attachment::node_off_claim::{Named, NodeOffClaim, judge};

use crate::record::{role, text};
use crate::world::{Attachment, Holder, Intent, Node, Record, Said as Stored, Snapshot, World};
use crate::{Mutation, Protocol};

/// All that the decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Look {
    pub(crate) record: Record,
    attachments: Vec<Attachment>,
    /// For each of them: its machine has recorded that it is connected, read live where another one of its node holds.
    confirms_connection: Vec<bool>,
    /// For each of them: its machine may be connected, read live, and no holder has its UID.
    unrecorded: Vec<bool>,
    owed: bool,
    /// The NQN in the volume's status.
    nqn: u8,
    /// A person's word that this boot of that machine of that node is off.
    off: Option<(u8, u8, u8)>,
    /// For each holder: its attachment, its Node, and whether a VolumeAttachment wants it, read live where the cache is not good
    /// enough.
    holders: Vec<(Option<Attachment>, Node, bool)>,
    ready: bool,
    did: Option<Did>,
    cut_now: Option<u8>,
    shared: bool,
    readers: bool,
    proven: bool,
    mutation: Option<Mutation>,
}

/// A step of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Do {
    Rest(bool),
    Refuse,
    Succeed(u8, u8),
    Withdraw(u8),
    SayNodeOff(u8),
    Recall(Holder),
    Release(u8),
    Admit(Holder),
    Grant(u8),
    Deny(u8, &'static str),
    Defer(u8),
    Forget(u8),
    BeginFence(Option<u8>, Option<u8>),
    Cut,
    RecordCut,
    Reopen,
    EndFence,
    Acknowledge(Vec<u8>),
}

thread_local! {
    /// The decision is pure: what was decided once needs no second time.
    static DECIDED: RefCell<HashMap<Look, Do>> = RefCell::default();
}

/// What a pass sees: its caches, and what it reads live because a cache is not good enough for it.
pub(crate) fn look(model: &Protocol, world: &World, caches: &Snapshot, record: Record, did: Option<Did>) -> Look {
    let holders = record.holders.iter().map(|h| {
        let cached = caches.nodes[usize::from(h.node)];
        let trusts = model.wrong(Mutation::TrustStaleCache);
        let of = |all: &[Attachment]| all.get(usize::from(h.attachment)).copied().filter(|a| !a.gone);
        let live = of(&world.attachments);
        let object = of(&caches.attachments).or(live.filter(|_| !trusts));
        let intent = intent_for(h, object);
        let differs = intent.is_some_and(|i| (i.machine, i.boot) != (cached.machine, cached.boot));
        let wanted = !trusts && world.wanted[usize::from(h.node)];
        // What would end its hold is not believed of a cache.
        let seems_lost = object.is_none_or(|a| a.deleting) && (!cached.online || cached.tainted || object.is_none());
        let asked_about = world.off.is_some_and(|(node, ..)| node == h.node) && !cached.online;
        let live = differs || (seems_lost && !wanted) || asked_about;
        let node = if live && !trusts { world.node(h.node) } else { cached };
        (object, node, wanted)
    });
    let claims = |a: &Attachment| {
        let same = a.intent.is_some_and(|i| i.generation == record.generation);
        !a.gone && same && a.connected && !a.disconnected
    };
    let confirms_connection = caches.attachments.iter().enumerate().map(|(i, a)| {
        let other = |h: &Holder| h.node == a.node && usize::from(h.attachment) != i;
        let live = world.attachments.get(i).is_some_and(claims);
        claims(a) && (live || !record.holders.iter().any(other))
    });
    let may_be = |a: &Attachment, node: &Node| {
        let intent = a.intent.map(intent_of);
        let node_off = a.said == Stored::NodeOff;
        let generation = u32::from(record.generation);
        !a.gone
            && may_be_connected(
                intent.as_ref(),
                generation,
                a.disconnected,
                node_off,
                &facts(node, same_id),
            )
    };
    let unrecorded = caches.attachments.iter().enumerate().map(|(i, a)| {
        let recorded = record.holders.iter().any(|h| usize::from(h.attachment) == i);
        let live = || world.attachments.get(i).is_some_and(|a| may_be(a, &world.node(a.node)));
        !recorded && may_be(a, &caches.nodes[usize::from(a.node)]) && live()
    });
    let blind = model.wrong(Mutation::BelieveTheRecord);
    Look {
        unrecorded: unrecorded.map(|yes| yes && !blind).collect(),
        holders: holders.collect(),
        confirms_connection: confirms_connection.collect(),
        owed: world.owed,
        nqn: caches.nqn,
        off: world.off,
        attachments: caches.attachments.clone(),
        ready: world.target.token == record.generation && world.target.exported == Some(caches.nqn) && !record.blank,
        did,
        cut_now: world.cut_now,
        shared: model.shared,
        readers: model.readers,
        proven: model.proven,
        mutation: model.mutation,
        record,
    }
}

/// The shipped decision.
pub(crate) fn decided(look: &Look) -> Do {
    if let Some(known) = DECIDED.with_borrow(|all| all.get(look).cloned()) {
        return known;
    }
    let new = look.step();
    DECIDED.with_borrow_mut(|all| all.insert(look.clone(), new.clone()));
    new
}

impl Look {
    fn step(&self) -> Do {
        let id = |text: &str| text.parse::<u8>().unwrap_or(u8::MAX);
        let some = |text: &str| text.parse::<u8>().ok();
        let held = |ask: &Ask, role| Holder {
            node: id(&ask.node),
            attachment: id(&ask.attachment),
            second: role == Role::MigrationTarget,
            reads: role == Role::Reader,
            deferred: None,
        };
        match decide(&self.seen()) {
            Step::Rest(owed) => Do::Rest(owed.is_some()),
            Step::RefuseNodeOffClaim(_) => Do::Refuse,
            Step::Succeed(old, new) => Do::Succeed(id(&old), id(&new)),
            Step::Withdraw(a) => Do::Withdraw(id(&a)),
            Step::SayNodeOff(a) => Do::SayNodeOff(id(&a)),
            Step::Recall(ask, role) => Do::Recall(held(&ask, role)),
            Step::Release(a, _) => Do::Release(id(&a)),
            Step::Admit(ask, role, _) => Do::Admit(held(&ask, role)),
            Step::Grant(a) => Do::Grant(id(&a)),
            Step::Deny(a, why, _) => Do::Deny(id(&a), why.word()),
            Step::Defer(a) => Do::Defer(id(&a)),
            Step::Forget(a) => Do::Forget(id(&a)),
            Step::BeginFence(node, a) => Do::BeginFence(some(&node), some(&a)),
            Step::Cut => Do::Cut,
            Step::RecordCut => Do::RecordCut,
            Step::Reopen => Do::Reopen,
            Step::EndFence => Do::EndFence,
            Step::Acknowledge(nodes) => Do::Acknowledge(nodes.iter().map(|n| id(n)).collect()),
        }
    }

    fn wrong(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn mode(&self) -> AccessMode {
        match self.shared {
            true => AccessMode::ReadWriteMany,
            false => AccessMode::ReadWriteOnce,
        }
    }

    fn seen(&self) -> Seen {
        let volume = self.volume();
        let live = || self.attachments.iter().enumerate().filter(|(_, a)| !a.gone);
        let attachments = live().map(|(i, a)| self.attachment(&volume, i, a)).collect();
        let cleared = |node: &&u8| live().any(|(_, a)| a.node == **node && a.cleared);
        Seen {
            attachments,
            fence_permission: match self.proven {
                true => FencePermission::Granted,
                false => FencePermission::Withheld(String::new()),
            },
            acknowledged: self
                .record
                .fenced
                .iter()
                .filter(cleared)
                .map(ToString::to_string)
                .collect(),
            cut_now: self.cut_now.map(|node| node.to_string()),
            node_off_claim: self.node_off_claim(),
            canary: None,
            // A cut may come that early.
            just_opened: false,
            did: self.did,
            appliance_failed: false,
            now: Timestamp::UNIX_EPOCH,
            volume,
        }
    }

    fn volume(&self) -> VolumeView {
        let record = &self.record;
        let holders = record.holders.iter().zip(&self.holders);
        VolumeView {
            name: "v".to_owned(),
            ready: self.ready,
            deleting: record.deletion,
            block: self.shared,
            access_modes: match self.readers {
                true => vec![self.mode(), AccessMode::ReadOnlyMany],
                false => vec![self.mode()],
            },
            generation: u32::from(record.generation),
            holders: holders
                .map(|(h, (object, node, wanted))| self.holder(h, *object, node, *wanted))
                .collect(),
            holders_unknown: record.unknown,
            fence: record.fence.map(|f| FenceView {
                node: text(f.node),
                attachment: text(f.attachment),
                cut: f.cut,
            }),
            fenced: record.fenced.iter().map(ToString::to_string).collect(),
            migration_timeout: Duration::from_secs(300),
            migration_deadline: None,
            migration_started: None,
            kubevirt_only: false,
        }
    }

    fn node_off_claim(&self) -> Option<NodeOffClaim> {
        let (node, machine, boot) = self.off?;
        let holders = self.record.holders.iter().zip(&self.holders);
        let mut named = holders
            .filter(|(h, _)| h.node == node)
            .map(|(h, (object, seen, wanted))| {
                let recorded = intent_for(h, *object).map(|i| (i.machine, i.boot));
                let (machine, boot) = recorded.unwrap_or((seen.machine, seen.boot));
                Named {
                    attachment: h.attachment.to_string(),
                    pulse: pulse(seen),
                    detach_wanted: object.is_none_or(|a| a.deleting) && !wanted,
                    boot_id: Some(format!("{machine}-{boot}")),
                }
            });
        Some(judge(&format!("{node}/{machine}-{boot}"), named.next_back().as_ref()))
    }

    fn attachment(&self, volume: &VolumeView, uid: usize, a: &Attachment) -> AttachmentView {
        let ask = Ask {
            node: a.node.to_string(),
            attachment: uid.to_string(),
            mode: match a.reads {
                true => AccessMode::ReadOnlyMany,
                false => self.mode(),
            },
            read_only: a.reads,
            same_vm: None,
        };
        let said = match a.said {
            Stored::Nothing => Said::Nothing,
            // Told something else with it than the volume records, it is told again.
            Stored::Admitted(generation, nqn) => Said::Admitted(match nqn == self.nqn {
                true => u32::from(generation),
                false => 0,
            }),
            Stored::Withdrawn => Said::Withdrawn,
            Stored::NodeOff => Said::NodeOff,
            // Only the word is kept; the text is what would be said with it now.
            Stored::Refused(word) => match admit(&ask, volume, Timestamp::UNIX_EPOCH) {
                Verdict::Refuse(why, text) if why.word() == word => Said::Refused(word.to_owned(), text),
                Verdict::Refuse(..) | Verdict::Admit { .. } | Verdict::Held => {
                    Said::Refused(word.to_owned(), String::new())
                }
            },
        };
        AttachmentView {
            ask,
            deleting: a.deleting,
            said,
            confirms_connection: self.confirms_connection.get(uid).copied().unwrap_or(false),
            unrecorded: self.unrecorded.get(uid).copied().unwrap_or(false),
        }
    }

    fn holder(&self, holder: &Holder, object: Option<Attachment>, node: &Node, wanted: bool) -> HolderView {
        let going = object.is_none_or(|a| a.deleting);
        let id = |machine: u8| match self.wrong(Mutation::BootIdAlone) {
            true => "m".to_owned(),
            false => machine.to_string(),
        };
        let facts = facts(node, id);
        let recorded = intent_for(holder, object);
        let intent = recorded.map(|i| attachment::Intent {
            boot_id: format!("{}-{}", i.machine, i.boot),
            system_uuid: id(i.machine),
            machine_id: id(i.machine),
            node_uid: "n".to_owned(),
            generation: u32::from(i.generation),
        });
        let mute = object.is_none() || replaced(intent.as_ref(), u32::from(self.record.generation), &facts);
        let mut is = holder_state(&facts, pulse(node), going, mute, Duration::ZERO);
        if is == HolderState::Lost && wanted {
            is = HolderState::Doubtful;
        }
        if object.is_none() && holder.deferred.is_some() {
            is = HolderState::Lost;
        }
        if self.wrong(Mutation::AdmitBesideLost) && is == HolderState::Lost {
            is = HolderState::Alive;
        }
        let mut said = word(intent.as_ref(), object.is_some_and(|a| a.disconnected), &facts);
        let unknown = matches!(said, Word::Silent | Word::Intent) && going;
        if self.wrong(Mutation::ReleaseOnUnknown) && unknown {
            said = Word::Disconnected;
        }
        // The Node has another boot ID than when the holder was admitted; whether it has connected since is not asked.
        if self.wrong(Mutation::BootIdWithoutIntent) && node.boot > 0 {
            said = Word::Rebooted;
        }
        HolderView {
            node: holder.node.to_string(),
            attachment: holder.attachment.to_string(),
            role: role(holder),
            state: is,
            word: said,
            // Who begins to use it has said so before, and nobody new begins while a fence is owed.
            unpublished: object.is_some_and(|a| a.unused) && self.owed,
            deferred: holder.deferred == Some(recorded),
        }
    }
}

/// What is recorded of who connects: by its object, or by the holder once that was let go.
fn intent_for(holder: &Holder, object: Option<Attachment>) -> Option<Intent> {
    match object {
        Some(object) => object.intent,
        None => holder.deferred.flatten(),
    }
}

fn same_id(machine: u8) -> String {
    machine.to_string()
}

fn facts(node: &Node, id: impl Fn(u8) -> String) -> NodeFacts {
    NodeFacts {
        gone_for: None,
        ready: node.online,
        out_of_service: node.tainted,
        uid: "n".to_owned(),
        boot_id: format!("{}-{}", node.machine, node.boot),
        system_uuid: id(node.machine),
        machine_id: id(node.machine),
    }
}

pub(crate) fn intent_of(intent: Intent) -> attachment::Intent {
    attachment::Intent {
        boot_id: format!("{}-{}", intent.machine, intent.boot),
        system_uuid: same_id(intent.machine),
        machine_id: same_id(intent.machine),
        node_uid: "n".to_owned(),
        generation: u32::from(intent.generation),
    }
}

fn pulse(node: &Node) -> Pulse {
    if node.online { Pulse::Fresh } else { Pulse::Stale }
}
