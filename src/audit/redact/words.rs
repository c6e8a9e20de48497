//! Keys as words, and the words that name secrets.
//!
//! Every key of every call comes by here, and so does each word before a `=` or `:`. Most are one word
//! in small letters, which is compared as it is; patterns lie in order of the byte at which they
//! begin, and of the one at which they end, so that few are compared.

use smallvec::SmallVec;

use super::EmptyPattern;

/// Longest key that is looked at. The value of a longer one is redacted unseen.
const MAX_KEY_BYTES: usize = 256;
/// Patterns with fewer letters do not count at the end of a longer word: `monkey` ends in one.
const LEAST_ENDING_BYTES: usize = 5;

/// The patterns in force: each one's words, written together.
#[derive(Clone, Debug)]
pub(super) struct SecretWords {
    beginnings: ByByte,
    /// Patterns that count at the end of a longer word.
    endings: ByByte,
}

/// Patterns in order of one of their bytes.
#[derive(Clone, Debug)]
struct ByByte(Box<[Vec<Box<[u8]>>; 256]>);

impl ByByte {
    fn new(patterns: &[Vec<u8>], byte: fn(&[u8]) -> Option<&u8>) -> Self {
        let mut places = [const { Vec::new() }; 256];
        for pattern in patterns {
            let place = byte(pattern).and_then(|byte| places.get_mut(usize::from(*byte)));
            if let Some(place) = place {
                place.push(pattern.as_slice().into());
            }
        }
        Self(Box::new(places))
    }

    fn at(&self, byte: Option<&u8>) -> impl Iterator<Item = &[u8]> {
        let patterns = byte.and_then(|byte| self.0.get(usize::from(*byte)));
        patterns.map_or(&[][..], Vec::as_slice).iter().map(AsRef::as_ref)
    }
}

/// End of the word that a run of capitals and a small letter begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acronym {
    EndsBeforeItsLastLetter,
    EndsWithItsLastLetter,
}

/// A key's words, in small letters and without a plural s, written together.
#[derive(Default)]
pub(super) struct Words {
    text: SmallVec<[u8; 64]>,
    ends: SmallVec<[usize; 8]>,
    /// True if the key has a run of capitals before a small letter.
    ambiguous: bool,
}

impl SecretWords {
    pub(super) fn new(given: &[&str]) -> Result<Self, EmptyPattern> {
        let mut patterns = Vec::new();
        let mut words = Words::default();
        for pattern in given.iter().copied() {
            words.split(pattern, Acronym::EndsBeforeItsLastLetter);
            if words.text.is_empty() {
                return Err(EmptyPattern(pattern.to_owned()));
            }
            patterns.push(words.text.to_vec());
        }
        patterns.sort_unstable();
        patterns.dedup();
        let beginnings = ByByte::new(&patterns, <[u8]>::first);
        patterns.retain(|pattern| pattern.len() >= LEAST_ENDING_BYTES);
        Ok(Self { beginnings, endings: ByByte::new(&patterns, <[u8]>::last) })
    }

    /// Reports whether a key names something that must not be written down.
    pub(super) fn name(&self, key: &str, words: &mut Words) -> bool {
        if key.len() > MAX_KEY_BYTES {
            return true;
        }
        if key.bytes().all(|b| b.is_ascii_lowercase()) {
            let word = singular(key.as_bytes());
            return self.matches(word, &[word.len()]);
        }
        // Where an acronym ends cannot be known: `APIKey` is API Key, `DBpassword` is DB password.
        words.split(key, Acronym::EndsBeforeItsLastLetter);
        if self.matches(&words.text, &words.ends) {
            return true;
        }
        words.ambiguous && {
            words.split(key, Acronym::EndsWithItsLastLetter);
            self.matches(&words.text, &words.ends)
        }
    }

    /// Reports whether some words in a row, written together, are a pattern, or one of them is
    /// joined to one. The words end in `text` at `ends`.
    fn matches(&self, text: &[u8], ends: &[usize]) -> bool {
        let mut start = 0;
        ends.iter().enumerate().any(|(n, end)| {
            let from = std::mem::replace(&mut start, *end);
            let word = text.get(from..*end).unwrap_or_default();
            let rest = text.get(from..).unwrap_or_default();
            let mut is_begun = false;
            let is_pattern = self.beginnings.at(word.first()).any(|pattern| {
                let begins = rest.starts_with(pattern);
                is_begun |= begins && pattern.len() < word.len();
                begins && ends.iter().skip(n).any(|end| end - from == pattern.len())
            });
            let is_ended = || self.endings.at(word.last()).any(|ending| word.ends_with(ending));
            is_pattern || is_ended() || (is_begun && self.consists_of_patterns(word))
        })
    }

