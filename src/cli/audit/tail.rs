//! `arbiter audit tail`: the last records, and those that come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::record::{Filter, Record};
use super::{Exit, Failure, Out, unreadable};
use crate::audit::files;

/// Interval between reads of a followed log.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Length of the log's tail that is read for its last lines when no filter is given.
const TAIL_BYTES: u64 = 16 << 20;

#[derive(Args, Debug)]
pub struct Tail {
    file: PathBuf,
    /// Number of records.
    #[arg(long, short = 'n', default_value_t = 10)]
    lines: usize,
    /// Go on printing as records are added.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    /// Print whole records.
    #[arg(long)]
    pub(super) json: bool,
}

impl Tail {
    pub(super) async fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let failed = |error: io::Error| unreadable(&self.file, &error);
        // Opened first, so that nothing between the end and what follows is missed.
        let mut followed = Followed::open(&self.file).map_err(failed)?;
        let mut lines = VecDeque::new();
        let mut take = |line: &[u8]| self.wants(line).then(|| line.to_vec());
        last_lines(
            &mut followed.whole_lines(self.filter.is_empty()).map_err(failed)?,
            self.lines,
            &mut take,
            &mut lines,
        )
        .map_err(failed)?;
        let mut earlier = files::closed_files(&self.file).map_err(failed)?;
        while let Some(file) = earlier.pop().filter(|_| lines.len() < self.lines) {
            let mut before = VecDeque::new();
            let mut reader = BufReader::new(files::open(&file.path).map_err(failed)?);
            let wanted = self.lines - lines.len();
            last_lines(&mut reader, wanted, &mut take, &mut before).map_err(failed)?;
            before.append(&mut lines);
            lines = before;
        }
        for line in &lines {
            print(out, line)?;
        }
        out.flush()?;
        if !self.follow {
            return Ok(Exit::Fine);
        }
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            // Asked before reading: what stands in the old file by then is read to its end.
            let replaced = followed.is_replaced();
            let mut printed = Ok(());
            let mut show = |line: &[u8]| {
                if printed.is_ok() && self.wants(line) {
                    printed = print(out, line);
                }
            };
            followed.each_new_line(&mut show).map_err(failed)?;
            printed?;
            out.flush()?;
            if replaced && let Ok(next) = Followed::open(&self.file) {
                followed = next;
            }
        }
    }

    fn wants(&self, line: &[u8]) -> bool {
        self.filter.is_empty()
            || Record::read(line).is_some_and(|record| self.filter.wants(&record))
    }
}

/// A log's file that is read as it grows.
struct Followed {
    path: PathBuf,
    file: File,
    /// Position up to which whole lines were read.
    at: u64,
}

impl Followed {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)?, at: 0 })
    }

    /// Reports whether another file has the log's name by now.
    fn is_replaced(&self) -> bool {
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => there.ino() != ours.ino() || there.dev() != ours.dev(),
            _ => false,
        }
    }

    /// The whole lines that are there now, or those near the end.
    fn whole_lines(&mut self, near_the_end: bool) -> io::Result<impl BufRead + use<>> {
        let length = self.file.metadata()?.len();
        let mut end = length;
        let mut byte = [0];
        while end > 0 {
            self.file.seek(SeekFrom::Start(end - 1))?;
            self.file.read_exact(&mut byte)?;
            if byte == *b"\n" {
                break;
            }
            end -= 1;
        }
        self.at = end;
        let from = if near_the_end { end.saturating_sub(TAIL_BYTES) } else { 0 };
        self.file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::with_capacity(1 << 20, self.file.try_clone()?.take(end - from));
        if from > 0 {
            // A line may have begun before.
            reader.read_until(b'\n', &mut Vec::new())?;
        }
        Ok(reader)
    }

    fn each_new_line(&mut self, show: &mut impl FnMut(&[u8])) -> io::Result<()> {
        if self.file.metadata()?.len() < self.at {
            self.at = 0;
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            // A line that is being written is read when it is whole.
            let Some(whole) = line.strip_suffix(b"\n") else { return Ok(()) };
            self.at = self.at.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
            show(whole);
        }
    }
}

/// Keeps the last lines that are taken.
fn last_lines(
    reader: &mut impl BufRead,
    count: usize,
    take: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>,
    kept: &mut VecDeque<Vec<u8>>,
) -> io::Result<()> {
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Some(line) = take(line.strip_suffix(b"\n").unwrap_or(&line)) {
            kept.push_back(line);
        }
        if kept.len() > count {
            kept.pop_front();
        }
        line.clear();
    }
    Ok(())
}

fn print(out: &mut Out<'_>, line: &[u8]) -> io::Result<()> {
    if out.json {
        return out.raw(line);
    }
    let Some(record) = Record::read(line) else {
        return out.line(&format!("(not a record) {}", String::from_utf8_lossy(line)));
    };
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let what = record.event.as_ref().or(record.tool_called.as_ref()).or(record.mcp_method.as_ref());
    let why = record.denial_code.as_ref().or(record.policy_matched.as_ref());
    out.line(&format!(
        "{}  {:8}  {}  {}  {}  {}",
        record.timestamp,
        record.authorization_decision,
        or_dash(&what.cloned()),
        or_dash(&why.cloned()),
        or_dash(&record.agent_id),
        record.request_id,
    ))
}
