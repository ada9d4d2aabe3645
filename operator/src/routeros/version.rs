//! RouterOS versions: `7.24.4 (stable)`, `7.22rc1`, `7.21beta3 (testing)`.

use std::fmt;
use std::str::FromStr;

use super::types::Malformed;

/// A RouterOS version. Ordered; a beta or release candidate comes before its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterOsVersion {
    /// 7 in 7.24.4.
    pub major: u16,
    /// 24 in 7.24.4.
    pub minor: u16,
    /// 4 in 7.24.4, 0 when absent.
    pub patch: u16,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    Alpha(u16),
    Beta(u16),
    Candidate(u16),
    Release,
}

impl RouterOsVersion {
    /// The first with `nvme-tcp-server-nqn`; pre-releases of it count.
    pub const MINIMUM: Self = Self {
        major: 7,
        minor: 21,
        patch: 0,
        stage: Stage::Alpha(0),
    };

    /// True from 7.21 on, its pre-releases included.
    pub fn is_supported(self) -> bool {
        self >= Self::MINIMUM
    }
}

impl FromStr for RouterOsVersion {
    type Err = Malformed;
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let bad = || Malformed::new("RouterOS version", s, "does not look like 7.24.4 (stable)");
        let word = s.split_whitespace().next().ok_or_else(bad)?;
        let numbers = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (numbers, stage) = word.split_at(numbers);
        let mut parts = numbers.split('.').map(|n| n.parse::<u16>().map_err(|_| bad()));
        let major = parts.next().ok_or_else(bad)??;
        let minor = parts.next().ok_or_else(bad)??;
        let patch = parts.next().unwrap_or(Ok(0))?;
        if parts.next().is_some() {
            return Err(bad());
        }
        let number = |rest: &str| {
            if rest.is_empty() {
                Ok(0)
            } else {
                rest.parse().map_err(|_| bad())
            }
        };
        let stage = if stage.is_empty() {
            Stage::Release
        } else if let Some(rest) = stage.strip_prefix("alpha") {
            Stage::Alpha(number(rest)?)
        } else if let Some(rest) = stage.strip_prefix("beta") {
            Stage::Beta(number(rest)?)
        } else if let Some(rest) = stage.strip_prefix("rc") {
            Stage::Candidate(number(rest)?)
        } else {
            return Err(bad());
        };
        Ok(Self {
            major,
            minor,
            patch,
            stage,
        })
    }
}

impl fmt::Display for RouterOsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        match self.stage {
            Stage::Alpha(n) => write!(f, "alpha{n}"),
            Stage::Beta(n) => write!(f, "beta{n}"),
            Stage::Candidate(n) => write!(f, "rc{n}"),
            Stage::Release => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_order() {
        let v = |s: &str| s.parse::<RouterOsVersion>().unwrap();
        assert_eq!(v("7.24.4 (stable)").to_string(), "7.24.4");
        assert_eq!(v("7.22rc1").to_string(), "7.22rc1");
        assert!(v("7.9") < v("7.21beta2 (testing)"));
        assert!(v("7.21beta2") < v("7.21rc1"));
        assert!(v("7.21rc1") < v("7.21") && v("7.21") < v("7.21.1"));
        assert!(v("7.21beta1").is_supported() && v("8.0").is_supported());
        assert!(!v("7.20.8 (long-term)").is_supported() && !v("6.49.10").is_supported());
        for bad in ["", "seven", "7", "7.x", "7.24.4.1", "7.24foo", "7.24rcx"] {
            assert!(bad.parse::<RouterOsVersion>().is_err(), "{bad}");
        }
    }
}
