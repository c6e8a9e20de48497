//! The audit log: search, the chain's head, the last checkpoint, and verification of the current file.

use maud::{Markup, html};
use serde_json::Value;

use super::Acted;
use crate::admin::{ApiError, Ask, Method};
use crate::console::chart::bar;
use crate::console::form::write_query;
use crate::console::layout::{button, may, problem};
use crate::console::parts::{
    PER_PAGE, badge, bytes, clock, facts, id, input, items, more, number, string, time, whole_id,
};
use crate::console::section::{Section, Shown};
use crate::console::shown::{block, text};
use crate::console::verification::{LastRun, Outcome};
use crate::console::visit::Visit;

const FILTERS: [(&str, &str); 7] = [
    ("request_id", "Request"),
    ("session_id", "Session"),
    ("agent_id", "Agent"),
    ("tool", "Tool"),
    ("code", "Code"),
    ("since", "Since"),
    ("until", "Until"),
];

pub(super) async fn show(visit: &Visit) -> Result<Shown, ApiError> {
    let head = visit.read(Ask::get("/audit/head")).await?;
    let checkpoint = visit.read(Ask::get("/audit/checkpoint")).await.ok();
    let given: Vec<_> =
        FILTERS.iter().map(|(name, _)| (*name, visit.query.get(name).trim())).collect();
    let cursor = visit.query.get("cursor");
    let mut pairs = given.clone();
    let limit = PER_PAGE.to_string();
    pairs.extend([("cursor", cursor), ("limit", limit.as_str())]);
    let found = visit.read(Ask { query: write_query(&pairs), ..Ask::get("/audit/records") }).await;
    let healthy = head.pointer("/healthy").and_then(Value::as_bool).unwrap_or_default();
    let body = html! {
        div.two {
            section.card {
                h2 { "The chain" }
                (facts(&[
                    ("LastRun", badge(if healthy { "healthy" } else { "unhealthy" })),
                    ("Records", html! { (number(&head, "/sequence")) }),
                    ("Hash of the last record", whole_id(string(&head, "/hash"))),
                    ("Current file", html! { (bytes(visit.console.admin.audit.log_bytes())) }),
                ]))
                (verification(visit))
            }
            section.card {
                h2 { "Last checkpoint" }
                @match checkpoint.as_ref().and_then(Value::as_str) {
                    Some(note) => pre tabindex="0" { (block(note)) },
                    None => p.dim { "Nothing is signed: set " code { "audit.checkpoint_key_file" } "." },
                }
            }
        }
        section {
            h2 { "Records" }
            form.filter method="get" action="/console/audit" {
                @for (name, label) in FILTERS { (input(name, label, visit.query.get(name))) }
                button type="submit" { "Search" }
            }
            @match &found {
                Err(error) => { (problem(error)) },
                Ok(found) => {
                    (records(items(found, "/records")))
                    (more("/console/audit", &given, string(found, "/next_cursor"), cursor.is_empty()))
                }
            }
        }
    };
    let running = matches!(visit.console.verification.state().0, LastRun::Running { .. });
    let topic = running.then(|| "topic=verification".to_owned());
    Ok(Shown { topic, ..Shown::at(Section::Audit, body) })
}

fn records(records: &[Value]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Records" {
            table {
                caption.hidden { "Records, newest first" }
                thead { tr { th scope="col" { "Time" } th scope="col" { "Decision" } th scope="col" { "Code" } th scope="col" { "Call or event" } th scope="col" { "By" } th scope="col" { "Session" } th.right scope="col" { "Sequence" } } }
                tbody {
                    @for one in records {
                        tr {
                            td { (day(string(one, "/timestamp"))) " " a href={ "/console/why/" (string(one, "/request_id")) } { (clock(string(one, "/timestamp"))) } }
                            td { (badge(string(one, "/authorization_decision"))) }
                            td { code { (text(string(one, "/denial_code"))) } }
                            td { @if string(one, "/event").is_empty() { code { (text(call(one))) } } @else { (text(string(one, "/event"))) } }
                            td { @if string(one, "/agent_id").is_empty() { (text(string(one, "/principal"))) } @else { (id("agents", string(one, "/agent_id"))) } }
                            td { (id("sessions", string(one, "/task_session_id"))) }
                            td.right { (number(one, "/chain_sequence")) }
                        }
                    }
                }
            }
        }
        @if records.is_empty() { p.dim.empty { "No record matches in the part of the log that was searched." } }
    }
}

fn day(at: &str) -> &str {
    at.split_once('T').map_or(at, |(day, _)| day)
}

fn call(record: &Value) -> &str {
    let tool = string(record, "/tool_called");
    if tool.is_empty() { string(record, "/mcp_method") } else { tool }
}

fn verification(visit: &Visit) -> Markup {
    let (state, read) = visit.console.verification.state();
    html! {
        div #verification {
            @match &state {
                LastRun::Never => {},
                LastRun::Running { bytes: all } => p role="status" {
                    "Verifying: " (bar(read, *all, &format!("{} of {}", bytes(read), bytes(*all))))
                },
                LastRun::Done { at, outcome } => {
                    p role="status" {
                        @match outcome {
                            Outcome::Intact { bytes: all, records } => { (badge("intact")) " " (records) " records in " (bytes(*all)) },
                            Outcome::Damaged { .. } => { (badge("damaged")) },
                            Outcome::Failed(why) => { (badge("failed")) " " (text(why)) },
                        }
                        span.dim { " begun " (time(&at.to_string())) }
                    }
                    @if let Outcome::Damaged { findings, more } = outcome {
                        ul { @for one in findings { li { (text(one)) } } @if *more > 0 { li { "and " (more) " more" } } }
                    }
                }
            }
            @if !matches!(state, LastRun::Running { .. }) && visit.console.settings.log.is_some() {
                (may(visit, Method::Get, "/audit/records", &html! {
                    div.acts { (button(visit, "/console/audit/verify", "Verify the current file", "quiet")) }
                }))
            }
        }
    }
}

pub(super) async fn verify(visit: &Visit) -> Result<Acted, ApiError> {
    // Counted and refused like the reading that it is.
    visit.act(Ask::get("/audit/head")).await?;
    let Some(log) = visit.console.settings.log.clone() else {
        return Err(ApiError::not_found("log (`audit.enabled` is false)"));
    };
    let length = visit.console.admin.audit.log_bytes();
    visit.console.verification.start(log, length, visit.now.wall);
    Ok(Acted::To("/console/audit#verification".to_owned()))
}
