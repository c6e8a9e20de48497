//! Answers by which a call goes on: read from the bytes as they pass, none of which is held back.
//!
//! Of an answer only the members of `result` that matter here are copied ([`Outline`]), and only if one
//! of them hands out a continuation are they read. What a lenient client might read otherwise, by a
//! repeated key or one in another case, is an error.

use std::borrow::Cow;

use crate::json::{Doc, JsonError, Kind, Value};
pub use events::EventReader;
pub use outline::Outline;

mod events;
mod outline;

/// Longest task id.
pub const MAX_TASK_ID_BYTES: usize = 1024;

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

impl TaskStatus {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "working" => Some(Self::Working),
            "input_required" => Some(Self::InputRequired),
            "completed" => Some(Self::Completed),
            "failed" => Some(Self::Failed),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A task that an answer describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: String,
    pub status: Option<TaskStatus>,
    /// Time for which the server keeps it; none if it does not say, or for ever.
    pub ttl_ms: Option<u64>,
    /// True if the task is the answer to the call that began it.
    pub begins: bool,
}

/// Reason why an answer that hands out a continuation cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the part of it by which the call goes on is not strict JSON: {0}")]
    NotJson(#[from] JsonError),
    #[error("a key of its result differs from `{0}` by case only")]
    Disguised(&'static str),
    #[error("its task has no id that can be used")]
    TaskId,
    #[error("the part of it by which the call goes on is larger than {0} bytes")]
    TooLarge(usize),
}

/// Reads the task in the outline of an answer; none if it has none.
fn task(outline: &[u8]) -> Result<Option<Task>, Unreadable> {
    let doc = Doc::parse(outline)?;
    let Some(result) = doc.root().get("result") else { return Ok(None) };
    let text = |value: Option<Value<'_>>| value.and_then(|v| v.as_str().map(Cow::into_owned));
    let nested = result.get("task").filter(|task| task.kind() == Kind::Object);
    let (of, begins) = match nested {
        Some(task) => (task, true),
        None => (result, text(result.get("resultType")).as_deref() == Some("task")),
    };
    let Some(id) = of.get("taskId") else { return Ok(None) };
    let id = text(Some(id)).filter(|id| !id.is_empty() && id.len() <= MAX_TASK_ID_BYTES);
    let number = |key| of.get(key).and_then(|value| value.as_number()?.parse::<u64>().ok());
    Ok(Some(Task {
        id: id.ok_or(Unreadable::TaskId)?,
        status: text(of.get("status")).as_deref().and_then(TaskStatus::parse),
        ttl_ms: number("ttlMs").or_else(|| number("ttl")),
        begins,
    }))
}

#[cfg(test)]
mod tests;
