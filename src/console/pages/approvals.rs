//! Approvals: the queue, and one call with everything that a person needs to decide.

use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::Acted;
use super::live::table;
use super::why::pretty;
use crate::admin::{ApiError, Ask, Method};
use crate::console::form::{Form, write_query};
use crate::console::layout::{may, token};
use crate::console::parts::{
    PER_PAGE, badge, facts, id, items, more, number, select, string, time, whole_id,
};
use crate::console::section::{Section, Shown};
use crate::console::shown::{BLOCK_CHARS, block, text};
use crate::console::visit::Visit;
use crate::firewall::session::SessionId;

/// Decisions of the session that are shown with the call.
const LAST_CALLS: usize = 10;

const STATUSES: [(&str, &str); 8] = [
    ("pending", "waiting"),
    ("approved", "approved"),
    ("used", "used"),
    ("denied", "denied"),
    ("expired", "expired"),
    ("void", "void"),
    ("withdrawn", "withdrawn"),
    ("all", "all"),
];

pub(super) async fn list(visit: &Visit) -> Result<Shown, ApiError> {
    let status = visit.query.given("status").unwrap_or("pending");
    let cursor = visit.query.get("cursor");
    let asked = if status == "all" { "" } else { status };
    let query =
        write_query(&[("status", asked), ("cursor", cursor), ("limit", &PER_PAGE.to_string())]);
    let found = visit.read(Ask { query, ..Ask::get("/approvals") }).await?;
    let approvals = items(&found, "/approvals");
    let body = html! {
        form.filter method="get" action="/console/approvals" {
            (select("status", "Status", &STATUSES, status))
            button type="submit" { "Filter" }
        }
        div.scroll tabindex="0" role="region" aria-label="Approvals" {
            table {
                caption.hidden { "Approvals" }
                thead {
                    tr {
                        th scope="col" { "Call" }
                        th scope="col" { "Status" }
                        th scope="col" { "Intent of the session" }
                        th scope="col" { "Agent" }
                        th scope="col" { "Policy" }
                        th scope="col" { "Asked" }
                        th scope="col" { "Expires" }
                    }
                }
                tbody {
                    @for one in approvals {
                        tr {
                            td.text { a href={ "/console/approvals/" (string(one, "/approval_id")) } { code { (text(string(one, "/target"))) } } }
                            td { (badge(string(one, "/status"))) }
                            td.wide { (text(string(one, "/declared_intent"))) }
                            td { (id("agents", string(one, "/agent_id"))) }
                            td.text { (text(string(one, "/policy"))) }
                            td { (time(string(one, "/requested_at"))) }
                            td { (time(string(one, "/expires_at"))) }
                        }
                    }
                }
            }
        }
        @if approvals.is_empty() { p.dim.empty { "No approval of this kind." } }
        (more("/console/approvals", &[("status", status)], string(&found, "/next_cursor"), cursor.is_empty()))
    };
    Ok(Shown { topic: Some("topic=approvals".to_owned()), ..Shown::at(Section::Approvals, body) })
}

pub(super) async fn one(visit: &Visit, id_text: &str) -> Result<Shown, ApiError> {
    let one = visit.read(Ask::of(Method::Get, "/approvals/{id}", id_text)).await?;
    let session = SessionId::parse(string(&one, "/session_id"));
    let calls = visit
        .console
        .recent
        .newest(LAST_CALLS, |seen| seen.session.is_some() && seen.session == session);
    let pending = string(&one, "/status") == "pending";
    let clipped = one.pointer("/arguments_clipped").and_then(Value::as_bool).unwrap_or_default();
    let arguments = one.get("arguments").map(arguments).unwrap_or_default();
    let body = html! {
        div.two {
            section.card {
                h2 { code { (text(string(&one, "/target"))) } " " (badge(string(&one, "/status"))) }
                h3 { "Parameters, redacted" }
                @if clipped { p.problem { "Parts of the parameters are too long to be shown. Approving this call needs a reason." } }
                pre tabindex="0" { (block(&arguments)) }
                @if pending { (may(visit, Method::Post, "/approvals/{id}", &forms(visit, &one, clipped))) }
            }
            section.card {
                h2 { "Who asks, and why" }
                (facts(&[
                    ("Intent of the session", text(string(&one, "/declared_intent"))),
                    ("Session", id("sessions", string(&one, "/session_id"))),
                    ("Opened by", text(string(&one, "/opened_by"))),
                    ("Agent", id("agents", string(&one, "/agent_id"))),
                    ("Registered by", text(string(&one, "/registered_by"))),
                    ("Principal", text(string(&one, "/principal"))),
                    ("Upstream", text(string(&one, "/upstream"))),
                    ("Method", text(string(&one, "/method"))),
                    ("Policy", text(string(&one, "/policy"))),
                    ("Asked", time(string(&one, "/requested_at"))),
                    ("Expires", time(string(&one, "/expires_at"))),
                    ("Decided by", text(string(&one, "/decided_by"))),
                    ("Decided", time(string(&one, "/decided_at"))),
                    ("Reason", text(string(&one, "/reason"))),
                    ("Uses left", html! { @if one.get("uses_left").is_some() { (number(&one, "/uses_left")) } }),
                    ("Approval", whole_id(string(&one, "/approval_id"))),
                    ("Digest of the call", whole_id(string(&one, "/arguments_digest"))),
                    ("Digest of the policy", whole_id(string(&one, "/policy_digest"))),
                ]))
            }
        }
        section { h2 { "Last calls of the session" } (table("Last calls of the session", &calls)) }
    };
    // Not kept current while a person may be writing a reason.
    Ok(Shown { title: "Approval".to_owned(), ..Shown::at(Section::Approvals, body) })
}

/// Writes parameters as they are read best, as long as that leaves nothing out.
fn arguments(parameters: &Value) -> String {
    let text = pretty(parameters);
    if text.chars().count() <= BLOCK_CHARS { text } else { parameters.to_string() }
}

fn forms(visit: &Visit, one: &Value, clipped: bool) -> Markup {
    let action = format!("/console/approvals/{}", string(one, "/approval_id"));
    html! {
        form.stack.decide method="post" action=(action) {
            (token(visit))
            label for="reason" { "Reason" @if !clipped { " (for the record)" } }
            input #reason name="reason" maxlength="1024" autocomplete="off";
            span.field {
                label for="uses" { "Calls that it covers" }
                input #uses type="number" name="uses" min="1" max="100" value="1" required;
            }
            div.acts {
                button type="submit" name="decision" value="approve" { "Approve" }
                button.danger type="submit" name="decision" value="deny" { "Deny" }
            }
        }
    }
}

pub(super) async fn decide(visit: &Visit, id: &str, form: &Form) -> Result<Acted, ApiError> {
    let decision = form.get("decision");
    let mut body = Map::new();
    body.insert("decision".to_owned(), json!(decision));
    if let Some(reason) = form.given("reason") {
        body.insert("reason".to_owned(), json!(reason));
    }
    if decision == "approve"
        && let Some(uses) = form.given("uses")
    {
        let uses: u32 = uses
            .parse()
            .map_err(|_bad| ApiError::field("uses", "must be a number from 1 to 100"))?;
        body.insert("uses".to_owned(), json!(uses));
    }
    let ask =
        Ask { body: Some(Value::Object(body)), ..Ask::of(Method::Post, "/approvals/{id}", id) };
    visit.act(ask).await?;
    let done = if decision == "approve" { "approved" } else { "denied" };
    Ok(Acted::To(format!("/console/approvals/{id}?done={done}")))
}
