//! Sources of credential values: a file, the environment, or a command that asks a vault.
//!
//! The result of a reading is an immutable [`Vault`] behind a pointer that is swapped whole: a source that
//! cannot be read stops the start, and at a reload leaves the old set in force. [`PatternCache`]
//! keeps what the scrubber needs for the sets of credentials that sessions use.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::credentials::{Patterns, Vault, VaultError};
use crate::firewall::time::Mono;
use crate::saturate::SaturatingFrom as _;

mod cache;
mod command;
mod file;
mod parse;
mod scrub_sets;

pub use cache::PatternCache;
pub use parse::ParseError;
pub use scrub_sets::{ScrubSet, ScrubSets};

/// Largest file or command output that is read.
const MAX_SOURCE_BYTES: u64 = 4 * 1024 * 1024;

/// Source of credentials.
#[derive(Clone, Debug)]
pub enum Source {
    /// No credentials.
    None,
    /// A TOML file: `[credentials]` with `name = "value"` or
    /// `name = { value, tools, upstreams, allow_short }`.
    File { path: PathBuf, strict_file_mode: bool },
    /// Variables that start with `prefix`. `ARBITER_CRED_API_TOKEN` is known as `api_token` and as
    /// `API_TOKEN`.
    Env { prefix: String, environment: Environment },
    /// A program that prints the file's content as JSON: `{"credentials": {…}}`, or the inner
    /// object alone.
    Command { program: PathBuf, arguments: Vec<String>, ttl: Duration, timeout: Duration },
}

/// A copy of the environment. `Debug` does not show it, since it holds the values.
#[derive(Clone, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Keeps of `variables` those that start with `prefix`.
    pub fn starting_with(
        prefix: &str,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let ours = |name: &OsString| {
            name.as_encoded_bytes().starts_with(prefix.as_bytes()) && !prefix.is_empty()
        };
        Self(variables.into_iter().filter(|(name, _)| ours(name)).collect())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// Reason why credentials could not be loaded; the source of the error describes it. Never quotes a
/// value.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("credentials file `{}` cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("credentials file `{}` is larger than 4 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "credentials file `{}` can be read by others (mode {mode:o}); run `chmod 600` on it, or \
         set `strict_file_mode = false`", path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("credentials file `{}`", path.display())]
    File { path: PathBuf, source: ParseError },
    #[error("credentials from the environment: variable `{variable}` {problem}")]
    Variable { variable: String, problem: &'static str },
    #[error("credentials command `{}`: {problem}", program.display())]
    Command { program: PathBuf, problem: String },
    #[error("credentials command `{}`", program.display())]
    CommandOutput { program: PathBuf, source: ParseError },
    #[error("{place}")]
    Vault { place: String, source: VaultError },
}

/// The credentials in force, and how to read them again.
#[derive(Debug)]
pub struct Secrets {
    source: Source,
    vault: ArcSwap<Vault>,
    warnings: ArcSwap<Vec<String>>,
    /// Finds every occurrence of every value in force.
    patterns: ArcSwap<Patterns>,
    /// Time at which the set in force was read; also serializes reloads.
    loaded_at: Mutex<Mono>,
}

impl Secrets {
    /// Reads the source for the first time. Blocks while it reads.
    pub fn load(source: Source, now: Mono) -> Result<Self, SecretsError> {
        let (vault, warnings) = read(&source)?;
        Ok(Self {
            source,
            patterns: ArcSwap::from_pointee(patterns(&vault)),
            vault: ArcSwap::from_pointee(vault),
            warnings: ArcSwap::from_pointee(warnings),
            loaded_at: Mutex::new(now),
        })
    }

    /// The credentials in force.
    pub fn vault(&self) -> Arc<Vault> {
        self.vault.load_full()
    }

    /// Returns the patterns for the values of all credentials in force.
    pub fn patterns(&self) -> Arc<Patterns> {
        self.patterns.load_full()
    }

    /// Returns warnings for operators about the set in force.
    pub fn warnings(&self) -> Arc<Vec<String>> {
        self.warnings.load_full()
    }

    /// Reads the source again; an error leaves the old set in force, also one of `accept`, which is
    /// shown the new set first. Blocks while it reads. Gives back how many credentials there are.
    pub fn reload<T, E: From<SecretsError>>(
        &self,
        now: Mono,
        accept: impl FnOnce(&Vault) -> Result<T, E>,
    ) -> Result<(usize, T), E> {
        let mut loaded_at = self.loaded_at.lock();
        // Also after an error: the next try comes with the next turn, not at once.
        *loaded_at = now;
        let (vault, warnings) = read(&self.source)?;
        let accepted = accept(&vault)?;
        let count = vault.len();
        self.patterns.store(Arc::new(patterns(&vault)));
        self.vault.store(Arc::new(vault));
        self.warnings.store(Arc::new(warnings));
        Ok((count, accepted))
    }

    /// Reports whether the set in force has outlived its time; only what a command said has one.
    pub fn is_due(&self, now: Mono) -> bool {
        let Source::Command { ttl, .. } = &self.source else { return false };
        let loaded_at = *self.loaded_at.lock();
        let ttl_us = u64::saturating_from(ttl.as_micros());
        now.0.saturating_sub(loaded_at.0) >= ttl_us
    }
}

/// Builds the patterns. Values too short to be used are left out: they are never sent, and they
/// occur everywhere.
fn patterns(vault: &Vault) -> Patterns {
    let secrets = vault.iter().filter(|secret| !secret.is_too_short());
    Patterns::new(secrets.map(|secret| secret.value.expose().as_bytes()))
}

fn read(source: &Source) -> Result<(Vault, Vec<String>), SecretsError> {
    let mut warnings = Vec::new();
    let secrets = match source {
        Source::None => Vec::new(),
        Source::File { path, strict_file_mode } => {
            let (text, mode) = file::read(path)?;
            if let Some(mode) = mode.filter(|mode| mode & 0o077 != 0) {
                if *strict_file_mode {
                    return Err(SecretsError::OpenToOthers { path: path.clone(), mode });
                }
                warnings.push(format!(
                    "credentials file `{}` can be read by others (mode {mode:o}); run `chmod 600` \
                     on it",
                    path.display()
                ));
            }
            parse::toml(&text)
                .map_err(|source| SecretsError::File { path: path.clone(), source })?
        }
        Source::Env { prefix, environment } => parse::environment(prefix, &environment.0)?,
        Source::Command { program, arguments, timeout, .. } => {
            let output = command::run(program, arguments, *timeout, MAX_SOURCE_BYTES)
                .map_err(|problem| SecretsError::Command { program: program.clone(), problem })?;
            parse::json(&output).map_err(|source| SecretsError::CommandOutput {
                program: program.clone(),
                source,
            })?
        }
    };
    let place = || match source {
        Source::None => "no credentials".to_owned(),
        Source::File { path, .. } => format!("credentials file `{}`", path.display()),
        Source::Env { .. } => "credentials from the environment".to_owned(),
        Source::Command { program, .. } => format!("credentials command `{}`", program.display()),
    };
    let vault =
        Vault::new(secrets).map_err(|source| SecretsError::Vault { place: place(), source })?;
    let short = vault.short_names();
    if !short.is_empty() {
        warnings.push(format!(
            "credentials shorter than 8 bytes are easily mistaken for other text: {}",
            short.join(", ")
        ));
    }
    Ok((vault, warnings))
}

#[cfg(test)]
mod tests;
