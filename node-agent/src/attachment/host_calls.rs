//! The calls to the host: each on a thread of its own, with a bound on how long it is waited for.
//!
//! A connect that is not waited for any more stays marked as running until its thread ends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rds_crds::RdsVolume;
use rds_crds::attachment::OldName;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::act::{Agent, LONGEST_WAIT, Memory, lock};
use super::decide::DisconnectKey;
use super::model::{Failure, Grant, Reason, SessionSeen, Sessions, Use};
use crate::fabrics::{ConnectError, Link, Options, Session, Target};
use crate::{crash, nqn};

/// How long the host may take to list its sessions.
const LIST_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to prove that nothing uses a disk: a proof waits for the look of another one, which has 10 s, and looks itself.
const PROVE_WITHIN: Duration = Duration::from_secs(15);
/// How long a pass waits for a connect or disconnect; it goes on without being waited for.
const ACT_WITHIN: Duration = Duration::from_secs(20);

/// Says which pods have the disk of an NQN published; `None` when that cannot be told.
#[derive(Clone)]
pub struct Users(pub Arc<AskUsers>);

/// From an NQN to UIDs of pods.
pub type AskUsers = dyn Fn(&str) -> Option<Vec<String>> + Send + Sync;

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Users")
    }
}

impl Agent {
    /// From now on `users` says which pods use a disk. Until then that is not known.
    pub fn ask_for_users(&self, users: Users) {
        self.users.set(users).ok();
    }

    /// The pods that have the disk of that NQN published.
    pub(super) async fn users(&self, nqn: Option<String>) -> Option<Vec<String>> {
        let (users, nqn) = (self.users.get()?.clone(), nqn?);
        blocking(LIST_WITHIN, move || (users.0)(&nqn)).await.ok().flatten()
    }

    /// The sessions of the volume and their use, and what use of the granted NQN is left without a session.
    pub(super) async fn look(&self, bases: &BTreeSet<String>, granted: Option<String>) -> (Sessions, Use) {
        let all = match self.all_sessions().await {
            Ok(all) => all,
            Err(why) => {
                let known = Sessions::Unknown(format!("the host's sessions: {why}"));
                return (known, Use::Unknown(why));
            }
        };
        let mut sessions = Vec::new();
        for session in all {
            let Some(generation) = bases.iter().find_map(|base| nqn::generation(base, &session.nqn)) else {
                continue;
            };
            let used = self.use_of(session.nqn.clone()).await;
            sessions.push(SessionSeen {
                nqn: session.nqn,
                generation,
                state: session.state,
                disk: session.disk,
                identity: session.identity,
                connection: session.connection,
                used,
            });
        }
        sessions.sort_by(|a, b| a.nqn.cmp(&b.nqn));
        let leftover = match granted {
            Some(nqn) if !sessions.iter().any(|s| s.nqn == nqn) => self.use_of(nqn).await,
            _ => Use::Unused,
        };
        (Sessions::Known(sessions), leftover)
    }

    pub(super) async fn connect(&self, name: &str, volume: &str, grant: Grant, options: Options) {
        let running = Running::of(&self.connecting, volume);
        let (fabrics, nqn) = (self.fabrics.clone(), grant.nqn.clone());
        let target = Target {
            nqn: grant.nqn,
            address: grant.address,
            port: grant.port,
            options,
        };
        // The mark goes with the thread, not with whoever waits for it.
        let done = blocking(ACT_WITHIN, move || {
            let _running = running;
            fabrics.connect(&target)
        });
        match done.await {
            Ok(Ok(link)) => {
                crash::after("connect");
                match link {
                    Link::Ready(device) => info!(attachment = name, nqn, device, "connected"),
                    Link::Pending(waits) => warn!(attachment = name, nqn, waits, "connected, and not ready"),
                }
                self.went(name, None);
            }
            Ok(Err(e)) => {
                warn!(attachment = name, nqn, error = %e, "cannot connect");
                self.went(name, Some(e.failure()));
            }
            Err(why) => {
                let message = format!("connecting {nqn}: {why}");
                let reason = Reason::Unreachable;
                warn!(attachment = name, "{message}");
                self.went(name, Some(Failure { reason, message }));
            }
        }
    }

