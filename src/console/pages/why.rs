//! One request explained: its record, the steps of its decision, what every policy says of it now.

use maud::{Markup, html};
use serde_json::{Map, Value, json};

use crate::admin::{ApiError, Ask, Method};
use crate::console::form::write_query;
use crate::console::layout::problem;
use crate::console::parts::{
    badge, facts, id, input, items, string, strings, tags, time, whole_id,
};
use crate::console::section::{Section, Shown};
use crate::console::shown::{block, text};
use crate::console::visit::Visit;

/// Records of one request that are shown.
const MAX_RECORDS: &str = "5";

pub(super) async fn show(visit: &Visit, request_id: &str) -> Result<Shown, ApiError> {
    let form = html! {
        form.filter method="get" action="/console/why" {
            (input("request_id", "Request id", request_id))
            button type="submit" { "Explain" }
        }
        @if request_id.is_empty() {
            p.dim { "Every answer of the gateway has the header " code { "x-arbiter-request-id" } "; every refusal has " code { "request_id" } " in its data." }
        }
    };
    if request_id.is_empty() {
        return Ok(Shown::at(Section::Why, form));
    }
    let query = write_query(&[("request_id", request_id), ("limit", MAX_RECORDS)]);
    let found = visit.read(Ask { query, ..Ask::get("/audit/records") }).await;
    let found = match found {
        Ok(found) => items(&found, "/records").to_vec(),
        Err(error) => {
            let body = html! { (form) (problem(&error)) };
            return Ok(Shown::at(Section::Why, body));
        }
    };
    let body = html! {
        (form)
        @match found.first() {
            None => { (still_open(visit, request_id)) },
            Some(record) => {
                @for record in &found { (self::record(record)) }
                (explained(visit, record).await)
            }
        }
    };
    Ok(Shown::at(Section::Why, body))
}

/// Shows what this node remembers of a request that has no record yet: one that still goes on.
fn still_open(visit: &Visit, request_id: &str) -> Markup {
    let found = visit
        .console
        .recent
        .newest(1, |seen| seen.request_id.to_string() == request_id.to_ascii_lowercase());
    html! {
        @match found.first() {
            Some(seen) => section.card {
                p { "This request is still under way; its record is written when it ends." }
                (super::live::table("The decision", std::slice::from_ref(seen)))
            },
            None => p.problem role="status" { "There is no record of this request on this node." },
        }
    }
}

/// Renders a record: what matters first, the whole line below.
pub(super) fn record(record: &Value) -> Markup {
    let tools = strings(record, "/tools_called");
    let latency = record.pointer("/latency_ms").map(Value::to_string).unwrap_or_default();
    html! {
        section.card {
            h2 { "The record" }
            (facts(&[
                ("Decision", html! {
                    (badge(string(record, "/authorization_decision"))) " "
                    @if !string(record, "/denial_code").is_empty() { code { (string(record, "/denial_code")) } }
                }),
                ("Request", whole_id(string(record, "/request_id"))),
                ("Time", time(string(record, "/timestamp"))),
                ("Event", text(string(record, "/event"))),
                ("Method", text(string(record, "/mcp_method"))),
                ("Tool", match tools.as_slice() {
                    [] | [_] => text(string(record, "/tool_called")),
                    many => tags(many),
                }),
                ("Upstream", text(string(record, "/upstream"))),
                ("Agent", id("agents", string(record, "/agent_id"))),
                ("Principal", text(string(record, "/principal"))),
                ("Session", id("sessions", string(record, "/task_session_id"))),
                ("Policy", text(string(record, "/policy_matched"))),
                ("Policy set", whole_id(string(record, "/policy_version"))),
                ("Flags", tags(&strings(record, "/anomaly_flags"))),
                ("Approval", id("approvals", string(record, "/approval_id"))),
                ("Approved by", text(string(record, "/approved_by"))),
                ("Outcome", text(string(record, "/outcome"))),
                ("Took", html! { (latency) " ms" }),
                ("From", text(string(record, "/client_addr"))),
            ]))
            @if let Some(arguments) = record.get("arguments").filter(|value| !value.is_null()) {
                h3 { "Arguments, redacted" }
                pre tabindex="0" { (block(&pretty(arguments))) }
            }
            details { summary { "The whole line" } pre { (block(&pretty(record))) } }
        }
    }
}

