//! The operator's half of the format handshake: what agents say becomes the ledger of the volume. Pure.
//!
//! Invariants: Intent comes from Blank only, or takes over an Intent whose attachment has left for good, which was never mounted
//! (I1, I2, D6); once Formatted, UsedAsBlock or Foreign, nothing leads back; only the one writer of the volume is heard.

use rds_crds::attachment::AgentFormat;
use rds_crds::volume::{FormatLedger, FormatState};

/// The volume, as far as its data goes.
#[derive(Clone, Debug)]
pub(crate) struct Volume<'a> {
    /// UID of the object, which becomes that of the filesystem.
    pub uid: &'a str,
    /// `volumeMode: Block`.
    pub block: bool,
    /// `spec.fsType`, or its default.
    pub fs_type: &'a str,
    /// The ledger as it is; absent means Unknown.
    pub ledger: Option<&'a FormatLedger>,
    /// UIDs of the attachments that are recorded as holders, none of them being cut.
    pub holders: &'a [String],
}

/// What one agent says.
#[derive(Clone, Debug)]
pub(crate) struct Speaker<'a> {
    /// UID of its RdsAttachment.
    pub attachment: &'a str,
    /// Its node.
    pub node: &'a str,
    /// It may write: not read-only, and its detach is not under way.
    pub writer: bool,
    /// Its words.
    pub said: &'a AgentFormat,
}

/// The next entry of the ledger, if it changes.
pub(crate) fn decide(volume: &Volume<'_>, speakers: &[Speaker<'_>]) -> Option<FormatLedger> {
    let state = volume.ledger.map_or(FormatState::Unknown, |l| l.state);
    speakers.iter().find_map(|speaker| {
        let holds = volume.holders.iter().any(|h| h == speaker.attachment);
        if volume.block {
            used(state, holds && speaker.said.used_as_block == Some(true))
        } else {
            made(volume, state, speaker).or_else(|| asked(volume, state, speaker, holds))
        }
    })
}

/// Recorded before the first block publish: from then on the bytes belong to the user.
fn used(state: FormatState, said: bool) -> Option<FormatLedger> {
    match state {
        FormatState::Blank | FormatState::Unknown if said => Some(entry(FormatState::UsedAsBlock)),
        FormatState::Blank
        | FormatState::Unknown
        | FormatState::Intent
        | FormatState::Formatted
        | FormatState::UsedAsBlock
        | FormatState::Foreign => None,
    }
}

/// A filesystem with the volume's UID as its UUID was made by us for this volume, and for no other.
fn made(volume: &Volume<'_>, state: FormatState, speaker: &Speaker<'_>) -> Option<FormatLedger> {
    let uuid = speaker.said.fs_uuid.as_deref()?;
    let fs_type = speaker.said.requested.as_deref().filter(|fs| fits(volume, fs))?;
    if !uuid.eq_ignore_ascii_case(volume.uid) {
        return None;
    }
    let heard = match state {
        FormatState::Intent => {
            let named = volume.ledger.and_then(|l| l.attachment_uid.as_deref());
            let same = volume.ledger.and_then(|l| l.fs_type.as_deref()) == Some(fs_type);
            named == Some(speaker.attachment) && same
        }
        // The status was lost: the filesystem itself is the proof that it was made.
        FormatState::Unknown => volume.holders.iter().any(|h| h == speaker.attachment),
        FormatState::Blank | FormatState::Formatted | FormatState::UsedAsBlock | FormatState::Foreign => false,
    };
    heard.then(|| FormatLedger {
        fs_type: Some(fs_type.to_owned()),
        fs_uuid: Some(volume.uid.to_owned()),
        ..entry(FormatState::Formatted)
    })
}

fn asked(volume: &Volume<'_>, state: FormatState, speaker: &Speaker<'_>, holds: bool) -> Option<FormatLedger> {
    let fs_type = speaker.said.requested.as_deref().filter(|fs| fits(volume, fs))?;
    if !holds || !speaker.writer || speaker.said.fs_uuid.is_some() {
        return None;
    }
    let free = match state {
        FormatState::Blank => true,
        FormatState::Intent => {
            let ledger = volume.ledger?;
            // Its attachment has left, verified: its mkfs can write no more. The type stays, as the rest of it may be there.
            let left = !volume.holders.iter().any(|h| Some(h) == ledger.attachment_uid.as_ref());
            left && ledger.fs_type.as_deref() == Some(fs_type)
        }
        FormatState::Unknown | FormatState::Formatted | FormatState::UsedAsBlock | FormatState::Foreign => false,
    };
    free.then(|| FormatLedger {
        attachment_uid: Some(speaker.attachment.to_owned()),
        node: Some(speaker.node.to_owned()),
        fs_type: Some(fs_type.to_owned()),
        ..entry(FormatState::Intent)
    })
}

fn fits(volume: &Volume<'_>, fs_type: &str) -> bool {
    volume.fs_type == fs_type
}

