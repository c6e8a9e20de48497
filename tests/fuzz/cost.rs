//! The law of cost: at every stage and every size, a byte of a hostile text costs a bounded multiple of a
//! byte of plain text.
//!
//! Each stage reads the same table of texts, at sizes from 1 KiB to `COST_BYTES` (16 KiB unless set), and
//! is compared with itself on plain text in the same run, by the bytes that it reads. A stage's bound
//! stands in its row.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbiter::audit::redact::Redactor;
use arbiter::credentials::{Content, Patterns, Scrubber, SseScrubber, scrub_header_value};
use arbiter::decode::{Bounds, Decoder};
use arbiter::firewall::agent::{Agent, AgentId, TrustLevel};
use arbiter::firewall::policy::{Asked, Facts, Target};
use arbiter::json::Doc;
use arbiter::mcp::filter::{ListKinds, filter_list};
use arbiter::mcp::message;
use arbiter::mcp::outcome::{Answers, Carrier};
use arbiter::mcp::sse_filter::SseFilter;
use arbiter::proxy::head::{HeadSize, Scan};
use bytes::{Bytes, BytesMut};

use super::mixed::mixed;
use super::testkit;

const SECRETS: [&str; 5] = [
    "tok_live_4f9aC2e7B1d8Kq3Z",
    "S3cr3t-P@ss/w+rd=Zq9&x y",
    "pa\"ss\\wo'rd{}[]:,<>&\u{e9}",
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX\n-----END KEY-----",
    "12345678",
];

const PLAIN: &str = "The quick brown fox jumps over the lazy dog, and the town agreed to meet. ";

/// Pieces that are repeated: each escape of each coding, over each other, and starts of secrets.
const PIECES: &[&str] = &[
    "-----",
    "&amp;",
    "&#38;",
    "&#x26;",
    "&#0",
    "&a",
    "&",
    "&amp;amp;",
    "%25",
    "%2525",
    "%25%32%35",
    "%2d",
    "%2",
    "%",
    "+",
    "\\",
    "\\\\",
    "\\\\u005c",
    "\\u005c",
    "\\u0026",
    "\\n",
    "\\x5c",
    "\\ud83d\\u",
    "QUJD\r\n",
    "LS0t\\r\\n",
    "61:",
    "2d2d",
    "-----BEGIN KEY-----\n",
    "tok_live",
    "%2d%2d%2d%2d%2d%42%45%47",
    "&amp;%26\\u0026",
    "%5c%5c",
    "%26%23%33%38%3b",
    "pa\"ss\\\\\\\\\\\\\\\\",
    "\\%",
    "%\\",
    "&\\",
    "%%374",
    "\\\\\\\"",
    "password=",
    "a=b&",
    "Bearer ",
    "token: ",
    "http://a:b@c/?k=v ",
    "ABaABa_",
    "{\"k\":",
    "[",
    "12345678,",
    "1,",
    "\u{ff50}",
    "../",
    "%2e%2e/",
    "e\u{301}",
    "\t",
    "\u{0}",
];

fn repeated(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len() + 1)
}

/// Work of one stage on one text, ready to be measured.
struct Work {
    /// Bytes that are read, which may be more than the text has: JSON escapes some of it.
    bytes: usize,
    run: Box<dyn Fn()>,
}

fn work(bytes: usize, run: impl Fn() + 'static) -> Work {
    Work { bytes, run: Box::new(run) }
}

/// One stage, and how it is prepared for a text.
struct Stage {
    name: &'static str,
    /// Most times the cost of plain text, in the build that the tests use.
    most: u32,
    /// Bound of an optimised build; the figures are only shown if there is none.
    optimised: Option<u32>,
    /// Largest text that the stage is given in practice.
    largest: usize,
    prepare: fn(&str) -> Work,
}

const WHOLE: usize = usize::MAX;

