//! Filtering of lists: removed entries, and bytes of the rest unchanged.

use super::*;
use proptest::prelude::*;

fn all() -> ListKinds {
    ListKind::ALL.into_iter().collect()
}

/// Returns the lists that a batch of these methods asks for.
fn asked(methods: &[&str]) -> ListKinds {
    let member = |(n, m)| format!(r#"{{"jsonrpc":"2.0","id":{n},"method":"{m}"}}"#);
    let members: Vec<String> = methods.iter().enumerate().map(member).collect();
    let text = format!("[{}]", members.join(","));
    let doc = Doc::parse(text.as_bytes()).unwrap();
    ListKinds::asked_by(&super::super::message::read(&doc).unwrap())
}

/// Keeps what starts with `ok`.
fn filter(body: &str) -> Result<Option<String>, FilterError> {
    filter_list(body.as_bytes(), all(), |_, name| name.starts_with("ok"))
        .map(|out| out.body.map(|o| String::from_utf8(o).unwrap()))
}

fn becomes(body: &str, expected: &str) {
    assert_eq!(filter(body).unwrap().as_deref(), Some(expected), "{body}");
}

fn unchanged(body: &str) {
    assert_eq!(filter(body), Ok(None), "{body}");
}

#[test]
fn items_that_are_not_kept_go_with_one_comma() {
    let ok = r#"{"name":"ok"}"#;
    let no = r#"{"name":"no","inputSchema":{"x":[1,2]}}"#;
    let ok2 = r#"{"name":"ok2"}"#;
    for (list, left) in [
        (format!("[{no}]"), "[]".to_owned()),
        (format!("[ {no} ]"), "[  ]".to_owned()),
        (format!("[{no},{no}]"), "[]".to_owned()),
        (format!("[{ok},{no}]"), format!("[{ok}]")),
        (format!("[{no},{ok}]"), format!("[{ok}]")),
        (format!("[{no} , {no} , {ok} ]"), format!("[{ok} ]")),
        (format!("[{ok}, {no},  {ok2}]"), format!("[{ok}, {ok2}]")),
        (format!("[ {ok} ,\n {no} , {no}\n]"), format!("[ {ok}\n]")),
        (format!("[{no},{ok},{no},{no},{ok2},{no}]"), format!("[{ok},{ok2}]")),
    ] {
        let body = |tools: &str| {
            format!(
                "\n{{\"jsonrpc\" : \"2.0\",\"id\":1.0,\"result\":{{\"_meta\":{{\"n\":1e400}},\
                 \"tools\":{tools} , \"nextCursor\":\"\\u0041\"}}}}\r\n"
            )
        };
        becomes(&body(&list), &body(&left));
    }
}

#[test]
fn each_list_is_filtered_by_what_names_its_items() {
    for (member, label) in [
        ("tools", "name"),
        ("prompts", "name"),
        ("resources", "uri"),
        ("resourceTemplates", "uriTemplate"),
    ] {
        let body = |items: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"{member}":[{items}]}}}}"#)
        };
        let ok = format!(r#"{{"x":"no","{label}":"o\u006b1"}}"#);
        becomes(&body(&format!(r#"{ok},{{"{label}":"no","title":"ok"}}"#)), &body(&ok));
        unchanged(&body(&ok));
        unchanged(&body(""));
    }
}

#[test]
fn items_without_one_readable_name_go() {
    let body = |items: &str| format!(r#"{{"id":1,"result":{{"tools":[{items}]}}}}"#);
    for item in [
        "{}",
        "1",
        "null",
        "\"ok\"",
        "[\"ok\"]",
        r#"{"name":1}"#,
        r#"{"name":null}"#,
        r#"{"Name":"ok"}"#,
        r#"{"name":"ok","NAME":"no"}"#,
        r#"{"uri":"ok"}"#,
    ] {
        becomes(&body(item), &body(""));
    }
}

#[test]
fn everything_else_passes_unchanged() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m","data":{"tools":[{"name":"no"}]}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"tools":[{"name":"no"}]}]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":[{"name":"no"}]}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":"tools"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"tools":[{"name":"no"}]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{}}}"#,
        "{}",
        "[]",
    ] {
        unchanged(body);
    }
}