    /// Asks the target for a name that was cut. Only an answer counts; anything else is tried again.
    pub(super) async fn ask(&self, name: &str, volume: &str, old: Grant) {
        let running = Running::of(&self.connecting, volume);
        let (fabrics, nqn) = (self.fabrics.clone(), old.nqn.clone());
        let target = Target {
            nqn: old.nqn,
            address: old.address,
            port: old.port,
            options: Options {
                ctrl_loss_tmo: 1,
                reconnect_delay: 1,
                ..Options::default()
            },
        };
        let done = blocking(ACT_WITHIN, move || {
            let _running = running;
            let answer = fabrics.connect(&target);
            if answer.is_ok() {
                fabrics.disconnect(&target.nqn, DisconnectKey::Fenced).ok();
            }
            answer.map(drop)
        });
        let failure = match done.await {
            Ok(answer @ (Ok(()) | Err(ConnectError::Refused(_)))) => {
                let answer = if answer.is_ok() {
                    OldName::Accepted
                } else {
                    OldName::Refused
                };
                info!(
                    attachment = name,
                    nqn,
                    ?answer,
                    "asked for the name of the canary that was cut"
                );
                lock(&self.memory).entry(name.to_owned()).or_default().asked = Some(answer);
                None
            }
            Ok(Err(e)) => Some(e.failure()),
            Err(message) => Some(Failure {
                reason: Reason::Unreachable,
                message,
            }),
        };
        self.went(name, failure);
    }

    pub(super) async fn disconnect(&self, name: &str, nqn: String, key: DisconnectKey) {
        let done = self.end_session(nqn.clone(), key).await;
        crash::after("disconnect");
        let failure = done.err().map(|why| Failure {
            reason: Reason::DisconnectFailed,
            message: format!("cannot disconnect {nqn}: {why}"),
        });
        match &failure {
            None => warn_if_lost(key, &nqn),
            Some(failure) => warn!(attachment = name, "{}", failure.message),
        }
        self.went(name, failure);
    }

    /// Ends the session; only ever called with one of the keys.
    pub(super) async fn end_session(&self, nqn: String, key: DisconnectKey) -> Result<(), String> {
        if !nqn.starts_with(self.prefix()) {
            return Err(format!("{nqn} does not begin with {}", self.prefix()));
        }
        let fabrics = self.fabrics.clone();
        blocking(ACT_WITHIN, move || {
            fabrics.disconnect(&nqn, key).map_err(|e| e.to_string())
        })
        .await
        .unwrap_or_else(Err)
    }

    fn went(&self, name: &str, failure: Option<Failure>) {
        let mut all = lock(&self.memory);
        let memory = all.entry(name.to_owned()).or_default();
        memory.failures = if failure.is_some() { memory.failures + 1 } else { 0 };
        let wait = Duration::from_secs(1 << memory.failures.saturating_sub(1).min(5)).min(LONGEST_WAIT);
        memory.retry_at = failure.is_some().then(|| Instant::now() + wait);
        memory.failure = failure;
    }

    /// What uses the disk of that NQN. A proof that takes too long is a doubt about this disk, and none about what is connected.
    pub(super) async fn use_of(&self, nqn: String) -> Use {
        let fabrics = self.fabrics.clone();
        let looked = blocking(PROVE_WITHIN, move || fabrics.in_use(&nqn));
        looked.await.unwrap_or_else(Use::Unknown)
    }

