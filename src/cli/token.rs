//! `arbiter token …`: new tokens for all agents at once, after the signing secret has changed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Env, Exit, Failure, Remote};
use crate::firewall::agent::AgentId;

/// Tokens that are asked for at once.
const PAGE: &str = "500";

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Issue new tokens; tokens that are in use stay valid as they were.
    Reissue(Reissue),
}

#[derive(Args, Debug)]
pub struct Reissue {
    /// For every agent that may act; `arbiter agent token` is for one.
    #[arg(long, required = true)]
    all: bool,
    /// Folder that gets one file for each agent, named by its id, that only you can read.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seconds for which the tokens are valid, at most 86400; the configured time unless given.
    #[arg(long, value_name = "SECONDS")]
    expiry_seconds: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

impl Token {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let Self::Reissue(reissue) = self;
        reissue.run(env, sink).await
    }
}

impl Reissue {
    async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let (target, mut out) = self.remote.open(env, sink)?;
        let failed = |path: &Path, error: &io::Error| {
            Failure::new(Exit::No, format!("cannot write {}: {error}", path.display()))
        };
        // Before anything is issued that could not be kept.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.out);
        made.map_err(|error| failed(&self.out, &error))?;
        let body = match self.expiry_seconds {
            Some(secs) => json!({ "expiry_seconds": secs }),
            None => json!({}),
        };
        let (mut written, mut cursor) = (0_u64, None::<String>);
        loop {
            let mut query = vec![("limit", PAGE)];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let path = ["agents", "tokens"];
            let answer = target.ask(Method::POST, &path, &query, Some(body.to_string())).await?;
            for issued in answer.get("tokens").and_then(Value::as_array).into_iter().flatten() {
                let text = |name: &str| issued.get(name).and_then(Value::as_str);
                // An id becomes a file's name only if it is one.
                let (Some(id), Some(token)) =
                    (text("agent_id").and_then(AgentId::parse), text("token"))
                else {
                    return Err(Failure::new(Exit::No, "the answer holds no agent's token"));
                };
                let path = self.out.join(id.to_string());
                replace(&path, token).map_err(|error| failed(&path, &error))?;
                written += 1;
            }
            match answer.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        let done = json!({ "tokens": written, "out": self.out.display().to_string() });
        out.thing(&done)?;
        Ok(Exit::Fine)
    }
}

/// Puts a token into a file that only its owner can read, whole or not at all.
fn replace(path: &Path, token: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}
