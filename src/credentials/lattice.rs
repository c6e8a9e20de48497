//! All readings of the characters of a text, each found once, and where a secret could start.
//!
//! The readings of a position follow from those of the positions behind it, since an escape may be
//! spelled with escapes. So a window of the text is read backwards, once: for each byte that
//! introduces an escape its readings at every level are kept, and for each byte the beginnings of
//! forms that could start there ([`Heads`]). Each byte is visited a bounded number of times, for
//! any number of ways to read the text.
//!
//! Text that repeats is read once ([`super::repeats`]). A look at the bytes refutes most starts where
//! starts are rare, and no window is read. Such looks are paid for by the bytes that the filter passes
//! over, so a text full of starts is read in windows.

use smallvec::SmallVec;

use super::coarse::{Coarse, Steps};
use super::decoded::{CutShort, LEVELS, Reading, Text, Value, simple_escape};
use super::escapes::{Below, Look, Plainly, Undone, class};
use super::filter::Filter;
#[cfg(test)]
use super::heads::Lanes;
use super::heads::{Beginnings, Behind, Heads};
use super::nodes::{Node, Nodes, VIEWS, count, number};
use super::repeats::repeat_end;
use crate::saturate::SaturatingFrom as _;

/// Bytes of the first window of a stretch; each that follows on it is twice as long.
const LEAST_SPAN: usize = 24;
/// Bytes of the longest window, unless an escape is longer.
const MOST_SPAN: usize = 2048;
/// Bytes behind a long window that are read to know what starts at its end.
const TAIL: usize = 96;
/// Bytes of the first stretch of several that are looked at coarsely.
const COARSE_SPAN: usize = 256;
/// Bytes for which no stretch is looked at coarsely, if the starts of one are too many; four times as many
/// for each that follows on one.
const LEAST_REST: usize = 2 * COARSE_SPAN;
const MOST_REST: usize = 64 * LEAST_REST;
/// Bytes of a stretch for each start, with fewer of which a coarse look does not pay.
const BYTES_PER_START: usize = 96;
/// Longest run of backslashes that stands for one.
const LONGEST_RUN: usize = 1 << LEVELS;
/// Bytes that the filter passes over for a look at one position.
const LOOK_BYTES: usize = 4;
/// Most bytes that are saved up for looks.
const MOST_CREDIT: usize = 256;
/// Bytes saved up at the start of a text.
const FIRST_CREDIT: usize = LEAST_SPAN;
/// Nested escapes of a window that are remembered, for those that are spelled alike.
const SAMPLES: usize = 64;

/// Number of readings at each level of a chain of so many escapes.
const CHAINS: [[u8; VIEWS]; VIEWS] = [[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 3, 3], [1, 2, 3, 4]];

/// Number of readings of an introducer that introduces nothing.
const ALONE: [u8; VIEWS] = [1; VIEWS];

/// Readings of a text, on demand.
pub(super) struct Lattice<'t> {
    text: Text<'t>,
    heads: &'t Heads,
    /// The window under way, and the one before it: a match may reach from one into the other.
    windows: [Window; 2],
    newest: usize,
    plain: [Reading; 1],
    credit: usize,
    coarse: Coarse,
    /// Up to here no coarse look pays.
    rest_to: usize,
    /// Bytes for which none would, if the next stretch has too many starts.
    rest: usize,
}

impl<'t> Lattice<'t> {
    pub(super) fn new(text: Text<'t>, heads: &'t Heads) -> Self {
        let plain = [Reading { value: Value::Byte(0), length: 1 }];
        let windows = [Window::new(), Window::new()];
        Self {
            text,
            heads,
            windows,
            newest: 0,
            plain,
            credit: FIRST_CREDIT,
            coarse: Coarse::default(),
            rest_to: 0,
            rest: LEAST_REST,
        }
    }

