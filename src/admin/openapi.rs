//! The OpenAPI 3.1 description of the admin API, made from the table of routes and their types.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::access::Access;
use super::check::MAX_NAME_BYTES;
use super::endpoint::{self, Describe, Method, Route};
use super::error::{Code, ErrorBody};
use super::query::{MAX_PAGE, Parameter};
use super::routes::ROUTES;
use crate::config::Roles;

/// Refusals that any endpoint behind the key can answer with.
const SHARED: [Code; 6] = [
    Code::Unauthorized,
    Code::Forbidden,
    Code::HostDenied,
    Code::RateLimited,
    Code::IdentityUnavailable,
    Code::Internal,
];
/// Refusals that any endpoint with a body can answer with.
const OF_BODIES: [Code; 5] = [
    Code::MalformedRequest,
    Code::InvalidField,
    Code::RequestTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
];

/// The whole document.
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let error = generator.subschema_for::<ErrorBody>();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(verb(route.method), operation(route, &error, &mut generator));
        }
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Arbiter admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Agents, task sessions, policies and the audit log. \
                Requests are limited per minute for each key.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:3000" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

/// The document, made once.
pub(super) fn kept() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(document)
}

fn verb(method: Method) -> String {
    endpoint::verb(method).to_ascii_lowercase()
}

fn operation(route: &Route, error: &schemars::Schema, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = path_parameter(route.path).into_iter().collect();
    parameters.extend(route.query.iter().map(|parameter| query_parameter(*parameter)));
    let answer = match &route.answer {
        Describe::Json(schema) => {
            json!({ "application/json": { "schema": schema(generator) } })
        }
        Describe::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Describe::File => json!({ "application/vnd.sqlite3": { "schema": {} } }),
    };
    let mut responses = Map::new();
    responses.insert(
        route.status.as_u16().to_string(),
        json!({ "description": "Done", "content": answer }),
    );
    for (status, codes) in refusals(route) {
        let content = json!({ "application/json": { "schema": error } });
        let response = json!({ "description": codes.join(", "), "content": content });
        responses.insert(status.to_string(), response);
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
        "security": match route.access {
            Access::Roles(_) => json!([{ "key": [] }, { "bearer": [] }]),
            Access::Metrics => json!([{}, { "key": [] }, { "bearer": [] }]),
            Access::Open => json!([]),
        },
    });
    let roles: Vec<_> = route.access.roles(true).into_iter().flat_map(Roles::names).collect();
    if let (false, Some(operation)) = (roles.is_empty(), operation.as_object_mut()) {
        operation.insert("x-arbiter-roles".to_owned(), json!(roles));
    }
    if let (Some(body), Some(operation)) = (route.body, operation.as_object_mut()) {
        let content = json!({ "application/json": { "schema": (body.schema)(generator) } });
        let body = json!({ "required": !body.optional, "content": content });
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

/// Status to the names of the codes that it can carry here.
fn refusals(route: &Route) -> BTreeMap<u16, Vec<String>> {
    let mut all: Vec<Code> = route.errors.to_vec();
    if route.access != Access::Open {
        all.extend(SHARED);
    }
    if route.body.is_some() {
        all.extend(OF_BODIES);
    } else if !route.query.is_empty() || route.path.contains('{') {
        all.push(Code::InvalidField);
    }
    if super::draining::creates(route) {
        all.push(Code::Draining);
    }
    let mut refusals: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in all {
        refusals.entry(code.status().as_u16()).or_default().push(format!("`{code:?}`"));
    }
    refusals
}

/// `POST /agents/{id}/token` becomes `post_agents_id_token`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    let mut id = verb(route.method);
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    id
}

fn path_parameter(path: &str) -> Option<Value> {
    let (_, rest) = path.split_once('{')?;
    let (name, _) = rest.split_once('}')?;
    // A `jti` may be another issuer's.
    let schema = match name {
        "id" | "request_id" => json!({ "type": "string", "format": "uuid" }),
        _ => json!({ "type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES }),
    };
    Some(json!({ "name": name, "in": "path", "required": true, "schema": schema }))
}

fn query_parameter(parameter: Parameter) -> Value {
    let (schema, description) = match parameter {
        Parameter::Limit => (
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE }),
            "how many to list; 100 by default",
        ),
        Parameter::Cursor => {
            (json!({ "type": "string", "format": "uuid" }), "`next_cursor` of the answer before")
        }
        Parameter::AgentId => {
            (json!({ "type": "string", "format": "uuid" }), "only those of this agent")
        }
        Parameter::RequestId => {
            (json!({ "type": "string", "format": "uuid" }), "only the record of this request")
        }
        Parameter::SessionId => {
            (json!({ "type": "string", "format": "uuid" }), "only within this session")
        }
        Parameter::Tool => (json!({ "type": "string" }), "only calls of this tool"),
        Parameter::Code => (json!({ "type": "string" }), "only refusals with this `denial_code`"),
        Parameter::Since => {
            (json!({ "type": "string", "format": "date-time" }), "only from this time on")
        }
        Parameter::Until => {
            (json!({ "type": "string", "format": "date-time" }), "only before this time")
        }
        Parameter::RecordCursor => {
            (json!({ "type": "string" }), "`next_cursor` of the answer before")
        }
        Parameter::Status => (
            json!({ "type": "string", "enum": ["active", "expired", "closed"] }),
            "only sessions of this status",
        ),
    };
    json!({ "name": parameter.name(), "in": "query", "description": description, "schema": schema })
}
