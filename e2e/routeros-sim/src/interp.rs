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
use crate::value::{Value, infer, parse_time};
use std::collections::{BTreeMap, HashMap};
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
    scopes: Vec<HashMap<String, Value>>,
    steps: u32,
}

/// A line may not run longer than this many statements.
const MAX_STEPS: u32 = 2_000_000;

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
    match interp.statements(&program) {
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

    fn block(&mut self, body: &[Stmt]) -> Run<Value> {
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

    fn declare(&mut self, name: &str, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), value);
        }
    }

    fn assign(&mut self, name: &str, value: Value) {
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

    fn global(&mut self, name: &str, c: &Command) -> Run<Value> {
        let args = Args(&c.args);
        match name {
            "put" => {
                let text = self.value_of(args, 0, "message")?.text();
                self.out.push_str(&text);
                self.out.push_str("\r\n");
                Ok(Value::Nil)
            }
            "local" | "global" | "set" => {
                let var = args.name_at(0)?;
                let value = match args.get(1, "value") {
                    Some(arg) => self.arg_value(arg)?,
                    None => match args.get(usize::MAX, "do") {
                        Some(_) => Value::Code(String::new()),
                        None => Value::Nil,
                    },
                };
                match name {
                    "local" => self.declare(&var, value),
                    "global" => {
                        let known = self.state().globals.contains_key(&var);
                        if args.get(1, "value").is_some() || !known {
                            self.state().globals.insert(var, value);
                        }
                    }
                    _ => self.assign(&var, value),
                }
                Ok(Value::Nil)
            }
            "if" => {
                let cond = self.value_of(args, 0, "condition")?;
                let branch = if ops::condition(&cond)? { "do" } else { "else" };
                self.code(args, branch)
            }
            "foreach" => {
                let var = args.name_at(0)?;
                let second = args.get(usize::MAX, "value").map(|_| args.second_name()).transpose()?;
                let array = self.value_of(args, usize::MAX, "in")?;
                for (key, value) in members(array) {
                    self.scopes.push(HashMap::new());
                    match &second {
                        Some(v) => {
                            self.declare(&var, key);
                            self.declare(v, value);
                        }
                        None => self.declare(&var, value),
                    }
                    let result = self.code(args, "do");
                    self.scopes.pop();
                    result?;
                }
                Ok(Value::Nil)
            }
            "for" => {
                let var = args.name_at(0)?;
                let number = |v: Value| {
                    v.number()
                        .ok_or_else(|| Fail::script("invalid value for argument from"))
                };
                let from = number(self.value_of(args, usize::MAX, "from")?)?;
                let to = number(self.value_of(args, usize::MAX, "to")?)?;
                let step = match args.get(usize::MAX, "step") {
                    Some(arg) => number(self.arg_value(arg)?)?,
                    None => 1,
                };
                let mut i = from;
                while step != 0 && (if step > 0 { i <= to } else { i >= to }) {
                    self.scopes.push(HashMap::from([(var.clone(), Value::Num(i))]));
                    let result = self.code(args, "do");
                    self.scopes.pop();
                    result?;
                    i += step;
                }
                Ok(Value::Nil)
            }
            "while" => {
                while ops::condition(&self.value_of(args, 0, "condition")?)? {
                    self.steps += 1;
                    if self.steps > MAX_STEPS {
                        return Err(Fail::script("interrupted"));
                    }
                    self.code(args, "do")?;
                }
                Ok(Value::Nil)
            }
            "do" => self.do_command(args),
            "onerror" => {
                let var = args.name_at(0)?;
                match self.code(args, "in") {
                    Err(fail @ (Fail::Refused(_) | Fail::Script(_))) => {
                        self.scopes.push(HashMap::from([(var, Value::Str(fail.text()))]));
                        let result = self.code(args, "do");
                        self.scopes.pop();
                        result.map(|_| Value::Bool(true))
                    }
                    other => other.map(|_| Value::Bool(false)),
                }
            }
            "error" => Err(Fail::Script(self.value_of(args, 0, "message")?.text())),
            "return" => Err(Fail::Return(self.value_of(args, 0, "value")?)),
            "delay" => {
                let ms = match args.get(0, "delay-time").map(|a| self.arg_value(a)).transpose()? {
                    None => 1000,
                    Some(Value::Time(ms)) => ms,
                    Some(Value::Num(s)) => s.saturating_mul(1000),
                    Some(v) => parse_time(&v.text()).ok_or_else(|| Fail::script("invalid value for delay-time"))?,
                };
                self.pause(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
                Ok(Value::Nil)
            }
            "nothing" | "log" | "quit" => Ok(Value::Nil),
            "serialize" => self.serialize(args),
            "parse" => {
                let source = self.value_of(args, 0, "script")?.text();
                let dialect = Dialect {
                    version: self.knobs.version,
                    bad_parameter: true,
                    late_bad_command: false,
                };
                Ok(match parser::parse(&source, &[], &dialect) {
                    Ok(_) => Value::Code(source),
                    Err(e) => Value::Str(e.to_string()),
                })
            }
            _ => self.convert(name, args),
        }
    }

    fn do_command(&mut self, args: Args<'_>) -> Run<Value> {
        loop {
            let body = match args.get(0, "command") {
                Some(Arg {
                    value: ArgValue::Block(body),
                    ..
                }) => body,
                _ => return Err(Fail::script("missing value(s) of argument(s) command")),
            };
            match self.block(body) {
                Err(Fail::Refused(_) | Fail::Script(_)) if args.get(usize::MAX, "on-error").is_some() => {
                    return self.code(args, "on-error");
                }
                Err(fail) => return Err(fail),
                Ok(value) => match args.get(usize::MAX, "while") {
                    Some(arg) if ops::condition(&self.arg_value(arg)?)? => {}
                    _ => return Ok(value),
                },
            }
        }
    }

    fn serialize(&mut self, args: Args<'_>) -> Run<Value> {
        let to = self.value_of(args, usize::MAX, "to")?.text();
        if to != "json" {
            return Err(Fail::Script("input does not match any value of to".into()));
        }
        let options = match args.get(usize::MAX, "options") {
            Some(arg) => self.arg_value(arg)?.text(),
            None => String::new(),
        };
        let mut plain = false;
        for option in options.split([',', ';']).filter(|o| !o.is_empty()) {
            match option {
                "json.no-string-conversion" => plain = true,
                "json.pretty" => {}
                _ => return Err(Fail::Script("input does not match any value of options".into())),
            }
        }
        let value = self.value_of(args, 0, "value")?;
        Ok(Value::Str(crate::serialize::json(&value, &self.knobs, plain)))
    }

    fn convert(&mut self, name: &str, args: Args<'_>) -> Run<Value> {
        let v = self.value_of(args, 0, "value")?;
        Ok(match name {
            "len" => Value::Num(v.len() as i64),
            "typeof" => Value::str(v.type_name()),
            "tostr" => Value::Str(v.text()),
            "tonum" => v.number().map_or(Value::Nil, Value::Num),
            "tobool" => v.truth().map_or(Value::Nil, Value::Bool),
            "toid" => match infer(&v.text()) {
                Value::Id(id) => Value::Id(id),
                _ => Value::Nil,
            },
            "totime" => parse_time(&v.text()).map_or(Value::Nil, Value::Time),
            "toarray" => match v {
                Value::Array(_) => v,
                Value::Nil => Value::list(Vec::new()),
                v => Value::list(
                    v.text()
                        .split([',', ';'])
                        .filter(|s| !s.is_empty())
                        .map(infer)
                        .collect(),
                ),
            },
            "pick" => {
                let at = |v: Value| v.number().and_then(|n| usize::try_from(n).ok());
                let begin = at(self.value_of(args, 1, "begin")?).unwrap_or(0);
                let end = match args.get(2, "end") {
                    Some(arg) => at(self.arg_value(arg)?).unwrap_or(0),
                    None => begin.saturating_add(1),
                };
                let count = end.saturating_sub(begin);
                match v {
                    Value::Array(a) => Value::list(a.list.into_iter().skip(begin).take(count).collect()),
                    v => Value::Str(v.text().chars().skip(begin).take(count).collect()),
                }
            }
            "find" => {
                let key = self.value_of(args, 1, "key")?;
                let found = match v {
                    Value::Array(a) => a.list.iter().position(|x| x.same(&key)),
                    v => v.text().find(&key.text()),
                };
                found.map_or(Value::Nil, |i| Value::Num(i as i64))
            }
            _ => {
                return Err(Fail::Script(format!(
                    "failure: :{name} is not modelled by the simulator"
                )));
            }
        })
    }

    /// Runs the code of an argument, nothing if it is not there.
    fn code(&mut self, args: Args<'_>, name: &str) -> Run<Value> {
        match args.get(usize::MAX, name) {
            Some(Arg {
                value: ArgValue::Block(body),
                ..
            }) => self.block(body),
            Some(Arg {
                value: ArgValue::Expr(e),
                ..
            }) => self.eval(e),
            None => Ok(Value::Nil),
        }
    }

    fn value_of(&mut self, args: Args<'_>, position: usize, name: &str) -> Run<Value> {
        match args.get(position, name) {
            Some(arg) => self.arg_value(arg),
            None => Ok(Value::Nil),
        }
    }

    fn arg_value(&mut self, arg: &Arg) -> Run<Value> {
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

/// The members of an array as pairs; anything else is an array of one.
fn members(v: Value) -> Vec<(Value, Value)> {
    match v {
        Value::Array(a) => {
            let keyed: BTreeMap<String, Value> = a.map;
            let list = a.list.into_iter().enumerate().map(|(i, v)| (Value::Num(i as i64), v));
            list.chain(keyed.into_iter().map(|(k, v)| (Value::Str(k), v))).collect()
        }
        Value::Nil => Vec::new(),
        v => vec![(Value::Num(0), v)],
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

    fn name_at(self, position: usize) -> Run<String> {
        match self.get(position, "name").map(|a| &a.value) {
            Some(ArgValue::Expr(Expr::Bare(name) | Expr::Var(name))) => Ok(name.clone()),
            _ => Err(Fail::script("missing value(s) of argument(s) name")),
        }
    }

    fn second_name(self) -> Run<String> {
        match self.get(usize::MAX, "value").map(|a| &a.value) {
            Some(ArgValue::Expr(Expr::Bare(name))) => Ok(name.clone()),
            _ => Err(Fail::script("missing value(s) of argument(s) name")),
        }
    }
}
