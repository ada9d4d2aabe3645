//! The parser of one console line: statements and commands. Expressions are in `parse_expr`.
//!
//! The whole line is read before anything runs, so an unknown argument or menu costs nothing (facts, rule 5 of the
//! simulator specification). Invariant: any input gives a tree or an error with a column, never a panic.

use crate::ast::{Arg, ArgValue, Command, Expr, Stmt, Target};
use crate::schema::{GLOBALS, Menu, Version};

/// What the grammar depends on.
#[derive(Debug, Clone)]
pub struct Dialect {
    /// Which properties and commands exist.
    pub version: Version,
    /// An unknown argument is called `bad parameter x` instead of `expected end of command`.
    pub bad_parameter: bool,
    /// `bad command name` shows up when the command runs, not when the line is read.
    pub late_bad_command: bool,
}

/// Why a line was refused; reads as the console prints it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

pub(crate) type Parsed<T> = Result<T, ParseError>;

const MAX_DEPTH: u32 = 48;
/// Global commands whose first argument names a variable.
const NAMERS: &[&str] = &["local", "global", "set", "foreach", "for", "onerror"];
/// Arguments of global commands that hold code.
const CODE: &[&str] = &["do", "else", "on-error", "command"];

/// Reads a line. `cwd` is the menu in which the console stands.
pub fn parse(line: &str, cwd: &[String], dialect: &Dialect) -> Parsed<Vec<Stmt>> {
    let mut p = Parser {
        src: line.as_bytes(),
        pos: 0,
        dialect,
        cwd: cwd.to_vec(),
        depth: 0,
        row: None,
    };
    p.statements(None)
}

pub(crate) struct Parser<'a> {
    pub(crate) src: &'a [u8],
    pub(crate) pos: usize,
    pub(crate) dialect: &'a Dialect,
    pub(crate) cwd: Vec<String>,
    depth: u32,
    /// Inside `where`: the menu whose properties barewords name.
    pub(crate) row: Option<Menu>,
}