fn entry(state: FormatState) -> FormatLedger {
    FormatLedger {
        state,
        attachment_uid: None,
        node: None,
        fs_type: None,
        fs_uuid: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    fn intent(attachment: &str, fs: &str) -> FormatLedger {
        FormatLedger {
            attachment_uid: Some(attachment.into()),
            node: Some("n1".into()),
            fs_type: Some(fs.into()),
            ..entry(FormatState::Intent)
        }
    }

    fn said(requested: Option<&str>, uuid: Option<&str>, block: bool) -> AgentFormat {
        AgentFormat {
            requested: requested.map(Into::into),
            fs_uuid: uuid.map(Into::into),
            used_as_block: block.then_some(true),
        }
    }

    /// One speaker `a` on node n1, who holds the volume unless said otherwise.
    fn next(ledger: Option<&FormatLedger>, block: bool, holders: &[&str], writer: bool, said: &AgentFormat) -> String {
        let holders: Vec<String> = holders.iter().map(|h| (*h).to_owned()).collect();
        let volume = Volume {
            uid: UID,
            block,
            fs_type: "ext4",
            ledger,
            holders: &holders,
        };
        let speaker = Speaker {
            attachment: "a",
            node: "n1",
            writer,
            said,
        };
        match decide(&volume, &[speaker]) {
            None => "-".into(),
            Some(l) => format!("{:?} {}", l.state, l.attachment_uid.or(l.fs_uuid).unwrap_or_default()),
        }
    }

    #[test]
    fn i1_i2_table_of_requests() {
        let ask = said(Some("ext4"), None, false);
        let row = |ledger: Option<&FormatLedger>| next(ledger, false, &["a"], true, &ask);
        assert_eq!(row(Some(&entry(FormatState::Blank))), "Intent a");
        assert_eq!(row(None), "-", "Unknown is never formatted");
        for state in [
            FormatState::Unknown,
            FormatState::Formatted,
            FormatState::UsedAsBlock,
            FormatState::Foreign,
        ] {
            assert_eq!(row(Some(&entry(state))), "-", "{state:?} never leads back");
        }
        assert_eq!(row(Some(&intent("a", "ext4"))), "-", "said already");
        assert_eq!(
            row(Some(&intent("gone", "ext4"))),
            "Intent a",
            "never mounted, its maker has left"
        );
        assert_eq!(row(Some(&intent("gone", "xfs"))), "-", "another type may be half there");
        let blank = entry(FormatState::Blank);
        assert_eq!(
            next(Some(&intent("b", "ext4")), false, &["a", "b"], true, &ask),
            "-",
            "b may still write"
        );
        assert_eq!(next(Some(&blank), false, &[], true, &ask), "-", "not a holder");
        assert_eq!(
            next(Some(&blank), false, &["a"], false, &ask),
            "-",
            "read-only, or leaving"
        );
        assert_eq!(
            next(Some(&blank), true, &["a"], true, &ask),
            "-",
            "a block volume has no filesystem"
        );
        for odd in ["xfs", "vfat", ""] {
            assert_eq!(
                next(Some(&blank), false, &["a"], true, &said(Some(odd), None, false)),
                "-",
                "{odd}"
            );
        }
    }

    #[test]
    fn d6_table_of_results() {
        let done = said(Some("ext4"), Some(UID), false);
        let row = |ledger: Option<&FormatLedger>, said| next(ledger, false, &["a"], true, said);
        let formatted = format!("Formatted {UID}");
        assert_eq!(row(Some(&intent("a", "ext4")), &done), formatted);
        assert_eq!(
            next(Some(&intent("a", "ext4")), false, &[], false, &done),
            formatted,
            "the intent names it, and what was made was made"
        );
        assert_eq!(row(Some(&intent("b", "ext4")), &done), "-", "another one's intent");
        assert_eq!(
            row(Some(&entry(FormatState::Blank)), &done),
            "-",
            "nobody was allowed to"
        );
        assert_eq!(row(Some(&entry(FormatState::Foreign)), &done), "-");
        assert_eq!(row(Some(&entry(FormatState::Formatted)), &done), "-");
        assert_eq!(row(None, &done), formatted, "status lost: the filesystem proves itself");
        assert_eq!(next(None, false, &[], true, &done), "-", "by a holder only");
        let other = said(Some("ext4"), Some("00000000-0000-0000-0000-000000000001"), false);
        assert_eq!(row(Some(&intent("a", "ext4")), &other), "-", "another filesystem");
        assert_eq!(row(None, &other), "-");
        let capital = said(Some("ext4"), Some(&UID.to_uppercase()), false);
        assert_eq!(row(Some(&intent("a", "ext4")), &capital), formatted);
    }

    #[test]
    fn table_of_block_use() {
        let use_it = said(None, None, true);
        for (state, want) in [
            (FormatState::Blank, "UsedAsBlock "),
            (FormatState::Unknown, "UsedAsBlock "),
            (FormatState::UsedAsBlock, "-"),
            (FormatState::Foreign, "-"),
            (FormatState::Formatted, "-"),
            (FormatState::Intent, "-"),
        ] {
            assert_eq!(
                next(Some(&entry(state)), true, &["a"], true, &use_it),
                want,
                "{state:?}"
            );
        }
        let blank = entry(FormatState::Blank);
        assert_eq!(
            next(Some(&blank), true, &["a"], false, &use_it),
            "UsedAsBlock ",
            "readers too"
        );
        assert_eq!(next(Some(&blank), true, &[], true, &use_it), "-", "not a holder");
        assert_eq!(
            next(Some(&blank), false, &["a"], true, &use_it),
            "-",
            "not a block volume"
        );
    }
}
