//! `arbiter audit …`: on the files themselves, so that it works where Arbiter does not run.

mod export;
mod followed;
mod keygen;
mod prove;
mod record;
mod show;
mod stats;
mod tail;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::print::{Format, Out};
use super::{Env, Exit, Failure, Remote};
use crate::audit::files::{self, LogFile};

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check every record and every link of a log, and what was signed of it.
    Verify(verify::Verify),
    /// Print the last records of a log.
    Tail(tail::Tail),
    /// Count what was decided.
    Stats(stats::Stats),
    /// Show one record, its place in the chain, why it was decided so, and its session's neighbours.
    Show(show::Show),
    /// Hand records over to others, in their formats.
    Export(export::Export),
    /// Check an answer of `GET /audit/proof/…` from its file alone.
    Prove(prove::Prove),
    /// Make the key that signs checkpoints; prints the public one.
    Keygen(keygen::Keygen),
}

impl Audit {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Show(show) => show.run(env, &mut Out::new(show.remote.output, sink)).await,
            Self::Export(export) => export.run(env.get("ARBITER_EXPORT_TOKEN"), sink).await,
            Self::Prove(prove) => prove.run(&mut Out::new(prove.output, sink)),
            Self::Verify(verify) => verify.run(&mut Out::new(verify.output, sink)),
            Self::Tail(tail) => tail.run(&mut Out::new(tail.output, sink)).await,
            Self::Stats(stats) => stats.run(&mut Out::new(stats.output, sink)),
            Self::Keygen(keygen) => keygen.run(&mut Out::new(false, sink)),
        }
    }
}

/// The chains that the given paths stand for, each with its files in order: a folder is every log in
/// it, one file is that log with its closed files, several files are one chain as they are given.
fn chains(paths: &[PathBuf]) -> Result<Vec<Vec<LogFile>>, Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| unreadable(&path, &error)
    };
    match paths {
        [folder] if folder.is_dir() => {
            let logs = files::logs_in(folder).map_err(failed(folder))?;
            if logs.is_empty() {
                return Err(Failure::usage(format!("{} holds no log", folder.display())));
            }
            logs.iter().map(|log| files::snapshot(log).map_err(failed(log))).collect()
        }
        [log] => Ok(vec![files::snapshot(log).map_err(failed(log))?]),
        several => Ok(vec![several.iter().cloned().map(LogFile::from).collect()]),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}
