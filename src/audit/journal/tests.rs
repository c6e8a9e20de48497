use std::fs::OpenOptions;

use super::*;
use crate::audit::chain::HexHash;

const SLOTS: u32 = 8;

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log.journal")
    }

    fn open(&self) -> (Journal, Closed, Found) {
        Journal::open(&self.path(), SLOTS).unwrap()
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut line = vec![0; RESERVED];
    line.extend_from_slice(body);
    line
}

fn put(journal: &Journal, body: &[u8], length: u64) -> HeldSlots {
    let slots = journal.take(body.len()).unwrap();
    journal.write(&slots, &mut framed(body), LogEnd { inode: 7, length }).unwrap();
    slots
}

#[test]
fn open_calls_are_found_again_whole_and_in_order() {
    let bench = Bench::new();
    let (journal, _, found) = bench.open();
    assert!(found.open.is_empty() && found.link.is_none());
    let bodies = [vec![b'a'; 10], vec![b'b'; layout::PART_BYTES * 2 + 1], vec![b'c'; 2_000]];
    for (body, length) in bodies.iter().zip(100..) {
        put(&journal, body, length);
    }
    assert_eq!(journal.free_slots(), 3);
    drop(journal);
    let (journal, _, found) = bench.open();
    let lines: Vec<_> = found.open.iter().map(|call| call.line.clone()).collect();
    assert_eq!(lines, bodies);
    let ends: Vec<_> = found.open.iter().map(|call| call.log_end).collect();
    assert_eq!(ends, [100, 101, 102].map(|length| LogEnd { inode: 7, length }));
    assert_eq!(journal.free_slots(), 3);
    let slots = journal.take(1).unwrap();
    assert_eq!(slots.admission, 4);
}

#[test]
fn closed_calls_are_gone_and_the_link_is_remembered() {
    let bench = Bench::new();
    let (journal, mut closed, _) = bench.open();
    let link = Link { sequence: 9, hash: HexHash::of(b"x") };
    let mut held = vec![put(&journal, &[b'a'; 5_000], 0), put(&journal, b"b", 0)];
    let kept = put(&journal, b"kept", 0);
    journal.close(&mut closed, &mut held, &link).unwrap();
    assert!(held.is_empty());
    assert_eq!(journal.free_slots(), 7);
    drop((journal, kept));
    let (_, _, found) = bench.open();
    assert_eq!(found.link, Some(link));
    let lines: Vec<_> = found.open.iter().map(|call| call.line.clone()).collect();
    assert_eq!(lines, [b"kept"]);
}

#[test]
fn what_is_noted_beyond_the_first_entries_is_remembered_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.journal");
    let slots = u32::try_from(layout::ENTRIES_WITH_LINK).unwrap() + 2;
    let (journal, mut closed, _) = Journal::open(&path, slots).unwrap();
    let mut held: Vec<_> = (0..slots).map(|n| put(&journal, &n.to_le_bytes(), 0)).collect();
    // Of those behind, and of those before, one stays open.
    let open = [held.pop().unwrap(), held.remove(1)];
    let behind = held.split_off(held.len() - 2);
    for (mut held, sequence) in [(behind, 1), (held, 2)] {
        let link = Link { sequence, hash: HexHash::of(b"x") };
        journal.close(&mut closed, &mut held, &link).unwrap();
    }
    drop((journal, open));
    let (_, _, found) = Journal::open(&path, slots).unwrap();
    assert_eq!(found.link.map(|link| link.sequence), Some(2));
    let lines: Vec<_> = found.open.iter().map(|call| call.line.clone()).collect();
    assert_eq!(lines, [1, slots - 1].map(|n: u32| n.to_le_bytes()));
}

#[test]
fn slots_are_bounded_and_come_back() {
    let bench = Bench::new();
    let (journal, mut closed, _) = bench.open();
    let mut held: Vec<_> = (0..SLOTS).map(|_| journal.take(1).unwrap()).collect();
    assert!(journal.take(1).is_none());
    journal.close(&mut closed, &mut held, &Link::GENESIS).unwrap();
    assert!(journal.take(layout::PART_BYTES * 8 + 1).is_none());
    assert_eq!(journal.take(layout::PART_BYTES * 8).unwrap().numbers.len(), 8);
}

