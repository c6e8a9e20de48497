//! The frame around every page: navigation, notices, errors, and the pages before a sign-in.

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use maud::{DOCTYPE, Markup, html};

use super::answer;
use super::form::write_query;
use super::section::{Section, Shown};
use super::shown::text;
use super::visit::Visit;
use crate::admin::{ApiError, Method, People};

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · Arbiter" }
            link rel="icon" href="/console/files/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/console/files/console.css";
            script src="/console/files/console.js" defer {}
        }
    }
}

fn brand() -> Markup {
    html! {
        a.brand href="/console" {
            img src="/console/files/icon.svg" alt="" width="28" height="28";
            span { "Arbiter" }
        }
    }
}

/// Answers with a page for somebody who has signed in.
pub(super) fn page(visit: &Visit, shown: Shown) -> Response {
    let Shown { section, title, body, topic } = shown;
    let markup = frame(visit, Some(section), &title, topic.as_deref(), &body);
    answer::html(markup, StatusCode::OK)
}

fn frame(
    visit: &Visit,
    section: Option<Section>,
    title: &str,
    topic: Option<&str>,
    body: &Markup,
) -> Markup {
    let approvals = visit.console.admin.approvals.pending();
    let sections = Section::ALL.into_iter().filter(|section| {
        let (method, path) = section.needs();
        visit.may(method, path)
    });
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body data-topic=[topic] data-seen=[topic.map(|_| visit.seen)] {
                a.skip href="#main" { "Skip to the content" }
                header.side {
                    (brand())
                    nav aria-label="Pages" {
                        ul {
                            @for one in sections {
                                li {
                                    a href=(one.path()) aria-current=[(Some(one) == section).then_some("page")] {
                                        (one.name())
                                        @if one == Section::Approvals && approvals > 0 {
                                            " " span.count { (approvals) span.hidden { " waiting" } }
                                        }
                                    }
                                }
                            }
                        }
                    }
                    div.person {
                        span.who title=(visit.actor.role_text()) {
                            (text(&visit.actor.name)) " " span.role { (visit.actor.role_text()) }
                        }
                        form method="post" action="/console/sign-out" {
                            (token(visit))
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
                main #main tabindex="-1" {
                    h1 { (title) }
                    @if let Some(notice) = notice(visit.query.get("done")) {
                        p.notice role="status" { (notice) }
                    }
                    (body)
                }
            }
        }
    }
}

/// Words for what a form did; the address carries only the key.
fn notice(done: &str) -> Option<&'static str> {
    Some(match done {
        "closed" => "The session is closed.",
        "deactivated" => "The agent is deactivated, and everything below it.",
        "trust" => "The trust level is set.",
        "approved" => "Approved: the agent may repeat exactly this call.",
        "denied" => "Denied until the approval expires.",
        "reloaded" => "The policy files were read again and are in force.",
        "frozen" => "Frozen.",
        "lifted" => "The freeze is lifted.",
        _ => return None,
    })
}

/// The hidden field that each form carries.
pub(super) fn token(visit: &Visit) -> Markup {
    html! { input type="hidden" name="token" value=(visit.token); }
}

/// Answers with a page that says what went wrong.
pub(super) fn failed(visit: &Visit, error: &ApiError) -> Response {
    let body = html! {
        (problem(error))
        p { a href="/console" { "To the overview" } }
    };
    answer::with_error(frame(visit, None, &error_title(error), None, &body), error)
}

pub(super) fn not_found(visit: &Visit) -> Response {
    failed(visit, &ApiError::not_found("page"))
}

fn error_title(error: &ApiError) -> String {
    let status = error.code.status();
    status.canonical_reason().unwrap_or("Error").to_owned()
}

/// Renders what went wrong, mistakes in policies included.
pub(super) fn problem(error: &ApiError) -> Markup {
    html! {
        div.problem role="alert" {
            p { strong { (error.code.name()) } ": " (text(&error.message)) }
            @if !error.mistakes.is_empty() {
                ul {
                    @for mistake in error.mistakes.iter().take(50) { li { (text(&mistake.to_string())) } }
                }
            }
        }
    }
}

fn bare(title: &str, refresh: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(place) = refresh { meta http-equiv="refresh" content={ "0;url=" (place) }; }
                title { (title) " · Arbiter" }
                link rel="icon" href="/console/files/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console/files/console.css";
            }
            body.alone { main #main { (brand()) h1 { (title) } (body) } }
        }
    }
}

/// Answers with an error outside the frame, for nobody in particular.
pub(super) fn bare_error(error: &ApiError) -> Response {
    answer::with_error(bare(&error_title(error), None, &problem(error)), error)
}

/// Answers a stream of somebody who is not signed in any more.
pub(super) fn signed_out() -> Response {
    let error = ApiError::new(crate::admin::Code::Unauthorized, "sign in again");
    bare_error(&error)
}

/// Answers a link from another site: the browser asks for the same address again, from here.
pub(super) fn ask_again(head: &Parts) -> Response {
    let place = head.uri.path_and_query().map_or("/console", |all| all.as_str());
    let body = html! {
        p { "This link came from another site." }
        p { a.button href=(place) { "Continue" } }
    };
    answer::html(bare("One moment", Some(place), &body), StatusCode::OK)
}

/// Renders the page after a sign-in at another site: the browser asks for the wanted page from here.
pub(super) fn signed_in(next: &str) -> Markup {
    bare("Signed in", Some(next), &html! { p { a.button href=(next) { "Continue" } } })
}

/// Renders the sign-in form.
pub(super) fn sign_in(
    token: &str,
    next: &str,
    error: Option<&ApiError>,
    open: bool,
    people: Option<&People>,
) -> Markup {
    let body = html! {
        @if let Some(error) = error { (problem(error)) }
        @if let Some(provider) = people.and_then(People::signs_in_at).filter(|_| open) {
            div.card.stack {
                a.button href={ "/console/sign-in/provider?" (write_query(&[("next", next)])) } {
                    "Sign in with " (text(provider))
                }
            }
        }
        @if open {
            form.card.stack method="post" action="/console/sign-in" {
                input type="hidden" name="token" value=(token);
                input type="hidden" name="next" value=(next);
                label for="key" { @if people.is_some() { "Admin key, or token of your identity provider" } @else { "Admin key" } }
                input #key type="password" name="key" autocomplete="current-password" required autofocus;
                button type="submit" { "Sign in" }
            }
            p.dim { "What you may see and do here is what the key's role may." }
        }
    };
    bare("Sign in", None, &body)
}

/// A form that is one button.
pub(super) fn button(visit: &Visit, action: &str, label: &str, class: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            (token(visit))
            button class=(class) type="submit" { (label) }
        }
    }
}

/// A note for those whose role may not do what a page would offer.
pub(super) fn may(visit: &Visit, method: Method, path: &str, offered: &Markup) -> Markup {
    html! { @if visit.may(method, path) { (offered) } }
}
