//! Finds the few positions of a text at which a secret could start, at memory speed.
//!
//! The first three bytes of every spelling of every form go into a bit table, letters without their
//! case; a text is then searched with one multiplication and one look-up a byte, eight positions to
//! a branch. A hit is a guess that [`super::encodings`] confirms or refuses.

use super::decoded::{ENTITIES, escape_letter};
use super::encodings::{Form, Kind, hex_digit};

/// Words of the large table: 16 KiB, so that it stays in the first-level cache.
const WORDS: usize = 1 << 12;
/// Words of the small table, with which hits of the large one are checked again.
const CHECK_WORDS: usize = 1 << 9;
/// Bytes of a text that are looked at together.
const GRAM: usize = 3;
/// Positions to a branch.
const BLOCK: usize = 8;
/// Multipliers whose lowest byte is zero, so that the fourth byte of a window falls out.
const SPREAD: u32 = 0x3779_B100;
const CHECK_SPREAD: u32 = 0x85EB_CB00;
/// Introducers of an escape, and of another that spells its second character.
const NESTED: [(u8, u8); 8] = [
    (b'%', b'%'),
    (b'%', b'\\'),
    (b'%', b'&'),
    (b'\\', b'%'),
    (b'\\', b'&'),
    (b'&', b'%'),
    (b'&', b'\\'),
    (b'&', b'&'),
];
/// Bytes that an escape which spells a character of another escape starts with.
const INTRODUCERS: &[u8; 3] = b"%\\&";
/// Letters lose their case, and what else differs in that bit meets here too.
const FOLD: u32 = 0x2020_2020;
const FOLD_ALL: u64 = 0x2020_2020_2020_2020;

pub(super) struct Filter {
    table: Box<[u32; WORDS]>,
    check: Box<[u32; CHECK_WORDS]>,
    /// The raw bytes that a spelling may start with, for the last bytes of a text.
    first: [bool; 256],
}

impl Filter {
    pub(super) fn new(forms: &[Form]) -> Self {
        let mut filter = Self {
            table: Box::new([0; WORDS]),
            check: Box::new([0; CHECK_WORDS]),
            first: [false; 256],
        };
        for form in forms {
            filter.spell(form, 0, Gram::default());
        }
        if !forms.is_empty() {
            // What follows an introducer may itself be spelled by an escape, which can be anything.
            for (first, second) in NESTED {
                (0..=u8::MAX).for_each(|any| filter.insert([first, second, any]));
            }
        }
        filter
    }

