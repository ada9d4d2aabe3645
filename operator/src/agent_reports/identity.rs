//! The identity under which nodes see the disk of a volume: agents say what each connection showed, this compares. Pure.
//!
//! Whether an appliance keeps it across exports is its own affair, so that a change refuses nothing: it is told, once. A word that is
//! still said of an earlier connection is no news, however many nodes say it; what the appliance does not give is compared with
//! nothing; and a new generation of the export begins anew.

use rds_crds::attachment::Namespace;
use rds_crds::volume::SeenNamespace;

/// What an agent says of one attachment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    /// UID of the RdsAttachment.
    pub attachment: &'a str,
    /// Its node.
    pub node: &'a str,
    /// What its connection showed.
    pub namespace: &'a Namespace,
}

/// What to record, and what it means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folded<'a> {
    /// For `status.namespace`.
    pub seen: Option<SeenNamespace>,
    /// For the condition.
    pub turn: Turn<'a>,
}

/// What it means for the condition `IdentityChanged`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<'a> {
    /// What it says stands.
    None,
    /// There is nothing to say any more: a later attachment saw the same again, or the generation has moved.
    Over,
    /// A new connection shows another one.
    Changed {
        /// Where.
        node: &'a str,
        /// What was seen before.
        was: String,
        /// What is seen.
        now: &'a str,
    },
}

/// Takes in what the attachments say, in the order in which they were made.
pub(crate) fn fold<'a>(before: Option<&SeenNamespace>, words: &[Word<'a>], generation: u32) -> Folded<'a> {
    let mut seen = before.filter(|s| s.generation == generation).cloned();
    let mut turn = match (before, &seen) {
        (Some(_), None) => Turn::Over,
        (Some(_) | None, _) => Turn::None,
    };
    let given = words.iter().filter(|w| w.namespace.generation == generation);
    let given: Vec<(&Word<'a>, &'a str)> = given.filter_map(|w| Some((w, w.namespace.given()?))).collect();
    for (word, identity) in &given {
        match &mut seen {
            None => {
                seen = Some(SeenNamespace {
                    generation,
                    identity: (*identity).to_owned(),
                    attachment_uid: word.attachment.to_owned(),
                    earlier: Vec::new(),
                });
            }
            Some(seen) if seen.identity == *identity => {
                // The one who brought it may say so as often as it likes. Who confirmed it is not recorded: that would be a write for
                // each pod that moves.
                let brought = |attachment: &str| attachment == seen.attachment_uid;
                if !given.iter().any(|(w, _)| brought(w.attachment)) {
                    turn = Turn::Over;
                }
            }
            Some(seen) if seen.earlier.iter().any(|e| e == identity) => {}
            Some(seen) => {
                let was = std::mem::replace(&mut seen.identity, (*identity).to_owned());
                seen.attachment_uid = word.attachment.to_owned();
                seen.earlier.push(was.clone());
                turn = Turn::Changed {
                    node: word.node,
                    was,
                    now: identity,
                };
            }
        }
    }
    if let Some(seen) = &mut seen {
        seen.earlier
            .retain(|earlier| *earlier != seen.identity && given.iter().any(|(_, identity)| earlier == identity));
    }
    Folded { seen, turn }
}