    pub(super) fn text(&self) -> Text<'t> {
        self.text
    }

    /// Goes on with `text`, whose bytes begin as those so far do. What they were like is remembered, what
    /// they could be read as is not.
    pub(super) fn go_on(&mut self, text: Text<'t>) {
        self.text = text;
        self.windows.iter_mut().for_each(Window::forget);
        self.coarse.forget();
    }

    /// Returns all readings of what starts at `at`, the byte itself first.
    #[inline]
    pub(super) fn read(&mut self, at: usize, cut: &mut CutShort) -> &[Reading] {
        let Some(&raw) = self.text.bytes.get(at) else {
            cut.0 |= !self.text.complete;
            return &[];
        };
        if !Text::is_introducer(raw) {
            self.plain = [Reading { value: Value::Byte(raw), length: 1 }];
            return &self.plain;
        }
        let holder = self.holder(at);
        let Some(window) = self.windows.get(holder) else { return &[] };
        let Some(node) = window.nodes.at(at) else { return &[] };
        cut.0 |= node.is_cut();
        window.nodes.view(node)
    }

    /// The characters of forms that could stand at each position of the text.
    #[cfg(test)]
    pub(super) fn characters(&mut self) -> Vec<u64> {
        let length = self.text.bytes.len();
        let holder = self.fill(0, length.max(1));
        let window = self.windows.get(holder);
        let at = |at| window.map_or(0, |window| Lanes::of(window.heads.all_at(at)));
        (0..length).map(at).collect()
    }

    /// The first position from `from` on at which a secret could start; `from` never goes back.
    pub(super) fn next_start(
        &mut self,
        filter: &Filter,
        steps: &Steps,
        from: usize,
    ) -> Option<usize> {
        let mut at = from;
        loop {
            let holder = if let Some(holder) = self.knowing(at) {
                holder
            } else {
                let hit = filter.next(self.text.bytes, at)?;
                self.credit = (self.credit + (hit - at)).min(MOST_CREDIT);
                at = hit;
                if self.credit >= LOOK_BYTES {
                    self.credit -= LOOK_BYTES;
                    if self.heads.refute(self.text, at) {
                        at += 1;
                        continue;
                    }
                }
                if let Some(further) = self.look_coarsely(steps, at) {
                    at = further;
                    continue;
                }
                self.holder_for_start(at)
            };
            let window = self.windows.get_mut(holder)?;
            while window.starts.pop_if(|start| *start < at).is_some() {}
            let start = window.starts.last().copied();
            // A start behind what is exact is one of a text that is not read yet.
            let start = start.filter(|start| *start < window.exact);
            let free = at..start.unwrap_or(window.exact);
            if let Some(further) = repeat_end(self.text.bytes, free, window.end) {
                at = further;
            } else if start.is_some() {
                return start;
            } else {
                at = window.exact;
            }
        }
    }

    /// Index of a window that knows `at`, if there is one.
    #[inline]
    fn knowing(&self, at: usize) -> Option<usize> {
        let knows = |n: &usize| {
            self.windows.get(*n).is_some_and(|window| window.nodes.start <= at && at < window.exact)
        };
        [self.newest, 1 - self.newest].into_iter().find(knows)
    }

    /// The position up to which no secret starts from `at` on, where a coarse look shows it.
    fn look_coarsely(&mut self, steps: &Steps, at: usize) -> Option<usize> {
        if self.credit >= LEAST_SPAN || at < self.rest_to {
            return None;
        }
        if !self.coarse.knows(at) {
            let newest = self.windows.get(self.newest)?;
            let dense = |end: usize| at.wrapping_sub(end) < LEAST_SPAN;
            let last_paid = self.rest == LEAST_REST;
            let span = if dense(self.coarse.sure) && last_paid {
                (self.coarse.span * 2).min(MOST_SPAN)
            } else if dense(self.coarse.sure) || dense(newest.exact) && newest.span > 0 {
                COARSE_SPAN
            } else {
                return None;
            };
            self.coarse.fill(self.text, steps, at, span);
            if self.coarse.starts() * BYTES_PER_START > span {
                self.rest_to = at + self.rest;
                self.rest = (self.rest * 4).min(MOST_REST);
                return None;
            }
            self.rest = LEAST_REST;
        }
        let next = self.coarse.next(at);
        let further = repeat_end(self.text.bytes, at..next, self.coarse.end).unwrap_or(next);
        (further > at).then_some(further)
    }

    /// Index of a window for a start at `at`: a short one as long as starts are rare.
    fn holder_for_start(&mut self, at: usize) -> usize {
        if let Some(rest) = self.credit.checked_sub(LEAST_SPAN) {
            self.credit = rest;
            return self.fill(at, LEAST_SPAN);
        }
        self.holder(at)
    }

    /// Index of the window that knows `at`; the older one is filled if none does.
    #[inline]
    fn holder(&mut self, at: usize) -> usize {
        if let Some(holder) = self.knowing(at) {
            return holder;
        }
        let follows =
            self.windows.get(self.newest).filter(|w| at.wrapping_sub(w.exact) < LEAST_SPAN);
        let span = follows.map_or(LEAST_SPAN, |window| (window.span * 2).min(MOST_SPAN));
        self.fill(at, span.max(LEAST_SPAN))
    }

    /// Fills the older window from `at` on, and gives back its index.
    fn fill(&mut self, at: usize, span: usize) -> usize {
        self.newest = 1 - self.newest;
        if let Some(window) = self.windows.get_mut(self.newest) {
            window.fill(self.text, self.heads, at, span);
        }
        self.newest
    }
}

