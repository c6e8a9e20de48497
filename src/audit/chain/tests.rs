use proptest::prelude::*;

use super::*;

fn lines(count: u64) -> Vec<Vec<u8>> {
    let mut link = Link::GENESIS;
    (0..count)
        .map(|n| {
            let mut line = format!("{{\"timestamp\":\"t{n}\",\"n\":{n}").into_bytes();
            link = seal(&mut line, 0, &link);
            line
        })
        .collect()
}

fn walk(lines: &[Vec<u8>]) -> Walk<'static> {
    let mut walk = Walk::new(Some(Link::GENESIS), &[]);
    let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    walk.check(&lines);
    walk
}

fn found(lines: &[Vec<u8>]) -> Vec<(u64, Damage)> {
    walk(lines).findings.iter().map(|f| (f.line, f.damage)).collect()
}

#[test]
fn a_sealed_line_is_what_anyone_would_compute() {
    let line = lines(1).remove(0);
    let text = String::from_utf8(line.clone()).unwrap();
    let (hashed, rest) = text.split_once(",\"chain_record_hash\"").unwrap();
    assert!(hashed.ends_with(&format!(
        "\"n\":0,\"chain_sequence\":1,\"chain_prev_hash\":\"{}\"",
        "0".repeat(64)
    )));
    assert_eq!(rest, format!(":\"{}\"}}", blake3::hash(hashed.as_bytes()).to_hex()));
    let seal = Seal::read(&line).unwrap();
    assert!(seal.intact);
    assert_eq!(seal.link.sequence, 1);
}

#[test]
fn an_untouched_chain_has_no_finding() {
    let walk = walk(&lines(50));
    assert_eq!((walk.lines, walk.records), (50, 50));
    assert_eq!(walk.findings, []);
    assert_eq!(walk.last().unwrap().sequence, 50);
}

#[test]
fn each_kind_of_damage_has_its_line_and_its_name() {
    let whole = lines(6);
    let mut other = whole.clone();
    other[2][3] = b'X';
    assert_eq!(found(&other), [(3, Damage::HashMismatch)]);

    let mut other = whole.clone();
    other[2] = b"garbage".to_vec();
    assert_eq!(found(&other), [(3, Damage::Malformed)]);

    let mut other = whole.clone();
    other.remove(2);
    assert_eq!(found(&other), [(3, Damage::SequenceGap { expected: 3, found: 4 })]);

    let mut other = whole.clone();
    other.insert(3, whole[2].clone());
    assert_eq!(found(&other), [(4, Damage::Duplicate { expected: 4, found: 3 })]);

    let mut other = whole.clone();
    other.swap(1, 2);
    assert_eq!(
        found(&other),
        [
            (2, Damage::SequenceGap { expected: 2, found: 3 }),
            (3, Damage::Duplicate { expected: 4, found: 2 }),
            (4, Damage::SequenceGap { expected: 3, found: 4 }),
        ]
    );

    // A line that was rewritten, with a hash that fits it.
    let mut other = whole.clone();
    let before = Seal::read(&whole[1]).unwrap().link;
    other[2] = b"{\"timestamp\":\"forged\"".to_vec();
    seal(&mut other[2], 0, &before);
    assert_eq!(found(&other), [(4, Damage::BrokenLink)]);

    // Garbage in the place of two lines does not hide the second.
    let mut other = whole;
    other.remove(2);
    other[2] = b"garbage".to_vec();
    assert_eq!(
        found(&other),
        [(3, Damage::Malformed), (4, Damage::SequenceGap { expected: 4, found: 5 })]
    );
}

#[test]
fn findings_are_bounded_and_counted() {
    let walk = walk(&vec![b"x".to_vec(); 250]);
    assert_eq!((walk.findings.len(), walk.findings_left_out), (100, 150));
}

#[test]
fn odd_seals_are_not_read() {
    let line = String::from_utf8(lines(1).remove(0)).unwrap();
    for other in [
        line.replace("\"chain_sequence\":1", "\"chain_sequence\":01"),
        line.replace("\"chain_sequence\":1", "\"chain_sequence\":"),
        line.replace("\"chain_sequence\":1", "\"chain_sequence\":99999999999999999999"),
        line.replace("{\"timestamp", "\"timestamp"),
        line.replace("\"}", "\"} "),
        line.replace("t0", "t\n"),
        line.to_uppercase(),
        String::new(),
    ] {
        assert_eq!(Seal::read(other.as_bytes()), None, "{other}");
    }
}

proptest! {
    #[test]
    fn any_flipped_bit_is_found(line in 0..8_usize, byte in 0..300_usize, bit in 0..8_u32) {
        let mut lines = lines(8);
        let byte = byte % lines[line].len();
        lines[line][byte] ^= 1 << bit;
        // A flip to a newline makes two lines of one.
        let text = lines.join(&b'\n');
        let lines: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let findings = found(&lines);
        prop_assert!(!findings.is_empty());
        prop_assert!(findings[0].0 == line as u64 + 1);
    }

    #[test]
    fn any_missing_swapped_or_repeated_line_is_found(a in 0..8_usize, b in 0..8_usize) {
        let whole = lines(9);
        let mut missing = whole.clone();
        missing.remove(a);
        prop_assert!(!found(&missing).is_empty());
        let mut repeated = whole.clone();
        repeated.insert(b, whole[a].clone());
        prop_assert!(!found(&repeated).is_empty());
        if a != b {
            let mut swapped = whole;
            swapped.swap(a, b);
            prop_assert!(!found(&swapped).is_empty());
        }
    }

    #[test]
    fn a_walk_in_pieces_finds_what_one_walk_finds(
        cuts in proptest::collection::vec(0..20_usize, 0..4),
        damage in proptest::collection::vec((0..20_usize, 0..4_u8), 0..4),
    ) {
        let mut all = lines(20);
        for (at, kind) in damage {
            let at = at % all.len();
            match kind {
                0 => all[at] = b"garbage".to_vec(),
                1 => all[at][4] ^= 1,
                2 => { all.remove(at); }
                _ => { let copy = all[at].clone(); all.insert(0, copy); }
            }
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(all.len())).collect();
        cuts.extend([0, all.len()]);
        cuts.sort_unstable();
        let mut joined = Walk::new(Some(Link::GENESIS), &[]);
        for pair in cuts.windows(2) {
            let mut piece = Walk::default();
            let lines: Vec<&[u8]> = all[pair[0]..pair[1]].iter().map(Vec::as_slice).collect();
            piece.check(&lines);
            joined.absorb(piece);
        }
        let whole = walk(&all);
        let sorted = |walk: &Walk<'_>| {
            let mut findings: Vec<String> =
                walk.findings.iter().map(|f| format!("{f:?}")).collect();
            findings.sort();
            findings
        };
        prop_assert_eq!(sorted(&joined), sorted(&whole));
        prop_assert_eq!(joined.last(), whole.last());
        prop_assert_eq!((joined.lines, joined.records), (whole.lines, whole.records));
    }

    #[test]
    fn reading_a_seal_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Seal::read(&bytes).is_none());
    }
}
