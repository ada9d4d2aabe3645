//! What to do next about the attachments of one volume: pure, total, level-triggered.
//!
//! Order matters: a fence under way goes on before anything else; permission is withdrawn before anybody is released; a holder
//! is released only on its own final word, a proven reboot, or a fence that was read back (I4); admission comes last.

use jiff::Timestamp;
use rds_crds::volume::{AccessMode, Role};

use super::admit::{admit, same_words};
use super::model::{Ask, HolderState, HolderView, Refusal, Verdict, VolumeView, Word};
use super::node_off_claim::NodeOffClaim;

/// An RdsAttachment as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachmentView {
    /// What it asks for.
    pub ask: Ask,
    /// Its deletion was requested.
    pub deleting: bool,
    /// What its status says about admission.
    pub said: Said,
    /// Its agent has recorded for this very object that this machine is connected to the present generation. Where the record
    /// of holders has holes, that closes one: whoever is connected already adds no writer.
    pub confirms_connection: bool,
    /// Its node may be connected, by its own word for this very object, and no holder has its UID: somebody has changed the
    /// record by hand.
    pub unrecorded: bool,
}

/// What the status of an RdsAttachment says about admission.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// Nothing yet.
    Nothing,
    /// Admitted, for this generation.
    Admitted(u32),
    /// Not admitted, with this word and text.
    Refused(String, String),
    /// Not any more: it is being detached.
    Withdrawn,
    /// Not any more, and a person vouches that its node is off: its own word of before counts no longer.
    NodeOff,
}

/// Whether a lost holder may be cut at the target now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FencePermission {
    /// Yes: the self-test has passed, or the administrator vouches.
    Granted,
    /// No: why, and what a person can do.
    Withheld(String),
}

/// Everything that a decision looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The volume and its holders.
    pub volume: VolumeView,
    /// Its RdsAttachments, oldest first.
    pub attachments: Vec<AttachmentView>,
    /// Whether cutting is allowed.
    pub fence_permission: FencePermission,
    /// A person's word to cut this node at once, though another holder is alive.
    pub cut_now: Option<String>,
    /// What a person's word that a node is off amounts to.
    pub node_off_claim: Option<NodeOffClaim>,
    /// The volume is the canary of the self-test: nobody's data, cut on purpose.
    pub canary: Option<Canary>,
    /// Fenced nodes that have acknowledged it, or are gone: they need not be remembered.
    pub acknowledged: Vec<String>,
    /// The record of holders has been open for a moment only: a node that is connected may not have had the time to say so.
    pub just_opened: bool,
    /// What this pass did on the appliance, and read back.
    pub did: Option<Did>,
    /// The result of this pass' last command on the appliance is not known, or it failed: no further command now.
    pub appliance_failed: bool,
    /// Now.
    pub now: Timestamp,
}

/// The canary of the self-test of fencing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Its deletion was requested.
    pub going: bool,
}

/// A command of a fence that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Did {
    /// The token is the new one and the export is off.
    Cut,
    /// The export is on under the new NQN.
    Reopened,
}

/// Why a holder is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// Its agent said that the connection is gone.
    Disconnected,
    /// Its machine was rebooted.
    Rebooted,
    /// A person vouches that its node is off.
    NodeIsOff,
}

/// One small idempotent step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say on the attachment that it may not be used any more. Always before its holder is released.
    Withdraw(String),
    /// Compare-and-swap: take the holder out.
    Release(String, Release),
    /// Compare-and-swap: the holder with the first UID, whose object is gone, is the attachment with the second one now. Its
    /// node has said that it is connected: nobody enters with it.
    Succeed(String, String),
    /// Compare-and-swap: the attachment is a holder again, as its node may be connected. This admits nobody.
    Recall(Ask, Role),
    /// Say on the attachment that a person vouches that its node is off. Always before its holder is released for that.
    SayNodeOff(String),
    /// Compare-and-swap: the attachment becomes a holder.
    Admit(Ask, Role, Option<Timestamp>),
    /// Say on the attachment that it is admitted, with NQN, address and generation.
    Grant(String),
    /// Say on the attachment why it is not.
    Deny(String, Refusal, String),
    /// Compare-and-swap: the detach of that holder is answered though it is not cut, and what its object says is kept. Always before
    /// the object goes.
    Defer(String),
    /// Let the attachment's object go.
    Forget(String),
    /// Compare-and-swap: generation n+1 and the fence, phase cutting.
    BeginFence(String, String),
    /// On the appliance: token `g<n>` to `g<n+1>`, export off, read back.
    Cut,
    /// Compare-and-swap: the cut was read back.
    RecordCut,
    /// On the appliance: new NQN and export on, read back.
    Reopen,
    /// Compare-and-swap: the holder out and into `fenced`, the fence is over.
    EndFence,
    /// Compare-and-swap: these nodes need not be remembered as cut any more.
    Acknowledge(Vec<String>),
    /// Say that the word `node-is-off` was not believed, or was acted upon before, and take it off.
    RefuseNodeOffClaim(String),
    /// Nothing now. What is owed, if anything.
    Rest(Option<Owed>),
}

