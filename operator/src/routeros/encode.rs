//! The one encoder of RouterOS command lines.
//!
//! A [`Script`] is made of the program's own words (`&'static str`) and of values. Values go between double quotes and consist of
//! `[A-Za-z0-9._:/@-]` only; anything else is refused, not escaped: there is nothing to get wrong about `\`, `$`, `[` or `;`.
//! Nothing else in this crate puts a command line together.

use std::fmt;

use super::types::{Malformed, is_plain, random_hex};

/// Comes back in the reply's markers, so that a reply proves that this very exec ran to that point. Fresh for each exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecNonce(String);

impl ExecNonce {
    /// Sixteen random hex digits.
    pub(crate) fn random() -> Self {
        Self(random_hex(16))
    }

    /// A fixed one, to compare whole lines with.
    #[cfg(test)]
    pub(crate) fn fixed(digit: char) -> Self {
        Self(std::iter::repeat_n(digit, 16).collect())
    }
}

impl fmt::Display for ExecNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A RouterOS command line in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    line: String,
    refused: Option<Malformed>,
}

impl Script {
    /// Words of this program. A literal, so no value gets in this way.
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.line.push_str(code);
        self
    }

    /// A value between double quotes.
    pub(crate) fn text(self, value: &str) -> Self {
        self.quoted("value", "", value, is_plain)
    }

    /// A pattern for `~` that matches what begins with `value`: letters, digits, `-` and `:` only, for a dot would match anything.
    pub(crate) fn starts_with(self, value: &str) -> Self {
        self.quoted("prefix", "^", value, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | ':')
        })
    }

    /// A pattern for `~` that matches what holds `value` (and, where `value` has a dot, a little more: check the rows read).
    pub(crate) fn contains(self, value: &str) -> Self {
        self.quoted("pattern", "", value, is_plain)
    }

    /// A whole number.
    pub(crate) fn number(mut self, n: u64) -> Self {
        self.line.push_str(&n.to_string());
        self
    }

    /// Another script, as it is.
    pub(crate) fn then(mut self, other: Script) -> Self {
        self.line.push_str(&other.line);
        self.refused = self.refused.or(other.refused);
        self
    }

    /// `:put "<kind>-<nonce>"`: a marker on a line of its own.
    pub(crate) fn mark(mut self, kind: &'static str, nonce: &ExecNonce) -> Self {
        self.line.push_str(":put \"");
        self.line.push_str(kind);
        self.line.push('-');
        self.line.push_str(&nonce.0);
        self.line.push('"');
        self
    }

    /// Runs `body` (each statement ending in `; `), then `report`, and says in its last line how `body` ended: `ok-<nonce>`, or
    /// `err-<nonce>` and the appliance's words. The verdict is the last thing printed, so what came before it is complete.
    pub(crate) fn judged(nonce: &ExecNonce, body: Script, report: Script) -> Self {
        let set = |kind: &str, words: &str| format!(":set rdsEnd \"{kind}-{nonce}{words}\" ");
        let mut script = Self::default()
            .code("{ :local rdsEnd \"\"; :onerror e in={ ")
            .then(body);
        script.line.push_str(&set("ok", ""));
        script = script.code("} do={ ");
        script.line.push_str(&set("err", " $e"));
        script = script.code("}; ").then(report);
        let separator = if script.line.ends_with("; ") { "" } else { "; " };
        script.code(separator).code(":put $rdsEnd }")
    }

    fn quoted(mut self, what: &'static str, before: &'static str, value: &str, allowed: fn(char) -> bool) -> Self {
        if value.chars().all(allowed) {
            self.line.push('"');
            self.line.push_str(before);
            self.line.push_str(value);
            self.line.push('"');
        } else {
            let why = "has characters that RouterOS could misread";
            self.refused = self.refused.or_else(|| Some(Malformed::new(what, value, why)));
        }
        self
    }

    /// The line, if every value in it was acceptable. One line always: RouterOS takes no newline over exec.
    pub(crate) fn finish(self) -> Result<String, Malformed> {
        match self.refused {
            Some(refused) => Err(refused),
            None if self.line.chars().any(|c| c.is_control() || c == '#') => Err(Malformed::new(
                "command",
                &self.line,
                "has control characters or a comment sign",
            )),
            None => Ok(self.line),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small reader of RouterOS lines, written from the manual's rules and sharing nothing with the encoder: what is code, what
    /// are strings, and whether anything inside a string is interpolated or escaped.
    fn lex(line: &str) -> Option<(String, Vec<String>)> {
        let (mut code, mut strings) = (String::new(), Vec::new());
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => {
                    let mut string = String::new();
                    loop {
                        match chars.next()? {
                            '"' => break,
                            '\\' | '$' => return None,
                            c => string.push(c),
                        }
                    }
                    code.push('S');
                    strings.push(string);
                }
                '\n' | '\r' | '#' => return None,
                c => code.push(c),
            }
        }
        Some((code, strings))
    }

    fn line(value: &str) -> Result<String, Malformed> {
        Script::default()
            .code("/disk/add slot=")
            .text(value)
            .code(" file-size=")
            .number(7)
            .code("; :put ")
            .text("z")
            .finish()
    }

    proptest! {
        /// Whatever the value: refused, or exactly one string at its place, holding exactly that value.
        #[test]
        fn no_input_escapes_its_quotes(value in any::<String>()) {
            if let Ok(line) = line(&value) {
                let (code, strings) = lex(&line).expect("nothing interpolated, no second line");
                prop_assert_eq!(code, "/disk/add slot=S file-size=7; :put S");
                prop_assert_eq!(strings, vec![value, "z".to_owned()]);
            }
        }

        #[test]
        fn no_input_escapes_its_quotes_near_the_alphabet(value in r#"[a-z0-9"$\[\]\\;{}() \n#.:/@-]{0,12}"#) {
            if let Ok(line) = line(&value) {
                let (code, strings) = lex(&line).expect("nothing interpolated, no second line");
                prop_assert_eq!(code, "/disk/add slot=S file-size=7; :put S");
                prop_assert_eq!(&strings[0], &value);
            }
        }

        #[test]
        fn plain_values_are_never_refused(value in "[A-Za-z0-9._:/@-]{0,64}") {
            prop_assert!(line(&value).is_ok());
        }

        #[test]
        fn patterns_hold_no_metacharacter(value in any::<String>()) {
            if let Ok(line) = Script::default().starts_with(&value).finish() {
                prop_assert!(!line.trim_matches('"')[1..].contains(['.', '*', '+', '?', '(', '[', '|', '\\', '^', '$']));
            }
        }
    }

    #[test]
    fn hostile_values_are_refused_by_name() {
        for bad in [
            "a\"b", "a$b", "a[b", "a;b", "a\nb", "a b", "ä", "a\\b", "a#b", "a'b", "\u{0}",
        ] {
            let error = line(bad).unwrap_err().to_string();
            assert!(error.contains("misread"), "{error}");
            assert!(!error.contains('\n'));
        }
    }
}
