//! Spellings that must not pass, and those that must.

use super::*;
use crate::json::Doc;

fn read(matcher: &Meaning, value: &str) -> Reading {
    let json = serde_json::to_string(value).unwrap();
    matcher.read(Doc::parse(json.as_bytes()).unwrap().root(), Some("Pay 50 to bob@corp.com."))
}

#[track_caller]
fn check(matcher: &Meaning, expected: Reading, values: &[&str]) {
    for value in values {
        assert_eq!(read(matcher, value), expected, "{value:?}");
    }
}

#[test]
fn no_spelling_of_a_path_leaves_its_folder() {
    let under = Meaning::PathUnder(Folders::parse(&["/projects", "/srv/data/"]).unwrap());
    check(
        &under,
        Reading::In,
        &[
            "/projects",
            "/projects/",
            "/projects/a/b.txt",
            "/srv/data/x",
            "/projects/./a",
            "/projects//a",
            "/projects/a/../b",
            "/x/../projects/a",
            "/projects/a%20b",
            "/projects/grüße.md",
            "/projects/a b",
            "/projects/.hidden",
            "/projects/100%",
            "/projects/a..b",
            "/../projects/a",
            "/projects/a\\b",
        ],
    );
    check(
        &under,
        Reading::Out,
        &[
            "/etc/passwd",
            "/projectsx/a",
            "/projects/../etc/passwd",
            "/projects/a/../../etc",
            "/",
            "/projects/..",
            "/srv/data2",
            "/srv",
            "/projects/../../projectsx",
            "/srv/data/../secret",
        ],
    );
    check(
        &under,
        Reading::Unclear,
        &[
            "",
            "projects/a",
            "../projects/a",
            "./projects",
            "~/projects",
            "/projects/~root",
            "~root/x",
            "/projects/%2e%2e/etc/passwd",
            "/projects/..%2f..%2fetc",
            "/projects/%2e%2e%2fetc",
            "/projects/%252e%252e/etc",
            "/projects/%25%32%65",
            "/projects/..\\..\\etc",
            "\\projects\\a",
            "/etc\\..\\projects/x",
            "/etc/%2e%2e/projects/x",
            "/projects/%5c..%5c..%5cetc",
            "//projects/a",
            "\\\\host\\share",
            "//host/projects",
            "C:/projects",
            "c:\\projects",
            "/C:/projects",
            "/projects\0/etc",
            "/projects/%00/x",
            "/projects/a\n",
            " /projects/a",
            "/projects/a ",
            "/projects/.../etc",
            "/projects/.. /etc",
            "/projects/. ./etc",
            "/projects/..;/etc",
            "/projects/%c0%ae%c0%ae/etc",
            "/projects/\u{ff0e}\u{ff0e}/etc",
            "/projects/\u{2024}\u{2024}/etc",
            "/projects\u{2215}..",
            "/PROJECTS/a",
            "/Projects/../projects2/..//Projects",
            "file:///projects/a",
            "/projects/..\u{200b}/etc",
            "/projects/{..}/etc",
            "/projects/%7e",
            "/projects/\u{fe30}/etc/passwd",
            "/projects/%ef%b8%b0/etc/passwd",
            "/projects/%uff0e%uff0e/etc",
            "/projects/\u{fe19}/etc",
            "/projects/..\u{a5}..\u{a5}etc",
            "/projects/..:/etc",
            "/projects/..::$INDEX_ALLOCATION/etc",
            "/project\u{17f}/a",
            "/pro\u{200b}jects/a",
            "/\u{ff50}rojects/a",
        ],
    );
}