/// A fence that is owed and does not happen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The node that is lost.
    pub node: String,
    /// Why it does not happen, and what a person can do.
    pub why: String,
    /// A holder that is alive would be cut too: it accepts no new use until this is over (D5).
    pub deferred: bool,
    /// All holders only read, and nobody asks to write: who is lost harms nobody, so everything goes on without a word. It is owed in
    /// earnest as soon as somebody asks to write.
    pub harmless: bool,
}

impl Owed {
    pub(super) fn new(node: &str, why: impl Into<String>) -> Self {
        Self {
            node: node.to_owned(),
            why: why.into(),
            deferred: false,
            harmless: false,
        }
    }
}

/// Why a fence does not get on.
const NO_ANSWER: &str =
    "the appliance did not answer or refused, or its RdsServer is in maintenance; tried again by itself";

/// The next step.
#[must_use]
pub fn decide(seen: &Seen) -> Step {
    let volume = &seen.volume;
    if let Some(fence) = &volume.fence {
        return match (fence.cut, seen.did) {
            (false, Some(Did::Cut)) => Step::RecordCut,
            (true, Some(Did::Reopened)) => Step::EndFence,
            _ if seen.appliance_failed => Step::Rest(Some(Owed::new(&fence.node, NO_ANSWER))),
            (false, _) => Step::Cut,
            (true, _) => Step::Reopen,
        };
    }
    if !seen.acknowledged.is_empty() {
        return Step::Acknowledge(seen.acknowledged.clone());
    }
    // Where its node holds the volume still, under the UID of an object that was removed, nobody else gets in meanwhile.
    let missing = |a: &&AttachmentView| a.unrecorded && !volume.holders.iter().any(|h| h.node == a.ask.node);
    if let Some(attachment) = seen.attachments.iter().find(missing) {
        return Step::Recall(attachment.ask.clone(), role_of(&attachment.ask, volume));
    }
    let going = |a: &&AttachmentView| a.deleting;
    for attachment in seen.attachments.iter().filter(going) {
        if matches!(attachment.said, Said::Admitted(_)) {
            return Step::Withdraw(attachment.ask.attachment.clone());
        }
    }
    for holder in &volume.holders {
        let wanted = seen
            .attachments
            .iter()
            .any(|a| a.ask.attachment == holder.attachment && !a.deleting);
        match holder.word {
            Word::Disconnected if !wanted => return Step::Release(holder.attachment.clone(), Release::Disconnected),
            Word::Rebooted if !wanted => return Step::Release(holder.attachment.clone(), Release::Rebooted),
            Word::Disconnected | Word::Rebooted | Word::Silent | Word::Intent => {}
        }
    }
    for attachment in seen.attachments.iter().filter(|a| a.confirms_connection && !a.deleting) {
        if let Some(old) = orphan_of(seen, &attachment.ask) {
            return Step::Succeed(old.attachment.clone(), attachment.ask.attachment.clone());
        }
    }
    match &seen.node_off_claim {
        Some(NodeOffClaim::Believed(uid)) => {
            let told = |a: &AttachmentView| a.ask.attachment != *uid || a.said == Said::NodeOff;
            return match seen.attachments.iter().all(told) {
                true => Step::Release(uid.clone(), Release::NodeIsOff),
                false => Step::SayNodeOff(uid.clone()),
            };
        }
        Some(NodeOffClaim::Refused(why)) => return Step::RefuseNodeOffClaim(why.clone()),
        Some(NodeOffClaim::NotYet) | None => {}
    }
    if let Some(step) = canary(seen) {
        return step;
    }
    let mut owed = None;
    // Whom a person names goes first: of the others none may be cut yet.
    let lost = || volume.holders.iter().filter(|h| h.state == HolderState::Lost);
    let named = lost().find(|h| seen.cut_now.as_deref() == Some(h.node.as_str()));
    if let Some(holder) = named.or(lost().next()) {
        match fence(seen, holder) {
            Ok(step) => return step,
            Err(why) => owed = Some(why),
        }
    }
    if owed.is_none() {
        match unexplained(seen) {
            Some(Ok(step)) => return step,
            Some(Err(why)) => owed = Some(why),
            None => {}
        }
    }
    for attachment in seen.attachments.iter().filter(going) {
        let uid = &attachment.ask.attachment;
        // A lost holder stays in the record; where its fence is deferred, its object need not wait for that. One disk has one export:
        // what defers the fence of one defers that of all.
        let deferred = owed.as_ref().is_some_and(|o| o.deferred);
        match volume.holders.iter().find(|h| h.attachment == *uid) {
            None => return Step::Forget(uid.clone()),
            Some(holder) if deferred && holder.state == HolderState::Lost => {
                return match holder.deferred {
                    true => Step::Forget(uid.clone()),
                    false => Step::Defer(uid.clone()),
                };
            }
            Some(_) => {}
        }
    }
    // Who was told that it may connect comes first: its holder may have been taken out by hand.
    let told = |a: &&AttachmentView| matches!(a.said, Said::Admitted(_));
    let (first, then) = (
        seen.attachments.iter().filter(told),
        seen.attachments.iter().filter(|a| !told(a)),
    );
    for attachment in first.chain(then).filter(|a| !a.deleting) {
        let uid = attachment.ask.attachment.clone();
        // Once cut, a canary has served: nobody is let in again.
        if seen.canary.is_some() && volume.generation > 1 {
            if matches!(attachment.said, Said::Admitted(_)) {
                let why = "the canary was cut, as the self-test wants it".to_owned();
                return Step::Deny(uid, Refusal::FencePending, why);
            }
            continue;
        }
        let next = match admitted(seen, attachment) {
            Verdict::Held if attachment.said == Said::Admitted(volume.generation) => continue,
            Verdict::Held => Step::Grant(uid),
            Verdict::Admit { role, deadline } => Step::Admit(attachment.ask.clone(), role, deadline),
            Verdict::Refuse(why, text) => {
                if matches!(&attachment.said, Said::Refused(word, told) if word == why.word() && same_words(told, &text))
                {
                    continue;
                }
                Step::Deny(uid, why, text)
            }
        };
        return next;
    }
    Step::Rest(owed)
}

