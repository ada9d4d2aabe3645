//! Looks at the host's sessions every few seconds: a change wakes the attachment it belongs to, and a session of which no
//! attachment speaks is judged by its volume.
//!
//! Of the latter only those are ended that the target has cut (key 3), seen twice in live reads (I8). All others are left
//! alone and logged once, foreign ones too (I6, R11).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rds_crds::identity::attachment_name;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::act::Agent;
use super::decide::{Key, cut_at_target};
use super::model::{SessionSeen, Use};
use super::observe::{self, base_of};
use crate::fabrics::Session;
use crate::nqn;

/// A lonely session's volume is read no more often than this.
const JUDGE_EVERY: Duration = Duration::from_secs(30);

/// What is remembered of a session of which no attachment speaks.
#[derive(Default)]
struct Lonely {
    judged: Option<Instant>,
    cut: u32,
    told: bool,
}

/// Runs until `stop`; names of attachments whose sessions changed go into `wake`.
pub async fn run(agent: Arc<Agent>, every: Duration, wake: UnboundedSender<String>, stop: CancellationToken) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: BTreeMap<String, Lonely> = BTreeMap::new();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let all = match agent.all_sessions().await {
            Ok(all) => all,
            Err(why) => {
                debug!(why, "cannot list the host's sessions");
                continue;
            }
        };
        let (changed, lonely) = agent.compare(&all);
        for name in changed {
            // A receiver that is gone means that the process ends.
            wake.send(name).ok();
        }
        known.retain(|nqn, _| lonely.iter().any(|s| s.nqn == *nqn));
        for session in lonely {
            let memory = known.entry(session.nqn.clone()).or_default();
            judge(&agent, &session, memory).await;
        }
    }
}

async fn judge(agent: &Agent, session: &Session, memory: &mut Lonely) {
    let nqn = &session.nqn;
    if !nqn.starts_with(agent.prefix()) {
        if !std::mem::replace(&mut memory.told, true) {
            info!(nqn, prefix = agent.prefix(), "not managed: passed over");
        }
        return;
    }
    // The second look comes soon, all others rarely.
    if memory.cut != 1 && memory.judged.is_some_and(|at| at.elapsed() < JUDGE_EVERY) {
        return;
    }
    memory.judged = Some(Instant::now());
    match verdict(agent, session).await {
        Ok(Some(generation)) => {
            memory.cut += 1;
            if memory.cut < 2 {
                return;
            }
            warn!(
                nqn,
                generation,
                "this node was cut at the target and no attachment speaks of it: disconnected, data may be lost"
            );
            if let Err(why) = agent.end_session(nqn.clone(), Key::Fenced).await {
                warn!(nqn, why, "cannot disconnect");
            }
        }
        Ok(None) => {
            memory.cut = 0;
            if !std::mem::replace(&mut memory.told, true) {
                info!(nqn, "no attachment of this node speaks of this session: left alone");
            }
        }
        Err(error) => debug!(nqn, %error, "cannot judge the session"),
    }
}

/// The volume's generation, if the session is below it and no attachment of the volume exists on this node.
async fn verdict(agent: &Agent, session: &Session) -> Result<Option<u32>, kube::Error> {
    let base = nqn::base(&session.nqn);
    let after_authority = base.split_once(':').map(|(_, name)| name);
    let names = [after_authority, base.strip_prefix(agent.prefix())];
    for name in names.into_iter().flatten() {
        // What is no name of an object cannot be asked for.
        if name.is_empty()
            || name.len() > 63
            || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.')
        {
            continue;
        }
        let Some(volume) = agent.volumes().get_opt(name).await? else {
            continue;
        };
        if base_of(&volume, agent.prefix()) != base {
            continue;
        }
        let attachment = attachment_name(name, &agent.node());
        if agent.attachments().get_opt(&attachment).await?.is_some() {
            return Ok(None);
        }
        let seen_volume = observe::volume(&volume, "", &agent.node());
        let seen = SessionSeen {
            nqn: session.nqn.clone(),
            generation: nqn::generation(base, &session.nqn).flatten(),
            state: session.state.clone(),
            used: Use::Unknown("not asked".to_owned()),
        };
        return Ok(cut_at_target(agent.prefix(), &seen, &seen_volume).then_some(seen_volume.generation));
    }
    Ok(None)
}
