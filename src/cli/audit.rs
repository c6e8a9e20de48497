//! `arbiter audit …`: on the file itself, so that it works where Arbiter does not run.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::print::Out;
use super::{Exit, Failure};
use crate::audit::chain::{HexHash, Link};
use crate::audit::verify::{Options, Report, Start, verify};

/// How much of a log's end is searched for its last lines.
const TAIL_BYTES: u64 = 16 << 20;
/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check every record and every link of a log.
    Verify(Verify),
    /// Print the last records of a log.
    Tail(Tail),
}

#[derive(Args, Debug)]
pub struct Verify {
    file: PathBuf,
    /// The log continues an earlier file that is not at hand.
    #[arg(long, conflicts_with = "after")]
    partial: bool,
    /// The log continues an earlier file that ended with this SEQUENCE:HASH.
    #[arg(long, value_parser = link)]
    after: Option<Link>,
    /// The log is known to have reached this SEQUENCE:HASH, from `GET /audit/head`.
    #[arg(long, value_parser = link)]
    head: Option<Link>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct Tail {
    file: PathBuf,
    /// How many records.
    #[arg(long, short = 'n', default_value_t = 10)]
    lines: usize,
    /// Go on printing as records are added.
    #[arg(long, short)]
    follow: bool,
    /// Print whole records.
    #[arg(long)]
    json: bool,
}

fn link(text: &str) -> Result<Link, String> {
    let expected = || "expected SEQUENCE:HASH with 64 lower-case hexadecimal digits".to_owned();
    let (sequence, hash) = text.split_once(':').ok_or_else(expected)?;
    let sequence = sequence.parse().ok().ok_or_else(expected)?;
    let hash = HexHash::read(hash.as_bytes()).ok_or_else(expected)?;
    Ok(Link { sequence, hash })
}

impl Audit {
    pub(super) async fn run(&self, sink: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Verify(verify) => verify.run(&mut Out::new(verify.json, sink)),
            Self::Tail(tail) => tail.run(&mut Out::new(tail.json, sink)).await,
        }
    }
}

impl Verify {
    fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let start = match (self.partial, self.after) {
            (_, Some(link)) => Start::After(link),
            (true, None) => Start::Anywhere,
            (false, None) => Start::Genesis,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options { start, known: self.head.as_slice(), threads };
        let report =
            verify(open(&self.file)?, &options).map_err(|error| unreadable(&self.file, &error))?;
        let exit = if report.is_intact() { Exit::Fine } else { Exit::No };
        if out.json {
            out.thing(&told(&report))?;
            return Ok(exit);
        }
        for finding in &report.findings {
            out.line(&format!("line {}: {}", finding.line, finding.damage))?;
        }
        if report.findings_left_out > 0 {
            out.line(&format!("and {} more", report.findings_left_out))?;
        }
        let verdict = if report.is_intact() { "intact" } else { "DAMAGED" };
        out.line(&format!("{verdict}: {} records, {} bytes", report.records, report.bytes))?;
        if let Some(head) = report.head {
            out.line(&format!("head {}:{}", head.sequence, head.hash))?;
        }
        Ok(exit)
    }
}

fn told(report: &Report) -> Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|found| json!({ "line": found.line, "damage": found.damage.to_string() }))
        .collect();
    json!({
        "intact": report.is_intact(),
        "records": report.records,
        "lines": report.lines,
        "bytes": report.bytes,
        "first_sequence": report.first_sequence,
        "head": report.head.map(|head| json!({
            "sequence": head.sequence, "hash": head.hash.to_string(),
        })),
        "findings": findings,
        "findings_left_out": report.findings_left_out,
    })
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

impl Tail {
    async fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let failed = |error: std::io::Error| unreadable(&self.file, &error);
        let mut file = open(&self.file)?;
        let (lines, mut at) = last_lines(&mut file, self.lines).map_err(failed)?;
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
            // Opened anew each time, so that a log that was replaced is followed.
            let mut file = open(&self.file)?;
            if file.metadata().map_err(failed)?.len() < at {
                at = 0;
            }
            file.seek(SeekFrom::Start(at)).map_err(failed)?;
            let mut reader = BufReader::new(file);
            loop {
                let mut line = Vec::new();
                reader.read_until(b'\n', &mut line).map_err(failed)?;
                // A line that is being written is read when it is whole.
                let Some(whole) = line.strip_suffix(b"\n") else { break };
                at = at.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
                print(out, whole)?;
            }
            out.flush()?;
        }
    }
}

/// The last whole lines of a file, and where they end.
fn last_lines(file: &mut File, count: usize) -> std::io::Result<(Vec<Vec<u8>>, u64)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let end = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    let whole = bytes.get(..end).unwrap_or_default();
    let mut lines: Vec<&[u8]> = whole.split(|b| *b == b'\n').collect();
    // Behind the last newline there is nothing; before `from` a line may have begun.
    lines.pop();
    if from > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let skip = lines.len().saturating_sub(count);
    let lines = lines.into_iter().skip(skip).map(<[u8]>::to_vec).collect();
    Ok((lines, from.saturating_add(u64::try_from(end).unwrap_or(u64::MAX))))
}

fn print(out: &mut Out<'_>, line: &[u8]) -> std::io::Result<()> {
    if out.json {
        return out.raw(line);
    }
    let text = String::from_utf8_lossy(line);
    let Ok(record) = serde_json::from_str::<Value>(&text) else {
        return out.line(&format!("(not a record) {text}"));
    };
    let member = |name: &str| record.get(name).and_then(Value::as_str);
    let what = member("event")
        .or_else(|| member("tool_called"))
        .or_else(|| member("mcp_method"))
        .unwrap_or("-");
    let why = member("denial_code").or_else(|| member("policy_matched")).unwrap_or("-");
    out.line(&format!(
        "{}  {:8}  {what}  {why}  {}  {}",
        member("timestamp").unwrap_or("-"),
        member("authorization_decision").unwrap_or("-"),
        member("agent_id").unwrap_or("-"),
        member("request_id").unwrap_or("-"),
    ))
}
