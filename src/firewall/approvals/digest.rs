//! Digest of a call: equal for equal calls of one session, keyed, so that it reveals nothing about them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::json::{Value, canonical};
use crate::saturate::SaturatingFrom as _;

/// 32 bytes, written as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Call whose digest is taken.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub agent: AgentId,
    pub session: SessionId,
    pub upstream: Option<&'a str>,
    pub method: &'a str,
    pub params: Option<Value<'a>>,
}

/// Members of `_meta` that may change from one sending of a call to the next.
const VOLATILE: [&str; 4] = ["progressToken", "traceparent", "tracestate", "baggage"];

/// Members of the parameters that later rounds of a call change.
const OF_ROUNDS: [&str; 2] = ["inputResponses", "requestState"];

/// Returns the digest of a call under `key`.
pub fn digest(key: &[u8; 32], subject: &Subject<'_>) -> Digest {
    hashed(blake3::Hasher::new_keyed(key), subject, &[])
}

/// Returns the digest, under `key`, of what all rounds of a call have in common, with the text of the
/// policy for which the first of them was approved.
pub fn digest_of_rounds(key: &[u8; 32], subject: &Subject<'_>, policy_text: &Digest) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"rounds").update(&policy_text.0);
    hashed(hasher, subject, &OF_ROUNDS)
}

fn hashed(mut hasher: blake3::Hasher, subject: &Subject<'_>, left_out: &[&str]) -> Digest {
    hasher.update(subject.agent.0.as_bytes());
    hasher.update(subject.session.0.as_bytes());
    for text in [subject.upstream.unwrap_or_default(), subject.method] {
        hasher.update(&u64::saturating_from(text.len()).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(if subject.upstream.is_some() { b"u" } else { b"-" });
    if let Some(params) = subject.params {
        let changes = |name: &str| VOLATILE.contains(&name);
        let mut meta = params.get("_meta").into_iter().flat_map(|meta| meta.entries());
        let has_meta = meta.any(|entry| !changes(&entry.key()));
        let volatile = |path: &[&str]| match path {
            [name] if left_out.contains(name) => true,
            ["_meta"] => !has_meta,
            ["_meta", name] => changes(name),
            _ => false,
        };
        canonical::write(params, &volatile, &mut |bytes| {
            hasher.update(bytes);
        });
    }
    Digest(*hasher.finalize().as_bytes())
}
