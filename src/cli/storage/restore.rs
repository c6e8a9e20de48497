//! `arbiter storage backup` and `arbiter storage restore`.
//!
//! A restore brings back the state of an earlier moment: what was spent, closed and revoked since would
//! be forgotten. The audit log says what that is; so a restore compares the copy's position with the
//! log and refuses, unless `--accept-rollback` is given, which is on record.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::print::{Format, Out};
use super::{Env, Exit, Failure, KEY, Remote, explain, key_in};
use crate::app::audit_settings;
use crate::audit::{Audit, By, Change, files};
use crate::clock::Clock;
use crate::config::{Backend, Config, Secret};
use crate::saturate::SaturatingFrom as _;
use crate::store::{BackupMark, backups};

/// Events that take something away; an earlier state does not know of them.
const TAKEN_AWAY: [&str; 7] = [
    "agent.deactivate",
    "agent.demoted",
    "agent.trust",
    "agent.undelegate",
    "freeze.set",
    "session.close",
    "token.revoke",
];

#[derive(Args, Debug)]
pub struct Backup {
    /// File for the copy: a new one, that only you can read.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Restore {
    /// Copy that `arbiter storage backup` wrote.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Go on although calls that were spent, or what was revoked, after the copy are forgotten.
    #[arg(long)]
    accept_rollback: bool,
    /// The configuration file that names the store and the audit log.
    #[arg(long, default_value = "conf/arbiter.toml", env = "ARBITER_CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    output: Format,
}

impl Backup {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let shown = self.to.display();
        let taken = || Failure::usage(format!("{shown} is there already; name a new file"));
        if self.to.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let (target, mut out) = self.remote.open(env, sink)?;
        let partial = self.to.with_extension(format!("partial-{}", std::process::id()));
        let failed =
            |error: io::Error| Failure::new(Exit::No, format!("cannot write {shown}: {error}"));
        let mut file = OpenOptions::new();
        let mut file =
            file.write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
        let received = target.receive(Method::POST, &["storage", "backup"], &mut file).await;
        let kept = received.and_then(|bytes| {
            file.sync_all().map_err(failed)?;
            match backups::is_sound(&partial) {
                Ok(true) => {}
                Ok(false) => return Err(Failure::new(Exit::No, "the copy that came is damaged")),
                Err(error) => return Err(explain(&error)),
            }
            // Unlike a renaming, a link never takes the place of a file.
            match std::fs::hard_link(&partial, &self.to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
                linked => linked.map(|()| bytes).map_err(failed),
            }
        });
        drop(std::fs::remove_file(&partial));
        let answer = json!({ "to": shown.to_string(), "bytes": kept? });
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}

/// Losses of a restore, as the audit log shows them.
#[derive(Debug, Default)]
struct Since {
    /// The record at which the copy was begun is in the log.
    found: bool,
    calls: u64,
    taken_away: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Line {
    chain_sequence: Option<u64>,
    chain_record_hash: Option<String>,
    event: Option<String>,
    task_session_id: Option<String>,
    tool_called: Option<String>,
    #[serde(default)]
    tools_called: Vec<String>,
    outcome: Option<String>,
}

impl Since {
    /// Reads what a log says after a mark.
    fn read(log: &Path, mark: &BackupMark) -> io::Result<Self> {
        let mut since = Self { found: mark.sequence == 0, ..Self::default() };
        for path in files::files_of(log)? {
            if !path.try_exists()? {
                continue;
            }
            let mut reader = BufReader::with_capacity(1 << 20, files::open(&path)?);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                // Damage is for `audit verify` to report; such a line says nothing here.
                if let Ok(record) = serde_json::from_slice::<Line>(&line) {
                    since.take(record, mark);
                }
                line.clear();
            }
        }
        Ok(since)
    }

