//! The audit verifier against the few lines that anyone could write from the format's description, and
//! against the log that was written.

use arbiter::audit::chain::{Link, seal};
use arbiter::audit::verify::{Options, Start, verify};
use proptest::prelude::*;

use crate::driver::{changed, changes, fuzz};

const KEY: &str = ",\"chain_record_hash\"";
const PIECES: &[&str] = &[
    "\n",
    "{",
    "}",
    "\"",
    ",",
    ",\"chain_record_hash\":\"",
    "\"chain_sequence\":",
    "\"chain_prev_hash\":\"",
    "0",
    "1",
    "2",
    "18446744073709551616",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "\u{e9}",
    " ",
    "\r\n",
    "{\"timestamp\":\"t\"}\n",
    "\"event\":\"closed_files_deleted\"",
    "a",
];

/// A log of so many records, and the links after each.
fn written(records: usize) -> (Vec<u8>, Vec<Link>) {
    let (mut log, mut links, mut link) = (Vec::new(), Vec::new(), Link::GENESIS);
    for n in 0..records {
        let start = log.len();
        log.extend_from_slice(
            format!("{{\"timestamp\":\"t{n}\",\"arguments\":{{\"a\":[{n}]}}").as_bytes(),
        );
        link = seal(&mut log, start, &link);
        links.push(link);
        log.push(b'\n');
    }
    (log, links)
}

/// Reads a log as the format's description has it.
fn is_chain(log: &[u8]) -> bool {
    let (mut sequence, mut before) = (0_u64, "0".repeat(64));
    let Ok(text) = std::str::from_utf8(log) else { return false };
    if !text.is_empty() && !text.ends_with('\n') {
        return false;
    }
    for line in text.split_terminator('\n') {
        let Some((covered, rest)) = line.rsplit_once(KEY) else { return false };
        let hash = blake3::hash(covered.as_bytes()).to_hex();
        sequence += 1;
        let end = format!(",\"chain_sequence\":{sequence},\"chain_prev_hash\":\"{before}\"");
        if rest != format!(":\"{hash}\"}}") || !covered.ends_with(&end) || !covered.starts_with('{')
        {
            return false;
        }
        before = hash.to_string();
    }
    true
}

#[test]
fn audit_verifier() {
    let inputs = (0_usize..7, changes(PIECES), 1_usize..4);
    fuzz("audit verifier", &inputs, |(records, changes, threads)| {
        let (whole, links) = written(records);
        let log = changed(&whole, &changes);
        let read = |known| verify(&log[..], &Options { start: Start::Genesis, known, threads });
        let alone = read(&[]).unwrap();
        prop_assert_eq!(
            alone.is_intact(),
            is_chain(&log),
            "{:?}: {:?}",
            alone.findings,
            log.escape_ascii().to_string()
        );
        let known = read(&links).unwrap();
        let begins_so = log.starts_with(&whole) && is_chain(&log);
        prop_assert_eq!(
            known.is_intact(),
            begins_so,
            "{:?}: {:?}",
            known.findings,
            log.escape_ascii().to_string()
        );
        prop_assert_eq!(known.bytes, log.len() as u64);
        Ok(())
    });
}
