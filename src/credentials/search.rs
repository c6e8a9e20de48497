//! Finds every form of every secret in a text, reading each byte a bounded number of times.
//!
//! A text is a lattice: where an escape stands, several readings lead to several next positions. The
//! search walks the positions in order. At each it takes the partial matches that have got there
//! (threads) one character further, by every reading, and begins new ones if the [filter] allows it.
//! A thread that fails falls back to the longest shorter match that ends at the same place, so a
//! beginning that repeats itself is never read again, and of one form there is one thread at a
//! position, or a few where readings part.
//!
//! A search can go on where it stopped when more of the text has come; nothing is read twice because
//! of how a body was cut into chunks.
//!
//! [filter]: super::filter

use smallvec::SmallVec;

use super::decoded::{CutShort, Reading, Text, Value};
use super::encodings::{Form, MOST_NOISE, Step};
use super::patterns::Patterns;

/// Most threads of one form at one position; those that have matched least are given up.
const MOST_OF_A_FORM: usize = 4;

/// A partial match.
#[derive(Clone, Debug)]
struct Thread {
    /// Position of the next character.
    at: usize,
    form: u32,
    /// Line breaks and the like since its last character.
    noise: u8,
    /// Positions of the match's characters, from `first` on.
    path: SmallVec<[u32; 8]>,
    first: u32,
}

/// A match whose padding, which goes with it, may not all have come.
#[derive(Clone, Copy, Debug)]
struct Padded {
    form: u32,
    matched: usize,
    /// Number of the match.
    number: usize,
}

/// A search under way.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// In the order of their positions.
    threads: Vec<Thread>,
    padded: Vec<Padded>,
    /// Start and end of every match, in the order of their ends.
    matches: Vec<(usize, usize)>,
    /// Up to here the text has been searched.
    at: usize,
    /// Position of an escape that the text breaks off.
    broken_off: Option<usize>,
    /// Forms for which a thread went on by the reading that ends there: it covers a start here.
    covered: SmallVec<[(u32, usize); 4]>,
}

/// Continuation of a thread by one reading: the length of match that is left, and the step.
type Outcome = (usize, Step);

impl Thread {
    fn first(&self) -> usize {
        usize::try_from(self.first).unwrap_or(usize::MAX)
    }

    fn matched(&self) -> usize {
        self.path.len() - self.first()
    }

    fn start(&self) -> usize {
        let start = self.path.get(self.first()).and_then(|at| usize::try_from(*at).ok());
        start.unwrap_or(self.at)
    }

    /// Forgets the first characters of the match.
    fn shorten(&mut self, to: usize) {
        /// Forgotten characters that are kept before the others are moved.
        const FORGOTTEN: usize = 64;
        let first = self.path.len() - to;
        if first > FORGOTTEN && first > to {
            self.path.drain(..first);
            self.first = 0;
        } else {
            self.first = u32::try_from(first).unwrap_or(u32::MAX);
        }
    }

    /// Computes the thread's continuation; nothing if nothing of the match is left.
    #[inline]
    fn outcome(&self, form: &Form, value: Value) -> Option<Outcome> {
        let mut matched = self.matched();
        while matched > 0 {
            match form.step(matched, value) {
                Step::Mismatch => {}
                Step::Noise if self.noise >= MOST_NOISE => {}
                step @ (Step::Forward(_) | Step::Noise) => return Some((matched, step)),
            }
            matched = form.shorter(matched);
        }
        None
    }

    #[inline]
    fn apply(&mut self, (matched, step): Outcome, next: usize) {
        if matched < self.matched() {
            self.shorten(matched);
        }
        if let Step::Forward(bytes) = step {
            self.forward(bytes, next);
        } else {
            self.noise += 1;
            self.at = next;
        }
    }

