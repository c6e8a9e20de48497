//! Finds records in a log's files, newest first, with a bound on what one search reads.
//!
//! A plain file is read from its end in blocks, so recent records are found at once; a compressed one
//! is read through. Lines that do not hold the wanted texts are skipped before they are parsed. A
//! search that reaches its bound reports where it stopped, and the next one goes on from there.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use memchr::memmem;
use serde::Deserialize;
use uuid::Uuid;

use super::files;
use super::record::Ids;
use crate::firewall::time::Timestamp;

/// Size of the blocks in which a file is read.
const BLOCK_BYTES: usize = 1 << 20;
/// Most bytes of records that one search gives.
const MAX_FOUND_BYTES: usize = 16 << 20;
/// A line longer than this is damage.
const MAX_LINE_BYTES: usize = 64 << 20;

/// Conditions on the records that are looked for; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub request_id: Option<String>,
    pub session_id: Option<String>,
    pub agent_id: Option<String>,
    pub tool: Option<String>,
    pub code: Option<String>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// A line's position in the log: the number that its file has or will have, and the offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    file: u64,
    offset: u64,
}

impl LogPosition {
    pub(super) fn new(file: u64, offset: u64) -> Self {
        Self { file, offset }
    }

    pub(super) fn file(self) -> u64 {
        self.file
    }

    pub(super) fn offset(self) -> u64 {
        self.offset
    }

    /// Returns the position that is `bytes` further on in the same file.
    pub(super) fn plus(self, bytes: u64) -> Self {
        Self { offset: self.offset.saturating_add(bytes), ..self }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.file, self.offset)
    }
}

impl FromStr for LogPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| {
            let plain =
                text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            plain.then(|| text.parse().ok()).flatten().ok_or(())
        };
        let (file, offset) = text.split_once('-').ok_or(())?;
        Ok(Self { file: number(file)?, offset: number(offset)? })
    }
}

/// Result of a search.
#[derive(Debug, Default)]
pub struct Found {
    /// Whole lines without their newline, newest first.
    pub lines: Vec<Vec<u8>>,
    /// Position at which the next search goes on; none at the log's beginning.
    pub next: Option<LogPosition>,
}

#[derive(Deserialize)]
struct Seen<'l> {
    #[serde(borrow)]
    timestamp: std::borrow::Cow<'l, str>,
    request_id: Option<String>,
    task_session_id: Option<String>,
    agent_id: Option<String>,
    tool_called: Option<String>,
    #[serde(default)]
    tools_called: Vec<String>,
    denial_code: Option<String>,
}

/// Returns the ids of a record by its whole line without the newline.
pub(super) fn ids_of(line: &[u8]) -> Ids {
    let id = |text: &Option<String>| {
        text.as_ref().and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_default()
    };
    let Ok(seen) = serde_json::from_slice::<Seen<'_>>(line) else { return Ids::default() };
    Ids {
        request: id(&seen.request_id),
        agent: id(&seen.agent_id),
        session: id(&seen.task_session_id),
    }
}

impl Wanted {
    /// Checks a line without its newline.
    pub fn matches(&self, line: &[u8]) -> bool {
        let Self { request_id, session_id, agent_id, tool, code, since, until } = self;
        let held = [request_id, session_id, agent_id, code];
        let hit = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| memmem::find(line, text.as_bytes()).is_some())
        };
        if !held.into_iter().all(hit) {
            return false;
        }
        let Ok(seen) = serde_json::from_slice::<Seen<'_>>(line) else { return false };
        let is =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let at = || Timestamp::parse(&seen.timestamp);
        is(request_id, &seen.request_id)
            && is(session_id, &seen.task_session_id)
            && is(agent_id, &seen.agent_id)
            && is(code, &seen.denial_code)
            && (is(tool, &seen.tool_called)
                || tool.as_ref().is_some_and(|tool| seen.tools_called.contains(tool)))
            && since.is_none_or(|since| at().is_some_and(|at| at >= since))
            && until.is_none_or(|until| at().is_some_and(|at| at < until))
    }
}

/// One search under way.
struct Search<'w> {
    wanted: &'w Wanted,
    limit: usize,
    /// Bytes that may still be read.
    budget: u64,
    found: Found,
    found_bytes: usize,
    file: u64,
}

