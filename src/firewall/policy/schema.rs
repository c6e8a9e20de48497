//! The policy file's JSON Schema, taken from the types that hold a policy.

use schemars::{JsonSchema, schema_for};

use super::model::Policy;

/// A file of policies. Several files form one set.
#[derive(JsonSchema)]
#[schemars(title = "Arbiter policies", deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct PolicyFile {
    #[schemars(default)]
    policies: Vec<Policy>,
}

/// The JSON Schema of a policy file, for editors.
pub fn json_schema() -> serde_json::Value {
    schema_for!(PolicyFile).to_value()
}