/// Bounds, about one and a half times what was measured: debug builds in the tests, optimised ones in
/// `tests/run long cost`.
///
/// The aim is 8. Two kinds of stages miss it, because plain text costs them next to nothing: the parser passes
/// over a plain string many bytes at a time, at a tenth of a nanosecond a byte, and the scrubber over all that no
/// secret can start with. A value, an escape or a reading is work for each byte, a bounded number of times.
const STAGES: &[Stage] = &[
    Stage { name: "parse", most: 48, optimised: Some(32), largest: WHOLE, prepare: parse },
    Stage {
        name: "parse structure",
        most: 80,
        optimised: Some(32),
        largest: WHOLE,
        prepare: structure,
    },
    Stage { name: "list filter", most: 48, optimised: None, largest: WHOLE, prepare: list },
    Stage { name: "scrub body", most: 40, optimised: Some(60), largest: WHOLE, prepare: body },
    Stage {
        name: "scrub events",
        most: 48,
        optimised: Some(80),
        largest: 1 << 20,
        prepare: events,
    },
    Stage {
        name: "scrub header",
        most: 56,
        optimised: Some(80),
        largest: 1 << 16,
        prepare: header,
    },
    Stage { name: "redact", most: 20, optimised: None, largest: 1 << 20, prepare: redact },
    Stage {
        name: "gzip",
        most: 12,
        optimised: None,
        largest: WHOLE,
        prepare: |text| coded(text, "gzip"),
    },
    Stage {
        name: "deflate",
        most: 12,
        optimised: None,
        largest: WHOLE,
        prepare: |text| coded(text, "deflate"),
    },
    Stage {
        name: "br",
        most: 12,
        optimised: None,
        largest: WHOLE,
        prepare: |text| coded(text, "br"),
    },
    Stage {
        name: "zstd",
        most: 12,
        optimised: None,
        largest: WHOLE,
        prepare: |text| coded(text, "zstd"),
    },
    Stage {
        name: "list filter, events",
        most: 20,
        optimised: None,
        largest: 1 << 20,
        prepare: list_events,
    },
    Stage { name: "outcome", most: 20, optimised: None, largest: WHOLE, prepare: outcome },
    Stage { name: "policies", most: 20, optimised: None, largest: WHOLE, prepare: policies },
    Stage { name: "head", most: 8, optimised: None, largest: 1 << 15, prepare: head },
];

impl Stage {
    fn bound(&self) -> Option<u32> {
        if cfg!(debug_assertions) { Some(self.most) } else { self.optimised }
    }
}

fn patterns() -> Arc<Patterns> {
    Arc::new(Patterns::new(SECRETS.iter().map(|secret| secret.as_bytes())))
}

/// The text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn call(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"read_file","arguments":{arguments}}}}}"#
    )
}

fn length(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

fn parse(text: &str) -> Work {
    let bodies =
        [call(&format!("{{\"a\":\"{text}\"}}")), call(&format!("{{\"a\":{}}}", quoted(text)))];
    work(length(&bodies), move || {
        for body in &bodies {
            if let Ok(doc) = Doc::parse(body.as_bytes()) {
                black_box(message::read(&doc).is_ok());
            }
        }
    })
}

/// The text as the beginning of an array, and as a key; what is no JSON ends the parse.
fn structure(text: &str) -> Work {
    let bodies = [call(&format!("[{text}0]")), call(&format!("{{{}:1}}", quoted(text)))];
    work(length(&bodies), move || {
        for body in &bodies {
            if let Ok(doc) = Doc::parse(body.as_bytes()) {
                black_box(message::read(&doc).is_ok());
            }
        }
    })
}

fn redact(text: &str) -> Work {
    let redactor = Redactor::new(&[], false).unwrap();
    let known = Arc::new(Patterns::new([]));
    let documents = [format!("{{\"a\":{}}}", quoted(text)), format!("{{{}:1}}", quoted(text))];
    work(length(&documents), move || {
        for document in &documents {
            let doc = Doc::parse(document.as_bytes()).unwrap();
            black_box(redactor.redact(doc.root(), 1 << 20, &known));
        }
    })
}

fn scrub(patterns: &Arc<Patterns>, text: &Bytes) {
    let mut scrubber = Scrubber::new(Arc::clone(patterns), Content::Json);
    for chunk in text.chunks(1 << 14) {
        black_box(scrubber.push(text.slice_ref(chunk)));
    }
    black_box(scrubber.finish());
}

fn body(text: &str) -> Work {
    let (patterns, text) = (patterns(), Bytes::copy_from_slice(text.as_bytes()));
    work(text.len(), move || scrub(&patterns, &text))
}

fn events(text: &str) -> Work {
    let patterns = patterns();
    let event = Bytes::from(format!("data: {text}\n\n"));
    work(event.len(), move || {
        let mut scrubber = SseScrubber::new(Arc::clone(&patterns), 1 << 22);
        black_box(scrubber.push(event.clone()).unwrap());
        black_box(scrubber.finish().unwrap());
    })
}

fn header(text: &str) -> Work {
    let (patterns, text) = (patterns(), text.to_owned());
    work(text.len(), move || {
        black_box(scrub_header_value(&patterns, text.as_bytes()));
    })
}

fn compressed(text: &[u8], coding: &str) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 1, 18).write_all(text).unwrap();
            out
        }
        _ => zstd::encode_all(text, 1).unwrap(),
    }
}

