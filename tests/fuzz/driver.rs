//! The loop around a target, and what most inputs are made of.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestCaseResult, TestError, TestRunner};

/// Executions between two looks at the clock.
const BATCH: u32 = 64;

/// Runs a target for `FUZZ_SECS` seconds, 10 unless set, and prints how often it was executed.
pub(crate) fn fuzz<S: Strategy>(
    name: &str,
    inputs: &S,
    target: impl Fn(S::Value) -> TestCaseResult,
) {
    let secs = std::env::var("FUZZ_SECS").map_or(10, |secs| secs.parse().unwrap());
    let (start, executions) = (Instant::now(), Cell::new(0_u64));
    while start.elapsed() < Duration::from_secs(secs) {
        let config =
            ProptestConfig { cases: BATCH, failure_persistence: None, ..Default::default() };
        let ran = TestRunner::new(config).run(inputs, |input| {
            executions.set(executions.get() + 1);
            target(input)
        });
        match ran {
            Ok(()) => {}
            Err(TestError::Fail(reason, input)) => panic!("{name}: {reason}\ninput: {input:?}"),
            Err(TestError::Abort(reason)) => panic!("{name}: {reason}"),
        }
    }
    println!("fuzz {name}: {} executions in {secs} s", executions.get());
}

/// Bytes that show as text.
#[derive(Clone)]
pub(crate) struct Input(pub Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Up to `most` of the pieces in any order, now and then one of them many times, or a few bytes of any kind.
pub(crate) fn soup(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = Input> {
    let piece = move || select(pieces).prop_map(|piece| piece.as_bytes().to_vec());
    let part = prop_oneof![
        30 => piece(),
        1 => (piece(), 2_usize..80).prop_map(|(piece, times)| piece.repeat(times)),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(part, 0..most).prop_map(|parts| Input(parts.concat()))
}

/// One change of a text.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Flip(Index, u8),
    Cut(Index, usize),
    Insert(Index, Vec<u8>),
    /// A stretch of the text once more, at another place.
    Copy(Index, usize, Index),
}

pub(crate) fn changes(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<Change>> {
    let piece = select(pieces).prop_map(|piece| piece.as_bytes().to_vec());
    let change = prop_oneof![
        2 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Change::Cut(at, length)),
        3 => (any::<Index>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1_usize..300, any::<Index>())
            .prop_map(|(from, length, to)| Change::Copy(from, length, to)),
    ];
    vec(change, 0..6)
}

/// Makes the changes, one after the other.
pub(crate) fn changed(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for change in changes {
        let place = |at: &Index, text: &[u8]| at.index(text.len() + 1);
        match change {
            Change::Flip(at, bit) if !text.is_empty() => {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
            }
            Change::Flip(..) => {}
            Change::Cut(at, length) => {
                let at = place(at, &text);
                text.drain(at..(at + length).min(text.len()));
            }
            Change::Insert(at, bytes) => {
                let at = place(at, &text);
                text.splice(at..at, bytes.iter().copied());
            }
            Change::Copy(from, length, to) => {
                let from = place(from, &text);
                let piece = text[from..(from + length).min(text.len())].to_vec();
                let to = place(to, &text);
                text.splice(to..to, piece);
            }
        }
    }
    text
}

/// Places at which a text is cut into chunks.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop_oneof![1 => Just(Vec::new()), 4 => vec(any::<Index>(), 1..9)]
}

/// The text in chunks; without cuts byte by byte.
pub(crate) fn chunks<'t>(text: &'t [u8], cuts: &[Index]) -> Vec<&'t [u8]> {
    if cuts.is_empty() {
        return text.chunks(1).collect();
    }
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}
