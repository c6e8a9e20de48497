//! Conversions of counts between sizes of integers, for places where the largest value serves as well as one
//! that is larger still.

/// Integer type that a count is converted to.
pub(crate) trait SaturatingFrom: Sized {
    /// Converts a count; one that is too large becomes the largest value of the type.
    fn saturating_from<N: Count>(count: N) -> Self
    where
        Self: TryFrom<N>;
}

/// Integer type without negative values: no count is below all values of the other type.
pub(crate) trait Count {}

macro_rules! counts {
    ($($count:ty)*) => { $(impl Count for $count {})* };
}

macro_rules! saturating {
    ($($integer:ty)*) => {
        $(impl SaturatingFrom for $integer {
            fn saturating_from<N: Count>(count: N) -> Self
            where
                Self: TryFrom<N>,
            {
                Self::try_from(count).unwrap_or(Self::MAX)
            }
        })*
    };
}

counts!(u32 u64 u128 usize);
saturating!(u8 u32 u64 usize i64 i128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_too_large_becomes_the_largest() {
        assert_eq!(u8::saturating_from(7_usize), 7);
        assert_eq!(u8::saturating_from(256_usize), 255);
        assert_eq!(i64::saturating_from(u64::MAX), i64::MAX);
        assert_eq!(u64::saturating_from(u128::MAX), u64::MAX);
        assert_eq!(i128::saturating_from(usize::MAX), i128::try_from(usize::MAX).unwrap());
    }
}