    #[inline]
    fn forward(&mut self, bytes: usize, next: usize) {
        let at = u32::try_from(self.at).unwrap_or(u32::MAX);
        for _ in 0..bytes {
            self.path.push(at);
        }
        self.noise = 0;
        self.at = next;
    }
}

impl Search {
    /// Searches `text` as far as it has come, from where the search stopped.
    pub(super) fn run(&mut self, patterns: &Patterns, text: Text<'_>) {
        self.broken_off = None;
        self.pad(patterns, text);
        let filter = patterns.filter();
        let length = text.bytes.len();
        loop {
            let (at, may_start) = match self.threads.first() {
                None if filter.may_start(text.bytes, self.at) => (self.at, true),
                None => match filter.next(text.bytes, self.at) {
                    Some(at) => (at, true),
                    None => break,
                },
                Some(thread) => {
                    // Threads are never more than an escape ahead.
                    let arrival = thread.at.min(length);
                    match (self.at..arrival).find(|&at| filter.may_start(text.bytes, at)) {
                        Some(at) => (at, true),
                        None if arrival == length => break,
                        None => (arrival, filter.may_start(text.bytes, arrival)),
                    }
                }
            };
            if !self.visit(patterns, text, at, may_start) {
                self.broken_off = Some(at);
                self.at = at;
                return;
            }
            self.at = at + 1;
        }
        self.at = length;
    }

    /// Takes all that has got to `at` one character further, and begins what may start there. Says
    /// no, and does nothing, if the text breaks off inside of the character.
    #[inline]
    fn visit(&mut self, patterns: &Patterns, text: Text<'_>, at: usize, may_start: bool) -> bool {
        let Some(&raw) = text.bytes.get(at) else { return true };
        let itself = Reading { value: Value::Byte(raw), next: at + 1 };
        if !Text::is_introducer(raw) {
            self.take(patterns, text, at, &[itself], may_start);
            return true;
        }
        let arrives = self.threads.first().is_some_and(|thread| thread.at == at);
        if !arrives && patterns.is_no_start(text, at) {
            return true;
        }
        let mut cut = CutShort::default();
        let readings = text.read(at, &mut cut);
        if !cut.0 {
            self.take(patterns, text, at, &readings, may_start);
        }
        !cut.0
    }

    #[inline]
    fn take(
        &mut self,
        patterns: &Patterns,
        text: Text<'_>,
        at: usize,
        readings: &[Reading],
        may_start: bool,
    ) {
        let arrived = self.threads.iter().take_while(|thread| thread.at == at).count();
        if arrived == 1 {
            self.take_one(patterns, text, readings);
        } else if arrived > 1 {
            let arrived: SmallVec<[Thread; 4]> = self.threads.drain(..arrived).collect();
            for thread in arrived {
                let Some(form) = patterns.form(thread.form) else { continue };
                for reading in readings {
                    if let Some(outcome) = self.outcome(form, &thread, *reading) {
                        let mut thread = thread.clone();
                        thread.apply(outcome, reading.next);
                        self.settle(patterns, form, text, thread);
                    }
                }
            }
        }
        if may_start {
            for reading in readings {
                self.start(patterns, text, at, *reading);
            }
        }
        self.covered.clear();
    }

    /// Takes the only thread that has got here one character further, where it stands.
    #[inline]
    fn take_one(&mut self, patterns: &Patterns, text: Text<'_>, readings: &[Reading]) {
        let Some(number) = self.threads.first().map(|thread| thread.form) else { return };
        let Some(form) = patterns.form(number) else { return };
        let mut ways = SmallVec::<[(Outcome, usize); 4]>::new();
        for reading in readings {
            let Some(thread) = self.threads.first() else { return };
            if !form.reads_escapes() && reading.next != thread.at + 1 {
                continue;
            }
            if let Some(outcome) = thread.outcome(form, reading.value) {
                self.covered.push((number, reading.next));
                ways.push((outcome, reading.next));
            }
        }
        let ahead = self.threads.get(1).map_or(usize::MAX, |other| other.at);
        match (ways.as_slice(), self.threads.first_mut()) {
            ([(outcome, next)], Some(thread)) if *next < ahead => {
                thread.apply(*outcome, *next);
                if thread.matched() >= form.required {
                    let thread = self.threads.remove(0);
                    self.complete(patterns, form, text, thread);
                }
            }
            ([], _) | (_, None) => {
                self.threads.remove(0);
            }
            (ways, Some(_)) => {
                let thread = self.threads.remove(0);
                for (outcome, next) in ways {
                    let mut thread = thread.clone();
                    thread.apply(*outcome, *next);
                    self.settle(patterns, form, text, thread);
                }
            }
        }
    }

