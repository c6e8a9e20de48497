//! Decisions as they come.

use maud::{Markup, html};

use crate::console::form::{Form, write_query};
use crate::console::parts::{badge, clock, id, input, took};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::recent::Seen;
use crate::saturate::SaturatingFrom as _;

/// Decisions on the page before the first new one.
const SHOWN: usize = 100;

/// Decisions that a person wants to see.
pub(in crate::console) struct Filter<'f> {
    agent: &'f str,
    tool: &'f str,
    code: &'f str,
    session: &'f str,
}

impl<'f> Filter<'f> {
    pub(in crate::console) fn of(query: &'f Form) -> Self {
        let given = |name| query.given(name).unwrap_or_default();
        Self {
            agent: given("agent"),
            tool: given("tool"),
            code: given("code"),
            session: given("session"),
        }
    }

    pub(in crate::console) fn holds(&self, seen: &Seen) -> bool {
        let begins = |wanted: &str, id: Option<String>| {
            wanted.is_empty() || id.is_some_and(|id| id.starts_with(&wanted.to_ascii_lowercase()))
        };
        let tool = seen.tool.as_deref().unwrap_or_default();
        begins(self.agent, seen.agent.map(|id| id.to_string()))
            && begins(self.session, seen.session.map(|id| id.to_string()))
            && (self.tool.is_empty() || tool.contains(self.tool))
            && (self.code.is_empty() || seen.code == Some(self.code))
    }
}

/// Renders one decision as a row.
pub(in crate::console) fn row(seen: &Seen) -> Markup {
    let request = seen.request_id.to_string();
    let agent = seen.agent.map(|id| id.to_string()).unwrap_or_default();
    let session = seen.session.map(|id| id.to_string()).unwrap_or_default();
    html! {
        tr {
            td { a href={ "/console/why/" (request) } title="Explain this decision" { (clock(&seen.at.to_string())) } }
            td { (badge(seen.decision.as_str())) }
            td.wide {
                @match (&seen.tool, &seen.method) {
                    (Some(tool), _) => code { (text(tool)) },
                    (None, Some(method)) => span.dim { (text(method)) },
                    (None, None) => {},
                }
                @if seen.more_tools > 0 { span.dim { " and " (seen.more_tools) " more" } }
                @for flag in &seen.flags { " " span.flag { (flag) } }
            }
            td { @if let Some(code) = seen.code { code { (code) } } }
            td { (id("agents", &agent)) }
            td { (id("sessions", &session)) }
            td.text { @if let Some(policy) = &seen.policy { (text(policy)) } }
            td.right { (took(f64::from(u32::saturating_from(seen.took_us)))) }
        }
    }
}

/// Renders decisions as a table.
pub(in crate::console) fn table(caption: &str, rows: &[std::sync::Arc<Seen>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption.hidden { (caption) }
                thead {
                    tr {
                        th scope="col" { "Time" }
                        th scope="col" { "Decision" }
                        th scope="col" { "Call" }
                        th scope="col" { "Code" }
                        th scope="col" { "Agent" }
                        th scope="col" { "Session" }
                        th scope="col" { "Policy" }
                        th.right scope="col" { "Took" }
                    }
                }
                tbody #rows { @for seen in rows { (row(seen)) } }
            }
        }
        @if rows.is_empty() { p.dim.empty { "Nothing yet." } }
    }
}

pub(super) fn show(visit: &Visit) -> Shown {
    let filter = Filter::of(&visit.query);
    let after = visit.console.recent.next();
    let rows = visit.console.recent.newest(SHOWN, |seen| filter.holds(seen));
    let body = html! {
        form.filter method="get" action="/console/live" {
            (input("agent", "Agent", filter.agent))
            (input("tool", "Tool", filter.tool))
            (input("code", "Code", filter.code))
            (input("session", "Session", filter.session))
            button type="submit" { "Filter" }
            button.quiet.needs-script #pause type="button" aria-pressed="false" { "Pause" }
        }
        p.dim #live-state role="status" { "The last decisions of this node. Select a time to have one explained." }
        (table("Decisions, newest first", &rows))
    };
    let query = write_query(&[
        ("topic", "live"),
        ("after", &after.to_string()),
        ("agent", filter.agent),
        ("tool", filter.tool),
        ("code", filter.code),
        ("session", filter.session),
    ]);
    Shown { topic: Some(query), ..Shown::at(Section::Live, body) }
}
