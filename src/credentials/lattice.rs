//! All readings of the characters of a text, each found once, and where a secret could start.
//!
//! The readings of a position follow from those of the positions behind it, since an escape may be
//! spelled with escapes. So a window of the text is read backwards, once: for each byte that
//! introduces an escape its readings at every level are kept, and for each byte the beginnings of
//! forms that could start there ([`Heads`]). Each byte is visited a bounded number of times, for
//! any number of ways to read the text.
//!
//! A look at the bytes refutes most starts where starts are rare, and no window is read. Such looks
//! are paid for by the bytes that the filter passes over, so a text full of starts is read in windows.

use smallvec::SmallVec;

use super::decoded::{CutShort, LEVELS, Reading, Text, Value};
use super::escapes::{Below, Look, Plainly, Undone, class};
use super::filter::Filter;
use super::heads::{Behind, Heads};
use super::nodes::{Node, Nodes, VIEWS, count, number};

/// Bytes of the first window of a stretch; each that follows on it is twice as long.
const LEAST_SPAN: usize = 24;
/// Bytes of the longest window, unless an escape is longer.
const MOST_SPAN: usize = 2048;
/// Longest run of backslashes that stands for one.
const LONGEST_RUN: usize = 1 << LEVELS;
/// Bytes that the filter passes over for a look at one position.
const LOOK_BYTES: usize = 4;
/// Most bytes that are saved up for looks.
const MOST_CREDIT: usize = 256;
/// Nested escapes of a window that are remembered, for those that are spelled alike.
const SAMPLES: usize = 64;

/// Number of readings at each level of a chain of so many escapes.
const CHAINS: [[u8; VIEWS]; VIEWS] = [[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 3, 3], [1, 2, 3, 4]];

/// Readings of a text, on demand.
pub(super) struct Lattice<'t> {
    text: Text<'t>,
    heads: &'t Heads,
    /// The window under way, and the one before it: a match may reach from one into the other.
    windows: [Window; 2],
    newest: usize,
    plain: [Reading; 1],
    credit: usize,
}

impl<'t> Lattice<'t> {
    pub(super) fn new(text: Text<'t>, heads: &'t Heads) -> Self {
        let plain = [Reading { value: Value::Byte(0), length: 1 }];
        let windows = [Window::new(), Window::new()];
        Self { text, heads, windows, newest: 0, plain, credit: MOST_CREDIT }
    }

    pub(super) fn text(&self) -> Text<'t> {
        self.text
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

    /// The first position from `from` on at which a secret could start.
    pub(super) fn next_start(&mut self, filter: &Filter, from: usize) -> Option<usize> {
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
                self.holder_for_start(at)
            };
            let window = self.windows.get(holder)?;
            let starts =
                window.starts.get(at - window.nodes.start..window.exact - window.nodes.start)?;
            if let Some(found) = starts.iter().position(|&heads| Heads::any_whole(heads)) {
                return Some(at + found);
            }
            at = window.exact;
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
    /// For each byte, the beginnings of forms that could stand from there on.
    starts: Vec<u64>,
    /// For each byte, the beginnings that stand there behind none, one, two, … bytes of noise.
    behind_noise: Vec<Behind>,
    nodes: Nodes,
    /// Numbers of nodes by the bytes with which they start.
    samples: [u32; SAMPLES],
}

impl Window {
    fn new() -> Self {
        Self {
            exact: 0,
            span: 0,
            starts: Vec::new(),
            behind_noise: Vec::new(),
            nodes: Nodes::default(),
            samples: [u32::MAX; SAMPLES],
        }
    }

    /// Reads `text` from `start` on, at least a byte of it exactly.
    fn fill(&mut self, text: Text<'_>, heads: &Heads, start: usize, span: usize) {
        self.nodes.start = start;
        self.span = span;
        let mut reach = span;
        loop {
            let end = (start + reach).min(text.bytes.len());
            self.visit(text, heads, end);
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
        self.samples = [u32::MAX; SAMPLES];
        self.nodes.slots.resize(end - start, 0);
        self.starts.resize(end - start + 1, 0);
        self.behind_noise.resize(end - start + 1, Behind::default());
        let mut after = heads.at_end(stretch.complete);
        let mut behind = Behind::from(after);
        if let (Some(starts), Some(noise)) = (self.starts.last_mut(), self.behind_noise.last_mut())
        {
            (*starts, *noise) = (after, behind);
        }
        let mut backslashes = 0;
        for offset in (0..end - start).rev() {
            let at = start + offset;
            let Some(&raw) = stretch.bytes.get(at) else { continue };
            backslashes = if raw == b'\\' { backslashes + 1 } else { 0 };
            behind = if Text::is_introducer(raw) {
                let node = self.build(stretch, at, raw, backslashes);
                if node.is_cut() && !last {
                    self.exact = at;
                }
                if let Some(slot) = self.nodes.slots.get_mut(offset) {
                    *slot = number(self.nodes.all.len());
                }
                self.nodes.all.push(node);
                self.starting_at(at, &node, heads)
            } else {
                heads.before(raw, after, &behind)
            };
            after = behind.all();
            if let Some(slot) = self.starts.get_mut(offset) {
                *slot = after;
            }
            if let Some(slot) = self.behind_noise.get_mut(offset) {
                *slot = behind;
            }
        }
    }

    /// The beginnings of forms that could stand at `at`, where `node` is.
    fn starting_at(&self, at: usize, node: &Node, heads: &Heads) -> Behind {
        if node.is_cut() {
            return Behind::from(heads.at_end(false));
        }
        let offset = at - self.nodes.start;
        let mut all = Behind::default();
        for reading in self.nodes.view(node) {
            let next = offset + reading.length;
            let (Some(&after), Some(behind)) = (self.starts.get(next), self.behind_noise.get(next))
            else {
                continue;
            };
            match reading.value {
                Value::Byte(byte) => heads.add_before(byte, after, behind, &mut all),
                Value::Char(c) => heads.add_before_char(c, after, behind, &mut all),
            }
        }
        all
    }

    /// Finds the readings of the introducer at `at`; everything behind it is known.
    fn build(&mut self, text: Text<'_>, at: usize, raw: u8, backslashes: usize) -> Node {
        if backslashes >= 2 * LONGEST_RUN {
            return self.build_run(at);
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
        self.nodes.readings.extend_from_slice(chain.get(..known)?);
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
                    readings.extend(found.filter(|reading| !readings.contains(reading)));
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
                *count = u8::try_from(readings.len()).unwrap_or(u8::MAX);
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
