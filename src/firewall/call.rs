//! What is asked: tool calls, data calls, protocol messages, with the facts the checks need.

use std::borrow::Cow;

use crate::mcp::json;

/// One member of a message, classed by what it touches (contract 4).
#[derive(Clone, Debug)]
pub struct Call<'d> {
    /// The method as it was written; `None` for a JSON-RPC response.
    pub method: Option<Cow<'d, str>>,
    /// The request's id, absent for notifications; for a response the id it answers, perhaps null.
    pub id: Option<json::Value<'d>>,
    /// Always an object.
    pub params: Option<json::Value<'d>>,
    /// `params._meta`, always an object.
    pub meta: Option<json::Value<'d>>,
    pub kind: CallKind<'d>,
}

impl Call<'_> {
    /// Whether an answer is owed.
    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }

    /// Whether it has a method but no id. A tool call sent like that is a tool call all the same.
    pub fn is_notification(&self) -> bool {
        self.method.is_some() && self.id.is_none()
    }

    /// Whether it answers something the server asked.
    pub fn is_response(&self) -> bool {
        self.method.is_none()
    }
}

#[derive(Clone, Debug)]
pub enum CallKind<'d> {
    Tool { name: Cow<'d, str>, arguments: Option<json::Value<'d>> },
    Data { what: Data, target: Cow<'d, str> },
    Protocol,
}

/// Which list of a policy and a session grants a data call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// By URI: `authorized_resources`, `allowed_resources`.
    Resource,
    /// By name: `authorized_prompts`, `allowed_prompts`.
    Prompt,
    /// By method: `authorized_methods`, `allowed_methods`.
    Method,
}
