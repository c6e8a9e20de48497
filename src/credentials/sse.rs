//! Takes secrets out of an event stream, also those that are split over lines or events.
//!
//! An event is looked at whole: as its bytes stand, with its data lines joined (with and without
//! the line feed between them), and string by string as the continuation of the string that stood
//! at the same place of the event before, as a client would join deltas. An event that could only
//! be the start of a secret waits for the next one, unless it holds no more than
//! [`FREE_BYTES`] of it: those leave at once, and if the rest follows it is taken out then.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use zeroize::{Zeroize as _, Zeroizing};

use super::bare::{QUOTED_REPLACEMENT, REPLACEMENT};
use super::decoded::Text;
use super::events::{Framer, data_lines};
use super::patterns::{Patterns, Pending, Span};
use super::strings::{Contents, contents};

/// Length of a secret's start that may leave before the rest is known. Without it every event that
/// ends in the first letter of a secret would wait.
const FREE_BYTES: usize = 3;
/// Places of a stream at which a secret can be under way at a time; the least begun are given up.
const MOST_CARRIES: usize = 1024;

/// An event, or what waits for its end, is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {limit_bytes} bytes")]
pub struct EventTooLarge {
    pub limit_bytes: usize,
}

/// Scrubs one event stream.
pub struct SseScrubber {
    patterns: Arc<Patterns>,
    limit_bytes: usize,
    /// Events that wait, then the one under way.
    kept: BytesMut,
    /// Stream position at which `kept` starts; all other positions count from the stream's start.
    base: usize,
    framer: Framer,
    edits: Vec<Edit>,
    carries: HashMap<u64, Carry>,
    replaced: u64,
}

impl std::fmt::Debug for SseScrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SseScrubber({} bytes kept, {} replaced)", self.kept.len(), self.replaced)
    }
}

impl Drop for SseScrubber {
    fn drop(&mut self) {
        self.kept.zeroize();
    }
}

/// A stretch of the stream that does not go out.
#[derive(Debug)]
struct Edit {
    span: Range<usize>,
    /// Replacement.
    by: Instead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Instead {
    Nothing,
    Replacement,
    QuotedReplacement,
}

/// The end of a string that could go on as a secret in the next event.
struct Carry {
    tail: Zeroizing<Vec<u8>>,
    /// Stream positions of the parts of `tail`.
    parts: Vec<Part>,
    pending_bytes: usize,
    /// First event that the stream holds back for this candidate.
    waits_from: Option<usize>,
}

#[derive(Clone, Copy)]
struct Part {
    /// Start in the joined text.
    at: usize,
    /// End in the joined text; a line feed inserted by joining belongs to no part.
    end: usize,
    /// Start in the stream.
    stream_at: usize,
    /// Start of the event in the stream.
    event_at: usize,
}

impl SseScrubber {
    /// `limit_bytes` bounds an event, and what waits for a decision.
    pub fn new(patterns: Arc<Patterns>, limit_bytes: usize) -> Self {
        Self {
            patterns,
            limit_bytes,
            kept: BytesMut::new(),
            base: 0,
            framer: Framer::default(),
            edits: Vec::new(),
            carries: HashMap::new(),
            replaced: 0,
        }
    }

    /// Returns the number of secrets replaced so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Returns the patterns that are searched for.
    pub fn patterns(&self) -> &Arc<Patterns> {
        &self.patterns
    }

    /// Looks for more from here on: `patterns` must find all that those before it did.
    pub fn look_for(&mut self, patterns: Arc<Patterns>) {
        self.patterns = patterns;
    }

