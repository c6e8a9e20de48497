//! Numbers compared by their decimal text, so that no digit is lost and no exponent is carried out.

use std::cmp::Ordering;
use std::fmt;

/// Exponents are cut to this. Texts hold far fewer digits and bounds are far smaller (see
/// [`Number::from_float`]), so a cut number still lies on its own side of every bound.
const EXPONENT_MAX: i64 = 1_000_000_000_000_000;

/// A number of a policy file, as decimal text.
#[derive(Clone, Debug)]
pub(super) struct Number(Box<str>);

impl Number {
    /// Takes an integer in base 2, 8, 10 or 16, of any length in base 10.
    pub(super) fn from_integer(text: &str, radix: u32) -> Result<Self, &'static str> {
        if radix == 10 {
            return Self::from_float(text);
        }
        let value = u128::from_str_radix(text, radix).ok().ok_or("is too large")?;
        Self::from_float(&value.to_string())
    }

    /// Takes a decimal fraction that a double can tell from zero and from infinity.
    pub(super) fn from_float(text: &str) -> Result<Self, &'static str> {
        let value: f64 = text.parse().ok().ok_or("is not a number")?;
        if !value.is_finite() {
            return Err("must be a finite number");
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        let number = Self(text.into());
        if value == 0.0 && !number.parts().is_zero() {
            return Err("is too close to zero");
        }
        Ok(number)
    }

    fn parts(&self) -> Parts<'_> {
        Parts::of(&self.0)
    }

    /// Compares this number with a JSON number.
    pub(super) fn compare(&self, json: &str) -> Ordering {
        self.parts().compare(&Parts::of(json))
    }

    /// Compares this number with another one.
    pub(super) fn compare_to(&self, other: &Self) -> Ordering {
        self.compare(&other.0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number as `0.DIGITS` times ten to the `magnitude`, its digits left where they are.
struct Parts<'t> {
    negative: bool,
    whole: &'t [u8],
    fraction: &'t [u8],
    magnitude: i64,
}

impl<'t> Parts<'t> {
    /// Takes apart what the JSON or the TOML grammar has accepted as a number.
    fn of(text: &'t str) -> Self {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, small(exponent)),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = whole.trim_start_matches('0').as_bytes();
        let mut fraction = fraction.trim_end_matches('0').as_bytes();
        let mut magnitude = length(whole);
        if whole.is_empty() {
            let zeros = fraction.iter().take_while(|&&digit| digit == b'0').count();
            (_, fraction) = fraction.split_at(zeros);
            magnitude = i64::try_from(zeros).map_or(i64::MIN, |zeros| -zeros);
        }
        Self { negative, whole, fraction, magnitude: magnitude.saturating_add(exponent) }
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn sign(&self) -> i8 {
        match (self.is_zero(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn compare(&self, other: &Parts<'_>) -> Ordering {
        let sign = self.sign();
        let by_size = || {
            let by_size = self.magnitude.cmp(&other.magnitude).then_with(|| self.digits(other));
            if sign < 0 { by_size.reverse() } else { by_size }
        };
        sign.cmp(&other.sign()).then_with(|| if sign == 0 { Ordering::Equal } else { by_size() })
    }

    /// Compares digit by digit; a number that has no more digits goes on with zeros.
    fn digits(&self, other: &Parts<'_>) -> Ordering {
        let mut ours = self.whole.iter().chain(self.fraction);
        let mut theirs = other.whole.iter().chain(other.fraction);
        loop {
            let (a, b) = match (ours.next(), theirs.next()) {
                (None, None) => return Ordering::Equal,
                (a, b) => (a.unwrap_or(&b'0'), b.unwrap_or(&b'0')),
            };
            if a != b {
                return a.cmp(b);
            }
        }
    }
}

fn length(digits: &[u8]) -> i64 {
    i64::try_from(digits.len()).unwrap_or(i64::MAX)
}

/// An exponent, cut to what still fits any comparison.
fn small(text: &str) -> i64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = digits.bytes().fold(0_i64, |size, digit| {
        let next = size.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')));
        next.min(EXPONENT_MAX)
    });
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(a: &str, b: &str) -> Ordering {
        Parts::of(a).compare(&Parts::of(b))
    }

    #[test]
    fn equal_values_are_equal_however_they_are_written() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "1e0"),
            ("100", "1E+2"),
            ("0.001", "1e-3"),
            ("0", "-0"),
            ("0", "0.0e99"),
            ("-0e999999999999999999999", "0"),
            ("1200", "0.0012e6"),
            ("-10.50", "-1.05e1"),
        ] {
            assert_eq!(order(a, b), Ordering::Equal, "{a} {b}");
            assert_eq!(order(b, a), Ordering::Equal, "{b} {a}");
        }
    }

    #[test]
    fn no_digit_is_lost() {
        for (less, more) in [
            ("9007199254740992", "9007199254740993"),
            ("0.1", "0.10000000000000000000001"),
            ("100", "100.0000000000000000000000000001"),
            ("1e400", "1e401"),
            ("99999999999999999999", "1e20"),
            ("1000", "1e999999999999999999999999"),
            ("1e-999999999999999999999999", "0.001"),
            ("-1e999999999999999999999999", "-1000"),
            ("-1000", "-1e-999999999999999999999999"),
            ("-2", "-1"),
            ("-1", "0"),
            ("-1", "1"),
            ("0", "1e-400"),
        ] {
            assert_eq!(order(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(order(more, less), Ordering::Greater, "{more} {less}");
        }
    }

    #[test]
    fn a_bound_is_a_number_a_double_could_hold() {
        assert!(Number::from_float("inf").is_err());
        assert!(Number::from_float("-nan").is_err());
        assert!(Number::from_float("1e400").is_err());
        assert!(Number::from_float("1e-400").is_err());
        assert!(Number::from_float("0e-400").is_ok());
        assert_eq!(Number::from_integer("ff", 16).unwrap().compare("255.0"), Ordering::Equal);
        let beyond = Number::from_integer("18446744073709551616", 10).unwrap();
        assert_eq!(beyond.compare("18446744073709551615"), Ordering::Greater);
        assert_eq!(Number::from_float("+1.5").unwrap().compare("1.5"), Ordering::Equal);
    }

    /// `mantissa` times ten to the `exponent`, with the point put `shift` places to the left.
    fn written(mantissa: i64, exponent: i32, shift: usize) -> String {
        let digits = mantissa.unsigned_abs().to_string();
        let digits = format!("{digits:0>width$}", width = shift + 1);
        let (whole, fraction) = digits.split_at(digits.len() - shift);
        let sign = if mantissa < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{whole}{point}{fraction}e{}", exponent + i32::try_from(shift).unwrap())
    }

    proptest! {
        #[test]
        fn agrees_with_exact_arithmetic(
            a in prop_oneof![-1000..1000_i64, any::<i64>()], a_exp in 0..8_i32, a_shift in 0..25_usize,
            b in prop_oneof![-1000..1000_i64, any::<i64>()], b_exp in 0..8_i32, b_shift in 0..25_usize,
        ) {
            let exact = |m: i64, e: i32| i128::from(m) * 10_i128.pow(e.unsigned_abs());
            let (a_text, b_text) = (written(a, a_exp, a_shift), written(b, b_exp, b_shift));
            prop_assert_eq!(order(&a_text, &b_text), exact(a, a_exp).cmp(&exact(b, b_exp)), "{} {}", a_text, b_text);
        }

        #[test]
        fn a_number_equals_itself_in_every_spelling(m in any::<i64>(), e in -8..8_i32, s in 0..25_usize, t in 0..25_usize) {
            prop_assert_eq!(order(&written(m, e, s), &written(m, e, t)), Ordering::Equal);
        }
    }
}
