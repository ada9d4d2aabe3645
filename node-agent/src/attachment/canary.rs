//! The agent's part of the self-test of fencing: what became of the session of the canary after its cut. Pure.
//!
//! Evidence is positive or none at all: a session that this boot had is not live any more, or was live for as long as it was
//! watched; the old name was refused by an answer of the target, or let this host in. Silence is no evidence (I17).

use rds_crds::attachment::{FenceEvidence, SessionAfterFence};

use super::model::{Grant, Seen, SessionSeen, VolumeSeen};

/// What to do next about a canary that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The session is still live: watch it for a while.
    Watch,
    /// Say this.
    Say(FenceEvidence),
    /// The session has been judged: its controller goes.
    End(String),
    /// Ask the target for the old name.
    Ask(Grant),
}

/// The next step; `None` where there is nothing to find out, or no more.
pub(super) fn next(seen: &Seen, sessions: &[SessionSeen], volume: &VolumeSeen) -> Option<Next> {
    let old = volume.canary.as_ref()?;
    let said = &seen.attachment.said;
    let evidence = said.report.evidence.as_ref();
    // The cut has to be over, and the session one of this very boot: a reboot ends sessions too.
    let intent = said.intent.as_ref().filter(|i| i.generation == old.generation)?;
    let ours = intent.boot_id == seen.host.boot_id;
    let cut = volume.generation > old.generation && (volume.fenced || evidence.is_some());
    if !ours || !cut || said.disconnected {
        return None;
    }
    let session = sessions.iter().find(|s| s.nqn == old.nqn);
    let end = || session.map(|s| Next::End(s.nqn.clone()));
    let Some(evidence) = evidence else {
        let live = session.is_some_and(|s| s.state == "live");
        if live && !seen.watched {
            return Some(Next::Watch);
        }
        return Some(Next::Say(FenceEvidence {
            generation: old.generation,
            boot_id: seen.host.boot_id.clone(),
            session: if live {
                SessionAfterFence::Live
            } else {
                SessionAfterFence::Dead
            },
            old_name: None,
        }));
    };
    match (evidence.session, evidence.old_name, seen.asked) {
        (SessionAfterFence::Live, _, _) | (_, Some(_), _) => end(),
        (SessionAfterFence::Dead, None, Some(answer)) => Some(Next::Say(FenceEvidence {
            old_name: Some(answer),
            ..evidence.clone()
        })),
        // The kernel would count a new connection to a name that it still has as done.
        (SessionAfterFence::Dead, None, None) => end().or_else(|| Some(Next::Ask(old.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use rds_crds::attachment::OldName;

    use super::super::model::{Admission, AttachmentSeen, Fact, Host, InFlight, Said, Sessions, Use};
    use super::*;

    const OLD: &str = "nqn.2000-02.com.mikrotik:pvc-rds-canary-1";

    fn session(state: &str) -> SessionSeen {
        SessionSeen {
            nqn: OLD.into(),
            generation: Some(1),
            state: state.into(),
            disk: true,
            identity: None,
            connection: "nvme0/7".into(),
            used: Use::Unused,
        }
    }

    fn volume() -> VolumeSeen {
        VolumeSeen {
            generation: 2,
            nqn: Some(format!("{OLD}.g2-0a1b2c3d")),
            holds: false,
            fenced: true,
            canary: Some(Grant {
                nqn: OLD.into(),
                address: "192.0.2.1".into(),
                port: 4420,
                generation: 1,
            }),
        }
    }

    fn seen() -> Seen {
        let host = Host {
            node: "n1".into(),
            boot_id: "boot".into(),
            system_uuid: "system".into(),
            machine_id: "machine".into(),
            node_uid: Some("node-uid".into()),
        };
        Seen {
            prefix: "nqn.2000-02.com.mikrotik:pvc-".into(),
            attachment: AttachmentSeen {
                node: "n1".into(),
                deleting: false,
                read_only: false,
                admission: Admission::None,
                said: Said {
                    intent: host.intent(1),
                    ..Said::default()
                },
            },
            host,
            volume: Fact::Present(volume()),
            sessions: Sessions::Known(vec![]),
            leftover: Use::Unused,
            unreported: None,
            in_flight: InFlight::None,
            failure: None,
            may_retry: true,
            watched: false,
            asked: None,
            users: None,
        }
    }

    fn said(seen: &mut Seen, next: Option<Next>) -> FenceEvidence {
        let Some(Next::Say(evidence)) = next else {
            panic!("{next:?}")
        };
        seen.attachment.said.report.evidence = Some(evidence.clone());
        evidence
    }

    #[test]
    fn i17_a_session_that_ends_and_a_name_that_is_refused_are_said_as_seen() {
        for gone in [vec![], vec![session("connecting")]] {
            let mut now = seen();
            assert_eq!(next(&now, &[session("live")], &volume()), Some(Next::Watch));
            let first = next(&now, &gone, &volume());
            assert_eq!(said(&mut now, first).session, SessionAfterFence::Dead);
            let acknowledged = VolumeSeen {
                fenced: false,
                ..volume()
            };
            if !gone.is_empty() {
                assert_eq!(next(&now, &gone, &acknowledged), Some(Next::End(OLD.into())));
            }
            assert_eq!(
                next(&now, &[], &acknowledged),
                Some(Next::Ask(volume().canary.unwrap()))
            );
            now.asked = Some(OldName::Refused);
            let second = next(&now, &[], &acknowledged);
            assert_eq!(said(&mut now, second).old_name, Some(OldName::Refused));
            assert_eq!(next(&now, &[], &acknowledged), None);
        }
    }

    #[test]
    fn i17_a_session_that_stays_live_is_said_only_after_it_was_watched_and_then_ends() {
        let mut now = seen();
        now.watched = true;
        let first = next(&now, &[session("live")], &volume());
        let evidence = said(&mut now, first);
        assert_eq!((evidence.session, evidence.old_name), (SessionAfterFence::Live, None));
        assert_eq!(next(&now, &[session("live")], &volume()), Some(Next::End(OLD.into())));
        assert_eq!(next(&now, &[], &volume()), None, "nothing more is asked");
    }

    #[test]
    fn i17_what_proves_nothing_is_not_said() {
        let silent = |change: &dyn Fn(&mut Seen, &mut VolumeSeen)| {
            let (mut now, mut volume) = (seen(), volume());
            change(&mut now, &mut volume);
            assert_eq!(next(&now, &[], &volume), None, "{now:?} {volume:?}");
        };
        silent(&|_, v| v.canary = None);
        silent(&|_, v| v.generation = 1);
        silent(&|_, v| v.fenced = false);
        silent(&|s, _| s.host.boot_id = "later".into());
        silent(&|s, _| s.attachment.said.intent = None);
        silent(&|s, _| s.attachment.said.disconnected = true);
    }
}
