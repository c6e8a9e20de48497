//! BLAKE3 of many short inputs, several at a time.
//!
//! A log's lines are short, and hashed one after the other they keep a single lane of the
//! processor's wide registers busy. They do not depend on each other, so here up to sixteen are
//! compressed side by side. Only runs of blocks with the same place and length fit together: chunks
//! are sorted by the number of blocks before their last one. The last, which may be short, is
//! compressed by itself.
//!
//! The wide compression is that of the `blake3` crate, in a module that it neither documents nor
//! promises to keep. So its version is pinned exactly, and a property holds these hashes equal to
//! `blake3::hash` at every length. A wrong hash could only make a good log look damaged.

use blake3::IncrementCounter;
use blake3::platform::{Platform, le_bytes_from_words_32, words_from_le_bytes_32};

const BLOCK_BYTES: usize = 64;
const CHUNK_BYTES: usize = 1_024;
const CHUNK_BLOCKS: usize = CHUNK_BYTES / BLOCK_BYTES;
/// In more chunks than these the crate finds enough lanes by itself.
const MAX_CHUNKS: usize = 8;

const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
/// Initial state of every chunk.
const START: Words = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

type Words = [u32; 8];
type Hash = [u8; 32];

/// The hash of each input.
pub(super) fn hash_each(inputs: &[&[u8]]) -> Vec<Hash> {
    let platform = Platform::detect();
    let mut sorted: [[Vec<Chunk<'_>>; CHUNK_BLOCKS]; MAX_CHUNKS] = Default::default();
    let mut slots = 0;
    for input in inputs {
        let chunks = chunks_of(input);
        if chunks <= MAX_CHUNKS {
            let mut rest = *input;
            for of_its_place in sorted.iter_mut().take(chunks) {
                let (bytes, more) = rest.split_at_checked(CHUNK_BYTES).unwrap_or((rest, &[]));
                let root = if chunks == 1 { ROOT } else { 0 };
                if let Some(alike) = of_its_place.get_mut(blocks_before_last(bytes)) {
                    alike.push(Chunk { bytes, slot: slots, root });
                }
                slots += 1;
                rest = more;
            }
        }
    }
    let mut hashes = vec![Hash::default(); slots];
    for (place, of_its_place) in (0..).zip(&sorted) {
        for (blocks, alike) in of_its_place.iter().enumerate() {
            hash_alike(platform, place, blocks, alike, &mut hashes);
        }
    }
    let mut hashes = hashes.as_slice();
    let whole = |input: &&[u8]| match chunks_of(input) {
        1..=MAX_CHUNKS => {
            let own;
            (own, hashes) = hashes.split_at_checked(chunks_of(input)).unwrap_or((hashes, &[]));
            join(platform, own, ROOT)
        }
        _ => *blake3::hash(input).as_bytes(),
    };
    inputs.iter().map(whole).collect()
}

/// The hashes of first chunks, of inputs that have a whole one and more behind it.
pub(super) fn first_chunks(inputs: &[&[u8]]) -> Vec<Option<Hash>> {
    let chunks: Vec<&[u8; CHUNK_BYTES]> =
        inputs.iter().filter_map(|input| input.first_chunk()).collect();
    let mut out = vec![0; chunks.len() * size_of::<Hash>()];
    let same_place = IncrementCounter::No;
    let (start, end) = (CHUNK_START, CHUNK_END);
    Platform::detect().hash_many(&chunks, &START, 0, same_place, 0, start, end, &mut out);
    let (hashes, _) = out.as_chunks();
    let mut hashes = hashes.iter();
    let has_chunk = |input: &&[u8]| input.len() >= CHUNK_BYTES;
    let next = |input: &&[u8]| has_chunk(input).then(|| hashes.next().copied()).flatten();
    inputs.iter().map(next).collect()
}

/// The hash of an input whose first chunk has been hashed and is not its only one.
pub(super) fn hash_behind(first: Hash, input: &[u8]) -> Hash {
    let platform = Platform::detect();
    match input.split_at_checked(CHUNK_BYTES) {
        Some((_, second)) if (1..=CHUNK_BYTES).contains(&second.len()) => {
            join(platform, &[first, hash_chunk(platform, second, 1)], ROOT)
        }
        Some(_) | None => *blake3::hash(input).as_bytes(),
    }
}

/// Hashes one of several chunks of an input.
fn hash_chunk(platform: Platform, bytes: &[u8], place: u64) -> Hash {
    let (mut words, mut flags) = (START, CHUNK_START);
    let last = blocks_before_last(bytes);
    for (n, part) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let mut block = [0; BLOCK_BYTES];
        block.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        if n == last {
            flags |= CHUNK_END;
        }
        let length = u8::try_from(part.len()).unwrap_or_default();
        platform.compress_in_place(&mut words, &block, length, place, flags);
        flags = 0;
    }
    le_bytes_from_words_32(&words)
}

/// A part of an input, and where its hash goes.
struct Chunk<'a> {
    bytes: &'a [u8],
    slot: usize,
    /// Set when it is the whole input.
    root: u8,
}

fn chunks_of(input: &[u8]) -> usize {
    input.len().div_ceil(CHUNK_BYTES).max(1)
}

