//! Freezes: stop everything, or one agent, owner, tool or upstream, and let it go on again.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agents::unknown_cursor;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{MAX_PAGE, Parameter};
use super::record::{Change, not_stored, store_failed};
use super::{Admin, check};
use crate::firewall::agent::AgentId;
use crate::firewall::call::{self, Entry};
use crate::firewall::freeze::{Freeze, MAX_FREEZES, Scope};
use crate::firewall::time::Timestamp;
use crate::freezer::Set;

/// Kind of thing that is stopped.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "FreezeScope")]
enum Of {
    All,
    Agent,
    Owner,
    Tool,
    Upstream,
}

/// Body of a freeze.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SetFreeze")]
pub(crate) struct Body {
    scope: Of,
    /// The agent's id, the owner, the tool (`tool`, `upstream:tool`, or the start of names and `*`) or
    /// the upstream's name; left out for `all`.
    value: Option<String>,
    /// Reason that refused agents are given, and that goes on record.
    reason: String,
    /// End of the freeze; without it, it lasts until it is lifted.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    until: Option<Timestamp>,
}

/// One freeze.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Freeze")]
pub(crate) struct View {
    #[schemars(with = "String", extend("format" = "uuid"))]
    freeze_id: Uuid,
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    reason: Box<str>,
    /// Name of the key or person that set it.
    frozen_by: Box<str>,
    #[schemars(with = "String", extend("format" = "date-time"))]
    frozen_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    until: Option<Timestamp>,
}

impl View {
    fn of(freeze: &Freeze) -> Self {
        Self {
            freeze_id: freeze.id,
            scope: freeze.scope.as_str(),
            value: freeze.scope.value(),
            reason: freeze.reason.clone(),
            frozen_by: freeze.by.clone(),
            frozen_at: freeze.frozen_at,
            until: freeze.until,
        }
    }
}

/// A page of freezes.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "FreezeList")]
pub(crate) struct List {
    freezes: Vec<View>,
    /// Cursor of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    next_cursor: Option<Uuid>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LiftedFreeze")]
pub(crate) struct Lifted {
    status: &'static str,
    #[schemars(with = "String", extend("format" = "uuid"))]
    freeze_id: Uuid,
}

pub(super) async fn set(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Body = input.json()?;
    let now = admin.clock.now();
    check::name("reason", &body.reason)?;
    check::future("until", body.until, now.wall)?;
    let scope = body.scope(&admin)?;
    let change = noted("freeze.set", &scope, &body.reason, body.until);
    let announced = admin.announce(&input.actor, change).await?;
    let words = (body.reason.as_str(), &*input.actor.name);
    match admin.freezer.freeze(scope, words, body.until, admin.clock.now()).await {
        Set::New { stored: Err(error), .. } => Err(announced.in_force(not_stored(&error))),
        Set::New { freeze, stored: Ok(()) } | Set::Already(freeze) => {
            announced.done();
            Answer::of(&View::of(&freeze))
        }
        Set::TooMany => {
            let message = format!("{MAX_FREEZES} freezes are in force: lift some, or freeze `all`");
            Err(announced.refused(ApiError::new(Code::TooManyFreezes, message)))
        }
    }
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let limit = input.query.limit()?.min(MAX_PAGE);
    let after = input.query.get(Parameter::Cursor, "a cursor of this list", uuid)?;
    let all = admin.freezer.list(admin.clock.now());
    let from = match after {
        None => 0,
        Some(id) => {
            let at = all.iter().position(|freeze| freeze.id == id).ok_or_else(unknown_cursor)?;
            at.saturating_add(1)
        }
    };
    let rest = all.get(from..).unwrap_or_default();
    let page = rest.get(..limit).unwrap_or(rest);
    let next_cursor = page.last().filter(|_| rest.len() > page.len()).map(|last| last.id);
    Answer::of(&List { freezes: page.iter().map(|one| View::of(one)).collect(), next_cursor })
}

pub(super) async fn lift(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.id.as_deref().and_then(uuid).ok_or_else(|| not_a_uuid("id"))?;
    let change = match admin.freezer.get(id) {
        Some(freeze) => noted("freeze.lift", &freeze.scope, &freeze.reason, freeze.until),
        // Another node of the fleet may hold it.
        None if admin.freshness.has_others() => Change::new("freeze.lift"),
        None => return Err(ApiError::not_found("freeze")),
    };
    let announced = admin.announce(&input.actor, change.with("freeze_id", id)).await?;
    match admin.freezer.lift(id).await {
        Ok(true) => {
            announced.done();
            Answer::of(&Lifted { status: "lifted", freeze_id: id })
        }
        Ok(false) => Err(announced.refused(ApiError::not_found("freeze"))),
        Err(error) => Err(announced.refused(store_failed(&error))),
    }
}

fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn noted(event: &'static str, scope: &Scope, reason: &str, until: Option<Timestamp>) -> Change {
    let mut change = Change::new(event).with("scope", scope.as_str()).with("reason", reason);
    if let Some(value) = scope.value() {
        change = change.with("value", value);
    }
    if let Some(until) = until {
        change = change.with("until", until);
    }
    match scope {
        Scope::Agent(id) => change.agent(*id),
        Scope::All | Scope::Owner(_) | Scope::Tool(_) | Scope::Upstream(_) => change,
    }
}

impl Body {
    /// Reads what is to be stopped; refuses names that stop nothing.
    fn scope(&self, admin: &Admin) -> Result<Scope, ApiError> {
        let value = match (self.scope, &self.value) {
            (Of::All, None) => return Ok(Scope::All),
            (Of::All, Some(_)) => {
                return Err(ApiError::field("value", "does not belong to the scope `all`"));
            }
            (_, None) => return Err(ApiError::field("value", "is needed for this scope")),
            (_, Some(value)) => value,
        };
        check::name("value", value)?;
        let known = &admin.settings.upstreams;
        let is_known = |name: &str| known.iter().any(|known| **known == *name);
        match self.scope {
            Of::All => Ok(Scope::All),
            Of::Agent => {
                let id = AgentId::parse(value).ok_or_else(|| not_a_uuid("value"))?;
                admin.agent(id).map_err(|error| error.of_field("value"))?;
                Ok(Scope::Agent(id))
            }
            Of::Owner => Ok(Scope::Owner(value.as_str().into())),
            Of::Tool => match Entry::of(value).upstream {
                Some(name) if !is_known(name) => {
                    let problem = call::unknown_upstream(value, known);
                    Err(ApiError::field("value", format!("stops nothing: {problem}")))
                }
                Some(_) | None => Ok(Scope::Tool(value.as_str().into())),
            },
            Of::Upstream if is_known(value) => Ok(Scope::Upstream(value.as_str().into())),
            Of::Upstream => {
                let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
                let problem = match names.as_slice() {
                    [] => "names no upstream: the only one has no name, so freeze `all`".to_owned(),
                    names => format!("names no upstream; there are {}", names.join(", ")),
                };
                Err(ApiError::field("value", problem))
            }
        }
    }
}