/// Readings of a stretch of a text.
struct Window {
    /// End of what is exact; what stands behind it depends on text outside of the window.
    exact: usize,
    /// Bytes that were asked for.
    span: usize,
    /// End of the text that was looked at.
    end: usize,
    /// For each byte, the beginnings of forms that could stand from there on.
    heads: Beginnings,
    /// Positions at which a form could start, the last one first; those that were passed are gone.
    starts: Vec<usize>,
    nodes: Nodes,
    /// Numbers of nodes by the bytes with which they start.
    samples: [u32; SAMPLES],
}

impl Window {
    fn new() -> Self {
        Self {
            exact: 0,
            span: 0,
            end: 0,
            heads: Beginnings::default(),
            starts: Vec::new(),
            nodes: Nodes::default(),
            samples: [u32::MAX; SAMPLES],
        }
    }

    /// Knows nothing any more but where it was and how long.
    fn forget(&mut self) {
        self.nodes.start = self.exact;
        self.starts.clear();
    }

    /// Reads `text` from `start` on, at least a byte of it exactly.
    fn fill(&mut self, text: Text<'_>, heads: &Heads, start: usize, span: usize) {
        self.nodes.start = start;
        self.span = span;
        let tail = if span > LEAST_SPAN { span.min(TAIL) } else { 0 };
        let mut reach = span;
        loop {
            let end = (start + reach + tail).min(text.bytes.len());
            self.visit(text, heads, end);
            if end < text.bytes.len() {
                self.exact = self.exact.min(start + reach);
            }
            // An escape has a longest form, so a reach is found that is enough.
            if end == text.bytes.len() || self.exact - start >= span / 2 {
                return;
            }
            reach *= 2;
        }
    }

