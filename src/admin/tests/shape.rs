//! The OpenAPI document against the router and against itself.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde::de::Visitor;

use super::*;
use crate::admin::SessionTerms;
use crate::admin::access::Access;
use crate::admin::endpoint::{self, Method};
use crate::admin::routes::ROUTES;

fn verb(method: Method) -> String {
    endpoint::verb(method).to_lowercase()
}

#[tokio::test]
async fn the_document_lists_exactly_the_routes() {
    let bench = Bench::new().await;
    let document = bench.get("/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let mut listed = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for verb in operations.as_object().unwrap().keys() {
            assert!(listed.insert((verb.clone(), path.clone())));
        }
    }
    let served: BTreeSet<_> = ROUTES.iter().map(|r| (verb(r.method), r.path.to_owned())).collect();
    assert_eq!(served.len(), ROUTES.len(), "a route stands in the table twice");
    assert_eq!(listed, served);
}

#[tokio::test]
async fn every_documented_route_is_there() {
    let documented = "post /agents, get /agents, get /agents/{id}, delete /agents/{id}, \
        put /agents/{id}/trust, post /agents/{id}/delegate, get /agents/{id}/delegations, delete /delegations/{id}, \
        post /agents/{id}/token, post /agents/tokens, delete /tokens/{jti}, post /sessions, get /sessions, \
        get /sessions/{id}, delete /sessions/{id}, post /policy/explain, post /policy/validate, \
        post /policy/reload, get /policy/schema, get /audit/head, get /audit/checkpoint, get /audit/records, get /audit/proof/{request_id}, post /audit/reopen, get /health, get /ready, \
        get /metrics, get /openapi.json, get /approvals, get /approvals/{id}, post /approvals/{id}, post /freeze, get /freeze, delete /freeze/{id}, post /storage/backup";
    let wanted: BTreeSet<_> = documented.split(", ").map(str::to_owned).collect();
    let served: BTreeSet<_> =
        ROUTES.iter().map(|r| format!("{} {}", verb(r.method), r.path)).collect();
    assert_eq!(served, wanted);
}

#[test]
fn every_reference_resolves_and_every_schema_is_used() {
    let document = crate::admin::openapi();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut referred = BTreeSet::new();
    references(&document, &mut referred);
    for reference in &referred {
        let name = reference.strip_prefix("#/components/schemas/").expect(reference);
        assert!(schemas.contains_key(name), "{reference}");
    }
    for name in schemas.keys() {
        assert!(referred.contains(&format!("#/components/schemas/{name}")), "{name}");
        assert!(!name.ends_with(|c: char| c.is_ascii_digit()), "two types are called {name}");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match (key.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        found.insert(reference.clone());
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn operations_are_complete() {
    let document = crate::admin::openapi();
    let mut ids = BTreeSet::new();
    for route in ROUTES {
        let operation = &document["paths"][route.path][verb(route.method)];
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{}", route.path);
        assert!(operation["summary"].is_string());
        let done = &operation["responses"][route.status.as_str()];
        assert!(done["content"].is_object(), "{}", route.path);
        assert_eq!(operation.get("requestBody").is_some(), route.body.is_some());
        let needs_key = operation["security"] == json!([{"key": []}, {"bearer": []}]);
        assert_eq!(needs_key, matches!(route.access, Access::Roles(_)), "{}", route.path);
        assert_eq!(operation["responses"].get("401").is_some(), route.access != Access::Open);
        let in_path = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .count();
        assert_eq!(in_path, route.path.matches('{').count(), "{}", route.path);
    }
}

#[test]
fn every_term_of_a_session_can_be_asked_about() {
    let document = crate::admin::openapi();
    let schemas = &document["components"]["schemas"];
    let asked = &schemas["SessionDescription"]["properties"];
    for term in schemas["OpenSession"]["properties"].as_object().unwrap().keys() {
        // Whose session it is stands beside the terms.
        let is_beside = term == "agent_id";
        assert_eq!(asked.get(term).is_some(), !is_beside, "`POST /policy/explain` and {term}");
    }
}

/// Reads nothing; notes the members that a type would read.
struct MembersOf<'m>(&'m mut &'static [&'static str]);

impl<'de> serde::Deserializer<'de> for MembersOf<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("is no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        members: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = members;
        Err(serde::de::Error::custom("nothing is read"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[test]
fn every_term_that_is_read_is_in_the_document() {
    let mut members: &[&str] = &[];
    SessionTerms::deserialize(MembersOf(&mut members)).unwrap_err();
    assert!(members.len() > 8, "{members:?}");
    let document = crate::admin::openapi();
    let schemas = &document["components"]["schemas"];
    for term in members {
        assert!(
            schemas["OpenSession"]["properties"].get(term).is_some(),
            "`POST /sessions`: {term}"
        );
    }
}

#[test]
fn every_term_of_a_session_is_shown() {
    let document = crate::admin::openapi();
    let schemas = &document["components"]["schemas"];
    let shown = &schemas["Session"]["properties"];
    for term in schemas["OpenSession"]["properties"].as_object().unwrap().keys() {
        let name = if term == "time_limit_secs" { "expires_at" } else { term };
        assert!(shown.get(name).is_some(), "`GET /sessions/{{id}}` and {term}");
    }
}

#[test]
fn limits_stand_in_the_schemas() {
    let document = crate::admin::openapi();
    let schemas = &document["components"]["schemas"];
    let session = &schemas["OpenSession"];
    assert_eq!(session["additionalProperties"], false);
    assert_eq!(schemas["SessionDescription"]["additionalProperties"], false);
    assert_eq!(session["properties"]["agent_id"]["format"], "uuid");
    assert_eq!(schemas["Agent"]["properties"]["created_at"]["format"], "date-time");
    assert_eq!(session["properties"]["declared_intent"]["maxLength"], 1_024);
    assert_eq!(session["properties"]["call_budget"]["minimum"], 1);
    assert_eq!(session["properties"]["authorized_tools"]["maxItems"], 1_024);
    assert_eq!(session["required"], json!(["agent_id", "declared_intent", "authorized_tools"]));
    assert_eq!(schemas["IssueToken"]["properties"]["expiry_seconds"]["maximum"], 86_400);
}
