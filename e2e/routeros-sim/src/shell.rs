//! The interactive console: a prompt, a line editor as small as can be, one command a line.

use crate::exec::Job;
use crate::interp::{Console, Outcome, Overrides};

/// What a key press leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Something to show.
    Echo(String),
    /// A finished line.
    Line(String),
    /// The user goes.
    End,
}

/// One interactive channel.
pub(crate) struct Shell {
    identity: String,
    /// With a terminal the client sends each key and expects it back.
    echo: bool,
    buffer: Vec<u8>,
    console: Console,
}

impl Shell {
    pub(crate) fn new(identity: String, echo: bool, width: Option<usize>) -> Self {
        Self {
            identity,
            echo,
            buffer: Vec::new(),
            console: Console {
                width,
                ..Console::default()
            },
        }
    }

    pub(crate) fn prompt(&self, user: &str) -> String {
        let path = if self.console.cwd.is_empty() {
            String::new()
        } else {
            format!("/{}", self.console.cwd.join("/"))
        };
        format!("[{user}@{}] {path}> ", self.identity)
    }

    pub(crate) fn feed(&mut self, data: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        let mut echo = String::new();
        let mut bytes = data.iter().copied().peekable();
        while let Some(c) = bytes.next() {
            match c {
                b'\r' | b'\n' => {
                    if c == b'\r' && bytes.peek() == Some(&b'\n') {
                        bytes.next();
                    }
                    if self.echo {
                        echo.push_str("\r\n");
                    }
                    if !echo.is_empty() {
                        keys.push(Key::Echo(std::mem::take(&mut echo)));
                    }
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned();
                    if matches!(line.trim(), "quit" | "/quit" | ":quit" | "exit") {
                        keys.push(Key::End);
                        return keys;
                    }
                    keys.push(Key::Line(line));
                }
                4 if self.buffer.is_empty() => {
                    keys.push(Key::End);
                    return keys;
                }
                3 => {
                    self.buffer.clear();
                    keys.push(Key::Line(String::new()));
                    echo.push_str("\r\n");
                }
                8 | 127 => {
                    let erased = self.buffer.pop().is_some() && self.echo;
                    echo.push_str(if erased { "\u{8} \u{8}" } else { "" });
                }
                // An escape sequence: arrow keys and the like do nothing here.
                27 => {
                    let control = bytes.next_if_eq(&b'[').is_some();
                    while control && bytes.next().is_some_and(|c| !(0x40..=0x7e).contains(&c)) {}
                }
                c if c >= 0x20 => {
                    self.buffer.push(c);
                    if self.echo {
                        echo.push(char::from(c));
                    }
                }
                _ => {}
            }
        }
        if !echo.is_empty() {
            keys.push(Key::Echo(echo));
        }
        keys
    }

    /// Runs a line and gives what it prints.
    pub(crate) async fn run(&mut self, job: Job) -> String {
        let line = job.line.trim().to_owned();
        if line.is_empty() {
            return String::new();
        }
        if line == ".." || line == "/" {
            if line == "/" {
                self.console.cwd.clear();
            } else {
                self.console.cwd.pop();
            }
            return String::new();
        }
        let mut console = std::mem::take(&mut self.console);
        let (server, user) = (job.server.clone(), job.user.clone());
        let done = tokio::task::spawn_blocking(move || {
            let outcome = server.appliance.run(&user, &line, &mut console, Overrides::default());
            (outcome, console)
        })
        .await;
        let outcome = match done {
            Ok((outcome, console)) => {
                self.console = console;
                outcome
            }
            Err(_) => Outcome {
                output: "interrupted\r\n".into(),
                failed: true,
            },
        };
        job.log(&outcome, None, true);
        outcome.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_edited_and_echoed() {
        let mut shell = Shell::new("R".into(), true, None);
        assert_eq!(shell.feed(b"ab\x7fc"), vec![Key::Echo("ab\u{8} \u{8}c".into())]);
        assert_eq!(
            shell.feed(b"\r"),
            vec![Key::Echo("\r\n".into()), Key::Line("ac".into())]
        );
        assert_eq!(shell.feed(b"\x1b[A"), vec![]);
        assert_eq!(shell.feed(b"\x04"), vec![Key::End]);
        assert_eq!(shell.prompt("admin"), "[admin@R] > ");
    }
}