#[test]
fn only_the_lists_that_were_asked_for_are_filtered() {
    let body = r#"{"id":1,"result":{"tools":[{"name":"no"}],"prompts":[{"name":"no"}]}}"#;
    let filter = |kinds| filter_list(body.as_bytes(), kinds, |_, _| false).unwrap().body;
    let prompts = filter(asked(&["ping", "prompts/list"])).unwrap();
    assert_eq!(prompts, br#"{"id":1,"result":{"tools":[{"name":"no"}],"prompts":[]}}"#);
    assert_eq!(filter(asked(&["ping", "roots/list"])), None);
    let nothing = filter_list(b"not json", ListKinds::default(), |_, _| false);
    assert_eq!(nothing, Ok(Filtered::default()));
}

#[test]
fn methods_ask_for_their_list() {
    for (method, kind) in [
        ("tools/list", Some(ListKind::Tools)),
        ("resources/list", Some(ListKind::Resources)),
        ("resources/templates/list", Some(ListKind::ResourceTemplates)),
        ("prompts/list", Some(ListKind::Prompts)),
        ("tasks/list", Some(ListKind::Tasks)),
        ("Tools/List", None),
    ] {
        assert_eq!(ListKind::of_method(method), kind);
        for other in ListKind::ALL {
            assert_eq!(asked(&[method]).contains(other), kind == Some(other));
        }
    }
}

#[test]
fn a_batch_is_filtered_whatever_its_ids() {
    becomes(
        r#"[{"id":1,"result":{"tools":[{"name":"no"},{"name":"ok"}]}}, {"id":9007199254740992,"result":{"prompts":[{"name":"no"}]}},{"id":2,"result":{}}]"#,
        r#"[{"id":1,"result":{"tools":[{"name":"ok"}]}}, {"id":9007199254740992,"result":{"prompts":[]}},{"id":2,"result":{}}]"#,
    );
}

#[test]
fn what_cannot_be_read_surely_is_an_error() {
    for body in [
        "",
        "not json",
        r#"{"id":1,"result":{"tools":[],"tools":[]}}"#,
        r#"{"id":1,"result":{"tools":[]}}{}"#,
        r#"{"id":1,"id":2,"result":{"tools":[{"name":"ok"}]}}"#,
        r#"{"id":1,"result":{"tools":[]},"res\u0075lt":{"tools":[{"name":"no"}]}}"#,
        r#"{"id":1,"result":{"tools":[{"name":"ok","x":01}]}}"#,
        r#"{"id":1,"result":{"tools":[{"name":"ok"},]}}"#,
        r#"{"id":1,"result":{"tools":[{"name":"ok","x":"\x41"}]}}"#,
        "\u{feff}{\"id\":1,\"result\":{\"tools\":[]}}",
        "7",
        "null",
        "[[]]",
        "[1]",
        r#"{"id":1,"result":{"tools":{"0":{"name":"no"}}}}"#,
        r#"{"id":1,"result":{"tools":null}}"#,
        r#"{"id":1,"Result":{"tools":[]}}"#,
        r#"{"id":1,"result":{"Tools":[]}}"#,
    ] {
        assert!(filter(body).is_err(), "{body}");
    }
}

#[test]
fn a_result_that_is_no_object_passes_only_where_it_may_answer_something_else() {
    let filter = |kinds, result: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        filter_list(body.as_bytes(), kinds, |_, _| true).map(|out| out.body)
    };
    for result in ["null", "7", r#""tools""#, "true", "[]", r#"[{"name":"no"}]"#] {
        for lists in [&["tools/list"][..], &["tools/list", "prompts/list"]] {
            assert_eq!(filter(asked(lists), result), Err(FilterError::NotAResult), "{result}");
        }
        assert_eq!(filter(asked(&["tools/list", "x"]), result), Ok(None), "{result}");
        assert_eq!(filter(ListKinds::all(), result), Ok(None), "{result}");
    }
    assert_eq!(filter(asked(&["tools/list"]), "{}"), Ok(None));
}

