//! What becomes of a live migration, told by which side leaves and whether its time was over (B26). Pure.

use jiff::Timestamp;
use rds_crds::volume::{Holder, Role};

/// Something that a migration came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A second node was admitted.
    Started { source: String, target: String },
    /// The source has left: the target is the one writer now.
    Completed {
        source: String,
        target: String,
        seconds: i64,
    },
    /// The target has left: the source stays the one writer.
    Aborted {
        source: String,
        target: String,
        seconds: i64,
    },
}

fn sides(holders: &[Holder]) -> Option<(&Holder, &Holder)> {
    let target = holders.iter().find(|h| h.role == Role::MigrationTarget)?;
    let source = holders.iter().find(|h| h.role == Role::Primary)?;
    Some((source, target))
}

/// What a change of the record of holders means.
pub(crate) fn turn(before: &[Holder], after: &[Holder], now: Timestamp) -> Option<Turn> {
    let names = |(source, target): (&Holder, &Holder)| (source.node.clone(), target.node.clone());
    match (sides(before), sides(after)) {
        (None, Some(both)) => {
            let (source, target) = names(both);
            Some(Turn::Started { source, target })
        }
        (Some(both), None) => {
            let seconds = now.as_second().saturating_sub(both.1.since.0.as_second());
            let stays = |h: &Holder| after.iter().any(|a| a.attachment_uid == h.attachment_uid);
            let ((source, target), left) = (names(both), !stays(both.0));
            Some(if left {
                Turn::Completed {
                    source,
                    target,
                    seconds,
                }
            } else {
                Turn::Aborted {
                    source,
                    target,
                    seconds,
                }
            })
        }
        (None, None) | (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn b26_the_side_that_leaves_tells_how_a_migration_ended() {
        let holder = |node: &str, role: &str| -> Holder {
            serde_json::from_value(
                json!({"node": node, "attachmentUID": node, "role": role, "since": "2026-01-01T00:00:00Z"}),
            )
            .unwrap()
        };
        let now: Timestamp = "2026-01-01T00:01:30Z".parse().unwrap();
        let (source, target) = ("a".to_owned(), "b".to_owned());
        let one = [holder("a", "Primary")];
        let both = [holder("a", "Primary"), holder("b", "MigrationTarget")];
        let moved = [holder("b", "Primary")];
        assert_eq!(turn(&[], &one, now), None);
        assert_eq!(
            turn(&one, &both, now),
            Some(Turn::Started {
                source: source.clone(),
                target: target.clone()
            })
        );
        assert_eq!(
            turn(&both, &moved, now),
            Some(Turn::Completed {
                source: source.clone(),
                target: target.clone(),
                seconds: 90
            })
        );
        assert_eq!(
            turn(&both, &one, now),
            Some(Turn::Aborted {
                source,
                target,
                seconds: 90
            })
        );
        assert_eq!(turn(&moved, &[], now), None);
    }
}
