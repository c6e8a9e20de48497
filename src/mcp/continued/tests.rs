use proptest::prelude::*;

use super::*;
use crate::mcp::plain::nearly;

fn answers_of(chunks: &[&[u8]]) -> Result<Vec<Answer>, Unreadable> {
    let mut outline = Outline::new(true);
    for chunk in chunks {
        outline.push(chunk)?;
    }
    outline.finish()
}

fn answer_of(chunks: &[&[u8]]) -> Result<Option<Answer>, Unreadable> {
    let mut answers = answers_of(chunks)?;
    assert!(answers.len() < 2, "{answers:?}");
    Ok(answers.pop())
}

fn json(chunks: &[&[u8]]) -> Result<Option<Task>, Unreadable> {
    Ok(answer_of(chunks)?.map(task_in))
}

fn task_in(answer: Answer) -> Task {
    match answer {
        Answer::Task(task) => task,
        Answer::Asks(questions) => panic!("{questions:?}"),
    }
}

fn events(chunks: &[&[u8]]) -> Result<Vec<Task>, Unreadable> {
    let (mut reader, mut found) = (EventReader::new(true), Vec::new());
    for chunk in chunks {
        reader.push(chunk, |answer| found.push(task_in(answer)))?;
    }
    reader.finish(|answer| found.push(task_in(answer)))?;
    Ok(found)
}

fn found(id: &str, status: Option<TaskStatus>, ttl_ms: Option<u64>, begins: bool) -> Task {
    Task { id: id.to_owned(), status, ttl_ms, begins, asks: None }
}

const MODERN: &str = r#"{"jsonrpc":"2.0","id":"{\"result\":{","result":{"x":[{"taskId":"no"},"]}"],
 "resultType" : "task", "taskId":"t\u0031","status":"working","ttlMs":60000,"_meta":{"task":{}}}}"#;

#[test]
fn a_task_is_found_in_the_result_and_nowhere_else() {
    use TaskStatus::{Completed, Working};
    let check = |body: &str, expected: Option<Task>| {
        assert_eq!(json(&[body.as_bytes()]), Ok(expected), "{body}");
    };
    check(MODERN, Some(found("t1", Some(Working), Some(60_000), true)));
    check(
        r#"{"result":{"task":{"taskId":"a","status":"working","ttl":null,"pollInterval":5}}}"#,
        Some(found("a", Some(Working), None, true)),
    );
    check(
        r#"{"result":{"taskId":"a","status":"completed","result":{"taskId":"b"},"resultType":"complete"}}"#,
        Some(found("a", Some(Completed), None, false)),
    );
    for none in [
        r#"{"result":{"content":[{"type":"text","text":"{\"taskId\":\"a\"}"}],"isError":false}}"#,
        r#"{"result":{"structuredContent":{"taskId":"a","resultType":"task"}}}"#,
        r#"{"error":{"code":1,"data":{"taskId":"a"}},"id":1}"#,
        r#"{"method":"x","params":{"taskId":"a"}}"#,
        r#"{"result":[{"taskId":"a"}]}"#,
        r#"[[{"result":{"taskId":"a"}}]]"#,
        r#"["result",{"x":{"taskId":"a"}},7]"#,
        r#"{"result":{"task":"a"}}"#,
        r#"{"taskId":"a","result":true}"#,
        "",
        "taskId",
        "{",
    ] {
        check(none, None);
    }
}

#[test]
fn questions_say_what_they_need() {
    use Need::{Form, Other, Roots, Sampling, Url};
    let check = |questions: &str, needs: &[Need], urls: &[Option<&str>]| {
        let needs = needs.iter().copied().collect();
        let body = format!(
            r#"{{"result":{{"resultType":"input_required","requestState":"s\u0031","inputRequests":{questions}}}}}"#
        );
        let urls = urls.iter().map(|url| url.map(str::to_owned)).collect();
        let state = Some("s1".to_owned());
        let asks = Questions { state, needs, urls, ..Questions::default() };
        assert_eq!(answer_of(&[body.as_bytes()]), Ok(Some(Answer::Asks(asks))), "{body}");
    };
    check("{}", &[], &[]);
    check(
        r#"{"a":{"method":"elicitation/create","params":{}},"b":{"method":"sampling/createMessage"},
            "c":{"method":"elicitation/create","params":{"mode":"url"}},"d":{"method":"roots/list"},
            "h":{"method":"elicitation/create","params":{"mode":"url","url":"https:\/\/a"}},
            "e":{"method":"elicitation/create","params":{"mode":"other"}},"f":{"method":"x"},"g":7}"#,
        &[Form, Sampling, Url, Roots, Other],
        &[None, Some("https://a")],
    );
    let complete = r#"{"result":{"resultType":"complete","requestState":"s","inputRequests":{}}}"#;
    assert_eq!(answer_of(&[complete.as_bytes()]), Ok(None));
    let task = r#"{"result":{"resultType":"complete","taskId":"t","status":"input_required",
        "inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"url","url":"u"}}}}}"#;
    let waits = task_in(answer_of(&[task.as_bytes()]).unwrap().unwrap());
    let asks = by_url(&["u"]);
    assert_eq!((waits.status, waits.asks), (Some(TaskStatus::InputRequired), Some(asks)));
}