/// What a holder that comes back into the record may do.
fn role_of(ask: &Ask, volume: &VolumeView) -> Role {
    let writes = |h: &HolderView| h.role != Role::Reader;
    match (ask.read_only, volume.holders.iter().any(writes)) {
        (true, _) => Role::Reader,
        (false, false) => Role::Primary,
        (false, true) => Role::MigrationTarget,
    }
}

/// Admission, but that holes in the record do not keep out who is connected already.
fn admitted(seen: &Seen, attachment: &AttachmentView) -> Verdict {
    let volume = VolumeView {
        holders_unknown: seen.volume.holders_unknown && !attachment.confirms_connection,
        ..seen.volume.clone()
    };
    admit(&attachment.ask, &volume, seen.now)
}

/// The holder of that node whose RdsAttachment is gone, though nobody released it: somebody has removed the object by force.
fn orphan_of<'a>(seen: &'a Seen, ask: &Ask) -> Option<&'a HolderView> {
    let known = |uid: &String| seen.attachments.iter().any(|a| a.ask.attachment == *uid);
    let holders = seen.volume.holders.iter();
    holders
        .filter(|h| h.node == ask.node && h.attachment != ask.attachment)
        .find(|h| !known(&h.attachment))
}

/// What stands in the way of somebody who asks, and will not go by itself: a holder whose object was removed by force, or holes in
/// the record of holders. Nobody may be cut for that while a known holder may be connected, but by a person's word.
fn unexplained(seen: &Seen) -> Option<Result<Step, Owed>> {
    let volume = &seen.volume;
    let owed = |node: &str, why: String| Some(Err(Owed::new(node, why)));
    let asks = |a: &&AttachmentView| !a.deleting && !volume.holders.iter().any(|h| h.attachment == a.ask.attachment);
    let known = |uid: &String| seen.attachments.iter().any(|a| a.ask.attachment == *uid);
    // One that is deferred is explained.
    let orphan = volume.holders.iter().find(|h| !known(&h.attachment) && !h.deferred);
    if let Some(holder) = orphan
        && seen.attachments.iter().any(|a| asks(&a))
    {
        let told = seen.cut_now.as_deref() == Some(holder.node.as_str());
        if told && matches!(seen.fence_permission, FencePermission::Granted) && !seen.appliance_failed {
            return Some(Ok(Step::BeginFence(holder.node.clone(), holder.attachment.clone())));
        }
        return owed(
            &holder.node,
            format!(
                "the RdsAttachment of node {0} was removed by force, and the node has not said what is left of its connection. Once it \
                 is certain that nothing there uses the volume, annotate the RdsVolume with rds.csi.srvlab.io/fence-now: {0}",
                holder.node
            ),
        );
    }
    // Who is connected gets its place in the record first.
    if !volume.holders_unknown || seen.attachments.iter().filter(asks).any(|a| a.confirms_connection) {
        return None;
    }
    let mut plain = volume.clone();
    plain.holders_unknown = false;
    let waits = seen
        .attachments
        .iter()
        .filter(asks)
        .find(|a| matches!(admit(&a.ask, &plain, seen.now), Verdict::Admit { .. }))?;
    if !volume.holders.is_empty() {
        return owed(
            "",
            format!(
                "the record of who uses the volume was lost, so a node that is not known may be connected: node {} gets in when those \
                 that are known have left",
                waits.ask.node
            ),
        );
    }
    if seen.just_opened {
        let why =
            "the record of who uses the volume was lost: who is connected gets the time to say so before all are cut";
        return owed("", why.to_owned());
    }
    match &seen.fence_permission {
        FencePermission::Withheld(why) => owed(
            "",
            format!("the record of who uses the volume was lost, so all former connections have to be cut: {why}"),
        ),
        FencePermission::Granted if seen.appliance_failed => owed("", NO_ANSWER.to_owned()),
        FencePermission::Granted => Some(Ok(Step::BeginFence(String::new(), String::new()))),
    }
}