    fn outcome(&mut self, form: &Form, thread: &Thread, reading: Reading) -> Option<Outcome> {
        if !form.reads_escapes() && reading.next != thread.at + 1 {
            return None;
        }
        let outcome = thread.outcome(form, reading.value)?;
        self.covered.push((thread.form, reading.next));
        Some(outcome)
    }

    /// Start and end of every match so far.
    pub(super) fn matches(&self) -> &[(usize, usize)] {
        &self.matches
    }

    /// Returns the position from which on the text could still be part of a match.
    pub(super) fn hold(&self) -> Option<usize> {
        let threads = self.threads.iter().map(Thread::start);
        let padded = self.padded.iter().filter_map(|p| self.matches.get(p.number)).map(|m| m.0);
        threads.chain(padded).chain(self.broken_off).min()
    }

    /// The most of a secret that has been seen and is not a whole one yet, in its bytes.
    pub(super) fn most_begun(&self, patterns: &Patterns) -> usize {
        let begun = self.threads.iter().filter_map(|thread| {
            let form = patterns.form(thread.form)?;
            let matched = thread.matched().min(form.required) * form.secret_bytes;
            matched.checked_div(form.required)
        });
        begun.max().unwrap_or(0)
    }

    /// The first `bytes` of the text have gone, and the matches that start there.
    pub(super) fn forget(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
        self.broken_off = None;
        for thread in &mut self.threads {
            thread.at = thread.at.saturating_sub(bytes);
            let gone = u32::try_from(bytes).unwrap_or(u32::MAX);
            thread.path.iter_mut().for_each(|at| *at = at.saturating_sub(gone));
        }
        let gone = self.matches.iter().take_while(|(start, _)| *start < bytes).count();
        // INVARIANT: a match whose padding is awaited is held, so it is not among those gone.
        if gone == self.matches.len() {
            self.matches.clear();
            self.padded.clear();
        } else {
            let mut kept = Vec::new();
            let mut numbers = vec![None; self.matches.len()];
            for (number, (start, end)) in self.matches.iter().enumerate() {
                if *start >= bytes {
                    if let Some(slot) = numbers.get_mut(number) {
                        *slot = Some(kept.len());
                    }
                    kept.push((start - bytes, end - bytes));
                }
            }
            self.padded.retain_mut(|p| match numbers.get(p.number).copied().flatten() {
                Some(number) => {
                    p.number = number;
                    true
                }
                None => false,
            });
            self.matches = kept;
        }
    }

    /// Puts a thread where it belongs.
    fn settle(&mut self, patterns: &Patterns, form: &Form, text: Text<'_>, thread: Thread) {
        if thread.matched() >= form.required {
            self.complete(patterns, form, text, thread);
        } else {
            self.insert(thread);
        }
    }

    /// Notes a match; what may go on as another one goes on.
    fn complete(&mut self, patterns: &Patterns, form: &Form, text: Text<'_>, mut thread: Thread) {
        self.matches.push((thread.start(), thread.at));
        if form.row.len() > form.required {
            let number = self.matches.len() - 1;
            self.padded.push(Padded { form: thread.form, matched: form.required, number });
            self.pad(patterns, text);
        }
        let shorter = form.shorter(form.required);
        thread.shorten(shorter);
        if shorter > 0 {
            self.insert(thread);
        }
    }

