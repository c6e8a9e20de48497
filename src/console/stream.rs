//! Event streams: new decisions for the live page, and a word to look again for the others.
//!
//! A stream looks at the ring several times a second, so that no decision ever waits for a browser.
//! Streams are few, end with the sign-in, and end when the gateway goes out of service.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::HeaderName;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::Console;
use super::form::{self, Form};
use super::layout;
use super::pages::live;
use super::revision::{Revision, Topic};
use super::visit::Signed;
use crate::admin::{ApiError, Code, Holder, Method, source_of};

/// Pause between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Decisions in one event.
const MAX_AT_ONCE: usize = 100;

/// State of one stream.
struct Stream {
    console: Arc<Console>,
    topic: Topic,
    filter: Form,
    holder: Holder,
    cookie: String,
    source: std::net::IpAddr,
    ticks: Interval,
    next: u64,
    /// Revision that the page shows; none if it did not say.
    known: Option<Revision>,
    _place: OwnedSemaphorePermit,
}

impl Console {
    /// Opens an event stream.
    pub(super) fn events(self: &Arc<Self>, head: &Parts, browser: Signed) -> Response {
        let filter = form::query(head.uri.query());
        let Some(topic) = Topic::of(filter.get("topic")) else {
            return layout::bare_error(&ApiError::not_found("stream"));
        };
        if !self.admin.may(&browser.actor, Method::Get, "/agents") {
            let message = "this role has no live pages";
            return layout::bare_error(&ApiError::new(Code::Forbidden, message));
        }
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            let message = "too many pages are open: reload this one later";
            return layout::bare_error(&ApiError::new(Code::RateLimited, message).retry_after(5));
        };
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A browser that comes back says up to where it has shown them.
        let last = head.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        let after = last.unwrap_or_else(|| filter.get("after")).parse().ok();
        let stream = Stream {
            topic,
            holder: browser.holder,
            cookie: browser.cookie,
            source: source_of(head),
            ticks,
            next: after.unwrap_or_else(|| self.recent.next()).min(self.recent.next()),
            known: Revision::read(filter.get("seen")),
            filter,
            console: Arc::clone(self),
            _place: place,
        };
        let events = futures::stream::unfold(stream, Stream::step);
        Sse::new(events)
            .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
            .into_response()
    }
}

impl Stream {
    async fn step(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            self.ticks.tick().await;
            let admin = &self.console.admin;
            let now = admin.clock.now();
            // Nobody stays by a key that does not count any more.
            if admin.drain.is_leaving()
                || !self.console.browsers.counts(&self.cookie, now.mono)
                || admin.actor_of(&self.holder, self.source, now).is_none()
            {
                return None;
            }
            if self.topic == Topic::Live {
                if let Some(event) = self.decisions() {
                    return Some((Ok(event), self));
                }
                continue;
            }
            let shown = self.console.revision();
            if self.known.map(|known| known.of(self.topic)) != Some(shown.of(self.topic)) {
                self.known = Some(shown);
                return Some((Ok(Event::default().event("refresh").data("now")), self));
            }
        }
    }

    /// Returns the rows of new decisions, if there are any that the filter wants.
    fn decisions(&mut self) -> Option<Event> {
        let (found, next) = self.console.recent.since(self.next, MAX_AT_ONCE);
        self.next = next;
        let wanted = live::Filter::of(&self.filter);
        let rows: Vec<_> = found.iter().filter(|seen| wanted.holds(seen)).collect();
        if rows.is_empty() {
            return None;
        }
        // The newest first, as on the page.
        let html: String =
            rows.into_iter().rev().map(|seen| live::row(seen).into_string()).collect();
        Some(Event::default().event("rows").id(next.to_string()).data(html))
    }
}