    /// Takes a chunk; gives back all events that can go.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        if self.patterns.is_empty() {
            return Ok(chunk);
        }
        if self.kept.is_empty() {
            let release = self.judge(&chunk, false)?;
            let out = self.render(&chunk, release).unwrap_or_else(|| chunk.slice(..release));
            self.kept.extend_from_slice(chunk.get(release..).unwrap_or_default());
            self.gone(release);
            return Ok(out);
        }
        self.kept.extend_from_slice(&chunk);
        self.pass_kept(false)
    }

    /// The stream is over; gives back what was kept.
    pub fn finish(&mut self) -> Result<Bytes, EventTooLarge> {
        self.pass_kept(true)
    }

    fn pass_kept(&mut self, complete: bool) -> Result<Bytes, EventTooLarge> {
        let mut kept = std::mem::take(&mut self.kept);
        let release = self.judge(&kept, complete)?;
        let out = self
            .render(&kept, release)
            .unwrap_or_else(|| Bytes::copy_from_slice(kept.get(..release).unwrap_or_default()));
        kept.advance(release);
        self.kept = kept;
        self.gone(release);
        Ok(out)
    }

    fn gone(&mut self, bytes: usize) {
        self.base += bytes;
        self.framer.forget(bytes);
        let base = self.base;
        self.edits.retain(|edit| edit.span.end > base);
    }

    /// Looks at every event that `text` finishes; returns the number of bytes that can leave.
    fn judge(&mut self, text: &[u8], complete: bool) -> Result<usize, EventTooLarge> {
        while let Some(event) = self.framer.next(text) {
            let stream_at = self.base + event.start;
            self.event(text.get(event).unwrap_or_default(), stream_at);
        }
        let finished = self.framer.start();
        let under_way = text.get(finished..).unwrap_or_default();
        if complete {
            self.event(under_way, self.base + finished);
            return Ok(text.len());
        }
        if under_way.len() > self.limit_bytes {
            return Err(EventTooLarge { limit_bytes: self.limit_bytes });
        }
        let waits_from = self.carries.values().filter_map(|c| c.waits_from).min();
        let release = waits_from.map_or(finished, |at| at.saturating_sub(self.base).min(finished));
        if finished - release > self.limit_bytes {
            return Err(EventTooLarge { limit_bytes: self.limit_bytes });
        }
        Ok(release)
    }

    fn event(&mut self, event: &[u8], stream_at: usize) {
        let lines = data_lines(event);
        if let [line] = lines.as_slice() {
            return self.event_of_a_line(event, line, stream_at);
        }
        let scan = self.patterns.scan(Text::whole(event), 0);
        self.edit_raw(&scan.spans, stream_at);
        if lines.is_empty() {
            return;
        }
        // As a client joins them, and as one that forgets the line feed would.
        let (folded, parts) = join(event, &lines, b"", stream_at);
        let scan = self.patterns.scan(Text::whole(&folded), 0);
        self.edit_all(&scan.spans, &parts);
        let (joined, parts) = join(event, &lines, b"\n", stream_at);
        let contents = contents(&joined, self.patterns.can_be_bare());
        let (scan, tails) = self.patterns.scan_strings(&joined, contents.spans());
        self.edit_all(&scan.spans, &parts);
        self.data(&joined, &contents, &tails, &parts);
    }

    /// An event with a single line of data, which one search shows as its bytes stand and as a client
    /// reads it.
    fn event_of_a_line(&mut self, event: &[u8], line: &Range<usize>, stream_at: usize) {
        let data = event.get(line.clone()).unwrap_or_default();
        let contents = contents(data, self.patterns.can_be_bare());
        let strings = contents.spans().map(|span| line.start + span.start..line.start + span.end);
        let (scan, tails) = self.patterns.scan_strings(event, strings);
        self.edit_raw(&scan.spans, stream_at);
        let data_at = stream_at + line.start;
        let part = Part { at: 0, end: data.len(), stream_at: data_at, event_at: stream_at };
        self.data(data, &contents, &tails, &[part]);
    }

    /// Marks matches in an event as its bytes stand.
    fn edit_raw(&mut self, spans: &[Span], stream_at: usize) {
        for span in spans {
            let span = stream_at + span.start..stream_at + span.end;
            self.edits.push(Edit { span, by: Instead::Replacement });
        }
    }

    /// Follows the strings of an event that go on from an earlier one, or by their `tails` may go on in a
    /// later one.
    fn data(
        &mut self,
        data: &[u8],
        contents: &Contents,
        tails: &[Option<Pending>],
        parts: &[Part],
    ) {
        self.quote_numbers(&contents.numbers, parts);
        // What waited for this event and is not gone on with waits no longer.
        for carry in self.carries.values_mut() {
            carry.waits_from = None;
        }
        let event_at = parts.first().map_or(self.base, |part| part.event_at);
        for (&(place, ref span), tail) in contents.strings.iter().zip(tails) {
            let content = data.get(span.clone()).unwrap_or_default();
            let stream_at = locate(parts, span.start);
            let part = Part { at: 0, end: content.len(), stream_at, event_at };
            match self.carries.remove(&place) {
                Some(carry) => self.go_on(place, carry, content, part),
                None => self.remember(place, content, vec![part], *tail),
            }
        }
        self.give_up_the_least();
    }

    /// Remembers the end of a string if it could go on as a secret.
    fn remember(&mut self, place: u64, text: &[u8], mut parts: Vec<Part>, tail: Option<Pending>) {
        let Some(Pending { from, bytes }) = tail else { return };
        parts.retain(|part| part.end > from);
        for part in &mut parts {
            part.stream_at += from.saturating_sub(part.at);
            part.at = part.at.saturating_sub(from);
            part.end -= from;
        }
        // What began in an event that is still here keeps that event here.
        let began_at = parts.first().map_or(self.base, |part| part.event_at);
        let carry = Carry {
            tail: Zeroizing::new(text.get(from..).unwrap_or_default().to_vec()),
            parts,
            pending_bytes: bytes,
            waits_from: (bytes > FREE_BYTES).then_some(began_at.max(self.base)),
        };
        self.carries.insert(place, carry);
    }

    /// Looks at a string together with the end of the one before it.
    fn go_on(&mut self, place: u64, carry: Carry, content: &[u8], part: Part) {
        let Carry { tail, mut parts, .. } = carry;
        let mut text = Zeroizing::new(Vec::with_capacity(tail.len() + content.len()));
        text.extend_from_slice(&tail);
        text.extend_from_slice(content);
        parts.push(Part { at: tail.len(), end: text.len(), ..part });
        let (scan, tails) = self.patterns.scan_strings(&text, std::iter::once(0..text.len()));
        self.edit_all(&scan.spans, &parts);
        self.remember(place, &text, parts, tails.into_iter().flatten().next());
    }

    /// Marks matches in a joined text where its parts stand in the stream; what of them has left
    /// already is left out.
    fn edit_all(&mut self, spans: &[Span], parts: &[Part]) {
        for span in spans {
            let mut by = Instead::Replacement;
            let first = parts.partition_point(|part| part.end <= span.start);
            for part in parts.iter().skip(first).take_while(|part| part.at < span.end) {
                let (from, to) = (span.start.max(part.at), span.end.min(part.end));
                let stream_at = part.stream_at + from.saturating_sub(part.at);
                if from < to && stream_at >= self.base {
                    let span = stream_at..stream_at + (to - from);
                    self.edits.push(Edit { span, by });
                    by = Instead::Nothing;
                }
            }
        }
    }

    /// A number that holds a secret becomes a string as a whole.
    fn quote_numbers(&mut self, numbers: &[Range<usize>], parts: &[Part]) {
        // Both lists are walked once: a stream may hold as many numbers as secrets.
        self.edits.sort_by_key(|edit| edit.span.start);
        let mut edits = self.edits.iter_mut().peekable();
        for number in numbers {
            let start = locate(parts, number.start);
            let span = start..start + number.len();
            while edits.next_if(|edit| edit.span.end <= span.start).is_some() {}
            // The one that is widened is merged with all that it overlaps.
            if let Some(edit) = edits.peek_mut().filter(|edit| edit.span.start < span.end) {
                edit.span = edit.span.start.min(span.start)..edit.span.end.max(span.end);
                edit.by = Instead::QuotedReplacement;
            }
        }
    }

    fn give_up_the_least(&mut self) {
        // Half as many more are let in between, so that sorting them costs each little.
        if self.carries.len() <= MOST_CARRIES + MOST_CARRIES / 2 {
            return;
        }
        let mut places: Vec<(usize, u64)> =
            self.carries.iter().map(|(place, c)| (c.pending_bytes, *place)).collect();
        places.sort_unstable();
        for (_, place) in places.iter().take(self.carries.len() - MOST_CARRIES) {
            self.carries.remove(place);
        }
    }

    /// The first `release` bytes of `text` with their edits; `None` if there are none.
    fn render(&mut self, text: &[u8], release: usize) -> Option<Bytes> {
        let end = self.base + release;
        // A few sorted runs, which a stable sort merges.
        self.edits.sort_by_key(|edit| edit.span.start);
        let count = self.edits.partition_point(|edit| edit.span.start < end);
        if count == 0 {
            return None;
        }
        let slice = |from: usize, to: usize| {
            text.get(from.saturating_sub(self.base)..to.saturating_sub(self.base))
                .unwrap_or_default()
        };
        let mut out = BytesMut::with_capacity(release + count * (REPLACEMENT.len() + 2));
        let mut at = self.base;
        let mut edits = self.edits.drain(..count).peekable();
        while let Some(mut edit) = edits.next() {
            // Several views may have found the same secret.
            while let Some(next) = edits.next_if(|next| next.span.start < edit.span.end) {
                edit.span.end = edit.span.end.max(next.span.end);
                edit.by = edit.by.max(next.by);
            }
            out.extend_from_slice(slice(at, edit.span.start.max(at)));
            at = edit.span.end.max(at);
            match edit.by {
                Instead::Nothing => continue,
                Instead::Replacement => out.extend_from_slice(REPLACEMENT),
                Instead::QuotedReplacement => out.extend_from_slice(QUOTED_REPLACEMENT),
            }
            self.replaced += 1;
        }
        out.extend_from_slice(slice(at, end));
        Some(out.freeze())
    }
}

