//! Checkpoints prove rewrites, cuts and splices that the log alone cannot.

use proptest::prelude::*;

use super::*;
use crate::audit::chain::{Damage, Finding, HexHash, seal};
use crate::audit::checkpoint::{Notes, SigningKey, VerifierKey, read_notes};

const NEVER: u64 = 1_000_000;

struct Signing {
    bench: Bench,
    key: VerifierKey,
    _folder: tempfile::TempDir,
}

fn signing(every_records: u64, every_secs: u64) -> Signing {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let key = SigningKey::generate("node-1", &key_file).unwrap().verifier();
    let checkpoints = CheckpointSettings { key_file, every_records, every_secs };
    let bench = Bench::with(|s| s.checkpoints = Some(checkpoints));
    Signing { bench, key, _folder: folder }
}

impl Signing {
    fn file(&self) -> PathBuf {
        beside(&self.bench.path(), ".checkpoints")
    }

    fn notes(&self) -> Notes {
        let text = fs::read_to_string(self.file()).unwrap();
        let notes = read_notes(&text, std::slice::from_ref(&self.key));
        assert_eq!(notes.findings, []);
        notes
    }

    fn links(&self) -> Vec<Link> {
        self.notes().signed.iter().map(|signed| signed.checkpoint.link).collect()
    }

    fn sequences(&self) -> Vec<u64> {
        self.links().iter().map(|link| link.sequence).collect()
    }

    fn findings(&self) -> Vec<Finding> {
        findings(&fs::read(self.bench.path()).unwrap(), &self.links())
    }
}

fn findings(log: &[u8], known: &[Link]) -> Vec<Finding> {
    let options = Options { start: Start::Genesis, known, threads: 2 };
    let report = verify(log, &options).unwrap();
    if report.is_intact() {
        assert_eq!(report.known_met, known.len() as u64);
    }
    report.findings
}

#[tokio::test]
async fn every_so_many_records_and_at_the_end_the_head_is_signed() {
    let signing = signing(4, NEVER);
    let audit = signing.bench.open();
    assert_eq!(audit.checkpoint(), None);
    for _ in 0..10 {
        refuse(&audit, "a").await.unwrap();
    }
    audit.close();
    assert_eq!(signing.sequences(), [4, 8, 10]);
    assert_eq!(signing.findings(), []);
    let last = signing.notes().signed.pop().unwrap();
    assert_eq!(audit.checkpoint(), Some(last.note));
    assert_eq!(last.checkpoint.link.hash.to_string(), audit.head().hash);
    drop(audit);
    // Nothing new, nothing signed; and the next process knows the last one.
    let audit = signing.bench.open();
    assert!(audit.checkpoint().unwrap().starts_with("node-1\n10\n"));
    audit.close();
    assert_eq!(signing.sequences(), [4, 8, 10]);
}

