//! Cuts an event stream (`text/event-stream`) into events, and an event into its data lines.

use std::ops::Range;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Finds where events end, over any chunks.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// Returns the start of the current event.
    start: usize,
    line_start: usize,
    /// Up to here no line end has been found.
    searched: usize,
    /// The last line ended in a carriage return to which a line feed may still belong.
    after_return: bool,
    /// The event under way holds more than comments.
    has_fields: bool,
}

impl Framer {
    /// Returns the start of the current event.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// The first `bytes` of the text have gone.
    pub(super) fn forget(&mut self, bytes: usize) {
        self.start = self.start.saturating_sub(bytes);
        self.line_start = self.line_start.saturating_sub(bytes);
        self.searched = self.searched.saturating_sub(bytes);
    }

    /// The next finished event. A comment before an event counts as one, so that keep-alives pass.
    pub(super) fn next(&mut self, text: &[u8]) -> Option<Range<usize>> {
        loop {
            let rest = text.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.searched = text.len();
                return None;
            };
            let line_end = self.searched + found;
            let belongs_to_return = self.after_return && line_end == self.line_start;
            let line = self.line_start..line_end;
            let is_return = text.get(line_end) == Some(&b'\r');
            let pair = is_return && text.get(line_end + 1) == Some(&b'\n');
            let next = line_end + 1 + usize::from(pair);
            self.after_return = is_return && next == text.len() && !pair;
            self.searched = next;
            self.line_start = next;
            let is_comment = text.get(line.start) == Some(&b':');
            if belongs_to_return && !is_return {
                if self.start == line_end {
                    return Some(self.end(next));
                }
                continue;
            }
            if line.is_empty() || (is_comment && !self.has_fields) {
                return Some(self.end(next));
            }
            self.has_fields = true;
        }
    }

    fn end(&mut self, end: usize) -> Range<usize> {
        let event = self.start..end;
        self.start = end;
        self.has_fields = false;
        event
    }
}

/// The values of an event's `data` lines, as ranges of `event`.
pub(super) fn data_lines(event: &[u8]) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut at = if event.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    while at < event.len() {
        let rest = event.get(at..).unwrap_or_default();
        let len = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let line = rest.get(..len).unwrap_or_default();
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            lines.push(at + len - value.len()..at + len);
        } else if line == b"data" {
            lines.push(at + len..at + len);
        }
        at += len + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&str], expected: &[&str]) {
        let mut framer = Framer::default();
        let mut text = String::new();
        let mut events = Vec::new();
        for chunk in chunks {
            text += chunk;
            while let Some(event) = framer.next(text.as_bytes()) {
                events.push(text.get(event).unwrap().to_owned());
            }
            let gone = framer.start();
            text.drain(..gone);
            framer.forget(gone);
        }
        assert_eq!(events, expected);
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        check(&["data: a\n\ndata: b\n\nda"], &["data: a\n\n", "data: b\n\n"]);
        check(&["data: a\r\n\r\ndata: b\r\r"], &["data: a\r\n\r\n", "data: b\r\r"]);
        check(&["data: a", "\n", "\n", "x"], &["data: a\n\n"]);
        check(&["data: a\r", "\n\r", "\ndata: b\n\n"], &["data: a\r\n\r", "\n", "data: b\n\n"]);
        check(&["data: a\r", "\ndata: b\n\n"], &["data: a\r\ndata: b\n\n"]);
        check(
            &[": ping\n", ": ping\n\ndata: a\n:c\n\n"],
            &[": ping\n", ": ping\n", "\n", "data: a\n:c\n\n"],
        );
    }

    #[test]
    fn data_lines_lose_one_space() {
        let values = |event: &str| {
            data_lines(event.as_bytes())
                .into_iter()
                .map(|r| event.get(r).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            values("event: x\ndata: a\ndata:b\r\ndata:  c\rid: 1\ndata\n\n"),
            ["a", "b", " c", ""]
        );
        assert_eq!(values("\u{feff}data: a\n\n"), ["a"]);
        assert!(values("database: a\n:data: b\n\n").is_empty());
    }
}