    /// Has the session of an attachment that is at rest take over the times that its volume asks for now.
    pub(super) async fn retime(&self, name: &str, options: Options) {
        let session = {
            let all = lock(&self.memory);
            let memory = all.get(name);
            memory.and_then(|m| m.granted.clone().filter(|nqn| m.sessions.iter().any(|s| s.nqn == *nqn)))
        };
        let Some(nqn) = session else { return };
        let fabrics = self.fabrics.clone();
        let done = blocking(LIST_WITHIN, move || {
            fabrics.retime(&nqn, &options).map_err(|e| e.to_string())
        });
        match done.await.unwrap_or_else(Err) {
            Ok(changed) if changed.is_empty() => {}
            Ok(changed) => info!(attachment = name, ?changed, "times of the connection changed"),
            Err(why) => warn!(attachment = name, why, "cannot change the times of the connection"),
        }
    }

    /// All sessions of this host.
    pub(super) async fn all_sessions(&self) -> Result<Vec<Session>, String> {
        let fabrics = self.fabrics.clone();
        blocking(LIST_WITHIN, move || fabrics.sessions().map_err(|e| e.to_string()))
            .await
            .unwrap_or_else(Err)
    }

    /// Attachments whose sessions are not those of their last pass; and the sessions of which no attachment speaks.
    pub(super) fn compare(&self, all: &[Session]) -> (Vec<String>, Vec<Session>) {
        let memory = lock(&self.memory);
        let of = |bases: &BTreeSet<String>, s: &Session| bases.iter().any(|b| nqn::generation(b, &s.nqn).is_some());
        let differs = |m: &Memory| {
            let mut now: Vec<Session> = all.iter().filter(|s| of(&m.bases, s)).cloned().collect();
            now.sort();
            now != m.sessions
        };
        let changed = memory.iter().filter(|(_, m)| differs(m)).map(|(name, _)| name.clone());
        let lonely = all.iter().filter(|s| !memory.values().any(|m| of(&m.bases, s)));
        (changed.collect(), lonely.cloned().collect())
    }
}

fn warn_if_lost(key: DisconnectKey, nqn: &str) {
    match key {
        DisconnectKey::Unused => info!(nqn, "disconnected"),
        DisconnectKey::Orphan => warn!(nqn, "disconnected: nothing in the cluster speaks of it"),
        DisconnectKey::Fenced => warn!(nqn, "disconnected: this node was cut at the target, data may be lost"),
    }
}

/// Marks a connect of a volume for as long as it lives.
struct Running {
    all: Arc<Mutex<BTreeSet<String>>>,
    volume: String,
}

impl Running {
    fn of(all: &Arc<Mutex<BTreeSet<String>>>, volume: &str) -> Self {
        lock(all).insert(volume.to_owned());
        Self {
            all: all.clone(),
            volume: volume.to_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.volume);
    }
}

/// Runs `work` on a thread of its own and waits for it for a while; it goes on all the same.
pub(super) async fn blocking<T: Send + 'static>(
    within: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match timeout(within, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(died)) => Err(format!("the call died: {died}")),
        Err(_) => Err(format!("no answer within {within:?}")),
    }
}

/// What the kernel takes where no `ctrl_loss_tmo` is given, in seconds (`NVMF_DEF_CTRL_LOSS_TMO`).
const KERNEL_CTRL_LOSS_TMO: i32 = 600;

/// Times and queues as the volume asks for them.
pub(super) fn options(volume: &RdsVolume) -> Options {
    let plain = Options::default();
    let Some(asked) = &volume.spec.connection else {
        return plain;
    };
    Options {
        // The kernel's default (K7): written as 0 it would give the disk up at the first loss.
        ctrl_loss_tmo: match asked.ctrl_loss_tmo {
            Some(0) => KERNEL_CTRL_LOSS_TMO,
            asked => asked.unwrap_or(plain.ctrl_loss_tmo),
        },
        reconnect_delay: asked.reconnect_delay.unwrap_or(plain.reconnect_delay),
        keep_alive_tmo: asked.keep_alive_tmo.unwrap_or(plain.keep_alive_tmo),
        io_queues: asked.io_queues,
    }
}

