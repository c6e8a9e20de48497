//! A person's sign-in by authorization code, with PKCE (RFC 6749 section 4.1, RFC 7636, `OpenID`
//! Connect).
//!
//! Nobody is trusted for what a browser brings back: the code is exchanged at the issuer itself, and the
//! token that comes of it is verified like any other, for this client and this sign-in alone.

use parking_lot::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::{Url, form_urlencoded};

use super::discovery::{self, DiscoveryError, Endpoints};
use super::fetch::{FetchError, Fetcher, SetupError};
use crate::config;
use crate::firewall::time::Mono;
use crate::json::Doc;

/// Time for which the issuer's endpoints are believed.
const ENDPOINTS_SECS: u64 = 3_600;
/// Time for which a failure to find them is believed.
const FAILURE_SECS: u64 = 5;
/// Questions to the issuer at the same time, at most.
const PLACES: usize = 8;

/// Reason why a sign-in failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CodeError {
    /// The issuer cannot be asked now.
    #[error("{0}")]
    Unavailable(String),
    #[error("the issuer refused the code")]
    Refused,
    #[error("the issuer answered without an ID token")]
    NoToken,
}

/// Values that bind the steps of one sign-in together; only this gateway can derive them.
#[derive(Debug)]
pub struct Bond {
    /// Comes back with the code.
    pub state: String,
    /// Is in the token.
    pub nonce: String,
    /// Proves at the exchange who asked for the code.
    pub verifier: String,
}

/// The issuer's endpoints, or the failure to find them, and until when that is believed.
type Found = (Result<Endpoints, CodeError>, Mono);

/// Client of one issuer.
pub struct CodeFlow {
    issuer_url: String,
    allow_http: bool,
    client_id: String,
    authorization: Option<HeaderValue>,
    scopes: String,
    fetcher: Fetcher,
    found: Mutex<Option<Found>>,
    places: Semaphore,
}

impl CodeFlow {
    pub fn new(issuer: &config::Issuer, client: &config::OidcClient) -> Result<Self, SetupError> {
        Ok(Self {
            issuer_url: issuer.issuer_url.clone(),
            allow_http: issuer.allow_http,
            client_id: client.id.clone(),
            authorization: client.secret.as_ref().and_then(|secret| basic(&client.id, secret)),
            scopes: client.scopes.join(" "),
            fetcher: Fetcher::new(&issuer.name, issuer.ca_file.as_deref())?,
            found: Mutex::default(),
            places: Semaphore::new(PLACES),
        })
    }

    /// Returns the address at the issuer to which a person is sent.
    pub async fn address(
        &self,
        bond: &Bond,
        redirect_uri: &str,
        now: Mono,
    ) -> Result<String, CodeError> {
        let endpoint = self.endpoints(now).await?.authorization;
        let mut url = Url::parse(&endpoint)
            .map_err(|error| CodeError::Unavailable(format!("its endpoint is no URL: {error}")))?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, bond.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", &self.scopes)
            .append_pair("state", &bond.state)
            .append_pair("nonce", &bond.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Exchanges a code for an ID token, which is not verified yet.
    pub async fn exchange(
        &self,
        code: &str,
        bond: &Bond,
        redirect_uri: &str,
        now: Mono,
    ) -> Result<String, CodeError> {
        let endpoint = self.endpoints(now).await?.token;
        let _place = self.place()?;
        let form = self.form(code, bond, redirect_uri);
        let sent = self.fetcher.post_form(&endpoint, self.authorization.clone(), form);
        let document = sent.await.map_err(|error| match error {
            FetchError::Status(400..=499) => CodeError::Refused,
            other => CodeError::Unavailable(other.to_string()),
        })?;
        let doc = Doc::parse(&document.bytes).map_err(|_json| CodeError::NoToken)?;
        let token = doc.root().get("id_token").and_then(|token| token.as_str());
        token.map(std::borrow::Cow::into_owned).ok_or(CodeError::NoToken)
    }

    fn form(&self, code: &str, bond: &Bond, redirect_uri: &str) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("code_verifier", &bond.verifier);
        if self.authorization.is_none() {
            form.append_pair("client_id", &self.client_id);
        }
        form.finish()
    }

    /// Reports whether a verified token is of this client and of this sign-in.
    pub fn is_of(&self, token: &str, bond: &Bond) -> bool {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(payload) = payload else { return false };
        let Ok(doc) = Doc::parse(&payload) else { return false };
        let is = |name: &str, wanted: &str| {
            doc.root().get(name).map(|value| value.as_str().as_deref() == Some(wanted))
        };
        is("nonce", &bond.nonce) == Some(true) && is("azp", &self.client_id) != Some(false)
    }

    async fn endpoints(&self, now: Mono) -> Result<Endpoints, CodeError> {
        let known = self.found.lock().clone();
        if let Some((found, _)) = known.filter(|(_, until)| now < *until) {
            return found;
        }
        let _place = self.place()?;
        let asked = discovery::endpoints(&self.fetcher, &self.issuer_url, self.allow_http).await;
        let asked =
            asked.map_err(|error: DiscoveryError| CodeError::Unavailable(error.to_string()));
        let secs = if asked.is_ok() { ENDPOINTS_SECS } else { FAILURE_SECS };
        let found = (asked.clone(), now.plus_secs(secs));
        *self.found.lock() = Some(found);
        asked
    }

    /// Takes a place among those that ask the issuer.
    fn place(&self) -> Result<SemaphorePermit<'_>, CodeError> {
        let busy = || CodeError::Unavailable("too many people sign in at once".to_owned());
        self.places.try_acquire().map_err(|_full| busy())
    }
}

/// Returns a client's credentials (RFC 6749 section 2.3.1).
fn basic(id: &str, secret: &config::Secret) -> Option<HeaderValue> {
    let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", escaped(id), escaped(secret.expose()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}
