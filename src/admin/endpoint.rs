//! One endpoint of the admin API: its row in the table of routes, the input of its handler and the answer.

use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::access::{Access, Actor, TakesAway};
use super::error::{ApiError, Code};
use super::query::{Parameter, Parameters};
use super::{Admin, body};
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;

/// One endpoint.
pub(crate) struct Route {
    pub method: Method,
    pub path: &'static str,
    /// Access that an endpoint requires.
    pub access: Access,
    pub takes_away: TakesAway,
    pub summary: &'static str,
    pub query: &'static [Parameter],
    pub body: Option<Body>,
    pub status: StatusCode,
    pub answer: Describe,
    /// Refusals in addition to those that every endpoint shares.
    pub errors: &'static [Code],
    pub handler: Handler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

/// The method's name in a document.
pub(crate) fn verb(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
    }
}

/// Description of a request body.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// True if the body may be left out.
    pub optional: bool,
}

/// Description of an answer.
pub(crate) enum Describe {
    Json(fn(&mut SchemaGenerator) -> Schema),
    Text,
    /// A file of bytes.
    File,
}

/// Work of an endpoint.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    Call(fn(Arc<Admin>, Input) -> Pending),
    /// Answers with the description of all endpoints.
    Description,
}

type Pending = Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + Send>>;

/// Answer of a handler.
pub(crate) enum Answer {
    Json(Value),
    Whole(Box<Response>),
}

impl Answer {
    pub(crate) fn of<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        serde_json::to_value(value)
            .map(Self::Json)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
    }

    /// Answers 200 where the route's own status says that something new was made.
    pub(crate) fn replaced<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        match Self::of(value)? {
            Self::Json(value) => Ok(Self::Whole(Box::new(Json(value).into_response()))),
            whole @ Self::Whole(_) => Ok(whole),
        }
    }
}

/// Input of a handler.
pub(crate) struct Input {
    /// Caller of the endpoint.
    pub actor: Actor,
    pub id: Option<String>,
    pub query: Parameters,
    pub body: Bytes,
}

impl Input {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::parse(&self.body)
    }

    /// Reads a body that other bodies share a part of, as serde's `flatten` has it.
    pub(crate) fn json_with<T: DeserializeOwned, Part: DeserializeOwned>(
        &self,
    ) -> Result<T, ApiError> {
        body::parse_with::<T, Part>(&self.body)
    }

    pub(crate) fn agent_id(&self) -> Result<AgentId, ApiError> {
        self.id.as_deref().and_then(AgentId::parse).ok_or_else(|| not_a_uuid("id"))
    }

    pub(crate) fn session_id(&self) -> Result<SessionId, ApiError> {
        self.id.as_deref().and_then(SessionId::parse).ok_or_else(|| not_a_uuid("id"))
    }
}

pub(crate) fn not_a_uuid(field: &str) -> ApiError {
    ApiError::field(field, "must be a UUID of 36 characters")
}
