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
    sections: Vec<Option<Vec<String>>>,
}

/// Kinds of section markers; a script has at most this many sections.
pub(crate) const BEGIN: [&str; 4] = ["b0", "b1", "b2", "b3"];
/// Ends of the sections.
pub(crate) const END: [&str; 4] = ["e0", "e1", "e2", "e3"];

impl Answer {
    /// Takes `stdout` apart. Never fails: what is not there shows as missing.
    pub(crate) fn read(stdout: &[u8], nonce: &ExecNonce) -> Self {
        let text = String::from_utf8_lossy(stdout);
        // RouterOS ends lines with CRLF; a CR alone is how a terminal repaints.
        let lines = text
            .split(['\n', '\r'])
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
        let mut sections: Vec<Option<Vec<String>>> = vec![None; BEGIN.len()];
        let mut open: Option<(usize, Vec<String>)> = None;
        let (mut done, mut stopped, mut failure) = (false, None::<String>, None::<String>);
        let mut in_error = false;
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
            } else if kind == "ok" || kind == "end" {
                open = None;
                done |= kind == "ok";
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
        Self { verdict, sections }
    }

    /// Reads section `i` with `parse`. The reply may have been wrapped and padded: the pieces are put together without their padding
    /// first (JSON has none), then as they came, for a space at the very end of a line of somebody else's text.
    pub(crate) fn section<T>(&self, i: usize, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        let Some(lines) = self.sections.get(i).and_then(Option::as_ref) else {
            return Err(format!("section {i} is missing or cut off"));
        };
        let trimmed_end: String = lines.iter().map(|l| l.trim_end()).collect();
        parse(&trimmed_end).or_else(|first| {
            let trimmed: String = lines.iter().map(|l| l.trim()).collect();
            let raw: String = lines.concat();
            parse(&trimmed).or_else(|_| parse(&raw)).map_err(|_| first)
        })
    }
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
