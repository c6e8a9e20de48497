//! Records of the audit log, found for those who may read.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::Admin;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{Parameter, Parameters};
use crate::audit::chain::Seal;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::receipt::{Receipt, write_hex};
use crate::audit::search::{Found, Place, Wanted, newest_first};
use crate::firewall::time::Timestamp;
use crate::telemetry::Causes;

/// Most of the log that one request reads; the cursor goes on from there.
const MAX_BYTES: u64 = 256 << 20;
/// Searches at once: those that read a bounded part, and those for one record in the whole log.
static SEARCHES: Semaphore = Semaphore::const_new(2);
static WHOLE_SEARCHES: Semaphore = Semaphore::const_new(1);

#[derive(Serialize, JsonSchema)]
pub struct AuditRecords {
    /// Newest first, as they stand in the log. There may be fewer than were asked for, and more
    /// behind `next_cursor`: a request reads a bounded part of the log.
    records: Vec<Value>,
    /// Give it as `cursor` to go on; absent at the log's beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let query = &input.query;
    let (limit, wanted) = (query.limit()?, wanted(query)?);
    let before =
        query.get(Parameter::RecordCursor, "a `next_cursor`", |text| text.parse::<Place>().ok())?;
    let found = search(&admin, &SEARCHES, wanted, before, limit, MAX_BYTES).await?;
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
    // As they stand in the log: no number is read and written anew.
    let response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    Ok(Answer::Whole(Box::new(response)))
}

fn wanted(query: &Parameters) -> Result<Wanted, ApiError> {
    let text = |parameter| query.get(parameter, "text", |text| Some(text.to_owned()));
    let uuid = |parameter: Parameter| {
        let given = text(parameter)?;
        let whole = |text: &String| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
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

pub(super) async fn search(
    admin: &Admin,
    turns: &'static Semaphore,
    wanted: Wanted,
    before: Option<Place>,
    limit: usize,
    max_bytes: u64,
) -> Result<Found, ApiError> {
    let Some(log) = admin.audit.path().map(std::path::Path::to_owned) else {
        let message = "`audit.enabled` is false: there are no records";
        return Err(ApiError::new(Code::NotSupported, message));
    };
    let internal = |text: String| ApiError::new(Code::Internal, text);
    let turn = turns.acquire().await.map_err(|closed| internal(closed.to_string()))?;
    let found = tokio::task::spawn_blocking(move || {
        // Held until the work is done, even if the client has gone.
        let _turn = turn;
        newest_first(&log, &wanted, before, limit, max_bytes)
    });
    match found.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(internal(format!("the log cannot be read: {}", Causes(&error)))),
        Err(panicked) => Err(internal(panicked.to_string())),
    }
}

/// A record with the proof that it is in the log, and the checkpoint that the proof leads to.
pub(super) async fn proof(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.id.as_deref().filter(|id| id.len() == 36);
    let id = id.and_then(|id| uuid::Uuid::try_parse(id).ok());
    let id = id.ok_or_else(|| not_a_uuid("request_id"))?;
    let Some(every_secs) = admin.settings.checkpoint_secs else {
        let message = "nothing is signed here: set `audit.checkpoint_key_file`";
        return Err(ApiError::new(Code::NotSupported, message));
    };
    let wanted = Wanted { request_id: Some(id.to_string()), ..Wanted::default() };
    let found = search(&admin, &WHOLE_SEARCHES, wanted, None, 1, u64::MAX).await?;
    let line = found.lines.into_iter().next().ok_or_else(|| ApiError::not_found("record"))?;
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
    let audit = Arc::clone(&admin.audit);
    let path = tokio::task::spawn_blocking(move || {
        audit.proofs().map(|proofs| proofs.inclusion(index, tree.size)).transpose()
    });
    let internal = |text: String| ApiError::new(Code::Internal, text);
    let path = path.await.map_err(|panicked| internal(panicked.to_string()))?;
    let path = path.map_err(|error| internal(format!("the audit tree: {}", Causes(&error))))?;
    Answer::of(&Receipt {
        record: String::from_utf8(line).map_err(|error| internal(error.to_string()))?,
        leaf_index: index,
        tree_size: tree.size,
        inclusion_proof: path.unwrap_or_default().iter().map(write_hex).collect(),
        checkpoint: note,
    })
}
