//! A set of secrets, ready to be searched for: every match in a text, and the tail that could
//! still become one.

use std::ops::Range;

use smallvec::SmallVec;

use super::bare::is_number_byte;
use super::coarse::Steps;
use super::decoded::{CutShort, Reading, Text, Value};
use super::encodings::{Form, forms};
use super::filter::Filter;
use super::heads::Heads;
use super::lattice::Lattice;
use super::matching::Seen;

/// All forms of a set of secrets. Building one costs microseconds a secret; share it.
pub struct Patterns {
    forms: Vec<Form>,
    /// For each decoded byte, the forms that start with it.
    by_first: Vec<SmallVec<[u32; 4]>>,
    filter: Filter,
    heads: Heads,
    steps: Steps,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patterns([secret] in {} forms)", self.forms.len())
    }
}

/// Result of a search.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Matches in order; overlapping ones are one.
    pub spans: Vec<Span>,
    /// From here on the text could still be part of a match.
    pub hold: usize,
}

/// The tail of a string that could go on as a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Start in the string.
    pub from: usize,
    /// The most of a secret that stands there and is not a whole one yet, in its bytes.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    /// True if it goes on from a match that an earlier search has found.
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
        let (filter, heads) = (Filter::new(&all), Heads::new(&all));
        let steps = Steps::new(&heads);
        Self { forms: all, by_first, filter, heads, steps }
    }

    /// Reports whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Reports whether a secret could stand in JSON as a number.
    pub(super) fn can_be_bare(&self) -> bool {
        let digits = |f: &Form| f.row.iter().take(f.required).all(|&b| is_number_byte(b));
        self.forms.iter().any(digits)
    }

    /// Searches `text`, whose first `covered` bytes are part of a match that is already known.
    pub(super) fn scan(&self, text: Text<'_>, covered: usize) -> Scan {
        self.scan_at(text, covered, |lattice, from| {
            lattice.next_start(&self.filter, &self.steps, from)
        })
    }

    /// Searches the positions of `text` that `next` finds.
    pub(super) fn scan_at(
        &self,
        text: Text<'_>,
        covered: usize,
        next: impl Fn(&mut Lattice<'_>, usize) -> Option<usize>,
    ) -> Scan {
        let bytes = text.bytes;
        let mut scan = Scan { hold: bytes.len(), ..Scan::default() };
        if covered > 0 {
            let end = escape_end(bytes, covered);
            scan.spans.push(Span { start: 0, end, continues: true });
        }
        let mut lattice = Lattice::new(text, &self.heads);
        let mut from = 0;
        while let Some(at) = next(&mut lattice, from) {
            let seen = self.seen_at(&mut lattice, at);
            if seen.pending.is_some() {
                scan.hold = at;
                break;
            }
            if let Some(end) = seen.end {
                // What a quote at the end is, the next byte shows.
                let open = !text.complete && end == bytes.len() && bytes.last() == Some(&b'"');
                if open {
                    scan.hold = at;
                    break;
                }
                scan.add(text, at, end);
            }
            from = at + 1;
        }
        if !text.complete {
            scan.hold_escape(bytes);
        }
        scan
    }

    /// Searches all of `bytes`, and finds the tails of its `strings` that could go on as a secret. The
    /// strings stand one behind the other.
    pub(super) fn scan_strings(
        &self,
        bytes: &[u8],
        strings: impl Iterator<Item = Range<usize>>,
    ) -> (Scan, Vec<Option<Pending>>) {
        let text = Text::whole(bytes);
        let mut scan = Scan { hold: bytes.len(), ..Scan::default() };
        let (mut lattice, mut whole) =
            (Lattice::new(text, &self.heads), Lattice::new(text, &self.heads));
        let (mut from, mut tails) = (0, Vec::new());
        for string in strings {
            // What does not reach the end of the string is the same, whatever follows.
            let head = Text::unfinished(bytes.get(..string.end).unwrap_or_default());
            lattice.go_on(head);
            let mut tail = None;
            while let Some(at) = lattice.next_start(&self.filter, &self.steps, from) {
                let mut seen = self.seen_at(&mut lattice, at);
                if let Some(bytes) = seen.pending {
                    let begun = if seen.end.is_none() { bytes } else { 0 };
                    if let Some(offset) = at.checked_sub(string.start) {
                        let content = head.bytes.get(string.start..).unwrap_or_default();
                        let from = escape_start(content, offset);
                        let tail = tail.get_or_insert(Pending { from, bytes: 0 });
                        tail.bytes = tail.bytes.max(begun);
                    }
                    seen = self.seen_at(&mut whole, at);
                }
                if let Some(end) = seen.end {
                    scan.add(text, at, end);
                }
                from = at + 1;
            }
            from = string.end;
            tails.push(tail);
        }
        lattice.go_on(text);
        while let Some(at) = lattice.next_start(&self.filter, &self.steps, from) {
            if let Some(end) = self.seen_at(&mut lattice, at).end {
                scan.add(text, at, end);
            }
            from = at + 1;
        }
        (scan, tails)
    }

    /// Returns the most of a secret that stands from `at` to the end of `bytes` and could go on there.
    #[cfg(test)]
    pub(super) fn begun_at(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let may_start = self.filter.next(bytes, at) == Some(at);
        let mut lattice = Lattice::new(Text::unfinished(bytes), &self.heads);
        let Seen { pending, end } = self.seen_at(&mut lattice, at);
        pending.filter(|_| may_start).map(|bytes| if end.is_none() { bytes } else { 0 })
    }

    /// The longest match at `at`, and whether more text could make it (longer).
    fn seen_at(&self, lattice: &mut Lattice<'_>, at: usize) -> Seen {
        let text = lattice.text();
        let Some(&raw) = text.bytes.get(at) else { return Seen::default() };
        let mut seen = if Text::is_introducer(raw) {
            let mut cut = CutShort::default();
            let mut seen = Seen::default();
            let readings: SmallVec<[Reading; 8]> = lattice.read(at, &mut cut).into();
            for reading in readings {
                match reading.value {
                    Value::Byte(byte) => seen = seen.merge(self.starting_with(byte, lattice, at)),
                    Value::Char(c) => {
                        let [utf8, ..] = {
                            let mut utf8 = [0; 4];
                            c.encode_utf8(&mut utf8);
                            utf8
                        };
                        seen = seen.merge(self.starting_with(utf8, lattice, at));
                        if let Ok(latin1) = u8::try_from(c) {
                            seen = seen.merge(self.starting_with(latin1, lattice, at));
                        }
                    }
                }
            }
            if cut.0 {
                seen.pending = seen.pending.max(Some(0));
            }
            seen
        } else {
            self.starting_with(raw, lattice, at)
        };
        if text.complete {
            seen.pending = None;
        }
        seen
    }

    fn starting_with(&self, byte: u8, lattice: &mut Lattice<'_>, at: usize) -> Seen {
        let numbers = self.by_first.get(usize::from(byte)).map(SmallVec::as_slice);
        numbers
            .unwrap_or_default()
            .iter()
            .filter_map(|&n| self.forms.get(usize::try_from(n).ok()?))
            .fold(Seen::default(), |seen, form| seen.merge(form.seen_at(lattice, at)))
    }
}

