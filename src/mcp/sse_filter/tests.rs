//! Release of events, rewriting, and independence of chunks.

use super::*;
use proptest::prelude::*;

const OK: &str = r#"{"name":"ok"}"#;
const NO: &str = r#"{"name":"no"}"#;

fn fresh(max: usize) -> SseFilter<impl Fn(ListKind, &str) -> bool> {
    SseFilter::new([ListKind::Tools].into_iter().collect(), max, |_, name| name.starts_with("ok"))
}

fn run<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>) -> Result<String, SseError> {
    let mut out = Vec::new();
    let mut filter = fresh(100_000);
    for chunk in chunks {
        filter.push(chunk.as_ref(), &mut out)?;
    }
    filter.finish(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn becomes(stream: &str, expected: &str) {
    assert_eq!(run([stream.as_bytes()]).as_deref(), Ok(expected), "whole");
    assert_eq!(run(stream.as_bytes().chunks(1)).as_deref(), Ok(expected), "byte by byte");
}

fn unchanged(stream: &str) {
    becomes(stream, stream);
}

fn list(items: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{items}]}}}}"#)
}

#[test]
fn the_answer_is_filtered_and_all_else_kept() {
    let before = ": hi\n\nevent: message\nid: 7\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
    for end in ["\n", "\r\n", "\r"] {
        let event = |data: &str| {
            format!(
                "{before}event: message{end}retry:5{end}data: {data}{end}id: 8{end}{end}:x{end}"
            )
        };
        becomes(&event(&list(&format!("{OK}, {NO}"))), &event(&list(OK)));
        unchanged(&event(&list(OK)));
    }
}

#[test]
fn data_of_several_lines_is_read_as_one_text() {
    becomes(
        "data: {\"result\":\ndata: {\"tools\":[\nid: 1\ndata:{\"name\":\"no\"},\ndata: {\"name\":\ndata: \"ok\"}]}}\n\n",
        "data: {\"result\":\ndata: {\"tools\":[\ndata: {\"name\":\ndata: \"ok\"}]}}\nid: 1\n\n",
    );
    // The first line has no value and no colon.
    becomes(
        &format!("data\r\ndata: {}\r\n\r\n", list(NO)),
        &format!("data:\r\ndata:{}\r\n\r\n", list("")),
    );
    becomes(&format!("data:{}\n\n", list(NO)), &format!("data:{}\n\n", list("")));
    becomes(&format!("data:  {}\n\n", list(NO)), &format!("data:  {}\n\n", list("")));
}

#[test]
fn a_byte_order_mark_hides_nothing() {
    let stream = |tools: &str| format!("\u{feff}data: {}\n\ndata: x\n\n", list(tools));
    becomes(&stream(NO), &stream(""));
    let late = format!("\n\u{feff}data: {}\n\n", list(NO));
    unchanged(&late);
}

#[test]
fn an_unfinished_event_is_filtered_too() {
    becomes(&format!("data: {}\n", list(NO)), &format!("data: {}\n", list("")));
    becomes(&format!("data: {}", list(NO)), &format!("data: {}", list("")));
    becomes(
        "data: {\"result\":{\"tools\":[{\"name\":\"no\"},{\"name\":\ndata: \"ok\"}]}}",
        "data: {\"result\":{\"tools\":[{\"name\":\ndata: \"ok\"}]}}\n",
    );
    unchanged("data: hello");
    unchanged("id: 1");
    unchanged("");
}

#[test]
fn events_that_are_no_answers_pass_byte_for_byte() {
    for stream in [
        "data:\nid: 1\n\n",
        "data\n\n",
        "event: ping\ndata: ping\n\n",
        "data: 2026-07-28T00:00:00Z\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1,\"message\":\"m\"}}\n\n",
        "data: {\"result\":{\"prompts\":[{\"name\":\"no\"}]}}\n\n",
        "Data: {\"result\":{\"tools\":[{\"name\":\"no\"}]}}\n\n",
        " data: {\"result\":{\"tools\":[{\"name\":\"no\"}]}}\n\n",
        "dataset: {\"a\":1,\"a\":1}\n\n",
        "\n\n\r\r\n\r\n",
        ":\r\n:\r\n",
    ] {
        unchanged(stream);
    }
    let mut filter = SseFilter::new(ListKinds::default(), 1000, |_, _| false);
    let stream = format!("data: {}\n\ndata: {{not json\n\n", list(NO));
    let mut out = Vec::new();
    filter.push(stream.as_bytes(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), stream);
}

