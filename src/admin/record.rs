//! Changes go on record before they are made, with the name of the key that asked for them.
//!
//! A request that is refused for a bad field leaves no record, because it changed nothing. One that
//! is refused for its key does: it says that somebody tried.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::Admin;
use super::access::Actor;
use super::error::{ApiError, Code};
pub(super) use crate::audit::Change;
use crate::audit::{self, By, Decision, Outcome, Weight};
use crate::store::{Replicas, StoreError};
use crate::telemetry::Causes;

/// Noted in the record of a change that is in force and that too few replicas of the store have.
const REPLICAS_SHORT: &str = "ReplicasShort";

/// Replicas of the store that have a change, where those are fewer than the configuration asks for: a
/// failover to another one is made good by the running gateways.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Replicas")]
pub(crate) struct ShownReplicas {
    wanted: u32,
    reached: u32,
}

impl ShownReplicas {
    pub(super) fn of(replicas: Replicas) -> Option<Self> {
        let Replicas { wanted, reached } = replicas;
        replicas.are_short().then_some(Self { wanted, reached })
    }
}

/// A change that is on record and may be made now.
pub(super) struct PendingChange(audit::PendingChange);

impl Admin {
    /// Puts a change on record; without that it must not be made.
    pub(super) async fn announce(
        &self,
        actor: &Actor,
        change: Change,
    ) -> Result<PendingChange, ApiError> {
        let (event, role) = (change.event(), actor.role_text());
        match self.audit.announce(change, actor.as_author(&role), &self.clock).await {
            Ok(announced) => Ok(PendingChange(announced)),
            Err(error) => {
                tracing::error!(event, error = %Causes(&error), "admin change refused");
                let message = format!("{error}, so nothing was changed; try again when it is");
                Err(ApiError::new(Code::AuditUnavailable, message).retry_after(1))
            }
        }
    }
}

impl PendingChange {
    pub(super) fn done(self) {
        self.0.done();
    }

    /// Records that the change was made. A change that takes something away also records a lack of
    /// replicas.
    pub(super) fn done_on(self, replicas: Replicas) {
        if replicas.are_short() {
            self.0.in_force(REPLICAS_SHORT);
        } else {
            self.0.done();
        }
    }

    /// Records that the change is in force, though incompletely stored; returns the error.
    pub(super) fn in_force(self, error: ApiError) -> ApiError {
        self.0.in_force(error.code.name());
        error
    }

    /// Records that the change was not made after all; returns the error.
    pub(super) fn refused(self, error: ApiError) -> ApiError {
        self.0.refused(error.code.name());
        error
    }
}

/// The event of a request without the right key.
const UNAUTHORIZED: &str = audit::ADMIN_UNAUTHORIZED;
/// The event of a request whose key may not do what it asked for.
const FORBIDDEN: &str = "admin.forbidden";

/// Puts on record that a request was refused for its key. Beyond a rate, requests without a right
/// key are counted instead of recorded one by one.
pub(super) async fn refused(
    admin: &Admin,
    (method, path): (&str, &str),
    source: IpAddr,
    by: Option<&Actor>,
    error: &ApiError,
) {
    let event = if by.is_some() { FORBIDDEN } else { UNAUTHORIZED };
    let role = by.map(Actor::role_text);
    let by = By {
        name: by.map(|actor| &actor.name),
        source: Some(source),
        http_method: Some(method),
        path: Some(path),
        role: role.as_deref(),
    };
    let mut entry = by.entry(Change::new(event), &admin.clock, Decision::Deny);
    entry.denial_code = Some(error.code.name());
    // The answer is no in any case; what could not be recorded is counted there.
    let weight = if by.name.is_some() { Weight::Single } else { Weight::Stranger };
    if let Err(error) = admin.audit.record_as(entry, Outcome::refused(0), weight).await {
        tracing::warn!(%source, error = %Causes(&error), "refused admin request is not on record");
    }
}

/// Error for a change that is in force on this node although the store did not accept it.
pub(super) fn not_stored(error: &StoreError) -> ApiError {
    tracing::error!(error = %Causes(error), "store did not take a revocation; it is in force here and tried again");
    let message = "this is in force on this gateway from now on, but the store did not take it yet: \
                   it is tried again until it does, and a restart before that would undo it";
    ApiError::new(Code::StoreUnavailable, message).retry_after(1)
}

/// Error for a change that the store did not accept.
pub(super) fn store_failed(error: &StoreError) -> ApiError {
    tracing::error!(error = %Causes(error), "store did not take an admin change");
    let message = "the store did not answer, so the change may not have been made; try again";
    ApiError::new(Code::StoreUnavailable, message).retry_after(1)
}
