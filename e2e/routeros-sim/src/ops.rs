//! Operators, and conditions whose constant parts were computed once, so that a scan over 10,000 rows is cheap.

use crate::ast::Op;
use crate::error::{Fail, Run};
use crate::value::{Array, Value};
use regex::Regex;
use std::collections::BTreeSet;

/// A condition over the properties of a row.
#[derive(Debug)]
pub(crate) enum Cond {
    /// The same for every row.
    Const(Value),
    /// A property of the row.
    Property(String),
    /// A regular expression on the left side.
    Match(Box<Cond>, Regex),
    /// `!`
    Not(Box<Cond>),
    /// `-`
    Neg(Box<Cond>),
    /// An operator.
    Binary(Op, Box<Cond>, Box<Cond>),
}

impl Cond {
    /// The value for a row.
    pub(crate) fn eval(&self, row: &dyn Fn(&str) -> Value) -> Run<Value> {
        match self {
            Self::Const(v) => Ok(v.clone()),
            Self::Property(name) => Ok(row(name)),
            Self::Match(left, regex) => Ok(Value::Bool(regex.is_match(&left.eval(row)?.text()))),
            Self::Not(inner) => not(&inner.eval(row)?),
            Self::Neg(inner) => negate(&inner.eval(row)?),
            Self::Binary(op @ (Op::And | Op::Or), a, b) => {
                let left = condition(&a.eval(row)?)?;
                if left == (*op == Op::Or) {
                    return Ok(Value::Bool(left));
                }
                Ok(Value::Bool(condition(&b.eval(row)?)?))
            }
            Self::Binary(op @ (Op::Eq | Op::Ne), a, b) if matches!(**a, Self::Property(_)) => {
                let same = a.eval(row)?.matches_property(&b.eval(row)?);
                Ok(Value::Bool(same == (*op == Op::Eq)))
            }
            Self::Binary(op, a, b) => binary(*op, &a.eval(row)?, &b.eval(row)?),
        }
    }

    /// Whether the row is meant.
    pub(crate) fn holds(&self, row: &dyn Fn(&str) -> Value) -> Run<bool> {
        condition(&self.eval(row)?)
    }

    /// A set of ids that surely holds every row that can match, found through `lookup`; `None` means all rows.
    pub(crate) fn candidates(&self, lookup: &dyn Fn(&str, &str) -> Option<BTreeSet<u32>>) -> Option<BTreeSet<u32>> {
        match self {
            Self::Binary(Op::Eq, a, b) => match (&**a, &**b) {
                (Self::Property(name), Self::Const(Value::Str(text))) => lookup(name, text),
                (Self::Property(name), Self::Const(Value::Id(id))) if name == ".id" => Some(BTreeSet::from([*id])),
                _ => None,
            },
            Self::Binary(Op::And, a, b) => match (a.candidates(lookup), b.candidates(lookup)) {
                (Some(x), Some(y)) => Some(if x.len() <= y.len() { x } else { y }),
                (x, y) => x.or(y),
            },
            Self::Binary(Op::Or, a, b) => {
                let mut all = a.candidates(lookup)?;
                all.extend(b.candidates(lookup)?);
                Some(all)
            }
            Self::Const(_) | Self::Property(_) | Self::Match(..) | Self::Not(_) | Self::Neg(_) | Self::Binary(..) => {
                None
            }
        }
    }
}

/// The truth of a value used as condition.
pub(crate) fn condition(v: &Value) -> Run<bool> {
    v.truth().ok_or_else(|| Fail::script("conditional not boolean"))
}

/// `!v`
pub(crate) fn not(v: &Value) -> Run<Value> {
    Ok(Value::Bool(!condition(v)?))
}

/// `-v`
pub(crate) fn negate(v: &Value) -> Run<Value> {
    v.number()
        .and_then(i64::checked_neg)
        .map(Value::Num)
        .ok_or_else(|| Fail::script("cannot negate a value that is no number"))
}

/// A POSIX extended regular expression as the regex crate writes it: no Perl classes, `\` literal in brackets.
pub(crate) fn posix(pattern: &str) -> Run<Regex> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut bracket: Option<usize> = None;
    while let Some(c) = chars.next() {
        match (c, &mut bracket) {
            ('[', None) => {
                out.push('[');
                bracket = Some(0);
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                if chars.peek() == Some(&']') {
                    out.push_str("\\]");
                    chars.next();
                }
            }
            ('[', Some(_)) if chars.peek() == Some(&':') => {
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            (']', Some(_)) => {
                out.push(']');
                bracket = None;
            }
            ('\\' | '[' | '&' | '~', Some(_)) => {
                out.push('\\');
                out.push(c);
            }
            ('\\', None) => match chars.next() {
                Some(n) if n.is_ascii_alphanumeric() => out.push(n),
                Some(n) => out.push_str(&regex::escape(&n.to_string())),
                None => return Err(Fail::script("invalid regular expression")),
            },
            ('(', None) if chars.peek() == Some(&'?') => return Err(Fail::script("invalid regular expression")),
            (c, _) => out.push(c),
        }
    }
    Regex::new(&out).map_err(|_| Fail::script("invalid regular expression"))
}