/// The lines of an event as one text, and where its parts stand in the stream.
fn join(
    event: &[u8],
    lines: &[Range<usize>],
    between: &[u8],
    stream_at: usize,
) -> (Zeroizing<Vec<u8>>, Vec<Part>) {
    let mut text = Zeroizing::new(Vec::with_capacity(event.len()));
    let mut parts = Vec::with_capacity(lines.len());
    for (n, line) in lines.iter().enumerate() {
        if n > 0 {
            text.extend_from_slice(between);
        }
        let at = text.len();
        text.extend_from_slice(event.get(line.clone()).unwrap_or_default());
        let (end, event_at) = (text.len(), stream_at);
        parts.push(Part { at, end, stream_at: stream_at + line.start, event_at });
    }
    (text, parts)
}

/// Returns the stream position of position `at` of a joined text.
fn locate(parts: &[Part], at: usize) -> usize {
    let behind = parts.partition_point(|part| part.at <= at);
    let part = behind.checked_sub(1).and_then(|n| parts.get(n));
    part.map_or(at, |part| part.stream_at + (at - part.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "tok_live_4f9aC2e7B1d8Kq3Z";

    fn scrubber(secrets: &[&str]) -> SseScrubber {
        let patterns = Patterns::new(secrets.iter().map(|s| s.as_bytes()));
        SseScrubber::new(Arc::new(patterns), 1 << 20)
    }

    fn push(scrubber: &mut SseScrubber, chunk: &str) -> String {
        let out = scrubber.push(Bytes::copy_from_slice(chunk.as_bytes())).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn check(secrets: &[&str], stream: &str, expected: &str) {
        for size in [1, 2, 7, 64, stream.len()] {
            let mut scrubber = scrubber(secrets);
            let mut out = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)).unwrap());
            }
            out.extend_from_slice(&scrubber.finish().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "in chunks of {size}");
        }
    }

    fn delta(text: &str) -> String {
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"params\":{{\"level\":\"info\",\"data\":\"{text}\"}}}}\n\n"
        )
    }

    #[test]
    fn a_secret_inside_an_event_is_replaced() {
        let body = |v: &str| format!("event: message\r\ndata: {{\"v\":\"{v};end\"}}\r\n\r\n");
        check(&[TOKEN], &body(TOKEN), &body("[CREDENTIAL]"));
        check(&["pa\"ss\\wö"], &body("pa\\\"ss\\\\w\\u00f6"), &body("[CREDENTIAL]"));
        check(&[TOKEN], &format!("id: {TOKEN}\n\n"), "id: [CREDENTIAL]\n\n");
        check(&["7391"], "data: {\"pin\":-17391}\n\n", "data: {\"pin\":\"[CREDENTIAL]\"}\n\n");
    }

    #[test]
    fn a_secret_over_several_data_lines_is_replaced() {
        let key = "-----BEGIN KEY-----\nMIIBOgIBAAJ\n-----END KEY-----";
        check(
            &[key],
            "data: -----BEGIN KEY-----\ndata: MIIBOgIBAAJ\r\ndata:-----END KEY-----;\n\n",
            "data: [CREDENTIAL]\ndata: \r\ndata:;\n\n",
        );
        check(
            &[TOKEN],
            "data: x tok_live_4f9\ndata: aC2e7B1d8Kq3Z y\n\n",
            "data: x [CREDENTIAL]\ndata:  y\n\n",
        );
    }

    #[test]
    fn a_secret_over_several_events_is_replaced() {
        let split = |parts: &[&str]| parts.iter().map(|p| delta(p)).collect::<String>();
        check(
            &[TOKEN],
            &split(&["the tok_live_4f", "9aC2e7B1", "d8Kq3Z is"]),
            &split(&["the [CREDENTIAL]", "", " is"]),
        );
        check(
            &[TOKEN],
            &split(&["the tok_live_4f", "9aC2e7B1x"]),
            &split(&["the tok_live_4f", "9aC2e7B1x"]),
        );
        check(
            &["pä\"ssword"],
            &split(&["p\\u00e4\\\"s", "s", "word"]),
            &split(&["[CREDENTIAL]", "", ""]),
        );
        check(
            &[TOKEN],
            "data: tok_live_4f\n\n: ping\n\ndata: 9aC2e7B1d8Kq3Z\n\n",
            "data: [CREDENTIAL]\n\n: ping\n\ndata: \n\n",
        );
        check(&["npassword"], &split(&["x\\npass", "word"]), &split(&["x[CREDENTIAL]", ""]));
        let ends = split(&["a tok_live_4f9aC2e7B1d8Kq"]);
        check(&[TOKEN], &ends, &ends);
    }

    #[test]
    fn one_character_an_event_does_not_help() {
        let mut scrubber = scrubber(&[TOKEN]);
        let mut out: String =
            TOKEN.split_inclusive(|_| true).map(|c| push(&mut scrubber, &delta(c))).collect();
        out += std::str::from_utf8(&scrubber.finish().unwrap()).unwrap();
        let mut expected: String = ["t", "o", "k", "[CREDENTIAL]"].map(delta).concat();
        expected += &delta("").repeat(TOKEN.len() - 4);
        assert_eq!(out, expected);
        assert_eq!(scrubber.replaced(), 1);
    }

    #[test]
    fn an_event_that_cannot_be_part_of_a_match_leaves_at_once() {
        let mut scrubber = scrubber(&[TOKEN, "other-secret-value"]);
        for text in ["hello", "ends in t", "ends in tok", "o", "\\u0074"] {
            assert_eq!(push(&mut scrubber, &delta(text)), delta(text));
        }
        assert_eq!(push(&mut scrubber, ": ping\n"), ": ping\n");
        assert_eq!(push(&mut scrubber, "data: x\r\r"), "data: x\r\r");
        assert_eq!(push(&mut scrubber, "\n"), "\n");
    }

    #[test]
    fn an_event_waits_for_one_other_at_most() {
        let mut scrubber = scrubber(&[TOKEN]);
        assert_eq!(push(&mut scrubber, &delta("a tok_live")), "");
        let other = "data: {\"method\":\"progress\"}\n\n";
        assert_eq!(push(&mut scrubber, other), delta("a tok_live") + other);
        // What has left is gone, but the rest does not follow.
        assert_eq!(push(&mut scrubber, &delta("_4f9aC2e7B1d8Kq3Z")), delta("[CREDENTIAL]"));
    }

    #[test]
    fn a_clean_chunk_is_not_copied() {
        let mut scrubber = scrubber(&[TOKEN]);
        let chunk = Bytes::from(delta("hello") + &delta("world"));
        let out = scrubber.push(chunk.clone()).unwrap();
        assert_eq!(out.as_ptr(), chunk.as_ptr());
        assert_eq!(out, chunk);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let patterns = Arc::new(Patterns::new([TOKEN.as_bytes()]));
        let mut scrubber = SseScrubber::new(patterns, 100);
        let chunk = Bytes::from_static(&[b'x'; 60]);
        assert!(scrubber.push(chunk.clone()).is_ok());
        assert_eq!(scrubber.push(chunk), Err(EventTooLarge { limit_bytes: 100 }));
    }

    #[test]
    fn every_number_that_holds_a_secret_is_quoted() {
        let numbers = |n: &str| format!("data: [{}1]\n\n", format!("{n},").repeat(3_000));
        check(&["12345678"], &numbers("12345678"), &numbers("\"[CREDENTIAL]\""));
        check(&["12345678"], &numbers("-9123456780"), &numbers("\"[CREDENTIAL]\""));
    }

    #[test]
    fn strings_that_might_go_on_are_bounded() {
        let mut scrubber = scrubber(&[TOKEN]);
        let many = serde_json::json!(vec!["t"; 5000]).to_string();
        push(&mut scrubber, &format!("data: {many}\n\n"));
        assert_eq!(scrubber.carries.len(), MOST_CARRIES);
    }
}