    /// Begins a thread for every form that may start at `at` by this reading, those left out that
    /// threads cover.
    fn start(&mut self, patterns: &Patterns, text: Text<'_>, at: usize, reading: Reading) {
        match reading.value {
            Value::Byte(first) => self.start_with(patterns, text, at, reading, first),
            Value::Char(c) => {
                if let Some(&first) = c.encode_utf8(&mut [0; 4]).as_bytes().first() {
                    self.start_with(patterns, text, at, reading, first);
                }
                if let Ok(latin1) = u8::try_from(c) {
                    self.start_with(patterns, text, at, reading, latin1);
                }
            }
        }
    }

    #[inline]
    fn start_with(
        &mut self,
        patterns: &Patterns,
        text: Text<'_>,
        at: usize,
        reading: Reading,
        first: u8,
    ) {
        let raw = reading.next == at + 1 && matches!(reading.value, Value::Byte(_));
        for &number in patterns.starting_with(first) {
            let Some(form) = patterns.form(number) else { continue };
            if self.covered.contains(&(number, reading.next)) || (!raw && !form.reads_escapes()) {
                continue;
            }
            let mut same = 1;
            if raw {
                // Most starts are none, and that is seen at once.
                let rest = text.bytes.get(at..).unwrap_or_default();
                match form.begins(rest) {
                    Some(begun) => same = begun,
                    None => continue,
                }
            }
            let mut thread = Thread { at, form: number, noise: 0, path: SmallVec::new(), first: 0 };
            if same > 1 {
                thread.path.extend((at..at + same).filter_map(|at| u32::try_from(at).ok()));
                thread.at = at + same;
            } else if let Step::Forward(bytes) = form.step(0, reading.value) {
                thread.forward(bytes, reading.next);
            } else {
                continue;
            }
            self.settle(patterns, form, text, thread);
        }
    }

    /// Adds a thread in the order of positions.
    fn insert(&mut self, thread: Thread) {
        let here = self.threads.partition_point(|other| other.at < thread.at);
        let same = |other: &&Thread| other.at == thread.at && other.form == thread.form;
        let others = self.threads.iter().skip(here).take_while(|other| other.at == thread.at);
        let mut count = 0;
        for other in others.filter(same) {
            if other.matched() == thread.matched() && other.noise == thread.noise {
                return;
            }
            count += 1;
        }
        self.threads.insert(here, thread);
        if count >= MOST_OF_A_FORM {
            self.give_up_the_least(here);
        }
    }

    /// Removes, of the threads at the position and of the form of that at `index`, the one that has
    /// matched least.
    fn give_up_the_least(&mut self, index: usize) {
        let Some(thread) = self.threads.get(index) else { return };
        let (at, form) = (thread.at, thread.form);
        let least = (self.threads.iter().enumerate())
            .filter(|(_, other)| other.at == at && other.form == form)
            .min_by_key(|(_, other)| other.matched())
            .map(|(n, _)| n);
        if let Some(least) = least {
            self.threads.remove(least);
        }
    }

    /// Adds the padding that has come to the matches that it belongs to.
    fn pad(&mut self, patterns: &Patterns, text: Text<'_>) {
        let matches = &mut self.matches;
        self.padded.retain_mut(|padded| {
            let Some(form) = patterns.form(padded.form) else { return false };
            let Some((_, end)) = matches.get_mut(padded.number) else { return false };
            while padded.matched < form.row.len() {
                let mut cut = CutShort::default();
                let readings = text.read(*end, &mut cut);
                let fits = |r: &&Reading| form.step(padded.matched, r.value) == Step::Forward(1);
                match readings.iter().find(fits) {
                    Some(reading) => *end = reading.next,
                    None => return cut.0,
                }
                padded.matched += 1;
            }
            false
        });
    }
}
