//! Every endpoint, once: the router and the OpenAPI document are both made from this table.

use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::access::{
    ADMINISTER, APPROVE, Access, Actor, OPERATE, SERVE, SESSIONS, TakesAway, UNFREEZE, VIEW,
    VIEW_SESSIONS,
};
use super::error::{ApiError, Code};
use super::query::Parameters;
use super::{
    Admin, agents, approvals, audit, backup, body, explain, freeze, policy, records, sessions,
    system, tokens,
};
use crate::audit::receipt::Receipt;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;

/// One endpoint.
pub struct Route {
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
    /// Refusals beside those that every endpoint shares.
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
pub fn verb(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
    }
}

/// A query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    Limit,
    Cursor,
    AgentId,
    Status,
    RequestId,
    SessionId,
    Tool,
    Code,
    Since,
    Until,
    /// A cursor into the audit log.
    RecordCursor,
}

impl Parameter {
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Cursor | Self::RecordCursor => "cursor",
            Self::AgentId => "agent_id",
            Self::Status => "status",
            Self::RequestId => "request_id",
            Self::SessionId => "session_id",
            Self::Tool => "tool",
            Self::Code => "code",
            Self::Since => "since",
            Self::Until => "until",
        }
    }
}

/// Description of a request body.
#[derive(Clone, Copy)]
pub struct Body {
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// True if the body may be left out.
    pub optional: bool,
}

/// Description of an answer.
pub enum Describe {
    Json(fn(&mut SchemaGenerator) -> Schema),
    Text,
    /// A file of bytes.
    File,
}

type Handler =
    fn(Arc<Admin>, Input) -> Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + Send>>;

/// Answer of a handler.
pub enum Answer {
    Json(Value),
    Whole(Box<Response>),
}

impl Answer {
    pub fn of<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        serde_json::to_value(value)
            .map(Self::Json)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
    }

    /// Answers 200 where the route's own status says that something new was made.
    pub fn replaced<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        match Self::of(value)? {
            Self::Json(value) => Ok(Self::Whole(Box::new(Json(value).into_response()))),
            whole @ Self::Whole(_) => Ok(whole),
        }
    }
}

/// Input of a handler.
pub struct Input {
    /// Caller of the endpoint.
    pub actor: Actor,
    pub id: Option<String>,
    pub query: Parameters,
    pub body: Bytes,
}

impl Input {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::parse(&self.body)
    }

    pub fn agent_id(&self) -> Result<AgentId, ApiError> {
        self.id.as_deref().and_then(AgentId::parse).ok_or_else(|| not_a_uuid("id"))
    }

    pub fn session_id(&self) -> Result<SessionId, ApiError> {
        self.id.as_deref().and_then(SessionId::parse).ok_or_else(|| not_a_uuid("id"))
    }
}

