//! Global commands: `:put`, `:if`, `:foreach`, `:onerror`, `:serialize` and their like.

use crate::ast::{Arg, ArgValue, Command};
use crate::error::{Fail, Run};
use crate::interp::{Args, Interp, MAX_STEPS};
use crate::ops;
use crate::parser::{self, Dialect};
use crate::value::{Value, infer, parse_time};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

impl Interp<'_> {
    pub(crate) fn global(&mut self, name: &str, c: &Command) -> Run<Value> {
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