/// The self-test cuts a holder that is alive, on its canary and nowhere else, by the very steps of every other fence.
fn canary(seen: &Seen) -> Option<Step> {
    let canary = seen.canary.filter(|_| !seen.appliance_failed)?;
    let asked = |h: &&HolderView| canary.going || seen.cut_now.as_deref() == Some(h.node.as_str());
    let holder = seen.volume.holders.iter().find(asked)?;
    Some(Step::BeginFence(holder.node.clone(), holder.attachment.clone()))
}

/// Cuts a lost holder, unless that would cut a live one, or nobody allows it.
fn fence(seen: &Seen, lost: &HolderView) -> Result<Step, Owed> {
    let volume = &seen.volume;
    let others: Vec<&HolderView> = volume
        .holders
        .iter()
        .filter(|h| h.attachment != lost.attachment)
        .collect();
    // Who is alive and still uses it. Leaving and doubtful ones count: they may be connected.
    let in_the_way: Vec<&str> = others
        .iter()
        .filter(|h| h.state != HolderState::Lost && !(h.state == HolderState::Alive && h.unpublished))
        .map(|h| h.node.as_str())
        .collect();
    let told = seen.cut_now.as_deref() == Some(lost.node.as_str());
    if !in_the_way.is_empty() && !told {
        let why = format!(
            "node {} is lost and {} still uses the volume: one disk has one export, so cutting the one cuts the other. It is cut \
             when {} leaves; to cut at once annotate the RdsVolume with rds.csi.srvlab.io/fence-now: {}",
            lost.node,
            in_the_way.join(", "),
            in_the_way.join(", "),
            lost.node
        );
        return Err(Owed {
            deferred: true,
            harmless: only_reads(seen),
            ..Owed::new(&lost.node, why)
        });
    }
    if let FencePermission::Withheld(why) = &seen.fence_permission {
        return Err(Owed::new(&lost.node, why));
    }
    if seen.appliance_failed {
        return Err(Owed::new(&lost.node, NO_ANSWER));
    }
    Ok(Step::BeginFence(lost.node.clone(), lost.attachment.clone()))
}

/// Whether nobody writes, and nobody asks to.
fn only_reads(seen: &Seen) -> bool {
    let reads = |a: &AttachmentView| a.deleting || a.ask.read_only || a.ask.mode == AccessMode::ReadOnlyMany;
    seen.volume.holders.iter().all(|h| h.role == Role::Reader) && seen.attachments.iter().all(reads)
}
