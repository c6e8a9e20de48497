//! Records of the audit log, found for those who may read.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::Admin;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::lru::Lru;
use super::query::{Parameter, Parameters};
use crate::audit::chain::Seal;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::proof::{Proof, write_hex};
use crate::audit::search::{LogPosition, Wanted, newest_first};
use crate::firewall::time::Timestamp;
use crate::telemetry::Causes;

/// Most of the log that one request reads; the next one goes on from there.
const MAX_BYTES: u64 = 256 << 20;
/// Searches that read the log at once.
const MAX_AT_ONCE: usize = 2;
/// Time for which a search waits for another to end.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Searches for one record whose place is kept until they are asked for again.
const MAX_UNFINISHED: usize = 64;

/// Searches in the log's files: a bounded number at once, each over a bounded part.
pub struct Searches {
    turns: Arc<Semaphore>,
    /// Position at which the search for a request's record goes on.
    unfinished: Mutex<Lru<Uuid, LogPosition>>,
    max_bytes: u64,
}

impl Default for Searches {
    fn default() -> Self {
        Self::reading(MAX_BYTES)
    }
}

impl Searches {
    /// Searches of which each reads about so many bytes.
    pub(super) fn reading(max_bytes: u64) -> Self {
        let unfinished = Mutex::new(Lru::new(MAX_UNFINISHED));
        Self { turns: Arc::new(Semaphore::new(MAX_AT_ONCE)), unfinished, max_bytes }
    }

    fn unfinished(&self) -> MutexGuard<'_, Lru<Uuid, LogPosition>> {
        self.unfinished.lock()
    }

    #[cfg(test)]
    pub(super) fn unfinished_count(&self) -> usize {
        self.unfinished().len()
    }

    /// Waits a moment for a turn.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = tokio::time::timeout(MAX_WAIT, Arc::clone(&self.turns).acquire_owned());
        if let Ok(Ok(turn)) = turn.await {
            return Ok(turn);
        }
        let message = format!("{MAX_AT_ONCE} searches read the log already; try again in 1 s");
        Err(ApiError::new(Code::TooManySearches, message).retry_after(1))
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditRecords {
    /// Records as the log has them, newest first. There may be fewer than were asked for, and more
    /// at `next_cursor`: a request reads a bounded part of the log.
    records: Vec<Value>,
    /// Give it as `cursor` to go on; absent at the log's beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let query = &input.query;
    let (limit, wanted) = (query.limit()?, wanted(query)?);
    let before = query
        .get(Parameter::RecordCursor, "a `next_cursor`", |text| text.parse::<LogPosition>().ok())?;
    let found = read(&admin, move |admin, log| {
        let index = admin.audit.index().ok_or_else(nothing_recorded)?;
        let found = index.newest_first(log, &wanted, before, limit, admin.searches.max_bytes);
        found.map_err(|error| unreadable(&error))
    });
    let found = found.await?;
    let mut body = b"{\"records\":[".to_vec();
    for (n, line) in found.lines.iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(line);
    }
    body.push(b']');
    if let Some(next) = found.next {
        body.extend_from_slice(format!(",\"next_cursor\":\"{next}\"").as_bytes());
    }
    body.push(b'}');
    // As the log has them: no number is parsed and formatted again.
    let response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    Ok(Answer::Whole(Box::new(response)))
}

fn wanted(query: &Parameters) -> Result<Wanted, ApiError> {
    let text = |parameter| query.get(parameter, "text", |text| Some(text.to_owned()));
    let uuid = |parameter: Parameter| {
        let given = text(parameter)?;
        let whole = |text: &String| text.len() == 36 && Uuid::try_parse(text).is_ok();
        match given {
            Some(text) if !whole(&text) => Err(not_a_uuid(parameter.name())),
            given => Ok(given.map(|text| text.to_ascii_lowercase())),
        }
    };
    let time =
        |parameter| query.get(parameter, "a time such as 2026-11-22T10:00:00Z", Timestamp::parse);
    Ok(Wanted {
        request_id: uuid(Parameter::RequestId)?,
        session_id: uuid(Parameter::SessionId)?,
        agent_id: uuid(Parameter::AgentId)?,
        tool: text(Parameter::Tool)?,
        code: text(Parameter::Code)?,
        since: time(Parameter::Since)?,
        until: time(Parameter::Until)?,
    })
}

