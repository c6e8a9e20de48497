//! Any damage to a log of several files is found, at its line and by its name.

use std::io::Write as _;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::audit::chain::{Damage, Seal, seal};
use crate::audit::verify::verify_files;

/// One thing done to the bytes of a log's files.
#[derive(Clone, Debug)]
enum Harm {
    Flip {
        file: Index,
        at: Index,
        bit: u8,
    },
    Cut {
        file: Index,
        from: Index,
        to: Index,
    },
    /// Bytes of this log, or of another that has as many records, put in or written over others.
    Paste {
        file: Index,
        at: Index,
        from: Index,
        to: Index,
        other: bool,
        over: bool,
    },
    SwapFiles {
        a: Index,
        b: Index,
    },
    EmptyFile {
        file: Index,
    },
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<Index>;
    prop_oneof![
        3 => (index(), index(), 0..8_u8).prop_map(|(file, at, bit)| Harm::Flip { file, at, bit }),
        3 => (index(), index(), index()).prop_map(|(file, from, to)| Harm::Cut { file, from, to }),
        6 => (index(), index(), index(), index(), any::<bool>(), any::<bool>()).prop_map(
            |(file, at, from, to, other, over)| Harm::Paste { file, at, from, to, other, over }
        ),
        1 => (index(), index()).prop_map(|(a, b)| Harm::SwapFiles { a, b }),
        1 => index().prop_map(|file| Harm::EmptyFile { file }),
    ]
}

/// A log of `count` records and the links after each.
fn chain(count: usize, seed: &str) -> (Vec<Vec<u8>>, Vec<Link>) {
    let mut link = Link::GENESIS;
    let made = (0..count).map(|n| {
        let mut line = format!("{{\"timestamp\":\"t\",\"{seed}\":{n}").into_bytes();
        link = seal(&mut line, 0, &link);
        line.push(b'\n');
        (line, link)
    });
    made.unzip()
}

/// A place in `bytes`: any, or the start of a line.
fn place(bytes: &[u8], at: Index, at_lines: bool) -> usize {
    let at = at.index(bytes.len() + 1);
    if !at_lines {
        return at;
    }
    bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1)
}

fn range(bytes: &[u8], from: Index, to: Index, at_lines: bool) -> std::ops::Range<usize> {
    let (from, to) = (place(bytes, from, at_lines), place(bytes, to, at_lines));
    from.min(to)..from.max(to)
}

fn apply(harm: &Harm, files: &mut [Vec<u8>], whole: &[u8], other_log: &[u8], at_lines: bool) {
    let count = files.len();
    match harm {
        Harm::Flip { file, at, bit } => {
            let file = &mut files[file.index(count)];
            if !file.is_empty() {
                let at = at.index(file.len());
                file[at] ^= 1 << bit;
            }
        }
        Harm::Cut { file, from, to } => {
            let file = &mut files[file.index(count)];
            file.drain(range(file, *from, *to, at_lines));
        }
        Harm::Paste { file, at, from, to, other, over } => {
            let source = if *other { other_log } else { whole };
            let piece = source[range(source, *from, *to, at_lines)].to_vec();
            let file = &mut files[file.index(count)];
            let at = place(file, *at, at_lines);
            let end = if *over { (at + piece.len()).min(file.len()) } else { at };
            file.splice(at..end, piece);
        }
        Harm::SwapFiles { a, b } => files.swap(a.index(count), b.index(count)),
        Harm::EmptyFile { file } => files[file.index(count)].clear(),
    }
}

/// Every line with the file and the number where it stands.
fn placed(files: &[Vec<u8>]) -> Vec<(usize, u64, &[u8])> {
    files
        .iter()
        .enumerate()
        .flat_map(|(file, bytes)| {
            let lines = bytes.split_inclusive(|b| *b == b'\n');
            (1..).zip(lines).map(move |(number, line)| (file, number, line))
        })
        .collect()
}