/// For people.
pub(crate) fn message(volume: &str, node: &str, was: &str, now: &str) -> String {
    format!(
        "node {node} has connected volume {volume} anew and sees its disk as {now}; the connection before saw {was}. Either the \
         appliance gives its disks a new identity at each export or restart, or another disk is exported under this name: compare slot, \
         file and comment of the disk on the appliance with this RdsVolume. Nothing is refused: a filesystem's own UUID is still \
         compared before every mount, but a raw block device has no such check"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "uuid.a";
    const B: &str = "uuid.b";

    fn namespace(generation: u32, identity: &str) -> Namespace {
        Namespace {
            generation,
            identity: identity.into(),
            boot_id: "boot".into(),
            connection: "nvme0/7".into(),
        }
    }

    fn seen(generation: u32, identity: &str, attachment: &str, earlier: &[&str]) -> Option<SeenNamespace> {
        Some(SeenNamespace {
            generation,
            identity: identity.into(),
            attachment_uid: attachment.into(),
            earlier: earlier.iter().map(|e| (*e).to_owned()).collect(),
        })
    }

    /// Folds words of generation 2 twice: what was told once is not told again.
    fn told(before: Option<SeenNamespace>, words: &[(&str, &str)]) -> (Option<SeenNamespace>, &'static str) {
        let all: Vec<(&str, Namespace)> = words.iter().map(|(a, i)| (*a, namespace(2, i))).collect();
        let words: Vec<Word<'_>> = all
            .iter()
            .map(|(attachment, namespace)| Word {
                attachment,
                node: "n1",
                namespace,
            })
            .collect();
        let first = fold(before.as_ref(), &words, 2);
        let again = fold(first.seen.as_ref(), &words, 2);
        assert_eq!(again.seen, first.seen);
        assert!(!matches!(again.turn, Turn::Changed { .. }), "said again");
        let turn = match first.turn {
            Turn::None => "",
            Turn::Over => "over",
            Turn::Changed { .. } => "changed",
        };
        (first.seen, turn)
    }

    #[test]
    fn i5_a_change_across_connections_is_told_once() {
        for (what, before, words, after, turn) in [
            ("nobody speaks", None, &[][..], None, ""),
            ("the first", None, &[("x", A)][..], seen(2, A, "x", &[]), ""),
            ("the same", seen(2, A, "x", &[]), &[("x", A)], seen(2, A, "x", &[]), ""),
            ("nobody now", seen(2, A, "x", &[]), &[], seen(2, A, "x", &[]), ""),
            // One attachment that has connected anew, and one that came after it.
            (
                "changed",
                seen(2, A, "x", &[]),
                &[("x", B)],
                seen(2, B, "x", &[]),
                "changed",
            ),
            (
                "changed",
                seen(2, A, "x", &[]),
                &[("y", B)],
                seen(2, B, "y", &[]),
                "changed",
            ),
            // The older one still speaks of its own connection.
            (
                "two",
                seen(2, A, "x", &[]),
                &[("x", A), ("y", B)],
                seen(2, B, "y", &[A]),
                "changed",
            ),
            (
                "both at once",
                None,
                &[("x", A), ("y", B)],
                seen(2, B, "y", &[A]),
                "changed",
            ),
            (
                "and back",
                seen(2, B, "y", &[]),
                &[("z", A)],
                seen(2, A, "z", &[]),
                "changed",
            ),
            (
                "seen again",
                seen(2, B, "y", &[]),
                &[("z", B)],
                seen(2, B, "y", &[]),
                "over",
            ),
            (
                "seen beside",
                seen(2, B, "y", &[]),
                &[("y", B), ("z", B)],
                seen(2, B, "y", &[]),
                "",
            ),
            (
                "a new generation",
                seen(1, A, "x", &[]),
                &[("y", B)],
                seen(2, B, "y", &[]),
                "over",
            ),
            (
                "not given",
                seen(2, A, "x", &[]),
                &[("y", "nvme.0000")],
                seen(2, A, "x", &[]),
                "",
            ),
            ("never given", None, &[("y", "nvme.0000")], None, ""),
        ] {
            assert_eq!(told(before, words), (after, turn), "{what}");
        }
    }

    #[test]
    fn a_word_of_another_generation_is_compared_with_nothing() {
        let old = namespace(1, B);
        let word = Word {
            attachment: "x",
            node: "n1",
            namespace: &old,
        };
        let before = seen(2, A, "x", &[]);
        assert_eq!(
            fold(before.as_ref(), &[word], 2),
            Folded {
                seen: before,
                turn: Turn::None
            }
        );
    }

    #[test]
    fn the_message_names_all_and_says_what_still_holds() {
        let said = message("pvc-1", "n1", A, B);
        for words in ["pvc-1", "n1", A, B, "filesystem's own UUID", "raw block"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(said.len() < 900, "an event has room for a thousand bytes");
    }
}
