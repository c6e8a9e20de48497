//! Sessions: intent, tools, budget and time, and closing one.

use maud::{Markup, html};
use serde_json::Value;

use super::Acted;
use super::live::table;
use crate::admin::{ApiError, Ask, Method};
use crate::console::chart::bar;
use crate::console::form::write_query;
use crate::console::layout::{button, may};
use crate::console::parts::{
    PER_PAGE, badge, facts, id, input, items, more, number, select, span_of, string, strings, tags,
    time, whole_id,
};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;

/// Decisions of a session on its page.
const LAST_CALLS: usize = 50;

const STATUSES: [(&str, &str); 4] =
    [("", "all"), ("active", "active"), ("expired", "expired"), ("closed", "closed")];

/// Draws how much of a session's time has passed.
fn time_bar(visit: &Visit, session: &Value) -> Markup {
    let at = |pointer| Timestamp::parse(string(session, pointer)).map_or(0, Timestamp::as_secs);
    let (from, to, now) = (at("/created_at"), at("/expires_at"), visit.now.wall.as_secs());
    let secs = |span: i64| u64::try_from(span).unwrap_or_default();
    let left = secs(to.saturating_sub(now));
    if string(session, "/status") == "closed" {
        return html! { span.dim { "closed" } };
    }
    let label = if left == 0 { "over".to_owned() } else { format!("{} left", span_of(left)) };
    bar(secs(now.saturating_sub(from)), secs(to.saturating_sub(from)), &label)
}

fn budget_bar(session: &Value) -> Markup {
    let (used, all) = (number(session, "/calls_made"), number(session, "/call_budget"));
    bar(used, all, &format!("{used} of {all}"))
}

/// Renders sessions as a table.
pub(super) fn rows(visit: &Visit, sessions: &[Value]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Sessions" {
            table {
                caption.hidden { "Sessions" }
                thead {
                    tr {
                        th scope="col" { "Session" }
                        th scope="col" { "Status" }
                        th scope="col" { "Intent" }
                        th scope="col" { "Agent" }
                        th scope="col" { "Budget" }
                        th scope="col" { "Time" }
                        th scope="col" { "Opened" }
                    }
                }
                tbody {
                    @for one in sessions {
                        tr {
                            td { (id("sessions", string(one, "/session_id"))) }
                            td { (badge(string(one, "/status"))) }
                            td.wide { (text(string(one, "/declared_intent"))) }
                            td { (id("agents", string(one, "/agent_id"))) }
                            td { (budget_bar(one)) }
                            td { (time_bar(visit, one)) }
                            td { (time(string(one, "/created_at"))) }
                        }
                    }
                }
            }
        }
        @if sessions.is_empty() { p.dim.empty { "No session." } }
    }
}

pub(super) async fn list(visit: &Visit) -> Result<Shown, ApiError> {
    let (agent, status) = (visit.query.get("agent_id"), visit.query.get("status"));
    let cursor = visit.query.get("cursor");
    let limit = PER_PAGE.to_string();
    let query = write_query(&[
        ("agent_id", agent),
        ("status", status),
        ("cursor", cursor),
        ("limit", &limit),
    ]);
    let found = visit.read(Ask { query, ..Ask::get("/sessions") }).await?;
    let body = html! {
        form.filter method="get" action="/console/sessions" {
            (select("status", "Status", &STATUSES, status))
            (input("agent_id", "Agent", agent))
            button type="submit" { "Filter" }
        }
        (rows(visit, items(&found, "/sessions")))
        (more("/console/sessions", &[("agent_id", agent), ("status", status)], string(&found, "/next_cursor"), cursor.is_empty()))
    };
    Ok(Shown::at(Section::Sessions, body))
}

pub(super) async fn one(visit: &Visit, id_text: &str) -> Result<Shown, ApiError> {
    let session = visit.read(Ask::of(Method::Get, "/sessions/{id}", id_text)).await?;
    let of = SessionId::parse(id_text);
    let calls = visit
        .console
        .recent
        .newest(LAST_CALLS, |seen| seen.session.is_some() && seen.session == of);
    let flags = calls.iter().map(|seen| seen.flags.len()).sum::<usize>();
    let active = string(&session, "/status") == "active";
    let names = |pointer| tags(&strings(&session, pointer));
    let body = html! {
        section.card {
            (facts(&[
                ("Session", whole_id(string(&session, "/session_id"))),
                ("Status", badge(string(&session, "/status"))),
                ("Intent", text(string(&session, "/declared_intent"))),
                ("Tier of the intent", badge(string(&session, "/intent_tier"))),
                ("Agent", id("agents", string(&session, "/agent_id"))),
                ("Budget", budget_bar(&session)),
                ("Time", time_bar(visit, &session)),
                ("Opened", time(string(&session, "/created_at"))),
                ("Ends", time(string(&session, "/expires_at"))),
                ("Most sensitive data", badge(string(&session, "/data_sensitivity"))),
                ("Flags of the last calls", html! { (flags) }),
                ("Tools", names("/authorized_tools")),
                ("Resources", names("/authorized_resources")),
                ("Prompts", names("/authorized_prompts")),
                ("Methods", names("/authorized_methods")),
                ("Credentials", names("/authorized_credentials")),
                ("Delegated through", html! {
                    @for one in strings(&session, "/delegation_chain") { (id("agents", one)) " " }
                }),
            ]))
            @if active {
                (may(visit, Method::Delete, "/sessions/{id}", &html! {
                    div.acts {
                        (button(visit, &format!("/console/sessions/{}/close", string(&session, "/session_id")), "Close the session", "danger"))
                        span.dim { "Its calls are refused from then on; this cannot be undone." }
                    }
                }))
            }
        }
        section {
            h2 { "Last calls on this node" }
            (table("Last calls of the session", &calls))
            p { a href={ "/console/audit?session_id=" (string(&session, "/session_id")) } { "All its records in the audit log" } }
        }
    };
    Ok(Shown { title: "Session".to_owned(), ..Shown::at(Section::Sessions, body) })
}

pub(super) async fn close(visit: &Visit, id: &str) -> Result<Acted, ApiError> {
    visit.act(Ask::of(Method::Delete, "/sessions/{id}", id)).await?;
    Ok(Acted::To(format!("/console/sessions/{id}?done=closed")))
}