#[tokio::test]
async fn time_alone_is_a_reason_to_sign() {
    let signing = signing(NEVER, 60);
    let audit = signing.bench.open();
    refuse(&audit, "a").await.unwrap();
    assert_eq!(audit.checkpoint(), None);
    signing.bench.clock.advance_us(60_000_000);
    audit.reopen().await.unwrap();
    assert!(audit.checkpoint().unwrap().starts_with("node-1\n1\n"));
    drop(audit);
    assert_eq!(signing.sequences(), [1]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_refuses_no_call() {
    let signing = signing(1, NEVER);
    let audit = signing.bench.open();
    fs::remove_file(signing.file()).unwrap();
    fs::create_dir(signing.file()).unwrap();
    refuse(&audit, "a").await.unwrap();
    refuse(&audit, "b").await.unwrap();
    assert!(audit.healthy());
    assert_eq!(audit.checkpoint(), None);
    fs::remove_dir(signing.file()).unwrap();
    refuse(&audit, "c").await.unwrap();
    drop(audit);
    // The second alone, too, if the writer looked in between.
    assert_eq!(signing.sequences().last(), Some(&3));
}

#[tokio::test]
async fn half_a_note_is_cut_off_at_the_next_start() {
    let signing = signing(1, NEVER);
    refuse(&signing.bench.open(), "a").await.unwrap();
    let mut text = fs::read_to_string(signing.file()).unwrap();
    text.push_str("node-1\n2\nabc");
    fs::write(signing.file(), text).unwrap();
    refuse(&signing.bench.open(), "b").await.unwrap();
    assert_eq!(signing.sequences(), [1, 2]);
    // Of a long file only the end is read, wherever its notes begin.
    let note = fs::read(signing.file()).unwrap();
    let half = note.len() / 2;
    for more in 0..3 {
        let mut long = vec![b'\n'; more];
        long.extend(note.repeat(400));
        long.extend_from_slice(&note[..half + 100 + more]);
        fs::write(signing.file(), &long).unwrap();
        let audit = signing.bench.open();
        assert!(audit.checkpoint().unwrap().starts_with("node-1\n2\n"));
        drop(audit);
        assert_eq!(signing.notes().signed.len(), 801);
    }
    fs::write(signing.file(), "dear diary\n".repeat(200)).unwrap();
    assert!(matches!(signing.bench.try_open().err(), Some(OpenError::Io { .. })));
    assert_eq!(fs::read(signing.file()).unwrap(), b"dear diary\n".repeat(200));
}

#[tokio::test]
async fn a_full_file_of_checkpoints_is_thinned_out_and_still_proves() {
    let signing = signing(1, NEVER);
    for _ in 0..2 {
        let audit = signing.bench.open();
        for _ in 0..200 {
            refuse(&audit, "a").await.unwrap();
        }
        audit.close();
    }
    assert!(fs::metadata(signing.file()).unwrap().len() <= 16 * 1_024 + 300);
    let sequences = signing.sequences();
    assert!(sequences.len() < 100, "{sequences:?}");
    // The newest stand close together, and the first has stayed.
    let newest: Vec<u64> = (371..=400).collect();
    assert!(sequences.ends_with(&newest), "{sequences:?}");
    assert_eq!(sequences[0], 1);
    assert_eq!(signing.findings(), []);
    // An early record changed, and every hash behind it recomputed.
    let text = fs::read_to_string(signing.bench.path()).unwrap();
    let mut link = Link::GENESIS;
    let mut forged = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let (body, _) = line.split_once(",\"chain_sequence\"").unwrap();
        let start = forged.len();
        let body = if n == 2 { body.replace("refused", "completed") } else { body.to_owned() };
        forged.extend_from_slice(body.as_bytes());
        link = seal(&mut forged, start, &link);
        forged.push(b'\n');
    }
    let known = signing.links();
    let next = known.iter().find(|link| link.sequence >= 3).unwrap().sequence;
    let found = findings(&forged, &known)[0];
    assert_eq!(found, Finding { line: next, damage: Damage::OtherHead { expected: next } });
}

#[tokio::test]
async fn what_other_keys_have_signed_is_not_thinned_out() {
    let signing = signing(1, NEVER);
    let other_file = signing.bench.folder.path().join("other");
    let other = SigningKey::generate("node-1", &other_file).unwrap();
    let at = Timestamp::from_secs(1_700_000_000);
    let note = |sequence| {
        let link = Link { sequence, hash: HexHash::ZERO };
        other
            .sign(&checkpoint::Checkpoint { origin: "node-1".to_owned(), link, tree: None, at })
            .unwrap()
    };
    let notes: String = (1..=100).map(|n| note(n) + "\n").collect();
    assert!(notes.len() > 16 * 1_024);
    fs::create_dir_all(signing.file().parent().unwrap()).unwrap();
    fs::write(signing.file(), &notes).unwrap();
    let audit = signing.bench.open();
    for _ in 0..60 {
        refuse(&audit, "a").await.unwrap();
    }
    audit.close();
    let text = fs::read_to_string(signing.file()).unwrap();
    assert!(text.starts_with(&notes));
    let ours = read_notes(&text, std::slice::from_ref(&signing.key)).signed;
    assert!((20..60).contains(&ours.len()), "{}", ours.len());
}

#[tokio::test]
async fn a_node_never_signs_less_than_it_has_signed() {
    let signing = signing(1, NEVER);
    let audit = signing.bench.open();
    for tool in ["a", "b", "c"] {
        refuse(&audit, tool).await.unwrap();
    }
    drop(audit);
    // Somebody cuts the log, and takes the journal that would know.
    let text = fs::read_to_string(signing.bench.path()).unwrap();
    let kept: String = text.split_inclusive('\n').take(1).collect();
    fs::write(signing.bench.path(), kept).unwrap();
    fs::remove_file(beside(&signing.bench.path(), ".journal")).unwrap();
    refuse(&signing.bench.open(), "d").await.unwrap();
    assert_eq!(signing.bench.story(), ["a refused", "log_tail_missing", "d refused"]);
    assert_eq!(signing.sequences(), [1, 2, 3, 4, 5]);
    let found: Vec<_> = signing.findings().iter().map(|f| f.damage).collect();
    assert_eq!(found, [Damage::SequenceGap { expected: 2, found: 4 }]);
}

#[tokio::test]
async fn a_key_of_another_node_or_none_is_refused() {
    let signing = signing(1, 1);
    let mut bench = Bench::with(|s| s.checkpoints.clone_from(&signing.bench.settings.checkpoints));
    bench.settings.node_id = "node-2".to_owned();
    let error = bench.try_open().err().unwrap().to_string();
    assert!(error.contains("`node-1`") && error.contains("audit.node_id"), "{error}");
    fs::write(&signing.bench.settings.checkpoints.as_ref().unwrap().key_file, "nonsense").unwrap();
    let error = signing.bench.try_open().err().unwrap().to_string();
    assert!(error.contains("keygen"), "{error}");
}

/// A log of `count` records and the links after each.
fn log(count: u64, seed: &str) -> (Vec<Vec<u8>>, Vec<Link>) {
    let mut link = Link::GENESIS;
    let mut links = Vec::new();
    let lines = (0..count).map(|n| {
        let mut line = format!("{{\"timestamp\":\"t\",\"{seed}\":{n}").into_bytes();
        link = seal(&mut line, 0, &link);
        links.push(link);
        line.push(b'\n');
        line
    });
    (lines.collect(), links)
}

fn every(links: &[Link], step: usize) -> Vec<Link> {
    links.iter().copied().skip(step - 1).step_by(step).collect()
}

#[test]
fn a_chain_written_anew_from_its_start_is_found_at_the_first_checkpoint() {
    let (_, links) = log(12, "a");
    let (forged, _) = log(12, "b");
    assert_eq!(findings(&forged.concat(), &[]), [], "the chain alone cannot tell");
    let found = findings(&forged.concat(), &every(&links, 5));
    let at = |line, expected| Finding { line, damage: Damage::OtherHead { expected } };
    assert_eq!(found, [at(5, 5), at(10, 10)]);
}

proptest! {
    /// One record changed, taken out or put in, and every hash behind it recomputed.
    #[test]
    fn a_rewrite_with_new_hashes_is_found_by_the_checkpoint_behind_it(
        count in 1..40_u64, at in 0..40_usize, kind in 0..3_u8, step in 1..10_usize,
    ) {
        let (lines, links) = log(count, "a");
        let known = every(&links, step);
        let at = at % lines.len();
        let mut bodies: Vec<Vec<u8>> = lines
            .iter()
            .map(|line| {
                let end = memchr::memmem::find(line, b",\"chain_sequence\"").unwrap();
                line[..end].to_vec()
            })
            .collect();
        match kind {
            0 => bodies[at].extend_from_slice(b",\"forged\":1"),
            1 => drop(bodies.remove(at)),
            _ => bodies.insert(at, b"{\"timestamp\":\"t\",\"forged\":1".to_vec()),
        }
        let mut link = Link::GENESIS;
        let mut forged = Vec::new();
        for body in bodies {
            let start = forged.len();
            forged.extend_from_slice(&body);
            link = seal(&mut forged, start, &link);
            forged.push(b'\n');
        }
        prop_assert_eq!(findings(&forged, &[]), [], "the chain alone cannot tell");
        let is_behind = known.iter().any(|link| link.sequence > at as u64);
        prop_assert_eq!(!findings(&forged, &known).is_empty(), is_behind);
    }

    /// The head of one log and the tail of another, joined with hashes that fit or as they are.
    #[test]
    fn a_splice_of_two_logs_is_found(
        cut in 1..20_usize, count in 21..40_u64, step in 1..20_usize, joined in any::<bool>(),
    ) {
        let (one, links) = log(count, "a");
        let (other, _) = log(count, "b");
        let mut spliced = one[..cut].concat();
        let mut link = links[cut - 1];
        for line in &other[cut..] {
            if joined {
                let end = memchr::memmem::find(line, b",\"chain_sequence\"").unwrap();
                let start = spliced.len();
                spliced.extend_from_slice(&line[..end]);
                link = seal(&mut spliced, start, &link);
                spliced.push(b'\n');
            } else {
                spliced.extend_from_slice(line);
            }
        }
        let found = findings(&spliced, &every(&links, step));
        if joined {
            prop_assert_eq!(findings(&spliced, &[]), [], "the chain alone cannot tell");
            let first = (cut / step + 1) * step;
            let expected = (first as u64 <= count).then_some(first as u64);
            prop_assert_eq!(found.first().map(|f| f.line), expected);
        } else {
            prop_assert_eq!(found[0], Finding { line: cut as u64 + 1, damage: Damage::BrokenLink });
        }
    }

    /// Lines cut off the end, whole ones, so that the chain alone cannot tell.
    #[test]
    fn a_cut_before_the_last_checkpoint_is_found(count in 2..40_u64, keep in 0..40_usize) {
        let (lines, links) = log(count, "a");
        let keep = keep % (lines.len() - 1);
        let found = findings(&lines[..keep].concat(), &links);
        let damage = Damage::MissingTail { expected: count, found: keep as u64 };
        prop_assert_eq!(found, [Finding { line: keep as u64, damage }]);
    }
}

#[test]
fn a_hash_survives_its_bytes() {
    let hash = HexHash::of(b"x");
    assert_eq!(HexHash::from_bytes(hash.to_bytes()), hash);
    assert_eq!(HexHash::from_bytes([0; 32]), HexHash::ZERO);
}
