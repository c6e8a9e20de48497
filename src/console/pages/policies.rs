//! Policies: the set in force and its hits, a playground, and the check of a candidate.

use std::collections::HashMap;
use std::sync::Arc;

use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::Acted;
use super::why::explanation;
use crate::admin::{ApiError, Ask, Code, Method};
use crate::console::form::{Form, write_query};
use crate::console::layout::{button, may, problem, token};
use crate::console::parts::{badge, facts, input, items, number, string, tags, whole_id};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::firewall::policy::{Difference, PolicySet, Source, Summary};

/// Policies on one page.
const PER_PAGE: usize = 100;
/// Policies that were never hit, listed by name.
const MAX_UNUSED: usize = 50;

/// Answers to what was tried on the page, and what was put in.
#[derive(Default)]
pub(super) struct Tried {
    explained: Option<Result<Value, ApiError>>,
    checked: Option<Result<(Value, Option<Difference>), ApiError>>,
    given: HashMap<&'static str, String>,
}

impl Tried {
    fn text(&self, name: &str) -> &str {
        self.given.get(name).map_or("", String::as_str)
    }
}

pub(super) fn show(visit: &Visit, tried: &Tried) -> Shown {
    let rules = visit.console.admin.rulebook.rules();
    let set = &rules.policies;
    let hits = visit.console.recent.hits();
    let unused: Vec<_> = set.ids().filter(|id| !hits.contains_key(*id)).collect();
    let tool = visit.query.given("tool");
    let from: usize = visit.query.get("from").parse().unwrap_or_default();
    let mut found = set.summaries(tool, from, PER_PAGE.saturating_add(1));
    let further = found.len() > PER_PAGE;
    found.truncate(PER_PAGE);
    let next = (from.saturating_add(PER_PAGE)).to_string();
    let body = html! {
        section.card {
            (facts(&[
                ("Policy set in force", whole_id(set.version())),
                ("Policies", html! { (set.len()) }),
                ("Never hit since the start", html! { (unused.len()) }),
            ]))
            (may(visit, Method::Post, "/policy/reload", &html! {
                div.acts { (button(visit, "/console/policies/reload", "Read the files again", "quiet")) }
            }))
        }
        section {
            h2 { "Rules" }
            form.filter method="get" action="/console/policies" {
                (input("tool", "Tool", tool.unwrap_or_default()))
                button type="submit" { "Filter" }
            }
            (table(&found, &hits))
            @if further {
                nav.pager aria-label="Pages of the list" {
                    a.button.quiet rel="next" href={ "/console/policies?" (write_query(&[("tool", tool.unwrap_or_default()), ("from", &next)])) } { "Next" }
                }
            }
        }
        @if !unused.is_empty() {
            section.card {
                h2 { "Never hit since the start" }
                p { @for id in unused.iter().take(MAX_UNUSED) { code.tag { (text(id)) } " " }
                    @if unused.len() > MAX_UNUSED { span.dim { "and " (unused.len() - MAX_UNUSED) " more" } } }
            }
        }
        (playground(visit, tried))
        (candidate(visit, tried))
    };
    Shown::at(Section::Policies, body)
}

fn table(found: &[Summary], hits: &HashMap<Arc<str>, u64>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Rules" {
            table {
                caption.hidden { "Rules" }
                thead { tr { th scope="col" { "Policy" } th scope="col" { "Effect" } th scope="col" { "For" } th scope="col" { "If" } th scope="col" { "Data" } th.right scope="col" { "Hits" } } }
                tbody {
                    @for one in found {
                        tr {
                            td.text { (text(&one.id)) }
                            td { (badge(one.effect.as_str())) @if one.priority > 0 { " " span.dim { "priority " (one.priority) } } }
                            td.wide { @if one.targets.is_empty() { span.dim { "everything" } } @else { (tags(&strs(&one.targets))) } }
                            td.wide { @for condition in &one.conditions { (text(condition)) br; } @if one.conditions.is_empty() { span.dim { "always" } } }
                            td { (one.data_sensitivity.as_str()) }
                            td.right { @match hits.get(&one.id) { Some(hits) => (hits), None => span.dim { "0" } } }
                        }
                    }
                }
            }
        }
        @if found.is_empty() { p.dim.empty { "No policy: every call is refused." } }
    }
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn playground(visit: &Visit, tried: &Tried) -> Markup {
    html! {
        section.card #playground {
            h2 { "Try a call" }
            p.dim { "Nothing is called and nothing is counted. Without a session, only the policies and the drift from the intent are asked." }
            form.stack method="post" action="/console/policies/explain#playground" {
                (token(visit))
                div.grid {
                    (input("tool", "Tool", tried.text("tool")))
                    (input("upstream", "Upstream", tried.text("upstream")))
                    (input("agent_id", "Agent's id", tried.text("agent_id")))
                    (input("session_id", "Session's id", tried.text("session_id")))
                    (input("declared_intent", "Or an intent", tried.text("declared_intent")))
                }
                label for="arguments" { "Arguments, as JSON" }
                textarea #arguments name="arguments" rows="4" spellcheck="false" { (tried.text("arguments")) }
                div.acts { button type="submit" { "Explain" } }
            }
            @match &tried.explained {
                Some(Ok(answer)) => { (explanation(answer)) },
                Some(Err(error)) => { (problem(error)) },
                None => {},
            }
        }
    }
}

