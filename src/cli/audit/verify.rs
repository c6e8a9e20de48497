//! `arbiter audit verify`: the chain through all files, and what was signed of it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, Failure, Format, Out, chains, unreadable};
use crate::audit::chain::{Damage, HexHash, Link};
use crate::audit::checkpoint::{Notes, VerifierKey, read_notes};
use crate::audit::files::LogFile;
use crate::audit::orphans::{Unfinished, unfinished};
use crate::audit::tree_file::Proofs;
use crate::audit::verify::{FileReport, Options, Start, verify_files};

#[derive(Args, Debug)]
pub struct Verify {
    /// A log (with its closed files), a folder of logs, or the files of one log in their order.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The log continues an earlier file that is not at hand. One file is then read by itself.
    #[arg(long, conflicts_with = "after")]
    partial: bool,
    /// The log continues an earlier file that ended with this SEQUENCE:HASH.
    #[arg(long, value_parser = link)]
    after: Option<Link>,
    /// The log is known to have reached this SEQUENCE:HASH, from `GET /audit/head`.
    #[arg(long, value_parser = link)]
    head: Option<Link>,
    /// Checkpoints that were kept: `<log>.checkpoints`, or what `GET /audit/checkpoint` gave.
    #[arg(long, requires = "public_key", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// The public key that `arbiter audit keygen` printed.
    #[arg(long, requires = "checkpoints", value_name = "KEY", value_parser = key)]
    public_key: Vec<VerifierKey>,
    /// Also check the Merkle tree of the log (`<log>.tree`): that its roots are those that the
    /// checkpoints were signed of, and its leaves the log's records. With two checkpoints, any
    /// rewrite of the records before them is found.
    #[arg(long, requires = "checkpoints")]
    consistency: bool,
    #[command(flatten)]
    pub(super) output: Format,
}

fn link(text: &str) -> Result<Link, String> {
    let expected = || "expected SEQUENCE:HASH with 64 lower-case hexadecimal digits".to_owned();
    let (sequence, hash) = text.split_once(':').ok_or_else(expected)?;
    let sequence = sequence.parse().ok().ok_or_else(expected)?;
    let hash = HexHash::read(hash.as_bytes()).ok_or_else(expected)?;
    Ok(Link { sequence, hash })
}

pub(super) fn key(text: &str) -> Result<VerifierKey, String> {
    text.parse().map_err(|_form| "expected NAME+HASH+KEY, as `audit keygen` prints it".to_owned())
}

/// Result of checking one log's files.
struct CheckedLog {
    files: Vec<FileReport>,
    known: usize,
    unfinished: Unfinished,
    tree: Option<CheckedTree>,
}

/// Comparison of the tree file with the log and its checkpoints.
struct CheckedTree {
    /// Checkpoints of a tree, and those whose root it has.
    signed: usize,
    met: usize,
    /// Records of the log whose hash is another one in the tree.
    other: u64,
}

impl CheckedTree {
    fn is_intact(&self) -> bool {
        self.signed == self.met && self.other == 0
    }
}

