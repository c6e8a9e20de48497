//! Cost of scrubbing a body that holds no secret: five credentials in every encoding.
//!
//! `cargo bench --bench scrub`

use std::sync::Arc;

use arbiter::credentials::{Content, Patterns, Scrubber, SseScrubber};
use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use mixed::mixed;

#[path = "../../../tests/fuzz/mixed.rs"]
mod mixed;

const SECRETS: [&str; 5] = [
    "tok_live_4f9aC2e7B1d8Kq3Z",
    "S3cr3t-P@ss/w+rd=Zq9&x y",
    "pa\"ss\\wo'rd{}[]:,<>&\u{e9}",
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX\n-----END KEY-----",
    "alphaSECRET77beta-omega",
];

const CHUNK_BYTES: usize = 16 * 1024;

fn main() {
    divan::main();
}

fn patterns() -> Arc<Patterns> {
    Arc::new(Patterns::new(SECRETS.iter().map(|s| s.as_bytes())))
}

/// Records as a tool would return them: keys, numbers, ids in hex, prose.
fn json() -> String {
    let records: Vec<_> = (0..6000)
        .map(|n: u32| {
            serde_json::json!({
                "id": n,
                "hash": format!("{:08x}{:08x}", n.wrapping_mul(2_654_435_761), n.wrapping_mul(40_503)),
                "title": format!("Report {n} on the state of the northern stations"),
                "body": "The quick brown fox jumps over the lazy dog, and the town's \"council\"\nagreed to meet again in a fortnight.",
                "ratio": f64::from(n) / 7.0,
                "tags": ["open", "reviewed", "public"],
            })
        })
        .collect();
    serde_json::Value::from(records).to_string()
}

/// Builds the records as a tool result: JSON text inside a JSON string.
fn json_in_json() -> String {
    serde_json::json!({"result": {"content": [{"type": "text", "text": json()}]}}).to_string()
}

fn non_ascii() -> String {
    "{\"t\":\"\\u4e2d\\u6587 caf\\u00e9 na\\u00efve \\u00fcber Stra\\u00dfe\"}".repeat(20_000)
}

/// Texts that make a scrubber work: each escape alone, within others, and starts of secrets.
const HOSTILE: [&str; 24] = [
    "&amp;",
    "&#38;",
    "&amp;amp;",
    "&a",
    "%25",
    "%2525",
    "%25%32%35",
    "%2d",
    "%5c%5c",
    "%26%23%33%38%3b",
    "%%374",
    "+",
    "-----",
    "\\",
    "\\\"",
    "\\\\u005c",
    "\\u005c",
    "\\u002d",
    "\\ud83d\\u",
    "&amp;%26\\u0026",
    "%2d%2d%2d%2d%2d%42%45%47",
    "-----BEGIN KEY-----\n",
    "LS0t\\r\\n",
    "QUJD\r\n",
];

const HOSTILE_BYTES: usize = 1 << 20;

fn run(bencher: Bencher<'_, '_>, text: String) {
    let patterns = patterns();
    let body = Bytes::from(text);
    bencher.counter(BytesCount::new(body.len())).bench_local(|| {
        let mut scrubber = Scrubber::new(Arc::clone(&patterns), Content::Json);
        let mut passed = 0;
        let mut at = 0;
        while at < body.len() {
            let end = (at + CHUNK_BYTES).min(body.len());
            passed += scrubber.push(body.slice(at..end)).len();
            at = end;
        }
        passed + scrubber.finish().len()
    });
}

#[divan::bench]
fn clean_json(bencher: Bencher<'_, '_>) {
    run(bencher, json());
}

#[divan::bench]
fn clean_json_in_json(bencher: Bencher<'_, '_>) {
    run(bencher, json_in_json());
}

#[divan::bench]
fn clean_escaped_text(bencher: Bencher<'_, '_>) {
    run(bencher, non_ascii());
}

/// An event a chunk, as a server streams them.
#[divan::bench]
fn clean_events(bencher: Bencher<'_, '_>) {
    let patterns = patterns();
    let event = Bytes::from(format!(
        "event: message\ndata: {}\n\n",
        serde_json::json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {
            "level": "info", "data": "The quick brown fox jumps over the lazy dog. ".repeat(8)}})
    ));
    bencher.counter(BytesCount::new(event.len() * 1000)).bench_local(|| {
        let mut scrubber = SseScrubber::new(Arc::clone(&patterns), 1 << 20);
        (0..1000)
            .filter_map(|_| scrubber.push(event.clone()).ok())
            .map(|out| out.len())
            .sum::<usize>()
    });
}

/// The most that the search can do: a text in which nothing ever looks like a start.
#[divan::bench]
fn upper_bound(bencher: Bencher<'_, '_>) {
    run(bencher, "?".repeat(1 << 20));
}

#[divan::bench(args = HOSTILE)]
fn hostile(bencher: Bencher<'_, '_>, piece: &str) {
    run(bencher, piece.repeat(HOSTILE_BYTES / piece.len()));
}

#[divan::bench]
fn hostile_mixed(bencher: Bencher<'_, '_>) {
    run(bencher, mixed(HOSTILE_BYTES));
}

/// Numbers, each of them a credential, in one event.
#[divan::bench]
fn numbers_in_an_event(bencher: Bencher<'_, '_>) {
    let patterns = Arc::new(Patterns::new([b"12345678".as_slice()]));
    let event = Bytes::from(format!("data: [{}0]\n\n", "12345678,".repeat(HOSTILE_BYTES / 9)));
    bencher.counter(BytesCount::new(event.len())).bench_local(|| {
        let mut scrubber = SseScrubber::new(Arc::clone(&patterns), 2 * HOSTILE_BYTES);
        let passed = scrubber.push(event.clone()).map_or(0, |out| out.len());
        passed + scrubber.finish().map_or(0, |out| out.len())
    });
}

#[divan::bench]
fn building(bencher: Bencher<'_, '_>) {
    bencher.bench_local(patterns);
}