#[test]
fn data_that_a_lenient_reader_could_take_for_an_answer_breaks_the_stream() {
    for data in [
        "{",
        r#"{"result":{"tools":[],"tools":[]}}"#,
        "\u{feff}{\"result\":{}}",
        "\u{c}[1]",
        r#"{"result":{"tools":{}}}"#,
        "[7]",
    ] {
        let mut filter = fresh(1000);
        let mut out = Vec::new();
        let stream = format!("data: fine\n\nid: 1\ndata: {data}\n\ndata: more\n\n");
        let failed = filter.push(stream.as_bytes(), &mut out);
        assert!(matches!(failed, Err(SseError::Filter(_))), "{data} {failed:?}");
        assert_eq!(out, b"data: fine\n\nid: 1\n");
        assert_eq!(filter.push(b"data: more\n\n", &mut out), Err(SseError::Broken));
        assert_eq!(filter.finish(&mut out), Err(SseError::Broken));
        assert_eq!(out, b"data: fine\n\nid: 1\n");
    }
    let mut out = Vec::new();
    let bad_utf8 = b"data: {\"result\":{\"x\":\"\xff\",\"tools\":[]}}\n\n";
    assert!(fresh(1000).push(bad_utf8, &mut out).is_err());
    assert!(out.is_empty());
    let bad_entry = b"data: {\"result\":{\"tools\":[{\"name\":\"ok\xff\"}]}}\n\n";
    fresh(1000).push(bad_entry, &mut out).unwrap();
    assert_eq!(out, b"data: {\"result\":{\"tools\":[]}}\n\n", "it goes alone");
}