/// Writes a value over several lines.
pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// Returns the question that asks for a recorded tool call again.
fn question(record: &Value) -> Option<Value> {
    let tool = Some(string(record, "/tool_called")).filter(|tool| !tool.is_empty())?;
    let mut question = Map::new();
    question.insert("tool".to_owned(), json!(tool));
    for (member, pointer) in
        [("agent_id", "/agent_id"), ("session_id", "/task_session_id"), ("upstream", "/upstream")]
    {
        let value = string(record, pointer);
        if !value.is_empty() {
            question.insert(member.to_owned(), json!(value));
        }
    }
    if let Some(arguments) = record.get("arguments").filter(|value| value.is_object()) {
        question.insert("arguments".to_owned(), arguments.clone());
    }
    question.contains_key("agent_id").then_some(Value::Object(question))
}

async fn explained(visit: &Visit, record: &Value) -> Markup {
    let Some(question) = question(record) else {
        return html! { p.dim { "Only a tool call of a known agent is explained further: others have no policy to ask." } };
    };
    let ask = Ask { method: Method::Post, body: Some(question), ..Ask::get("/policy/explain") };
    let answer = visit.read(ask).await;
    html! {
        section.card {
            h2 { "The same call now" }
            p.dim { "Judged by what is in force now, with the arguments as they are on record: redacted places may be judged otherwise." }
            @match answer {
                Ok(answer) => { (explanation(&answer)) },
                Err(error) => { (problem(&error)) },
            }
        }
    }
}

/// Names the policy that would have to say otherwise, or those of which one would have to match.
fn policies_that_differ(answer: &Value) -> Markup {
    const NAMED: usize = 5;
    let matched = string(answer, "/matched_policy");
    let of = |entry: &Value| html! { code { (text(string(entry, "/policy_id"))) } " (" (text(string(entry, "/reason"))) ")" };
    let trace = items(answer, "/trace");
    let decided = trace.iter().find(|entry| string(entry, "/policy_id") == matched);
    let allows: Vec<_> = trace
        .iter()
        .filter(|entry| {
            string(entry, "/effect") == "allow"
                && entry.pointer("/matched") != Some(&Value::Bool(true))
        })
        .collect();
    html! {
        @match decided {
            Some(decided) => p { "The policy " (of(decided)) " would have to not match." },
            None if allows.is_empty() => p { "A policy would have to allow this tool: none does." },
            None => {
                p { "One of these policies would have to match:" }
                ul {
                    @for entry in allows.iter().take(NAMED) { li { (of(entry)) } }
                    @if allows.len() > NAMED { li { "and " (allows.len() - NAMED) " more" } }
                }
            }
        }
    }
}

/// Renders an explanation: the steps, what would have to differ, and every policy's word.
pub(super) fn explanation(answer: &Value) -> Markup {
    let refused = items(answer, "/steps").iter().find(|step| string(step, "/outcome") == "refused");
    html! {
        p { (badge(string(answer, "/decision"))) " "
            @if !string(answer, "/code").is_empty() { code { (string(answer, "/code")) } " " }
            @if !string(answer, "/matched_policy").is_empty() { "by the policy " strong { (text(string(answer, "/matched_policy"))) } }
        }
        @if let Some(step) = refused {
            div.differ {
                p { strong { "What would have to differ: " } (text(string(step, "/message"))) }
                @if string(step, "/step") == "policy" { (policies_that_differ(answer)) }
            }
        }
        ol.steps aria-label="Steps of the decision" {
            @for step in items(answer, "/steps") {
                li {
                    span.step { (string(step, "/step")) } " " (badge(&string(step, "/outcome").replace('_', " ")))
                    @if !string(step, "/message").is_empty() { " " span.dim { (text(string(step, "/message"))) } }
                }
            }
        }
        @let trace = items(answer, "/trace");
        @if !trace.is_empty() {
            h3 { "What the policies say" }
            div.scroll tabindex="0" role="region" aria-label="Policies" {
                table {
                    thead { tr { th scope="col" { "Policy" } th scope="col" { "Effect" } th scope="col" { "Matches" } th.right scope="col" { "Score" } th scope="col" { "Reason" } } }
                    tbody {
                        @for entry in trace.iter().take(200) {
                            tr {
                                td.text { (text(string(entry, "/policy_id"))) }
                                td { (badge(string(entry, "/effect"))) }
                                td { @if entry.pointer("/matched").and_then(Value::as_bool).unwrap_or_default() { "yes" } @else { span.dim { "no" } } }
                                td.right { (entry.pointer("/score").and_then(Value::as_u64).unwrap_or_default()) }
                                td.wide { (text(string(entry, "/reason"))) }
                            }
                        }
                    }
                }
            }
        }
    }
}
