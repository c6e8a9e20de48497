//! Signing in and out, and recognising a browser afterwards.
//!
//! A person shows an admin key or an operator's token once, over TLS or on this machine; from then on
//! the browser has a cookie that no script reads and no other site sends. A wrong key counts like a
//! wrong key of the API. A link from another site arrives without the cookie: it is answered with a
//! page that asks for the same address again, now from here.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{COOKIE, HOST, HeaderName, HeaderValue, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::response::Response;

use super::answer::{html, redirect, with_error};
use super::browsers::{LONGEST_SECS, equal, random};
use super::form::{Form, query, write_query};
use super::visit::Signed;
use super::{Console, layout};
use crate::admin::{ApiError, Code, Method, source_of};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Longest key or token, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// Result of looking at a request's cookie.
pub(super) enum Recognised {
    Browser(Box<Signed>),
    /// The request comes from another site, so the cookie may only be withheld.
    Elsewhere,
    Nobody,
}

/// Names of the cookies: of a signed-in browser, of the sign-in form, and of a browser that is at the
/// identity provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cookies {
    secure: bool,
}

impl Cookies {
    pub(super) fn session(self) -> &'static str {
        if self.secure { "__Host-arbiter-console" } else { "arbiter-console" }
    }

    /// Name of the cookie of the sign-in form.
    pub(super) fn entry(self) -> &'static str {
        if self.secure { "__Host-arbiter-entry" } else { "arbiter-entry" }
    }

    /// Name of the cookie of a browser that is at the identity provider.
    pub(super) fn provider(self) -> &'static str {
        if self.secure { "__Host-arbiter-provider" } else { "arbiter-provider" }
    }

    pub(super) fn set(self, name: &str, value: &str, secs: u64) -> Option<HeaderValue> {
        self.set_for("Strict", name, value, secs)
    }

    /// Sets a cookie that comes along when a browser is sent here from another site.
    pub(super) fn set_lax(self, name: &str, value: &str, secs: u64) -> Option<HeaderValue> {
        self.set_for("Lax", name, value, secs)
    }

    fn set_for(self, sites: &str, name: &str, value: &str, secs: u64) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        let text =
            format!("{name}={value}; Path=/; Max-Age={secs}; HttpOnly; SameSite={sites}{secure}");
        HeaderValue::from_str(&text).ok()
    }
}

pub(super) fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Returns the value of a cookie that is there once.
pub(super) fn cookie<'h>(head: &'h Parts, name: &str) -> Option<&'h str> {
    let lines = head.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// Reports whether a form was sent by one of the console's own pages, as far as the browser says.
pub(super) fn is_own(head: &Parts) -> bool {
    let header = |name: &HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
    let site = header(&FETCH_SITE).is_none_or(|site| site == b"same-origin");
    let host = header(&HOST).and_then(|host| str::from_utf8(host).ok());
    let host = head.uri.host().and(head.uri.authority().map(Authority::as_str)).or(host);
    let origin = header(&ORIGIN).is_none_or(|origin| {
        let origin = str::from_utf8(origin).unwrap_or_default();
        let bare = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        bare.is_some() && bare == host
    });
    site && origin
}

/// Returns an address of the console to go to after the sign-in; any other becomes the first page.
pub(super) fn next_page(text: &str) -> &str {
    let own = text == "/console" || text.starts_with("/console/") || text.starts_with("/console?");
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if own && plain && !text.starts_with("/console/sign-") { text } else { "/console" }
}

/// Sends somebody who is not signed in to the form.
pub(super) fn send_to_sign_in(head: &Parts) -> Response {
    let wanted = head.uri.path_and_query().map_or("/console", |all| all.as_str());
    let query = write_query(&[("next", next_page(wanted))]);
    redirect(&format!("/console/sign-in?{query}"))
}

impl Console {
    pub(super) fn cookies(&self) -> Cookies {
        Cookies { secure: self.settings.tls }
    }

    /// Refuses to take a key that others on the way could read.
    pub(super) fn check_channel(&self, source: IpAddr) -> Result<(), ApiError> {
        if self.settings.tls || source.is_loopback() {
            return Ok(());
        }
        let message = "nobody signs in over plain HTTP from another machine: set `admin.tls`, or come \
                       through a tunnel that ends on this machine";
        Err(ApiError::new(Code::Forbidden, message))
    }

    pub(super) fn recognise(&self, head: &Parts) -> Recognised {
        let now = self.admin.clock.now();
        let source = source_of(head);
        let Some(cookie) = cookie(head, self.cookies().session()) else {
            let site = head.headers.get(&FETCH_SITE).map(HeaderValue::as_bytes);
            let elsewhere = matches!(site, Some(b"cross-site" | b"same-site"));
            return if elsewhere { Recognised::Elsewhere } else { Recognised::Nobody };
        };
        if self.check_channel(source).is_err() {
            return Recognised::Nobody;
        }
        let Some(browser) = self.browsers.find(cookie, now.mono) else { return Recognised::Nobody };
        let Some(actor) = self.admin.actor_of(&browser.holder, source, now) else {
            self.browsers.close(cookie);
            return Recognised::Nobody;
        };
        let (holder, token) = (browser.holder, browser.token);
        Recognised::Browser(Box::new(Signed { holder, actor, token, cookie: cookie.to_owned() }))
    }

