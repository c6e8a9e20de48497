use std::fs::OpenOptions;

use super::*;
use crate::audit::chain::seal;

/// A log of `n` records in files of `each`, and where its chain got to.
fn log(folder: &Path, n: usize, each: usize) -> (PathBuf, Vec<Link>) {
    let log = folder.join("a.jsonl");
    let (mut link, mut links, mut text) = (Link::GENESIS, Vec::new(), Vec::new());
    for n in 0..n {
        if n > 0 && n % each == 0 {
            let closed = files::closed_name(&log, (n / each) as u64);
            std::fs::write(closed, std::mem::take(&mut text)).unwrap();
        }
        let start = text.len();
        text.extend_from_slice(format!("{{\"random\":\"{}\"", uuid::Uuid::new_v4()).as_bytes());
        link = seal(&mut text, start, &link);
        text.push(b'\n');
        links.push(link);
    }
    std::fs::write(&log, text).unwrap();
    (log, links)
}

fn prove_all(n: usize, each: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (log, links) = log(folder.path(), n, each);
    let head = TreeFile::open(&log, links[n - 1]).unwrap().head(links[n - 1]).unwrap();
    assert_eq!(head.size, n as u64);
    let proofs = Proofs::of(&log);
    for (index, link) in links.iter().enumerate() {
        let leaf = tree::leaf(&link.hash.to_bytes());
        let (index, size) = (index as u64, head.size);
        let path = proofs.inclusion(index, size).unwrap();
        assert_eq!(tree::root_of(index, size, leaf, &path), Some(head.root), "{index} of {n}");
        let mut other = leaf;
        other[usize::try_from(index % 32).unwrap()] ^= 1 << (index % 8);
        assert_ne!(tree::root_of(index, size, other, &path), Some(head.root));
    }
    assert_eq!(proofs.count_other(&files::snapshot(&log).unwrap()).unwrap(), 0);
}

#[test]
fn every_record_of_several_files_is_proven() {
    for (n, each) in [(1, 10), (255, 100), (256, 100), (257, 1_000), (1_100, 300)] {
        prove_all(n, each);
    }
}

#[test]
fn every_random_record_of_a_long_log_is_proven() {
    let wanted = crate::config::environment().find(|(name, _)| name == "PROVEN_RECORDS");
    prove_all(wanted.map_or(2_000, |(_, records)| records.parse().unwrap()), 30_000);
}

#[test]
fn whole_blocks_are_hashed_once_and_not_again_at_a_start_or_for_a_proof() {
    let folder = tempfile::tempdir().unwrap();
    let (log, links) = log(folder.path(), 1_500, 2_000);
    let last = links[1_499];
    let head = TreeFile::open(&log, last).unwrap().head(last).unwrap();
    let blocks = crate::audit::tree_blocks::path_of(&log);
    let written = std::fs::read(&blocks).unwrap();
    assert_eq!(written.len(), 32 + 5 * 32);
    // Leaves of the first four blocks are read by nothing but a proof of one of theirs.
    let file = OpenOptions::new().write(true).open(path_of(&log)).unwrap();
    file.write_all_at("7".repeat(4 * 256 * 32).as_bytes(), HEAD_BYTES).unwrap();
    assert_eq!(TreeFile::open(&log, last).unwrap().head(last).unwrap(), head);
    let path = Proofs::of(&log).inclusion(1_100, 1_500).unwrap();
    let leaf = tree::leaf(&links[1_100].hash.to_bytes());
    assert_eq!(tree::root_of(1_100, 1_500, leaf, &path), Some(head.root));
    let hashes: Vec<_> = links.iter().map(|link| link.hash.to_bytes()).collect();
    file.write_all_at(&hashes.concat(), HEAD_BYTES).unwrap();
    // A file of roots that is missing, short, longer than the tree, of another tree or false.
    let mut longer = written.clone();
    longer.extend_from_slice(&[9; 40]);
    let [mut other, mut wrong] = [written.clone(), written.clone()];
    other[24] = 9;
    *wrong.last_mut().unwrap() ^= 1;
    for damaged in [&[][..], &written[..32 + 2 * 32 + 9], &longer, &other, &wrong] {
        std::fs::write(&blocks, damaged).unwrap();
        let path = Proofs::of(&log).inclusion(3, 1_400).unwrap();
        assert_eq!(path.len(), 11);
        assert_eq!(TreeFile::open(&log, last).unwrap().head(last).unwrap(), head);
        assert_eq!(std::fs::read(&blocks).unwrap(), written);
        let path = Proofs::of(&log).inclusion(3, 1_500).unwrap();
        let leaf = tree::leaf(&links[3].hash.to_bytes());
        assert_eq!(tree::root_of(3, 1_500, leaf, &path), Some(head.root));
    }
}

#[test]
fn what_is_missing_is_read_from_the_log_and_what_is_too_much_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (log, links) = log(folder.path(), 50, 20);
    let whole = TreeFile::open(&log, links[49]).unwrap().head(links[49]).unwrap();
    let file = OpenOptions::new().write(true).open(path_of(&log)).unwrap();
    file.set_len(HEAD_BYTES + 7 * LEAF_BYTES + 5).unwrap();
    assert_eq!(TreeFile::open(&log, links[49]).unwrap().head(links[49]).unwrap(), whole);
    // A power cut took the log's last lines, not the tree's leaves.
    let shorter = TreeFile::open(&log, links[44]).unwrap().head(links[44]).unwrap();
    assert_eq!(shorter.size, 45);
    let mut grown = TreeFile::open(&log, links[44]).unwrap();
    let hashes: Vec<_> = links[45..].iter().map(|link| link.hash.to_bytes()).collect();
    grown.append(46, &hashes).unwrap();
    assert_eq!(grown.head(links[49]).unwrap(), whole);
    let sizes = [1, 45, 50, 51];
    let roots = Proofs::of(&log).roots(&sizes).unwrap();
    assert_eq!((roots[1], roots[2], roots[3]), (Some(shorter.root), Some(whole.root), None));
}