    /// The first position from `from` on at which a secret may start.
    pub(super) fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk::<{ BLOCK + GRAM }>) {
            let hits = windows(block).iter().fold(0, |hits, &word| hits | self.bit(word));
            if hits & 1 != 0
                && let Some(hit) = self.first_hit(block)
            {
                return Some(at + hit);
            }
            at += BLOCK;
        }
        let rest = text.get(at..).unwrap_or_default();
        let may_start = |n: &usize| match rest.get(*n..) {
            Some(&[a, b, c, ..]) => self.holds(u32::from_le_bytes([a, b, c, 0]) | FOLD),
            Some(&[a, ..]) => self.first.get(usize::from(a)) == Some(&true),
            Some([]) | None => false,
        };
        (0..rest.len()).find(may_start).map(|n| at + n)
    }

    // Kept out of the loop, whose registers it would take.
    #[inline(never)]
    fn first_hit(&self, block: &[u8; BLOCK + GRAM]) -> Option<usize> {
        windows(block).iter().position(|&word| self.holds(word))
    }

    /// Returns the large table's entry for a folded window, in the lowest bit.
    #[inline]
    fn bit(&self, word: u32) -> u32 {
        let (index, bit) = place(word, SPREAD);
        self.table.get(index % WORDS).map_or(0, |bits| bits.wrapping_shr(bit))
    }

    /// Reports whether both tables know a folded window.
    fn holds(&self, word: u32) -> bool {
        let (index, bit) = place(word, CHECK_SPREAD);
        let known = |bits: &u32| bits.wrapping_shr(bit) & 1 == 1;
        self.bit(word) & 1 == 1 && self.check.get(index % CHECK_WORDS).is_some_and(known)
    }

    fn insert(&mut self, gram: [u8; GRAM]) {
        let [a, b, c] = gram;
        let word = u32::from_le_bytes([a, b, c, 0]) | FOLD;
        let (index, bit) = place(word, SPREAD);
        if let Some(bits) = self.table.get_mut(index % WORDS) {
            *bits |= 1u32.wrapping_shl(bit);
        }
        let (index, bit) = place(word, CHECK_SPREAD);
        if let Some(bits) = self.check.get_mut(index % CHECK_WORDS) {
            *bits |= 1u32.wrapping_shl(bit);
        }
        if let Some(first) = self.first.get_mut(usize::from(a)) {
            *first = true;
        }
    }

    /// Inserts `gram` continued by every spelling of the form's row from `at` on.
    fn spell(&mut self, form: &Form, at: usize, gram: Gram) {
        if let Some(full) = gram.full() {
            return self.insert(full);
        }
        if at >= form.required {
            // The whole form is shorter than a gram: anything may follow.
            return (0..=u8::MAX).for_each(|any| self.spell(form, at, gram.and(&[any])));
        }
        let spellings = form.spellings(at);
        for &byte in &spellings {
            self.spell(form, at + 1, gram.and(&[byte]));
        }
        if form.kind == Kind::Raw {
            return;
        }
        let rest = form.row.get(at..).unwrap_or_default();
        if form.kind == Kind::Plain && rest.starts_with(b"\r\n") {
            // One line feed for both.
            self.spell(form, at + 1, gram);
        }
        let mut values = spellings;
        if at > 0 {
            let noise: &[u8] = match form.kind {
                Kind::Hex => b": -\n",
                Kind::Base64 | Kind::Base32 => b"\r\n",
                Kind::Plain => b"\n",
                Kind::Raw => b"",
            };
            for &byte in noise {
                self.spell(form, at, gram.and(&[byte]));
            }
            values.extend_from_slice(noise);
        }
        if values.contains(&b' ') {
            for plus in [&b"+"[..], b"\\+", b"\\\\+"] {
                self.spell(form, at + 1, gram.and(plus));
            }
        }
        if gram.len + 1 == GRAM {
            // Of what follows only the first byte would count.
            return INTRODUCERS.iter().for_each(|&b| self.spell(form, at + 1, gram.and(&[b])));
        }
        for &value in &values {
            self.spell_escaped(form, at, gram, value);
        }
        for code in *b"%\\&+" {
            self.spell_coded(form, at, gram, code);
        }
        let unit = form.char_at(at).map(|c| *c.encode_utf16(&mut [0; 2]).first().unwrap_or(&0));
        let digit = unit.and_then(|u| u8::try_from(u >> 12).ok()).map_or(b'0', hex_digit);
        for start in [b"\\u0", &[b'\\', b'u', digit], b"\\\\u", b"\\\\x", b"\\\\\\", b"&#x", b"&am"]
        {
            self.spell(form, at + 1, gram.and(start));
        }
        for digit in b'0'..=b'9' {
            self.spell(form, at + 1, gram.and(&[b'&', b'#', digit]));
        }
        for start in [b"\\u", b"\\x", b"\\\\", b"&#", b"&a"] {
            self.spell_nested(form, at, gram, *start);
        }
        if gram.len > 0 {
            for (first, second) in NESTED {
                self.spell(form, at + 1, gram.and(&[first, second]));
            }
        }
    }

    /// Spellings of one value that are its own.
    fn spell_escaped(&mut self, form: &Form, at: usize, gram: Gram, value: u8) {
        self.spell_coded(form, at, gram, value);
        if let Some(letter) = escape_letter(value) {
            self.spell(form, at + 1, gram.and(&[b'\\', letter]));
            self.spell(form, at + 1, gram.and(&[b'\\', b'\\', letter]));
        }
        for (name, _) in ENTITIES.iter().filter(|(_, byte)| *byte == value) {
            self.spell(form, at + 1, gram.and(b"&").and(name.as_bytes()));
            if let Some(&first) = name.as_bytes().first() {
                self.spell_nested(form, at, gram, [b'&', first]);
            }
        }
    }

    /// `code` as `%hh` and `\xhh`: the value itself, or what introduces another escape of it.
    fn spell_coded(&mut self, form: &Form, at: usize, gram: Gram, code: u8) {
        let (high, low) = (hex_digit(code >> 4), hex_digit(code));
        self.spell(form, at + 1, gram.and(&[b'%', high, low]));
        self.spell(form, at + 1, gram.and(&[b'\\', b'x', high]));
        self.spell_nested(form, at, gram, [b'%', high]);
    }

    /// An escape that starts with `start` and whose next character is spelled by another.
    fn spell_nested(&mut self, form: &Form, at: usize, gram: Gram, start: [u8; 2]) {
        for &introducer in INTRODUCERS {
            self.spell(form, at + 1, gram.and(&start).and(&[introducer]));
        }
    }
}

/// Returns the table position of a folded window: its word, and its bit modulo 32.
#[inline]
fn place(word: u32, spread: u32) -> (usize, u32) {
    let hash = word.wrapping_mul(spread);
    (usize::try_from(hash >> 20).unwrap_or(0), hash >> 15)
}

/// The folded windows that start at each of the block's positions, in their three lower bytes.
#[expect(clippy::cast_possible_truncation, reason = "the lower bytes are what is wanted")]
#[inline]
fn windows(block: &[u8; BLOCK + GRAM]) -> [u32; BLOCK] {
    let eight = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |b| u64::from_le_bytes(*b)) | FOLD_ALL;
    let (low, high) = (eight(block.first_chunk()), eight(block.last_chunk()));
    [
        low as u32,
        (low >> 8) as u32,
        (low >> 16) as u32,
        (low >> 24) as u32,
        (low >> 32) as u32,
        (high >> 16) as u32,
        (high >> 24) as u32,
        (high >> 32) as u32,
    ]
}

/// The first bytes of a spelling, as far as they are known.
#[derive(Clone, Copy, Default)]
struct Gram {
    bytes: [u8; GRAM],
    len: usize,
}

impl Gram {
    fn and(mut self, more: &[u8]) -> Self {
        for &byte in more {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
        self
    }

    fn full(self) -> Option<[u8; GRAM]> {
        (self.len == GRAM).then_some(self.bytes)
    }
}
