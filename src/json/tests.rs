//! Strictness of the parser, and equality of what is read and written.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn refused(text: &str, problem: Problem) {
    assert_eq!(Doc::parse(text.as_bytes()).map(|_| ()).unwrap_err().problem, problem, "{text}");
}

#[test]
fn refuses_what_is_not_strict() {
    refused("", Problem::Truncated);
    refused("{} {}", Problem::Trailing);
    refused("{}\0{}", Problem::Trailing);
    refused("[1,]", Problem::Unexpected);
    refused("{\"a\":1,}", Problem::Unexpected);
    refused("{\"a\" 1}", Problem::Unexpected);
    refused("// c\n{}", Problem::Unexpected);
    refused("NaN", Problem::Unexpected);
    refused("-Infinity", Problem::Number);
    refused("01", Problem::Trailing);
    refused("1.", Problem::Number);
    refused(".5", Problem::Unexpected);
    refused("1e", Problem::Number);
    refused("+1", Problem::Unexpected);
    refused("\"a\nb\"", Problem::Control);
    refused("\"\\x41\"", Problem::Escape);
    refused("\"\\ud800\"", Problem::Surrogate);
    refused("\"\\ud800\\u0041\"", Problem::Surrogate);
    refused("\"\\udc00\"", Problem::Surrogate);
    refused("\"abc", Problem::Truncated);
    refused("\u{feff}{}", Problem::ByteOrderMark);
    refused("{\"a\":1,\"a\":2}", Problem::DuplicateKey);
    refused("{\"a\":1,\"\\u0061\":2}", Problem::DuplicateKey);
    refused("[{\"x\":{\"k\":0,\"k\":0}}]", Problem::DuplicateKey);
    assert!(Doc::parse(b"\"\xc0\xaf\"").is_err());
}

#[test]
fn a_lenient_reading_differs_in_three_things_only() {
    let read = |text: &str| Doc::parse_leniently(text.as_bytes()).map(|_| ());
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for text in
        ["{\"a\":1,\"a\":2}", "\"\\ud800\"", "\"\\udc00\\u0041\"", &nested(MAX_LENIENT_DEPTH)]
    {
        assert_eq!(read(text), Ok(()), "{text}");
        assert!(Doc::parse(text.as_bytes()).is_err(), "{text}");
    }
    for text in [
        "",
        "[1,]",
        "NaN",
        "01",
        "\"\\x41\"",
        "\"\\ud80\"",
        "{} {}",
        "\u{feff}{}",
        &nested(MAX_LENIENT_DEPTH + 1),
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    let doc = Doc::parse_leniently(br#"["a\ud83d\u0041", "\ud83d\ude00", {"\udc00":1}]"#).unwrap();
    let texts: Vec<_> = doc.root().items().map(|value| value.as_str()).collect();
    assert_eq!(texts, [None, Some("\u{1f600}".into()), None], "half a character is no text");
    let key = doc.root().items().nth(2).unwrap().entries().next().unwrap().key().into_owned();
    assert_eq!(key, "\u{fffd}");
}

#[test]
fn refuses_a_duplicate_among_many_keys() {
    let mut text = String::from("{");
    for n in 0..500 {
        text = format!("{text}\"k{n}\":{n},");
    }
    refused(&format!("{text}\"k\\u0037\":1}}"), Problem::DuplicateKey);
    assert!(Doc::parse(format!("{text}\"last\":1}}").as_bytes()).is_ok());
}

#[test]
fn nests_to_the_limit_and_no_further() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(Doc::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
    refused(&nested(MAX_DEPTH + 1), Problem::TooDeep);
    refused(&"[".repeat(50_000), Problem::TooDeep);
}

#[test]
fn reads_what_it_accepts() {
    let text = r#" {"a":[1,-2.50e+3,"x\u00e9\ud83d\ude00\n"],"b":{"c":null,"d":true},"e":""} "#;
    let doc = Doc::parse(text.as_bytes()).unwrap();
    let root = doc.root();
    let a: Vec<_> = root.get("a").unwrap().items().collect();
    assert_eq!(a[1].as_number(), Some("-2.50e+3"));
    assert_eq!(a[2].as_str().unwrap(), "xé😀\n");
    assert_eq!(root.get("b").unwrap().get("c").unwrap().kind(), Kind::Null);
    assert_eq!(root.get("b").unwrap().raw(), r#"{"c":null,"d":true}"#);
    assert_eq!(root.get("e").unwrap().as_str().unwrap(), "");
    assert!(root.get("f").is_none());
    let mut seen = 0;
    root.descend(|_| seen += 1);
    assert_eq!(seen, 9);
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_what_it_accepts(text in "[\\[\\]{}:,\"a0-9.eE+\\-tfn \\\\u]{0,24}") {
        if Doc::parse(text.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok() || text.contains(['e', 'E']));
        }
    }

    #[test]
    fn keys_are_compared_unescaped_however_many_they_are(
        keys in proptest::collection::vec(("[a-e]{1,3}", any::<bool>()), 0..20),
    ) {
        let spelled = keys.iter().map(|(key, escaped)| {
            let first = u32::from(key.as_bytes()[0]);
            let key = if *escaped { format!("\\u{first:04x}{}", key.strip_prefix(|_: char| true).unwrap()) } else { key.clone() };
            format!("\"{key}\":{{}}")
        });
        let text = format!("[{{{}}}]", spelled.collect::<Vec<_>>().join(","));
        let distinct: HashSet<_> = keys.iter().map(|(key, _)| key).collect();
        let expected = (distinct.len() < keys.len()).then_some(Problem::DuplicateKey);
        prop_assert_eq!(Doc::parse(text.as_bytes()).err().map(|e| e.problem), expected);
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        drop(Doc::parse(&bytes));
    }

    #[test]
    fn strings_come_back(s in "\\PC{0,40}") {
        let text = serde_json::to_string(&s).unwrap();
        let doc = Doc::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(doc.root().as_str().unwrap(), s);
    }
}

/// Bound on the memory of a request: no less is set aside and charged than its values take.
#[test]
fn a_request_takes_no_more_memory_than_is_charged_for_it() {
    let pieces = [
        "1,",
        "[],",
        "{},",
        "\"\",",
        "[1],",
        "{\"a\":1},",
        "12345,",
        "\"a,b:c[d\",",
        "{\"\":\"\"},",
    ];
    for length in [3, 300, 5_000, 70_000, 2_000_000] {
        for piece in pieces {
            let text = format!("[{}0]", piece.repeat(length / piece.len() + 1));
            let charged = bytes_of(text.as_bytes());
            assert!(charged <= 4 * text.len() + 16 * FREE_VALUES, "{piece} {length}");
            match Doc::parse_request(text.as_bytes()) {
                Ok(doc) => {
                    assert!(
                        text.len() + doc.nodes.len() * size_of::<Node>() <= charged + 16,
                        "{piece} {length}"
                    );
                    let set_aside = doc.nodes.capacity() * size_of::<Node>();
                    assert!(set_aside <= 2 * charged.max(256), "{piece} {length}: {set_aside}");
                }
                Err(error) => {
                    assert_eq!(error.problem, Problem::TooDense, "{piece} {length}");
                    assert!(length > 400_000 && piece.len() < 17, "{piece} {length}");
                }
            }
        }
    }
}
