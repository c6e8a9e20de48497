//! Health: store, leases, issuers, upstreams, certificate, log volume; and freezes.

use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::Acted;
use crate::admin::{ApiError, Ask, Method};
use crate::console::chart::bar;
use crate::console::form::Form;
use crate::console::layout::{button, may, token};
use crate::console::parts::{badge, bytes, facts, input, items, select, span_of, string, time};
use crate::console::section::{Section, Shown};
use crate::console::shown::text;
use crate::console::visit::Visit;
use crate::firewall::time::Timestamp;
use crate::metrics::Snapshot;

const SCOPES: [(&str, &str); 5] = [
    ("agent", "one agent"),
    ("owner", "an owner's agents"),
    ("tool", "a tool"),
    ("upstream", "an upstream"),
    ("all", "everything"),
];

pub(super) async fn show(visit: &Visit) -> Result<Shown, ApiError> {
    let snapshot = visit.console.admin.metrics.snapshot();
    let levels = visit.console.admin.metrics.levels();
    let freezes = visit.read(Ask::get("/freeze")).await?;
    let used = snapshot.journal_slots.saturating_sub(snapshot.journal_slots_free);
    let has_others = visit.console.admin.freshness.has_others();
    let body = html! {
        div.two {
            section.card {
                h2 { "This node" }
                (facts(&[
                    ("Serves", badge(if snapshot.ready { "ready" } else { "not ready" })),
                    ("Draining", html! { @if levels.draining { "yes" } @else { "no" } }),
                    ("Requests under way", html! { (levels.calls_in_flight) }),
                    ("Active sessions", html! { (levels.active_sessions) }),
                    ("Version", html! { (env!("CARGO_PKG_VERSION")) }),
                ]))
            }
            section.card {
                h2 { "Store" }
                (facts(&[
                    ("Kind", html! { @if has_others { "shared with other nodes" } @else { "of this node alone" } }),
                    ("Behind other nodes by", html! { (span_of(snapshot.store_staleness.as_secs())) }),
                    ("Leases refilled, failed", { let (well, ill) = visit.console.admin.metrics.operation.leases(); html! { (well) ", " (ill) } }),
                ]))
            }
            section.card {
                h2 { "Audit log" }
                (facts(&[
                    ("State", badge(if levels.audit_healthy { "healthy" } else { "unhealthy" })),
                    ("Current file", html! { (bytes(snapshot.log_bytes)) }),
                    ("Records since the start", html! { (levels.audit_records) }),
                    ("Calls in the journal", bar(used, snapshot.journal_slots, &format!("{used} of {} slots", snapshot.journal_slots))),
                ]))
            }
            section.card {
                h2 { "Certificate" }
                (certificate(visit, snapshot.certificate_expires))
            }
        }
        (issuers(&snapshot))
        (upstreams(&snapshot))
        (frozen(visit, items(&freezes, "/freezes")))
    };
    Ok(Shown::at(Section::Health, body))
}

fn certificate(visit: &Visit, expires: Option<i64>) -> Markup {
    let Some(expires) = expires else {
        return html! { p.dim { "Agents are served over plain HTTP." } };
    };
    let left = u64::try_from(expires.saturating_sub(visit.now.wall.as_secs())).unwrap_or_default();
    html! {
        (facts(&[
            ("Ends", time(&Timestamp::from_secs(expires).to_string())),
            ("Left", html! { (span_of(left)) @if left < 14 * 86_400 { " " (badge("warning")) } }),
        ]))
    }
}

fn issuers(snapshot: &Snapshot) -> Markup {
    html! {
        @if !snapshot.issuers.is_empty() {
            section.card {
                h2 { "Identity providers" }
                div.scroll tabindex="0" role="region" aria-label="Identity providers" {
                    table {
                        thead { tr { th scope="col" { "Issuer" } th.right scope="col" { "Age of its keys" } th.right scope="col" { "Failed fetches" } } }
                        tbody {
                            @for one in &snapshot.issuers {
                                tr { td { (text(&one.issuer)) } td.right { (span_of(one.age.as_secs())) } td.right { (one.errors) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn upstreams(snapshot: &Snapshot) -> Markup {
    html! {
        section.card {
            h2 { "Upstream servers" }
            div.scroll tabindex="0" role="region" aria-label="Upstream servers" {
                table {
                    thead { tr { th scope="col" { "Upstream" } th scope="col" { "Server" } th scope="col" { "State" } } }
                    tbody {
                        @for one in &snapshot.upstreams {
                            tr {
                                td { @if one.upstream.is_empty() { span.dim { "default" } } @else { (text(&one.upstream)) } }
                                td { (text(&one.server)) }
                                td { (badge(if one.up { "up" } else { "down" })) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn frozen(visit: &Visit, freezes: &[Value]) -> Markup {
    html! {
        section.card #freezes {
            h2 { "Freezes" }
            @if freezes.is_empty() { p.dim { "Nothing is frozen." } }
            ul.rows {
                @for one in freezes {
                    li {
                        (badge("frozen")) " " (string(one, "/scope")) " " code { (text(string(one, "/value"))) }
                        " " (text(string(one, "/reason"))) " "
                        span.dim { "by " (text(string(one, "/frozen_by"))) " at " (time(string(one, "/frozen_at")))
                            @if !string(one, "/until").is_empty() { " until " (time(string(one, "/until"))) } }
                        (may(visit, Method::Delete, "/freeze/{id}", &button(visit, &format!("/console/freezes/{}/lift", string(one, "/freeze_id")), "Lift", "quiet")))
                    }
                }
            }
            (may(visit, Method::Post, "/freeze", &html! {
                details {
                    summary { "Freeze something" }
                    form.stack method="post" action="/console/freezes" {
                        (token(visit))
                        (select("scope", "What", &SCOPES, "agent"))
                        (input("value", "Id, owner, tool or upstream", ""))
                        (input("reason", "Reason, shown to refused agents", ""))
                        div.acts { button.danger type="submit" { "Freeze" } }
                    }
                }
            }))
        }
    }
}

pub(super) async fn freeze(visit: &Visit, form: &Form) -> Result<Acted, ApiError> {
    let mut body = Map::new();
    for name in ["scope", "value", "reason"] {
        if let Some(value) = form.given(name) {
            body.insert(name.to_owned(), json!(value));
        }
    }
    let body = Some(Value::Object(body));
    visit.act(Ask { method: Method::Post, body, ..Ask::get("/freeze") }).await?;
    Ok(Acted::To("/console/health?done=frozen#freezes".to_owned()))
}

pub(super) async fn lift(visit: &Visit, id: &str) -> Result<Acted, ApiError> {
    visit.act(Ask::of(Method::Delete, "/freeze/{id}", id)).await?;
    Ok(Acted::To("/console/health?done=lifted#freezes".to_owned()))
}
