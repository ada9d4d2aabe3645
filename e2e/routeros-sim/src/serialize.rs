//! `:serialize to=json`.

use crate::knobs::{JsonBools, JsonNumbers, Knobs};
use crate::value::Value;
use std::fmt::Write as _;

/// One line of JSON. Without `no_string_conversion` numeric-looking strings become floats (facts, 6.1).
pub(crate) fn json(v: &Value, knobs: &Knobs, no_string_conversion: bool) -> String {
    let mut out = String::new();
    write_json(&mut out, v, knobs, no_string_conversion);
    out
}

fn write_json(out: &mut String, v: &Value, knobs: &Knobs, plain: bool) {
    match v {
        Value::Nil => out.push_str("\"\""),
        Value::Bool(b) => {
            let _ = match knobs.json_bools {
                JsonBools::Native => write!(out, "{b}"),
                JsonBools::TrueFalse => write!(out, "\"{b}\""),
                JsonBools::YesNo => write!(out, "\"{}\"", if *b { "yes" } else { "no" }),
            };
        }
        Value::Num(n) => {
            let _ = match knobs.json_numbers {
                JsonNumbers::Int => write!(out, "{n}"),
                JsonNumbers::Float => write!(out, "{n}.000000"),
                JsonNumbers::String => write!(out, "\"{n}\""),
            };
        }
        Value::Str(s) => match s.parse::<f64>() {
            Ok(n) if !plain && s.bytes().all(|c| c.is_ascii_digit() || c == b'.' || c == b'-') => {
                let _ = write!(out, "{n:.6}");
            }
            _ => write_string(out, s),
        },
        Value::Time(_) | Value::Ip(_) | Value::Id(_) | Value::Code(_) => write_string(out, &v.text()),
        Value::Array(a) if a.map.is_empty() => {
            out.push('[');
            for (i, item) in a.list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(out, item, knobs, plain);
            }
            out.push(']');
        }
        Value::Array(a) => {
            out.push('{');
            let keyed = a.list.iter().enumerate().map(|(i, v)| (i.to_string(), v));
            for (i, (k, item)) in keyed.chain(a.map.iter().map(|(k, v)| (k.clone(), v))).enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, &k);
                out.push(':');
                write_json(out, item, knobs, plain);
            }
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn numbers_and_strings_follow_option_and_knob() {
        let mut knobs = Knobs::default();
        let v = Value::map(BTreeMap::from([
            (".id".to_owned(), Value::Id(0x20)),
            ("a".to_owned(), Value::str("1234")),
            ("n".to_owned(), Value::Num(2048)),
            ("t".to_owned(), Value::Bool(true)),
            ("q".to_owned(), Value::str("a\"b\u{1}")),
        ]));
        assert_eq!(
            json(&v, &knobs, true),
            r#"{".id":"*20","a":"1234","n":2048,"q":"a\"b\u0001","t":true}"#
        );
        assert_eq!(
            json(&v, &knobs, false),
            r#"{".id":"*20","a":1234.000000,"n":2048,"q":"a\"b\u0001","t":true}"#
        );
        knobs.json_numbers = JsonNumbers::Float;
        knobs.json_bools = JsonBools::YesNo;
        assert_eq!(
            json(&v, &knobs, true),
            r#"{".id":"*20","a":"1234","n":2048.000000,"q":"a\"b\u0001","t":"yes"}"#
        );
        assert_eq!(json(&Value::list(vec![]), &knobs, true), "[]");
    }
}
