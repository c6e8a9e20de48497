//! One request of somebody who has signed in.

use std::sync::Arc;

use axum::http::request::Parts;
use serde_json::Value;

use super::Console;
use super::form::{self, Form};
use super::revision::Revision;
use crate::admin::{Actor, ApiError, Ask, Holder, Method};
use crate::firewall::time::Now;

/// A browser whose cookie and key both count.
pub(super) struct Signed {
    pub(super) holder: Holder,
    pub(super) actor: Actor,
    /// Token that each form carries.
    pub(super) token: String,
    pub(super) cookie: String,
}

/// A person and what was asked for.
pub(super) struct Visit {
    pub(super) console: Arc<Console>,
    pub(super) holder: Holder,
    pub(super) actor: Actor,
    /// Token that each form carries.
    pub(super) token: String,
    pub(super) query: Form,
    pub(super) now: Now,
    /// Revision before anything of the page was read.
    pub(super) seen: Revision,
}

impl Visit {
    pub(super) fn new(console: &Arc<Console>, head: &Parts, signed: Signed) -> Self {
        let Signed { holder, actor, token, cookie: _ } = signed;
        let now = console.admin.clock.now();
        let query = form::query(head.uri.query());
        let seen = console.revision();
        Self { console: Arc::clone(console), holder, actor, token, query, now, seen }
    }

    /// Reports whether this person's roles allow an endpoint.
    pub(super) fn may(&self, method: Method, path: &str) -> bool {
        self.console.admin.may(&self.actor, method, path)
    }

    /// Reads from an endpoint of the API.
    pub(super) async fn read(&self, ask: Ask) -> Result<Value, ApiError> {
        self.console.admin.read(&self.actor, ask).await
    }

    /// Calls an endpoint of the API for an act of this person.
    pub(super) async fn act(&self, ask: Ask) -> Result<Value, ApiError> {
        self.console.admin.act(&self.holder, &self.actor, ask).await
    }
}
