//! Keys that only look like the wanted ones.
//!
//! Some servers read keys without regard to case or Unicode form: `Method`, or `paramſ` with a long s,
//! is `method` or `params` to them and nothing to everyone else. Two readers that disagree about a
//! message are a hole, so such a key is refused or leaves doubt wherever the checks read one.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_normalizer::uts46::Uts46MapperBorrowed;

/// True if `key` is not `wanted` but a reader that ignores case or Unicode form could take it for that.
pub fn disguises(key: &str, wanted: &str) -> bool {
    if begin_apart(key, wanted) {
        return false;
    }
    if key.is_ascii() && wanted.is_ascii() {
        return key != wanted && key.eq_ignore_ascii_case(wanted);
    }
    key != wanted && folded(key).eq(folded(wanted))
}

/// True if the texts begin with different ASCII letters or digits. No reader takes such a key for the
/// other: folding changes nothing of these but their case, and a combining mark behind one keeps its letter.
#[inline]
pub(super) fn begin_apart(key: &str, wanted: &str) -> bool {
    match (key.as_bytes().first(), wanted.as_bytes().first()) {
        (Some(key), Some(wanted)) => {
            key.is_ascii_alphanumeric()
                && wanted.is_ascii_alphanumeric()
                && !key.eq_ignore_ascii_case(wanted)
        }
        (None, _) | (_, None) => false,
    }
}

/// The protocol key among `protocol` that `key` could be mistaken for.
pub fn disguised_as<'p>(key: &str, protocol: &[&'p str]) -> Option<&'p str> {
    protocol.iter().copied().find(|protocol| disguises(key, protocol))
}

/// Text without differences of case, width, composition and invisible characters (UTS 46, section 4).
pub fn folded(text: &str) -> impl Iterator<Item = char> {
    let dotted = text.chars().map(|c| match c {
        // The two letters that some case rules take to an `i`.
        '\u{130}' | '\u{131}' => 'i',
        other => other,
    });
    FOLDING.map_normalize(dotted)
}

/// Text in which characters that stand for others are those (NFKC): `︰` is `..`, which [`folded`] leaves.
pub fn spelled_out(text: &str) -> std::borrow::Cow<'_, str> {
    COMPATIBLE.normalize(text)
}

static COMPATIBLE: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfkc();
static FOLDING: Uts46MapperBorrowed<'static> = Uts46MapperBorrowed::new();

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_first_letter_that_differs_decides_as_folding_does(
            key in "[aAkKsS0\u{17F}\u{212A}\u{131}\u{300}\u{301}\u{AD}e\u{e9}_]{0,4}",
            wanted in "[aAkKsS0\u{17F}\u{131}\u{301}e\u{e9}i_]{0,4}",
        ) {
            let by_folding = key != wanted && folded(&key).eq(folded(&wanted));
            prop_assert_eq!(disguises(&key, &wanted), by_folding);
        }
    }

    #[test]
    fn other_cases_and_folding_letters_are_disguises() {
        for (key, protocol) in [
            ("Method", "method"),
            ("PARAMS", "params"),
            ("param\u{17F}", "params"),
            ("jSonRpc", "jsonrpc"),
            ("\u{130}d", "id"),
            ("\u{131}d", "id"),
            ("_Meta", "_meta"),
            ("protocolversion", "protocolVersion"),
            ("to\u{212A}en", "token"),
            ("\u{ff50}arams", "params"),
            ("par\u{ad}ams", "params"),
            ("met\u{200b}hod", "method"),
            ("e\u{301}t", "\u{e9}t"),
            ("\u{fb01}le", "file"),
        ] {
            assert_eq!(disguised_as(key, &["x", protocol]), Some(protocol), "{key}");
        }
    }

    #[test]
    fn the_key_itself_and_other_words_are_not() {
        for key in ["method", "methods", "meth0d", " method", "", "método"] {
            assert_eq!(disguised_as(key, &["method", "id"]), None, "{key}");
        }
    }
}
