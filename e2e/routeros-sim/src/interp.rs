//! The interpreter: statements, variables, global commands. Commands of menus are in `menus`.
//!
//! A line runs under the lock of the appliance from end to end, except while it sits in `:delay`.

use crate::appliance::{Account, Appliance};
use crate::ast::{Arg, ArgValue, Command, Expr, Op, Piece, Stmt, Target};
use crate::error::{Fail, Run};
use crate::knobs::Knobs;
use crate::ops::{self, Cond};
use crate::parser::{self, Dialect};
use crate::schema::Menu;
use crate::state::State;
use crate::value::{Value, infer};
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// What one line did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything on standard output, with CRLF.
    pub output: String,
    /// Whether it ended in an error.
    pub failed: bool,
}

/// What a fault changes for one command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// Every `add` and growth is refused for want of space.
    pub pool_full: bool,
    /// Every `add` of a file disk makes the image and is refused then.
    pub half_add: bool,
    /// The user may not write.
    pub read_only: bool,
}

/// What outlives a line in an interactive console.
#[derive(Debug, Clone, Default)]
pub struct Console {
    /// The menu in which it stands.
    pub cwd: Vec<String>,
    /// Ids by the row numbers of the last print.
    pub printed: Vec<u32>,
    /// Columns of the terminal, if one was told.
    pub width: Option<usize>,
}

pub(crate) struct Interp<'a> {
    pub(crate) appliance: &'a Appliance,
    guard: Option<MutexGuard<'a, State>>,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) user: &'a Account,
    pub(crate) overrides: Overrides,
    pub(crate) console: &'a mut Console,
    pub(crate) out: String,
    pub(crate) scopes: Vec<HashMap<String, Value>>,
    pub(crate) steps: u32,
}

/// A line may not run longer than this many statements.
pub(crate) const MAX_STEPS: u32 = 2_000_000;

/// Parses and runs one line.
pub(crate) fn run_line(
    appliance: &Appliance,
    user: &Account,
    line: &str,
    overrides: Overrides,
    console: &mut Console,
) -> Outcome {
    let mut knobs = appliance.knobs();
    if let Some(width) = console.width
        && knobs.width == 0
    {
        Arc::make_mut(&mut knobs).width = width;
    }
    let dialect = Dialect {
        version: knobs.version,
        bad_parameter: knobs.bad_parameter_text,
        late_bad_command: knobs.late_bad_command,
    };
    let refused = |text: String| Outcome {
        output: format!("{text}\r\n"),
        failed: true,
    };
    if let Some(at) = line.trim_end_matches(['\r', '\n']).find('\n') {
        return refused(format!("syntax error (line 1 column {})", at + 1));
    }
    let program = match parser::parse(line, &console.cwd, &dialect) {
        Ok(p) => p,
        Err(e) => return refused(e.to_string()),
    };
    let guard = Some(appliance.state());
    let mut interp = Interp {
        appliance,
        guard,
        knobs,
        user,
        overrides,
        console,
        out: String::new(),
        scopes: vec![HashMap::new()],
        steps: 0,
    };
    let done = interp.statements(&program);
    if appliance.is_real() {
        // Rows are followed as they change; this is for the files that no row names any more.
        let knobs = appliance.knobs();
        appliance.project(interp.state(), &knobs);
    }
    match done {
        Ok(_) | Err(Fail::Return(_)) => Outcome {
            output: interp.out,
            failed: false,
        },
        Err(fail) => {
            interp.out.push_str(&fail.text());
            interp.out.push_str("\r\n");
            Outcome {
                output: interp.out,
                failed: true,
            }
        }
    }
}

impl<'a> Interp<'a> {
    pub(crate) fn state(&mut self) -> &mut State {
        let appliance = self.appliance;
        self.guard.get_or_insert_with(|| appliance.state())
    }