    /// Reports whether a word is several patterns without anything between them.
    fn consists_of_patterns(&self, word: &[u8]) -> bool {
        /// Longer words are no names.
        const LONGEST_WORD: usize = 64;
        if !(LEAST_ENDING_BYTES + 1..=LONGEST_WORD).contains(&word.len()) {
            return false;
        }
        // Bit `n` is set if the first `n` bytes consist of patterns.
        let mut reached = 1u128;
        for from in 0..word.len() {
            if reached >> from & 1 == 0 {
                continue;
            }
            let rest = word.get(from..).unwrap_or_default();
            for pattern in self.beginnings.at(rest.first()).filter(|p| rest.starts_with(p)) {
                reached |= 1 << (from + pattern.len());
            }
        }
        reached >> word.len() & 1 == 1
    }
}

/// Kind of a character in a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Small,
    Capital,
    /// A letter of a script that has no capitals.
    Letter,
    Digit,
    /// Stands between words.
    Other,
}

/// A character of a key: a byte where all are ASCII, which most are.
trait Character: Copy {
    fn class(self) -> Class;

    fn write_small(self, text: &mut SmallVec<[u8; 64]>);
}

impl Character for u8 {
    fn class(self) -> Class {
        match self {
            b'a'..=b'z' => Class::Small,
            b'A'..=b'Z' => Class::Capital,
            b'0'..=b'9' => Class::Digit,
            _ => Class::Other,
        }
    }

    fn write_small(self, text: &mut SmallVec<[u8; 64]>) {
        text.push(self.to_ascii_lowercase());
    }
}

impl Character for char {
    fn class(self) -> Class {
        match self {
            c if c.is_numeric() => Class::Digit,
            c if c.is_uppercase() => Class::Capital,
            c if c.is_lowercase() => Class::Small,
            c if c.is_alphabetic() => Class::Letter,
            _ => Class::Other,
        }
    }

    fn write_small(self, text: &mut SmallVec<[u8; 64]>) {
        for small in self.to_lowercase() {
            text.extend_from_slice(small.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

impl Words {
    fn split(&mut self, key: &str, acronym: Acronym) {
        self.text.clear();
        self.ends.clear();
        self.ambiguous = false;
        if key.is_ascii() {
            self.split_characters(key.bytes(), acronym);
        } else {
            self.split_characters(key.chars().map(narrow), acronym);
        }
    }

    fn split_characters<C: Character>(
        &mut self,
        characters: impl Iterator<Item = C>,
        acronym: Acronym,
    ) {
        let mut before = Class::Other;
        let mut capitals = 0;
        let mut characters = characters.map(|c| (c, c.class())).peekable();
        while let Some((character, class)) = characters.next() {
            if class == Class::Other {
                self.end_word();
                before = Class::Other;
                capitals = 0;
                continue;
            }
            let new_word = match (before, class) {
                (Class::Other, _) | (Class::Digit, Class::Digit) => false,
                (Class::Capital, Class::Capital) => {
                    let ends = characters.peek().is_some_and(|(_, next)| *next == Class::Small);
                    self.ambiguous |= ends;
                    ends && acronym == Acronym::EndsBeforeItsLastLetter
                }
                (Class::Digit, _) | (_, Class::Digit | Class::Capital) => true,
                (Class::Capital, _) => capitals > 1 && acronym == Acronym::EndsWithItsLastLetter,
                (_, _) => false,
            };
            if new_word {
                self.end_word();
            }
            capitals = if class == Class::Capital { capitals + 1 } else { 0 };
            character.write_small(&mut self.text);
            before = class;
        }
        self.end_word();
    }

    fn end_word(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        let word = self.text.get(start..).unwrap_or_default();
        if word.is_empty() {
            return;
        }
        let end = start + singular(word).len();
        self.text.truncate(end);
        self.ends.push(end);
    }
}

/// A word without the s of a plural.
fn singular(word: &[u8]) -> &[u8] {
    match word {
        [.., b's', b's'] | [b's'] => word,
        [singular @ .., b's'] => singular,
        _ => word,
    }
}

/// The ASCII character that a full-width one stands for.
fn narrow(c: char) -> char {
    const TO_ASCII: u32 = 0xFEE0;
    match c {
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(c) - TO_ASCII).unwrap_or(c),
        other => other,
    }
}