impl Parser<'_> {
    pub(crate) fn peek(&self) -> Option<u8> {
        self.src.get(self.pos).copied()
    }

    pub(crate) fn at(&self, offset: usize) -> Option<u8> {
        self.src.get(self.pos + offset).copied()
    }

    pub(crate) fn eat(&mut self, text: &str) -> bool {
        let hit = self
            .src
            .get(self.pos..)
            .is_some_and(|rest| rest.starts_with(text.as_bytes()));
        if hit {
            self.pos += text.len();
        }
        hit
    }

    pub(crate) fn fail<T>(&self, what: &str, pos: usize) -> Parsed<T> {
        Err(ParseError(format!("{what} (line 1 column {})", pos + 1)))
    }

    pub(crate) fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.pos += 1;
        }
    }

    pub(crate) fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    pub(crate) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return self.fail("syntax error", self.pos);
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// Text of `len` bytes from `start`; what is not UTF-8 is replaced.
    pub(crate) fn slice(&self, start: usize, end: usize) -> String {
        String::from_utf8_lossy(self.src.get(start..end).unwrap_or_default()).into_owned()
    }

    pub(crate) fn take_while(&mut self, f: impl Fn(u8) -> bool) -> String {
        let start = self.pos;
        while self.peek().is_some_and(&f) {
            self.pos += 1;
        }
        self.slice(start, self.pos)
    }

    pub(crate) fn statements(&mut self, close: Option<u8>) -> Parsed<Vec<Stmt>> {
        let mut out = Vec::new();
        loop {
            while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n' | b';')) {
                self.pos += 1;
            }
            match self.peek() {
                None if close.is_none() => return Ok(out),
                None if close == Some(b'}') => return self.fail("expected closing brace", self.pos),
                None => return self.fail("expected closing bracket", self.pos),
                c if c == close => {
                    self.pos += 1;
                    return Ok(out);
                }
                Some(b'#') => {
                    self.take_while(|c| c != b'\n');
                }
                Some(_) => {
                    out.push(self.nested(Self::statement)?);
                    self.spaces();
                    let c = self.peek();
                    if !(c.is_none() || c == close || matches!(c, Some(b';' | b'\r' | b'\n'))) {
                        return self.fail("expected end of command", self.pos);
                    }
                }
            }
        }
    }

    fn statement(&mut self) -> Parsed<Stmt> {
        match self.peek() {
            Some(b'{') => {
                self.pos += 1;
                Ok(Stmt::Block(self.statements(Some(b'}'))?))
            }
            Some(b':') => {
                let start = self.pos;
                self.pos += 1;
                let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'-');
                self.global(start, &name)
            }
            Some(b'/') => self.menu_command(Vec::new()),
            Some(b'$') => {
                let start = self.pos;
                self.pos += 1;
                let name = self.variable_name()?;
                let mut args = Vec::new();
                while self.more_arguments() {
                    args.push(self.named_or_value(&|_| true, &[])?);
                }
                Ok(Stmt::Command(Command {
                    pos: start,
                    target: Target::Call(name),
                    args,
                    cond: None,
                }))
            }
            Some(b'[' | b'(' | b'"') => Ok(Stmt::Expr(self.argument(true)?)),
            Some(c) if c.is_ascii_alphanumeric() => {
                let start = self.pos;
                let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'-');
                if self.cwd.is_empty() && GLOBALS.iter().any(|(n, _)| *n == word) {
                    return self.global(start, &word);
                }
                self.pos = start;
                self.menu_command(self.cwd.clone())
            }
            _ => self.fail("syntax error", self.pos),
        }
    }

    pub(crate) fn more_arguments(&mut self) -> bool {
        self.spaces();
        !matches!(self.peek(), None | Some(b';' | b'\r' | b'\n' | b'}' | b']' | b')'))
    }

    fn global(&mut self, start: usize, name: &str) -> Parsed<Stmt> {
        let Some((name, accepted)) = GLOBALS.iter().find(|(n, _)| *n == name) else {
            return self.unknown_command(name, start);
        };
        let mut args: Vec<Arg> = Vec::new();
        while self.more_arguments() {
            let positional = args.iter().filter(|a| a.name.is_none()).count();
            let pos = self.pos;
            if *name == "do" && positional == 0 && self.peek() == Some(b'{') {
                let block = self.block()?;
                args.push(Arg {
                    name: None,
                    pos,
                    value: ArgValue::Block(block),
                });
                continue;
            }
            if NAMERS.contains(name) && positional == 0 {
                let _dollar = self.eat("$");
                let value = Expr::Bare(self.variable_name()?);
                args.push(Arg {
                    name: None,
                    pos,
                    value: ArgValue::Expr(value),
                });
                // `:foreach i,v in=…`: a key and a value.
                if self.eat(",") {
                    let value = Expr::Bare(self.variable_name()?);
                    args.push(Arg {
                        name: Some("value".into()),
                        pos,
                        value: ArgValue::Expr(value),
                    });
                }
                continue;
            }
            let code: &[&str] = if *name == "onerror" { &["do", "in"] } else { CODE };
            let arg = self.named_or_value(&|n| accepted.contains(&n), code)?;
            if arg.name.is_none() && positional >= accepted.len() {
                return self.fail("expected end of command", arg.pos);
            }
            args.push(arg);
        }
        Ok(Stmt::Command(Command {
            pos: start,
            target: Target::Global((*name).to_owned()),
            args,
            cond: None,
        }))
    }

    /// `name=value` when `known(name)`, else a value.
    fn named_or_value(&mut self, known: &dyn Fn(&str) -> bool, code: &[&str]) -> Parsed<Arg> {
        let pos = self.pos;
        if let Some(name) = self.argument_name() {
            if !known(&name) {
                return self.unknown_argument(&name, pos);
            }
            if code.contains(&name.as_str()) {
                self.spaces();
                if self.peek() == Some(b'{') {
                    let block = self.block()?;
                    return Ok(Arg {
                        name: Some(name),
                        pos,
                        value: ArgValue::Block(block),
                    });
                }
            }
            let value = ArgValue::Expr(self.argument(true)?);
            return Ok(Arg {
                name: Some(name),
                pos,
                value,
            });
        }
        Ok(Arg {
            name: None,
            pos,
            value: ArgValue::Expr(self.argument(true)?),
        })
    }

    fn block(&mut self) -> Parsed<Vec<Stmt>> {
        self.pos += 1;
        self.nested(|p| p.statements(Some(b'}')))
    }

    /// Consumes `name=` if it stands here.
    pub(crate) fn argument_name(&mut self) -> Option<String> {
        let start = self.pos;
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
        if !name.is_empty() && self.eat("=") {
            return Some(name);
        }
        self.pos = start;
        None
    }

    pub(crate) fn unknown_argument<T>(&self, name: &str, pos: usize) -> Parsed<T> {
        if self.dialect.bad_parameter {
            return self.fail(&format!("bad parameter {name}"), pos);
        }
        self.fail("expected end of command", pos)
    }

    pub(crate) fn unknown_command(&mut self, name: &str, start: usize) -> Parsed<Stmt> {
        let text = format!("bad command name {name} (line 1 column {})", start + 1);
        if !self.dialect.late_bad_command {
            return Err(ParseError(text));
        }
        // The rest of the command is skipped word by word.
        while self.more_arguments() {
            self.argument_name();
            if self.peek() == Some(b'{') {
                self.block()?;
            } else {
                self.argument(true)?;
            }
        }
        Ok(Stmt::Command(Command {
            pos: start,
            target: Target::Unknown(text),
            args: Vec::new(),
            cond: None,
        }))
    }

    /// Consumes the word if it stands here as a whole word.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        let start = self.pos;
        let name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'=' | b'.' | b'~' | b'!');
        if self.eat(word) && !self.peek().is_some_and(name) {
            return true;
        }
        self.pos = start;
        false
    }

    pub(crate) fn variable_name(&mut self) -> Parsed<String> {
        let start = self.pos;
        if self.peek() == Some(b'"') {
            self.pos += 1;
            let name = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
            if !name.is_empty() && self.eat("\"") {
                return Ok(name);
            }
            return self.fail("syntax error", start);
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric());
        if name.is_empty() {
            self.fail("syntax error", start)
        } else {
            Ok(name)
        }
    }
}