impl Verify {
    pub(super) fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let notes = self.notes()?;
        let signed = notes.iter().flat_map(|(_, notes)| &notes.signed);
        let mut known: Vec<Link> = signed.map(|signed| signed.checkpoint.link).collect();
        known.extend(self.head);
        known.sort_by_key(|link| (link.sequence, *link.hash.as_bytes()));
        known.dedup();
        let one_file = self.partial || self.after.is_some();
        let chains = match self.paths.as_slice() {
            [file] if one_file && file.is_file() => vec![vec![LogFile::from(file.clone())]],
            paths => chains(paths)?,
        };
        if chains.len() > 1 && !known.is_empty() {
            let problem = "there are several logs: give the one that the checkpoints are of";
            return Err(Failure::usage(problem));
        }
        let start = match (self.partial, self.after) {
            (_, Some(link)) => Start::After(link),
            (true, None) => Start::Anywhere,
            (false, None) => Start::Genesis,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options { start, known: &known, threads };
        let mut logs = Vec::new();
        for files in chains {
            let path = |file: Option<&LogFile>| file.map_or_else(PathBuf::new, |f| f.path.clone());
            let (first, log) = (path(files.first()), path(files.last()));
            let unfinished = unfinished(&log).map_err(|e| unreadable(&log, &e))?;
            let tree = self.consistency.then(|| tree_of(&log, &files, &notes)).transpose()?;
            let files = verify_files(&files, &options).map_err(|e| unreadable(&first, &e))?;
            logs.push(CheckedLog { files, known: known.len(), unfinished, tree });
        }
        let sound = notes.iter().all(|(_, notes)| notes.findings.is_empty());
        let fine = sound && logs.iter().all(CheckedLog::is_fine);
        if out.json {
            let told: Vec<_> = logs.iter().map(|log| log.told(&notes)).collect();
            match told.as_slice() {
                [one] => out.thing(one)?,
                several => out.thing(&Value::from(several))?,
            }
        } else {
            for (file, notes) in &notes {
                for (line, damage) in &notes.findings {
                    out.line(&format!("{}:{line}: {damage}", file.display()))?;
                }
            }
            for log in &logs {
                log.print(out)?;
            }
            if let Some(last) = notes
                .iter()
                .flat_map(|(_, notes)| &notes.signed)
                .max_by_key(|signed| signed.checkpoint.link.sequence)
            {
                let (sequence, at) = (last.checkpoint.link.sequence, last.checkpoint.at);
                out.line(&format!("signed up to record {sequence} at {at}"))?;
            }
        }
        Ok(if fine { Exit::Fine } else { Exit::No })
    }

    fn notes(&self) -> Result<Vec<(PathBuf, Notes)>, Failure> {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            let notes = read_notes(&text, &self.public_key);
            if notes.signed.is_empty() && notes.findings.is_empty() {
                let problem = format!("{} holds no checkpoint", file.display());
                return Err(Failure::usage(problem));
            }
            Ok((file.clone(), notes))
        };
        self.checkpoints.iter().map(read).collect()
    }
}

/// Compares the tree of a log with what was signed and with the records that are there.
fn tree_of(
    log: &Path,
    files: &[LogFile],
    notes: &[(PathBuf, Notes)],
) -> Result<CheckedTree, Failure> {
    let signed = notes.iter().flat_map(|(_, notes)| &notes.signed);
    let mut heads: Vec<_> = signed
        .filter_map(|signed| Some((signed.checkpoint.tree?, signed.checkpoint.link.sequence)))
        .collect();
    heads.sort_by_key(|(tree, _)| tree.size);
    let proofs = Proofs::of(log);
    let failed = |error: std::io::Error| unreadable(proofs.path(), &error);
    let (first, _) = proofs.extent().map_err(failed)?;
    let sizes: Vec<u64> = heads.iter().map(|(tree, _)| tree.size).collect();
    let roots = proofs.roots(&sizes).map_err(failed)?;
    let met = heads.iter().zip(&roots).filter(|((tree, sequence), root)| {
        **root == Some(tree.root) && first.saturating_add(tree.size) == sequence.saturating_add(1)
    });
    let met = met.count();
    let other = proofs.count_other(files).map_err(failed)?;
    Ok(CheckedTree { signed: heads.len(), met, other })
}

impl CheckedLog {
    fn is_intact(&self) -> bool {
        self.files.iter().all(|file| file.report.is_intact())
            && self.tree.as_ref().is_none_or(CheckedTree::is_intact)
    }

    /// The record that the log begins with, if earlier ones are all that is missing.
    fn begins_later(&self) -> Option<u64> {
        let mut findings = self.files.iter().flat_map(|file| &file.report.findings);
        let Damage::MissingStart { found } = findings.next()?.damage else { return None };
        findings.next().is_none().then_some(found)
    }

    /// Intact, and no admitted call is without its line unless it may still be under way.
    fn is_fine(&self) -> bool {
        let Unfinished { under_way, calls } = &self.unfinished;
        self.is_intact() && (*under_way || calls.is_empty())
    }

    fn sum(&self, of: impl Fn(&FileReport) -> u64) -> u64 {
        self.files.iter().map(of).sum()
    }

    fn head(&self) -> Option<Link> {
        self.files.iter().rev().find_map(|file| file.report.head)
    }

    fn deleted_through(&self) -> Option<Link> {
        self.files.iter().find_map(|file| file.report.deleted_through)
    }

    fn known_met(&self) -> u64 {
        self.sum(|file| file.report.known_met)
    }