    /// Lets other commands run for a while.
    pub(crate) fn pause(&mut self, time: Duration) {
        if time.is_zero() {
            return;
        }
        self.guard = None;
        // In slices, so that a simulator that ends is not held up.
        let end = Instant::now() + time;
        while !self.appliance.is_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    pub(crate) fn statements(&mut self, list: &[Stmt]) -> Run<Value> {
        let mut last = Value::Nil;
        for stmt in list {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Fail::script("interrupted"));
            }
            last = match stmt {
                Stmt::Block(body) => self.block(body)?,
                Stmt::Command(command) => self.command(command)?,
                Stmt::Expr(e) => self.eval(e)?,
            };
        }
        Ok(last)
    }

    pub(crate) fn block(&mut self, body: &[Stmt]) -> Run<Value> {
        self.scopes.push(HashMap::new());
        let result = self.statements(body);
        self.scopes.pop();
        result
    }

    fn command(&mut self, c: &Command) -> Run<Value> {
        match &c.target {
            Target::Global(name) => self.global(name, c),
            Target::Menu(menu, verb) => self.menu(*menu, *verb, c).map_err(|fail| match fail {
                Fail::Refused(text) if self.knobs.error_location => Fail::Refused(format!(
                    "{text} ({}/{}; line 1)",
                    menu.path(),
                    format!("{verb:?}").to_lowercase()
                )),
                other => other,
            }),
            Target::Unknown(text) => Err(Fail::Script(text.clone())),
            Target::Enter(path) => {
                self.console.cwd.clone_from(path);
                Ok(Value::Nil)
            }
            Target::Call(name) => match self.variable(name) {
                Value::Code(source) => {
                    let dialect = Dialect {
                        version: self.knobs.version,
                        bad_parameter: false,
                        late_bad_command: false,
                    };
                    let body = parser::parse(&source, &[], &dialect).map_err(|e| Fail::Script(e.to_string()))?;
                    self.block(&body)
                }
                value => Ok(value),
            },
        }
    }

    pub(crate) fn variable(&mut self, name: &str) -> Value {
        if let Some(v) = self.scopes.iter().rev().find_map(|s| s.get(name)) {
            return v.clone();
        }
        self.state().globals.get(name).cloned().unwrap_or(Value::Nil)
    }

    pub(crate) fn declare(&mut self, name: &str, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), value);
        }
    }

    pub(crate) fn assign(&mut self, name: &str, value: Value) {
        if let Some(slot) = self.scopes.iter_mut().rev().find_map(|s| s.get_mut(name)) {
            *slot = value;
        } else if self.state().globals.contains_key(name) {
            self.state().globals.insert(name.to_owned(), value);
        } else {
            self.declare(name, value);
        }
    }

    /// An expression; a bareword has the type it looks like.
    pub(crate) fn eval(&mut self, e: &Expr) -> Run<Value> {
        match e {
            Expr::Bare(word) => Ok(infer(word)),
            Expr::Property(name) => Ok(Value::str(name)),
            Expr::Text(pieces) => {
                let mut out = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => out.push_str(text),
                        Piece::Splice(e) => out.push_str(&self.eval(e)?.text()),
                    }
                }
                Ok(Value::Str(out))
            }
            Expr::Var(name) => Ok(self.variable(name)),
            Expr::Command(body) => self.block(body),
            Expr::Array(members) => {
                let mut array = crate::value::Array::default();
                for (key, value) in members {
                    let value = self.eval(value)?;
                    match key {
                        Some(k) => {
                            let key = self.eval(k)?.text();
                            array.map.insert(key, value);
                        }
                        None => array.list.push(value),
                    }
                }
                Ok(Value::Array(array))
            }
            Expr::Not(inner) => ops::not(&self.eval(inner)?),
            Expr::Neg(inner) => ops::negate(&self.eval(inner)?),
            Expr::Binary(op @ (Op::And | Op::Or), a, b) => {
                let left = ops::condition(&self.eval(a)?)?;
                if left == (*op == Op::Or) {
                    return Ok(Value::Bool(left));
                }
                Ok(Value::Bool(ops::condition(&self.eval(b)?)?))
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                ops::binary(*op, &a, &b)
            }
            Expr::Nil => Ok(Value::list(Vec::new())),
        }
    }

    /// A condition, with everything that is the same for all rows computed now. A `$name` that is also a property is the
    /// property: the trap of `where slot=$slot` (facts, 6.4).
    pub(crate) fn bind(&mut self, e: &Expr, menu: Menu) -> Run<Cond> {
        Ok(match e {
            Expr::Property(name) => Cond::Property(name.clone()),
            Expr::Var(name) if !menu.is_single() && menu.has_property(name, self.knobs.version) => {
                Cond::Property(name.clone())
            }
            Expr::Not(inner) => Cond::Not(Box::new(self.bind(inner, menu)?)),
            Expr::Neg(inner) => Cond::Neg(Box::new(self.bind(inner, menu)?)),
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.bind(a, menu)?, self.bind(b, menu)?);
                match (op, b) {
                    (Op::Match, Cond::Const(pattern)) => Cond::Match(Box::new(a), ops::posix(&pattern.text())?),
                    (op, Cond::Const(b)) if matches!(a, Cond::Const(_)) && !matches!(op, Op::And | Op::Or) => {
                        let a = a.eval(&|_| Value::Nil)?;
                        Cond::Const(ops::binary(*op, &a, &b)?)
                    }
                    (op, b) => Cond::Binary(*op, Box::new(a), Box::new(b)),
                }
            }
            Expr::Bare(_) | Expr::Text(_) | Expr::Var(_) | Expr::Command(_) | Expr::Array(_) | Expr::Nil => {
                Cond::Const(self.eval(e)?)
            }
        })
    }

    pub(crate) fn arg_value(&mut self, arg: &Arg) -> Run<Value> {
        match &arg.value {
            ArgValue::Expr(e) => self.eval(e),
            ArgValue::Block(body) => self.block(body),
        }
    }

    /// The value of an argument of a menu command: barewords are text there.
    pub(crate) fn menu_value(&mut self, arg: &Arg) -> Run<Value> {
        match &arg.value {
            ArgValue::Expr(Expr::Bare(word)) => Ok(Value::str(word)),
            ArgValue::Expr(_) | ArgValue::Block(_) => self.arg_value(arg),
        }
    }
}

/// Arguments by place or name.
#[derive(Clone, Copy)]
pub(crate) struct Args<'c>(pub(crate) &'c [Arg]);

impl<'c> Args<'c> {
    /// The argument of that name, else the one without name at that place.
    pub(crate) fn get(self, position: usize, name: &str) -> Option<&'c Arg> {
        self.0
            .iter()
            .find(|a| a.name.as_deref() == Some(name))
            .or_else(|| self.0.iter().filter(|a| a.name.is_none()).nth(position))
    }

    /// Whether a switch is there.
    pub(crate) fn flag(self, name: &str) -> bool {
        self.get(usize::MAX, name).is_some()
    }

    pub(crate) fn name_at(self, position: usize) -> Run<String> {
        match self.get(position, "name").map(|a| &a.value) {
            Some(ArgValue::Expr(Expr::Bare(name) | Expr::Var(name))) => Ok(name.clone()),
            _ => Err(Fail::script("missing value(s) of argument(s) name")),
        }
    }

    pub(crate) fn second_name(self) -> Run<String> {
        match self.get(usize::MAX, "value").map(|a| &a.value) {
            Some(ArgValue::Expr(Expr::Bare(name))) => Ok(name.clone()),
            _ => Err(Fail::script("missing value(s) of argument(s) name")),
        }
    }
}
