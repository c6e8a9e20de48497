//! The pages: addresses that can be sent to a colleague, each rendered from the API's own answers.

mod agents;
mod approvals;
mod audit;
mod health;
pub(super) mod live;
mod overview;
mod policies;
mod sessions;
mod why;

use super::form::Form;
use super::section::{Section, Shown};
use super::visit::Visit;
use crate::admin::ApiError;

/// Result of a form.
pub(super) enum Acted {
    /// Goes on at another page.
    To(String),
    Shown(Box<Shown>),
}

/// Shows the page at a path; none if there is no such page.
pub(super) async fn show(visit: &Visit, path: &[&str]) -> Result<Option<Shown>, ApiError> {
    let section = match path {
        [""] => Section::Overview,
        ["live"] => Section::Live,
        ["why"] | ["why", _] => Section::Why,
        ["sessions"] | ["sessions", _] => Section::Sessions,
        ["agents"] | ["agents", _] => Section::Agents,
        ["approvals"] | ["approvals", _] => Section::Approvals,
        ["policies"] => Section::Policies,
        ["audit"] => Section::Audit,
        ["health"] => Section::Health,
        _ => return Ok(None),
    };
    let (method, needed) = section.needs();
    if !visit.may(method, needed) {
        if section == Section::Overview {
            // Where a sign-in leads; a role that sees one list only goes there.
            return sessions::list(visit).await.map(Some);
        }
        // The API's own refusal, on record.
        visit.read(crate::admin::Ask::get(needed)).await?;
    }
    match path {
        [""] => Ok(overview::show(visit)),
        ["live"] => Ok(live::show(visit)),
        ["why"] => why::show(visit, visit.query.get("request_id").trim()).await,
        ["why", id] => why::show(visit, id).await,
        ["sessions"] => sessions::list(visit).await,
        ["sessions", id] => sessions::one(visit, id).await,
        ["agents"] => agents::list(visit).await,
        ["agents", id] => agents::one(visit, id).await,
        ["approvals"] => approvals::list(visit).await,
        ["approvals", id] => approvals::one(visit, id).await,
        ["policies"] => Ok(policies::show(visit, &policies::Tried::default())),
        ["audit"] => audit::show(visit).await,
        _ => health::show(visit).await,
    }
    .map(Some)
}

/// Does what a form at a path asks for; none if there is no such form.
pub(super) async fn act(
    visit: &Visit,
    path: &[&str],
    form: &Form,
) -> Result<Option<Acted>, ApiError> {
    match path {
        ["sessions", id, "close"] => sessions::close(visit, id).await,
        ["agents", id, "deactivate"] => agents::deactivate(visit, id, form).await,
        ["agents", id, "trust"] => agents::trust(visit, id, form).await,
        ["approvals", id] => approvals::decide(visit, id, form).await,
        ["policies", "explain"] => policies::explain(visit, form).await,
        ["policies", "validate"] => policies::validate(visit, form).await,
        ["policies", "reload"] => policies::reload(visit).await,
        ["audit", "verify"] => audit::verify(visit).await,
        ["freezes"] => health::freeze(visit, form).await,
        ["freezes", id, "lift"] => health::lift(visit, id).await,
        _ => return Ok(None),
    }
    .map(Some)
}
