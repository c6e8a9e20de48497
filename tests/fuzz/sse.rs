//! Event streams against a reader that follows the specification line by line: nothing that a client
//! may not see is in an event, wherever the stream is cut, and what need not change does not.

use std::sync::Arc;

use arbiter::credentials::{Patterns, SseScrubber};
use arbiter::mcp::filter::ListKinds;
use arbiter::mcp::sse::EventSplitter;
use arbiter::mcp::sse_filter::SseFilter;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use crate::driver::{Input, chunks, cuts, fuzz, soup};

const SECRET: &str = "tok-9Qz4Vb7Lw2";
const LIMIT: usize = 1 << 20;
const PIECES: &[&str] = &[
    "data: ",
    "data:",
    "data",
    "dat",
    "event: message",
    "id: 7",
    "retry: 1",
    ": ping",
    ":",
    " ",
    "\n",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\r\n\r\n",
    "\r\r",
    "\u{feff}",
    "x",
    "tok-9Qz4",
    "Vb7Lw2",
    "tok-9Qz4Vb7Lw2",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"ok\"},{\"name\":\"no\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,",
    "\"result\":{\"tools\":[{\"name\":\"no\"}]}}",
    "{\"jsonrpc\":\"2.0\",\"method\":\"x\"}",
    "\"result\":{\"tools\":[",
    "{\"name\":\"no\"}",
    "]}}",
    "{\"d\":\"tok-9Qz4",
    "{\"d\":\"Vb7Lw2\"}",
    "\"}",
    "[",
    "{",
];

/// Data of the events of a stream, that of an event without its empty line at the end included.
fn data_of(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let text = stream.iter().map(|b| char::from(*b)).collect::<String>();
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for line in text.split('\n').chain([""]) {
        if line.is_empty() {
            if !data.is_empty() {
                let joined = std::mem::take(&mut data).join("\n");
                events.push(joined.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect());
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name == "data" {
            data.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
        }
    }
    events
}

fn filtered(chunks: &[&[u8]], kinds: ListKinds) -> Option<Vec<u8>> {
    let mut filter = SseFilter::new(kinds, LIMIT, |_, name: &str| name == "ok");
    let mut out = Vec::new();
    for chunk in chunks {
        filter.push(chunk, &mut out).ok()?;
    }
    filter.finish(&mut out).ok()?;
    Some(out)
}

fn scrubbed(chunks: &[&[u8]]) -> Vec<u8> {
    let patterns = Arc::new(Patterns::new([SECRET.as_bytes()]));
    let mut scrubber = SseScrubber::new(patterns, LIMIT);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)).unwrap());
    }
    out.extend_from_slice(&scrubber.finish().unwrap());
    out
}

fn holds(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

fn check((Input(stream), cuts): (Input, Vec<Index>)) -> Result<(), TestCaseError> {
    let cut = chunks(&stream, &cuts);
    // Cut, and joined again.
    let (mut splitter, mut joined) = (EventSplitter::new(LIMIT), Vec::new());
    for chunk in &cut {
        splitter.push(chunk, |event| joined.extend_from_slice(event)).unwrap();
    }
    joined.extend(splitter.finish());
    prop_assert_eq!(&joined, &stream, "lost in the splitter");
    // Filtered.
    let unfiltered = filtered(&cut, ListKinds::default());
    prop_assert_eq!(unfiltered.as_ref(), Some(&stream), "nothing to filter");
    let lists = filtered(&cut, ListKinds::all());
    prop_assert_eq!(
        &lists,
        &filtered(&[&stream], ListKinds::all()),
        "cut otherwise, filtered otherwise"
    );
    for data in data_of(&lists.unwrap_or_default()) {
        let Ok(message) = serde_json::from_slice::<Value>(&data) else { continue };
        let tools = message["result"]["tools"].as_array().into_iter().flatten();
        let forbidden: Vec<_> = tools.filter(|tool| tool["name"] != "ok").collect();
        prop_assert!(forbidden.is_empty(), "passed: {forbidden:?}");
    }
    // Scrubbed.
    let clean = scrubbed(&cut);
    prop_assert!(!holds(&clean, SECRET), "the secret as it stands");
    for data in data_of(&clean) {
        prop_assert!(!holds(&data, SECRET), "the secret in an event");
        let folded: Vec<u8> = data.iter().copied().filter(|b| *b != b'\n').collect();
        prop_assert!(!holds(&folded, SECRET), "the secret over lines of an event");
    }
    if !holds(&stream, "tok-") {
        prop_assert_eq!(&clean, &stream, "nothing to scrub");
    }
    Ok(())
}

#[test]
fn event_stream() {
    fuzz("event stream", &(soup(PIECES, 30), cuts()), check);
}