/// Decision after a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// Looks through a log's files before `before`, or from its end, for at most `limit` records, and
/// reads at most about `max_bytes`. Blocks on files.
pub fn newest_first(
    log: &Path,
    wanted: &Wanted,
    before: Option<LogPosition>,
    limit: usize,
    max_bytes: u64,
) -> io::Result<Found> {
    // A request leaves one record.
    let limit = if wanted.request_id.is_some() { limit.min(1) } else { limit };
    let mut found = files_back(log, wanted, before, limit, max_bytes)?;
    if wanted.request_id.is_some() && !found.lines.is_empty() {
        found.next = None;
    }
    Ok(found)
}

fn files_back(
    log: &Path,
    wanted: &Wanted,
    before: Option<LogPosition>,
    limit: usize,
    max_bytes: u64,
) -> io::Result<Found> {
    let mut search = Search {
        wanted,
        limit,
        budget: max_bytes,
        found: Found::default(),
        found_bytes: 0,
        file: 0,
    };
    for file in files::snapshot(log)?.iter().rev() {
        let number = file.number.unwrap_or_default();
        let end = match before {
            Some(before) if number > before.file => continue,
            Some(before) if number == before.file => Some(before.offset),
            Some(_) | None => None,
        };
        search.file = number;
        let went = match file.plain()? {
            Some(plain) => search.back(&plain, end),
            None => file.open().and_then(|reader| search.through(reader, end)),
        };
        match went {
            Ok(Go::On) => {}
            Ok(Go::Stop) => return Ok(search.found),
            // Deleted between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    search.found.next = None;
    Ok(search.found)
}

impl Search<'_> {
    /// Looks at a line, and notes where to go on after it.
    fn look(&mut self, offset: u64, line: &[u8]) -> Go {
        self.budget = self.budget.saturating_sub(line.len() as u64 + 1);
        if self.wanted.matches(line) {
            self.take(line.to_vec());
        }
        self.found.next = Some(LogPosition { file: self.file, offset });
        if self.budget > 0 && !self.is_full() { Go::On } else { Go::Stop }
    }

    fn take(&mut self, line: Vec<u8>) {
        self.found_bytes = self.found_bytes.saturating_add(line.len());
        self.found.lines.push(line);
    }

    fn is_full(&self) -> bool {
        self.found.lines.len() >= self.limit || self.found_bytes >= MAX_FOUND_BYTES
    }

    /// Reads a plain file from its end, or from `end`.
    fn back(&mut self, file: &File, end: Option<u64>) -> io::Result<Go> {
        let length = file.metadata()?.len();
        let mut at = end.map_or(length, |end| end.min(length));
        let mut tail: Vec<u8> = Vec::new();
        // A line that is still being written is none yet.
        let mut whole = false;
        loop {
            while whole && !tail.is_empty() {
                let body = tail.len() - 1;
                let start = memchr::memrchr(b'\n', tail.get(..body).unwrap_or_default());
                let start = match start {
                    Some(newline) => newline + 1,
                    None if at == 0 => 0,
                    None => break,
                };
                let line = tail.get(start..body).unwrap_or_default();
                if self.look(at + start as u64, line) == Go::Stop {
                    return Ok(Go::Stop);
                }
                tail.truncate(start);
            }
            if at == 0 || tail.len() > MAX_LINE_BYTES {
                return Ok(Go::On);
            }
            let step = usize::try_from(at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            at -= step as u64;
            let mut block = vec![0; step];
            file.read_exact_at(&mut block, at)?;
            block.append(&mut tail);
            tail = block;
            if !whole {
                match memchr::memrchr(b'\n', &tail) {
                    Some(newline) => {
                        tail.truncate(newline + 1);
                        whole = true;
                    }
                    None => tail.clear(),
                }
            }
        }
    }

    /// Reads a compressed file through, up to `end`.
    fn through(&mut self, file: impl Read, end: Option<u64>) -> io::Result<Go> {
        let mut reader = BufReader::with_capacity(BLOCK_BYTES, file);
        let room = self.limit.saturating_sub(self.found.lines.len());
        let mut last: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let (mut held, mut cut) = (0, false);
        let (mut line, mut at) = (Vec::new(), 0_u64);
        while end.is_none_or(|end| at < end) && reader.read_until(b'\n', &mut line)? > 0 {
            let offset = at;
            at += line.len() as u64;
            let Some(body) = line.strip_suffix(b"\n") else { break };
            if self.wanted.matches(body) {
                held += body.len();
                last.push_back((offset, body.to_vec()));
                while last.len() > room || (held > MAX_FOUND_BYTES && last.len() > 1) {
                    held -= last.pop_front().map_or(0, |(_, line)| line.len());
                    cut = true;
                }
            }
            line.clear();
        }
        // The file is paid for as a whole, once it was begun.
        let budget = self.budget.saturating_sub(at);
        while let Some((offset, line)) = last.pop_back() {
            self.take(line);
            self.found.next = Some(LogPosition { file: self.file, offset });
            if self.is_full() {
                return Ok(Go::Stop);
            }
        }
        if cut {
            return Ok(Go::Stop);
        }
        self.budget = budget;
        self.found.next = Some(LogPosition { file: self.file, offset: 0 });
        Ok(if budget > 0 { Go::On } else { Go::Stop })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn line(n: usize, tool: &str) -> String {
        format!(
            "{{\"timestamp\":\"2026-11-22T10:00:{:02}.000000Z\",\"request_id\":\"r{n}\",\
             \"tool_called\":\"{tool}\",\"chain_sequence\":{n}}}\n",
            n % 60
        )
    }

    /// A log of three files with ten lines each, the first of them compressed, and half a line.
    fn log(folder: &Path) -> PathBuf {
        let log = folder.join("a.jsonl");
        let text =
            |from: usize| (from..from + 10).map(|n| line(n, ["x", "y"][n % 2])).collect::<String>();
        fs::write(
            folder.join("a.jsonl.000001.zst"),
            zstd::encode_all(text(0).as_bytes(), 3).unwrap(),
        )
        .unwrap();
        fs::write(folder.join("a.jsonl.000002"), text(10)).unwrap();
        fs::write(&log, text(20) + "{\"timestamp\":\"20").unwrap();
        log
    }

    fn ids(found: &Found) -> Vec<usize> {
        let id = |line: &Vec<u8>| {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap();
            usize::try_from(value["chain_sequence"].as_u64().unwrap()).unwrap()
        };
        found.lines.iter().map(id).collect()
    }

    #[test]
    fn pages_cover_all_files_from_the_newest_line_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        for (limit, budget) in [(1, u64::MAX), (3, u64::MAX), (7, u64::MAX), (100, 1), (100, 500)] {
            let (mut seen, mut before) = (Vec::new(), None);
            loop {
                let found = newest_first(&log, &Wanted::default(), before, limit, budget).unwrap();
                assert!(found.lines.len() <= limit);
                seen.extend(ids(&found));
                let Some(next) = found.next else { break };
                assert_eq!(next.to_string().parse(), Ok(next));
                before = Some(next);
            }
            let expected: Vec<_> = (0..30).rev().collect();
            assert_eq!(seen, expected, "{limit} {budget}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let find = |wanted: Wanted| ids(&newest_first(&log, &wanted, None, 100, u64::MAX).unwrap());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(find(Wanted { request_id: text("r3"), ..Wanted::default() }), [3]);
        assert_eq!(find(Wanted { tool: text("y"), ..Wanted::default() }).len(), 15);
        assert_eq!(find(Wanted { code: text("PolicyDenied"), ..Wanted::default() }), [0_usize; 0]);
        let since = Timestamp::parse("2026-11-22T10:00:27Z");
        assert_eq!(find(Wanted { since, ..Wanted::default() }), [29, 28, 27]);
        let until = Timestamp::parse("2026-11-22T10:00:02Z");
        assert_eq!(find(Wanted { until, ..Wanted::default() }), [1, 0]);
    }

    #[test]
    fn one_answer_holds_a_bounded_part_of_long_records() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.jsonl");
        let long = "x".repeat(MAX_FOUND_BYTES / 4);
        let text = |from: usize| (from..from + 9).map(|n| line(n, &long)).collect::<String>();
        let closed = zstd::encode_all(text(0).as_bytes(), 1).unwrap();
        fs::write(folder.path().join("a.jsonl.000001.zst"), closed).unwrap();
        fs::write(&log, text(9)).unwrap();
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let found = newest_first(&log, &Wanted::default(), before, 100, u64::MAX).unwrap();
            assert!(found.lines.len() <= 4, "{}", found.lines.len());
            seen.extend(ids(&found));
            let Some(next) = found.next else { break };
            before = Some(next);
        }
        assert_eq!(seen, (0..18).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_place_has_one_spelling() {
        for bad in ["", "1", "-1", "1-", "01-2", "1-02", "+1-2", "1-2-3", "a-b"] {
            assert_eq!(bad.parse::<LogPosition>(), Err(()), "{bad}");
        }
    }
}
