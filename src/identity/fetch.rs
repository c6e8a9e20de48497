//! Asking an identity provider over HTTP: bounded in time and size, and quiet about URLs.

use std::error::Error as _;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use crate::http_client;

/// How long one document may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document that is read.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Why no document came. No variant holds a URL: those may hold what only the operator may see.
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

/// Fetches documents.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: reqwest::Client,
}

impl Fetcher {
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { client: http_client::client(TIMEOUT)? })
    }

    pub async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        self.send(self.client.get(url)).await
    }

    /// Posts an encoded form with the given credentials.
    pub async fn post_form(
        &self,
        url: &str,
        authorization: HeaderValue,
        form: String,
    ) -> Result<Vec<u8>, FetchError> {
        let request = self
            .client
            .post(url)
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, FetchError> {
        let mut response =
            request.header(ACCEPT, "application/json").send().await.map_err(reason)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut document = Vec::new();
        while let Some(part) = response.chunk().await.map_err(reason)? {
            if document.len().saturating_add(part.len()) > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&part);
        }
        Ok(document)
    }
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
