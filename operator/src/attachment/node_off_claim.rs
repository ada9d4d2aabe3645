//! A person's word that a node is off: annotation `node-is-off: <node>/<bootID>` on the RdsVolume. Pure.
//!
//! It releases a holder without a cut, so it is believed only where nothing speaks against it: the agent is silent, the detach is
//! wanted, and the boot ID is the one that was recorded before the connect (I4). Acted upon once.

use super::holder_state::Pulse;

/// What the word amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOffClaim {
    /// The holder with this attachment is released.
    Believed(String),
    /// It is not, and why.
    Refused(String),
    /// This leader has not watched the Lease for long enough to say.
    NotYet,
}

/// What is known of the holder on the named node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// UID of its RdsAttachment.
    pub attachment: String,
    /// The Lease of its agent.
    pub pulse: Pulse,
    /// Nobody wants the volume there any more, read live.
    pub detach_wanted: bool,
    /// Boot ID of the recorded intent; without one, what the Node shows; `None` where neither is there.
    pub boot_id: Option<String>,
}

/// The node that the annotation names.
#[must_use]
pub fn node_of(word: &str) -> &str {
    word.rsplit_once('/').map_or(word, |(node, _)| node)
}

/// Judges the annotation. `named`: the holder on [`node_of`] it, if there is one.
#[must_use]
pub fn judge(word: &str, named: Option<&Named>) -> NodeOffClaim {
    let refused = |why: String| NodeOffClaim::Refused(format!("node-is-off: {word} was not acted upon: {why}"));
    let Some((node, boot)) = word.rsplit_once('/').filter(|(n, b)| !n.is_empty() && !b.is_empty()) else {
        return refused("write it as <node>/<bootID>".to_owned());
    };
    let Some(named) = named else {
        return refused(format!("node {node} does not hold the volume"));
    };
    match named.pulse {
        Pulse::Fresh => {
            return refused(format!("the agent of node {node} renews its Lease, so the node is on"));
        }
        Pulse::Unknown => return NodeOffClaim::NotYet,
        Pulse::Stale => {}
    }
    if !named.detach_wanted {
        return refused(format!(
            "the volume is still wanted on node {node}: delete the pod that uses it there, and its VolumeAttachment if that stays; where \
             none is left, the detach is asked for within 15 minutes"
        ));
    }
    match &named.boot_id {
        Some(recorded) if recorded != boot => refused(format!(
            "the recorded boot of node {node} is {recorded}: vouch for that one, if it has ended"
        )),
        Some(_) | None => NodeOffClaim::Believed(named.attachment.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Named {
        Named {
            attachment: "uid".into(),
            pulse: Pulse::Stale,
            detach_wanted: true,
            boot_id: Some("b1".into()),
        }
    }

    #[test]
    fn i4_a_word_is_believed_only_where_nothing_speaks_against_it() {
        let believed = NodeOffClaim::Believed("uid".into());
        assert_eq!(judge("n1/b1", Some(&named())), believed);
        let unrecorded = Named {
            boot_id: None,
            ..named()
        };
        assert_eq!(judge("n1/b1", Some(&unrecorded)), believed);
        assert_eq!(
            judge(
                "n1/b1",
                Some(&Named {
                    pulse: Pulse::Unknown,
                    ..named()
                })
            ),
            NodeOffClaim::NotYet
        );
        let fresh = Named {
            pulse: Pulse::Fresh,
            ..named()
        };
        let wanted = Named {
            detach_wanted: false,
            ..named()
        };
        for (word, named, why) in [
            ("n1/b1", Some(&fresh), "renews its Lease"),
            ("n1/b1", Some(&wanted), "still wanted"),
            ("n1/b2", Some(&named()), "the recorded boot of node n1 is b1"),
            ("n1/b1", None, "does not hold"),
            ("n1", Some(&named()), "<node>/<bootID>"),
            ("n1/", Some(&named()), "<node>/<bootID>"),
            ("/b1", Some(&named()), "<node>/<bootID>"),
            ("", Some(&named()), "<node>/<bootID>"),
        ] {
            match judge(word, named) {
                NodeOffClaim::Refused(text) => assert!(text.contains(why), "{word}: {text}"),
                other @ (NodeOffClaim::Believed(_) | NodeOffClaim::NotYet) => panic!("{word}: {other:?}"),
            }
        }
        assert_eq!(node_of("n1/b1"), "n1");
    }
}
