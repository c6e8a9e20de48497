//! Events of an event stream (`text/event-stream`) and their data lines, as places in a text.

use std::ops::Range;

use crate::mcp::sse::{Cutter, Piece, content, data, split_mark};

/// Finds where events end, over any chunks.
#[derive(Debug, Default)]
pub(super) struct Framer {
    cutter: Cutter,
    /// Start of the current event.
    start: usize,
    line_start: usize,
    /// Up to here the text is cut into lines.
    searched: usize,
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
        let mut rest = text.get(self.searched..).unwrap_or_default();
        while let Some(piece) = self.cutter.next(&mut rest) {
            self.searched = text.len() - rest.len();
            let is_end = match piece {
                Piece::Part(_) => continue,
                // The line feed goes with the event that its carriage return has ended.
                Piece::Tail(bytes) => self.start + bytes.len() == self.searched,
                Piece::End(_) => {
                    let line = text.get(self.line_start..self.searched).map(content);
                    let is_blank = line.is_none_or(<[u8]>::is_empty);
                    let is_comment = line.is_some_and(|line| line.first() == Some(&b':'));
                    let is_end = is_blank || (is_comment && !self.has_fields);
                    self.has_fields = !is_end;
                    is_end
                }
            };
            self.line_start = self.searched;
            if is_end {
                return Some(std::mem::replace(&mut self.start, self.searched)..self.searched);
            }
        }
        None
    }
}

/// The values of an event's `data` lines, as ranges of `event`.
pub(super) fn data_lines(event: &[u8]) -> Vec<Range<usize>> {
    let (mark, mut rest) = split_mark(event);
    let mut cutter = Cutter::default();
    let (mut lines, mut at) = (Vec::new(), mark.len());
    while let Some(Piece::Part(line) | Piece::End(line) | Piece::Tail(line)) =
        cutter.next(&mut rest)
    {
        let text = content(line);
        if let Some((_, before)) = data(text) {
            lines.push(at + before..at + text.len());
        }
        at += line.len();
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
