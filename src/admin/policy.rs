//! Policies: checking a file, reading the files again, and the schema.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::Admin;
use super::endpoint::{Answer, Input};
use super::error::{ApiError, Code, Mistake};
use crate::clock::Clock;
use crate::firewall::policy::{Limits, PolicyError, PolicySet, Source, json_schema};
use crate::reload::{NotReloaded, Trigger};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ValidatePolicy")]
pub(crate) struct Validate {
    /// The text of a policy file.
    toml: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyValidation")]
pub(crate) struct Validated {
    valid: bool,
    policies_count: usize,
    errors: Vec<Mistake>,
    /// Oddities that are no mistakes, such as a tool of an upstream that does not exist.
    warnings: Vec<Mistake>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyReload")]
pub(crate) struct Reloaded {
    policies_count: usize,
    policy_version: String,
}

/// Texts that are validated at one time: compiling regexes is work.
static VALIDATING: Semaphore = Semaphore::const_new(1);

/// Most bytes and time that the regexes of one text may take.
const VALIDATE_REGEX_BYTES: usize = 64 << 20;
const VALIDATE_TIME_US: u64 = 2_000_000;

pub(super) async fn validate(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Validate = input.json()?;
    let turn = VALIDATING.acquire().await;
    let work = tokio::task::spawn_blocking(move || {
        // Held until the work is done, even if the client has gone.
        let _turn = turn;
        validated(&body.toml, &admin.settings.upstreams, &admin.clock)
    });
    let validated = work.await.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    Answer::of(&validated)
}

fn validated(text: &str, upstreams: &[Box<str>], clock: &Clock) -> Validated {
    let started = clock.mono();
    let is_late = || clock.mono().since(started) > VALIDATE_TIME_US;
    let limits =
        Limits { upstreams: Some(upstreams), regex_bytes: VALIDATE_REGEX_BYTES, is_late: &is_late };
    let parsed = PolicySet::parse_within(&[Source { name: "toml", text }], &limits);
    let mistakes = |found: &[PolicyError]| found.iter().cloned().map(Mistake::from).collect();
    match parsed {
        Ok(set) => Validated {
            valid: true,
            policies_count: set.len(),
            errors: Vec::new(),
            warnings: mistakes(set.warnings()),
        },
        Err(errors) => Validated {
            valid: false,
            policies_count: 0,
            errors: mistakes(&errors),
            warnings: Vec::new(),
        },
    }
}

pub(super) async fn reload(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let role = input.actor.role_text();
    let reloaded = admin.reloader.policies(Trigger::Api, input.actor.as_author(&role)).await;
    let rules = reloaded.map_err(|error| match error {
        NotReloaded::Mistakes(error) => {
            let errors = error.mistakes().into_iter().map(Mistake::from).collect();
            let message = "the policy files have mistakes; the old set stays in force";
            ApiError::new(Code::PolicyInvalid, message).with_mistakes(errors)
        }
        NotReloaded::Unrecorded(error) => {
            let message = format!("{error}, so the old set stays in force; try again when it is");
            ApiError::new(Code::AuditUnavailable, message).retry_after(1)
        }
        NotReloaded::BrokenOff => ApiError::new(Code::Internal, error.to_string()),
    })?;
    Answer::of(&Reloaded {
        policies_count: rules.policies.len(),
        policy_version: rules.policies.version().to_owned(),
    })
}

pub(super) async fn schema(_admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    Ok(Answer::Json(json_schema()))
}
