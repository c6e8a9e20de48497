//! Callers of the API, and the roles that each endpoint needs.
//!
//! The table of routes names one of the sets below for each endpoint; the guard compares it with
//! the roles of the caller. A key of role `sessions` is bounded further, by the owners that it
//! serves.

use std::net::IpAddr;
use std::sync::Arc;

use super::error::{ApiError, Code};
use super::limit::Counted;
use crate::audit::By;
use crate::config::{Role, Roles};
use crate::firewall::agent::{Agent, TrustLevel};

/// Access that an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone, without a key.
    Open,
    /// Anyone, unless `metrics.require_auth` asks for a key of one of the roles in [`METRICS`].
    Metrics,
    /// Holders of a key with one of these roles.
    Roles(Roles),
}

const ADMIN_ROLE: Roles = Roles::NONE.and(Role::Admin);
const OPERATE_ROLES: Roles = ADMIN_ROLE.and(Role::Operator);
const VIEW_ROLES: Roles = OPERATE_ROLES.and(Role::Viewer).and(Role::Approver);

/// Reading.
pub(crate) const VIEW: Access = Access::Roles(VIEW_ROLES);
/// Reading sessions: those of its owners for a key of role `sessions`.
pub(crate) const VIEW_SESSIONS: Access = Access::Roles(VIEW_ROLES.and(Role::Sessions));
/// Opening sessions.
pub(crate) const SESSIONS: Access = Access::Roles(ADMIN_ROLE.and(Role::Sessions));
/// Registering agents, giving them tokens, closing sessions.
pub(crate) const SERVE: Access = Access::Roles(OPERATE_ROLES.and(Role::Sessions));
/// Changing trust and delegations, revoking, reloading.
pub(crate) const OPERATE: Access = Access::Roles(OPERATE_ROLES);
/// Lifting a freeze.
pub(crate) const UNFREEZE: Access = Access::Roles(ADMIN_ROLE);
/// Copying the store.
pub(crate) const ADMINISTER: Access = Access::Roles(ADMIN_ROLE);
/// Deciding approvals.
pub(crate) const APPROVE: Access = Access::Roles(ADMIN_ROLE.and(Role::Approver));
/// Reading metrics where that needs a key.
pub(crate) const METRICS: Roles = VIEW_ROLES.and(Role::Metrics);

/// True if an endpoint takes something away, and so may use the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakesAway {
    Never,
    Always,
    /// As its body says: the handler refuses what does not.
    Sometimes,
    /// Stops what must stop at once: no rate holds it up.
    AtOnce,
}

/// Limits of the agents and sessions that a key of role `sessions` may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `None`: everyone's.
    pub owners: Option<Vec<String>>,
    pub max_trust: TrustLevel,
}

/// Name of requests without a key in metrics.
pub(super) const NOBODY: &str = "(none)";
/// Name of all people in metrics: people's own names are no labels.
pub(super) const PEOPLE: &str = "(oidc)";

/// The holder of a key, or a person, behind an admin request.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The key's name, or the person's.
    pub name: Arc<str>,
    /// Name in metrics: the key's, or one word for all people.
    pub label: Arc<str>,
    pub roles: Roles,
    /// Bounds a key that has no other role than `sessions`.
    pub scope: Option<Arc<Scope>>,
    /// The peer's address.
    pub source: IpAddr,
    pub counted: Counted,
    /// Method and path of the endpoint that was asked.
    pub place: Option<(&'static str, &'static str)>,
}

impl Actor {
    /// Nobody in particular, for what anyone may ask.
    pub fn nobody(source: IpAddr) -> Self {
        Self {
            name: Arc::from(""),
            label: Arc::from(NOBODY),
            roles: Roles::NONE,
            scope: None,
            source,
            counted: Counted::Regular,
            place: None,
        }
    }

    /// Refuses unless this actor may act for agents of `owner`.
    pub fn serves(&self, owner: &str) -> Result<(), ApiError> {
        if self.may_serve(owner) {
            return Ok(());
        }
        Err(forbidden("this key does not serve the agent's owner", OPERATE_ROLES))
    }

    pub fn may_serve(&self, owner: &str) -> bool {
        let owners = self.scope.as_ref().and_then(|scope| scope.owners.as_ref());
        owners.is_none_or(|owners| owners.iter().any(|served| served == owner))
    }

    /// Refuses unless this actor may touch an agent, or what belongs to it.
    pub fn serves_agent(&self, agent: Option<&Agent>) -> Result<(), ApiError> {
        match agent {
            Some(agent) => self.serves(&agent.owner),
            // Nothing is known of an agent that is gone, so nobody in particular owned it.
            None if self.scope.as_ref().is_none_or(|scope| scope.owners.is_none()) => Ok(()),
            None => Err(forbidden("this key does not serve the agent's owner", OPERATE_ROLES)),
        }
    }

    /// Refuses unless this actor may register an agent that is trusted so far.
    pub fn may_trust(&self, level: TrustLevel) -> Result<(), ApiError> {
        match &self.scope {
            Some(scope) if level > scope.max_trust => {
                let most = scope.max_trust;
                let problem = format!("this key registers agents up to trust `{most}`");
                Err(forbidden(&problem, OPERATE_ROLES))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what does not take anything away if only the reserve had room for it.
    pub fn only_takes_away(&self, takes_away: bool) -> Result<(), ApiError> {
        match self.counted {
            Counted::Reserve { retry_after_secs } if !takes_away => Err(too_many(retry_after_secs)),
            Counted::Reserve { .. } | Counted::Regular => Ok(()),
        }
    }

    /// Refuses unless one of this actor's roles is among those that may.
    pub(super) fn has_one_of(&self, may: Roles) -> Result<(), ApiError> {
        if self.roles.meets(may) {
            return Ok(());
        }
        let own = listed(self.roles, "and");
        Err(forbidden(&format!("this key has the role {own}"), may))
    }

    /// Names the actor as the author of a change; `role` is its own, as one text.
    pub fn as_author<'a>(&'a self, role: &'a str) -> By<'a> {
        let (http_method, path) = self.place.unzip();
        By {
            name: Some(&self.name),
            source: Some(self.source),
            http_method,
            path,
            role: Some(role),
        }
    }

    /// The roles as one text, for a record.
    pub fn role_text(&self) -> String {
        self.roles.names().collect::<Vec<_>>().join(",")
    }
}

fn forbidden(problem: &str, may: Roles) -> ApiError {
    let message = format!("{problem}; this needs the role {}", listed(may, "or"));
    ApiError::new(Code::Forbidden, message)
}

/// The answer when a rate is used up.
pub(super) fn too_many(retry_after_secs: u64) -> ApiError {
    let message = format!("too many admin requests; try again in {retry_after_secs} s");
    ApiError::new(Code::RateLimited, message).retry_after(retry_after_secs)
}

fn listed(roles: Roles, word: &str) -> String {
    let names: Vec<_> = roles.names().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} {word} {last}", most.join(", ")),
    }
}

impl Access {
    /// The roles that may, or `None` if no key is needed.
    pub(crate) fn roles(self, metrics_need_key: bool) -> Option<Roles> {
        match self {
            Self::Open => None,
            Self::Metrics => metrics_need_key.then_some(METRICS),
            Self::Roles(roles) => Some(roles),
        }
    }
}
