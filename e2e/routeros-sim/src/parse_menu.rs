//! The parser of menu commands: path, verb, arguments by name and place, `where`.

use crate::ast::{Arg, ArgValue, Command, Expr, Op, Stmt, Target};
use crate::parser::{Parsed, Parser};
use crate::schema::{self, Menu, Verb};

impl Parser<'_> {
    pub(crate) fn menu_command(&mut self, mut path: Vec<String>) -> Parsed<Stmt> {
        let start = self.pos;
        loop {
            self.spaces();
            while self.peek() == Some(b'/') {
                self.pos += 1;
            }
            self.spaces();
            let word_at = self.pos;
            let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'-');
            if word.is_empty() {
                if self.more_arguments() {
                    return self.fail("syntax error", self.pos);
                }
                let target = Target::Enter(path);
                return Ok(Stmt::Command(Command {
                    pos: start,
                    target,
                    args: Vec::new(),
                    cond: None,
                }));
            }
            path.push(word);
            if schema::menu(&path).is_some() {
                continue;
            }
            let word = path.pop().unwrap_or_default();
            let found = schema::menu(&path)
                .flatten()
                .and_then(|m| m.verb(&word, self.dialect.version).map(|v| (m, v)))
                .or_else(|| {
                    (word == "print")
                        .then(|| schema::menu(&path).flatten().map(|m| (m, Verb::Print)))
                        .flatten()
                });
            let Some((menu, verb)) = found else {
                return self.unknown_command(&word, word_at);
            };
            let outer = std::mem::replace(&mut self.cwd, path);
            let outer_row = self.row.take();
            let command = self.menu_arguments(start, menu, verb);
            self.cwd = outer;
            self.row = outer_row;
            return command;
        }
    }

    fn menu_arguments(&mut self, start: usize, menu: Menu, verb: Verb) -> Parsed<Stmt> {
        let v = self.dialect.version;
        let (mut args, mut cond): (Vec<Arg>, Option<Expr>) = (Vec::new(), None);
        while self.more_arguments() {
            let pos = self.pos;
            if matches!(verb, Verb::Print | Verb::Find) {
                if self.word("where") || verb == Verb::Find {
                    cond = self.conditions(menu)?;
                    break;
                }
                self.pos = pos;
            }
            if let Some(name) = self.argument_name() {
                if menu.takes(verb, &name, v) {
                    let value = ArgValue::Expr(self.argument(false)?);
                    args.push(Arg {
                        name: Some(name),
                        pos,
                        value,
                    });
                    continue;
                }
                if menu.takes_flag(verb, &name, v) {
                    return self.fail("expected end of command", self.pos - 1);
                }
                return self.unknown_argument(&name, pos);
            }
            let value = self.argument(false)?;
            match value {
                Expr::Bare(word) if menu.takes_flag(verb, &word, v) => {
                    args.push(Arg {
                        name: Some(word),
                        pos,
                        value: ArgValue::Expr(Expr::Bare("yes".into())),
                    });
                }
                value => {
                    if args.iter().filter(|a| a.name.is_none()).count() >= menu.positional(verb) {
                        return self.fail("expected end of command", pos);
                    }
                    args.push(Arg {
                        name: None,
                        pos,
                        value: ArgValue::Expr(value),
                    });
                }
            }
        }
        Ok(Stmt::Command(Command {
            pos: start,
            target: Target::Menu(menu, verb),
            args,
            cond,
        }))
    }

    /// The condition behind `where`; several in a row are joined by `and`.
    fn conditions(&mut self, menu: Menu) -> Parsed<Option<Expr>> {
        self.row = Some(menu);
        let mut all: Option<Expr> = None;
        while self.more_arguments() {
            let one = self.expr()?;
            all = Some(match all {
                None => one,
                Some(left) => Expr::Binary(Op::And, Box::new(left), Box::new(one)),
            });
        }
        self.row = None;
        Ok(all)
    }
}
