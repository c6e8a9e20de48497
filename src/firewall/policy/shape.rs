//! A constraint's shape in the policy file's JSON Schema.

use schemars::JsonSchema;

use super::regexes::REGEX_TEXT_BYTES_MAX;

/// Condition on one argument of a tool call. At most one of `regex`, `path_under`, `host_in`,
/// `domain_in`, `id_in`, their `not_` forms and `from_intent`.
#[derive(JsonSchema)]
#[schemars(rename = "Constraint", deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
pub(super) struct ConstraintShape {
    /// Dotted path into `arguments`; `recipients[]` and `files[].path` enter lists, of which an allow
    /// policy needs every item, a deny or escalate policy any. `@input.<key>.content.<path>` leads into
    /// what the client answered to a question of the server.
    #[schemars(regex(pattern = r"^[^.\[\]*]+(\[\])?(\.[^.\[\]*]+(\[\])?)*$"))]
    key: String,
    /// Inclusive and exact.
    min_value: Option<f64>,
    /// Inclusive and exact.
    max_value: Option<f64>,
    /// One of these, compared by value.
    #[schemars(length(min = 1))]
    allowed_values: Option<Vec<Scalar>>,
    /// Most characters of a string.
    max_length: Option<u32>,
    /// Fewest items of a list; 1 unless given.
    min_items: Option<u32>,
    /// Most items of a list.
    max_items: Option<u32>,
    /// Must match the whole value.
    #[schemars(length(max = REGEX_TEXT_BYTES_MAX), extend("format" = "regex"))]
    regex: Option<String>,
    /// A path that lies in one of these folders, however it is written.
    path_under: Option<OneOrMore>,
    not_path_under: Option<OneOrMore>,
    /// A URL for one of these hosts; `*.corp.com` is what lies below `corp.com`.
    host_in: Option<OneOrMore>,
    not_host_in: Option<OneOrMore>,
    /// Schemes of the URL; `http` and `https` unless given.
    schemes: Option<OneOrMore>,
    /// Ports of the URL; the scheme's own unless given.
    #[schemars(length(min = 1))]
    ports: Option<Vec<u16>>,
    /// One mailbox of one of these domains; `*.corp.com` is what lies below `corp.com`.
    domain_in: Option<OneOrMore>,
    not_domain_in: Option<OneOrMore>,
    /// One of these identifiers, exactly.
    id_in: Option<Ids>,
    not_id_in: Option<Ids>,
    /// The session's declared intent must contain it.
    from_intent: Option<bool>,
    /// True if the argument must be present. If false, the constraint says nothing about a call without
    /// it: an allow policy does not need it, and a deny or escalate policy without any constraint that
    /// says something does not match.
    #[schemars(default = "yes")]
    required: bool,
}

fn yes() -> bool {
    true
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum Scalar {
    Text(String),
    Number(f64),
    Boolean(bool),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum OneOrMore {
    One(String),
    More(#[schemars(length(min = 1))] Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum Id {
    Text(String),
    Number(i64),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum Ids {
    One(Id),
    More(#[schemars(length(min = 1))] Vec<Id>),
}
