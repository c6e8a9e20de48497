use proptest::prelude::*;

use super::*;
use crate::audit::chain::seal;

const OPTIONS: Options<'static> = Options { start: Start::Genesis, known: &[], threads: 3 };

fn log(count: u64, line_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut link = Link::GENESIS;
    for n in 0..count {
        let start = out.len();
        out.extend_from_slice(
            format!("{{\"n\":{n},\"x\":\"{}\"", "x".repeat(line_bytes)).as_bytes(),
        );
        link = seal(&mut out, start, &link);
        out.push(b'\n');
    }
    out
}

fn found(log: &[u8], options: &Options<'_>) -> Vec<(u64, Damage)> {
    let report = verify(log, options).unwrap();
    assert_eq!(report.bytes, log.len() as u64);
    assert_eq!(report.is_intact(), report.findings.is_empty());
    report.findings.iter().map(|f| (f.line, f.damage)).collect()
}

#[test]
fn an_intact_log_is_counted() {
    for threads in [0, 1, 2, 7] {
        let report = verify(&log(100, 10)[..], &Options { threads, ..OPTIONS }).unwrap();
        assert!(report.is_intact());
        assert_eq!((report.lines, report.records, report.first_sequence), (100, 100, Some(1)));
        assert_eq!(report.head.unwrap().sequence, 100);
    }
    let empty = verify(&b""[..], &OPTIONS).unwrap();
    assert!(empty.is_intact() && empty.head.is_none());
}

#[test]
fn lines_may_lie_across_pieces() {
    let bytes = log(40, 500_000);
    assert!(bytes.len() > 2 * PIECE_BYTES);
    assert_eq!(found(&bytes, &OPTIONS), []);
    let mut bytes = bytes;
    let near_the_end = bytes.len() - 600_000;
    bytes[near_the_end] = b'y';
    assert_eq!(found(&bytes, &OPTIONS), [(39, Damage::HashMismatch)]);
}

#[test]
fn many_pieces_are_joined_in_their_order() {
    let bytes = log(8_000, 500);
    assert!(bytes.len() > 8 * PIECE_BYTES);
    let mut damaged: Vec<Vec<u8>> =
        bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    damaged[7_000][20] ^= 1;
    damaged[20][20] ^= 1;
    damaged[4_000] = b"garbage\n".to_vec();
    damaged.swap(5_000, 5_001);
    let expected = [
        (21, Damage::HashMismatch),
        (4_001, Damage::Malformed),
        (5_001, Damage::SequenceGap { expected: 5_001, found: 5_002 }),
        (5_002, Damage::Duplicate { expected: 5_003, found: 5_001 }),
        (5_003, Damage::SequenceGap { expected: 5_002, found: 5_003 }),
        (7_001, Damage::HashMismatch),
    ];
    for threads in [1, 2, 5] {
        assert_eq!(found(&damaged.concat(), &Options { threads, ..OPTIONS }), expected);
    }
}

#[test]
fn a_log_that_cannot_be_read_to_its_end_is_no_verdict() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
            out.fill(b'\n');
            Ok(out.len())
        }
    }
    for threads in [1, 3] {
        for reads in [0, 1, 20] {
            let error = verify(Broken(reads), &Options { threads, ..OPTIONS }).unwrap_err();
            assert_eq!(error.to_string(), "the disk is gone");
        }
    }
}

#[test]
fn a_cut_off_log_is_noticed() {
    let whole = log(5, 10);
    assert_eq!(found(&whole[..whole.len() - 1], &OPTIONS), [(5, Damage::TruncatedTail)]);
    assert_eq!(found(&whole[..whole.len() - 40], &OPTIONS), [(5, Damage::TruncatedTail)]);
    let report = verify(&whole[..], &OPTIONS).unwrap();
    let expecting = Options { known: report.head.as_slice(), ..OPTIONS };
    assert_eq!(found(&whole, &expecting), []);
    let shorter: Vec<u8> =
        whole.split_inclusive(|b| *b == b'\n').take(3).flatten().copied().collect();
    assert_eq!(found(&shorter, &OPTIONS), []);
    assert_eq!(found(&shorter, &expecting), [(3, Damage::MissingTail { expected: 5, found: 3 })]);
    assert_eq!(found(b"", &expecting), [(0, Damage::MissingTail { expected: 5, found: 0 })]);
}

#[test]
fn a_log_written_anew_lacks_the_head_that_is_known() {
    let known = verify(&log(5, 10)[..], &OPTIONS).unwrap().head;
    let expecting = Options { known: known.as_slice(), ..OPTIONS };
    assert_eq!(found(&log(9, 11), &expecting), [(5, Damage::OtherHead { expected: 5 })]);
    assert_eq!(found(&log(9, 10), &expecting), []);
}

#[test]
fn a_log_without_its_start_is_accepted_only_where_asked() {
    let whole = log(5, 10);
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    let rest = &whole[first..];
    assert_eq!(found(rest, &OPTIONS), [(1, Damage::MissingStart { found: 2 })]);
    assert_eq!(found(rest, &Options { start: Start::Anywhere, ..OPTIONS }), []);
    let before = verify(&whole[..first], &OPTIONS).unwrap().head.unwrap();
    assert_eq!(found(rest, &Options { start: Start::After(before), ..OPTIONS }), []);
    let other = Link { sequence: 1, ..Link::GENESIS };
    let after_other = Options { start: Start::After(other), ..OPTIONS };
    assert_eq!(found(rest, &after_other), [(1, Damage::BrokenLink)]);
}

#[test]
fn two_logs_spliced_together_do_not_pass() {
    let (one, other) = (log(4, 10), log(8, 11));
    let tail: Vec<u8> = other.split_inclusive(|b| *b == b'\n').skip(4).flatten().copied().collect();
    assert_eq!(found(&[one, tail].concat(), &OPTIONS), [(5, Damage::BrokenLink)]);
}

#[test]
fn a_sequence_of_zero_does_no_harm() {
    let line = log(1, 1);
    let text = String::from_utf8(line).unwrap().replace("sequence\":1", "sequence\":0");
    assert_eq!(found(text.as_bytes(), &OPTIONS)[0], (1, Damage::HashMismatch));
}

proptest! {
    #[test]
    fn any_flipped_bit_of_a_log_is_found(at in 0..10_000_usize, bit in 0..8_u32, threads in 1..4_usize) {
        let mut bytes = log(6, 20);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let options = Options { threads, ..OPTIONS };
        prop_assert!(!found(&bytes, &options).is_empty());
    }

    #[test]
    fn any_bytes_taken_out_are_found(from in 0..10_000_usize, count in 1..400_usize) {
        let whole = log(6, 20);
        let head = verify(&whole[..], &OPTIONS).unwrap().head;
        let from = from % whole.len();
        let mut bytes = whole.clone();
        bytes.drain(from..(from + count).min(whole.len()));
        let options = Options { known: head.as_slice(), ..OPTIONS };
        prop_assert!(!found(&bytes, &options).is_empty());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(bytes.is_empty() || !found(&bytes, &OPTIONS).is_empty());
    }
}