/// Without what only a decision needs, in order.
pub(super) fn plain(sessions: &[SessionSeen]) -> Vec<Session> {
    let mut all: Vec<Session> = sessions
        .iter()
        .map(|s| Session {
            nqn: s.nqn.clone(),
            state: s.state.clone(),
            disk: s.disk,
            identity: s.identity.clone(),
            connection: s.connection.clone(),
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use kube::Client;
    use kube::client::Body;

    use super::super::model::Host;
    use super::*;
    use crate::fabrics::{Fabrics, FabricsError};
    use crate::unreported_losses::UnreportedLosses;

    const NQN: &str = "nqn.2000-02.com.mikrotik:pvc-1";

    /// One session, of which nobody can tell in time whether it is used.
    #[derive(Debug)]
    struct Slow {
        asked: AtomicBool,
        held: Mutex<std::sync::mpsc::Receiver<()>>,
    }

    impl Fabrics for Slow {
        fn connect(&self, to: &Target) -> Result<Link, ConnectError> {
            Err(ConnectError::Refused(to.nqn.clone()))
        }

        fn disconnect(&self, _: &str, _: DisconnectKey) -> Result<(), FabricsError> {
            Ok(())
        }

        fn sessions(&self) -> Result<Vec<Session>, FabricsError> {
            let one = Session {
                nqn: NQN.into(),
                state: "live".into(),
                disk: true,
                identity: None,
                connection: "nvme0/7".into(),
            };
            Ok(vec![one])
        }

        fn in_use(&self, _: &str) -> Use {
            self.asked.store(true, Ordering::SeqCst);
            self.held.lock().unwrap().recv().ok();
            Use::Unused
        }
    }

    #[test]
    fn k7_zero_is_the_kernels_time_to_give_a_controller_up_and_not_at_once() {
        for (asked, given) in [
            (None, -1),
            (Some(-1), -1),
            (Some(0), KERNEL_CTRL_LOSS_TMO),
            (Some(60), 60),
        ] {
            let volume: RdsVolume = serde_json::from_value(serde_json::json!({
                "apiVersion": "rds.csi.srvlab.io/v1alpha1", "kind": "RdsVolume", "metadata": {"name": "pvc-1"},
                "spec": {"server": "s", "capacity": "1Gi", "accessModes": ["ReadWriteOnce"],
                         "connection": {"ctrlLossTmo": asked}},
            }))
            .unwrap();
            assert_eq!(options(&volume).ctrl_loss_tmo, given, "{asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_takes_long_leaves_the_sessions_known() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let service = tower::service_fn(|_: http::Request<Body>| async {
            Err::<http::Response<Body>, _>(tower::BoxError::from("nobody is asked"))
        });
        let host = Host {
            node: "n1".into(),
            boot_id: String::new(),
            system_uuid: String::new(),
            machine_id: String::new(),
            node_uid: None,
        };
        let client = Client::new(service, "rds-csi");
        let slow = Arc::new(Slow {
            asked: AtomicBool::new(false),
            held: Mutex::new(held),
        });
        let state = tempfile::tempdir().unwrap();
        let unreported = UnreportedLosses::load(state.path()).unwrap();
        let agent = Arc::new(Agent::new(client, slow.clone(), host, NQN.into(), unreported));
        let begun = Instant::now();
        let look = tokio::spawn({
            let agent = agent.clone();
            async move {
                agent
                    .look(&BTreeSet::from([NQN.to_owned()]), Some(NQN.to_owned()))
                    .await
            }
        });
        // Time does not pass by itself while a thread is at work, and the list is not what is slow.
        while !look.is_finished() {
            if slow.asked.load(Ordering::SeqCst) {
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() > LIST_WITHIN, "a slow proof has time");
        let (sessions, leftover) = look.await.unwrap();
        let Sessions::Known(all) = sessions else {
            panic!("{sessions:?}");
        };
        assert_eq!((all.len(), leftover), (1, Use::Unused));
        assert!(
            matches!(&all[0].used, Use::Unknown(why) if why.contains("15s")),
            "{all:?}"
        );
        drop(release);
    }
}
