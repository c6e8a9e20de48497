//! Continuations: what an answer handed out by which its call goes on.
//!
//! A task id, or the state of a call that asks for more, is known by a keyed hash ([`Digest`]) of
//! itself and of the session that was given it, so that neither memory nor store holds the text.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::approvals::Digest;
use super::session::SessionId;
use super::time::Timestamp;

/// Continuations kept of one session; beyond it those that end first go.
pub const MAX_OF_SESSION: u16 = 256;

/// Continuation of a call, kept until its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    pub mark: Digest,
    pub session: SessionId,
    /// The request whose answer handed it out.
    pub begun_by: Uuid,
    /// The tool of a call that goes on as a task.
    pub tool: Option<Box<str>>,
    /// Digest of the first round of a call that a person approved, and of the policy that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Digest>,
    pub ends: Timestamp,
}
