//! Values of the script language: their types, how they print, how barewords become typed, how they compare.
//!
//! Invariant: comparison is type sensitive. A bareword that reads as a number, a time or an address never equals a string.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// An array: positional members and keyed members. Keys are kept sorted, so `.id` comes first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Array {
    /// Members without a key.
    pub list: Vec<Value>,
    /// Members with a key.
    pub map: BTreeMap<String, Value>,
}

impl Array {
    /// Number of members of both sorts.
    pub fn len(&self) -> usize {
        self.list.len() + self.map.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A script value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing at all; prints as an empty string.
    Nil,
    /// `true` or `false`.
    Bool(bool),
    /// A 64 bit integer.
    Num(i64),
    /// A duration in milliseconds.
    Time(i64),
    /// An IP address or prefix, kept as text.
    Ip(String),
    /// An internal id, printed `*1F`.
    Id(u32),
    /// Text.
    Str(String),
    /// An array, with or without keys.
    Array(Array),
    /// Code, as `:parse` returns it.
    Code(String),
}

impl Value {
    /// A string value.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// A positional array.
    pub fn list(list: Vec<Value>) -> Self {
        Self::Array(Array {
            list,
            map: BTreeMap::new(),
        })
    }

    /// An associative array.
    pub fn map(map: BTreeMap<String, Value>) -> Self {
        Self::Array(Array { list: Vec::new(), map })
    }

    /// What `:put` prints.
    pub fn text(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Bool(b) => b.to_string(),
            Self::Num(n) => n.to_string(),
            Self::Time(ms) => stored_time(*ms),
            Self::Ip(s) | Self::Str(s) => s.clone(),
            Self::Code(s) => format!("(evl {s})"),
            Self::Id(id) => format!("*{id:X}"),
            Self::Array(a) => {
                let mut out = String::new();
                for v in &a.list {
                    if !out.is_empty() {
                        out.push(';');
                    }
                    out.push_str(&v.text());
                }
                for (k, v) in &a.map {
                    if !out.is_empty() {
                        out.push(';');
                    }
                    let _ = write!(out, "{k}={}", v.text());
                }
                out
            }
        }
    }

    /// What `:typeof` says.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Num(_) => "num",
            Self::Time(_) => "time",
            Self::Ip(s) if s.contains('/') => "ip-prefix",
            Self::Ip(_) => "ip",
            Self::Id(_) => "id",
            Self::Str(_) => "str",
            Self::Array(_) => "array",
            Self::Code(_) => "code",
        }
    }

    /// What `:len` says.
    pub fn len(&self) -> usize {
        match self {
            Self::Array(a) => a.len(),
            Self::Nil => 0,
            Self::Bool(_) | Self::Num(_) | Self::Time(_) | Self::Ip(_) | Self::Id(_) | Self::Str(_) | Self::Code(_) => {
                self.text().len()
            }
        }
    }

    /// Whether `:len` is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The truth of a condition; `None` when the value is no condition.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            Self::Nil => Some(false),
            Self::Str(s) => truth_word(s),
            Self::Num(_) | Self::Time(_) | Self::Ip(_) | Self::Id(_) | Self::Array(_) | Self::Code(_) => None,
        }
    }

    /// The number behind a value, if it is one or reads as one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Num(n) => Some(*n),
            Self::Str(s) => s.trim().parse().ok(),
            Self::Nil | Self::Bool(_) | Self::Time(_) | Self::Ip(_) | Self::Id(_) | Self::Array(_) | Self::Code(_) => {
                None
            }
        }
    }

    /// Equality between two script values. A typed property equals the quoted text of its value; a string never equals
    /// a bareword that was read as number, time or address.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(b), Self::Str(s)) | (Self::Str(s), Self::Bool(b)) => truth_word(s) == Some(*b),
            (Self::Id(_), Self::Str(s)) => self.text() == *s,
            (Self::Str(s), Self::Id(_)) => other.text() == *s,
            (a, b) => a == b,
        }
    }

    /// Equality in `where`, where the left side is a property and a quoted right side takes the property's type.
    pub fn matches_property(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Num(_) | Self::Time(_) | Self::Ip(_), Self::Str(s)) => self.text() == *s,
            (Self::Nil, Self::Str(s)) => s.is_empty(),
            (a, b) => a.same(b),
        }
    }
}

