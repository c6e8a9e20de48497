//! Kinds of bytes within an escape, and which of them may stand behind which.

// A bit each.
pub(super) const OPEN: u16 = 1;
pub(super) const POINT: u16 = 1 << 1;
pub(super) const HASH: u16 = 1 << 2;
pub(super) const SEMICOLON: u16 = 1 << 3;
pub(super) const X: u16 = 1 << 4;
pub(super) const U: u16 = 1 << 5;
pub(super) const PLAIN_DIGIT: u16 = 1 << 6;
pub(super) const B_OR_F: u16 = 1 << 7;
pub(super) const A: u16 = 1 << 8;
pub(super) const N_OR_R: u16 = 1 << 9;
pub(super) const T: u16 = 1 << 10;
pub(super) const Q_L_OR_G: u16 = 1 << 11;
pub(super) const M: u16 = 1 << 12;
pub(super) const P: u16 = 1 << 13;
pub(super) const O: u16 = 1 << 14;
pub(super) const S: u16 = 1 << 15;
pub(super) const DIGIT: u16 = PLAIN_DIGIT | B_OR_F | A;
pub(super) const ALL: u16 = u16::MAX;

/// Returns the kind of a byte, if an escape can have it in its middle or at its end.
pub(super) fn of(byte: u8) -> u16 {
    match byte {
        b'%' | b'\\' | b'&' => OPEN,
        b'#' => HASH,
        b';' => SEMICOLON,
        b'x' | b'X' => X,
        b'u' => U,
        b'b' | b'f' => B_OR_F,
        b'a' => A,
        b'n' | b'r' => N_OR_R,
        b't' => T,
        b'q' | b'l' | b'g' => Q_L_OR_G,
        b'm' => M,
        b'p' => P,
        b'o' => O,
        b's' => S,
        digit if digit.is_ascii_hexdigit() => PLAIN_DIGIT,
        point if point.is_ascii_punctuation() => POINT,
        _ => 0,
    }
}

/// Returns the kinds of bytes that may stand behind the character `value` within one escape.
pub(super) fn followers(value: u8) -> u16 {
    let number = if value.is_ascii_hexdigit() { DIGIT | SEMICOLON | OPEN } else { 0 };
    number
        | match value {
            b'%' | b'x' | b'X' => DIGIT | OPEN,
            b'\\' => X | U | N_OR_R | T | B_OR_F | POINT | HASH | SEMICOLON | OPEN,
            b'&' => HASH | Q_L_OR_G | A | OPEN,
            b'#' => X | DIGIT | OPEN,
            b'u' => DIGIT | O | OPEN,
            b'a' => M | P | OPEN,
            b'm' => P | OPEN,
            // The last letter of a name that means `&`, too.
            b'p' => O | SEMICOLON | HASH | Q_L_OR_G | A | OPEN,
            b'o' => S | T | OPEN,
            b's' | b't' => SEMICOLON | OPEN,
            b'q' => U | OPEN,
            b'l' | b'g' => T | OPEN,
            b';' => ALL,
            _ => 0,
        }
}