    fn told(&self, notes: &[(PathBuf, Notes)]) -> Value {
        let shown = |path: &Path| path.display().to_string();
        let findings: Vec<_> = self
            .files
            .iter()
            .flat_map(|file| file.report.findings.iter().map(|found| (shown(&file.path), found)))
            .map(|(file, found)| {
                json!({ "file": file, "line": found.line, "damage": found.damage.to_string() })
            })
            .collect();
        let bad_notes: Vec<_> = notes
            .iter()
            .flat_map(|(file, notes)| notes.findings.iter().map(|found| (shown(file), found)))
            .map(|(file, (line, damage))| {
                json!({ "file": file, "line": line, "damage": damage.to_string() })
            })
            .collect();
        json!({
            "intact": self.is_intact() && bad_notes.is_empty(),
            "begins_later": self.begins_later(),
            "tree": self.tree.as_ref().map(|tree| json!({
                "signed": tree.signed, "met": tree.met, "other_records": tree.other,
            })),
            "files": self.files.iter().map(|file| shown(&file.path)).collect::<Vec<_>>(),
            "records": self.sum(|file| file.report.records),
            "lines": self.sum(|file| file.report.lines),
            "bytes": self.sum(|file| file.report.bytes),
            "deleted_through": self.deleted_through().map(|link| link.sequence),
            "first_sequence": self.files.iter().find_map(|file| file.report.first_sequence),
            "head": self.head().map(|head| json!({
                "sequence": head.sequence, "hash": head.hash.to_string(),
            })),
            "findings": findings,
            "findings_left_out": self.sum(|file| file.report.findings_left_out),
            "known": self.known,
            "known_met": self.known_met(),
            "checkpoint_findings": bad_notes,
            "unfinished": self.unfinished.calls,
            "under_way": self.unfinished.under_way,
        })
    }

    fn print(&self, out: &mut Out<'_>) -> std::io::Result<()> {
        for FileReport { path, report } in &self.files {
            for finding in &report.findings {
                let place = match self.files.len() {
                    1 => format!("line {}", finding.line),
                    _ => format!("{}:{}", path.display(), finding.line),
                };
                out.line(&format!("{place}: {}", finding.damage))?;
            }
            if report.findings_left_out > 0 {
                out.line(&format!("and {} more", report.findings_left_out))?;
            }
        }
        let summary = match self.begins_later() {
            _ if self.is_intact() => "intact",
            Some(_) => "INCOMPLETE",
            None => "DAMAGED",
        };
        let records = self.sum(|file| file.report.records);
        let bytes = self.sum(|file| file.report.bytes);
        let files = match self.files.len() {
            1 => String::new(),
            files => format!(" in {files} files"),
        };
        out.line(&format!("{summary}: {records} records, {bytes} bytes{files}"))?;
        if let Some(through) = self.deleted_through() {
            let sequence = through.sequence;
            out.line(&format!(
                "records up to {sequence} were deleted by the node, as it recorded"
            ))?;
        }
        if let Some(found) = self.begins_later() {
            out.line(&format!(
                "records 1 to {} are not here: give the files that hold them before this one, or the \
                 last of them as --after SEQUENCE:HASH; --partial passes over them",
                found.saturating_sub(1)
            ))?;
        }
        if let Some(tree) = &self.tree {
            let (met, signed) = (tree.met, tree.signed);
            out.line(&format!("tree roots met: {met} of {signed}"))?;
            if tree.other > 0 {
                out.line(&format!("{} records are not those of the tree", tree.other))?;
            }
        }
        if self.known > 0 {
            out.line(&format!("known links met: {} of {}", self.known_met(), self.known))?;
        }
        if let Some(head) = self.head() {
            out.line(&format!("head {}:{}", head.sequence, head.hash))?;
        }
        let Unfinished { under_way, calls } = &self.unfinished;
        let count = calls.len();
        match (count, under_way) {
            (0, _) => {}
            (_, true) => out.line(&format!("{count} admitted calls are under way"))?,
            (_, false) => {
                out.line(&format!(
                    "{count} admitted calls have no line: the process that admitted them is gone; the \
                     next start of Arbiter in this folder completes them"
                ))?;
                for call in calls.iter().take(10) {
                    out.line(&format!("  request {call}"))?;
                }
            }
        }
        Ok(())
    }
}