    fn visit(&mut self, text: Text<'_>, heads: &Heads, end: usize) {
        let last = end == text.bytes.len();
        let stretch = Text {
            bytes: text.bytes.get(..end).unwrap_or_default(),
            complete: last && text.complete,
            before: None,
        };
        let start = self.nodes.start;
        self.exact = end;
        self.nodes.all.clear();
        self.nodes.readings.clear();
        self.nodes.readings.extend(b"%\\&+ ".map(|b| Reading { value: Value::Byte(b), length: 1 }));
        self.samples = [u32::MAX; SAMPLES];
        self.nodes.slots.resize(end - start, 0);
        self.starts.clear();
        self.end = end;
        let mut after = heads.at_end(stretch.complete);
        self.heads.clear(end - start, after);
        let mut backslashes = 0;
        let mut offset = end - start;
        let bytes = stretch.bytes.get(start..).unwrap_or_default();
        loop {
            let starts = &mut self.starts;
            let behind = self.heads.pass(heads, bytes, offset, after, |n| starts.push(start + n));
            if behind < offset {
                backslashes = 0;
            }
            let Some(before) = behind.checked_sub(1) else { return };
            offset = before;
            let Some(&raw) = bytes.get(offset) else { return };
            let at = start + offset;
            let mut all = Behind::default();
            if Text::is_introducer(raw) {
                backslashes = if raw == b'\\' { backslashes + 1 } else { 0 };
                let node = self.build(stretch, at, raw, backslashes);
                if node.is_cut() && !last {
                    self.exact = at;
                }
                if let Some(slot) = self.nodes.slots.get_mut(offset) {
                    *slot = number(self.nodes.all.len());
                }
                self.nodes.all.push(node);
                self.add_starting_at(at, &node, heads, &mut all);
            } else {
                backslashes = 0;
                heads.add_before(raw, &self.heads, offset + 1, &mut all);
            }
            after = self.heads.set_behind(offset, &all);
            if Heads::any_whole(after) {
                self.starts.push(at);
            }
        }
    }

    /// Adds the beginnings of forms that could stand at `at`, where `node` is, to `all`.
    fn add_starting_at(&self, at: usize, node: &Node, heads: &Heads, all: &mut Behind) {
        if node.is_cut() {
            *all = Behind::from(heads.at_end(false));
            return;
        }
        let offset = at - self.nodes.start;
        for reading in self.nodes.view(node) {
            let next = offset + reading.length;
            match reading.value {
                Value::Byte(byte) => heads.add_before(byte, &self.heads, next, all),
                Value::Char(c) => heads.add_before_char(c, &self.heads, next, all),
            }
        }
    }

    /// Finds the readings of the introducer at `at`; everything behind it is known.
    fn build(&mut self, text: Text<'_>, at: usize, raw: u8, backslashes: usize) -> Node {
        if backslashes >= 2 * LONGEST_RUN {
            return self.build_run(at);
        }
        if let Some(node) = self.build_short(text, at, raw) {
            return node;
        }
        if let Some(node) = self.build_plain(text, at, raw) {
            return node;
        }
        if let Some(node) = self.sample(text, at) {
            return node;
        }
        let node = self.build_nested(text, at, raw);
        if node.reach != u32::MAX
            && let Some(sample) = slot_of(text, at).and_then(|slot| self.samples.get_mut(slot))
        {
            *sample = number(self.nodes.all.len());
        }
        node
    }

    /// Finds the readings of an introducer that the next byte decides.
    #[inline]
    fn build_short(&mut self, text: Text<'_>, at: usize, raw: u8) -> Option<Node> {
        let (first, counts) = match raw {
            b'%' => (0, ALONE),
            b'\\' => (1, ALONE),
            b'&' => (2, ALONE),
            // A plus sign is a space to a form.
            _ => (3, [1, 2, 2, 2]),
        };
        let mut node = Node {
            first,
            offset: number(at - self.nodes.start),
            reach: 1,
            counts,
            cut_from: u8::MAX,
            classes: class::of(raw),
        };
        if let Some((value, length)) = text.bytes.get(at + 1..).and_then(|rest| digits(raw, rest)) {
            return Some(self.with_value(node, raw, value, length));
        }
        let wanted = match raw {
            b'%' => class::DIGIT,
            b'&' => class::HASH | class::NAME,
            b'\\' => return self.build_letter(text, at, node),
            _ => return Some(node),
        };
        let next = *text.bytes.get(at + 1)?;
        let classes = if Text::is_introducer(next) {
            let behind = self.nodes.at(at + 1)?;
            node.reach = behind.reach.checked_add(1)?;
            behind.classes
        } else {
            node.reach = 2;
            class::of(next)
        };
        (classes & wanted == 0).then_some(node)
    }