fn truth_word(s: &str) -> Option<bool> {
    match s {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

/// A duration as as-value stores it: `00:00:15`, with days and weeks in front.
fn stored_time(ms: i64) -> String {
    let secs = ms / 1000;
    let (weeks, days) = (secs / 604_800, secs / 86_400 % 7);
    let mut out = String::new();
    if weeks > 0 {
        let _ = write!(out, "{weeks}w");
    }
    if days > 0 {
        let _ = write!(out, "{days}d");
    }
    let _ = write!(out, "{:02}:{:02}:{:02}", secs / 3600 % 24, secs / 60 % 60, secs % 60);
    if ms % 1000 != 0 {
        let _ = write!(out, ".{:03}", ms % 1000);
    }
    out
}

/// The typed value of a bareword in an expression.
pub fn infer(word: &str) -> Value {
    if let Some(b) = truth_word(word) {
        return Value::Bool(b);
    }
    if let Some(hex) = word.strip_prefix('*')
        && let Ok(id) = u32::from_str_radix(hex, 16)
    {
        return Value::Id(id);
    }
    if let Some(hex) = word.strip_prefix("0x")
        && let Ok(n) = i64::from_str_radix(hex, 16)
    {
        return Value::Num(n);
    }
    if let Ok(n) = word.parse::<i64>()
        && !word.starts_with('+')
    {
        return Value::Num(n);
    }
    if let Some(ms) = parse_time(word) {
        return Value::Time(ms);
    }
    if is_ip(word) {
        return Value::Ip(word.to_owned());
    }
    Value::str(word)
}

/// `3s`, `500ms`, `1h2` (the last number counts seconds), `1w2d`, `00:00:15`.
pub fn parse_time(word: &str) -> Option<i64> {
    if word.contains(':') {
        let parts: Vec<i64> = word
            .split(':')
            .map(|p| if p.len() == 2 { p.parse().ok() } else { None })
            .collect::<Option<_>>()?;
        return match parts.as_slice() {
            [h, m, s] => Some(((h * 60 + m) * 60 + s) * 1000),
            [h, m] => Some((h * 60 + m) * 60_000),
            _ => None,
        };
    }
    let (mut total, mut rest, mut units) = (0i64, word, 0);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let n: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, scale) = [
            ("ms", 1),
            ("us", 0),
            ("w", 604_800_000),
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1000),
        ]
        .into_iter()
        .find(|(u, _)| rest.starts_with(u))
        .unwrap_or(("", 1000));
        if unit.is_empty() && (units == 0 || !rest.is_empty()) {
            return None;
        }
        rest = rest.get(unit.len()..)?;
        total = total.checked_add(n.checked_mul(scale)?)?;
        units += 1;
    }
    (units > 0).then_some(total)
}

fn is_ip(word: &str) -> bool {
    let (addr, len) = word.split_once('/').map_or((word, None), |(a, l)| (a, Some(l)));
    if len.is_some_and(|l| l.parse::<u8>().is_err()) {
        return false;
    }
    addr.parse::<std::net::IpAddr>().is_ok()
}

/// Digits in groups of three, `1 024`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A size with one decimal and a binary unit, the way `file-size` prints: 1 TiB is `1024.0GiB`.
pub fn human(n: u64) -> String {
    let (unit, scale) = match n {
        n if n >= 1 << 30 => ("GiB", 1u64 << 30),
        n if n >= 1 << 20 => ("MiB", 1 << 20),
        n if n >= 1 << 10 => ("KiB", 1 << 10),
        _ => return n.to_string(),
    };
    let tenths = (u128::from(n) * 10 + u128::from(scale) / 2) / u128::from(scale);
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

/// A size argument: plain bytes, or a number with a suffix K, M, G, T counted in `base` (1024 or 1000).
pub fn parse_size(text: &str, base: u64) -> Option<u64> {
    let t = text.trim();
    let t = t.strip_suffix("iB").unwrap_or(t);
    let (digits, power) = match t.as_bytes().last()? {
        b'K' | b'k' => (&t[..t.len() - 1], 1),
        b'M' => (&t[..t.len() - 1], 2),
        b'G' => (&t[..t.len() - 1], 3),
        b'T' => (&t[..t.len() - 1], 4),
        b'P' => (&t[..t.len() - 1], 5),
        _ => (t, 0),
    };
    let unit = base.checked_pow(power)?;
    if let Ok(n) = digits.parse::<u64>() {
        return n.checked_mul(unit);
    }
    let (whole, frac) = digits.split_once('.')?;
    if power == 0 || frac.len() > 6 || !frac.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let frac_bytes = u128::from(frac.parse::<u64>().ok()?) * u128::from(unit) / 10u128.pow(frac.len() as u32);
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)?
        .checked_add(u64::try_from(frac_bytes).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barewords_get_types() {
        assert_eq!(infer("10"), Value::Num(10));
        assert_eq!(infer("1h2"), Value::Time(3_602_000));
        assert_eq!(infer("3s"), Value::Time(3000));
        assert_eq!(infer("10.0.0.0/8"), Value::Ip("10.0.0.0/8".into()));
        assert_eq!(infer("*1F"), Value::Id(0x1f));
        assert_eq!(infer("yes"), Value::Bool(true));
        assert_eq!(infer("pvc-10"), Value::str("pvc-10"));
        assert_eq!(infer("1T"), Value::str("1T"));
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!(parse_size("1T", 1024), Some(1_099_511_627_776));
        assert_eq!(parse_size("1G", 1024), Some(1_073_741_824));
        assert_eq!(parse_size("4G", 1000), Some(4_000_000_000));
        assert_eq!(parse_size("1.5T", 1024), Some(1_649_267_441_664));
        assert_eq!(parse_size("53687091200", 1024), Some(53_687_091_200));
        assert_eq!(parse_size("99999999999999T", 1024), None);
        assert_eq!(parse_size("x", 1024), None);
        assert_eq!(parse_size("é", 1024), None);
        assert_eq!(human(1_099_511_627_776), "1024.0GiB");
        assert_eq!(human(53_687_091_200), "50.0GiB");
        assert_eq!(grouped(1_024_209_543_168), "1 024 209 543 168");
    }

    #[test]
    fn comparison_is_type_sensitive() {
        assert!(!Value::str("10").matches_property(&infer("10")));
        assert!(Value::str("10").matches_property(&Value::str("10")));
        assert!(Value::Num(10).matches_property(&Value::str("10")));
        assert!(Value::Bool(true).matches_property(&infer("yes")));
    }
}
