//! A set of secrets, ready to be searched for: every match in a text, and the tail that could
//! still become one.

use smallvec::SmallVec;

use super::bare::is_number_byte;
use super::decoded::Text;
use super::encodings::{Form, forms};
use super::filter::Filter;
use super::search::Search;

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

/// Result of a search.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Matches in order; overlapping ones are one.
    pub spans: Vec<Span>,
    /// From here on the text could still be part of a match.
    pub hold: usize,
}

/// A tail that could go on as a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub from: usize,
    /// The most of a secret that stands there and is not a whole one yet, in its bytes.
    pub bytes: usize,
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

    pub(super) fn form(&self, number: u32) -> Option<&Form> {
        self.forms.get(usize::try_from(number).ok()?)
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The forms whose first byte may be `byte` once decoded.
    pub(super) fn starting_with(&self, byte: u8) -> &[u32] {
        self.by_first.get(usize::from(byte)).map(SmallVec::as_slice).unwrap_or_default()
    }

    /// Whether a glance shows that no secret starts at `at`.
    pub(super) fn is_no_start(&self, text: Text<'_>, at: usize) -> bool {
        let introduces = text.bytes.get(at).is_some_and(|&byte| Text::is_introducer(byte));
        introduces
            && text
                .glance(at)
                .is_some_and(|bytes| bytes.iter().all(|&b| self.starting_with(b).is_empty()))
    }

    /// Searches the whole of `text`.
    pub(super) fn scan(&self, text: Text<'_>) -> Scan {
        let mut search = Search::default();
        self.go_on(&mut search, text, 0)
    }

    /// Goes on with a search in `text`, whose first `covered` bytes are part of a match that is
    /// already known.
    pub(super) fn go_on(&self, search: &mut Search, text: Text<'_>, covered: usize) -> Scan {
        let bytes = text.bytes;
        let mut scan = Scan { hold: bytes.len(), ..Scan::default() };
        if covered > 0 {
            let end = escape_end(bytes, covered);
            scan.spans.push(Span { start: 0, end, continues: true });
        }
        search.run(self, text);
        let mut matches: SmallVec<[(usize, usize); 8]> = SmallVec::from_slice(search.matches());
        matches.sort_unstable();
        if !text.complete {
            scan.hold = search.hold().unwrap_or(scan.hold);
            // What a quote at the end is, the next byte shows.
            if bytes.last() == Some(&b'"') {
                let open = matches.iter().filter(|(_, end)| *end == bytes.len()).map(|(at, _)| *at);
                scan.hold = open.fold(scan.hold, usize::min);
            }
        }
        let hold = scan.hold;
        for (start, end) in matches.into_iter().filter(|(start, _)| *start < hold) {
            scan.add(text, start, end);
        }
        if !text.complete {
            scan.hold_escape(bytes);
        }
        scan
    }

    /// The tail of `bytes` that could go on as a secret.
    pub(super) fn pending(&self, bytes: &[u8]) -> Option<Pending> {
        let mut search = Search::default();
        search.run(self, Text::unfinished(bytes));
        let from = search.hold()?;
        Some(Pending { from: escape_start(bytes, from), bytes: search.most_begun(self) })
    }
}

impl Scan {
    /// Adds a match, fitted to JSON.
    fn add(&mut self, text: Text<'_>, start: usize, end: usize) {
        let bytes = text.bytes;
        let matched = bytes.get(start..end).unwrap_or_default();
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

    /// Adds what is replaced. Where it starts or ends inside an escape, the escape goes with it, or
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

/// Whether the quote at `at` opens or closes a string of JSON, by what stands beside it.
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
