//! Asking an identity provider over HTTP: bounded in time and size, and quiet about URLs.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::Certificate;

use crate::http_client;

/// Time limit of one document.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document that is read.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Reason why a fetch failed. No variant holds a URL, which may contain secrets of the operator.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("a document larger than 1 MiB")]
    TooLarge,
}

/// Reason why nothing can be fetched at all: a mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("`ca_file` {path} of issuer `{issuer}` cannot be read")]
    Unreadable {
        issuer: String,
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("`ca_file` {path} of issuer `{issuer}` holds no certificates in PEM")]
    NoCertificates { issuer: String, path: PathBuf },
    #[error("the client for issuer `{issuer}` cannot be made")]
    Client {
        issuer: String,
        #[source]
        error: reqwest::Error,
    },
}

/// Fetched document.
#[derive(Debug)]
pub(crate) struct Document {
    pub bytes: Vec<u8>,
    /// Time for which the document stays valid, if its server says so.
    pub fresh_secs: Option<u64>,
}

/// Fetches documents.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
}

impl Fetcher {
    /// For one issuer, whose certificates these authorities vouch for; `None`: those of the system.
    pub(crate) fn new(issuer: &str, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let authorities = ca_file.map(|path| authorities(issuer, path)).transpose()?;
        let client = http_client::client(TIMEOUT, authorities)
            .map_err(|error| SetupError::Client { issuer: issuer.to_owned(), error })?;
        Ok(Self { client })
    }

    pub(crate) async fn get(&self, url: &str) -> Result<Document, FetchError> {
        self.send(self.client.get(url)).await
    }

    /// Posts an encoded form, with credentials if there are any.
    pub(crate) async fn post_form(
        &self,
        url: &str,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<Document, FetchError> {
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Document, FetchError> {
        let mut response =
            request.header(ACCEPT, "application/json").send().await.map_err(reason)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let fresh_secs = fresh_secs(response.headers());
        let mut bytes = Vec::new();
        while let Some(part) = response.chunk().await.map_err(reason)? {
            if bytes.len().saturating_add(part.len()) > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Document { bytes, fresh_secs })
    }
}

fn authorities(issuer: &str, path: &Path) -> Result<Vec<Certificate>, SetupError> {
    let (issuer, path) = (issuer.to_owned(), path.to_owned());
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) => return Err(SetupError::Unreadable { issuer, path, error }),
    };
    match Certificate::from_pem_bundle(&pem) {
        Ok(authorities) if !authorities.is_empty() => Ok(authorities),
        Ok(_) | Err(_) => Err(SetupError::NoCertificates { issuer, path }),
    }
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1), the smallest if there are several.
fn fresh_secs(headers: &HeaderMap) -> Option<u64> {
    let texts = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = texts.flat_map(|text| text.split(','));
    let ages = directives.filter_map(|directive| {
        let (name, secs) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| secs.trim_matches('"').parse().ok())?
    });
    ages.min()
}

/// The innermost cause: it names what went wrong and, unlike the outer ones, no URL.
fn reason(error: reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Late;
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    let mut inner = error.source();
    while let Some(next) = inner {
        cause = next;
        inner = next.source();
    }
    FetchError::Connection(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_a_documents_age_is_heard() {
        let heard = |values: &[&'static str]| {
            let values = values.iter().map(|text| HeaderValue::from_static(text));
            fresh_secs(&values.map(|value| (CACHE_CONTROL, value)).collect())
        };
        assert_eq!(heard(&["max-age=300"]), Some(300));
        assert_eq!(heard(&["public, Max-Age=\"20\" , must-revalidate"]), Some(20));
        assert_eq!(heard(&["max-age=300, max-age=60", "max-age=90"]), Some(60));
        for nothing in ["", "no-store", "max-age", "max-age=-1", "max-age=soon", "s-maxage=9"] {
            assert_eq!(heard(&[nothing]), None, "{nothing}");
        }
        assert_eq!(heard(&[]), None);
    }
}
