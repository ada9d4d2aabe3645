//! Sizes that a request may ask for. Bytes are exact and only ever rounded up (B42).

use csi_proto::csi::v1::CapacityRange;
use rds_crds::Size;

use super::failure::Failure;

/// Smallest volume, and the size when none is said; smaller requests are raised to it (K12).
pub const MIN: Size = Size(Size::GI);
/// Largest volume (K12).
pub const MAX: Size = Size(16 * Size::TI);
/// Sizes on the appliance are multiples of this.
pub const STEP: u64 = 4096;

/// A checked range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// What will be asked of the appliance: within the bounds and a multiple of [`STEP`].
    pub size: Size,
    /// What the caller asked for at least, 0 if it did not say.
    pub required: Size,
    /// What the caller accepts at most.
    pub limit: Option<Size>,
}

impl Range {
    /// For a new volume.
    pub fn for_creation(range: Option<&CapacityRange>) -> Result<Self, Failure> {
        let (required, limit) = bounds(range)?;
        Self::checked(required.max(MIN), required, limit)
    }

    /// For an expansion.
    pub fn for_expansion(range: Option<&CapacityRange>) -> Result<Self, Failure> {
        let range = range.ok_or_else(|| Failure::Invalid("capacity_range is missing: say required_bytes".into()))?;
        let (required, limit) = bounds(Some(range))?;
        if required == Size(0) {
            return Err(Failure::Invalid(
                "required_bytes is 0: say how large the volume shall become".into(),
            ));
        }
        if required < MIN {
            return Err(Failure::OutOfRange(format!(
                "{required} is below the smallest volume: ask for at least {MIN}"
            )));
        }
        Self::checked(required, required, limit)
    }

    fn checked(least: Size, required: Size, limit: Option<Size>) -> Result<Self, Failure> {
        if least > MAX {
            return Err(Failure::OutOfRange(format!(
                "{least} is above the largest volume: ask for at most {MAX}"
            )));
        }
        let size = least.round_up_to(STEP);
        match limit {
            Some(limit) if size > limit => Err(Failure::OutOfRange(format!(
                "the smallest possible size is {size} (at least {MIN}, a multiple of {STEP} bytes), above the limit of \
                 {limit}: raise the limit"
            ))),
            _ => Ok(Self { size, required, limit }),
        }
    }

    /// Whether an existing volume of that size is what this range asks for.
    #[must_use]
    pub fn fits(&self, existing: Size) -> bool {
        existing >= self.required && self.limit.is_none_or(|limit| existing <= limit)
    }
}

fn bounds(range: Option<&CapacityRange>) -> Result<(Size, Option<Size>), Failure> {
    let Some(range) = range else { return Ok((Size(0), None)) };
    let number = |name: &str, bytes: i64| {
        u64::try_from(bytes)
            .map(Size)
            .map_err(|_| Failure::Invalid(format!("{name} is {bytes}: a size cannot be negative, give bytes")))
    };
    let (required, limit) = (
        number("required_bytes", range.required_bytes)?,
        number("limit_bytes", range.limit_bytes)?,
    );
    if limit == Size(0) {
        return Ok((required, None));
    }
    if limit < required {
        return Err(Failure::Invalid(format!(
            "limit_bytes {limit} is below required_bytes {required}: raise the limit or lower the request"
        )));
    }
    Ok((required, Some(limit)))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const GI: i64 = 1 << 30;
    const TI: i64 = 1 << 40;

    fn range(required_bytes: i64, limit_bytes: i64) -> CapacityRange {
        CapacityRange {
            required_bytes,
            limit_bytes,
        }
    }

    #[test]
    fn b42_k12_sizes_of_new_volumes() {
        for (required, limit, size) in [
            (0, 0, GI),
            (1, 0, GI),
            (GI, GI, GI),
            (GI + 1, 0, GI + 4096),
            (3 * TI / 2, 0, 3 * TI / 2),
            (16 * TI, 16 * TI, 16 * TI),
            (0, 2 * GI, GI),
        ] {
            let made = Range::for_creation(Some(&range(required, limit))).unwrap();
            assert_eq!(i64::try_from(made.size.bytes()).unwrap(), size, "{required}..{limit}");
        }
        assert_eq!(Range::for_creation(None).unwrap().size, MIN);
    }

    #[test]
    fn impossible_sizes_of_new_volumes() {
        for (required, limit, code, how) in [
            (16 * TI + 1, 0, Code::OutOfRange, "at most 16Ti"),
            (GI + 1, GI + 2, Code::OutOfRange, "raise the limit"),
            (0, GI - 1, Code::OutOfRange, "raise the limit"),
            (
                2 * GI,
                GI,
                Code::InvalidArgument,
                "raise the limit or lower the request",
            ),
            (-1, 0, Code::InvalidArgument, "cannot be negative"),
            (0, -1, Code::InvalidArgument, "cannot be negative"),
            (i64::MAX, 0, Code::OutOfRange, "at most 16Ti"),
        ] {
            let failure = Range::for_creation(Some(&range(required, limit))).unwrap_err();
            assert_eq!(failure.code(), code, "{required}..{limit}: {failure}");
            assert!(failure.to_string().contains(how), "{required}..{limit}: {failure}");
        }
    }

    #[test]
    fn d4_sizes_of_expansions() {
        assert_eq!(
            Range::for_expansion(Some(&range(GI + 1, 0))).unwrap().size,
            Size(Size::GI + 4096)
        );
        for (asked, code) in [
            (None, Code::InvalidArgument),
            (Some(range(0, 0)), Code::InvalidArgument),
            (Some(range(0, GI)), Code::InvalidArgument),
            (Some(range(GI - 1, 0)), Code::OutOfRange),
            (Some(range(16 * TI + 1, 0)), Code::OutOfRange),
            (Some(range(GI + 1, GI + 1)), Code::OutOfRange),
        ] {
            assert_eq!(
                Range::for_expansion(asked.as_ref()).unwrap_err().code(),
                code,
                "{asked:?}"
            );
        }
    }

    #[test]
    fn an_existing_volume_fits_within_the_range_only() {
        let range = Range::for_creation(Some(&range(2 * GI, 4 * GI))).unwrap();
        let gi = |n| Size(n * Size::GI);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| range.fits(gi(n))),
            [false, true, true, true, false]
        );
    }
}
