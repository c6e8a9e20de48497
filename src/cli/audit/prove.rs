//! `arbiter audit prove`: checks a proof from the file alone.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value gives null for what it does not have, and panics never"
)]

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, Failure, Format, Out, unreadable};
use crate::audit::checkpoint::VerifierKey;
use crate::audit::proof::Proof;

/// A proof is one record and a few hashes.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Args, Debug)]
pub struct Prove {
    /// Answer of `GET /audit/proof/{request_id}`.
    file: PathBuf,
    /// The public key that `arbiter audit keygen` printed.
    #[arg(long, value_name = "KEY", value_parser = super::verify::key)]
    public_key: VerifierKey,
    #[command(flatten)]
    pub(super) output: Format,
}

impl Prove {
    pub(super) fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let length = std::fs::metadata(&self.file).map(|file| file.len());
        if length.as_ref().is_ok_and(|length| *length > MAX_BYTES) {
            return Err(Failure::usage(format!("{} is no proof", self.file.display())));
        }
        let bytes = length.and_then(|_| std::fs::read(&self.file));
        let bytes = bytes.map_err(|error| unreadable(&self.file, &error))?;
        let checked = serde_json::from_slice::<Proof>(&bytes)
            .map_err(|error| format!("it is not a proof: {error}"))
            .and_then(|proof| {
                let checked = proof.check(&self.public_key);
                checked.map(|checkpoint| (proof, checkpoint)).map_err(|why| why.to_string())
            });
        match checked {
            Ok((proof, checkpoint)) => {
                let record: Value = serde_json::from_str(&proof.record).unwrap_or_default();
                if out.json {
                    out.thing(&json!({
                        "proven": true, "origin": checkpoint.origin,
                        "signed_at": checkpoint.at.to_string(), "tree_size": proof.tree_size,
                        "leaf_index": proof.leaf_index, "record": record,
                    }))?;
                } else {
                    let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
                    out.line(&format!(
                        "proven: record {} of {} at {}, request {}, decision {}",
                        record["chain_sequence"],
                        checkpoint.origin,
                        text("timestamp"),
                        text("request_id"),
                        text("authorization_decision")
                    ))?;
                    out.line(&format!(
                        "signed with {} others at {}",
                        proof.tree_size.saturating_sub(1),
                        checkpoint.at
                    ))?;
                }
                Ok(Exit::Fine)
            }
            Err(why) => {
                if out.json {
                    out.thing(&json!({ "proven": false, "why": why }))?;
                } else {
                    out.line(&format!("NOT PROVEN: {why}"))?;
                }
                Ok(Exit::No)
            }
        }
    }
}
