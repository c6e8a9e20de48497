//! Cutting a `text/event-stream` into lines and events, however its chunks fall.
//!
//! Lines end with LF, CR or CRLF; an event ends with an empty line. A CR at the end of a chunk ends
//! its line at once, and an LF that opens the next chunk still belongs to it: nothing waits for a
//! byte that may never come, and what comes out does not depend on where the chunks were cut.

use memchr::memchr2;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// An event, or the part of it that must be held, is larger than its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {max_bytes} bytes")]
pub struct EventTooLarge {
    pub max_bytes: usize,
}

/// A stretch of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'c> {
    /// Goes on with a line that does not end in this chunk.
    Part(&'c [u8]),
    /// Goes on with a line and ends it.
    End(&'c [u8]),
    /// The LF of a CRLF whose CR ended the line in the chunk before.
    Tail(&'c [u8]),
}

/// Cuts chunks into pieces of lines.
#[derive(Debug, Default)]
pub struct Cutter {
    after_cr: bool,
}

impl Cutter {
    /// Takes the next piece from the front of `chunk`; `None` when it is used up.
    pub fn next<'c>(&mut self, chunk: &mut &'c [u8]) -> Option<Piece<'c>> {
        let first = chunk.first()?;
        if std::mem::take(&mut self.after_cr) && *first == b'\n' {
            return Some(Piece::Tail(take(chunk, 1)));
        }
        let Some(at) = memchr2(b'\r', b'\n', chunk) else {
            return Some(Piece::Part(std::mem::take(chunk)));
        };
        let length = match (chunk.get(at), chunk.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => at + 2,
            (Some(b'\r'), None) => {
                self.after_cr = true;
                at + 1
            }
            _ => at + 1,
        };
        Some(Piece::End(take(chunk, length)))
    }
}

fn take<'c>(chunk: &mut &'c [u8], length: usize) -> &'c [u8] {
    let (head, rest) = chunk.split_at_checked(length).unwrap_or((chunk, &[]));
    *chunk = rest;
    head
}

/// A line without its end.
pub fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The byte order mark that a stream may open with, and what follows it.
pub fn split_mark(line: &[u8]) -> (&[u8], &[u8]) {
    if line.starts_with(BYTE_ORDER_MARK) {
        line.split_at(BYTE_ORDER_MARK.len())
    } else {
        (&[], line)
    }
}

/// Returns the value of a `data` line, and the number of bytes before the value.
pub fn data(content: &[u8]) -> Option<(&[u8], usize)> {
    let rest = content.strip_prefix(b"data")?;
    if rest.is_empty() {
        return Some((rest, content.len()));
    }
    let value = rest.strip_prefix(b":")?;
    let value = value.strip_prefix(b" ").unwrap_or(value);
    Some((value, content.len() - value.len()))
}

/// Cuts a stream into whole events, raw, each with the empty line that ends it.
#[derive(Debug)]
pub struct EventSplitter {
    cutter: Cutter,
    held: Vec<u8>,
    line_start: usize,
    first_line: bool,
    max_bytes: usize,
}

impl EventSplitter {
    /// Holds at most `max_bytes`, the size of the largest event that is let through.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            cutter: Cutter::default(),
            held: Vec::new(),
            line_start: 0,
            first_line: true,
            max_bytes,
        }
    }

    /// Calls `each` with the events that this chunk completes.
    pub fn push(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), EventTooLarge> {
        while let Some(piece) = self.cutter.next(&mut chunk) {
            let (Piece::Part(bytes) | Piece::End(bytes) | Piece::Tail(bytes)) = piece;
            if bytes.len() > self.max_bytes - self.held.len() {
                return Err(EventTooLarge { max_bytes: self.max_bytes });
            }
            self.held.extend_from_slice(bytes);
            match piece {
                Piece::Part(_) => {}
                Piece::Tail(_) => self.line_start = self.held.len(),
                Piece::End(_) => {
                    let line = self.held.get(self.line_start..).unwrap_or_default();
                    let line = if self.first_line { split_mark(line).1 } else { line };
                    self.first_line = false;
                    if content(line).is_empty() {
                        each(&self.held);
                        self.held.clear();
                    }
                    self.line_start = self.held.len();
                }
            }
        }
        Ok(())
    }

    /// Returns the bytes after the last whole event.
    pub fn finish(self) -> Vec<u8> {
        self.held
    }
}

/// Follows a stream without holding any of it back: how large the event under way is, and whether
/// there is one.
#[derive(Debug)]
pub struct EventMeter {
    cutter: Cutter,
    max_bytes: usize,
    event_bytes: usize,
    /// The line under way, as far as its field's name matters.
    line: [u8; 3],
    line_bytes: usize,
    has_ids: bool,
}

impl EventMeter {
    /// Lets events of at most `max_bytes` pass.
    pub fn new(max_bytes: usize) -> Self {
        let cutter = Cutter::default();
        Self { cutter, max_bytes, event_bytes: 0, line: [0; 3], line_bytes: 0, has_ids: false }
    }