fn by_url(urls: &[&str]) -> Questions {
    let urls = urls.iter().map(|url| Some((*url).to_owned())).collect();
    Questions { needs: [Need::Url].into_iter().collect(), urls, ..Questions::default() }
}

#[test]
fn requests_errors_and_notices_of_a_server_ask_too() {
    let check = |body: &str, expected: &[Questions]| {
        for reads_results in [true, false] {
            let mut outline = Outline::new(reads_results);
            outline.push(body.as_bytes()).unwrap();
            let expected: Vec<_> = expected.iter().cloned().map(Answer::Asks).collect();
            assert_eq!(outline.finish(), Ok(expected), "{body}");
        }
        let doc = Doc::parse(body.as_bytes()).unwrap();
        if doc.root().kind() == Kind::Object {
            assert_eq!(asked_by(doc.root()), Ok(expected.first().cloned()), "{body}");
        }
    };
    let need = |need| Questions { needs: [need].into_iter().collect(), ..Questions::default() };
    let request = r#"{"jsonrpc":"2.0","params":{"url":"u","mode":"url","message":"m"},
        "id":0,"method":"elicitation\/create"}"#;
    check(request, &[by_url(&["u"])]);
    check(r#"{"method":"elicitation/create","id":"a"}"#, &[need(Need::Form)]);
    check(r#"{"id":null,"method":"roots/list"}"#, &[need(Need::Roots)]);
    check(
        r#"{"id":1,"method":"sampling/createMessage","params":{"messages":[{"url":1}]}}"#,
        &[need(Need::Sampling)],
    );
    let error = r#"{"id":1,"error":{"code":-32042,"message":"m","data":{"x":[{}],"elicitations":
        [{"mode":"url","elicitationId":"e","url":"u"},{"url":"v"}]}}}"#;
    check(error, &[by_url(&["u", "v"])]);
    check(&format!("[7, {error},\"x\" ,{request}, {{}}]"), &[by_url(&["u", "v"]), by_url(&["u"])]);
    let notice = r#"{"method":"notifications/tasks","params":{"taskId":"t","inputRequests":
        {"a":{"method":"elicitation/create","params":{"mode":"url","url":"u"}}}}}"#;
    check(notice, &[by_url(&["u"])]);
    for none in [
        r#"{"id":1,"method":"ping"}"#,
        r#"{"method":"elicitation/create","params":{"mode":"url","url":"u"}}"#,
        r#"{"id":1,"error":{"code":1,"message":"elicitations","data":[{"elicitations":[]}]}}"#,
        r#"{"id":1,"error":{"code":1,"elicitations":[{"url":"u"}]}}"#,
        r#"{"method":"x","params":[{"inputRequests":{}}]}"#,
        r#"{"id":1,"result":{"content":[{"method":"elicitation/create","id":1}]}}"#,
    ] {
        check(none, &[]);
    }
}

