//! Bounds and listed values of policies: numbers, kept as the file has them.

use std::cmp::Ordering;
use std::fmt;

use crate::json::number::Decimal;

/// A number of a policy file, as decimal text.
#[derive(Clone, Debug)]
pub(super) struct Bound(Box<str>);

impl Bound {
    /// Takes an integer in base 2, 8, 10 or 16, of any length in base 10.
    pub(super) fn from_integer(text: &str, radix: u32) -> Result<Self, &'static str> {
        if radix == 10 {
            return Self::from_float(text);
        }
        let value = u128::from_str_radix(text, radix).ok().ok_or("is too large")?;
        Self::from_float(&value.to_string())
    }

    /// Takes a decimal fraction that a double can distinguish from zero and from infinity.
    pub(super) fn from_float(text: &str) -> Result<Self, &'static str> {
        let value: f64 = text.parse().ok().ok_or("is not a number")?;
        if !value.is_finite() {
            return Err("must be a finite number");
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        let number = Self(text.into());
        if value == 0.0 && !number.decimal().is_zero() {
            return Err("is too close to zero");
        }
        Ok(number)
    }

    fn decimal(&self) -> Decimal<'_> {
        Decimal::of(&self.0)
    }

    /// Compares this number with a JSON number.
    pub(super) fn compare(&self, json: &str) -> Ordering {
        self.decimal().compare(&Decimal::of(json))
    }

    /// Compares this number with another one.
    pub(super) fn compare_to(&self, other: &Self) -> Ordering {
        self.compare(&other.0)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_number_a_double_could_hold() {
        assert!(Bound::from_float("inf").is_err());
        assert!(Bound::from_float("-nan").is_err());
        assert!(Bound::from_float("1e400").is_err());
        assert!(Bound::from_float("1e-400").is_err());
        assert!(Bound::from_float("0e-400").is_ok());
        assert_eq!(Bound::from_integer("ff", 16).unwrap().compare("255.0"), Ordering::Equal);
        let beyond = Bound::from_integer("18446744073709551616", 10).unwrap();
        assert_eq!(beyond.compare("18446744073709551615"), Ordering::Greater);
        assert_eq!(Bound::from_float("+1.5").unwrap().compare("1.5"), Ordering::Equal);
    }
}