/// Applies an operator that needs both sides.
pub(crate) fn binary(op: Op, a: &Value, b: &Value) -> Run<Value> {
    let arithmetic = |f: fn(i64, i64) -> Option<i64>, what: &str| match (a.number(), b.number()) {
        (Some(x), Some(y)) => f(x, y)
            .map(Value::Num)
            .ok_or_else(|| Fail::script(format!("cannot {what}"))),
        _ => Err(Fail::script(format!(
            "cannot {what} {} and {}",
            a.type_name(),
            b.type_name()
        ))),
    };
    match op {
        Op::Or => Ok(Value::Bool(condition(a)? || condition(b)?)),
        Op::And => Ok(Value::Bool(condition(a)? && condition(b)?)),
        Op::Eq => Ok(Value::Bool(a.same(b))),
        Op::Ne => Ok(Value::Bool(!a.same(b))),
        Op::Lt => Ok(Value::Bool(order(a, b).is_lt())),
        Op::Gt => Ok(Value::Bool(order(a, b).is_gt())),
        Op::Le => Ok(Value::Bool(order(a, b).is_le())),
        Op::Ge => Ok(Value::Bool(order(a, b).is_ge())),
        Op::Match => Ok(Value::Bool(posix(&b.text())?.is_match(&a.text()))),
        Op::In => Ok(Value::Bool(match b {
            Value::Array(list) => list.list.iter().any(|v| v.same(a)),
            Value::Nil
            | Value::Bool(_)
            | Value::Num(_)
            | Value::Time(_)
            | Value::Ip(_)
            | Value::Id(_)
            | Value::Str(_)
            | Value::Code(_) => b.text().contains(&a.text()) && !a.is_empty(),
        })),
        Op::Add => arithmetic(i64::checked_add, "add"),
        Op::Sub => arithmetic(i64::checked_sub, "subtract"),
        Op::Mul => arithmetic(i64::checked_mul, "multiply"),
        Op::Div => arithmetic(i64::checked_div, "divide"),
        Op::Rem => arithmetic(i64::checked_rem, "divide"),
        Op::Concat => Ok(Value::Str(a.text() + &b.text())),
        Op::Join => {
            let mut joined = into_array(a);
            let more = into_array(b);
            joined.list.extend(more.list);
            joined.map.extend(more.map);
            Ok(Value::Array(joined))
        }
        Op::Index => Ok(index(a, b)),
    }
}

fn into_array(v: &Value) -> Array {
    match v {
        Value::Array(a) => a.clone(),
        Value::Nil => Array::default(),
        v => Array {
            list: vec![v.clone()],
            ..Array::default()
        },
    }
}

/// `a->b`; what is not there is nil.
fn index(a: &Value, b: &Value) -> Value {
    let Value::Array(array) = a else { return Value::Nil };
    match b {
        Value::Num(n) => usize::try_from(*n).ok().and_then(|i| array.list.get(i)).cloned(),
        v => array.map.get(&v.text()).cloned(),
    }
    .unwrap_or(Value::Nil)
}

fn order(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Time(x), Value::Time(y)) => x.cmp(y),
        (Value::Id(x), Value::Id(y)) => x.cmp(y),
        (Value::Str(x), Value::Str(y)) => x.cmp(y),
        (x, y) => match (x.number(), y.number()) {
            (Some(m), Some(n)) => m.cmp(&n),
            _ => x.text().cmp(&y.text()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_are_posix() {
        assert!(posix("^csi-").unwrap().is_match("csi-1"));
        assert!(posix("a\\.img$").unwrap().is_match("a.img"));
        assert!(!posix("a\\.img$").unwrap().is_match("aximg"));
        assert!(posix("^[[:digit:]]+$").unwrap().is_match("123"));
        assert!(!posix("^\\d+$").unwrap().is_match("123"), "no Perl classes");
        assert!(posix("[\\.]").unwrap().is_match("\\"));
        assert!(posix("(?i)x").is_err());
        assert!(posix("(").is_err());
    }

    #[test]
    fn candidates_never_lose_a_row() {
        let eq = |n: &str, v: &str| {
            Cond::Binary(
                Op::Eq,
                Box::new(Cond::Property(n.into())),
                Box::new(Cond::Const(Value::str(v))),
            )
        };
        let lookup = |name: &str, v: &str| (name == "slot").then(|| BTreeSet::from([v.len() as u32]));
        let and = Cond::Binary(Op::And, Box::new(eq("type", "file")), Box::new(eq("slot", "abc")));
        assert_eq!(and.candidates(&lookup), Some(BTreeSet::from([3])));
        let or = Cond::Binary(Op::Or, Box::new(eq("type", "file")), Box::new(eq("slot", "abc")));
        assert_eq!(or.candidates(&lookup), None);
    }
}
