//! What to do about a session of which no attachment of this node speaks: pure.
//!
//! It ends when the target has cut it (key 3), or when it is an orphan (key 2): its volume is known, nothing in the cluster has asked
//! for it, and the operator has said since it was found that its list of attachments is complete. An empty list proves nothing: all
//! RdsAttachments may just have been lost, with pods running on their disks. All else is left alone and said.

use jiff::{SignedDuration, Timestamp};

use super::decide::{DisconnectKey, cut_at_target};
use super::model::{SessionSeen, VolumeSeen};

/// Clocks of two machines may differ by this.
const SKEW: SignedDuration = SignedDuration::from_secs(10);

/// What was read, live, for one look at such a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrphanSeen {
    pub(super) session: SessionSeen,
    /// The volume with that base.
    pub(super) volume: Option<VolumeSeen>,
    /// An attachment of that volume on this node.
    pub(super) attachment: bool,
    /// Any attachment in the whole cluster.
    pub(super) any_attachment: bool,
    /// When this process first saw the session without an attachment.
    pub(super) found: Timestamp,
    /// The operator's word that its list was complete, as it was at the first look.
    pub(super) complete_then: Option<Timestamp>,
    /// The same now.
    pub(super) complete_now: Option<Timestamp>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ends by that key, once a second look agrees. An orphan also has to be proven unused.
    End(DisconnectKey),
    /// It stays, for this reason.
    Stay(&'static str),
}

pub(super) fn judge(prefix: &str, seen: &OrphanSeen) -> Verdict {
    let Some(volume) = &seen.volume else {
        return Verdict::Stay("no RdsVolume has that NQN");
    };
    if seen.attachment {
        return Verdict::Stay("an attachment of this node speaks of it again");
    }
    if cut_at_target(prefix, &seen.session, volume) {
        return Verdict::End(DisconnectKey::Fenced);
    }
    if !seen.session.nqn.starts_with(prefix) {
        return Verdict::Stay("it is not managed");
    }
    if seen.session.generation != Some(volume.generation) {
        return Verdict::Stay("it is not of the volume's generation: the volume's status may come from a backup");
    }
    if !seen.any_attachment {
        return Verdict::Stay("there is no RdsAttachment at all, which proves nothing");
    }
    let since = seen.complete_now.filter(|at| at.duration_since(seen.found) > SKEW);
    if since.is_none() || seen.complete_now == seen.complete_then {
        return Verdict::Stay("the operator has not said since that its list of attachments is complete");
    }
    Verdict::End(DisconnectKey::Orphan)
}

#[cfg(test)]
mod tests {
    use super::super::model::Use;
    use super::*;

    const PREFIX: &str = "nqn.2000-02.com.mikrotik:pvc-";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn volume(generation: u32) -> VolumeSeen {
        VolumeSeen {
            generation,
            nqn: None,
            holds: false,
            fenced: false,
            canary: None,
        }
    }

    fn orphan() -> OrphanSeen {
        OrphanSeen {
            session: SessionSeen {
                nqn: format!("{PREFIX}1"),
                generation: Some(1),
                state: "live".into(),
                disk: true,
                identity: None,
                connection: "nvme0/7".into(),
                used: Use::Unknown("not asked".into()),
            },
            volume: Some(volume(1)),
            attachment: false,
            any_attachment: true,
            found: at(0),
            complete_then: Some(at(-100)),
            complete_now: Some(at(11)),
        }
    }

    #[test]
    fn i8_an_orphan_needs_everything_at_once() {
        assert_eq!(judge(PREFIX, &orphan()), Verdict::End(DisconnectKey::Orphan));
        let stays = |what: &str, change: &dyn Fn(&mut OrphanSeen)| {
            let mut seen = orphan();
            change(&mut seen);
            assert!(matches!(judge(PREFIX, &seen), Verdict::Stay(_)), "{what}: {seen:?}");
        };
        stays("no volume", &|s| s.volume = None);
        stays("an attachment", &|s| s.attachment = true);
        stays("an empty list", &|s| s.any_attachment = false);
        stays("never complete", &|s| s.complete_now = None);
        stays("complete before it was found", &|s| s.complete_now = Some(at(-1)));
        stays("within the difference of clocks", &|s| s.complete_now = Some(at(10)));
        stays("the same word as at the first look", &|s| {
            s.complete_then = s.complete_now
        });
        stays("a newer generation", &|s| s.session.generation = Some(2));
        stays("a generation that cannot be read", &|s| s.session.generation = None);
        stays("foreign", &|s| s.session.nqn = "nqn.2026-01.org.example:root".into());
    }

    #[test]
    fn what_was_cut_goes_without_the_operators_word() {
        let mut cut = orphan();
        (cut.volume, cut.any_attachment, cut.complete_now) = (Some(volume(2)), false, None);
        assert_eq!(judge(PREFIX, &cut), Verdict::End(DisconnectKey::Fenced));
        cut.attachment = true;
        assert!(
            matches!(judge(PREFIX, &cut), Verdict::Stay(_)),
            "its own pass does that"
        );
        cut.attachment = false;
        cut.session.nqn = "nqn.2026-01.org.example:root".into();
        assert!(matches!(judge(PREFIX, &cut), Verdict::Stay(_)));
    }
}