/// Reports whether `damage` is a right name for a line that stands where another should.
fn names(damage: Damage, line: &[u8], expected: u64) -> bool {
    if let Damage::MissingStart { .. } = damage {
        return expected == 1;
    }
    let Some(whole) = line.strip_suffix(b"\n") else { return damage == Damage::TruncatedTail };
    let Some(seal) = Seal::read(whole) else { return damage == Damage::Malformed };
    let found = seal.link.sequence;
    match damage {
        Damage::HashMismatch => !seal.intact,
        Damage::SequenceGap { expected: e, found: f } => (e, f) == (expected, found) && f > e,
        Damage::Duplicate { expected: e, found: f } => (e, f) == (expected, found) && f < e,
        Damage::BrokenLink => found == expected,
        Damage::OtherHead { expected } => found == expected,
        Damage::Malformed
        | Damage::TruncatedTail
        | Damage::MissingTail { .. }
        | Damage::MissingStart { .. } => false,
    }
}

/// Writes the files, every second one compressed.
fn written(folder: &tempfile::TempDir, files: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(n, bytes): (usize, &Vec<u8>)| {
        if n % 2 == 0 {
            let path = folder.path().join(format!("a.jsonl.{n:06}"));
            fs::write(&path, bytes).unwrap();
            return path;
        }
        let path = folder.path().join(format!("a.jsonl.{n:06}.zst"));
        let mut to = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
        to.write_all(bytes).unwrap();
        to.finish().unwrap();
        path
    };
    files.iter().enumerate().map(write).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_damage_is_found_where_it_is_and_named(
        count in 4..24_usize,
        cuts in proptest::collection::vec(any::<Index>(), 0..4),
        harms in proptest::collection::vec(harm(), 1..4),
        at_lines in any::<bool>(),
        threads in 1..4_usize,
    ) {
        let (lines, links) = chain(count, "a");
        let (other_lines, _) = chain(count, "b");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(count)).collect();
        cuts.extend([0, count]);
        cuts.sort_unstable();
        let whole: Vec<Vec<u8>> =
            cuts.windows(2).map(|pair| lines[pair[0]..pair[1]].concat()).collect();
        let mut files = whole.clone();
        for harm in &harms {
            apply(harm, &mut files, &lines.concat(), &other_lines.concat(), at_lines);
        }
        let folder = tempfile::tempdir().unwrap();
        let options = Options { start: Start::Genesis, known: &links, threads };
        let reports = verify_files(&given(&written(&folder, &files)), &options).unwrap();
        let found: Vec<(usize, u64, Damage)> = reports
            .iter()
            .enumerate()
            .flat_map(|(n, file)| file.report.findings.iter().map(move |f| (n, f.line, f.damage)))
            .collect();
        let (before, after) = (placed(&whole), placed(&files));
        let same = before.iter().zip(&after).take_while(|(a, b)| a.2 == b.2).count();
        match after.get(same) {
            None if same == count => prop_assert_eq!(found, []),
            // Whole lines are missing from the end.
            None => {
                let expected = count as u64;
                let tail = Damage::MissingTail { expected, found: same as u64 };
                prop_assert_eq!(found.len(), 1);
                prop_assert_eq!(found[0].2, tail);
            }
            Some((file, number, line)) => {
                let first = found.iter().map(|(file, line, _)| (*file, *line)).min();
                prop_assert_eq!(first, Some((*file, *number)), "{:?}", found);
                let expected = same as u64 + 1;
                let here = found.iter().filter(|found| (found.0, found.1) == (*file, *number));
                for (_, _, damage) in here {
                    let tail = matches!(damage, Damage::MissingTail { .. });
                    prop_assert!(tail || names(*damage, line, expected), "{:?}", found);
                }
            }
        }
    }

    #[test]
    fn a_compressed_file_of_any_bytes_is_read_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 1..400),
        at in any::<Index>(),
        bit in 0..8_u8,
        damaged in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let paths = written(&folder, &[Vec::new(), chain(9, "a").0.concat()]);
        let mut compressed = fs::read(&paths[1]).unwrap();
        let at = at.index(compressed.len());
        compressed[at] ^= 1 << bit;
        fs::write(&paths[1], if damaged { &compressed } else { &bytes }).unwrap();
        let (_, links) = chain(9, "a");
        let options = Options { start: Start::Genesis, known: &links, threads: 2 };
        // An error, or damage, or a bit that the compression does not use.
        if let Ok(reports) = verify_files(&given(&paths), &options)
            && reports.iter().all(|file| file.report.is_intact())
        {
            prop_assert!(damaged);
            prop_assert_eq!(reports[1].report.head, links.last().copied());
        }
    }
}
