//! The last quarter of an hour at a glance, and what needs somebody.

use std::collections::{HashMap, HashSet};

use maud::{Markup, html};

use crate::console::chart::{Line, bar, chart, count};
use crate::console::history::Span;
use crate::console::parts::{badge, id, tile, time, took};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::firewall::agent::AgentId;
use crate::firewall::approvals::Status;
use crate::firewall::session;

/// Seconds that the charts cover.
const COVERED_SECS: f64 = 900.0;
/// Rows of a short list.
const ROWS: usize = 8;
/// Share of a budget from which a session is listed, in percent.
const NEARLY_USED_PCT: u64 = 80;

/// Writes a rate.
fn rate(value: f64) -> String {
    if value == 0.0 || value >= 100.0 { format!("{value:.0}/s") } else { format!("{value:.1}/s") }
}

fn line<'l>(
    name: &'l str,
    class: &'static str,
    spans: &[Span],
    value: impl Fn(&Span) -> Option<f64>,
) -> Line<'l> {
    let points = spans.iter().map(|span| (span.ago_secs, value(span))).collect();
    Line { name, class, points }
}

pub(super) fn show(visit: &Visit) -> Shown {
    let console = &visit.console;
    let spans = console.history.spans();
    let last = spans.last().copied().unwrap_or_default();
    let levels = console.admin.metrics.levels();
    let snapshot = console.admin.metrics.snapshot();
    let up = snapshot.upstreams.iter().filter(|server| server.up).count();
    let servers = snapshot.upstreams.len();
    let refusals = console.history.refusals();
    let most = refusals.first().map_or(1, |(_, count)| *count);
    let freezes = console.admin.freezer.list(visit.now).len();
    let waiting = levels.approvals_pending;
    let body = html! {
        @if freezes > 0 {
            p.problem role="status" { strong { "Frozen: " } (freezes) " freezes are in force. " a href="/console/health#freezes" { "See them" } }
        }
        dl.tiles {
            (tile("Allowed", &rate(last.allowed_per_sec), "good"))
            (tile("Refused", &rate(last.refused_per_sec), if last.refused_per_sec > 0.0 { "bad" } else { "" }))
            (tile("Arbiter's share, p99", &last.p99_us.map_or_else(|| "–".to_owned(), took), ""))
            (tile("In flight", &levels.calls_in_flight.to_string(), ""))
            (tile("Active sessions", &levels.active_sessions.to_string(), ""))
            (tile("Agents", &levels.registered_agents.to_string(), ""))
            (tile("Waiting for a person", &waiting.to_string(), if waiting > 0 { "warn" } else { "" }))
            (tile("Upstream servers up", &format!("{up} of {servers}"), if up < servers { "bad" } else { "good" }))
            (tile("Node", if snapshot.ready { "ready" } else { "not ready" }, if snapshot.ready { "good" } else { "bad" }))
        }
        div.two {
            section.card {
                (chart("Calls per second", &[
                    line("allowed", "line-good", &spans, |span| Some(span.allowed_per_sec)),
                    line("refused", "line-bad", &spans, |span| Some(span.refused_per_sec)),
                ], COVERED_SECS, rate))
            }
            section.card {
                (chart("Arbiter's share of a call", &[
                    line("p50", "line-one", &spans, |span| span.p50_us),
                    line("p99", "line-two", &spans, |span| span.p99_us),
                ], COVERED_SECS, took))
            }
        }
        div.two {
            section.card {
                h2 { "Refusals by code, 15 minutes" }
                @if refusals.is_empty() { p.dim { "None." } }
                ul.bars {
                    @for (code, refused) in refusals.iter().take(12) {
                        li { a href={ "/console/live?code=" (code) } { (code) } (count(*refused, most)) }
                    }
                }
            }
            section.card { h2 { "Waiting for a person" } (approvals(visit)) }
            section.card { h2 { "Agents that drift" } (drifting(visit)) }
            section.card { h2 { "Budgets that run out" } (running_out(visit)) }
        }
    };
    Shown { topic: Some("topic=overview".to_owned()), ..Shown::at(Section::Overview, body) }
}

fn approvals(visit: &Visit) -> Markup {
    let now = visit.console.admin.approvals.time(visit.now);
    let pending =
        |one: &crate::firewall::approvals::Approval| one.status_at(now) == Status::Pending;
    let found = visit.console.admin.approvals.list(pending, None, ROWS);
    html! {
        @if found.is_empty() { p.dim { "Nobody is waiting." } } @else {
            ul.rows {
                @for one in &found {
                    li {
                        a href={ "/console/approvals/" (one.id) } { code { (text(&one.target)) } }
                        span.dim { " until " (time(&one.expires_at.to_string())) }
                    }
                }
            }
        }
    }
}

/// Lists agents by the flags of their last decisions.
fn drifting(visit: &Visit) -> Markup {
    let mut flags: HashMap<AgentId, usize> = HashMap::new();
    for seen in visit
        .console
        .recent
        .newest(usize::MAX, |seen| !seen.flags.is_empty() || seen.code == Some("DriftDetected"))
    {
        if let Some(agent) = seen.agent {
            *flags.entry(agent).or_default() += 1;
        }
    }
    let mut found: Vec<_> = flags.into_iter().collect();
    found.sort_by_key(|(agent, count)| (std::cmp::Reverse(*count), agent.to_string()));
    html! {
        @if found.is_empty() { p.dim { "None among the last decisions." } } @else {
            ul.rows {
                @for (agent, count) in found.iter().take(ROWS) {
                    @let known = visit.console.admin.registry.agent(*agent);
                    li {
                        (id("agents", &agent.to_string())) " "
                        @if let Some(known) = known { (text(&known.owner)) " " (badge(known.trust.as_str())) }
                        span.dim { " " (count) " flagged" }
                    }
                }
            }
        }
    }
}

/// Lists sessions of the last decisions whose budget is nearly used.
fn running_out(visit: &Visit) -> Markup {
    let mut looked_at = HashSet::new();
    let mut found = Vec::new();
    for seen in visit.console.recent.newest(usize::MAX, |seen| seen.session.is_some()) {
        let Some(live) = seen
            .session
            .filter(|id| looked_at.insert(*id))
            .and_then(|id| visit.console.admin.sessions.get(id))
        else {
            continue;
        };
        let (used, all) = (live.with(|usage| usage.calls_made), live.order.call_budget);
        let nearly = used.saturating_mul(100) >= all.saturating_mul(NEARLY_USED_PCT);
        if nearly && live.status(visit.now) == session::Status::Active {
            found.push((used, all, live));
        }
    }
    found.sort_by_key(|(used, all, _)| all.saturating_sub(*used));
    html! {
        @if found.is_empty() { p.dim { "None among the last decisions." } } @else {
            ul.bars {
                @for (used, all, live) in found.iter().take(ROWS) {
                    li { (id("sessions", &live.order.id.to_string())) (bar(*used, *all, &format!("{used} of {all}"))) }
                }
            }
        }
    }
}
