//! What is said of the identity of a namespace, within one connection and across two.

use super::*;

const A: &str = "uuid.6c1dc5a0-0000-4000-8000-00000000000a";
const B: &str = "uuid.6c1dc5a0-0000-4000-8000-00000000000b";

/// Connected there, with that disk or none.
fn shows(mut seen: Seen, connection: &str, identity: Option<&str>, used: Use) -> Seen {
    let mut now = session(BASE, 1, used);
    (now.connection, now.identity) = (connection.into(), identity.map(str::to_owned));
    now.disk = identity.is_some();
    seen.sessions = Sessions::Known(vec![now]);
    seen
}

fn ill(seen: &Seen) -> Option<Reason> {
    let healthy = seen.attachment.said.report.healthy.as_ref();
    healthy.filter(|w| !w.status).map(|w| w.reason)
}

fn recorded(seen: &Seen) -> (&str, &str) {
    let namespace = seen.attachment.said.report.namespace.as_ref().unwrap();
    (&namespace.identity, &namespace.connection)
}

#[test]
fn i5_a_disk_that_becomes_another_within_a_connection_is_said_and_nothing_is_torn_down() {
    let first = settled(shows(with_intent(), "nvme0/7", Some(A), Use::Unused));
    assert_eq!((recorded(&first), ill(&first)), ((A, "nvme0/7"), None));
    // The kernel drops the disk, and lets the next one in.
    let without = settled(shows(first, "nvme0/7", None, Use::Unused));
    let changed = settled(shows(without, "nvme0/7", Some(B), Use::Unused));
    assert_eq!(
        (recorded(&changed), ill(&changed)),
        ((A, "nvme0/7"), Some(Reason::IdentityChanged))
    );
    let said = changed.attachment.said.report.healthy.clone().unwrap().message;
    assert!(said.contains(A) && said.contains(B) && said.contains(BASE), "{said}");
    assert_eq!(
        decide(&changed),
        Step::Rest(Wait::Settled),
        "said once, nothing is ended"
    );
    let away = settled(shows(changed.clone(), "nvme0/7", None, Use::Unused));
    assert_eq!(ill(&away), Some(Reason::IdentityChanged), "no disk tells nothing");

    // It is over with the disk of before, or with the connection.
    let back = settled(shows(changed.clone(), "nvme0/7", Some(A), Use::Unused));
    assert_eq!((recorded(&back), ill(&back)), ((A, "nvme0/7"), None));
    let anew = settled(shows(changed, "nvme0/8", Some(B), Use::Unused));
    assert_eq!((recorded(&anew), ill(&anew)), ((B, "nvme0/8"), None));
}

#[test]
fn a_loss_is_not_covered_by_a_change_of_identity() {
    let first = settled(shows(with_intent(), "nvme0/7", Some(A), Use::Used("a mount".into())));
    let lost = settled(shows(first, "nvme0/7", None, Use::Used("a mount".into())));
    assert_eq!(ill(&lost), Some(Reason::PossibleDataLoss));
    let changed = settled(shows(lost, "nvme0/7", Some(B), Use::Unused));
    assert_eq!(
        (recorded(&changed), ill(&changed)),
        ((A, "nvme0/7"), Some(Reason::PossibleDataLoss))
    );
}

#[test]
fn i7_a_disk_that_goes_is_said_beside_an_earlier_loss() {
    let mut seen = shows(with_intent(), "nvme0/7", Some(A), Use::Used("a mount".into()));
    seen.attachment.said.report.healthy = Some(Word {
        status: false,
        reason: Reason::PossibleDataLoss,
        message: "cut in the night".into(),
    });
    let lost = settled(shows(settled(seen), "nvme0/7", None, Use::Used("a mount".into())));
    let said = lost.attachment.said.report.healthy.unwrap().message;
    assert!(said.starts_with("cut in the night; the disk behind"), "{said}");
}

#[test]
fn what_this_boot_has_not_meant_to_connect_is_not_recorded() {
    let mut seen = shows(with_intent(), "nvme0/7", Some(A), Use::Unused);
    seen.attachment.said.intent.as_mut().unwrap().boot_id = "before".into();
    seen.attachment.admission = Admission::Withdrawn;
    seen.sessions = match seen.sessions {
        Sessions::Known(mut all) => {
            all[0].used = Use::Used("a pod".into());
            Sessions::Known(all)
        }
        Sessions::Unknown(why) => Sessions::Unknown(why),
    };
    assert_eq!(report(&seen).namespace, None);
}

#[test]
fn the_record_outlives_the_connection() {
    let first = settled(shows(with_intent(), "nvme0/7", Some(A), Use::Unused));
    let mut gone = leaving(first);
    gone.sessions = Sessions::Known(vec![]);
    let Step::DeclareDisconnected(_, said) = decide(&gone) else {
        panic!("{:?}", decide(&gone));
    };
    assert_eq!(said.namespace.unwrap().identity, A);
}
