//! Exact comparison of JSON numbers.

use smallvec::SmallVec;

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
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || leading_zero {
            return None;
        }
        let mut digits: SmallVec<[u8; 24]> = whole.bytes().chain(fraction.bytes()).collect();
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|&&d| d == b'0').count();
        drop(digits.drain(..zeros));
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        Some(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
