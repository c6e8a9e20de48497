//! The client for requests of Arbiter's own: to identity providers.
//!
//! The client reads no proxy settings from the environment, sends nothing to another origin because an
//! answer says so, and never waits longer than its caller allows.

use std::sync::Once;
use std::time::Duration;

use reqwest::Certificate;
use reqwest::redirect::{Attempt, Policy};

/// Redirects followed within one origin.
const MAX_REDIRECTS: usize = 3;

/// Connections kept open to one host.
const IDLE_PER_HOST: usize = 4;

static PROVIDER: Once = Once::new();

/// Makes a client whose requests end after `timeout`, their answers included. Only these
/// certificate authorities are trusted; with `None`, those of the system.
pub fn client(
    timeout: Duration,
    authorities: Option<Vec<Certificate>>,
) -> Result<reqwest::Client, reqwest::Error> {
    PROVIDER.call_once(|| {
        // An error means that another part of the program was first, with the same provider.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    let builder = match authorities {
        Some(authorities) => reqwest::Client::builder().tls_certs_only(authorities),
        None => reqwest::Client::builder(),
    };
    builder
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(Policy::custom(same_origin))
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .user_agent(concat!("arbiter/", env!("CARGO_PKG_VERSION")))
        .build()
}

fn same_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first().map(reqwest::Url::origin);
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if first == Some(attempt.url().origin()) {
        attempt.follow()
    } else {
        attempt.error("redirect to another origin")
    }
}