    /// Reads the bytes that pass.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), EventTooLarge> {
        while let Some(piece) = self.cutter.next(&mut chunk) {
            let (text, ends) = match piece {
                Piece::Part(bytes) => (bytes, false),
                Piece::End(bytes) => (content(bytes), true),
                Piece::Tail(_) => continue,
            };
            let free = self.line.iter_mut().skip(self.line_bytes);
            free.zip(text).for_each(|(slot, byte)| *slot = *byte);
            self.line_bytes = self.line_bytes.saturating_add(text.len());
            let bytes = text.len().saturating_add(usize::from(ends));
            self.event_bytes = self.event_bytes.saturating_add(bytes);
            if self.event_bytes > self.max_bytes {
                return Err(EventTooLarge { max_bytes: self.max_bytes });
            }
            if ends {
                if self.line_bytes == 0 {
                    self.event_bytes = 0;
                }
                self.has_ids |= self.line_bytes >= 3 && &self.line == b"id:";
                self.line_bytes = 0;
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that have come of the event under way.
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Reports whether an event has begun and not ended.
    pub fn within_event(&self) -> bool {
        self.event_bytes > 0
    }

    /// Reports whether a line has begun and not ended.
    pub fn within_line(&self) -> bool {
        self.line_bytes > 0
    }

    /// Reports whether an event had an id, so that a client could ask for the rest of the stream.
    pub fn has_ids(&self) -> bool {
        self.has_ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let mut events = Vec::new();
        let mut splitter = EventSplitter::new(1000);
        for chunk in chunks {
            splitter.push(chunk, |e| events.push(String::from_utf8(e.to_vec()).unwrap())).unwrap();
        }
        (events, String::from_utf8(splitter.finish()).unwrap())
    }

    #[test]
    fn an_empty_line_ends_an_event_in_every_spelling() {
        for (stream, events, rest) in [
            ("data: a\n\ndata: b\n\n", &["data: a\n\n", "data: b\n\n"][..], ""),
            ("data: a\r\n\r\nx", &["data: a\r\n\r\n"], "x"),
            ("data: a\r\rdata: b\r\r", &["data: a\r\r", "data: b\r\r"], ""),
            ("data: a\n\r\ndata: b\r\n\n", &["data: a\n\r\n", "data: b\r\n\n"], ""),
            (":c\n\nid: 1\ndata\n\n\n", &[":c\n\n", "id: 1\ndata\n\n", "\n"], ""),
            ("\u{feff}\ndata: a\n\n", &["\u{feff}\n", "data: a\n\n"], ""),
            ("data: a\n \n\n", &["data: a\n \n\n"], ""),
            ("data: a\n", &[], "data: a\n"),
            ("", &[], ""),
        ] {
            let (found, left) = split(&[stream.as_bytes()]);
            assert_eq!((found.as_slice(), left.as_str()), (&*strings(events), rest), "{stream:?}");
        }
    }

    fn strings(events: &[&str]) -> Vec<String> {
        events.iter().map(|e| (*e).to_owned()).collect()
    }

    #[test]
    fn an_event_leaves_with_its_last_byte() {
        let (found, rest) = split(&[b"data: a\r", b"\n\r"]);
        assert_eq!((found.as_slice(), rest.as_str()), (&*strings(&["data: a\r\n\r"]), ""));
        let (found, rest) = split(&[b"data: a\r\r", b"\ndata: b"]);
        assert_eq!((found.as_slice(), rest.as_str()), (&*strings(&["data: a\r\r"]), "\ndata: b"));
    }

    #[test]
    fn an_event_over_the_bound_is_an_error() {
        let mut splitter = EventSplitter::new(10);
        assert!(splitter.push(b"data: 12\n\n", |_| ()).is_ok());
        assert!(splitter.push(b"data: 123\n", |_| ()).is_ok());
        assert_eq!(splitter.push(b"\n", |_| ()), Err(EventTooLarge { max_bytes: 10 }));
    }

    #[test]
    fn a_meter_counts_each_event_by_itself() {
        let measure = |chunks: &[&str], max_bytes| {
            let mut meter = EventMeter::new(max_bytes);
            let fits = chunks.iter().all(|chunk| meter.push(chunk.as_bytes()).is_ok());
            (fits, meter.within_event(), meter.has_ids())
        };
        assert_eq!(
            measure(&["data: 12\n\n", "data: 12\n\n", ": x\r\n\r\n"], 10),
            (true, false, false)
        );
        assert_eq!(measure(&["data: 12", "3\n"], 10), (true, true, false));
        assert!(!measure(&["data: 12", "345\n"], 10).0);
        assert_eq!(measure(&["i", "d", ": 7\n", "data\r", "\n\r", "\n"], 20), (true, false, true));
        assert_eq!(measure(&["data: id: 7\n", "identity: 1"], 100), (true, true, false));
        assert_eq!(measure(&[], 1), (true, false, false));
    }

    proptest! {
        #[test]
        fn a_meter_agrees_with_the_splitter(chunks in proptest::collection::vec("[\r\n:adt]{0,6}", 0..12)) {
            let (mut meter, mut splitter) = (EventMeter::new(1000), EventSplitter::new(1000));
            for chunk in &chunks {
                meter.push(chunk.as_bytes()).unwrap();
                splitter.push(chunk.as_bytes(), |_| ()).unwrap();
            }
            let rest = splitter.finish();
            // The LF of a CRLF that ended an event is no event.
            let open = !rest.is_empty() && rest != b"\n";
            prop_assert_eq!(meter.within_event(), open, "{:?} {:?}", chunks, rest);
        }

        #[test]
        fn nothing_is_lost(chunks in proptest::collection::vec("[\r\n:adt]{0,6}", 0..12)) {
            let mut out = Vec::new();
            let mut splitter = EventSplitter::new(1000);
            for chunk in &chunks {
                splitter.push(chunk.as_bytes(), |e| out.extend_from_slice(e)).unwrap();
            }
            out.extend(splitter.finish());
            prop_assert_eq!(out, chunks.concat().into_bytes());
        }
    }
}