fn candidate(visit: &Visit, tried: &Tried) -> Markup {
    html! {
        section.card #candidate {
            h2 { "Check a candidate" }
            p.dim { "The text of a policy file is checked and compared with what is in force. Nothing changes." }
            form.stack method="post" action="/console/policies/validate#candidate" {
                (token(visit))
                label for="toml" { "Policy file" }
                textarea #toml name="toml" rows="10" spellcheck="false" { (tried.text("toml")) }
                div.acts { button type="submit" { "Check and compare" } }
            }
            @match &tried.checked {
                Some(Ok((answer, difference))) => { (checked(answer, difference.as_ref())) },
                Some(Err(error)) => { (problem(error)) },
                None => {},
            }
        }
    }
}

fn checked(answer: &Value, difference: Option<&Difference>) -> Markup {
    let mistakes = |pointer: &str, title: &str| {
        let found = items(answer, pointer);
        html! {
            @if !found.is_empty() {
                h3 { (title) }
                ul { @for one in found.iter().take(50) {
                    li { "line " (number(one, "/line")) ": " (text(string(one, "/message"))) }
                } }
            }
        }
    };
    let named = |title: &str, list: &[Summary]| {
        html! {
            @if !list.is_empty() {
                h3 { (title) " (" (list.len()) ")" }
                ul { @for one in list.iter().take(100) { li { (badge(one.effect.as_str())) " " code { (text(&one.id)) } " " (tags(&strs(&one.targets))) } } }
            }
        }
    };
    html! {
        (mistakes("/errors", "Mistakes"))
        (mistakes("/warnings", "Oddities"))
        @if let Some(difference) = difference {
            p { (badge("valid")) " " (number(answer, "/policies_count")) " policies, " (difference.unchanged) " of them as they are in force." }
            (named("New", &difference.added))
            (named("Gone", &difference.removed))
            @if !difference.changed.is_empty() {
                h3 { "Changed (" (difference.changed.len()) ")" }
                @for (before, after) in difference.changed.iter().take(100) {
                    div.change {
                        p { code { (text(&before.id)) } }
                        p.before { span.hidden { "before: " } (said(before)) }
                        p.after { span.hidden { "after: " } (said(after)) }
                    }
                }
            }
        }
    }
}

fn said(one: &Summary) -> Markup {
    html! {
        (badge(one.effect.as_str())) " " (tags(&strs(&one.targets))) " " (one.data_sensitivity.as_str())
        @for condition in &one.conditions { " · " (text(condition)) }
    }
}

pub(super) async fn explain(visit: &Visit, form: &Form) -> Result<Acted, ApiError> {
    const FIELDS: [&str; 5] = ["tool", "upstream", "agent_id", "session_id", "declared_intent"];
    let mut tried = Tried::default();
    let mut body = Map::new();
    for name in FIELDS {
        if let Some(value) = form.given(name) {
            body.insert(name.to_owned(), json!(value));
            tried.given.insert(name, value.to_owned());
        }
    }
    let arguments = form.get("arguments");
    tried.given.insert("arguments", arguments.to_owned());
    if body.get("agent_id").is_none() && body.get("session_id").is_none() {
        body.insert("agent".to_owned(), json!({}));
    }
    let parsed = if arguments.trim().is_empty() {
        Ok(None)
    } else {
        serde_json::from_str(arguments).map(Some)
    };
    tried.explained = Some(match parsed {
        Ok(arguments) => {
            if let Some::<Value>(arguments) = arguments {
                body.insert("arguments".to_owned(), arguments);
            }
            let body = Some(Value::Object(body));
            visit.act(Ask { method: Method::Post, body, ..Ask::get("/policy/explain") }).await
        }
        Err(error) => Err(ApiError::field("arguments", format!("is not JSON: {error}"))),
    });
    Ok(Acted::Shown(Box::new(show(visit, &tried))))
}

pub(super) async fn validate(visit: &Visit, form: &Form) -> Result<Acted, ApiError> {
    let toml = form.get("toml").to_owned();
    let body = Some(json!({ "toml": toml }));
    let answer =
        visit.act(Ask { method: Method::Post, body, ..Ask::get("/policy/validate") }).await;
    let checked = match answer {
        Ok(answer) if answer.pointer("/valid") == Some(&Value::Bool(true)) => {
            compared(visit, toml.clone()).await.map(|difference| (answer, Some(difference)))
        }
        Ok(answer) => Ok((answer, None)),
        Err(error) => Err(error),
    };
    let tried =
        Tried { checked: Some(checked), given: [("toml", toml)].into(), ..Tried::default() };
    Ok(Acted::Shown(Box::new(show(visit, &tried))))
}

/// Compares a text that was found valid with what is in force.
async fn compared(visit: &Visit, toml: String) -> Result<Difference, ApiError> {
    let rules = visit.console.admin.rulebook.rules();
    let work = tokio::task::spawn_blocking(move || {
        let set = PolicySet::parse(&[Source { name: "candidate", text: &toml }]);
        set.map(|candidate| rules.policies.difference(&candidate))
    });
    match work.await {
        Ok(Ok(difference)) => Ok(difference),
        Ok(Err(_)) => Err(ApiError::new(Code::Internal, "the candidate could not be read again")),
        Err(error) => Err(ApiError::new(Code::Internal, error.to_string())),
    }
}

pub(super) async fn reload(visit: &Visit) -> Result<Acted, ApiError> {
    visit.act(Ask { method: Method::Post, ..Ask::get("/policy/reload") }).await?;
    Ok(Acted::To("/console/policies?done=reloaded".to_owned()))
}