#[test]
fn what_may_leave_leaves_at_once() {
    let mut filter = fresh(1000);
    let mut leaves = |chunk: &str, expected: &str| {
        let mut out = Vec::new();
        filter.push(chunk.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{chunk:?}");
    };
    leaves(":\r", ":\r");
    leaves("\n", "\n");
    leaves("id: 1\nevent: message\n", "id: 1\nevent: message\n");
    leaves("dat", "");
    leaves("a: 1\n", "");
    leaves("id: 2\n", "");
    leaves("\n", "data: 1\nid: 2\n\n");
    leaves("data: 2\r", "");
    leaves("\r", "data: 2\r\r");
    leaves("\ndata: 3\r\n\r", "\ndata: 3\r\n\r");
}

#[test]
fn an_event_over_the_bound_is_an_error_and_lines_that_pass_do_not_count() {
    let mut out = Vec::new();
    let mut filter = fresh(20);
    for _ in 0..100 {
        filter.push(b": keep-alive\nid: 1\n", &mut out).unwrap();
    }
    filter.push(b"data: 123456789\n\n", &mut out).unwrap();
    let too_large = Err(SseError::TooLarge(EventTooLarge { max_bytes: 20 }));
    assert_eq!(filter.push(b"data: 123456789\nid: 1", &mut out), too_large);
    assert_eq!(fresh(20).push(&[b'x'; 21], &mut out), too_large);
}

fn event() -> impl Strategy<Value = String> {
    let line_end = prop_oneof![Just("\n"), Just("\r"), Just("\r\n")];
    let answer = prop_oneof![
        Just(list(OK)),
        Just(list(NO)),
        Just(list(&format!("{NO} , {OK},{NO}"))),
        Just("{\"result\":\n{\"tools\":[{\"name\":\n\"no\"},\n{\"name\":\"ok\"}]}}".to_owned()),
        Just(r#"{"method":"notifications/x","params":{"tools":[]}}"#.to_owned()),
        Just("plain".to_owned()),
        Just(String::new()),
    ];
    (answer, line_end, "(id: [0-9]|:|event: message|retry)?").prop_map(|(data, end, other)| {
        let data = format!("data: {}{end}", data.replace('\n', &format!("{end}data: ")));
        let other = if other.is_empty() { other } else { format!("{other}{end}") };
        format!("{other}{data}{other}{end}")
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_output(
        events in proptest::collection::vec(event(), 0..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = events.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|w| &stream.as_bytes()[w[0]..w[1]]);
        let chunked = run(chunks).unwrap();
        prop_assert_eq!(&chunked, &run([stream.as_bytes()]).unwrap());
        prop_assert!(!chunked.contains("\"no\""));
        prop_assert_eq!(chunked.matches("\"ok\"").count(), stream.matches("\"ok\"").count());
    }

    #[test]
    fn a_stream_without_answers_is_untouched(
        chunks in proptest::collection::vec("[\r\n:dat \u{feff}x]{0,8}", 0..12),
    ) {
        let out = run(chunks.iter().map(String::as_bytes)).unwrap();
        prop_assert_eq!(out, chunks.concat());
    }
}

/// Notifications about `x:ok` and those of lists pass.
fn noticed(stream: &str, expected: &str) {
    let whole = [stream.as_bytes()];
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    for chunks in [&whole[..], &bytes] {
        let passes: Passes = Box::new(|notice| match notice {
            Notice::Updated(uri) => uri == Some("x:ok"),
            Notice::Task(id) => id == Some("t-ok"),
            Notice::Asks(asked) => asked
                .is_some_and(|asked| asked.urls.iter().all(|url| url.as_deref() == Some("u:ok"))),
            Notice::Acknowledged(_) => true,
        });
        let mut filter = fresh(100_000).with_notices(Some(passes));
        let mut out = Vec::new();
        for chunk in chunks {
            filter.push(chunk, &mut out).unwrap();
        }
        filter.finish(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{stream}");
    }
}

fn updated(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{params}}}"#)
}

#[test]
fn a_notification_that_may_not_pass_leaves_its_other_lines() {
    let event = |data: &str| format!("id: 7\nevent: message\ndata: {data}\nretry: 5\n\n");
    let (ok, no) = (updated(r#"{"uri":"x:ok"}"#), updated(r#"{"uri":"x:no"}"#));
    noticed(&event(&ok), &event(&ok));
    let gone = "id: 7\nevent: message\nretry: 5\n\n";
    for form in [
        no.clone(),
        updated("{}"),
        updated("null"),
        updated(r#"{"uri":7}"#),
        updated(r#"{"uri":"x:ok","URI":"x:no"}"#),
        updated(r#"{"uri":"x:ok","uri":"x:no"}"#),
        no.replace('/', "\\/"),
        no.replace("updated", "\\u0075pdated"),
        no.replace("method", "Method"),
        no.replace("\"x:no\"", "\"x:no\\ud800\""),
        no.replace("{\"uri", "\ndata: {\"uri"),
    ] {
        noticed(&event(&form), gone);
    }
    let batch = format!("[{no}, {ok},{no}]");
    noticed(&event(&batch), &event(&format!("[{ok}]")));
    noticed(&event(&format!("[{no},{no}]")), gone);
}

#[test]
fn a_notification_about_a_task_is_judged_by_its_id() {
    for method in ["notifications/tasks", "notifications/tasks/status"] {
        let event = |id: &str| {
            let params = format!(r#"{{"taskId":{id},"status":"working"}}"#);
            format!("data: {{\"method\":\"{method}\",\"params\":{params}}}\n\n")
        };
        noticed(&event("\"t-ok\""), &event("\"t-ok\""));
        for form in ["\"t-no\"", "7", "\"t-ok\",\"taskid\":\"t-no\""] {
            noticed(&event(form), "\n");
        }
    }
    let both = r#"data: {"method":"notifications/tasks","method":"notifications/resources/updated","params":{"uri":"x:ok","taskId":"t-no"}}"#;
    noticed(&format!("{both}\n\n"), "\n");
}

#[test]
fn a_question_that_may_not_be_asked_leaves_its_other_lines() {
    let event = |data: &str| format!("id: 7\ndata: {data}\n\n");
    let ask = |url: &str| {
        format!(
            r#"{{"id":1,"method":"elicitation/create","params":{{"mode":"url","url":"{url}"}}}}"#
        )
    };
    let error = |url: &str| {
        format!(r#"{{"id":1,"error":{{"data":{{"elicitations":[{{"url":"{url}"}}]}}}}}}"#)
    };
    let task = |id: &str, url: &str| {
        let asked = ask(url);
        format!(
            r#"{{"method":"notifications/tasks","params":{{"taskId":"{id}","inputRequests":{{"a":{asked}}}}}}}"#
        )
    };
    for ok in [ask("u:ok"), error("u:ok"), task("t-ok", "u:ok")] {
        noticed(&event(&ok), &event(&ok));
    }
    for no in [
        ask("u:no"),
        ask("u:no").replace("elicit", "\\u0065licit"),
        ask("u:no").replace("method", "Method"),
        ask("u:ok").replace("\"url\":", "\"url\":\"u:no\",\"url\":"),
        error("u:no"),
        task("t-ok", "u:no"),
        task("t-no", "u:ok"),
    ] {
        noticed(&event(&no), "id: 7\n\n");
    }
    noticed(
        &event(&format!("[{},{}]", ask("u:no"), ask("u:ok"))),
        &event(&format!("[{}]", ask("u:ok"))),
    );
}

#[test]
fn what_is_no_such_notification_passes_whatever_its_form() {
    for data in [
        r#"{"result":{"text":"notifications/resources/updated \u003c"}}"#,
        r#"{"result":{"text":"updated \ud800","n":NaN}}"#,
        r#"{"method":"notifications/resources/list_changed"}"#,
        r#"{"method":"notifications/tools/updated","params":{"uri":"x:no"}}"#,
        "notifications/resources/updated",
    ] {
        let stream = format!("data: {data}\n\n");
        let mut filter = SseFilter::new(ListKinds::default(), 1_000, |_, _| true)
            .with_notices(Some(Box::new(|_| false)));
        let mut out = Vec::new();
        filter.push(stream.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), stream);
    }
}

#[test]
fn an_acknowledgement_says_which_lists_are_watched() {
    use crate::mcp::list_changes::ListChanges;
    let said = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&said);
    let passes: Passes = Box::new(move |notice| {
        if let Notice::Acknowledged(lists) = notice {
            noted.lock().push(lists);
        }
        true
    });
    let mut filter = fresh(1_000).with_notices(Some(passes));
    let ack = r#"data: {"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":false,"resourcesListChanged":"true"}}}"#;
    let mut out = Vec::new();
    filter.push(format!("{ack}\n\n").as_bytes(), &mut out).unwrap();
    assert_eq!(*said.lock(), [ListChanges::new(true, false, false)]);
}
