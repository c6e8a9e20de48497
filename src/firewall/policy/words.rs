//! Whole words in free text, in any case: how keywords are found in a declared intent.
//!
//! A word is a run of letters and digits; everything else, underscores included, separates. So
//! `read` is found in `Read-only access` and in `read_files`, but not in `thread` or `already`.

use std::fmt;

/// The words of `text`, in order, as they are written.
pub fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Appends `word` in lower case.
pub(super) fn push_lower(out: &mut String, word: &str) {
    out.extend(word.chars().flat_map(char::to_lowercase));
}

/// Reports whether a text of ASCII characters contains a word.
fn is_among(mut text: &[u8], lower: &[u8]) -> bool {
    let Some(first) = lower.first() else { return false };
    let mut within_word = false;
    while let Some((byte, rest)) = text.split_first() {
        if !within_word
            && byte.eq_ignore_ascii_case(first)
            && text.get(..lower.len()).is_some_and(|word| word.eq_ignore_ascii_case(lower))
            && !text.get(lower.len()).is_some_and(u8::is_ascii_alphanumeric)
        {
            return true;
        }
        within_word = byte.is_ascii_alphanumeric();
        text = rest;
    }
    false
}

fn is_word(word: &str, lower: &str) -> bool {
    if word.is_ascii() {
        return word.eq_ignore_ascii_case(lower);
    }
    word.chars().flat_map(char::to_lowercase).eq(lower.chars())
}

/// A keyword: one word, or several that must follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Phrase {
    /// In lower case, never empty.
    words: Box<[Box<str>]>,
}

impl Phrase {
    /// Reads a keyword; none if there is no word in it.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Box<[Box<str>]> = words(text)
            .map(|word| {
                let mut lower = String::with_capacity(word.len());
                push_lower(&mut lower, word);
                lower.into_boxed_str()
            })
            .collect();
        (!words.is_empty()).then_some(Self { words })
    }

    /// Reports whether `text` contains the words of this phrase, next to each other.
    pub fn occurs_in(&self, text: &str) -> bool {
        if let ([wanted], true) = (&*self.words, text.is_ascii()) {
            return is_among(text.as_bytes(), wanted.as_bytes());
        }
        let mut rest = words(text);
        loop {
            let mut here = rest.clone();
            if self.words.iter().all(|wanted| here.next().is_some_and(|w| is_word(w, wanted))) {
                return true;
            }
            if rest.next().is_none() {
                return false;
            }
        }
    }

    /// The first word, in lower case.
    pub(super) fn first(&self) -> &str {
        self.words.first().map_or("", |word| word)
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_word_is_found_among_ascii_as_among_all_text(
            word in "[a-c]{1,3}|[a-c0é]{1,2}",
            text in "[a-cA-C0 _-]{0,16}",
        ) {
            let expected = words(&text).any(|found| is_word(found, &word));
            prop_assert_eq!(occurs(&word, &text), expected);
        }
    }

    fn occurs(keyword: &str, text: &str) -> bool {
        Phrase::parse(keyword).unwrap().occurs_in(text)
    }

    #[test]
    fn only_whole_words_are_found() {
        assert!(occurs("read", "Read the logs"));
        assert!(occurs("read", "please READ"));
        assert!(occurs("read", "read-only"));
        assert!(occurs("read", "read_files"));
        assert!(!occurs("read", "already in the thread, reading"));
        assert!(!occurs("read", ""));
        assert!(occurs("lösche", "LÖSCHE alles"));
    }

    #[test]
    fn several_words_must_follow_each_other() {
        assert!(occurs("customer data", "analyze Customer-Data now"));
        assert!(!occurs("customer data", "customer of data"));
        assert!(!occurs("customer data", "data customer"));
        assert!(occurs("a b", "a a b"));
    }

    #[test]
    fn a_keyword_without_a_word_is_none() {
        assert_eq!(Phrase::parse(" -- "), None);
        assert_eq!(Phrase::parse(""), None);
    }
}