/// Runs a search of the log's files when it is its turn, on a thread that answers no requests.
async fn read<T: Send + 'static>(
    admin: &Arc<Admin>,
    work: impl FnOnce(&Admin, &Path) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if admin.audit.path().is_none() {
        return Err(nothing_recorded());
    }
    let turn = admin.searches.turn().await?;
    let admin = Arc::clone(admin);
    let done = tokio::task::spawn_blocking(move || {
        // Held until the work is done, even if the client has gone.
        let _turn = turn;
        let log = admin.audit.path().ok_or_else(nothing_recorded)?;
        work(&admin, log)
    });
    done.await.map_err(|panicked| ApiError::new(Code::Internal, panicked.to_string()))?
}

fn nothing_recorded() -> ApiError {
    ApiError::new(Code::NotSupported, "`audit.enabled` is false: there are no records")
}

fn unreadable(error: &io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("the log cannot be read: {}", Causes(error)))
}

/// Finds the record of a request: by the index, or in the files, where a search that reaches its
/// bound is gone on with when it is asked for again.
pub(super) fn record_of(admin: &Admin, log: &Path, id: Uuid) -> Result<Vec<u8>, ApiError> {
    let index = admin.audit.index().ok_or_else(nothing_recorded)?;
    if let Some(line) = index.line_of(log, id).map_err(|error| unreadable(&error))? {
        return Ok(line);
    }
    let searches = &admin.searches;
    let wanted = Wanted { request_id: Some(id.to_string()), ..Wanted::default() };
    let before = searches.unfinished().get(&id).copied();
    let found = newest_first(log, &wanted, before, 1, searches.max_bytes);
    let found = found.map_err(|error| unreadable(&error))?;
    searches.unfinished().remove(&id);
    match (found.lines.into_iter().next(), found.next) {
        (Some(line), _) => Ok(line),
        (None, None) => Err(ApiError::not_found("record")),
        (None, Some(next)) => {
            searches.unfinished().put(id, next);
            let message = "not found yet in a large log: ask again, and the search goes on";
            Err(ApiError::new(Code::SearchUnfinished, message).retry_after(1))
        }
    }
}

/// A record with the proof that it is in the log, and the checkpoint that the proof leads to.
pub(super) async fn proof(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.id.as_deref().filter(|id| id.len() == 36);
    let id = id.and_then(|id| Uuid::try_parse(id).ok());
    let id = id.ok_or_else(|| not_a_uuid("request_id"))?;
    let Some(every_secs) = admin.settings.checkpoint_secs else {
        let message = "nothing is signed here: set `audit.checkpoint_key_file`";
        return Err(ApiError::new(Code::NotSupported, message));
    };
    read(&admin, move |admin, log| Answer::of(&prove(admin, log, id, every_secs)?)).await
}

fn prove(admin: &Admin, log: &Path, id: Uuid, every_secs: u64) -> Result<Proof, ApiError> {
    let line = record_of(admin, log, id)?;
    let seal = Seal::read(&line).ok_or_else(|| ApiError::not_found("record in the chain"))?;
    let not_yet = || {
        let message =
            "the record is under no checkpoint yet; try again when the next one is signed";
        ApiError::new(Code::NotYetCheckpointed, message).retry_after(every_secs)
    };
    let note = admin.audit.checkpoint().ok_or_else(not_yet)?;
    let checkpoint = Checkpoint::of_own(&note).ok_or_else(not_yet)?;
    let tree = checkpoint.tree.ok_or_else(not_yet)?;
    if seal.link.sequence > checkpoint.link.sequence {
        return Err(not_yet());
    }
    let index = checkpoint.leaf_of(seal.link.sequence);
    let index = index.ok_or_else(|| ApiError::not_found("record in the tree"))?;
    let internal = |text: String| ApiError::new(Code::Internal, text);
    let path = admin.audit.proofs().map(|proofs| proofs.inclusion(index, tree.size)).transpose();
    let path = path.map_err(|error| internal(format!("the audit tree: {}", Causes(&error))))?;
    Ok(Proof {
        record: String::from_utf8(line).map_err(|error| internal(error.to_string()))?,
        leaf_index: index,
        tree_size: tree.size,
        inclusion_proof: path.unwrap_or_default().iter().map(write_hex).collect(),
        checkpoint: note,
    })
}