    /// Finds the readings of a backslash before a letter.
    #[inline]
    fn build_letter(&mut self, text: Text<'_>, at: usize, node: Node) -> Option<Node> {
        let letter = *text.bytes.get(at + 1)?;
        if Text::is_introducer(letter) || matches!(letter, b'u' | b'x') {
            return None;
        }
        Some(match simple_escape(letter) {
            Some(byte) => self.with_value(node, b'\\', Value::Byte(byte), 2),
            None => Node { reach: 2, ..node },
        })
    }

    /// A node for an escape that stands for `value`, at every level.
    #[inline]
    fn with_value(&mut self, node: Node, raw: u8, value: Value, length: usize) -> Node {
        let first = number(self.nodes.readings.len());
        let itself = Reading { value: Value::Byte(raw), length: 1 };
        self.nodes.readings.extend([itself, Reading { value, length }]);
        let classes = node.classes | value.byte().map_or(0, class::of);
        Node { first, reach: number(length), counts: [1, 2, 2, 2], classes, ..node }
    }

    #[inline]
    fn node_of(&self, at: usize, first: usize, counts: [u8; VIEWS], reach: usize) -> Node {
        let readings = self.nodes.readings.get(first..).unwrap_or_default();
        let mut classes = 0;
        for reading in readings {
            classes |= reading.value.byte().map_or(0, class::of);
        }
        Node {
            first: number(first),
            offset: number(at - self.nodes.start),
            reach: if reach == usize::MAX { u32::MAX } else { number(reach.saturating_sub(at)) },
            counts,
            cut_from: u8::MAX,
            classes,
        }
    }

    /// Inside of a long run of backslashes each number of them up to the longest stands for one.
    fn build_run(&mut self, at: usize) -> Node {
        let first = self.nodes.readings.len();
        let value = Value::Byte(b'\\');
        self.nodes.readings.extend((1..=LONGEST_RUN).map(|length| Reading { value, length }));
        self.node_of(at, first, [1, 2, 4, 8], at + 2 * LONGEST_RUN)
    }

    /// Finds the readings of an escape whose characters have one meaning each.
    fn build_plain(&mut self, text: Text<'_>, at: usize, raw: u8) -> Option<Node> {
        let mut chain = [Reading { value: Value::Byte(raw), length: 1 }; VIEWS];
        let mut known = 1;
        let mut plainly = Plainly::new(&self.nodes, text);
        let (mut byte, mut next) = (raw, at + 1);
        for level in 1..VIEWS {
            match plainly.undo(byte, next, level) {
                Undone::Nothing => break,
                Undone::Unclear => return None,
                Undone::To(value, end) => {
                    *chain.get_mut(level)? = Reading { value, length: end - at };
                    known += 1;
                    match value {
                        Value::Byte(introducer) if Text::is_introducer(introducer) => {
                            (byte, next) = (introducer, end);
                        }
                        Value::Byte(_) | Value::Char(_) => break,
                    }
                }
            }
        }
        let reach = plainly.reach.max(next);
        let first = self.nodes.readings.len();
        self.nodes.readings.extend(chain.into_iter().take(known));
        Some(self.node_of(at, first, *CHAINS.get(known - 1)?, reach))
    }

    /// A node that is spelled like the escape at `at`.
    fn sample(&self, text: Text<'_>, at: usize) -> Option<Node> {
        let node = self.nodes.all.get(count(*self.samples.get(slot_of(text, at)?)?))?;
        let from = self.nodes.start + count(node.offset);
        let reach = count(node.reach);
        let alike = text.bytes.get(at..at + reach)? == text.bytes.get(from..from + reach)?;
        alike.then(|| Node { offset: number(at - self.nodes.start), ..*node })
    }

