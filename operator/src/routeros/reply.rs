//! Reads replies: JSON sections between nonce markers, and the verdict that the script itself printed.
//!
//! Exit status and silence prove nothing (RouterOS exits 0 on failure, and a cut looks like an end): only the markers do.
//! Bytes below 0x20 are dropped, CRLF, padding and wrapped JSON are tolerated.

use super::encode::ExecNonce;

/// What a reply says about the script's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The script ran to its end.
    Done,
    /// The script ran and stopped with these words. A proof: nothing after that point ran or will run.
    Stopped(String),
    /// No verdict: cut, timed out, or never understood. Holds a line that looks like an error, if there is one.
    Unknown(Option<String>),
}

/// A reply taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// The script said that everything was free that it was to make.
    pub(crate) was_free: bool,
    sections: Vec<Option<Vec<String>>>,
}

/// Kinds of section markers; a script has at most this many sections.
pub(crate) const BEGIN: [&str; 4] = ["b0", "b1", "b2", "b3"];
/// Ends of the sections.
pub(crate) const END: [&str; 4] = ["e0", "e1", "e2", "e3"];

/// Kind of the marker behind the assertions of a script that makes something.
pub(crate) const FREE: &str = "free";

impl Answer {
    /// Takes `stdout` apart. Never fails: what is not there shows as missing.
    pub(crate) fn read(stdout: &[u8], nonce: &ExecNonce) -> Self {
        let text = String::from_utf8_lossy(stdout);
        // RouterOS ends lines with CRLF; a CR alone is how a terminal repaints.
        let lines = text.split(['\n', '\r']).map(printable);
        let mut sections: Vec<Option<Vec<String>>> = vec![None; BEGIN.len()];
        let mut open: Option<(usize, Vec<String>)> = None;
        let (mut done, mut stopped, mut failure) = (false, None::<String>, None::<String>);
        let (mut in_error, mut was_free) = (false, false);
        for line in lines {
            let trimmed = line.trim();
            let (kind, rest) = marker(trimmed, nonce).unwrap_or_default();
            if let Some(i) = BEGIN.iter().position(|b| *b == kind) {
                open = Some((i, Vec::new()));
                in_error = false;
            } else if let Some(i) = END.iter().position(|e| *e == kind) {
                if let Some((started, payload)) = open.take()
                    && started == i
                {
                    sections[i] = Some(payload);
                }
            } else if kind == FREE {
                was_free = true;
            } else if kind == "ok" {
                open = None;
                done = true;
                in_error = false;
            } else if kind == "err" {
                open = None;
                in_error = true;
                stopped = Some(rest.trim().to_owned());
            } else if let Some((_, payload)) = &mut open {
                if !trimmed.is_empty() {
                    payload.push(line);
                }
            } else if in_error && !trimmed.is_empty() {
                // The appliance's words, wrapped.
                if let Some(words) = &mut stopped {
                    words.push(' ');
                    words.push_str(trimmed);
                }
            } else if failure.is_none() && is_failure(trimmed) {
                failure = Some(trimmed.to_owned());
            }
        }
        let verdict = match (done, stopped) {
            (true, None) => Verdict::Done,
            (false, Some(words)) => Verdict::Stopped(words),
            // Both cannot happen in one run; whatever this is, it is no proof.
            (true, Some(_)) => Verdict::Unknown(Some("contradictory markers".to_owned())),
            (false, None) => Verdict::Unknown(failure),
        };
        Self {
            verdict,
            was_free,
            sections,
        }
    }

    /// Reads section `i` with `parse`. The reply may have been wrapped and padded: the pieces are put together without their padding
    /// first (JSON has none), then as they came, for a space at the very end of a line of somebody else's text.
    pub(crate) fn section<T>(&self, i: usize, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        let Some(lines) = self.sections.get(i).and_then(Option::as_ref) else {
            return Err(format!("section {i} is missing or cut off"));
        };
        if let [line] = lines.as_slice() {
            return parse(line);
        }
        let trimmed_end: String = lines.iter().map(|l| l.trim_end()).collect();
        parse(&trimmed_end).or_else(|first| {
            let trimmed: String = lines.iter().map(|l| l.trim()).collect();
            let raw: String = lines.concat();
            parse(&trimmed).or_else(|_| parse(&raw)).map_err(|_| first)
        })
    }
}

/// The line without control characters and terminal sequences (`ESC [ .. letter`).
fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// `<kind>-<nonce>` at the start of a line, and what follows.
fn marker<'a>(line: &'a str, nonce: &ExecNonce) -> Option<(&'a str, &'a str)> {
    let (kind, rest) = line.split_once('-')?;
    let rest = rest.strip_prefix(nonce.to_string().as_str())?;
    (rest.is_empty() || rest.starts_with(' ')).then_some((kind, rest))
}

/// True when a line outside of all sections reads like an error of RouterOS.
pub(crate) fn is_failure(line: &str) -> bool {
    const STARTS: [&str; 28] = [
        "expected ",
        "syntax error",
        "bad command name",
        "bad parameter",
        "input does not match any value of",
        "invalid value for",
        "invalid value of",
        "failure:",
        "std failure:",
        "script error:",
        "error:",
        "no such item",
        "no such command",
        "not enough permissions",
        "can not do that",
        "could not ",
        "ambiguous ",
        "missing value",
        "unknown parameter",
        "interrupted",
        "action timed out",
        "action failed",
        "already have ",
        "compression only available",
        "too much memory requested",
        "unable to ",
        "unexpected ",
        "not allowed",
    ];
    let line = line.trim().to_ascii_lowercase();
    STARTS.iter().any(|start| line.starts_with(start))
        || (line.starts_with("value of ") && line.contains("out of range"))
}

