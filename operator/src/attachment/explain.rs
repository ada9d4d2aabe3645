//! One plain line about who uses a volume, who waits for it, and why: what `kubectl get rdsvolumes -o wide` shows of attachments.

use super::decide::{Owed, Said, Seen};
use super::model::HolderState;

/// The line; `None` while nobody has or wants the volume.
pub(crate) fn line(seen: &Seen, owed: Option<&Owed>) -> Option<String> {
    let volume = &seen.volume;
    let mut said = Vec::new();
    for holder in &volume.holders {
        let how = match holder.state {
            HolderState::Alive => "",
            HolderState::Leaving => ", which is letting go",
            HolderState::Lost => ", which is lost",
            HolderState::Doubtful => ", which is not Ready or silent",
        };
        said.push(format!("used by node {}{how}", holder.node));
    }
    if let Some(deadline) = volume.migration_deadline {
        let over = if seen.now >= deadline { "was to end" } else { "may take" };
        said.push(format!("a migration that {over} until {deadline}"));
    }
    for attachment in seen.attachments.iter().filter(|a| !a.deleting) {
        match &attachment.said {
            Said::Refused(why, text) => said.push(format!("node {} waits ({why}): {text}", attachment.ask.node)),
            Said::Nothing => said.push(format!("node {} waits", attachment.ask.node)),
            Said::Admitted(_) | Said::Withdrawn | Said::NodeOff => {}
        }
    }
    if volume.holders_unknown {
        said.push("the record of who uses it may have holes".to_owned());
    }
    if let Some(owed) = owed {
        said.push(match owed.node.as_str() {
            "" => format!("a cut is owed: {}", owed.why),
            node => format!("a cut of node {node} is owed: {}", owed.why),
        });
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use rds_crds::volume::{AccessMode, Role};

    use super::super::decide::{AttachmentView, FencePermission};
    use super::super::model::{Ask, HolderView, Refusal, VolumeView, Word};
    use super::*;

    fn seen(state: Option<HolderState>, said: Said) -> Seen {
        let holder = |state| HolderView {
            node: "n1".into(),
            attachment: "u1".into(),
            role: Role::Primary,
            state,
            word: Word::Intent,
            unpublished: false,
            deferred: false,
        };
        let ask = Ask {
            node: "n2".into(),
            attachment: "u2".into(),
            mode: AccessMode::ReadWriteOnce,
            read_only: false,
            same_vm: None,
        };
        Seen {
            volume: VolumeView {
                name: "pvc-1".into(),
                ready: true,
                deleting: false,
                block: true,
                access_modes: vec![AccessMode::ReadWriteOnce],
                generation: 1,
                holders: state.map(holder).into_iter().collect(),
                holders_unknown: false,
                fence: None,
                fenced: vec![],
                migration_timeout: Duration::from_secs(300),
                migration_deadline: None,
                migration_started: None,
                kubevirt_only: false,
            },
            attachments: vec![AttachmentView {
                ask,
                deleting: false,
                said,
                confirms_connection: false,
                unrecorded: false,
            }],
            fence_permission: FencePermission::Granted,
            cut_now: None,
            node_off_claim: None,
            canary: None,
            acknowledged: vec![],
            just_opened: false,
            did: None,
            appliance_failed: false,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn whoever_waits_is_named_with_the_reason_whatever_it_is() {
        for refusal in Refusal::ALL {
            let told = Said::Refused(refusal.word().into(), "because of the test".into());
            let text = line(&seen(None, told), None).unwrap();
            assert_eq!(text, format!("node n2 waits ({}): because of the test", refusal.word()));
        }
        assert_eq!(line(&seen(None, Said::Nothing), None).unwrap(), "node n2 waits");
        for admitted in [Said::Admitted(1), Said::Withdrawn, Said::NodeOff] {
            assert_eq!(line(&seen(None, admitted.clone()), None), None, "{admitted:?}");
        }
    }

    #[test]
    fn whoever_has_it_is_named_with_its_state_and_what_is_owed() {
        for (state, want) in [
            (HolderState::Alive, "used by node n1"),
            (HolderState::Leaving, "used by node n1, which is letting go"),
            (HolderState::Lost, "used by node n1, which is lost"),
            (HolderState::Doubtful, "used by node n1, which is not Ready or silent"),
        ] {
            assert_eq!(line(&seen(Some(state), Said::Withdrawn), None).unwrap(), want);
        }
        let mut seen = seen(None, Said::Withdrawn);
        seen.volume.holders_unknown = true;
        let owed = |node: &str| Owed::new(node, "of the test");
        let holes = "the record of who uses it may have holes; ";
        let of_one = line(&seen, Some(&owed("n1"))).unwrap();
        assert_eq!(of_one, format!("{holes}a cut of node n1 is owed: of the test"));
        let of_all = line(&seen, Some(&owed(""))).unwrap();
        assert_eq!(of_all, format!("{holes}a cut is owed: of the test"));
        seen.volume.migration_deadline = Some(Timestamp::UNIX_EPOCH);
        assert!(
            line(&seen, None)
                .unwrap()
                .starts_with("a migration that was to end until")
        );
    }
}