pub fn not_a_uuid(field: &str) -> ApiError {
    ApiError::field(field, "must be a UUID of 36 characters")
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn body<T: JsonSchema>() -> Body {
    Body { schema: schema::<T>, optional: false }
}

const fn json<T: JsonSchema>() -> Describe {
    Describe::Json(schema::<T>)
}

macro_rules! handler {
    ($handler:path) => {
        |admin, input| Box::pin($handler(admin, input))
    };
}

const NONE: &[Parameter] = &[];
const PAGED: &[Parameter] = &[Parameter::Limit, Parameter::Cursor];
const SESSION_LIST: &[Parameter] =
    &[Parameter::AgentId, Parameter::Status, Parameter::Limit, Parameter::Cursor];
const RECORD_LIST: &[Parameter] = &[
    Parameter::RequestId,
    Parameter::SessionId,
    Parameter::AgentId,
    Parameter::Tool,
    Parameter::Code,
    Parameter::Since,
    Parameter::Until,
    Parameter::Limit,
    Parameter::RecordCursor,
];
const CHANGE: &[Code] = &[Code::NotFound, Code::AuditUnavailable, Code::StoreUnavailable];

#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    Route { method: Method::Post, path: "/agents", access: SERVE,
        takes_away: TakesAway::Never,
        summary: "Register an agent",
        query: NONE, body: Some(body::<agents::Register>()),
        status: StatusCode::CREATED, answer: json::<agents::Registered>(),
        errors: CHANGE, handler: handler!(agents::register) },
    Route { method: Method::Get, path: "/agents", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "List agents in the order of their registration",
        query: PAGED, body: None,
        status: StatusCode::OK, answer: json::<agents::AgentList>(),
        errors: &[], handler: handler!(agents::list) },
    Route { method: Method::Get, path: "/agents/{id}", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Show an agent",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<agents::StandingView>(),
        errors: &[Code::NotFound], handler: handler!(agents::show) },
    Route { method: Method::Delete, path: "/agents/{id}", access: OPERATE,
        takes_away: TakesAway::Always,
        summary: "Deactivate an agent and every delegate below it, and close their sessions",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<agents::Deactivated>(),
        errors: CHANGE, handler: handler!(agents::deactivate) },
    Route { method: Method::Put, path: "/agents/{id}/trust", access: OPERATE,
        takes_away: TakesAway::Sometimes,
        summary: "Set an agent's trust level; the only way up again after a demotion",
        query: NONE, body: Some(body::<agents::SetTrust>()),
        status: StatusCode::OK, answer: json::<agents::TrustView>(),
        errors: CHANGE, handler: handler!(agents::set_trust) },
    Route { method: Method::Post, path: "/agents/{id}/delegate", access: OPERATE,
        takes_away: TakesAway::Never,
        summary: "Let another agent act for this one, within scopes that this one has itself; a delegation \
            with the same scopes is put in the place of the one there is (200, the same id)",
        query: NONE, body: Some(body::<agents::Delegate>()),
        status: StatusCode::CREATED, answer: json::<agents::Delegated>(),
        errors: &[Code::ScopeNarrowingViolation, Code::DelegationCycle, Code::AgentInactive,
            Code::NotFound, Code::AuditUnavailable, Code::StoreUnavailable],
        handler: handler!(agents::delegate) },
    Route { method: Method::Get, path: "/agents/{id}/delegations", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "List what was delegated to an agent and by it",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<agents::Delegations>(),
        errors: &[Code::NotFound], handler: handler!(agents::delegations) },
    Route { method: Method::Delete, path: "/delegations/{id}", access: OPERATE,
        takes_away: TakesAway::Always,
        summary: "End a delegation, and close the sessions that were opened under it",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<agents::Ended>(),
        errors: CHANGE, handler: handler!(agents::undelegate) },
    Route { method: Method::Post, path: "/agents/{id}/token", access: SERVE,
        takes_away: TakesAway::Never,
        summary: "Issue a token for an agent",
        query: NONE, body: Some(Body { schema: schema::<tokens::Issue>, optional: true }),
        status: StatusCode::OK, answer: json::<tokens::Issued>(),
        errors: &[Code::NotFound, Code::AgentInactive, Code::AuditUnavailable],
        handler: handler!(tokens::issue) },
    Route { method: Method::Post, path: "/agents/tokens", access: OPERATE,
        takes_away: TakesAway::Never,
        summary: "Issue a token for each agent that may act, a page at a time",
        query: PAGED, body: Some(Body { schema: schema::<tokens::Issue>, optional: true }),
        status: StatusCode::OK, answer: json::<tokens::Reissued>(),
        errors: &[Code::AuditUnavailable],
        handler: handler!(tokens::reissue) },
    Route { method: Method::Delete, path: "/tokens/{jti}", access: OPERATE,
        takes_away: TakesAway::Always,
        summary: "Revoke a token by its `jti`, at once",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<tokens::Revoked>(),
        errors: &[Code::TooManyRevoked, Code::AuditUnavailable, Code::StoreUnavailable],
        handler: handler!(tokens::revoke) },
    Route { method: Method::Post, path: "/sessions", access: SESSIONS,
        takes_away: TakesAway::Never,
        summary: "Open a task session for an agent",
        query: NONE, body: Some(body::<sessions::Open>()),
        status: StatusCode::CREATED, answer: json::<sessions::Opened>(),
        errors: &[Code::NotFound, Code::AgentInactive, Code::TooManySessions,
            Code::AuditUnavailable, Code::StoreUnavailable],
        handler: handler!(sessions::open) },
    Route { method: Method::Get, path: "/sessions", access: VIEW_SESSIONS,
        takes_away: TakesAway::Never,
        summary: "List sessions in the order of their opening",
        query: SESSION_LIST, body: None,
        status: StatusCode::OK, answer: json::<sessions::SessionList>(),
        errors: &[], handler: handler!(sessions::list) },
    Route { method: Method::Get, path: "/sessions/{id}", access: VIEW_SESSIONS,
        takes_away: TakesAway::Never,
        summary: "Show a session and what it has used",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<sessions::SessionView>(),
        errors: &[Code::NotFound], handler: handler!(sessions::show) },
    Route { method: Method::Delete, path: "/sessions/{id}", access: SERVE,
        takes_away: TakesAway::Always,
        summary: "Close a session",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<sessions::Closed>(),
        errors: CHANGE, handler: handler!(sessions::close) },
    Route { method: Method::Post, path: "/policy/explain", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Say how a hypothetical call would be decided, and why",
        query: NONE, body: Some(body::<explain::Explain>()),
        status: StatusCode::OK, answer: json::<explain::Explanation>(),
        errors: &[Code::NotFound], handler: handler!(explain::explain) },
    Route { method: Method::Post, path: "/policy/validate", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Check a policy file without using it",
        query: NONE, body: Some(body::<policy::Validate>()),
        status: StatusCode::OK, answer: json::<policy::Validated>(),
        errors: &[], handler: handler!(policy::validate) },
    Route { method: Method::Post, path: "/policy/reload", access: OPERATE,
        takes_away: TakesAway::Never,
        summary: "Read the policy files again; a mistake in them keeps the old set",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<policy::Reloaded>(),
        errors: &[Code::PolicyInvalid, Code::AuditUnavailable], handler: handler!(policy::reload) },
    Route { method: Method::Get, path: "/policy/schema", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "The JSON Schema of a policy file",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<Value>(),
        errors: &[], handler: handler!(policy::schema) },
    Route { method: Method::Get, path: "/audit/head", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "How far the audit log has got",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<audit::AuditHead>(),
        errors: &[], handler: handler!(audit::head) },
    Route { method: Method::Get, path: "/audit/checkpoint", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "The last signed checkpoint of the audit log, a C2SP signed note",
        query: NONE, body: None,
        status: StatusCode::OK, answer: Describe::Text,
        errors: &[Code::NotFound], handler: handler!(audit::checkpoint) },
    Route { method: Method::Get, path: "/audit/records", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Find records of the audit log, newest first",
        query: RECORD_LIST, body: None,
        status: StatusCode::OK, answer: json::<records::AuditRecords>(),
        errors: &[Code::NotSupported, Code::TooManySearches], handler: handler!(records::list) },
    Route { method: Method::Get, path: "/audit/proof/{request_id}", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Prove that a request's record is in the log, against a signed checkpoint",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<Receipt>(),
        errors: &[Code::NotFound, Code::NotSupported, Code::NotYetCheckpointed,
            Code::TooManySearches, Code::SearchUnfinished],
        handler: handler!(records::proof) },
    Route { method: Method::Post, path: "/audit/reopen", access: OPERATE,
        takes_away: TakesAway::Never,
        summary: "Open the audit log anew if its file was moved away",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<audit::AuditHead>(),
        errors: &[Code::AuditUnavailable], handler: handler!(audit::reopen) },
    Route { method: Method::Get, path: "/approvals", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "List calls that a person has to decide, in the order of their requests",
        query: SESSION_LIST, body: None,
        status: StatusCode::OK, answer: json::<approvals::ApprovalList>(),
        errors: &[], handler: handler!(approvals::list) },
    Route { method: Method::Get, path: "/approvals/{id}", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "Show an approval",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<approvals::ApprovalView>(),
        errors: &[Code::NotFound], handler: handler!(approvals::show) },
    Route { method: Method::Post, path: "/approvals/{id}", access: APPROVE,
        takes_away: TakesAway::Never,
        summary: "Approve or deny a call",
        query: NONE, body: Some(body::<approvals::Decide>()),
        status: StatusCode::OK, answer: json::<approvals::ApprovalView>(),
        errors: &[Code::NotFound, Code::AlreadyDecided, Code::AuditUnavailable],
        handler: handler!(approvals::decide) },
    Route { method: Method::Post, path: "/freeze", access: OPERATE,
        takes_away: TakesAway::AtOnce,
        summary: "Stop everything, or one agent, owner, tool or upstream",
        query: NONE, body: Some(body::<freeze::Body>()),
        status: StatusCode::CREATED, answer: json::<freeze::View>(),
        errors: &[Code::NotFound, Code::TooManyFreezes, Code::AuditUnavailable,
            Code::StoreUnavailable],
        handler: handler!(freeze::set) },
    Route { method: Method::Get, path: "/freeze", access: VIEW,
        takes_away: TakesAway::Never,
        summary: "List the freezes that are in force, oldest first",
        query: PAGED, body: None,
        status: StatusCode::OK, answer: json::<freeze::List>(),
        errors: &[], handler: handler!(freeze::list) },
    Route { method: Method::Delete, path: "/freeze/{id}", access: UNFREEZE,
        takes_away: TakesAway::Never,
        summary: "Lift a freeze",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<freeze::Lifted>(),
        errors: CHANGE, handler: handler!(freeze::lift) },
    Route { method: Method::Post, path: "/storage/backup", access: ADMINISTER,
        takes_away: TakesAway::Never,
        summary: "A consistent copy of the SQLite file, while it is in use",
        query: NONE, body: None,
        status: StatusCode::OK, answer: Describe::File,
        errors: &[Code::NotSupported, Code::AuditUnavailable, Code::StoreUnavailable],
        handler: handler!(backup::backup) },
    Route { method: Method::Get, path: "/health", access: Access::Open,
        takes_away: TakesAway::Never,
        summary: "Whether the process runs",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<system::Health>(),
        errors: &[], handler: handler!(system::health) },
    Route { method: Method::Get, path: "/ready", access: Access::Open,
        takes_away: TakesAway::Never,
        summary: "Whether calls can be served: the audit log can be written",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<system::Ready>(),
        errors: &[Code::AuditUnavailable, Code::StoreUnavailable, Code::Draining], handler: handler!(system::ready) },
    Route { method: Method::Get, path: "/metrics", access: Access::Metrics,
        takes_away: TakesAway::Never,
        summary: "Metrics in the Prometheus text format",
        query: NONE, body: None,
        status: StatusCode::OK, answer: Describe::Text,
        errors: &[Code::NotFound], handler: handler!(system::metrics) },
    Route { method: Method::Get, path: "/openapi.json", access: Access::Open,
        takes_away: TakesAway::Never,
        summary: "This description",
        query: NONE, body: None,
        status: StatusCode::OK, answer: json::<Value>(),
        errors: &[], handler: handler!(system::openapi) },
];
