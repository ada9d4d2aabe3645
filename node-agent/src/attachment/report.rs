//! What is said of an attachment as things are: pure.

use super::decide::Look;
use super::loss::with_loss;
use super::model::{Reason, Report, SessionSeen, Use, Word};
use super::namespace::{Shown, Verdict, judge, refusal};

impl Look<'_> {
    /// What is to be said as things are; `connected` where the caller knows better than the sessions show.
    pub(super) fn report(&self, connected: Option<Word>) -> Report {
        let said = &self.seen.attachment.said;
        let touched = said.intent.is_some() || !self.sessions.is_empty();
        let session = self.sessions.first();
        let unused = self.seen.leftover == Use::Unused && self.sessions.iter().all(|s| s.used == Use::Unused);
        // An older session is key 3's; one that cannot be read may be older.
        let older = |s: &SessionSeen| {
            s.generation.is_none_or(|g| {
                self.volume
                    .is_some_and(|v| g < v.generation && v.nqn.as_ref() != Some(&s.nqn))
            })
        };
        let identity = self.identity(session);
        Report {
            connected: connected.or_else(|| self.connected(session)),
            waiting: None,
            healthy: self.healthy(session, &identity),
            cleared: self.volume.is_some_and(|v| v.fenced) && !self.sessions.iter().any(older),
            evidence: said.report.evidence.clone(),
            controller_state: session.map(|s| s.state.clone()),
            // What is in use by no pod that is known may be one that is not: that is not the same as nobody.
            used_by: match (touched, unused) {
                (false, _) => None,
                (true, true) => Some(Vec::new()),
                (true, false) => self.seen.users.clone().filter(|users| !users.is_empty()),
            },
            namespace: match identity {
                Verdict::Fits(now) => Some(now),
                Verdict::NotShown | Verdict::Changed(_) => said.report.namespace.clone(),
            },
        }
    }

    /// Whether the disk is the one that the connection began with.
    fn identity(&self, session: Option<&SessionSeen>) -> Verdict {
        let Some(session) = session else {
            return Verdict::NotShown;
        };
        let said = &self.seen.attachment.said;
        let same = self.sessions.iter().filter(|s| s.nqn == session.nqn);
        let connections: Vec<&str> = same.map(|s| s.connection.as_str()).collect();
        let shown = Shown {
            boot_id: &self.seen.host.boot_id,
            connections: &connections,
            identity: session.identity.as_deref(),
        };
        judge(said.intent.as_ref(), said.report.namespace.as_ref(), &shown)
    }

    /// What the data path has said of it stands, but for what is seen to be over; nobody can take a loss back, and none hides another.
    fn healthy(&self, session: Option<&SessionSeen>, identity: &Verdict) -> Option<Word> {
        let said = self.seen.attachment.said.report.healthy.clone();
        let before = said.as_ref().filter(|w| w.reason == Reason::PossibleDataLoss);
        match (before, self.taken_away(session)) {
            (Some(before), Some(lost)) => {
                let message = with_loss(Some(&before.message), &lost.message);
                return Some(Word { message, ..lost });
            }
            (None, Some(lost)) => return Some(lost),
            (Some(_), None) => return said,
            (None, None) => {}
        }
        match (session, identity) {
            (Some(session), Verdict::Changed(was)) => Some(Word {
                status: false,
                reason: Reason::IdentityChanged,
                message: refusal(&session.nqn, was, session.identity.as_deref().unwrap_or_default()),
            }),
            (Some(_), Verdict::NotShown) => said,
            (_, Verdict::Fits(_)) | (None, _) => said.filter(|w| w.reason != Reason::IdentityChanged),
        }
    }

    /// The disk went beneath its use, and the one that may come back is another device to the kernel. Said while it shows: later
    /// nothing tells of it but the mount. A reader has nothing to lose, and nobody could take such a word back.
    fn taken_away(&self, session: Option<&SessionSeen>) -> Option<Word> {
        if self.seen.attachment.read_only {
            return None;
        }
        let session = session.filter(|s| s.state == "live" && !s.disk && matches!(s.used, Use::Used(_)))?;
        Some(Word {
            status: false,
            reason: Reason::PossibleDataLoss,
            message: format!(
                "the disk behind {} went while it was mounted: what was not written by then is lost. Restart the pods that use it \
                 here, and check the data",
                session.nqn
            ),
        })
    }

    fn connected(&self, session: Option<&SessionSeen>) -> Option<Word> {
        let word = |status, reason, message| {
            Some(Word {
                status,
                reason,
                message,
            })
        };
        match session {
            Some(s) if s.state == "live" && !s.disk => word(
                false,
                Reason::NoDisk,
                format!(
                    "connected as {}, and there is no disk behind it: the appliance shows none, or another than before. Look at the \
                     RdsVolume and at the disk's export on the appliance",
                    s.nqn
                ),
            ),
            Some(s) if s.state == "live" => word(true, Reason::Connected, format!("connected as {}", s.nqn)),
            Some(s) => word(
                false,
                Reason::Reconnecting,
                format!("the controller of {} is {}", s.nqn, s.state),
            ),
            // What was said of a failure stays until there is something newer.
            None => {
                let before = self.seen.attachment.said.report.connected.clone()?;
                if before.status {
                    word(false, Reason::Ended, "the session is gone".to_owned())
                } else {
                    Some(before)
                }
            }
        }
    }
}
