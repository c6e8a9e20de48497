//! Policies: checking a file, reading the files again, and the schema.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::error::{ApiError, Code, Mistake};
use super::record::Change;
use super::routes::{Answer, Input};
use crate::firewall::policy::{PolicySet, Source, json_schema};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ValidatePolicy")]
pub struct Validate {
    /// The text of a policy file.
    toml: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyValidation")]
pub struct Validated {
    valid: bool,
    policies_count: usize,
    errors: Vec<Mistake>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyReload")]
pub struct Reloaded {
    policies_count: usize,
    policy_version: String,
}

pub(super) async fn validate(_admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Validate = input.json()?;
    let parsed = PolicySet::parse(&[Source { name: "toml", text: &body.toml }]);
    let validated = match parsed {
        Ok(set) => Validated { valid: true, policies_count: set.len(), errors: Vec::new() },
        Err(errors) => Validated {
            valid: false,
            policies_count: 0,
            errors: errors.into_iter().map(Mistake::from).collect(),
        },
    };
    Answer::of(&validated)
}

pub(super) async fn reload(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let book = Arc::clone(&admin.rulebook);
    let read = tokio::task::spawn_blocking(move || book.read()).await;
    let draft = match read {
        Ok(Ok(draft)) => draft,
        Ok(Err(error)) => {
            let errors = error.mistakes().into_iter().map(Mistake::from).collect();
            let message = "the policy files have mistakes; the old set stays in force";
            return Err(ApiError::new(Code::PolicyInvalid, message).with_mistakes(errors));
        }
        Err(failed) => return Err(ApiError::new(Code::Internal, failed.to_string())),
    };
    let change = Change::new("policy.reload")
        .with("from", admin.rulebook.rules().policies.version())
        .with("to", draft.policies().version())
        .count("policies", u64::try_from(draft.policies().len()).unwrap_or(u64::MAX));
    let announced = admin.announce(&input.actor, change).await?;
    let rules = admin.rulebook.put(draft);
    announced.done();
    admin.metrics.policy_version(rules.policies.version());
    admin.metrics.name_tools(rules.policies.named_tools());
    Answer::of(&Reloaded {
        policies_count: rules.policies.len(),
        policy_version: rules.policies.version().to_owned(),
    })
}

pub(super) async fn schema(_admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    Ok(Answer::Json(json_schema()))
}
