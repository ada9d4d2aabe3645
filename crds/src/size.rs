//! [`Size`]: a number of bytes that reads and writes as a Kubernetes quantity.
//!
//! Bytes are exact. The Go driver divided into whole units and made disks smaller than their PV (predecessor B42); here
//! a fraction of a byte is rounded up, and nothing else is ever rounded.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes. Displays as the shortest exact binary quantity: `1536Gi`, `1Gi`, `1073741825`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write bytes or a quantity such as 10Gi, at least 0 and below 8Ei")]
pub struct BadSize(String);

impl Size {
    /// One kibibyte.
    pub const KI: u64 = 1 << 10;
    /// One mebibyte.
    pub const MI: u64 = 1 << 20;
    /// One gibibyte.
    pub const GI: u64 = 1 << 30;
    /// One tebibyte.
    pub const TI: u64 = 1 << 40;

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size rounded up to the next multiple of `step` bytes; a step of 0 changes nothing.
    #[must_use]
    pub const fn round_up_to(self, step: u64) -> Self {
        if step == 0 {
            return self;
        }
        let rest = self.0 % step;
        if rest == 0 {
            self
        } else {
            Self(self.0.saturating_add(step - rest))
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        for (suffix, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let bad = || BadSize(text.chars().take(64).collect());
        let digits = text.strip_prefix('+').unwrap_or(text);
        let split = digits
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return Err(bad());
        }
        // Numerator and denominator of the unit: `m` is a thousandth, exponents are powers of ten.
        let (unit, below): (u128, u128) = match suffix {
            "" => (1, 1),
            "n" => (1, 1000u128.pow(3)),
            "u" => (1, 1000u128.pow(2)),
            "m" => (1, 1000),
            "k" => (1000, 1),
            "M" => (1000u128.pow(2), 1),
            "G" => (1000u128.pow(3), 1),
            "T" => (1000u128.pow(4), 1),
            "P" => (1000u128.pow(5), 1),
            "E" => (1000u128.pow(6), 1),
            "Ki" => (1 << 10, 1),
            "Mi" => (1 << 20, 1),
            "Gi" => (1 << 30, 1),
            "Ti" => (1 << 40, 1),
            "Pi" => (1 << 50, 1),
            "Ei" => (1 << 60, 1),
            other => {
                let exponent = other.strip_prefix(['e', 'E']).ok_or_else(bad)?;
                match exponent.parse::<i8>().map_err(|_| bad())? {
                    n @ 0..=18 => (10u128.pow(u32::from(n.unsigned_abs())), 1),
                    n @ -18..0 => (1, 10u128.pow(u32::from(n.unsigned_abs()))),
                    _ => return Err(bad()),
                }
            }
        };
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
        let digits = format!("{whole}{fraction}");
        let mantissa: u128 = digits.parse().map_err(|_| bad())?;
        let bytes = mantissa.checked_mul(unit).ok_or_else(bad)?.div_ceil(scale * below);
        match u64::try_from(bytes) {
            Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(Self(bytes)),
            _ => Err(bad()),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Large(u64),
            Text(String),
        }
        let bad = |bytes: String| serde::de::Error::custom(BadSize(bytes));
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => u64::try_from(bytes).map(Self).map_err(|_| bad(bytes.to_string())),
            Raw::Large(bytes) => Err(bad(bytes.to_string())),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn b42_sizes_are_exact() {
        for (text, bytes) in [
            ("1536Gi", 1536 * Size::GI),
            ("1.5Ti", 1536 * Size::GI),
            ("5.5Gi", 5_905_580_032),
            ("1G", 1_000_000_000),
            ("1e9", 1_000_000_000),
            ("500m", 1),
            ("4000000000n", 4),
            ("3000001u", 4),
            ("0.1", 1),
            ("0", 0),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(text.parse::<Size>().map(Size::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "-1", "1.2.3", "Gi", ".", "1 Gi", "1gi", "8Ei", "1e99", "0x10", "1Gi\n", "١Gi",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_texts_are() {
        let read = |number: serde_json::Value| serde_json::from_value::<Size>(number).map_err(|e| e.to_string());
        assert_eq!(read(4096.into()), Ok(Size(4096)));
        for number in [serde_json::json!(-1), u64::MAX.into(), "10GB".into()] {
            let why = read(number.clone()).unwrap_err();
            assert!(why.contains("is not a size: write bytes"), "{number}: {why}");
        }
    }

    #[test]
    fn rounds_up_never_down() {
        assert_eq!(Size(1).round_up_to(4096), Size(4096));
        assert_eq!(Size(4096).round_up_to(4096), Size(4096));
        assert_eq!(Size(7).round_up_to(0), Size(7));
    }

    proptest! {
        #[test]
        fn display_round_trips(bytes in 0..i64::MAX as u64) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Size>();
        }
    }
}