fn blocks_before_last(chunk: &[u8]) -> usize {
    chunk.len().saturating_sub(1) / BLOCK_BYTES
}

/// Hashes chunks of the same place in their inputs that have as many blocks before their last.
fn hash_alike(
    platform: Platform,
    place: u64,
    blocks: usize,
    chunks: &[Chunk<'_>],
    hashes: &mut [Hash],
) {
    let first = match blocks {
        _ if chunks.is_empty() => return,
        1 => first_blocks::<64>(platform, place, chunks),
        2 => first_blocks::<128>(platform, place, chunks),
        3 => first_blocks::<192>(platform, place, chunks),
        4 => first_blocks::<256>(platform, place, chunks),
        5 => first_blocks::<320>(platform, place, chunks),
        6 => first_blocks::<384>(platform, place, chunks),
        7 => first_blocks::<448>(platform, place, chunks),
        8 => first_blocks::<512>(platform, place, chunks),
        9 => first_blocks::<576>(platform, place, chunks),
        10 => first_blocks::<640>(platform, place, chunks),
        11 => first_blocks::<704>(platform, place, chunks),
        12 => first_blocks::<768>(platform, place, chunks),
        13 => first_blocks::<832>(platform, place, chunks),
        14 => first_blocks::<896>(platform, place, chunks),
        15 => first_blocks::<960>(platform, place, chunks),
        _ => vec![START; chunks.len()],
    };
    let start = if blocks == 0 { CHUNK_START } else { 0 };
    for (chunk, mut words) in chunks.iter().zip(first) {
        let last = chunk.bytes.get(blocks * BLOCK_BYTES..).unwrap_or_default();
        let mut block = [0; BLOCK_BYTES];
        block.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
        let length = u8::try_from(last.len()).unwrap_or_default();
        let flags = start | CHUNK_END | chunk.root;
        platform.compress_in_place(&mut words, &block, length, place, flags);
        if let Some(hash) = hashes.get_mut(chunk.slot) {
            *hash = le_bytes_from_words_32(&words);
        }
    }
}

/// Compresses the first `N` bytes of each chunk, in as many lanes as there are.
fn first_blocks<const N: usize>(
    platform: Platform,
    place: u64,
    chunks: &[Chunk<'_>],
) -> Vec<Words> {
    let first: Vec<&[u8; N]> =
        chunks.iter().filter_map(|chunk| chunk.bytes.first_chunk()).collect();
    let mut out = vec![0; first.len() * size_of::<Hash>()];
    let same_place = IncrementCounter::No;
    platform.hash_many(&first, &START, place, same_place, 0, CHUNK_START, 0, &mut out);
    let (hashes, _) = out.as_chunks();
    hashes.iter().map(words_from_le_bytes_32).collect()
}

/// The hash over the chunks of one input.
fn join(platform: Platform, hashes: &[Hash], root: u8) -> Hash {
    if let [only] = hashes {
        return *only;
    }
    let left = hashes.len().next_power_of_two() / 2;
    let Some((left, right)) = hashes.split_at_checked(left) else { return Hash::default() };
    let mut block = [0; BLOCK_BYTES];
    let halves = [join(platform, left, 0), join(platform, right, 0)];
    block.iter_mut().zip(halves.as_flattened()).for_each(|(to, from)| *to = *from);
    let mut words = START;
    platform.compress_in_place(&mut words, &block, 64, 0, PARENT | root);
    le_bytes_from_words_32(&words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(inputs: &[&[u8]]) {
        let expected: Vec<Hash> = inputs.iter().map(|i| *blake3::hash(i).as_bytes()).collect();
        assert!(hash_each(inputs) == expected);
    }

    #[test]
    fn a_first_chunk_is_hashed_before_the_rest_is_known() {
        let mut bytes = vec![0; 3_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for known in 0..=2_100 {
            let firsts = first_chunks(&[&bytes[1..900], &bytes[..known], &bytes[..1_024]]);
            assert_eq!(firsts[1].is_some(), known >= 1_024);
            assert!(firsts[0].is_none() && firsts[2].is_some());
            for more in [0, 1, 63, 64, 65, 230, 700] {
                let input = &bytes[..known + more];
                if let Some(first) = firsts[1].filter(|_| input.len() > 1_024) {
                    assert!(hash_behind(first, input) == *blake3::hash(input).as_bytes());
                }
            }
        }
    }

    #[test]
    fn every_length_has_the_hash_that_it_has_alone() {
        let mut bytes = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let lengths = (0..=5_000).chain([8_191, 8_192, 8_193, 9_216, 10_000]);
        let inputs: Vec<&[u8]> = lengths.map(|length| &bytes[..length]).collect();
        check(&inputs);
        for input in inputs {
            check(&[input]);
        }
        check(&[]);
    }

    proptest! {
        #[test]
        fn inputs_do_not_disturb_each_other(
            lengths in proptest::collection::vec(0..5_000_usize, 0..70),
            seed: [u8; 32],
        ) {
            let mut bytes = vec![0; lengths.iter().sum()];
            blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
            let mut rest = bytes.as_slice();
            let inputs: Vec<&[u8]> = lengths
                .iter()
                .map(|length| {
                    let input;
                    (input, rest) = rest.split_at(*length);
                    input
                })
                .collect();
            check(&inputs);
        }
    }
}
