//! The operators' pages, at `/console` of the admin port: what the gateway does, and what people
//! decide about it.
//!
//! Pages are rendered on the server from what the API's own functions answer, and every act is a call
//! of one of them ([`admin::Ask`](crate::admin::Ask)): same roles, same limits, same records. The
//! templates escape by construction; what agents say is clipped and marked besides ([`shown`]). No
//! answer allows foreign content, inline code, framing or caching, whatever it is.

mod answer;
mod browsers;
mod chart;
mod entry;
mod files;
mod form;
mod history;
mod layout;
mod pages;
mod parts;
mod provider;
mod revision;
mod section;
mod shown;
mod stream;
mod verification;
mod visit;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method as Verb;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::any;
use tokio::sync::Semaphore;

use crate::admin::{Admin, ApiError, Code, Pace};
use crate::config::Config;
use crate::recent::Recent;
pub(crate) use answer::HEADERS;
use answer::{guarded, redirect};
use browsers::Browsers;
use entry::Recognised;
use files::file;
use form::Form;
use history::{EVERY_SECS, History};
use verification::Verification;
use visit::{Signed, Visit};

/// Pages of one person in a minute.
const PAGES_PER_MINUTE: u32 = 600;
/// People whose pages are counted.
const MAX_PEOPLE: usize = 1_000;
/// Event streams that are open at the same time.
const MAX_STREAMS: usize = 64;

/// The pages and what they remember.
pub struct Console {
    admin: Arc<Admin>,
    recent: Arc<Recent>,
    settings: Settings,
    history: History,
    browsers: Browsers,
    pace: Pace,
    verification: Arc<Verification>,
    streams: Arc<Semaphore>,
}

/// Part of the configuration that concerns the console.
#[derive(Clone)]
pub struct Settings {
    /// True if the admin port has TLS.
    pub tls: bool,
    /// Key of the sign-in form's tokens.
    pub entry_key: [u8; 32],
    /// The audit log's file, if there is one.
    pub log: Option<PathBuf>,
}

impl Settings {
    pub fn of(config: &Config) -> Self {
        let secret = config.admin.signing_secrets.signing().expose().as_bytes();
        Self {
            tls: config.admin.tls.is_some(),
            entry_key: blake3::derive_key("arbiter 2026 console: sign-in forms", secret),
            log: config.audit.enabled.then(|| config.audit.file_path.clone()),
        }
    }
}

impl Console {
    pub fn new(admin: Arc<Admin>, recent: Arc<Recent>, settings: Settings) -> Self {
        Self {
            admin,
            recent,
            settings,
            history: History::default(),
            browsers: Browsers::default(),
            pace: Pace::new(PAGES_PER_MINUTE, MAX_PEOPLE),
            verification: Arc::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }

    /// Samples the counters for the charts, for ever.
    pub async fn sample(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(EVERY_SECS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.history.add(self.admin.clock.mono(), self.admin.metrics.totals());
        }
    }

    async fn respond(self: &Arc<Self>, head: &Parts, body: Body) -> Response {
        if let Err(error) = self.admin.check_host(head) {
            return layout::bare_error(&error);
        }
        let path = head.uri.path().strip_prefix("/console").unwrap_or_default();
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        if let ["files", name] = path.as_slice() {
            return file(name, &head.method);
        }
        // The server leaves the body of an answer to HEAD out.
        let verb = if head.method == Verb::HEAD { &Verb::GET } else { &head.method };
        match (verb, path.as_slice()) {
            (&Verb::GET, ["sign-in"]) => return self.sign_in_page(head),
            (&Verb::POST, ["sign-in"]) => return self.sign_in(head, body).await,
            (&Verb::GET, ["sign-in", "provider"]) => return self.send_to_provider(head).await,
            (&Verb::GET, ["sign-in", "return"]) => return self.return_from_provider(head).await,
            _ => {}
        }
        let browser = match self.recognise(head) {
            Recognised::Browser(browser) => *browser,
            Recognised::Elsewhere => return layout::ask_again(head),
            Recognised::Nobody if path == ["events"] => return layout::signed_out(),
            Recognised::Nobody => return entry::send_to_sign_in(head),
        };
        match (verb, path.as_slice()) {
            (&Verb::GET, ["events"]) => self.events(head, browser),
            (&Verb::GET, path) => self.show(head, browser, path).await,
            (&Verb::POST, path) => self.act(head, browser, path, body).await,
            _ => layout::bare_error(&ApiError::new(Code::MethodNotAllowed, "use GET or POST")),
        }
    }

    /// Shows a page.
    async fn show(self: &Arc<Self>, head: &Parts, browser: Signed, path: &[&str]) -> Response {
        let visit = Visit::new(self, head, browser);
        if let Err(error) = self.pace.count(visit.holder.name(), visit.now.mono) {
            return layout::failed(&visit, &error);
        }
        match pages::show(&visit, path).await {
            Ok(Some(shown)) => layout::page(&visit, shown),
            Ok(None) => layout::not_found(&visit),
            Err(error) => layout::failed(&visit, &error),
        }
    }

    /// Does what a form asks for.
    async fn act(
        self: &Arc<Self>,
        head: &Parts,
        browser: Signed,
        path: &[&str],
        body: Body,
    ) -> Response {
        let cookie = browser.cookie.clone();
        let visit = Visit::new(self, head, browser);
        let form = match Form::read(head, body).await {
            Ok(form) => form,
            Err(error) => return layout::failed(&visit, &error),
        };
        if !entry::is_own(head) || !browsers::equal(form.get("token"), &visit.token) {
            let message = "this form is not one that was made for you; go back, reload the page and try again";
            return layout::failed(&visit, &ApiError::new(Code::Forbidden, message));
        }
        if path == ["sign-out"] {
            self.browsers.close(&cookie);
            return self.forget_cookie(redirect("/console/sign-in"));
        }
        match pages::act(&visit, path, &form).await {
            Ok(Some(pages::Acted::To(place))) => redirect(&place),
            Ok(Some(pages::Acted::Shown(shown))) => layout::page(&visit, *shown),
            Ok(None) => layout::not_found(&visit),
            Err(error) => layout::failed(&visit, &error),
        }
    }
}

/// The service under `/console`.
pub fn router(console: Arc<Console>) -> Router {
    let serve = async |State(console): State<Arc<Console>>, request: Request| {
        let (head, body) = request.into_parts();
        guarded(console.respond(&head, body).await)
    };
    Router::new()
        .route("/console", any(serve))
        .route("/console/", any(serve))
        .route("/console/{*path}", any(serve))
        .with_state(console)
}
