//! Whether the disk behind a connection is still the one that the connection began with. Pure.
//!
//! An appliance may give a disk another identity at each export, so that no change across connections is refused: the operator tells
//! of it, and a filesystem is known by its own UUID. Within one connection a change means that the kernel let another disk in under
//! the name of ours: that one is not used (I5). What was recorded stays for as long as the connection does, whatever it shows.

use rds_crds::attachment::{Intent, Namespace};

/// What the kernel shows now.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Boot ID of the kernel.
    pub boot_id: &'a str,
    /// The connections to that NQN, each by a name that no other connection of this boot has.
    pub connections: &'a [&'a str],
    /// What the kernel calls the namespace; `None` while it shows none.
    pub identity: Option<&'a str>,
}

/// What is to be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to compare.
    NotShown,
    /// This is what to record, if it is not recorded: the first look at a connection, or the same as before.
    Fits(Namespace),
    /// Within one connection it was this one before.
    Changed(String),
}

/// Compares what is shown with what was recorded. What this boot has not meant to connect is not judged.
#[must_use]
pub fn judge(intent: Option<&Intent>, recorded: Option<&Namespace>, shown: &Shown<'_>) -> Verdict {
    let intent = intent.filter(|intent| intent.boot_id == shown.boot_id);
    let (Some(intent), Some(identity), Some(first)) = (intent, shown.identity, shown.connections.first()) else {
        return Verdict::NotShown;
    };
    let same = |r: &&Namespace| r.boot_id == shown.boot_id && shown.connections.contains(&r.connection.as_str());
    let before = recorded.filter(same);
    if let Some(before) = before.filter(|r| r.identity != identity) {
        return Verdict::Changed(before.identity.clone());
    }
    Verdict::Fits(Namespace {
        generation: intent.generation,
        identity: identity.to_owned(),
        boot_id: shown.boot_id.to_owned(),
        connection: before.map_or(*first, |r| r.connection.as_str()).to_owned(),
    })
}

/// For people.
#[must_use]
pub fn refusal(nqn: &str, was: &str, now: &str) -> String {
    format!(
        "the disk behind {nqn} has become another one while it was connected: it was {was} and is {now}. It is not mounted and not \
         given to pods; nothing is unmounted or disconnected by that. Look at the disk and its export on the appliance, then delete the \
         pods that use the volume on this node: it is detached and connected anew"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "uuid.6c1dc5a0-0000-4000-8000-00000000000a";
    const B: &str = "uuid.6c1dc5a0-0000-4000-8000-00000000000b";
    /// As the kernel makes it up of serial and model.
    const NONE: &str = "nvme.0000-31-32-00000001";

    fn recorded(identity: &str, boot: &str, connection: &str) -> Namespace {
        Namespace {
            generation: 1,
            identity: identity.into(),
            boot_id: boot.into(),
            connection: connection.into(),
        }
    }

    fn intent(generation: u32) -> Intent {
        Intent {
            boot_id: "boot".into(),
            system_uuid: "s".into(),
            machine_id: "m".into(),
            node_uid: "u".into(),
            generation,
        }
    }

    #[test]
    fn i5_only_a_change_within_one_live_connection_is_refused() {
        let a = recorded(A, "boot", "nvme0/7");
        let changed = || Verdict::Changed(A.into());
        let fits = |identity: &str, connection: &str| Verdict::Fits(recorded(identity, "boot", connection));
        let see = |before: Option<&Namespace>, connections: &[&str], identity| {
            let shown = Shown {
                boot_id: "boot",
                connections,
                identity,
            };
            judge(Some(&intent(1)), before, &shown)
        };
        let one: &[&str] = &["nvme0/7"];
        assert_eq!(see(None, one, Some(A)), fits(A, "nvme0/7"));
        assert_eq!(see(None, one, Some(NONE)), fits(NONE, "nvme0/7"), "it gives none");
        for (what, connections, identity, verdict) in [
            ("the same", one, Some(A), fits(A, "nvme0/7")),
            ("another", one, Some(B), changed()),
            ("none any more", one, Some(NONE), changed()),
            ("no disk now", one, None, Verdict::NotShown),
            ("no connection", &[], Some(A), Verdict::NotShown),
            ("a new connection", &["nvme0/8"], Some(B), fits(B, "nvme0/8")),
            ("a new connection", &["nvme1/9"], Some(A), fits(A, "nvme1/9")),
            // One more beside ours does not make it a new one, whichever is listed first.
            ("a second path", &["nvme0/6", "nvme0/7"], Some(B), changed()),
            ("a second path", &["nvme0/6", "nvme0/7"], Some(A), fits(A, "nvme0/7")),
        ] {
            assert_eq!(see(Some(&a), connections, identity), verdict, "{what}");
        }
    }

    #[test]
    fn a_number_of_another_boot_is_no_connection_of_this_one() {
        let before = recorded(A, "before", "nvme0/7");
        let shown = Shown {
            boot_id: "boot",
            connections: &["nvme0/7"],
            identity: Some(B),
        };
        let Verdict::Fits(now) = judge(Some(&intent(2)), Some(&before), &shown) else {
            panic!("{:?}", judge(Some(&intent(2)), Some(&before), &shown));
        };
        assert_eq!((now.identity.as_str(), now.generation), (B, 2));
        // A toggle of the export moves the generation under a connection that lives on.
        assert!(matches!(judge(Some(&intent(3)), Some(&now), &shown), Verdict::Fits(n) if n.generation == 3));
        let earlier = Intent {
            boot_id: "before".into(),
            ..intent(2)
        };
        for not_meant in [None, Some(&earlier)] {
            assert_eq!(judge(not_meant, Some(&before), &shown), Verdict::NotShown);
        }
    }

    #[test]
    fn what_the_kernel_made_up_is_given_by_nobody() {
        let given = |identity: &str| recorded(identity, "boot", "c").given().is_some();
        assert!(given(A) && given("eui.0011") && !given(NONE));
    }
}
