//! `arbiter storage …`: the SQLite file at rest. Works on the file itself, while Arbiter does not run.
//!
//! Keys come from the environment (or the configuration), never from the command line. Each command
//! can be repeated: what is already as it should be is left as it is, with exit code 0.

mod restore;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::print::{Format, Out};
use super::{Env, Exit, Failure, Remote};
use crate::config::{Backend, Config, Secret};
use crate::store::at_rest::{self, Done};
use crate::store::{SealKey, StoreError};

const KEY: &str = "ARBITER_STORAGE_ENCRYPTION_KEY";
const NEW_KEY: &str = "ARBITER_STORAGE_ENCRYPTION_KEY_NEW";

#[derive(Debug, Subcommand)]
pub enum Storage {
    /// Encrypt a file that is not, with the key in `ARBITER_STORAGE_ENCRYPTION_KEY`.
    Encrypt(Which),
    /// Change the key from `ARBITER_STORAGE_ENCRYPTION_KEY` to `ARBITER_STORAGE_ENCRYPTION_KEY_NEW`.
    Rekey(Which),
    /// Write an encrypted file as plain SQLite, readable for everyone who can read the file.
    Decrypt(Which),
    /// Open the file as `serve` would and read every value of every row.
    Check(Which),
    /// Copy the state of a running Arbiter into a new file.
    Backup(restore::Backup),
    /// Put a copy in the place of the SQLite file, unless that would forget what was spent or revoked.
    Restore(restore::Restore),
}

/// File, and output format.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// The configuration file that names it.
    #[arg(long, default_value = "conf/arbiter.toml", env = "ARBITER_CONFIG")]
    config: PathBuf,
    /// The database file itself, whatever a configuration names.
    #[arg(long)]
    path: Option<PathBuf>,
    #[command(flatten)]
    output: Format,
}

impl Storage {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let which = match self {
            Self::Backup(backup) => return backup.run(env, sink).await,
            Self::Restore(restore) => return restore.run(env, sink).await,
            Self::Encrypt(which)
            | Self::Rekey(which)
            | Self::Decrypt(which)
            | Self::Check(which) => which,
        };
        let (path, key) = which.find(env)?;
        let needed = || key.as_ref().ok_or_else(|| Failure::usage(format!("{KEY} is not set")));
        let (outcome, done) = match self {
            Self::Check(_) | Self::Backup(_) | Self::Restore(_) => {
                let rows = at_rest::check(&path, key.as_ref()).map_err(|error| explain(&error))?;
                ("sound", Done { rows, changed: false, linked: false })
            }
            Self::Encrypt(_) => {
                ("encrypted", at_rest::encrypt(&path, needed()?).map_err(|error| explain(&error))?)
            }
            Self::Rekey(_) => {
                let (old, new) = (needed()?, new_key(env)?);
                (
                    "encrypted with the new key",
                    at_rest::rekey(&path, old, &new).map_err(|error| explain(&error))?,
                )
            }
            Self::Decrypt(_) => (
                "not encrypted",
                at_rest::decrypt(&path, needed()?).map_err(|error| explain(&error))?,
            ),
        };
        let mut answer = Map::new();
        answer.insert("path".to_owned(), path.display().to_string().into());
        answer.insert("state".to_owned(), outcome.into());
        answer.insert("changed".to_owned(), done.changed.into());
        answer.extend(done.rows.iter().map(|&(table, rows)| (table.to_owned(), rows.into())));
        Out::new(which.output, sink).thing(&Value::Object(answer))?;
        if done.linked {
            super::complain("the old file has another name (a hard link), and is there as it was");
        }
        Ok(Exit::Fine)
    }
}

impl Which {
    /// The file, and the key that the environment or the configuration gives for it.
    fn find(&self, env: &Env) -> Result<(PathBuf, Option<SealKey>), Failure> {
        if let Some(path) = &self.path {
            return Ok((path.clone(), key_in(KEY, env.get(KEY))?));
        }
        let config = Config::load(&self.config, env.0.iter().cloned())
            .map_err(|errors| Failure::usage(errors.to_string()))?;
        let Backend::Sqlite(path) = config.storage.backend else {
            return Err(Failure::usage("`storage.backend` is not `sqlite`: there is no file"));
        };
        let key = config.storage.encryption_key.as_ref().map(Secret::expose);
        Ok((path, key_in(KEY, key)?))
    }
}

fn new_key(env: &Env) -> Result<SealKey, Failure> {
    let new = env.get(NEW_KEY);
    if new.is_some() && new == env.get(KEY) {
        return Err(Failure::usage(format!("{NEW_KEY} is the same as {KEY}")));
    }
    key_in(NEW_KEY, new)?.ok_or_else(|| Failure::usage(format!("{NEW_KEY} is not set")))
}

fn key_in(name: &str, text: Option<&str>) -> Result<Option<SealKey>, Failure> {
    let key = |text| {
        SealKey::from_hex(text).ok_or_else(|| {
            let advice = "is not 64 hexadecimal characters; `openssl rand -hex 32` makes some";
            Failure::usage(format!("{name} {advice}"))
        })
    };
    text.map(key).transpose()
}

/// Explains a storage error with its causes, and reports an error of usage or configuration as
/// such.
fn explain(error: &StoreError) -> Failure {
    let ours = matches!(error, StoreError::Sealed { .. } | StoreError::File { .. });
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        message = format!("{message}: {below}");
        cause = below.source();
    }
    Failure::new(if ours { Exit::Usage } else { Exit::No }, message)
}

#[cfg(test)]
mod tests;
