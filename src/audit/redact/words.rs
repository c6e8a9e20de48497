//! Keys as words, and the words that name secrets.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::EmptyPattern;

/// Longest key that is looked at. The value of a longer one is redacted unseen.
const MAX_KEY_BYTES: usize = 256;
/// Patterns with fewer letters do not count at the end of a longer word: `monkey` ends in one.
const LEAST_ENDING_BYTES: usize = 5;

/// The patterns in force.
#[derive(Clone, Debug)]
pub(super) struct SecretWords {
    /// Each pattern's words, written together.
    patterns: HashSet<String>,
    /// Patterns that count at the end of a longer word.
    endings: Vec<String>,
    longest: usize,
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
    text: String,
    ends: SmallVec<[usize; 8]>,
    /// True if the key has a run of capitals before a small letter.
    ambiguous: bool,
}

impl SecretWords {
    pub(super) fn new(given: &[&str]) -> Result<Self, EmptyPattern> {
        let mut patterns = HashSet::new();
        let mut words = Words::default();
        for pattern in given.iter().copied() {
            words.split(pattern, Acronym::EndsBeforeItsLastLetter);
            if words.text.is_empty() {
                return Err(EmptyPattern(pattern.to_owned()));
            }
            patterns.insert(words.text.clone());
        }
        let longest = patterns.iter().map(String::len).max().unwrap_or_default();
        let mut endings: Vec<_> =
            patterns.iter().filter(|p| p.len() >= LEAST_ENDING_BYTES).cloned().collect();
        endings.sort_unstable();
        Ok(Self { patterns, endings, longest })
    }

    /// Reports whether a key names something that must not be written down.
    pub(super) fn name(&self, key: &str, words: &mut Words) -> bool {
        if key.len() > MAX_KEY_BYTES {
            return true;
        }
        // Where an acronym ends cannot be known: `APIKey` is API Key, `DBpassword` is DB password.
        words.split(key, Acronym::EndsBeforeItsLastLetter);
        if self.matches(words) {
            return true;
        }
        words.ambiguous && {
            words.split(key, Acronym::EndsWithItsLastLetter);
            self.matches(words)
        }
    }

    /// Reports whether some words in a row, written together, are a pattern, or one of them is
    /// joined to one.
    fn matches(&self, words: &Words) -> bool {
        let mut start = 0;
        words.ends.iter().enumerate().any(|(n, own_end)| {
            let from = std::mem::replace(&mut start, *own_end);
            let word = words.text.get(from..*own_end).unwrap_or_default();
            self.joined(word)
                || words.ends.iter().skip(n).take_while(|end| **end - from <= self.longest).any(
                    |end| words.text.get(from..*end).is_some_and(|w| self.patterns.contains(w)),
                )
        })
    }

    /// Reports whether a word in small letters is several without anything between them: one that
    /// ends in a pattern, or nothing but patterns.
    fn joined(&self, word: &str) -> bool {
        word.len() > LEAST_ENDING_BYTES
            && (self.endings.iter().any(|ending| word.ends_with(ending.as_str()))
                || self.consists_of_patterns(word))
    }

    fn consists_of_patterns(&self, word: &str) -> bool {
        /// Longer words are no names.
        const LONGEST_WORD: usize = 64;
        if word.len() > LONGEST_WORD {
            return false;
        }
        // Bit `n` is set if the first `n` bytes consist of patterns.
        let mut reached = 1u128;
        for from in 0..word.len() {
            if reached >> from & 1 == 0 {
                continue;
            }
            let rest = word.get(from..).unwrap_or_default();
            for pattern in &self.patterns {
                if rest.starts_with(pattern.as_str()) {
                    reached |= 1 << (from + pattern.len());
                }
            }
        }
        reached >> word.len() & 1 == 1
    }
}

impl Words {
    fn split(&mut self, key: &str, acronym: Acronym) {
        self.text.clear();
        // At once, and usually enough for all keys of a call.
        self.text.reserve(key.len().max(64));
        self.ends.clear();
        self.ambiguous = false;
        let mut before: Option<char> = None;
        let mut run = 0;
        let mut chars = key.chars().map(narrow).peekable();
        while let Some(c) = chars.next() {
            if !c.is_alphanumeric() {
                self.end_word();
                before = None;
                run = 0;
                continue;
            }
            let next_is_small = chars.peek().is_some_and(|n| n.is_lowercase());
            let new_word = before.is_some_and(|before| {
                if before.is_numeric() != c.is_numeric() {
                    return true;
                }
                match (before.is_uppercase(), c.is_uppercase()) {
                    (false, true) => true,
                    (true, true) if next_is_small => {
                        self.ambiguous = true;
                        acronym == Acronym::EndsBeforeItsLastLetter
                    }
                    (true, false) => run > 1 && acronym == Acronym::EndsWithItsLastLetter,
                    (true, true) | (false, false) => false,
                }
            });
            if new_word {
                self.end_word();
            }
            run = if c.is_uppercase() { run + 1 } else { 0 };
            self.text.extend(c.to_lowercase());
            before = Some(c);
        }
        self.end_word();
    }

    fn end_word(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        let word = self.text.get(start..).unwrap_or_default();
        if word.is_empty() {
            return;
        }
        if word.len() > 1 && word.ends_with('s') && !word.ends_with("ss") {
            self.text.pop();
        }
        self.ends.push(self.text.len());
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
