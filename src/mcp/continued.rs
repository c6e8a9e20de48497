//! Answers by which a call goes on: read from the bytes as they pass, none of which is held back.
//!
//! The members that matter here are copied ([`Outline`]), and read only if one of them hands out a
//! continuation or asks something. A repeated key, or one in another case, is an error: a lenient client
//! might read it otherwise.

use std::borrow::Cow;

use crate::json::{Doc, JsonError, Kind, Value};
pub use events::EventReader;
pub use outline::Outline;
pub use questions::{Need, Needs, Questions, asked_by};

mod events;
mod outline;
mod questions;

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
    /// Questions that the task waits for an answer to.
    pub asks: Option<Questions>,
}

/// Reason why an answer that hands out a continuation cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the part of it by which the call goes on is not strict JSON: {0}")]
    NotJson(#[from] JsonError),
    #[error("one of its keys differs from `{0}` by case only")]
    Disguised(&'static str),
    #[error("its key `{0}` occurs twice")]
    Twice(&'static str),
    #[error("its task has no id that can be used")]
    TaskId,
    #[error("the part of it by which the call goes on is larger than {0} bytes")]
    TooLarge(usize),
}

/// Answer by which a call goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Task(Task),
    Asks(Questions),
}

impl Answer {
    /// Returns what the answer asks of the client.
    pub fn questions(&self) -> Option<&Questions> {
        match self {
            Self::Task(task) => task.asks.as_ref(),
            Self::Asks(questions) => Some(questions),
        }
    }
}

/// Reads the outline of a message or of a batch.
fn answers(outline: &[u8]) -> Result<Vec<Answer>, Unreadable> {
    let doc = Doc::parse(outline)?;
    let mut found = Vec::new();
    match doc.root() {
        batch if batch.kind() == Kind::Array => {
            batch.items().try_for_each(|message| answer(message, &mut found))?;
        }
        message => answer(message, &mut found)?,
    }
    Ok(found)
}

fn answer(message: Value<'_>, found: &mut Vec<Answer>) -> Result<(), Unreadable> {
    if let Some(result) = message.get("result") {
        let kind = text(result.get("resultType"));
        if kind.as_deref() == Some("input_required") {
            found.push(Answer::Asks(questions(result)?));
        } else {
            found.extend(task(result, kind.as_deref())?.map(Answer::Task));
        }
    }
    found.extend(asked_by(message)?.map(Answer::Asks));
    Ok(())
}

fn text(value: Option<Value<'_>>) -> Option<String> {
    value.and_then(|value| value.as_str().map(Cow::into_owned))
}

fn questions(result: Value<'_>) -> Result<Questions, Unreadable> {
    let state = text(result.get("requestState"));
    let mut asked = Questions { state, ..Questions::default() };
    if let Some(inputs) = result.get("inputRequests") {
        asked.inputs(inputs)?;
    }
    Ok(asked)
}

fn task(result: Value<'_>, kind: Option<&str>) -> Result<Option<Task>, Unreadable> {
    let nested = result.get("task").filter(|task| task.kind() == Kind::Object);
    let (of, begins) = match nested {
        Some(task) => (task, true),
        None => (result, kind == Some("task")),
    };
    let Some(id) = of.get("taskId") else { return Ok(None) };
    let id = text(Some(id)).filter(|id| !id.is_empty() && id.len() <= MAX_TASK_ID_BYTES);
    let number = |key| of.get(key).and_then(|value| value.as_number()?.parse::<u64>().ok());
    Ok(Some(Task {
        id: id.ok_or(Unreadable::TaskId)?,
        status: text(of.get("status")).as_deref().and_then(TaskStatus::parse),
        ttl_ms: number("ttlMs").or_else(|| number("ttl")),
        begins,
        asks: of.get("inputRequests").map(|_asked| questions(of)).transpose()?,
    }))
}

#[cfg(test)]
mod tests;