    fn build_nested(&mut self, text: Text<'_>, at: usize, raw: u8) -> Node {
        let mut readings = SmallVec::<[Reading; 8]>::new();
        readings.push(Reading { value: Value::Byte(raw), length: 1 });
        let mut counts = [1; VIEWS];
        let mut cut_from = VIEWS;
        let mut reach = at + 1;
        // Readings whose decoding a higher level could change.
        let mut again = SmallVec::<[usize; 8]>::new();
        again.push(0);
        for level in 1..VIEWS {
            let before = readings.len();
            let below = Below { nodes: &self.nodes, text, level: level - 1 };
            let mut kept = SmallVec::<[usize; 8]>::new();
            for &number in &again {
                let Some(&Reading { value: Value::Byte(byte), length }) = readings.get(number)
                else {
                    continue;
                };
                let mut look = Look::default();
                below.decode(byte, at + length, &mut look, &mut |value, next| {
                    let found = value.map(|value| Reading { value, length: next - at });
                    if let Some(reading) = found
                        && !readings.contains(&reading)
                    {
                        readings.push(reading);
                    }
                });
                reach = reach.max(look.reach);
                if look.cut {
                    cut_from = cut_from.min(level);
                }
                if look.deeper {
                    kept.push(number);
                }
            }
            for count in counts.iter_mut().skip(level) {
                *count = u8::saturating_from(readings.len());
            }
            kept.extend((before..readings.len()).filter(|n| {
                readings.get(*n).and_then(|r| r.value.byte()).is_some_and(Text::is_introducer)
            }));
            again = kept;
            if again.is_empty() {
                break;
            }
        }
        let first = self.nodes.readings.len();
        self.nodes.readings.extend_from_slice(&readings);
        let node = self.node_of(at, first, counts, reach);
        if cut_from < VIEWS {
            let cut_from = u8::try_from(cut_from).unwrap_or(0);
            return Node { cut_from, classes: class::ALL, reach: u32::MAX, ..node };
        }
        node
    }
}

/// Undoes an escape of `%hh`, `\xhh` or `\uhhhh` without its introducer, if that is no other's.
#[inline]
fn digits(introducer: u8, rest: &[u8]) -> Option<(Value, usize)> {
    let number = |digits: &[u8]| {
        let digit = |&byte: &u8| char::from(byte).to_digit(16);
        digits.iter().map(digit).try_fold(0, |number, digit| Some(number << 4 | digit?))
    };
    let (value, length) = match (introducer, rest) {
        (b'%', [high, low, ..]) => (Value::Byte(u8::try_from(number(&[*high, *low])?).ok()?), 3),
        (b'\\', [b'x', high, low, ..]) => {
            (Value::Byte(u8::try_from(number(&[*high, *low])?).ok()?), 4)
        }
        (b'\\', [b'u', digits @ ..]) => (Value::of_number(number(digits.first_chunk::<4>()?)?)?, 6),
        _ => return None,
    };
    (!value.byte().is_some_and(Text::is_introducer)).then_some((value, length))
}

/// Place of a sample for the escape at `at`.
fn slot_of(text: Text<'_>, at: usize) -> Option<usize> {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    /// The first four bytes: what follows a run of backslashes differs.
    const HEAD: u64 = 0xFFFF_FFFF;
    let head = u64::from_le_bytes(*text.bytes.get(at..)?.first_chunk::<8>()?);
    let is_run = head & 0xFFFF == 0x5C5C;
    let hash = (if is_run { head & HEAD } else { head }).wrapping_mul(SPREAD) >> 56;
    Some(usize::try_from(hash).unwrap_or(0) % SAMPLES)
}