/// Filters one list and gives what stayed with what was noted.
fn judged(list: &[u8]) -> (Vec<u8>, Vec<String>) {
    let body = [br#"{"id":1,"result":{"tools":["#, list, b"]}}"].concat();
    let out = filter_list(&body, all(), |_, name| name.starts_with("ok")).unwrap();
    let kept = out.body.unwrap_or(body);
    let kept = kept.strip_prefix(br#"{"id":1,"result":{"tools":["#).unwrap();
    let noted = out.oddities.named.iter().map(ToString::to_string).collect();
    (kept.strip_suffix(b"]}}").unwrap().to_vec(), noted)
}

#[test]
fn a_sloppy_entry_hides_no_other() {
    const NO: &str = r#"{"name":"no"}"#;
    let deep = format!(r#"{{"name":"ok1","x":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
    for (odd, flaw) in [
        (r#"{"name":"ok1","description":"cut \ud83d"}"#, "lone surrogate at byte 28"),
        (r#"{"name":"ok1","s":{"a":1,"a":2}}"#, "key occurs twice in one object at byte 25"),
        (&deep, "nested deeper than 64 levels at byte 82"),
    ] {
        let (kept, noted) = judged(format!(r#"{{"name":"ok2"}},{NO},{odd}"#).as_bytes());
        assert_eq!(kept, format!(r#"{{"name":"ok2"}},{odd}"#).as_bytes(), "{odd}");
        let flaw = flaw.split(" at byte").next().unwrap();
        assert_eq!(noted, [format!("tools `ok1` passed unread: {flaw}")]);
    }
    let too_deep = format!(r#"{{"name":"ok1","x":{}1{}}}"#, "[".repeat(600), "]".repeat(600));
    let body = format!(r#"{{"id":1,"result":{{"tools":[{too_deep}]}}}}"#);
    assert!(filter(&body).is_err(), "deeper than any reader needs");
}

#[test]
fn entries_whose_name_is_in_doubt_are_hidden() {
    let (kept, noted) = judged(
        br#"{"name":"ok1"},{"name":"ok2"},{"name":"ok\u0031","x":1},{"name":"ok3","na\u006de":"no"}"#,
    );
    assert_eq!(kept, br#"{"name":"ok2"}"#);
    assert_eq!(
        noted,
        ["tools `ok1` hidden: two entries have the name", "tools `` hidden: no readable name"]
    );
    // A name that is lone is none; and what is not UTF-8 goes alone.
    let (kept, noted) = judged(
        b"{\"name\":\"ok\\ud800\"},{\"name\":\"ok4\",\"x\":\"\xf0\x9f\"},{\"name\":\"ok5\"}",
    );
    assert_eq!(kept, br#"{"name":"ok5"}"#);
    assert_eq!(noted.len(), 2, "{noted:?}");
    let outside = b"{\"id\":1,\"result\":{\"x\":\"\xff\",\"tools\":[]}}";
    assert!(filter_list(outside, all(), |_, _| true).is_err());
}

#[test]
fn what_is_noted_is_bounded() {
    let list = vec![r#"{"nome":1}"#; 1_000].join(",");
    let body = format!(r#"{{"id":1,"result":{{"tools":[{list}]}}}}"#);
    let odd = filter_list(body.as_bytes(), all(), |_, _| true).unwrap().oddities;
    assert_eq!((odd.hidden, odd.unread, odd.named.len()), (1_000, 0, 8));
}

fn space() -> impl Strategy<Value = String> {
    "[ \n\t]{0,2}"
}

proptest! {
    /// Builds an answer from parts, and the expected one from the parts that stay.
    #[test]
    fn what_is_kept_is_kept_byte_for_byte(
        items in proptest::collection::vec((any::<bool>(), "[a-z\"{}, \\\\é]{0,9}", space(), space()), 0..9),
        (before, after) in (space(), space()),
    ) {
        let tool = |n: usize, keep: bool, extra: &str| {
            let extra = serde_json::to_string(extra).unwrap();
            let name = if keep { "ok" } else { "no" };
            format!(r#"{{"title":{extra}, "name" :"{name}{n}"}}"#)
        };
        let wrap = |list: &str| format!(r#"{{"id":1,"result":{{"a":{{}}, "tools":{list},"b":[]}} }}"#);
        let full: Vec<String> =
            items.iter().enumerate().map(|(n, (keep, extra, a, b))| format!("{a}{}{b}", tool(n, *keep, extra))).collect();
        let body = wrap(&format!("[{before}{}{after}]", full.join(",")));
        let out = filter(&body).unwrap().unwrap_or_else(|| body.clone());

        // The frame is untouched, and exactly the kept tools are left, each as it was.
        let doc = Doc::parse(out.as_bytes()).unwrap();
        let list = doc.root().get("result").unwrap().get("tools").unwrap();
        let left: Vec<&str> = list.items().map(|v| v.raw()).collect();
        let kept: Vec<String> =
            items.iter().enumerate().filter(|(_, (keep, ..))| *keep).map(|(n, (_, extra, ..))| tool(n, true, extra)).collect();
        prop_assert_eq!(left, kept);
        prop_assert_eq!(&out, &wrap(list.raw()));
        if items.iter().all(|(keep, ..)| *keep) {
            prop_assert_eq!(out, body);
        }
    }
}

/// Filters an answer whose hints are bound to 60 000 ms.
fn kept_within(kinds: ListKinds, demanded: bool, result: &str) -> String {
    let caching = Caching { max_ttl_ms: 60_000, demanded };
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
    let out = filter_list(body.as_bytes(), kinds.kept_within(caching), |_, _| true).unwrap();
    let text = out.body.map_or(body, |out| String::from_utf8(out).unwrap());
    let result = text.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"result":"#).unwrap();
    result.strip_suffix('}').unwrap().to_owned()
}

#[test]
fn an_answer_may_be_kept_for_one_reader_and_not_for_long() {
    let check = |result: &str, expected: &str| {
        assert_eq!(kept_within(all(), false, result), expected, "{result}");
        let again = kept_within(all(), false, expected);
        assert_eq!(again, expected, "once more");
    };
    check(
        r#"{ "cacheScope" : "public", "tools":[], "ttlMs":60001,"n":1e2}"#,
        r#"{ "cacheScope" : "private", "tools":[], "ttlMs":60000,"n":1e2}"#,
    );
    for (ttl, bound) in [
        ("0", "0"),
        ("60000", "60000"),
        ("99999999999999999999999999", "60000"),
        ("1e9", "0"),
        ("-1", "0"),
        ("1.5", "0"),
        (r#""60000""#, "0"),
        ("null", "0"),
    ] {
        check(
            &format!(r#"{{"tools":[],"ttlMs":{ttl}}}"#),
            &format!(r#"{{"tools":[],"ttlMs":{bound}}}"#),
        );
    }
    for scope in [r#""shared""#, r#""PRIVATE""#, "null", "{}"] {
        check(&format!(r#"{{"cacheScope":{scope}}}"#), r#"{"cacheScope":"private"}"#);
    }
    check(r#"{"tools":[]}"#, r#"{"tools":[]}"#);
    let disguised = br#"{"result":{"tools":[],"cachescope":"public"}}"#;
    let kinds = all().kept_within(Caching { max_ttl_ms: 1, demanded: false });
    let refused = filter_list(disguised, kinds, |_, _| true);
    assert_eq!(refused, Err(FilterError::Disguised("cacheScope")));
}

#[test]
fn where_the_revision_demands_the_hints_they_are_added() {
    let check = |kinds: ListKinds, result: &str, expected: &str| {
        assert_eq!(kept_within(kinds, true, result), expected, "{result}");
    };
    check(all(), r#"{"tools":[]}"#, r#"{"cacheScope":"private","ttlMs":0,"tools":[]}"#);
    check(
        all(),
        r#"{"ttlMs":70000,"tools":[]}"#,
        r#"{"cacheScope":"private","ttlMs":60000,"tools":[]}"#,
    );
    check(
        all(),
        r#"{"cacheScope":"public","tools":[]}"#,
        r#"{"ttlMs":0,"cacheScope":"private","tools":[]}"#,
    );
    check(
        asked(&["server/discover"]),
        r#"{"supportedVersions":[]}"#,
        r#"{"cacheScope":"private","ttlMs":0,"supportedVersions":[]}"#,
    );
    // Nothing else is a list.
    check(all(), r#"{"content":[]}"#, r#"{"content":[]}"#);
    check(all(), r#"{"supportedVersions":[]}"#, r#"{"supportedVersions":[]}"#);
}

#[test]
fn tools_that_are_not_for_the_model_are_left_out_for_it() {
    let tool = |visibility: &str| {
        format!(r#"{{"name":"ok","_meta":{{"ui":{{"visibility":{visibility}}}}}}}"#)
    };
    for (visibility, shown) in [
        (r#"["app"]"#, false),
        ("[]", false),
        (r#"["Model"]"#, false),
        (r#"["app","model"]"#, true),
        (r#"["model"]"#, true),
        (r#""app""#, false),
        (r#""model""#, false),
        (r#"{"model":true}"#, false),
        ("null", false),
    ] {
        let body = format!(r#"{{"result":{{"tools":[{}]}}}}"#, tool(visibility));
        let hides = |kinds: ListKinds| filter_list(body.as_bytes(), kinds, |_, _| true).unwrap();
        assert_eq!(hides(all().for_model()).body.is_none(), shown, "{visibility}");
        assert_eq!(hides(all()).body, None, "{visibility}");
    }
    let plain = br#"{"result":{"tools":[{"name":"ok","_meta":{}},{"name":"ok2"}]}}"#;
    assert_eq!(filter_list(plain, all().for_model(), |_, _| true).unwrap().body, None);
}
