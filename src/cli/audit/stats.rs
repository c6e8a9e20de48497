//! `arbiter audit stats`: how much of what there is in a log.
//!
//! A record that counts refusals counts for as many, so the sums are those of requests. Names that
//! agents choose are kept up to a bound; what comes after is counted together.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::record::{Filter, Record};
use super::{Exit, Failure, Format, Out, chains, unreadable};

const MAX_NAMES: usize = 10_000;
const OTHERS: &str = "(others)";

#[derive(Args, Debug)]
pub struct Stats {
    /// A log (its closed files count too), a folder of logs, or files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    /// Number of tools and agents shown, the most frequent first.
    #[arg(long, default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    pub(super) output: Format,
}

#[derive(Default)]
struct Count(HashMap<String, u64>);

#[derive(Default)]
struct Counts {
    records: u64,
    requests: u64,
    unreadable: u64,
    unrecorded: u64,
    first: Option<String>,
    last: Option<String>,
    decisions: Count,
    codes: Count,
    outcomes: Count,
    tool_outcomes: Count,
    tools: Count,
    agents: Count,
    events: Count,
    /// Decisions about admin requests and changes of what is in force.
    admin: Count,
}

impl Stats {
    pub(super) fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let mut counts = Counts::default();
        for file in chains(&self.paths)?.iter().flatten() {
            let failed = |error| unreadable(&file.path, &error);
            let mut reader = BufReader::with_capacity(1 << 20, file.open().map_err(failed)?);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
                counts.line(&line, &self.filter);
                line.clear();
            }
        }
        if out.json {
            out.thing(&counts.told(self.top))?;
            return Ok(Exit::Fine);
        }
        counts.print(self.top, out)?;
        Ok(Exit::Fine)
    }
}

impl Count {
    fn add(&mut self, name: &str, count: u64) {
        let name =
            if self.0.len() < MAX_NAMES || self.0.contains_key(name) { name } else { OTHERS };
        let sum = self.0.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }

    /// The most frequent first, then by name.
    fn top(&self, most: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(most);
        all
    }
}

impl Counts {
    fn line(&mut self, line: &[u8], filter: &Filter) {
        let Some(record) = Record::read(line) else {
            self.unreadable += 1;
            return;
        };
        if !filter.wants(&record) {
            return;
        }
        self.records += 1;
        self.first.get_or_insert_with(|| record.timestamp.clone());
        let count = record.stands_for();
        match record.event.as_deref() {
            Some("audit_gap") => self.unrecorded = self.unrecorded.saturating_add(count),
            Some("refusals_folded") | None => self.request(&record, count),
            Some(_) => self.admin.add(&record.authorization_decision, count),
        }
        if let Some(event) = &record.event {
            self.events.add(event, 1);
        }
        self.last = Some(record.timestamp);
    }

    fn request(&mut self, record: &Record, count: u64) {
        self.requests = self.requests.saturating_add(count);
        self.decisions.add(&record.authorization_decision, count);
        if let Some(code) = &record.denial_code {
            self.codes.add(code, count);
        }
        if let Some(outcome) = &record.outcome {
            self.outcomes.add(outcome, count);
        }
        if let Some(outcome) = &record.tool_outcome {
            self.tool_outcomes.add(outcome, count);
        }
        let batch = record.tools_called.iter();
        let single = record.tool_called.iter().filter(|_| record.tools_called.is_empty());
        for tool in batch.chain(single) {
            self.tools.add(tool, count);
        }
        if let Some(agent) = &record.agent_id {
            self.agents.add(agent, count);
        }
    }

    /// Every table with its name; those that agents can fill are cut.
    fn tables(&self, top: usize) -> [(&'static str, Vec<(&str, u64)>); 8] {
        [
            ("decisions", self.decisions.top(usize::MAX)),
            ("codes", self.codes.top(usize::MAX)),
            ("outcomes", self.outcomes.top(usize::MAX)),
            ("tool_outcomes", self.tool_outcomes.top(usize::MAX)),
            ("tools", self.tools.top(top)),
            ("agents", self.agents.top(top)),
            ("events", self.events.top(usize::MAX)),
            ("admin", self.admin.top(usize::MAX)),
        ]
    }

    fn told(&self, top: usize) -> Value {
        let mut told = json!({
            "records": self.records,
            "requests": self.requests,
            "unrecorded": self.unrecorded,
            "unreadable": self.unreadable,
            "first": self.first,
            "last": self.last,
        });
        for (name, rows) in self.tables(top) {
            let rows: serde_json::Map<_, _> =
                rows.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
            if let Some(told) = told.as_object_mut() {
                told.insert(name.to_owned(), rows.into());
            }
        }
        told
    }

    fn print(&self, top: usize, out: &mut Out<'_>) -> std::io::Result<()> {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
        let (first, last) = (time(&self.first), time(&self.last));
        out.line(&format!("{} records, {} requests", self.records, self.requests))?;
        out.line(&format!("from {first} to {last}"))?;
        for (what, count) in [
            ("requests were not recorded", self.unrecorded),
            ("lines are not records", self.unreadable),
        ] {
            if count > 0 {
                out.line(&format!("{count} {what}"))?;
            }
        }
        for (name, rows) in self.tables(top) {
            if !rows.is_empty() {
                out.line(name)?;
            }
            for (name, count) in rows {
                out.line(&format!("{count:>10}  {name}"))?;
            }
        }
        Ok(())
    }
}
