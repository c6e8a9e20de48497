//! Regexes of bounded size, each alone and all of a set together.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::util::syntax;

/// Largest size of a compiled regex. Enough for `^\w{1,64}$`, too little to fill a node's memory.
const REGEX_BYTES_MAX: usize = 8 << 20;

/// Largest size of the cache that one regex takes in one thread.
const CACHE_BYTES: usize = 1 << 20;

/// Longest text of a regex.
pub(super) const REGEX_TEXT_BYTES_MAX: usize = 4096;

/// A compiled regex. Two are equal if they are written and used alike.
#[derive(Clone)]
pub(super) struct Pattern {
    text: Box<str>,
    is_whole: bool,
    regex: Regex,
}

impl Pattern {
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.is_whole) == (&other.text, other.is_whole)
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.text, self.is_whole).hash(state);
    }
}

/// The text alone: the compiled form changes with its use.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, is_whole, regex: _ } = self;
        f.debug_struct("Pattern").field("text", text).field("is_whole", is_whole).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Compiles the regexes of a set within a budget. Many policies give one regex: it is built once.
pub(super) struct Regexes<'l> {
    whole: HashMap<String, Pattern>,
    anywhere: HashMap<String, Pattern>,
    bytes_left: usize,
    is_late: &'l dyn Fn() -> bool,
}

impl<'l> Regexes<'l> {
    pub(super) fn new(bytes: usize, is_late: &'l dyn Fn() -> bool) -> Self {
        Self { whole: HashMap::new(), anywhere: HashMap::new(), bytes_left: bytes, is_late }
    }

    /// A regex that is looked for anywhere in a text.
    pub(super) fn anywhere(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(built) = self.anywhere.get(text) {
            return Ok(built.clone());
        }
        let pattern =
            Pattern { text: text.into(), is_whole: false, regex: self.build(text, text)? };
        self.anywhere.insert(text.to_owned(), pattern.clone());
        Ok(pattern)
    }

    /// A regex that must match a text from its first to its last character.
    pub(super) fn whole(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(built) = self.whole.get(text) {
            return Ok(built.clone());
        }
        let anchored = format!(r"\A(?:{text})\z");
        let pattern =
            Pattern { text: text.into(), is_whole: true, regex: self.build(text, &anchored)? };
        self.whole.insert(text.to_owned(), pattern.clone());
        Ok(pattern)
    }

    fn build(&mut self, text: &str, anchored: &str) -> Result<Regex, String> {
        if text.len() > REGEX_TEXT_BYTES_MAX {
            return Err(format!("is longer than {REGEX_TEXT_BYTES_MAX} bytes"));
        }
        // On its own first, so that `a)|(?:b` is seen as what it is.
        if let Err(error) = syntax::parse(text) {
            // The last line says why; those before it draw where.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            return Err(format!("is not a regex: {}", why.trim_start_matches("error: ")));
        }
        if self.bytes_left == 0 || (self.is_late)() {
            self.bytes_left = 0;
            return Err("comes too late: all regexes together are too large to be built".to_owned());
        }
        let most = REGEX_BYTES_MAX.min(self.bytes_left);
        let config = Config::new()
            .nfa_size_limit(Some(most))
            .onepass_size_limit(Some(CACHE_BYTES))
            .hybrid_cache_capacity(CACHE_BYTES);
        match Regex::builder().configure(config).build(anchored) {
            Ok(regex) => {
                self.bytes_left = self.bytes_left.saturating_sub(regex.memory_usage());
                Ok(regex)
            }
            Err(error) => {
                // As much work as one that was built to the limit.
                self.bytes_left = self.bytes_left.saturating_sub(most);
                Err(because(&error))
            }
        }
    }
}

fn because(error: &BuildError) -> String {
    match error.size_limit() {
        Some(_) => "is too large once compiled".to_owned(),
        None => "cannot be held to the whole value (does it end in a comment?)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_time() -> bool {
        false
    }

    fn whole(text: &str) -> Result<Pattern, String> {
        Regexes::new(usize::MAX, &in_time).whole(text)
    }

    #[test]
    fn a_whole_match_leaves_nothing_over() {
        let matches = |pattern: &str, text: &str| whole(pattern).unwrap().is_match(text);
        assert!(matches("[a-z]+", "abc"));
        assert!(!matches("[a-z]+", "abc\n"));
        assert!(!matches("^[a-z]+$", "abc\n"));
        assert!(!matches("[a-z]+", "abc;rm"));
        assert!(!matches("(?m)^[a-z]+$", "abc\nrm -rf"));
        assert!(matches("a|ab", "ab"));
        assert!(!matches("a|b", "ab"));
        assert!(matches("(?i)select", "SELECT"));
        assert!(matches("caf\u{e9}.", "caf\u{e9}\u{1F600}"));
    }

    #[test]
    fn a_pattern_cannot_break_out_of_its_anchors() {
        for bad in ["a)|(?:b", "(?x)a # comment", "(", "[z-a]", "(?P<n>a)(?P<n>b)"] {
            assert!(whole(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_cannot_fill_the_memory() {
        assert_eq!(whole(r"\w{500}{500}").unwrap_err(), "is too large once compiled");
        assert!(whole(&"a".repeat(REGEX_TEXT_BYTES_MAX + 1)).is_err());
        assert!(whole(r"^\w{1,64}$").unwrap().is_match("gr\u{fc}\u{df}e"));
    }

    #[test]
    fn patterns_together_keep_within_their_budget() {
        let mut regexes = Regexes::new(4 << 20, &in_time);
        let built =
            (1..60).take_while(|n| regexes.whole(&format!(r"\w{{1,{n}}}x")).is_ok()).count();
        assert!((2..40).contains(&built), "{built}");
        assert!(regexes.whole("[0-9]+").is_err() || regexes.bytes_left > 0);
        // One that was built already costs nothing.
        assert!(regexes.whole(r"\w{1,1}x").is_ok());
        let mut late = Regexes::new(usize::MAX, &|| true);
        assert!(late.anywhere("a").unwrap_err().contains("comes too late"));
    }
}
