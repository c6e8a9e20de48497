//! Decimal numbers, compared exactly: no digit is lost, and no exponent is carried out.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::saturate::SaturatingFrom as _;

/// Largest absolute value of an exponent; larger ones are clamped. Texts hold far fewer digits, and bounds
/// of policies are far smaller, so a clamped number still compares as the number itself does.
const EXPONENT_MAX: i64 = 1_000_000_000_000_000;

/// A number's value: `42`, `42.0` and `4.2e1` are equal.
///
/// Kept as `sign · digits · 10^exponent`, the digits without zeros at either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    negative: bool,
    /// Inline for all but numbers that no ordinary call has.
    digits: SmallVec<[u8; 24]>,
    exponent: i64,
}

impl Number {
    /// Reports whether it has no fraction: `1.0` and `10e-1` have none.
    pub fn is_integer(&self) -> bool {
        self.exponent >= 0
    }

    /// Reads a JSON number; `None` for other text and for exponents beyond all reason.
    pub fn parse(text: &str) -> Option<Self> {
        if !is_json(text) {
            return None;
        }
        let decimal = Decimal::of(text);
        let digits = decimal.whole.iter().chain(decimal.fraction).copied();
        let mut digits: SmallVec<[u8; 24]> = digits.collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        if decimal.magnitude.unsigned_abs() >= EXPONENT_MAX.unsigned_abs() / 2 {
            return None;
        }
        let exponent = decimal.magnitude.checked_sub(length(&digits))?;
        Some(Self { negative: decimal.negative, digits, exponent })
    }
}

/// Reports whether a text is a number of JSON (RFC 8259 section 6).
fn is_json(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    digits(whole)
        && !has_leading_zero
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

/// A decimal text as `0.DIGITS` times ten to the `magnitude`, which borrows the digits.
pub struct Decimal<'t> {
    negative: bool,
    whole: &'t [u8],
    fraction: &'t [u8],
    magnitude: i64,
}

impl<'t> Decimal<'t> {
    /// Takes apart a text that the JSON or the TOML grammar has accepted as a number.
    pub fn of(text: &'t str) -> Self {
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

    pub fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn sign(&self) -> i8 {
        match (self.is_zero(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// Compares the values, however they are written.
    pub fn compare(&self, other: &Decimal<'_>) -> Ordering {
        let sign = self.sign();
        let by_size = || {
            let by_size = self.magnitude.cmp(&other.magnitude).then_with(|| self.digits(other));
            if sign < 0 { by_size.reverse() } else { by_size }
        };
        sign.cmp(&other.sign()).then_with(|| if sign == 0 { Ordering::Equal } else { by_size() })
    }

    /// Compares digit by digit; a number that has no more digits goes on with zeros.
    fn digits(&self, other: &Decimal<'_>) -> Ordering {
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
    i64::saturating_from(digits.len())
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
    use proptest::prelude::*;

    use super::*;

    fn order(a: &str, b: &str) -> Ordering {
        Decimal::of(a).compare(&Decimal::of(b))
    }

    #[test]
    fn numbers_are_compared_by_value() {
        for (a, b, same) in [
            ("42", "42.0", true),
            ("42", "4.2e1", true),
            ("4200", "42E+2", true),
            ("0.5", "5e-1", true),
            ("0", "-0.0", true),
            ("0", "0e99", true),
            ("-7", "7", false),
            ("9007199254740993", "9007199254740992", false),
            ("1", "10", false),
        ] {
            let (left, right) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
            assert_eq!(left == right, same, "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_compared() {
        for text in
            ["", "-", "abc", "1.", ".5", "1e", "01", "+1", "1 ", "0x1", "1e99999999999999999999"]
        {
            assert_eq!(Number::parse(text), None, "{text}");
        }
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

        #[test]
        fn numbers_are_equal_as_their_decimals_are(
            a in -1000..1000_i64, a_exp in -8..8_i32, a_shift in 0..9_usize,
            b in -1000..1000_i64, b_exp in -8..8_i32, b_shift in 0..9_usize,
        ) {
            let (a, b) = (written(a, a_exp, a_shift), written(b, b_exp, b_shift));
            let (left, right) = (Number::parse(&a).unwrap(), Number::parse(&b).unwrap());
            prop_assert_eq!(left == right, order(&a, &b).is_eq(), "{} {}", a, b);
        }
    }
}