#[test]
fn a_torn_slot_is_not_an_open_call() {
    let bench = Bench::new();
    let (journal, _, _) = bench.open();
    let one = put(&journal, b"one part", 0);
    let three = put(&journal, &[b'x'; 5_000], 0);
    let last_part = layout::slot_offset(SLOTS, three.numbers[2]);
    let whole = put(&journal, b"whole", 0);
    let body = layout::slot_offset(SLOTS, one.numbers[0]) + RESERVED as u64;
    let file = OpenOptions::new().write(true).open(bench.path()).unwrap();
    file.write_all_at(b"X", body).unwrap();
    file.write_all_at(&[0; 48], last_part).unwrap();
    drop((journal, whole));
    let (journal, _, found) = bench.open();
    let lines: Vec<_> = found.open.iter().map(|call| call.line.clone()).collect();
    assert_eq!(lines, [b"whole"]);
    assert_eq!(journal.free_slots(), 7);
}

#[test]
fn a_slot_is_used_again_without_a_trace_of_its_last_call() {
    let bench = Bench::new();
    let (journal, mut closed, _) = bench.open();
    let mut held = vec![put(&journal, b"a long first line", 0)];
    let slot = held[0].numbers[0];
    journal.close(&mut closed, &mut held, &Link::GENESIS).unwrap();
    let next = put(&journal, b"short", 0);
    assert_eq!(next.numbers[0], slot);
    drop(journal);
    assert_eq!(bench.open().2.open[0].line, b"short");
}

#[test]
fn one_process_at_a_time() {
    let bench = Bench::new();
    let held = bench.open();
    assert!(matches!(Journal::open(&bench.path(), SLOTS), Err(OpenError::InUse { .. })));
    drop(held);
    bench.open();
}

#[test]
fn another_kind_of_file_is_refused_and_left_alone() {
    let bench = Bench::new();
    fs::write(bench.path(), "dear diary, today I wrote a lot").unwrap();
    assert!(matches!(Journal::open(&bench.path(), SLOTS), Err(OpenError::Journal { .. })));
    assert_eq!(fs::read(bench.path()).unwrap(), b"dear diary, today I wrote a lot");
    fs::remove_file(bench.path()).unwrap();
    bench.open();
}

#[test]
fn a_journal_gets_another_size_when_no_call_is_open_in_it() {
    let bench = Bench::new();
    let (journal, mut closed, _) = bench.open();
    let link = Link { sequence: 5, hash: HexHash::of(b"a line") };
    let mut held = vec![put(&journal, b"a call", 0)];
    let resized = |slots| {
        let (journal, _, found) = Journal::open(&bench.path(), slots).unwrap();
        assert_eq!(found.link, Some(link));
        (journal, found.open.len())
    };
    layout::write_link(&journal.file.read(), &link).unwrap();
    drop(journal);
    let (journal, open) = resized(SLOTS * 2);
    assert_eq!((journal.slots, open), (SLOTS, 1), "its open call was not dropped");
    journal.close(&mut closed, &mut held, &link).unwrap();
    drop(journal);
    for slots in [SLOTS * 2, SLOTS * 4, SLOTS] {
        let (journal, open) = resized(slots);
        assert_eq!((journal.slots, journal.free_slots(), open), (slots, slots as usize, 0));
        assert!(matches!(Journal::open(&bench.path(), slots), Err(OpenError::InUse { .. })));
        journal
            .close(
                &mut Closed::read(&journal.file.read(), slots).unwrap(),
                &mut vec![put(&journal, b"x", 0)],
                &link,
            )
            .unwrap();
    }
}

#[test]
fn a_lost_journal_is_put_back_with_its_open_calls() {
    let bench = Bench::new();
    let (journal, _, _) = bench.open();
    put(&journal, b"before", 0);
    assert!(!journal.restore_if_lost().unwrap());
    fs::remove_file(bench.path()).unwrap();
    assert!(journal.restore_if_lost().unwrap());
    assert!(!journal.restore_if_lost().unwrap());
    put(&journal, b"after", 0);
    fs::rename(bench.path(), bench.folder.path().join("away")).unwrap();
    fs::create_dir(bench.path()).unwrap();
    assert!(journal.restore_if_lost().is_err());
    fs::remove_dir(bench.path()).unwrap();
    assert!(journal.restore_if_lost().unwrap());
    drop(journal);
    let lines: Vec<_> = bench.open().2.open.into_iter().map(|call| call.line).collect();
    assert_eq!(lines, [b"before".to_vec(), b"after".to_vec()]);
}

#[test]
fn a_half_made_journal_is_made_again() {
    let bench = Bench::new();
    fs::write(bench.path(), [0; 5_000]).unwrap();
    let (journal, _, found) = bench.open();
    assert!(found.open.is_empty());
    put(&journal, b"x", 0);
}
