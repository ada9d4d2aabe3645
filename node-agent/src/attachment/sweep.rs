//! Looks at the host's sessions every few seconds: a change wakes the attachment it belongs to, and a session of which no
//! attachment speaks is judged by its volume.
//!
//! Of the latter those are ended that the target has cut (key 3) and those that are orphans (key 2), seen twice in live reads, and
//! none before the attachments of this node were read (I8). All others are left alone and logged once, foreign ones too (I6, R11).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ListParams;
use rds_crds::RdsVolume;
use rds_crds::identity::{attachment_name, is_canary};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::act::Agent;
use super::decide::DisconnectKey;
use super::loss::cut_off;
use super::model::{SessionSeen, Use};
use super::observe::{self, base_of};
use super::orphan_session::{OrphanSeen, Verdict, judge};
use crate::fabrics::Session;
use crate::nqn;

/// A lonely session's volume is read no more often than this.
const JUDGE_EVERY: Duration = Duration::from_secs(30);

/// What is remembered of a session of which no attachment speaks.
struct Lonely {
    found: Timestamp,
    /// The operator's word at the first look.
    complete_then: Option<Option<Timestamp>>,
    judged: Option<Instant>,
    /// What the last look would have done.
    agreed: Option<DisconnectKey>,
    told: Option<String>,
}

impl Lonely {
    fn new() -> Self {
        Self {
            found: Timestamp::now(),
            complete_then: None,
            judged: None,
            agreed: None,
            told: None,
        }
    }

    /// Says it, but not again and again.
    fn tell(&mut self, nqn: &str, why: &str) {
        if self.told.as_deref() != Some(why) {
            info!(
                nqn,
                why, "no attachment of this node speaks of this session: left alone"
            );
            self.told = Some(why.to_owned());
        }
    }
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
        // Until then every session is lonely.
        if !agent.has_synced() {
            continue;
        }
        for session in lonely {
            let memory = known.entry(session.nqn.clone()).or_insert_with(Lonely::new);
            consider(&agent, &session, memory).await;
        }
    }
}

async fn consider(agent: &Agent, session: &Session, memory: &mut Lonely) {
    let nqn = &session.nqn;
    if !nqn.starts_with(agent.prefix()) {
        memory.tell(nqn, "it does not begin with the managed prefix");
        return;
    }
    // The second look comes soon, all others rarely.
    if memory.agreed.is_none() && memory.judged.is_some_and(|at| at.elapsed() < JUDGE_EVERY) {
        return;
    }
    memory.judged = Some(Instant::now());
    let (volume, verdict) = match look(agent, session, memory).await {
        Ok(looked) => looked,
        Err(error) => {
            debug!(nqn, %error, "cannot judge the session");
            memory.agreed = None;
            return;
        }
    };
    let key = match verdict {
        Verdict::Stay(why) => {
            memory.agreed = None;
            memory.tell(nqn, why);
            return;
        }
        Verdict::End(key) => key,
    };
    if memory.agreed.replace(key) != Some(key) {
        return;
    }
    memory.agreed = None;
    match key {
        DisconnectKey::Fenced => {
            // Said first, as with an attachment: a crash would forget it.
            if let Some(volume) = volume
                && let Err(why) = agent.keep_loss(&volume, &cut_off(nqn)).await
            {
                warn!(
                    nqn,
                    why, "this node was cut at the target; that cannot be kept, so it is not disconnected yet"
                );
                return;
            }
            warn!(
                nqn,
                "this node was cut at the target and no attachment speaks of it: it is disconnected, data may be lost"
            );
        }
        DisconnectKey::Orphan | DisconnectKey::Unused => {
            match agent.use_of(nqn.clone()).await {
                Use::Unused => {}
                Use::Used(by) => return memory.tell(nqn, &format!("an orphan, and in use: {by}")),
                Use::Unknown(why) => return memory.tell(nqn, &format!("an orphan, and maybe in use: {why}")),
            }
            warn!(
                nqn,
                "nothing in the cluster speaks of this session and nothing uses it: it is disconnected"
            );
        }
    }
    if let Err(why) = agent.end_session(nqn.clone(), key).await {
        warn!(nqn, why, "cannot disconnect");
    }
}

/// One look, all of it read live: the volume whose data is lost when its session was cut, and what follows.
async fn look(
    agent: &Agent,
    session: &Session,
    memory: &mut Lonely,
) -> Result<(Option<RdsVolume>, Verdict), kube::Error> {
    let base = nqn::base(&session.nqn);
    let volume = volume_of(agent, base).await?;
    let mut seen = OrphanSeen {
        session: SessionSeen {
            nqn: session.nqn.clone(),
            generation: nqn::generation(base, &session.nqn).flatten(),
            state: session.state.clone(),
            disk: session.disk,
            identity: session.identity.clone(),
            connection: session.connection.clone(),
            used: Use::Unknown("not asked".to_owned()),
        },
        volume: None,
        attachment: false,
        any_attachment: false,
        found: memory.found,
        complete_then: None,
        complete_now: None,
    };
    if let Some(volume) = &volume {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let attachment = attachment_name(name, &agent.node());
        // No attachment, so none that it could hold.
        seen.volume = Some(observe::volume(volume, "", &agent.node()));
        seen.complete_now = match agent.servers().get_opt(&volume.spec.server).await {
            Ok(server) => server
                .and_then(|s| s.status)
                .and_then(|s| s.attachments_complete_at)
                .map(|at| at.0),
            // Without that word nothing is an orphan; what was cut is cut all the same.
            Err(error) => {
                debug!(server = volume.spec.server, %error, "cannot read the server");
                None
            }
        };
        seen.complete_then = *memory.complete_then.get_or_insert(seen.complete_now);
        let any = agent.attachments().list(&ListParams::default().limit(1)).await?;
        seen.any_attachment = !any.items.is_empty();
        // Last: it is what may have changed by now.
        seen.attachment = agent.attachments().get_opt(&attachment).await?.is_some();
    }
    // A canary has no data, and its name never comes again.
    Ok((volume.filter(|v| !is_canary(v)), judge(agent.prefix(), &seen)))
}

async fn volume_of(agent: &Agent, base: &str) -> Result<Option<RdsVolume>, kube::Error> {
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
        let found = agent.volumes().get_opt(name).await?;
        if let Some(volume) = found.filter(|volume| base_of(volume, agent.prefix()) == base) {
            return Ok(Some(volume));
        }
    }
    Ok(None)
}