impl Scan {
    /// Adds a match, fitted to JSON.
    fn add(&mut self, text: Text<'_>, start: usize, end: usize) {
        let bytes = text.bytes;
        let matched = bytes.get(start..end).unwrap_or_default();
        if !matched.contains(&b'"') {
            return self.add_piece(bytes, start, end);
        }
        let quotes = memchr::memchr_iter(b'"', matched).map(|n| start + n);
        let mut cuts: SmallVec<[usize; 4]> = quotes.filter(|&q| bounds_string(text, q)).collect();
        if cuts.is_empty() {
            return self.add_piece(bytes, start, end);
        }
        // A secret with quotes in it happens to look like the text around strings: what stands in
        // the strings goes, the quotes and what separates the strings stay.
        cuts.push(end);
        let mut pieces: SmallVec<[(usize, usize); 4]> = SmallVec::new();
        let mut from = start;
        for cut in cuts {
            let piece = bytes.get(from..cut).unwrap_or_default();
            if !piece.iter().all(|b| b" \t\r\n,:{}[]".contains(b)) {
                pieces.push((from, cut));
            }
            from = cut + 1;
        }
        if pieces.is_empty() {
            return self.add_piece(bytes, start, end);
        }
        for (from, to) in pieces {
            self.add_piece(bytes, from, to);
        }
    }

    /// Adds a piece to replace. An escape in which the piece starts or ends is replaced as well, or
    /// a lone backslash or quote would be left.
    fn add_piece(&mut self, bytes: &[u8], start: usize, end: usize) {
        let end = escape_end(bytes, end);
        match self.spans.last_mut() {
            Some(last) if start < last.end => last.end = last.end.max(end),
            last => {
                let free_from = last.map_or(0, |l| l.end);
                let start = escape_start(bytes, start).max(free_from);
                self.spans.push(Span { start, end, continues: false });
            }
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

/// `end`, or behind the quote or backslash that the escape sequence in which `end` lies stands for.
fn escape_end(bytes: &[u8], end: usize) -> usize {
    let cut = matches!(bytes.get(end), Some(b'"' | b'\\')) && escape_start(bytes, end) < end;
    end + usize::from(cut)
}

/// Reports whether the quote at `at` opens or closes a string of JSON, by what stands beside it.
fn bounds_string(text: Text<'_>, at: usize) -> bool {
    let (head, rest) = text.bytes.split_at_checked(at).unwrap_or_default();
    let before = head.trim_ascii_end().last().copied().or(text.before);
    let opens = before.is_none_or(|b| b",:{[".contains(&b));
    let closes = rest.get(1).is_none_or(|b| b",:}]\r\n".contains(b));
    (opens || closes) && escape_start(text.bytes, at) == at
}

/// Start of an escape sequence that the text breaks off; its length if there is none.
fn trailing_escape(bytes: &[u8]) -> usize {
    escape_start(bytes, bytes.len())
}
