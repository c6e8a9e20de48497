//! Sign-in at the identity provider: the way there, and the way back.
//!
//! The one thing that is kept meanwhile is a cookie of the browser, from which, with a key of the
//! gateway's, everything that binds the sign-in together is derived: a code that somebody else's browser
//! was given signs nobody in. The way back begins at another site, so this cookie is `Lax`, and the page
//! that follows asks for the wanted one again from here.

use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answer::{html, redirect};
use super::browsers::{LONGEST_SECS, equal, random};
use super::entry::{cookie, next_page, with_cookie};
use super::form::query;
use super::{Console, layout};
use crate::admin::{ApiError, Bond, Code, Method, source_of};

/// Time that a person has at the provider.
const PATIENCE_SECS: u64 = 600;
/// Longest address that is remembered meanwhile.
const MAX_NEXT_BYTES: usize = 1_024;
/// Longest code that a provider may give.
const MAX_CODE_BYTES: usize = 4_096;

const RETURN: &str = "/console/sign-in/return";

impl Console {
    /// Sends a browser to the provider.
    pub(super) async fn send_to_provider(&self, head: &Parts) -> Response {
        let asked = query(head.uri.query());
        let next = next_page(asked.get("next"));
        let next = if next.len() > MAX_NEXT_BYTES { "/console" } else { next };
        let secs = self.admin.clock.now().wall.0.div_euclid(1_000_000);
        let value = format!("{secs}.{}.{}", random(), URL_SAFE_NO_PAD.encode(next));
        let begun = async {
            let source = source_of(head);
            self.check_channel(source)?;
            let place = self.return_address(head)?;
            self.admin.begin_sign_in(&self.bond(&value), &place, source).await
        };
        match begun.await {
            Ok(address) => {
                let cookies = self.cookies();
                let kept = cookies.set_lax(cookies.provider(), &value, PATIENCE_SECS);
                with_cookie(redirect(&address), kept)
            }
            Err(error) => self.sign_in_form(head, next, Some(&error)),
        }
    }

    /// Signs in a browser that the provider sent back.
    pub(super) async fn return_from_provider(&self, head: &Parts) -> Response {
        let cookies = self.cookies();
        let value = cookie(head, cookies.provider()).unwrap_or_default();
        let next = next_of(value);
        let response = match self.returned(head, value).await {
            Ok(session) => {
                let page = html(layout::signed_in(&next), StatusCode::OK);
                let page =
                    with_cookie(page, cookies.set(cookies.session(), &session, LONGEST_SECS));
                with_cookie(page, cookies.set(cookies.entry(), "", 0))
            }
            Err(error) => self.sign_in_form(head, &next, Some(&error)),
        };
        with_cookie(response, cookies.set_lax(cookies.provider(), "", 0))
    }

    /// Checks what came back and returns the cookie of the browser that is signed in.
    async fn returned(&self, head: &Parts, value: &str) -> Result<String, ApiError> {
        let source = source_of(head);
        self.check_channel(source)?;
        let answer = query(head.uri.query());
        let bond = self.bond(value);
        let now = self.admin.clock.now();
        if value.is_empty()
            || !is_fresh(value, now.wall.0)
            || !equal(answer.get("state"), &bond.state)
        {
            let message = "this sign-in was not begun in this browser, or took too long: try again";
            return Err(ApiError::new(Code::Forbidden, message));
        }
        if answer.given("error").is_some() {
            let message = "the identity provider did not sign you in: try again, or use a key";
            return Err(ApiError::new(Code::Unauthorized, message));
        }
        let code = answer.get("code");
        if code.is_empty() || code.len() > MAX_CODE_BYTES {
            let message = "the identity provider's answer holds no code: try again";
            return Err(ApiError::new(Code::Unauthorized, message));
        }
        let place = self.return_address(head)?;
        let issuer = answer.given("iss");
        let holder = self.admin.end_sign_in((code, issuer), &bond, &place, source).await?;
        let sees = self.admin.actor_of(&holder, source, now);
        if !sees.is_some_and(|actor| self.admin.may(&actor, Method::Get, "/sessions")) {
            let message = "your role has no pages: it needs viewer, operator, approver or admin";
            return Err(ApiError::new(Code::Forbidden, message));
        }
        Ok(self.browsers.sign_in(holder, now.mono))
    }

    /// Derives what binds a sign-in together from the cookie of its browser.
    fn bond(&self, value: &str) -> Bond {
        let derived = |purpose: &str| {
            let text = format!("{purpose}:{value}");
            blake3::keyed_hash(&self.settings.entry_key, text.as_bytes()).to_hex().to_string()
        };
        Bond { state: derived("state"), nonce: derived("nonce"), verifier: derived("verifier") }
    }

    /// Returns the address to which the provider sends a browser back. Its host was checked, and the
    /// provider knows the addresses that are allowed.
    fn return_address(&self, head: &Parts) -> Result<String, ApiError> {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| head.uri.authority().map(Authority::as_str));
        let scheme = if self.settings.tls { "https" } else { "http" };
        let host = host.ok_or_else(|| ApiError::new(Code::HostDenied, "`Host` is missing"))?;
        Ok(format!("{scheme}://{host}{RETURN}"))
    }
}

/// Returns the page that a browser wanted before it was sent away.
fn next_of(value: &str) -> String {
    let encoded = value.rsplit('.').next().unwrap_or_default();
    let text = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|text| String::from_utf8(text).ok());
    next_page(text.as_deref().unwrap_or_default()).to_owned()
}

fn is_fresh(value: &str, now_us: i64) -> bool {
    let begun = value.split('.').next().and_then(|secs| secs.parse::<i64>().ok());
    let age = begun.map(|begun| now_us.div_euclid(1_000_000).saturating_sub(begun));
    age.and_then(|age| u64::try_from(age).ok()).is_some_and(|age| age <= PATIENCE_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_for_ten_minutes_and_names_a_page_of_the_console() {
        let value = |next: &str| format!("1000.secret.{}", URL_SAFE_NO_PAD.encode(next));
        assert_eq!(next_of(&value("/console/approvals/a?b=c")), "/console/approvals/a?b=c");
        for other in ["https://evil", "/console/sign-in", ""] {
            assert_eq!(next_of(&value(other)), "/console");
        }
        assert_eq!(next_of("no cookie"), "/console");
        for (now, fresh) in [(999, false), (1_000, true), (1_600, true), (1_601, false)] {
            assert_eq!(is_fresh(&value("/console"), now * 1_000_000), fresh, "{now}");
        }
        assert!(!is_fresh("soon.secret.", 0));
    }
}