/// True when these words are about the login's rights.
pub(crate) fn is_permission(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("not enough permissions") || words.contains("not allowed (9)")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::routeros::row::disk_rows;

    const N: &str = "7777777777777777";
    const JSON: &str = concat!(
        r#"[{".id":"*20","comment":"rds1:c0123456789ab:v0123456789abcdef0123456789abcdef:g00000001:k00c0ffee:ns/claim","#,
        r#""file-path":"/raid10/csi/pvc-0123.img","nvme-tcp-export":true,"size":1099511627776,"slot":"pvc-0123","type":"file"}]"#
    );

    fn nonce() -> ExecNonce {
        ExecNonce::fixed('7')
    }

    /// As a terminal of this width would print it, in the middle of words.
    fn wrap(line: &str, width: usize, pad: bool) -> String {
        let chars: Vec<char> = line.chars().collect();
        let pieces = chars.chunks(width).map(|c| c.iter().collect::<String>());
        pieces
            .map(|p| if pad { format!("{p}   ") } else { p })
            .collect::<Vec<_>>()
            .join("\r\n")
    }

    fn reply(payload: &str, end: &str) -> Vec<u8> {
        format!("b0-{N}\r\n{payload}\r\ne0-{N}\r\n{end}").into_bytes()
    }

    proptest! {
        #[test]
        fn wrapped_at_any_width_it_reads_the_same(width in 20usize..300, pad in any::<bool>()) {
            let answer = Answer::read(&reply(&wrap(JSON, width, pad), &format!("ok-{N}\r\n\r\n")), &nonce());
            prop_assert_eq!(&answer.verdict, &Verdict::Done);
            prop_assert_eq!(answer.section(0, disk_rows).unwrap(), disk_rows(JSON).unwrap());
        }

        /// A reply cut anywhere before its verdict proves nothing, and never reads as an empty listing.
        #[test]
        fn cut_anywhere_it_proves_nothing(cut in 0usize..1000) {
            let mut whole = reply(JSON, &format!("ok-{N}"));
            whole.truncate(cut.min(whole.len() - 1));
            let answer = Answer::read(&whole, &nonce());
            prop_assert!(matches!(answer.verdict, Verdict::Unknown(_)));
            if let Ok(rows) = answer.section(0, disk_rows) {
                prop_assert_eq!(rows.len(), 1);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let answer = Answer::read(&bytes, &nonce());
            prop_assert!(!matches!(answer.verdict, Verdict::Done));
            let _ = answer.section(0, disk_rows);
        }
    }

    #[rstest]
    #[case::crlf("\r\n")]
    #[case::lf("\n")]
    #[case::padded("     \r\n")]
    #[case::blank_lines("\r\n\r\n  \r\n")]
    #[case::controls("\u{7}\u{1b}\r\n\u{0}")]
    #[case::terminal("\u{1b}[m\r\n\u{1b}[1;31m\u{7}")]
    fn line_ends_and_control_characters_do_not_matter(#[case] eol: &str) {
        let text = ["b0-", "X", "e0-", "ok-"].map(|l| if l == "X" { JSON.to_owned() } else { format!("{l}{N}") });
        let answer = Answer::read(text.join(eol).as_bytes(), &nonce());
        assert_eq!(answer.verdict, Verdict::Done);
        assert_eq!(answer.section(0, disk_rows).unwrap().len(), 1);
    }

    #[test]
    fn a_refusal_is_proven_by_its_marker_only() {
        let stopped = |text: &str| match Answer::read(text.as_bytes(), &nonce()).verdict {
            Verdict::Stopped(words) => Some(words),
            Verdict::Done | Verdict::Unknown(_) => None,
        };
        assert_eq!(
            stopped(&format!("err-{N} failure: no\r\nspace left\r\n\r\n")).as_deref(),
            Some("failure: no space left")
        );
        assert_eq!(stopped(&format!("err-{N}\r\n")).as_deref(), Some(""));
        assert_eq!(stopped("err-8888888888888888 failure: x"), None, "another exec's nonce");
        assert_eq!(stopped(&format!("err-{N}0 failure: x")), None);
        assert_eq!(stopped(&format!("ok-{N}\r\nerr-{N} x")), None, "contradiction");
    }

    #[test]
    fn error_lines_count_outside_of_sections_only() {
        let verdict = |text: &str| Answer::read(text.as_bytes(), &nonce()).verdict;
        for line in [
            "expected end of command (line 1 column 29)",
            "Bad Command Name foo (line 1 column 1)",
            "not enough permissions (9) (/disk/add; line 1)",
            "failure: already have such entry",
            "value of size out of range (1..2)",
            "  no such item",
        ] {
            assert_eq!(verdict(line), Verdict::Unknown(Some(line.trim().to_owned())));
            assert_eq!(verdict(&format!("b0-{N}\r\n{line}\r\ne0-{N}\r\nok-{N}")), Verdict::Done);
        }
        // Another language of error: no proof of anything, and no guess.
        assert_eq!(verdict("Fehler: Befehl nicht gefunden"), Verdict::Unknown(None));
    }
}