    /// Shows the sign-in form.
    pub(super) fn sign_in_page(&self, head: &Parts) -> Response {
        self.sign_in_form(head, query(head.uri.query()).get("next"), None)
    }

    pub(super) fn sign_in_form(
        &self,
        head: &Parts,
        next: &str,
        error: Option<&ApiError>,
    ) -> Response {
        let source = source_of(head);
        let refused = self.check_channel(source).err();
        let secret = cookie(head, self.cookies().entry()).filter(|text| text.len() == 64);
        let secret = secret.map_or_else(random, str::to_owned);
        let markup = layout::sign_in(
            &self.entry_token(&secret),
            next_page(next),
            refused.as_ref().or(error),
            refused.is_none(),
            self.admin.people.as_ref(),
        );
        let response = match refused.as_ref().or(error) {
            Some(error) => with_error(markup, error),
            None => html(markup, StatusCode::OK),
        };
        let cookies = self.cookies();
        with_cookie(response, cookies.set(cookies.entry(), &secret, 3_600))
    }

    /// Token of the sign-in form for a browser with this secret.
    fn entry_token(&self, secret: &str) -> String {
        blake3::keyed_hash(&self.settings.entry_key, secret.as_bytes()).to_hex().to_string()
    }

    pub(super) async fn sign_in(&self, head: &Parts, body: Body) -> Response {
        let source = source_of(head);
        let form = match self.check_channel(source) {
            Ok(()) => Form::read(head, body).await,
            Err(error) => Err(error),
        };
        let form = match form {
            Ok(form) => form,
            Err(error) => return self.sign_in_form(head, "", Some(&error)),
        };
        let next = form.get("next");
        let cookies = self.cookies();
        let secret = cookie(head, cookies.entry()).unwrap_or_default();
        if !is_own(head) || !equal(form.get("token"), &self.entry_token(secret)) {
            let message = "this form is too old, or this browser keeps no cookies: try again";
            return self.sign_in_form(head, next, Some(&ApiError::new(Code::Forbidden, message)));
        }
        let key = form.get("key").trim();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let error = ApiError::new(Code::Unauthorized, "enter an admin key");
            return self.sign_in_form(head, next, Some(&error));
        }
        let holder = match self.admin.sign_in(key, source).await {
            Ok(holder) => holder,
            Err(error) => return self.sign_in_form(head, next, Some(&wrong(error))),
        };
        let now = self.admin.clock.now();
        let sees = self.admin.actor_of(&holder, source, now);
        if !sees.is_some_and(|actor| self.admin.may(&actor, Method::Get, "/sessions")) {
            let message =
                "this key's role has no pages: ask for one of viewer, operator, approver or admin";
            return self.sign_in_form(head, next, Some(&ApiError::new(Code::Forbidden, message)));
        }
        let value = self.browsers.sign_in(holder, now.mono);
        let response = redirect(next_page(next));
        let session = cookies.set(cookies.session(), &value, LONGEST_SECS);
        let response = with_cookie(response, session);
        with_cookie(response, cookies.set(cookies.entry(), "", 0))
    }

    /// Has the browser forget its cookie.
    pub(super) fn forget_cookie(&self, response: Response) -> Response {
        let cookies = self.cookies();
        with_cookie(response, cookies.set(cookies.session(), "", 0))
    }
}

/// Words a refused key for a person instead of a program.
fn wrong(error: ApiError) -> ApiError {
    match error.code {
        Code::Unauthorized => ApiError::new(Code::Unauthorized, "this key is not a right one"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/console");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_addresses_of_the_console_follow_a_sign_in() {
        for own in ["/console", "/console/live?agent=1", "/console/approvals/x"] {
            assert_eq!(next_page(own), own);
        }
        for other in [
            "",
            "//evil",
            "/consoles",
            "https://evil",
            "/console/\\evil",
            "/console/sign-in",
            "/console/\r",
        ] {
            assert_eq!(next_page(other), "/console", "{other}");
        }
    }

    #[test]
    fn a_form_of_another_site_is_not_own() {
        let host = ("host", "127.0.0.1:3000");
        assert!(is_own(&head(&[host])));
        assert!(is_own(&head(&[
            host,
            ("origin", "http://127.0.0.1:3000"),
            ("sec-fetch-site", "same-origin")
        ])));
        for bad in [
            [host, ("origin", "http://evil"), ("sec-fetch-site", "same-origin")],
            [host, ("origin", "null"), ("sec-fetch-site", "same-origin")],
            [host, ("origin", "http://127.0.0.1:3000"), ("sec-fetch-site", "same-site")],
            [host, ("origin", "http://127.0.0.1:3001"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_own(&head(&bad)), "{bad:?}");
        }
    }

    #[test]
    fn a_cookie_that_is_there_twice_is_none() {
        let found = |line| cookie(&head(&[("cookie", line)]), "a").map(str::to_owned);
        assert_eq!(found("b=1; a=2").as_deref(), Some("2"));
        assert_eq!(found("a=1; a=2"), None);
        assert_eq!(found("aa=1"), None);
    }
}
