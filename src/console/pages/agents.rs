//! Agents: trust, the tree of delegations, sessions; what falls with a deactivation.

use std::collections::HashSet;

use maud::{Markup, html};
use serde_json::{Value, json};

use super::{Acted, sessions};
use crate::admin::{ApiError, Ask, Code, Method};
use crate::console::form::{Form, write_query};
use crate::console::layout::{may, token};
use crate::console::parts::{
    PER_PAGE, badge, counted, facts, id, items, more, select, string, strings, tags, time, whole_id,
};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::firewall::agent::AgentId;
use crate::firewall::session::Status;
use crate::sessions::Filter;

/// Agents of a tree that are drawn.
const MAX_DRAWN: usize = 500;
/// Sessions of one agent that are counted.
const MAX_COUNTED: usize = 1_000;

const LEVELS: [(&str, &str); 4] = [
    ("untrusted", "untrusted"),
    ("basic", "basic"),
    ("verified", "verified"),
    ("trusted", "trusted"),
];

pub(super) async fn list(visit: &Visit) -> Result<Shown, ApiError> {
    let cursor = visit.query.get("cursor");
    let query = write_query(&[("cursor", cursor), ("limit", &PER_PAGE.to_string())]);
    let found = visit.read(Ask { query, ..Ask::get("/agents") }).await?;
    let body = html! {
        div.scroll tabindex="0" role="region" aria-label="Agents" {
            table {
                caption.hidden { "Agents" }
                thead {
                    tr {
                        th scope="col" { "Agent" }
                        th scope="col" { "State" }
                        th scope="col" { "Trust" }
                        th scope="col" { "Owner" }
                        th scope="col" { "Model" }
                        th scope="col" { "Capabilities" }
                        th scope="col" { "Registered" }
                    }
                }
                tbody {
                    @for agent in items(&found, "/agents") {
                        tr {
                            td { (id("agents", string(agent, "/id"))) }
                            td { (state(agent)) }
                            td { (badge(string(agent, "/trust_level"))) }
                            td.text { (text(string(agent, "/owner"))) }
                            td.text { (text(string(agent, "/model"))) }
                            td.wide { (tags(&strings(agent, "/capabilities"))) }
                            td { (time(string(agent, "/created_at"))) }
                        }
                    }
                }
            }
        }
        (more("/console/agents", &[], string(&found, "/next_cursor"), cursor.is_empty()))
    };
    Ok(Shown::at(Section::Agents, body))
}

fn state(agent: &Value) -> Markup {
    let active = agent.pointer("/active").and_then(Value::as_bool).unwrap_or_default();
    badge(if active { "active" } else { "inactive" })
}

/// An agent below another one.
struct Below {
    id: AgentId,
    depth: usize,
    scopes: Vec<String>,
}

/// Returns who is below an agent, each once, and true if there are more than are drawn.
fn below(visit: &Visit, top: AgentId) -> (Vec<Below>, bool) {
    let registry = &visit.console.admin.registry;
    let mut seen = HashSet::from([top]);
    let mut found = Vec::new();
    let mut open = vec![Below { id: top, depth: 0, scopes: Vec::new() }];
    while let Some(next) = open.pop() {
        let outgoing =
            registry.delegations(next.id).map_or_else(Vec::new, |(_, outgoing)| outgoing);
        for one in outgoing.into_iter().rev().filter(|one| seen.insert(one.to)) {
            open.push(Below {
                id: one.to,
                depth: next.depth.saturating_add(1),
                scopes: one.scopes,
            });
        }
        found.push(next);
        if found.len() > MAX_DRAWN {
            return (found, true);
        }
    }
    (found, false)
}

fn active_sessions(visit: &Visit, agent: AgentId) -> usize {
    let active = Filter { agent: Some(agent), status: Some(Status::Active) };
    visit.console.admin.sessions.list(active, None, MAX_COUNTED, visit.now).len()
}

