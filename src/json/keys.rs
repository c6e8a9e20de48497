//! Keys that only look like protocol keys.
//!
//! Some servers read keys without regard to case: `Method`, or `paramſ` with a long s, is `method`
//! or `params` to them and nothing to everyone else. Two readers that disagree about a message are
//! a hole, so such a key is refused wherever the checks read one.

/// Whether `key` is not `protocol` but could be read as it by a case-insensitive reader.
pub fn disguises(key: &str, protocol: &str) -> bool {
    key != protocol && folded(key).eq(protocol.chars().map(|c| c.to_ascii_lowercase()))
}

/// The protocol key among `protocol` that `key` could be mistaken for.
pub fn disguised_as<'p>(key: &str, protocol: &[&'p str]) -> Option<&'p str> {
    // Folding keeps the number of characters, so most keys differ at a glance.
    protocol.iter().copied().find(|p| key.len() >= p.len() && disguises(key, p))
}

fn folded(key: &str) -> impl Iterator<Item = char> {
    key.chars().map(|c| match c {
        // The four characters that Unicode's case rules take to an ASCII letter.
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