    fn take(&mut self, line: Line, mark: &BackupMark) {
        let sequence = line.chain_sequence.unwrap_or(u64::MAX);
        if sequence == mark.sequence {
            self.found |= line.chain_record_hash.as_deref() == Some(mark.hash.as_str());
        }
        if sequence <= mark.sequence {
            return;
        }
        if let Some(event) = line.event {
            let refused = line.outcome.as_deref() == Some("refused");
            if TAKEN_AWAY.contains(&event.as_str()) && !refused {
                *self.taken_away.entry(event).or_default() += 1;
            }
            return;
        }
        // Refused calls count as well: a session may have paid for them.
        if line.task_session_id.is_some() {
            let batch = u64::saturating_from(line.tools_called.len());
            let single = u64::from(line.tool_called.is_some());
            self.calls = self.calls.saturating_add(batch.max(single));
        }
    }

    fn loses_nothing(&self) -> bool {
        self.found && self.calls == 0 && self.taken_away.is_empty()
    }

    /// The losses in words.
    fn told(&self) -> String {
        if !self.found {
            return "the log does not hold the record at which the copy was begun, so what was spent \
                    and revoked since cannot be known"
                .to_owned();
        }
        let calls = (self.calls > 0).then(|| format!("{} calls", self.calls));
        let events = self.taken_away.iter().map(|(event, count)| format!("{count} {event}"));
        calls.into_iter().chain(events).collect::<Vec<_>>().join(", ")
    }
}

impl Restore {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let config = Config::load(&self.config, env.0.iter().cloned())
            .map_err(|errors| Failure::usage(errors.to_string()))?;
        let Backend::Sqlite(path) = &config.storage.backend else {
            return Err(Failure::usage("`storage.backend` is not `sqlite`: there is no file"));
        };
        let key = key_in(KEY, config.storage.encryption_key.as_ref().map(Secret::expose))?;
        let (_rows, mark) =
            backups::inspect(&self.from, key.as_ref()).map_err(|error| explain(&error))?;
        let no = |problem: String| Failure::new(Exit::No, problem);
        let clock = Clock::system();
        // Takes the log for this process alone, and completes the calls of one that was killed.
        let settings =
            audit_settings(&config).map_err(|error| Failure::usage(format!("{error:#}")))?;
        let audit = Audit::open(settings, clock.clone())
            .map_err(|error| no(format!("{error}; stop Arbiter first")))?;
        let unknown = Since::default();
        let since = match (&mark, config.audit.enabled) {
            (Some(mark), true) => Since::read(&config.audit.file_path, mark)
                .map_err(|error| no(format!("cannot read the audit log: {error}")))?,
            (Some(_) | None, _) => unknown,
        };
        if !since.loses_nothing() && !self.accept_rollback {
            return Err(no(format!(
                "{} would roll back: {}; --accept-rollback goes on all the same, on record",
                self.from.display(),
                since.told()
            )));
        }
        let rolled_back = if since.loses_nothing() { "nothing".to_owned() } else { since.told() };
        let mut change = Change::new("storage.restore")
            .with("from", self.from.display())
            .with("rolled_back", &rolled_back)
            .with("accept_rollback", self.accept_rollback)
            .with("approvals", "void");
        if let Some(mark) = &mark {
            change = change.with("taken_at", mark.taken_at).count("audit_sequence", mark.sequence);
        }
        let recorded = audit.announce(change, By::default(), &clock).await;
        let recorded =
            recorded.map_err(|error| no(format!("the restore is not on record: {error}")))?;
        let now = clock.now().wall;
        let kept = match backups::put_in_place(&self.from, path, key.as_ref(), now) {
            Ok(kept) => kept,
            Err(error) => {
                recorded.refused("RestoreFailed");
                audit.close();
                return Err(explain(&error));
            }
        };
        recorded.done();
        audit.close();
        let answer = json!({
            "restored": path.display().to_string(),
            "taken_at": mark.as_ref().map(|mark| mark.taken_at.to_string()),
            "rolled_back": rolled_back,
            "kept": kept.map(|kept| kept.display().to_string()),
        });
        Out::new(self.output, sink).thing(&answer)?;
        Ok(Exit::Fine)
    }
}
