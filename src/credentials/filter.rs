//! Finds the few positions of a text at which a secret could start, at memory speed.
//!
//! The first three bytes of every spelling of every form go into a bit table, letters without
//! their case; a text is then searched with one multiplication and one look-up a byte, eight
//! positions to a branch. What it finds is a guess that [`super::encodings`] confirms or refuses.

use super::decoded::{ENTITIES, escape_letter};
use super::encodings::{Form, Kind, hex_digit};

/// Bits of the table's index: 16 KiB, so that it stays in the first-level cache.
const INDEX_BITS: u32 = 17;
const WORDS: usize = 1 << (INDEX_BITS - 6);
/// Bytes of a text that are looked at together.
const GRAM: usize = 3;

pub(super) struct Filter {
    table: Box<[u64; WORDS]>,
    /// The raw bytes that a spelling may start with, for the last bytes of a text.
    first: [bool; 256],
}

impl Filter {
    pub(super) fn new(forms: &[Form]) -> Self {
        let mut filter = Self { table: Box::new([0; WORDS]), first: [false; 256] };
        for form in forms {
            filter.spell(form, 0, Gram::default());
        }
        filter
    }

    /// The first position from `from` on at which a secret may start.
    pub(super) fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk::<{ 8 + GRAM }>) {
            let mut hits = 0u32;
            for (n, window) in block.windows(4).enumerate() {
                let word = window.first_chunk().map_or(0, |w| u32::from_le_bytes(*w));
                hits |= u32::from(self.holds(word)) << n;
            }
            if hits != 0 {
                return Some(at + usize::try_from(hits.trailing_zeros()).unwrap_or(0));
            }
            at += 8;
        }
        let rest = text.get(at..).unwrap_or_default();
        let may_start = |n: &usize| match rest.get(*n..) {
            Some(&[a, b, c, ..]) => self.holds(u32::from_le_bytes([a, b, c, 0])),
            Some(&[a, ..]) => self.first.get(usize::from(a)) == Some(&true),
            Some([]) | None => false,
        };
        (0..rest.len()).find(may_start).map(|n| at + n)
    }

    /// Whether the three lower bytes of `word` are in the table.
    fn holds(&self, word: u32) -> bool {
        let (index, bit) = place(word);
        self.table.get(index).is_some_and(|bits| bits >> bit & 1 == 1)
    }

    fn insert(&mut self, gram: [u8; GRAM]) {
        let [a, b, c] = gram;
        let (index, bit) = place(u32::from_le_bytes([a, b, c, 0]));
        if let Some(bits) = self.table.get_mut(index) {
            *bits |= 1 << bit;
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
            self.spell(form, at + 1, gram.and(b"+"));
        }
        if gram.len + 1 == GRAM {
            // Of what follows only the first byte would count.
            return b"%\\&".iter().for_each(|&b| self.spell(form, at + 1, gram.and(&[b])));
        }
        for &value in &values {
            self.spell_escaped(form, at, gram, value);
        }
        for code in *b"%\\&+" {
            self.spell_coded(form, at, gram, code);
        }
        let unit = form.char_at(at).map(|c| *c.encode_utf16(&mut [0; 2]).first().unwrap_or(&0));
        let digit = unit.and_then(|u| u8::try_from(u >> 12).ok()).map_or(b'0', hex_digit);
        for start in
            [b"\\u0", &[b'\\', b'u', digit], b"\\\\u", b"\\\\x", b"\\\\\\", b"&#x", b"&am"]
        {
            self.spell(form, at + 1, gram.and(start));
        }
        for digit in b'0'..=b'9' {
            self.spell(form, at + 1, gram.and(&[b'&', b'#', digit]));
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
        }
    }

    /// `code` as `%hh` and `\xhh`: the value itself, or what introduces another escape of it.
    fn spell_coded(&mut self, form: &Form, at: usize, gram: Gram, code: u8) {
        let (high, low) = (hex_digit(code >> 4), hex_digit(code));
        self.spell(form, at + 1, gram.and(&[b'%', high, low]));
        self.spell(form, at + 1, gram.and(&[b'\\', b'x', high]));
    }
}

/// Where the table keeps a gram: `(word, bit)`.
fn place(word: u32) -> (usize, u32) {
    /// Letters lose their case, and what else differs in that bit meets here too.
    const FOLD: u32 = 0x0020_2020;
    const SPREAD: u32 = 0x9E37_79B1;
    let hash = ((word | FOLD) & 0x00FF_FFFF).wrapping_mul(SPREAD) >> (32 - INDEX_BITS);
    (usize::try_from(hash >> 6).unwrap_or(0) % WORDS, hash & 63)
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
