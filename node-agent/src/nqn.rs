//! NQNs of a volume: its base, and the generations of its export. The only place that takes one apart.
//!
//! Generation 1 is the base itself, generation n is `<base>.g<n>-<8 hexadecimal digits>`. What begins like that and cannot be
//! read belongs to the volume all the same, with an unknown generation: it counts as left, and is never torn down.

/// Generation of `nqn` within the volume of this base: `None` when it is another volume's, `Some(None)` when unreadable.
#[must_use]
pub fn generation(base: &str, nqn: &str) -> Option<Option<u32>> {
    let rest = nqn.strip_prefix(base)?;
    if rest.is_empty() {
        return Some(Some(1));
    }
    let tail = rest.strip_prefix(".g")?;
    tail.starts_with(|c: char| c.is_ascii_digit()).then(|| readable(tail))
}

/// The base of an effective NQN.
#[must_use]
pub fn base(nqn: &str) -> &str {
    match nqn.rsplit_once(".g") {
        Some((base, tail)) if readable(tail).is_some() => base,
        _ => nqn,
    }
}

/// `<n>-<8 hexadecimal digits>`, n from 2, spelled in the one way that we write it.
fn readable(tail: &str) -> Option<u32> {
    let (number, random) = tail.split_once('-')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let generation: u32 = number.parse().ok()?;
    let canonical = generation.to_string() == number && random.len() == 8 && random.bytes().all(hex);
    (canonical && generation >= 2).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "nqn.2000-02.com.mikrotik:pvc-1";

    #[test]
    fn generations_of_one_volume() {
        for (tail, found) in [
            ("", Some(Some(1))),
            (".g2-0a1b2c3d", Some(Some(2))),
            (".g17-00000000", Some(Some(17))),
            (".g1-0a1b2c3d", Some(None)),
            (".g02-0a1b2c3d", Some(None)),
            (".g2-0A1B2C3D", Some(None)),
            (".g2-x", Some(None)),
            (".g2", Some(None)),
            (".gold", None),
            ("0", None),
            (".snap", None),
        ] {
            assert_eq!(generation(BASE, &format!("{BASE}{tail}")), found, "{tail}");
        }
        assert_eq!(generation(BASE, "nqn.2000-02.com.mikrotik:pvc-"), None);
    }

    #[test]
    fn the_base_of_an_effective_name() {
        assert_eq!(base(&format!("{BASE}.g2-0a1b2c3d")), BASE);
        for whole in [
            BASE,
            "nqn.2000-02.com.mikrotik:a.g2-x",
            "nqn.2000-02.com.mikrotik:a.gone",
        ] {
            assert_eq!(base(whole), whole);
        }
    }
}
