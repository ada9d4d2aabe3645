//! Faults that a test or a person switches on while the simulator runs.

use regex::Regex;
use serde::{Deserialize, Serialize};

/// What goes wrong with one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum FaultKind {
    /// It runs, and the connection is cut before a byte of the reply.
    LostReply,
    /// No reply, the channel stays open.
    Hang {
        /// Whether the command runs.
        execute: bool,
    },
    /// It runs, the connection is cut after some bytes of the reply.
    Cut {
        /// How many bytes arrive.
        after_bytes: usize,
    },
    /// It runs, the reply ends early, and all looks well.
    Truncate {
        /// How many bytes arrive.
        bytes: usize,
    },
    /// It runs later than usual.
    Slow {
        /// Milliseconds before it runs.
        ms: u64,
    },
    /// It runs at once, the reply takes its time.
    SlowReply {
        /// Milliseconds before the reply.
        ms: u64,
    },
    /// The channel dies at once without status; the command runs later, though nobody listens.
    Late {
        /// Milliseconds until it runs.
        ms: u64,
        /// Cut the whole connection instead of the channel.
        #[serde(default)]
        connection: bool,
    },
    /// It runs and answers with this exit status, or with none.
    ExitStatus {
        /// The status; none closes the channel without one.
        code: Option<u32>,
    },
    /// The pool has no room for this command.
    PoolFull,
    /// An `add` makes the image and is refused then.
    HalfAdd,
    /// The user may not write.
    NoPermission,
    /// It does not run; this text is the reply.
    Error {
        /// A line, perhaps in another language.
        text: String,
    },
    /// It runs, the reply is empty.
    EmptyReply,
    /// It runs, control characters stand between the bytes of the reply.
    ControlCharacters,
    /// It runs, garbage stands before and after the reply.
    Garbage {
        /// What stands there.
        text: String,
    },
    /// It runs, every line of the reply ends in blanks.
    Padding {
        /// How many.
        blanks: usize,
    },
    /// It runs, the lines of the reply are broken after some columns, inside tokens too.
    Wrap {
        /// How many columns.
        width: usize,
    },
    /// It runs, and the appliance reboots before it answers.
    Reboot,
}

/// A fault and the commands that it hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// A regular expression over the command line; empty hits every command.
    #[serde(default)]
    pub matching: String,
    /// How many commands it hits before it is used up; `None` means all.
    #[serde(default = "once")]
    pub count: Option<u32>,
    /// How many matching commands pass first.
    #[serde(default)]
    pub skip: u32,
    /// What happens.
    pub kind: FaultKind,
}

fn once() -> Option<u32> {
    Some(1)
}

impl Fault {
    /// Hits the next command that matches.
    pub fn once(matching: &str, kind: FaultKind) -> Self {
        Self {
            matching: matching.to_owned(),
            count: Some(1),
            skip: 0,
            kind,
        }
    }

    /// Hits every command that matches, until it is cleared.
    pub fn always(matching: &str, kind: FaultKind) -> Self {
        Self {
            matching: matching.to_owned(),
            count: None,
            skip: 0,
            kind,
        }
    }

    /// Hits `count` commands that match, after `skip` of them passed.
    pub fn nth(matching: &str, skip: u32, count: u32, kind: FaultKind) -> Self {
        Self {
            matching: matching.to_owned(),
            count: Some(count),
            skip,
            kind,
        }
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub struct Faults(Vec<(Fault, Regex)>);

impl Faults {
    /// Adds a fault behind the others.
    ///
    /// # Errors
    /// When `matching` is no regular expression.
    pub fn add(&mut self, fault: Fault) -> Result<(), regex::Error> {
        let regex = Regex::new(&fault.matching)?;
        self.0.push((fault, regex));
        Ok(())
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those in force, with what is left of them.
    pub fn list(&self) -> Vec<Fault> {
        self.0.iter().map(|(f, _)| f.clone()).collect()
    }

    /// The first fault that hits this command; its count goes down.
    pub fn take(&mut self, command: &str) -> Option<FaultKind> {
        let mut hit = None;
        for (fault, regex) in &mut self.0 {
            if !regex.is_match(command) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if let Some(left) = &mut fault.count {
                if *left == 0 {
                    continue;
                }
                *left -= 1;
            }
            hit = Some(fault.kind.clone());
            break;
        }
        self.0.retain(|(f, _)| f.count != Some(0));
        hit
    }
}

impl FaultKind {
    /// What a reply becomes on its way.
    pub fn distort(&self, reply: &str) -> String {
        match self {
            Self::Truncate { bytes } | Self::Cut { after_bytes: bytes } => {
                let end = (0..=(*bytes).min(reply.len()))
                    .rev()
                    .find(|i| reply.is_char_boundary(*i))
                    .unwrap_or(0);
                reply.get(..end).unwrap_or_default().to_owned()
            }
            Self::EmptyReply | Self::LostReply | Self::Hang { .. } | Self::Late { .. } | Self::Reboot => String::new(),
            Self::Error { text } => format!("{text}\r\n"),
            Self::ControlCharacters => {
                let mut out = String::from("\u{1b}[m\u{7}");
                for (i, c) in reply.chars().enumerate() {
                    out.push(c);
                    if i % 17 == 3 {
                        out.push('\0');
                    }
                }
                out
            }
            Self::Garbage { text } => format!("{text}\r\n{reply}{text}\r\n"),
            Self::Padding { blanks } => reply.replace("\r\n", &format!("{}\r\n", " ".repeat(*blanks))),
            Self::Wrap { width } => wrap(reply, (*width).max(1)),
            Self::Slow { .. }
            | Self::SlowReply { .. }
            | Self::ExitStatus { .. }
            | Self::PoolFull
            | Self::HalfAdd
            | Self::NoPermission => reply.to_owned(),
        }
    }
}

fn wrap(reply: &str, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in reply.chars() {
        if c == '\r' || c == '\n' {
            column = 0;
        } else {
            if column == width {
                out.push_str("\r\n");
                column = 0;
            }
            column += 1;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_hit_what_they_match_as_often_as_told() {
        let mut faults = Faults::default();
        faults.add(Fault::nth("/disk/add", 1, 2, FaultKind::LostReply)).unwrap();
        assert_eq!(faults.take("/disk/print"), None);
        assert_eq!(faults.take("/disk/add a"), None, "the first one passes");
        assert_eq!(faults.take("/disk/add b"), Some(FaultKind::LostReply));
        assert_eq!(faults.take("/disk/add c"), Some(FaultKind::LostReply));
        assert_eq!(faults.take("/disk/add d"), None);
        assert!(faults.list().is_empty());
        assert!(faults.add(Fault::once("(", FaultKind::LostReply)).is_err());
    }

    #[test]
    fn faults_read_from_json() {
        let f: Fault = serde_json::from_str(r#"{"matching":"/disk/set","kind":{"fault":"late","ms":3000}}"#).unwrap();
        assert_eq!(
            f,
            Fault::once(
                "/disk/set",
                FaultKind::Late {
                    ms: 3000,
                    connection: false
                }
            )
        );
    }

    #[test]
    fn replies_are_distorted() {
        let reply = "abcdef\r\n";
        assert_eq!(FaultKind::Truncate { bytes: 3 }.distort(reply), "abc");
        assert_eq!(FaultKind::Wrap { width: 4 }.distort(reply), "abcd\r\nef\r\n");
        assert_eq!(FaultKind::Padding { blanks: 2 }.distort(reply), "abcdef  \r\n");
        assert!(FaultKind::ControlCharacters.distort(reply).contains('\0'));
    }
}
