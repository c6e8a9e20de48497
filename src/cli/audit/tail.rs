//! `arbiter audit tail`: the last records, and those that come.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::followed::{At, Followed};
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
        let mut followed = Followed::at_end(&self.file).map_err(failed)?;
        let mut lines = VecDeque::new();
        let mut take = |line: &[u8]| self.wants(line).then(|| line.to_vec());
        if let Some((file, end, done)) = followed.before() {
            let near_the_end = self.filter.is_empty();
            let from = if near_the_end { end.saturating_sub(TAIL_BYTES) } else { 0 };
            let mut reader = BufReader::with_capacity(1 << 20, At(file, from).take(end - from));
            if from > 0 {
                // A line may have begun before.
                reader.read_until(b'\n', &mut Vec::new()).map_err(failed)?;
            }
            last_lines(&mut reader, self.lines, &mut take, &mut lines).map_err(failed)?;
            let mut earlier = files::closed_files(&self.file).map_err(failed)?;
            earlier.retain(|file| file.number <= done);
            while let Some(file) = earlier.pop().filter(|_| lines.len() < self.lines) {
                let mut before = VecDeque::new();
                let mut reader = BufReader::new(files::open(&file.path).map_err(failed)?);
                let wanted = self.lines - lines.len();
                last_lines(&mut reader, wanted, &mut take, &mut before).map_err(failed)?;
                before.append(&mut lines);
                lines = before;
            }
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
            while let Some(mut added) = followed.added().map_err(failed)? {
                let mut line = Vec::new();
                while added.read_until(b'\n', &mut line).map_err(failed)? > 0 {
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    if self.wants(text) {
                        print(out, text)?;
                    }
                    line.clear();
                }
                out.flush()?;
            }
        }
    }

    fn wants(&self, line: &[u8]) -> bool {
        self.filter.is_empty()
            || Record::read(line).is_some_and(|record| self.filter.wants(&record))
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
