//! Tests of canonical forms: URIs that have one, URIs that have none, and the reach of patterns.

use proptest::prelude::*;

use super::*;

fn form(uri: &str) -> String {
    canonical(uri).unwrap_or_else(|doubt| panic!("{uri} {doubt}")).text
}

#[test]
fn spellings_of_one_resource_have_one_form() {
    for (expected, spellings) in [
        (
            "file:///etc/passwd",
            &[
                "file:///etc/passwd",
                "file:///%65tc/passwd",
                "file:///./etc/passwd",
                "file:///etc/x/../passwd",
                "file:///etc/%2e/passwd",
                "file:///etc/passwd/",
                "file:///etc/passwd/.",
                "FILE:///etc/passwd",
                "file:/etc/passwd",
                "file://localhost/etc/passwd",
                "file://LocalHost/etc/passwd",
                "file:///etc/passwd?",
                "file:///etc/passwd#",
            ][..],
        ),
        (
            "https://api.corp.com/a%20b",
            &[
                "https://api.corp.com/a b",
                "HTTPS://API.corp.COM:443/a%20b",
                "https://api.corp.com:0443/a%20b",
                "https://api.corp.com./a%20b",
                "https://api.corp.com:/a%20b",
                "https://@api.corp.com/a%20b",
                "https://api%2ecorp.com/a%20b",
                "https://ａｐｉ.corp.com/a%20b",
            ],
        ),
        (
            "http://127.0.0.1/",
            &["http://127.1", "http://0x7f.1/", "http://2130706433", "http://127.0.0.1:80"],
        ),
        ("http://[::1]/x", &["http://[0:0:0:0:0:0:0:1]/x", "http://[::0001]:80/x"]),
        ("https://xn--bcher-kva.de/", &["https://bücher.de", "https://BÜCHER.de/"]),
        ("file:///gr%C3%BC%C3%9Fe", &["file:///grüße", "file:///gr%c3%bc%c3%9fe"]),
        ("test://static/a:b", &["test://static/a%3Ab", "TEST://STATIC/a:b/"]),
        ("x://h/%2Ax", &["x://h/*x", "x://h/%2ax"]),
        ("https://h/a?q=%26~&r", &["https://h/a?q=%26%7e&r"]),
        ("memo:insights/a", &["MEMO:insights/a", "memo:%69nsights/a"]),
        ("urn:isbn:%C3", &["URN:isbn:%c3"]),
        ("db://u@h:5432/t", &["db://u@H:05432/t"]),
    ] {
        assert_eq!(form(expected), expected);
        for spelling in spellings {
            assert_eq!(form(spelling), expected, "{spelling}");
        }
    }
}

#[test]
fn what_servers_read_differently_is_doubtful() {
    for (doubt, uris) in [
        (
            Doubt::Climbs,
            &[
                "file:///../etc/passwd",
                "file:///a/../../etc",
                "file:///projects/..;/etc/passwd",
                "file:///projects/..%20/etc/passwd",
                "file:///projects/%2e%2e;x/etc",
                "https://host/get?path=../x",
                "https://host/get?path=%2e%2e%2fx",
                "https://host/get?path=%25252525252e",
                "memo:a/../b",
                "memo:..",
            ][..],
        ),
        (
            Doubt::Encoded,
            &[
                "file:///etc%2Fpasswd",
                "file:///etc%5cpasswd",
                "file:///etc%00",
                "file:///projects/%252e%252e/etc",
                "file:///a%0ab",
                "file:///a%7f",
                "https://h%2fx/a",
                "https://u%2f@h/a",
                "memo:a%2fb",
                "memo:a%25b",
            ],
        ),
        (Doubt::Backslash, &["file:///a\\..\\b", "https://good.com\\@evil.com/", "memo:a\\b"]),
        (Doubt::Control, &["file:///a\nb", " file:///a", "file:///a ", "https://h/\t", "x:\u{85}"]),
        (Doubt::NotText, &["file:///projects/%c0%ae%c0%ae/etc", "file:///%ff"]),
        (Doubt::EmptySegment, &["file:////etc/passwd", "file:///a//b", "https://h//x"]),
        (
            Doubt::Host,
            &[
                "https:///x",
                "https://",
                "https://h:99999/",
                "https://h:x/",
                "https://exa mple.com/",
                "https://[::1/",
                "x://a:b:1/",
                "x://u@/",
                "http://1.2.3.4.5/",
            ],
        ),
        (
            Doubt::Syntax,
            &[
                "",
                "..",
                "/etc/passwd",
                "resource",
                "1a://x",
                "file:",
                "file:etc/passwd",
                "https:/h/x",
                "https:h/x",
                "file:///%zz",
                "file:///a%2",
                "https://h/?%g0",
                "x://a@b@c/",
            ],
        ),
    ] {
        for uri in uris {
            assert_eq!(canonical(uri), Err(doubt), "{uri}");
        }
    }
}