#[test]
fn a_form_says_what_its_fields_are_called() {
    let check = |schema: &str, fields: &[&str], wants_password: bool| {
        let body = format!(
            r#"{{"id":1,"method":"elicitation/create","params":{{"requestedSchema":{schema}}}}}"#
        );
        let Some(Answer::Asks(asked)) = answer_of(&[body.as_bytes()]).unwrap() else {
            panic!("{body}")
        };
        assert_eq!((asked.fields, asked.wants_password), (strings(fields), wants_password));
    };
    check(
        r#"{"type":"object","properties":{"api_key":{"type":"string","title":"Your key"}}}"#,
        &["api_key", "Your key"],
        false,
    );
    check(r#"{"properties":{"a":{"format":"password"}}}"#, &["a"], true);
    check(r#"{"allOf":[{"properties":{"b":{"properties":{"c":{}}}}}]}"#, &["b", "c"], false);
    check(r#"{"properties":{"a":{"oneOf":[{"const":"p","title":"Password"}]}}}"#, &["a"], false);
    check("7", &[], false);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn what_readers_could_read_differently_is_an_error() {
    for (body, key) in [
        (r#"{"id":1,"Method":"elicitation/create"}"#, "method"),
        (r#"{"ID":1,"method":"elicitation/create"}"#, "id"),
        (r#"{"id":1,"method":"elicitation/create","params":{"Mode":"url","url":"u"}}"#, "mode"),
        (r#"{"id":1,"method":"elicitation/create","params":{"mode":"url","URL":"u"}}"#, "url"),
        (r#"{"error":{"Data":{}}}"#, "data"),
        (r#"{"error":{"data":{"Elicitations":[]}}}"#, "elicitations"),
        (r#"{"error":{"data":{"elicitations":[{"Url":"u"}]}}}"#, "url"),
        (r#"{"id":1,"method":"roots/list","params":{"InputRequests":{}}}"#, "inputRequests"),
    ] {
        assert_eq!(answer_of(&[body.as_bytes()]), Err(Unreadable::Disguised(key)), "{body}");
    }
    let twice = r#"{"result":{"taskId":"a","taskId":"b"}}"#;
    assert!(matches!(json(&[twice.as_bytes()]), Err(Unreadable::NotJson(_))));
    let twice = r#"{"result":{"taskId":"a"},"result":{"taskId":"b"}}"#;
    assert!(matches!(json(&[twice.as_bytes()]), Err(Unreadable::NotJson(_))));
    let case = r#"{"result":{"TaskID":"a"}}"#;
    assert_eq!(json(&[case.as_bytes()]), Err(Unreadable::Disguised("taskId")));
    for id in ["7", "\"\"", "null", &format!("\"{}\"", "x".repeat(MAX_TASK_ID_BYTES + 1))] {
        let body = format!(r#"{{"result":{{"taskId":{id}}}}}"#);
        assert_eq!(json(&[body.as_bytes()]), Err(Unreadable::TaskId), "{id}");
    }
    let long = format!(r#"{{"result":{{"task":"{}"}}}}"#, "x".repeat(1_100_000));
    assert!(matches!(json(&[long.as_bytes()]), Err(Unreadable::TooLarge(_))));
    let long = format!(r#"{{"result":{{"text":"{}"}}}}"#, "x".repeat(300_000));
    assert_eq!(json(&[long.as_bytes()]), Ok(None));
}

#[test]
fn each_message_of_a_stream_is_read() {
    let stream = ": hello\n\ndata: {\"method\":\"x\"}\n\nevent: message\nid: 1\n\
                  data: {\"result\":{\"taskId\":\ndata:\"a\"}}\n\ndata\ndata:{\"result\":{\"taskId\":\"b\"}}";
    let ids = |text: &str| {
        let found = events(&[text.as_bytes()]).unwrap();
        found.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(stream), ["a", "b"]);
    assert_eq!(ids(&stream.replace('\n', "\r\n")), ["a", "b"]);
    assert_eq!(ids(&format!("\u{feff}{}", stream.trim_start_matches(": hello\n\n"))), ["a", "b"]);
    assert_eq!(ids("database: {\"result\":{\"taskId\":\"a\"}}\n\n"), [""; 0]);
}

proptest! {
    #[test]
    fn chunks_may_fall_anywhere(cuts in proptest::collection::vec(0..MODERN.len(), 0..6)) {
        let stream = format!("data: {}\r\n\r\n", MODERN.replace('\n', ""));
        let cut = |text: &'static str| cut_at(text.as_bytes(), &cuts);
        prop_assert_eq!(json(&cut(MODERN)), json(&[MODERN.as_bytes()]));
        prop_assert_eq!(events(&cut_at(stream.as_bytes(), &cuts)).unwrap().len(), 1);
    }

    #[test]
    fn a_plain_answer_tells_at_one_look_what_it_tells_byte_by_byte(answer in nearly::plain()) {
        let bytes: Vec<&[u8]> = answer.chunks(1).collect();
        prop_assert_eq!(answers_of(&[&answer]), answers_of(&bytes), "{}", answer.escape_ascii());
    }
}

fn cut_at<'t>(text: &'t [u8], cuts: &[usize]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = cuts.to_vec();
    cuts.sort_unstable();
    let mut from = 0;
    let mut chunks = Vec::new();
    for cut in cuts {
        chunks.push(&text[from..cut]);
        from = cut;
    }
    chunks.push(&text[from..]);
    chunks
}