/// Undoes the coding alone: what comes out is for the scrubber's own rows.
fn coded(text: &str, coding: &'static str) -> Work {
    let packed = compressed(text.as_bytes(), coding);
    let most = text.len() as u64;
    work(text.len(), move || {
        let bounds = Bounds { total_bytes: Some(most), chunk_bytes: most, ratio: 1 << 20 };
        let mut decoder = Decoder::for_coding(coding, bounds).unwrap();
        let mut out = BytesMut::new();
        decoder.push(&packed, &mut out).unwrap();
        decoder.finish().unwrap();
        black_box(out);
    })
}

fn listed(text: &str) -> String {
    let mut tools = String::new();
    for name in ["ok", "no"] {
        write!(
            tools,
            "{}{{\"name\":\"{name}\",\"description\":{}}}",
            if tools.is_empty() { "" } else { "," },
            quoted(text)
        )
        .unwrap();
    }
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{tools}]}}}}"#)
}

fn list(text: &str) -> Work {
    let answer = listed(text);
    work(answer.len(), move || {
        black_box(
            filter_list(answer.as_bytes(), ListKinds::all(), |_, name| name == "ok").unwrap(),
        );
    })
}

fn list_events(text: &str) -> Work {
    let event = format!("event: message\ndata: {}\n\n", listed(text));
    work(event.len(), move || {
        let mut filter = SseFilter::new(ListKinds::all(), 1 << 24, |_, name: &str| name == "ok");
        let mut out = Vec::new();
        filter.push(event.as_bytes(), &mut out).unwrap();
        filter.finish(&mut out).unwrap();
        black_box(out);
    })
}

fn outcome(text: &str) -> Work {
    let asked = call("{}");
    let answer = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{}],"isError":false}}}}"#,
        quoted(text)
    );
    let answers = [answer, format!("{{\"result\":{text}")];
    work(length(&answers), move || {
        let doc = Doc::parse(asked.as_bytes()).unwrap();
        for answer in &answers {
            let mut outcomes = Answers::to(&message::read(&doc).unwrap()).unwrap();
            outcomes.begin(Carrier::Json);
            outcomes.push(answer.as_bytes());
            black_box(outcomes.whole());
        }
    })
}

const POLICIES: &str = r#"
[[policies]]
id = "regexes"
effect = "deny"
allowed_tools = ["read_file"]
[[policies.parameter_constraints]]
key = "a"
regex = '(?is)(.*[/\\])?\.(ssh|aws|gnupg|kube)([/\\].*)?|(.*[/\\])?id_(rsa|ecdsa)[^/\\]*|.*\.(pem|key)|.*%[0-9a-f]{2}x.*'

[[policies]]
id = "words"
effect = "allow"
allowed_tools = ["read_file"]
[[policies.parameter_constraints]]
key = "a"
regex = '(\w+\s?)*([^\w]+)*end'
"#;

