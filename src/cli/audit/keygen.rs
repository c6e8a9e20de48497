//! `arbiter audit keygen`.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Out};
use crate::audit::checkpoint::SigningKey;

#[derive(Args, Debug)]
pub struct Keygen {
    /// The node's name: what `audit.node_id` says, or will be if it says nothing.
    #[arg(long)]
    name: String,
    /// File for the private key: a new file that only you can read.
    #[arg(long)]
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let key = SigningKey::generate(&self.name, &self.out)
            .map_err(|error| Failure::usage(format!("{}: {error}", self.out.display())))?;
        out.line(&key.verifier().to_string())?;
        Ok(Exit::Fine)
    }
}
