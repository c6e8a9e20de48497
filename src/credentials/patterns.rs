//! A set of secrets, ready to be searched for: every match in a text, and the tail that could
//! still become one.

use smallvec::SmallVec;

use super::bare::is_number_byte;
use super::decoded::{CutShort, Text, Value};
use super::encodings::{Form, Seen, forms};
use super::filter::Filter;

/// All forms of a set of secrets. Building one costs microseconds a secret; share it.
pub struct Patterns {
    forms: Vec<Form>,
    /// For each decoded byte, the forms that start with it.
    by_first: Vec<SmallVec<[u32; 4]>>,
    filter: Filter,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patterns([secret] in {} forms)", self.forms.len())
    }
}

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Matches in order; overlapping ones are one.
    pub spans: Vec<Span>,
    /// From here on the text could still be part of a match.
    pub hold: usize,
    /// How much of a secret stands at `hold`, in its bytes; nothing if a whole one does already.
    pub pending_bytes: usize,
    /// Where a whole secret that starts at `hold` ends, though more could belong to it.
    pub held_end: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    /// Whether it goes on from a match that an earlier search has found.
    pub continues: bool,
}

impl Patterns {
    /// Prepares the search for `secrets`, in each of their encodings.
    pub fn new<'s, I: IntoIterator<Item = &'s [u8]>>(secrets: I) -> Self {
        let mut secrets: Vec<&[u8]> = secrets.into_iter().collect();
        secrets.sort_unstable();
        secrets.dedup();
        let all: Vec<Form> = secrets.into_iter().flat_map(forms).collect();
        let mut by_first = vec![SmallVec::new(); 256];
        for (number, form) in (0u32..).zip(&all) {
            for byte in form.spellings(0) {
                if let Some(starting) = by_first.get_mut(usize::from(byte)) {
                    starting.push(number);
                }
            }
        }
        let filter = Filter::new(&all);
        Self { forms: all, by_first, filter }
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Whether a secret could stand in JSON as a number.
    pub(super) fn can_be_bare(&self) -> bool {
        let digits = |f: &Form| f.row.iter().take(f.required).all(|&b| is_number_byte(b));
        self.forms.iter().any(digits)
    }

    /// Searches `text`, whose first `covered` bytes are part of a match that is already known.
    pub(super) fn scan(&self, text: Text<'_>, covered: usize) -> Scan {
        let bytes = text.bytes;
        let mut scan = Scan { hold: bytes.len(), ..Scan::default() };
        if covered > 0 {
            scan.spans.push(Span { start: 0, end: covered, continues: true });
        }
        let mut from = 0;
        while let Some(at) = self.filter.next(bytes, from) {
            let seen = self.seen_at(text, at);
            if let Some(pending_bytes) = seen.pending {
                scan.hold = at;
                scan.pending_bytes = if seen.end.is_none() { pending_bytes } else { 0 };
                scan.held_end = seen.end;
                break;
            }
            if let Some(end) = seen.end {
                scan.add(bytes, at, end);
            }
            from = at + 1;
        }
        if !text.complete {
            scan.hold_escape(bytes);
        }
        scan
    }

    /// The longest match at `at`, and whether more text could make it (longer).
    fn seen_at(&self, text: Text<'_>, at: usize) -> Seen {
        let Some(&raw) = text.bytes.get(at) else { return Seen::default() };
        let mut seen = if Text::is_introducer(raw) {
            if text.glance(at).is_some_and(|bytes| !bytes.iter().any(|&b| self.starts_any(b))) {
                return Seen::default();
            }
            let mut cut = CutShort::default();
            let mut seen = Seen::default();
            for reading in text.read(at, &mut cut) {
                match reading.value {
                    Value::Byte(byte) => seen = seen.merge(self.starting_with(byte, text, at)),
                    Value::Char(c) => {
                        let [utf8, ..] = {
                            let mut utf8 = [0; 4];
                            c.encode_utf8(&mut utf8);
                            utf8
                        };
                        seen = seen.merge(self.starting_with(utf8, text, at));
                        if let Ok(latin1) = u8::try_from(c) {
                            seen = seen.merge(self.starting_with(latin1, text, at));
                        }
                    }
                }
            }
            if cut.0 {
                seen.pending = seen.pending.max(Some(0));
            }
            seen
        } else {
            self.starting_with(raw, text, at)
        };
        if text.complete {
            seen.pending = None;
        }
        seen
    }

    fn starts_any(&self, byte: u8) -> bool {
        self.by_first.get(usize::from(byte)).is_some_and(|forms| !forms.is_empty())
    }

    fn starting_with(&self, byte: u8, text: Text<'_>, at: usize) -> Seen {
        let numbers = self.by_first.get(usize::from(byte)).map(SmallVec::as_slice);
        numbers
            .unwrap_or_default()
            .iter()
            .filter_map(|&n| self.forms.get(usize::try_from(n).ok()?))
            .fold(Seen::default(), |seen, form| seen.merge(form.seen_at(text, at)))
    }
}

impl Scan {
    /// Adds a match, fitted to JSON. Where it starts inside an escape, the escape goes with it, or a
    /// lone backslash would be left before the replacement; a quote at its ends that opens or
    /// closes a string stays.
    fn add(&mut self, bytes: &[u8], start: usize, end: usize) {
        let quotes = |at: usize| bytes.get(at) == Some(&b'"') && escape_start(bytes, at) == at;
        let start = start + usize::from(end - start > 2 && quotes(start));
        let end = end - usize::from(end - start > 1 && quotes(end - 1));
        match self.spans.last_mut() {
            Some(last) if start < last.end => last.end = last.end.max(end),
            last => {
                let free_from = last.map_or(0, |l| l.end);
                let start = escape_start(bytes, start).max(free_from);
                self.spans.push(Span { start, end, continues: false });
            }
        }
    }

    /// Counts a whole secret at `hold` as a match, for texts whose end does not wait for more.
    pub(super) fn settle(&mut self, bytes: &[u8]) {
        if let Some(end) = self.held_end.take() {
            self.add(bytes, self.hold, end);
        }
    }

    /// Keeps an escape together that breaks off at the end, or in which the held part starts; so
    /// a text that is searched further on never starts inside of one.
    fn hold_escape(&mut self, bytes: &[u8]) {
        self.hold = self.hold.min(trailing_escape(bytes));
        if self.hold < bytes.len() {
            self.hold = escape_start(bytes, self.hold);
        }
        let hold = self.hold;
        self.spans.retain(|span| span.continues || span.start < hold);
    }
}

/// Start of the escape sequence of JSON in which `at` lies; `at` itself if it lies in none.
fn escape_start(bytes: &[u8], at: usize) -> usize {
    /// `at` is at most the last digit of `\u0000`.
    const FURTHEST: usize = 5;
    let near = at.saturating_sub(FURTHEST);
    let before = bytes.get(near..at).unwrap_or_default();
    let Some(slash) = before.iter().rposition(|&b| b == b'\\').map(|n| near + n) else { return at };
    let run = bytes.get(..=slash).unwrap_or_default().iter().rev().take_while(|&&b| b == b'\\');
    let opens = run.count() % 2 == 1;
    let inside = slash + 1 == at || bytes.get(slash + 1) == Some(&b'u');
    if opens && inside { slash } else { at }
}

/// Start of an escape sequence that the text breaks off; its length if there is none.
fn trailing_escape(bytes: &[u8]) -> usize {
    escape_start(bytes, bytes.len())
}