fn policies(text: &str) -> Work {
    let set = testkit::policies(POLICIES);
    let arguments = format!("{{\"a\":{}}}", quoted(text));
    let agent = Agent {
        owner: "ann".into(),
        trust: TrustLevel::Verified,
        ..testkit::agent(AgentId::parse("7f3c2a10-1111-4222-8333-444455556666").unwrap())
    };
    let principal = testkit::principal();
    work(arguments.len(), move || {
        let facts = Facts { agent: &agent, principal: &principal, intent: Some("read the logs") };
        let doc = Doc::parse(arguments.as_bytes()).unwrap();
        let asked = Asked::of(Target::Tool("read_file")).with_arguments(Some(doc.root()));
        black_box(set.evaluate(&facts, &asked).policy().map(|policy| policy.id.len()));
    })
}

fn head(text: &str) -> Work {
    let head = format!("POST /mcp HTTP/1.1\r\nHost: a\r\nA: {text}\r\n\r\n");
    work(head.len(), move || {
        black_box(Scan::default().look(head.as_bytes(), HeadSize::default()));
    })
}

/// Seconds for a byte: the least of several runs, each long enough to be measured.
fn seconds(work: &Work) -> f64 {
    let run = |times: u32| {
        let start = Instant::now();
        for _ in 0..times {
            (work.run)();
        }
        start.elapsed() / times
    };
    let once = run(1);
    let times = Duration::from_micros(50).as_nanos() / once.as_nanos().max(1);
    let times = u32::try_from(times).unwrap_or(1).max(1);
    let least = (0..3).map(|_| run(times)).min().unwrap().min(once);
    least.as_secs_f64() / f64::from(u32::try_from(work.bytes).unwrap())
}

/// Seconds for a byte of plain text, and the multiples of it for one stage at one size, the greatest first.
fn multiples(stage: &Stage, size: usize) -> (f64, Vec<(String, f64)>) {
    let unit = seconds(&(stage.prepare)(&repeated(PLAIN, size)));
    let most = stage.bound().map_or(f64::INFINITY, f64::from);
    let measured = |text: &str| {
        let hostile = (stage.prepare)(text);
        let mut times = seconds(&hostile) / unit;
        // Somebody else had the processor: what is too much is measured again.
        for _ in 0..4 {
            if times > most {
                times = times.min(seconds(&hostile) / unit);
            }
        }
        times
    };
    let texts = PIECES.iter().map(|piece| (format!("{piece:?}"), repeated(piece, size)));
    let texts = texts.chain([("mixed".to_owned(), mixed(size))]);
    let mut found: Vec<_> = texts.map(|(name, text)| (name, measured(&text))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    (unit, found)
}

/// 1 KiB and 16 times as much each time, up to the largest.
fn sizes(largest: usize) -> Vec<usize> {
    let smaller = (0..5).map(|n| 1 << (10 + 4 * n)).take_while(|size| *size < largest);
    smaller.chain([largest]).collect()
}

#[test]
fn a_byte_of_any_text_costs_a_bounded_multiple_of_a_plain_one() {
    let largest = std::env::var("COST_BYTES").map_or(16 << 10, |bytes| bytes.parse().unwrap());
    let mut beyond = String::new();
    for stage in STAGES {
        let most = stage.bound().map_or(f64::INFINITY, f64::from);
        for size in sizes(largest.min(stage.largest)) {
            let (unit, found) = multiples(stage, size);
            let worst: Vec<_> =
                found.iter().take(3).map(|(text, times)| format!("{text} {times:.1}")).collect();
            let worst_time = found.first().map_or(0.0, |(_, times)| times * unit);
            println!(
                "cost {:20} {size:9} bytes, most {most} times: {}; {:.2} and at most {:.2} ns a byte",
                stage.name,
                worst.join(", "),
                unit * 1e9,
                worst_time * 1e9,
            );
            for (text, times) in found.iter().filter(|(_, times)| *times > most) {
                writeln!(beyond, "{} of {size} bytes of {text}: {times:.1} times", stage.name)
                    .unwrap();
            }
        }
    }
    assert!(beyond.is_empty(), "costs more than its bound:\n{beyond}");
}