#[test]
fn a_folder_is_read_as_it_is_written() {
    let accented = Meaning::PathUnder(Folders::parse(&["/donn\u{e9}es"]).unwrap());
    check(&accented, Reading::In, &["/donn\u{e9}es/a", "/donn\u{e9}es/a%20b"]);
    check(&accented, Reading::Out, &["/donnees/a"]);
    check(
        &accented,
        Reading::Unclear,
        &["/donne\u{301}es/a", "/DONN\u{c9}ES/a", "/donn%C3%A9es/a"],
    );
    let relative = Meaning::PathUnder(Folders::parse(&["docs"]).unwrap());
    check(&relative, Reading::In, &["docs/a", "./docs/a", "docs/x/../a", "x/../docs"]);
    check(&relative, Reading::Out, &["other/a", "docs/../other"]);
    check(&relative, Reading::Unclear, &["../docs/a", "docs/../../docs/a", "/docs/a"]);
    let here = Meaning::PathUnder(Folders::parse(&["."]).unwrap());
    check(&here, Reading::In, &[".", "a", "./a/b", "a/../b", "..a"]);
    check(&here, Reading::Unclear, &["..", "../a", "a/../../b", "/a", "/", "%2e%2e/a"]);
    let all = Meaning::PathUnder(Folders::parse(&["/"]).unwrap());
    check(&all, Reading::In, &["/", "/etc/passwd"]);
    for bad in ["/a/*", "~/x", "C:/x", "/a%2e", "../x", "a\\b", " /a"] {
        assert!(Folders::parse(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn no_spelling_of_a_url_leads_elsewhere() {
    let hosts = |entries: &[&str]| Meaning::HostIn(Hosts::parse(entries).unwrap());
    let api = hosts(&["api.corp.com", "*.cdn.corp.com", "Bücher.de", "127.0.0.1", "[::1]"]);
    check(
        &api,
        Reading::In,
        &[
            "https://api.corp.com",
            "https://api.corp.com/a?b#c",
            "http://api.corp.com/",
            "HTTPS://API.Corp.com/x",
            "https://api.corp.com:443/",
            "https://api.corp.com./",
            "https://a.cdn.corp.com/",
            "https://b.a.cdn.corp.com/",
            "https://bücher.de/",
            "https://xn--bcher-kva.de/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://0177.1/",
            "http://127.0.0.1./",
            "http://[::ffff:127.0.0.1]/",
            "http://[0:0::FFFF:7F00:1]/",
            "http://[0::1]/",
            "https://api.corp.com?x=@evil.net",
            "https://api.corp.com/ü",
        ],
    );
    check(
        &api,
        Reading::Out,
        &[
            "https://api.corp.com.evil.net/",
            "https://evil.net/api.corp.com",
            "https://evil.net?api.corp.com",
            "https://evil.net#api.corp.com",
            "https://apiXcorp.com/",
            "https://cdn.corp.com/",
            "https://corp.com/",
            "https://xapi.corp.com/",
            "https://api.corp.com.evil.net:443/",
            "http://2130706434/",
            "https://api-corp.com/",
            "http://[2001:db8::1]/",
            "http://[::ffff:127.0.0.2]/",
            "https://evil.net/?u=https://api.corp.com/",
            "ftp://evil.net/",
        ],
    );
    check(
        &api,
        Reading::Unclear,
        &[
            "",
            "api.corp.com",
            "//api.corp.com/",
            "https:api.corp.com",
            "https:/api.corp.com",
            "https:///api.corp.com/",
            "https://api.corp.com@evil.net/",
            "https://evil.net@api.corp.com/",
            "https://a:b@api.corp.com/",
            "https://api.corp.com\\@evil.net/",
            "https:\\\\api.corp.com\\",
            "https://api%2ecorp.com/",
            "https://evil.net%2f@api.corp.com/",
            "https://api.corp.com /",
            " https://api.corp.com/",
            "https://api.corp.com\n.evil.net/",
            "https://api.corp.com/\t",
            "https://ap\tí.corp.com/",
            "https://\u{ff41}pi.corp.com/",
            "https://api\u{3002}corp.com/",
            "https://api.corp\u{ad}.com/",
            "https://api.corp.com:8443/",
            "https://api.corp.com:22/",
            "ftp://api.corp.com/",
            "ws://api.corp.com/",
            "javascript://api.corp.com/%0aalert(1)",
            "data:text/html,https://api.corp.com/",
            "https://[::1",
            "https://",
            "https://api.corp.com:99999/",
            "https://api.corp.com:x/",
            "mailto:a@api.corp.com",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1%25eth0]/",
        ],
    );
}

#[test]
fn a_host_is_an_address_in_any_form_and_has_its_schemes_and_ports() {
    let hosts = |entries: &[&str]| Meaning::HostIn(Hosts::parse(entries).unwrap());
    let mapped = hosts(&["[::ffff:169.254.169.254]"]);
    check(&mapped, Reading::In, &["http://169.254.169.254/", "http://0xa9fea9fe/"]);
    let mut limited = Hosts::parse(&["api.corp.com"]).unwrap();
    limited.limit(vec!["https".into(), "wss".into()], vec![443, 8443]);
    let limited = Meaning::HostIn(limited);
    check(
        &limited,
        Reading::In,
        &["https://api.corp.com/", "https://api.corp.com:8443/", "wss://api.corp.com/"],
    );
    check(
        &limited,
        Reading::Out,
        &["http://api.corp.com/", "https://api.corp.com:22/", "ws://api.corp.com:8443/"],
    );
    for bad in ["", "*", "*.", "a/b", "https://a", "u@a", "*.1.2.3.4", "a b", "a:443"] {
        assert!(Hosts::parse(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn no_spelling_of_a_mailbox_goes_elsewhere() {
    let corp =
        Meaning::DomainIn(Domains::parse(&["corp.com", "*.eu.corp.com", "bücher.de"]).unwrap());
    check(
        &corp,
        Reading::In,
        &[
            "a@corp.com",
            "A.b+c@CORP.com",
            "o'neil@corp.com",
            "x@a.eu.corp.com",
            "a@bücher.de",
            "a@xn--bcher-kva.de",
            "a/b=c@corp.com",
        ],
    );
    check(
        &corp,
        Reading::Out,
        &[
            "a@evil.net",
            "a@corp.com.evil.net",
            "a@xcorp.com",
            "a@eu.corp.com",
            "a@sub.corp.com",
            "corp.com@evil.net",
            "a@corp.co",
            "a@bucher.de",
        ],
    );
    check(
        &corp,
        Reading::Unclear,
        &[
            "",
            "corp.com",
            "@corp.com",
            "a@",
            "a@@corp.com",
            "a@evil.net@corp.com",
            "a@corp.com@evil.net",
            "Ann <a@corp.com>",
            "<a@corp.com>",
            "\"a b\"@corp.com",
            "\"a@evil.net\"@corp.com",
            "a@corp.com,b@evil.net",
            "a@corp.com b@evil.net",
            "a@corp.com;b@evil.net",
            "a@corp.com\nBcc: b@evil.net",
            "a(x)@corp.com",
            "a@corp.com(evil.net)",
            "a%evil.net@corp.com",
            "evil.net!a@corp.com",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@corp.com.",
            "a@.corp.com",
            ".a@corp.com",
            "a.@corp.com",
            "a..b@corp.com",
            "mailto:a@corp.com",
            "=?utf-8?q?a=40evil.net=3e?=@corp.com",
            "ä@corp.com",
            "a@\u{ff43}orp.com",
            "a@corp\u{3002}com",
            " a@corp.com",
            "a@corp.com ",
            "a@-corp.com",
            "a@corp..com",
            "a@corp%2ecom",
            "a@corp.com/x",
            "a@evil.net#@corp.com",
            "a\0@corp.com",
        ],
    );
    assert_eq!(read(&corp, &format!("{}@corp.com", "a".repeat(65))), Reading::Unclear);
    for bad in ["", "@corp.com", "a@corp.com", "*", "corp com"] {
        assert!(Domains::parse(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn identifiers_are_exact() {
    let ids = Meaning::IdIn(Ids::parse(&["acct-1", "42", "GB29NWBK60161331926819"]).unwrap());
    check(&ids, Reading::In, &["acct-1", "42", "GB29NWBK60161331926819"]);
    check(&ids, Reading::Out, &["acct-2", "acct-11", "043", "x"]);
    check(
        &ids,
        Reading::Unclear,
        &[
            "",
            "ACCT-1",
            " acct-1",
            "acct-1\n",
            "\u{ff41}cct-1",
            "acct\u{200b}-1",
            "GB29 NWBK 6016 1331 9268 19",
            "042",
            "+42",
            "42.0",
            "4.2e1",
            "0x2A",
            "\u{ff14}\u{ff12}",
        ],
    );
    let long = Meaning::IdIn(Ids::parse(&["9007199254740993", "007", "-5"]).unwrap());
    check(&long, Reading::In, &["9007199254740993", "007", "-5"]);
    check(&long, Reading::Out, &["9007199254740992", "9007199254740992.0", "8", "5", "0x", "."]);
    check(&long, Reading::Unclear, &["7", "0009007199254740993", "-5.0"]);
    let number = |text: &str| ids.read(Doc::parse(text.as_bytes()).unwrap().root(), None);
    assert_eq!((number("42"), number("43")), (Reading::In, Reading::Out));
    for other in ["42.0", "4.2e1", "true", "[\"acct-1\"]", "{}"] {
        assert_eq!(number(other), Reading::Unclear, "{other}");
    }
}

#[test]
fn a_value_must_stand_in_the_intent_as_a_word() {
    check(&Meaning::FromIntent, Reading::In, &["bob@corp.com", "50", "Pay", "50 to"]);
    check(
        &Meaning::FromIntent,
        Reading::Out,
        &[
            "corp.com",
            "bob",
            "5",
            "0",
            "b@corp.com",
            "bob@corp.com.evil.net",
            "pay",
            "",
            ".",
            " ",
            "51",
        ],
    );
    let stands = |value: &str, intent: &str| {
        let json = serde_json::to_string(value).unwrap();
        Meaning::FromIntent.read(Doc::parse(json.as_bytes()).unwrap().root(), Some(intent))
    };
    for (value, intent, expected) in [
        ("a@b.c", "to 'a@b.c', please", Reading::In),
        ("a@b.c", "(a@b.c)", Reading::In),
        ("a@b.c", "x.a@b.c", Reading::Out),
        ("1.5", "pay $1.5.", Reading::In),
        ("1", "pay 1.5", Reading::Out),
        ("/a", "read /a/b", Reading::Out),
        ("b", "grüße b", Reading::In),
    ] {
        assert_eq!(stands(value, intent), expected, "{value} {intent}");
    }
    let without = Doc::parse(b"\"Pay\"").unwrap();
    assert_eq!(Meaning::FromIntent.read(without.root(), None), Reading::Unclear);
    assert_eq!(
        Meaning::FromIntent.read(Doc::parse(b"[1]").unwrap().root(), Some("1")),
        Reading::Unclear
    );
}

#[test]
fn long_lists_are_searched_like_short_ones() {
    let entries: Vec<String> =
        (0..100).flat_map(|n| [format!("h{n}.com"), format!("*.d{n}.com")]).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let hosts = Meaning::HostIn(Hosts::parse(&entries).unwrap());
    check(&hosts, Reading::In, &["https://h57.com/", "https://a.b.d99.com/"]);
    check(&hosts, Reading::Out, &["https://h100.com/", "https://d5.com/", "https://a.h5.com/"]);
}

#[test]
fn a_negated_matcher_stays_unclear_where_it_was() {
    let not =
        Matcher { meaning: Meaning::PathUnder(Folders::parse(&["/a"]).unwrap()), negated: true };
    let read = |value: &str| {
        let json = serde_json::to_string(value).unwrap();
        not.read(Doc::parse(json.as_bytes()).unwrap().root(), None)
    };
    assert_eq!(
        (read("/a/b"), read("/b"), read("~")),
        (Reading::Out, Reading::In, Reading::Unclear)
    );
}
