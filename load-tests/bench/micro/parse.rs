//! Time from bytes to a `Message` for a tool call, at three sizes.

use arbiter::json::Doc;
use arbiter::mcp::message;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// A tool call of exactly `length` bytes: a few short arguments as agents send them, then records
/// of mixed kinds, then text up to the length.
fn tool_call(length: usize) -> String {
    let head = r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"search_documents","arguments":{"query":"quarterly report","limit":25,"recursive":true,"path":"/srv/projects/alpha""#;
    let tail = r#""},"_meta":{"progressToken":"a7f3"}}}"#;
    let mut text = head.to_owned();
    if length > 1024 {
        text.push_str(r#","records":["#);
        for n in 0.. {
            let record = format!(
                r#"{{"id":{n},"title":"Record {n}","score":0.{n},"tags":["a","b\n"],"ok":true,"note":"The quick brown fox jumps over the lazy dog and then rests."}}"#
            );
            if text.len() + record.len() + tail.len() + 32 > length {
                break;
            }
            if n > 0 {
                text.push(',');
            }
            text.push_str(&record);
        }
        text.push(']');
    }
    text.push_str(r#","rest":""#);
    let missing = length.saturating_sub(text.len() + tail.len());
    text.extend(std::iter::repeat_n('x', missing));
    text.push_str(tail);
    assert_eq!(text.len(), length);
    text
}

const SIZES: [usize; 3] = [318, 4 * 1024, 1024 * 1024];

#[divan::bench(args = SIZES)]
fn parse_and_read(bencher: Bencher<'_, '_>, length: usize) {
    let text = tool_call(length);
    bencher.counter(BytesCount::new(length)).bench_local(|| {
        let doc = Doc::parse(black_box(text.as_bytes())).map_err(drop);
        doc.is_ok_and(|doc| black_box(message::read(&doc)).is_ok_and(|m| m.calls.len() == 1))
    });
}

#[divan::bench(args = SIZES)]
fn parse_only(bencher: Bencher<'_, '_>, length: usize) {
    let text = tool_call(length);
    bencher
        .counter(BytesCount::new(length))
        .bench_local(|| black_box(Doc::parse(black_box(text.as_bytes()))).is_ok());
}