#[test]
fn what_servers_may_ignore_gives_further_readings() {
    let others = |uri: &str, expected: &[&str]| {
        assert_eq!(canonical(uri).unwrap().others(), expected, "{uri}");
    };
    others("file:///a", &[]);
    others("file:///a?x#y", &["file:///a?x", "file:///a"]);
    others("x://u@h/a", &["x://h/a"]);
    others("file://server/a", &["file:///a"]);
    others("https://h/a;v=1/b", &["https://h/a/b"]);
    others(
        "https://u@h/a;v=1?q",
        &[
            "https://u@h/a;v=1",
            "https://u@h/a?q",
            "https://u@h/a",
            "https://h/a;v=1?q",
            "https://h/a;v=1",
            "https://h/a?q",
            "https://h/a",
        ],
    );
}

#[test]
fn patterns_are_canonical_too() {
    for (text, expected) in [
        ("*", "*"),
        ("FILE:///Projects/*", "file:///Projects/*"),
        ("file://localhost/a/../b/*", "file:///b/*"),
        ("file:///%70ro*", "file:///pro*"),
        ("file:*", "file:*"),
        ("file://*", "file://*"),
        ("HTTP*", "http*"),
        ("https://API.corp.com:443/v1/*", "https://api.corp.com/v1/*"),
        ("https://API.*", "https://api.*"),
        ("https://h/get?Path=%61/*", "https://h/get?Path=a/*"),
        ("https://h/get?*", "https://h/get?*"),
        ("memo:%61*", "memo:a*"),
        ("memo:*", "memo:*"),
        ("file:///home/.*", "file:///home/.*"),
        ("file:///a/", "file:///a"),
        ("x://h", "x://h/"),
    ] {
        assert_eq!(pattern(text).as_deref(), Ok(expected), "{text}");
    }
    for (text, doubt) in [
        ("file:///a*b", Doubt::Star),
        ("file:///a/**", Doubt::Star),
        ("file:///../*", Doubt::Climbs),
        ("file:///a/..*", Doubt::Climbs),
        ("file:///a%2f*", Doubt::Encoded),
        ("file:///a%2*", Doubt::Syntax),
        ("file:///a//*", Doubt::EmptySegment),
        ("https://h:44*", Doubt::OpenHost),
        ("https://u@h*", Doubt::OpenHost),
        ("file://local*", Doubt::OpenHost),
        ("no scheme*", Doubt::Syntax),
        ("", Doubt::Syntax),
    ] {
        assert_eq!(pattern(text), Err(doubt), "{text}");
    }
}

#[test]
fn a_beginning_covers_its_folder_with_and_without_the_slash() {
    let covered = |text: &str, uri: &str| covers(&pattern(text).unwrap(), &form(uri));
    for uri in ["file:///a/b", "file:///a/", "file:///a", "file:///x/../a"] {
        assert!(covered("file:///a/*", uri), "{uri}");
    }
    for uri in ["file:///ab", "file:///", "file:///a%2A/b"] {
        assert!(!covered("file:///a/*", uri), "{uri}");
    }
    assert!(covered("https://h/get?path=a*", "https://h/get?path=ab"));
    assert!(!covered("file:///a%2A", "file:///abc"));
    assert!(covered("file:///a%2A", "file:///a*"));
}

proptest! {
    #[test]
    fn a_canonical_form_is_its_own(uri in "(file|HTTPS|x|memo):(//)?[a-cA./%:@?#;*~25eEf é-]{0,24}") {
        if let Ok(found) = canonical(&uri) {
            prop_assert_eq!(canonical(&found.text).map(|c| c.text), Ok(found.text.clone()));
            prop_assert_eq!(pattern(&found.text), Ok(found.text));
        }
    }

    #[test]
    fn a_canonical_pattern_is_its_own(text in "(file|HTTPS|x|memo):(//)?[a-cA./%:@?#;~25eEf é-]{0,16}[*]?") {
        if let Ok(found) = pattern(&text) {
            prop_assert_eq!(pattern(&found), Ok(found));
        }
    }

    /// A pattern cut out of a URI covers the URI.
    #[test]
    fn a_beginning_of_a_canonical_uri_covers_it(uri in "file:///[a-c./%25e-]{0,16}", cut in 0..24_usize) {
        if let Ok(found) = canonical(&uri)
            && let Some(start) = found.text.get(..cut)
            && let Ok(pattern) = pattern(&format!("{start}*"))
        {
            prop_assert!(covers(&pattern, &found.text), "{} {}", pattern, found.text);
        }
    }

    #[test]
    fn nothing_panics(uri in "\\PC{0,40}") {
        drop((canonical(&uri), pattern(&uri), of_template(&uri)));
    }
}