pub(super) async fn one(visit: &Visit, id_text: &str) -> Result<Shown, ApiError> {
    let agent = visit.read(Ask::of(Method::Get, "/agents/{id}", id_text)).await?;
    let above = visit.read(Ask::of(Method::Get, "/agents/{id}/delegations", id_text)).await?;
    let whole = string(&agent, "/id");
    let query = write_query(&[("agent_id", whole), ("limit", &PER_PAGE.to_string())]);
    let opened = visit.read(Ask { query, ..Ask::get("/sessions") }).await?;
    let top = AgentId::parse(whole).ok_or_else(|| ApiError::not_found("agent"))?;
    let (tree, clipped) = below(visit, top);
    let active = agent.pointer("/active").and_then(Value::as_bool).unwrap_or_default();
    let falling: Vec<_> = tree.iter().filter(|one| is_active(visit, one.id)).collect();
    let closing: usize = falling.iter().map(|one| active_sessions(visit, one.id)).sum();
    let body = html! {
        section.card {
            (facts(&[
                ("Agent", whole_id(whole)),
                ("State", html! {
                    (state(&agent))
                    @if !string(&above, "/inactive").is_empty() { " " span.dim { (text(string(&above, "/inactive"))) } }
                }),
                ("Trust", badge(string(&agent, "/trust_level"))),
                ("Trust under its delegations", badge(string(&above, "/effective/trust_level"))),
                ("Owner", text(string(&agent, "/owner"))),
                ("Model", text(string(&agent, "/model"))),
                ("Capabilities", tags(&strings(&agent, "/capabilities"))),
                ("Registered", time(string(&agent, "/created_at"))),
                ("Expires", time(string(&agent, "/expires_at"))),
                ("Chain from the top", html! {
                    @for one in strings(&above, "/delegation_chain") { (id("agents", one)) " " }
                }),
            ]))
            @if active {
                (may(visit, Method::Put, "/agents/{id}/trust", &html! {
                    form.acts method="post" action={ "/console/agents/" (whole) "/trust" } {
                        (token(visit))
                        (select("trust_level", "Trust level", &LEVELS, string(&agent, "/trust_level")))
                        button type="submit" { "Set" }
                    }
                }))
            }
        }
        section.card {
            h2 { "Delegations" }
            (drawn(visit, &tree, clipped))
        }
        @if active {
            (may(visit, Method::Delete, "/agents/{id}", &html! {
                section.card.risk {
                    h2 { "Deactivate" }
                    p { "With this agent fall " strong { (counted(falling.len().saturating_sub(1), "agent")) } " below it and "
                        strong { (counted(closing, "active session")) } ". This cannot be undone." }
                    form.acts method="post" action={ "/console/agents/" (whole) "/deactivate" } {
                        (token(visit))
                        label.check { input type="checkbox" name="sure" value="yes" required; " Deactivate " (counted(falling.len(), "agent")) }
                        button.danger type="submit" { "Deactivate" }
                    }
                }
            }))
        }
        section { h2 { "Sessions" } (sessions::rows(visit, items(&opened, "/sessions")))
            @if !string(&opened, "/next_cursor").is_empty() { p { a href={ "/console/sessions?agent_id=" (whole) } { "All its sessions" } } }
        }
    };
    Ok(Shown { title: "Agent".to_owned(), ..Shown::at(Section::Agents, body) })
}

fn is_active(visit: &Visit, agent: AgentId) -> bool {
    visit.console.admin.registry.agent(agent).is_some_and(|agent| agent.active)
}

fn drawn(visit: &Visit, tree: &[Below], clipped: bool) -> Markup {
    html! {
        ul.tree {
            @for one in tree.iter().take(MAX_DRAWN) {
                @let agent = visit.console.admin.registry.agent(one.id);
                @let sessions = active_sessions(visit, one.id);
                li class={ "depth-" (one.depth.min(8)) } {
                    (id("agents", &one.id.to_string())) " "
                    @if let Some(agent) = agent {
                        (text(&agent.owner)) " " (badge(agent.trust.as_str())) " "
                        @if !agent.active { (badge("inactive")) }
                    }
                    span.dim { " " (counted(sessions, "active session")) }
                    @if !one.scopes.is_empty() { " may " (tags(&one.scopes.iter().map(String::as_str).collect::<Vec<_>>())) }
                }
            }
        }
        @if clipped { p.dim { "Only the first " (MAX_DRAWN) " are drawn." } }
    }
}

pub(super) async fn deactivate(visit: &Visit, id: &str, form: &Form) -> Result<Acted, ApiError> {
    if form.get("sure") != "yes" {
        return Err(ApiError::new(
            Code::InvalidField,
            "tick the box first: what is deactivated stays so",
        ));
    }
    visit.act(Ask::of(Method::Delete, "/agents/{id}", id)).await?;
    Ok(Acted::To(format!("/console/agents/{id}?done=deactivated")))
}

pub(super) async fn trust(visit: &Visit, id: &str, form: &Form) -> Result<Acted, ApiError> {
    let body = json!({ "trust_level": form.get("trust_level") });
    visit.act(Ask { body: Some(body), ..Ask::of(Method::Put, "/agents/{id}/trust", id) }).await?;
    Ok(Acted::To(format!("/console/agents/{id}?done=trust")))
}
