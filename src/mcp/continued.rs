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
    /// Questions that the task waits for an answer to.
    pub asks: Option<Questions>,
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

/// Questions of a server that the client answers in the next round of its call (SEP-2322).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// State that the next round brings.
    pub state: Option<String>,
    pub needs: Vec<Need>,
    /// Addresses to which the questions send people; none for one that is no text.
    pub urls: Vec<Option<String>>,
}

/// Ability of a client that a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Form,
    Url,
    Sampling,
    Roots,
    /// None that a client could have.
    Other,
}

/// Reads the outline of an answer; none if its call does not go on.
fn answer(outline: &[u8]) -> Result<Option<Answer>, Unreadable> {
    let doc = Doc::parse(outline)?;
    let Some(result) = doc.root().get("result") else { return Ok(None) };
    let kind = text(result.get("resultType"));
    if kind.as_deref() == Some("input_required") {
        return Ok(Some(Answer::Asks(questions(result))));
    }
    Ok(task(result, kind.as_deref())?.map(Answer::Task))
}

fn text(value: Option<Value<'_>>) -> Option<String> {
    value.and_then(|value| value.as_str().map(Cow::into_owned))
}

fn questions(result: Value<'_>) -> Questions {
    let (mut needs, mut urls) = (Vec::new(), Vec::new());
    let asked = result.get("inputRequests").into_iter().flat_map(|asked| asked.entries());
    for question in asked.map(|entry| entry.value) {
        let need = need(question);
        if need == Need::Url {
            urls.push(question.get("params").and_then(|params| text(params.get("url"))));
        }
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    Questions { state: text(result.get("requestState")), needs, urls }
}

fn need(question: Value<'_>) -> Need {
    match text(question.get("method")).as_deref() {
        Some("elicitation/create") => {
            let mode = question.get("params").and_then(|params| params.get("mode"));
            match mode.map(|mode| text(Some(mode))) {
                None => Need::Form,
                Some(Some(mode)) if mode == "form" => Need::Form,
                Some(Some(mode)) if mode == "url" => Need::Url,
                Some(_) => Need::Other,
            }
        }
        Some("sampling/createMessage") => Need::Sampling,
        Some("roots/list") => Need::Roots,
        Some(_) | None => Need::Other,
    }
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
        asks: of.get("inputRequests").map(|_asked| questions(of)),
    }))
}

#[cfg(test)]
mod tests;
