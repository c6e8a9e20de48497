//! Speaking to a running Arbiter's admin API.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, StatusCode, Url, redirect};
use serde_json::Value;

use super::{Exit, Failure};
use crate::config::Secret;
use crate::saturate::SaturatingFrom as _;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(30);
/// Time that a whole store may take.
const LONG_DEADLINE: Duration = Duration::from_hours(6);
/// The most of an answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// One Arbiter, and the key to it.
pub(super) struct Target {
    client: Client,
    base: Url,
    key: Option<Secret>,
}

/// Answer of the gateway.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

/// PEM files for https.
#[derive(Clone, Copy, Default)]
pub(super) struct PemFiles<'a> {
    /// Authorities that are trusted instead of the system's.
    pub(super) authorities: Option<&'a Path>,
    /// Certificate of the client, and its key.
    pub(super) certificate: Option<&'a Path>,
}

impl PemFiles<'_> {
    fn apply(self, mut builder: ClientBuilder) -> Result<ClientBuilder, Failure> {
        if let Some(path) = self.authorities {
            let read = |pem: Vec<u8>| Certificate::from_pem_bundle(&pem);
            builder = builder.tls_certs_only(pem_file(path, read)?);
        }
        if let Some(path) = self.certificate {
            builder = builder.identity(pem_file(path, |pem| Identity::from_pem(&pem))?);
        }
        Ok(builder)
    }
}

fn pem_file<T>(
    path: &Path,
    read: impl FnOnce(Vec<u8>) -> Result<T, reqwest::Error>,
) -> Result<T, Failure> {
    let failed = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    read(pem).map_err(|error| failed(causes(&error)))
}

impl Target {
    pub(super) fn new(
        url: &str,
        key: Option<Secret>,
        files: PemFiles<'_>,
    ) -> Result<Self, Failure> {
        if !url.contains("://") {
            let message = format!("--admin-url `{url}` has no scheme: did you mean http://{url}");
            return Err(Failure::usage(message));
        }
        let base: Url = url
            .parse()
            .map_err(|error| Failure::usage(format!("--admin-url `{url}` is no URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || !base.username().is_empty() {
            let message = "--admin-url must be http or https, without a user name";
            return Err(Failure::usage(message));
        }
        pingora_core::tls::install_default_crypto_provider();
        let builder = Client::builder()
            // The key is for this host alone.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE);
        // Plain http works where there are no system certificates, too.
        let builder = match base.scheme() {
            "http" => builder.tls_certs_only([]),
            _ => files.apply(builder)?,
        };
        let client = builder
            .build()
            .map_err(|error| Failure::usage(format!("cannot set up the client: {error}")))?;
        Ok(Self { client, base, key })
    }

    /// Asks with the key, and fails unless the answer is a success. A body is sent as it is.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Value, Failure> {
        let Some(key) = &self.key else { return Err(keyless()) };
        let reply = self.send(method, path, query, body, Some(key)).await?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        Err(self.refused(&reply))
    }

    fn refused(&self, reply: &Reply) -> Failure {
        // A key that is not the right one is a matter of set-up, not an answer.
        let exit = match reply.status {
            StatusCode::UNAUTHORIZED => Exit::Usage,
            _ => Exit::No,
        };
        let complaint = match reply.code() {
            Some("Unauthorized") => format!(
                "Unauthorized: ARBITER_ADMIN_API_KEY is not a key of the gateway at {}, or not any more",
                self.base
            ),
            _ => reply.complaint(),
        };
        Failure::new(exit, complaint)
    }

    /// Asks with the key, and writes the answer to `sink` as it comes, however long that takes; returns
    /// its length.
    pub(super) async fn receive(
        &self,
        method: Method,
        path: &[&str],
        sink: &mut dyn std::io::Write,
    ) -> Result<u64, Failure> {
        let Some(key) = &self.key else { return Err(keyless()) };
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.client.request(method, url).header("x-api-key", key.expose());
        let broken = |error: reqwest::Error| {
            let message = format!("cannot reach Arbiter at {}: {}", self.base, causes(&error));
            Failure::new(Exit::Unreachable, message)
        };
        let mut response = request.timeout(LONG_DEADLINE).send().await.map_err(broken)?;
        if !response.status().is_success() {
            let status = response.status();
            let bytes = response.bytes().await.map_err(broken)?;
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            return Err(self.refused(&Reply { status, body }));
        }
        let promised = response.content_length();
        let mut received = 0_u64;
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            sink.write_all(&chunk).map_err(|error| {
                Failure::new(Exit::No, format!("cannot write the copy: {error}"))
            })?;
            received = received.saturating_add(u64::saturating_from(chunk.len()));
        }
        if promised.is_some_and(|promised| promised != received) {
            return Err(Failure::new(Exit::Unreachable, "the answer was cut short"));
        }
        Ok(received)
    }

    /// Asks without the key.
    pub(super) async fn ask_openly(&self, path: &[&str]) -> Result<Reply, Failure> {
        self.send(Method::GET, path, &[], None, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
        key: Option<&Secret>,
    ) -> Result<Reply, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Each segment is encoded, so an id cannot become another path.
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(key) = key {
            request = request.header("x-api-key", key.expose());
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let unreachable = |error: reqwest::Error| {
            let exit = if error.is_builder() { Exit::Usage } else { Exit::Unreachable };
            let message = if refused(&error) {
                let advice = "is `arbiter serve` running, and is that its admin port?";
                format!("cannot reach Arbiter at {}: nothing listens there; {advice}", self.base)
            } else {
                format!("cannot reach Arbiter at {}: {}", self.base, causes(&error))
            };
            Failure::new(exit, message)
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
                return Err(Failure::new(Exit::No, "the answer is larger than 64 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }
}

fn keyless() -> Failure {
    let message = "set ARBITER_ADMIN_API_KEY to an admin key of the running Arbiter, or \
                   ARBITER_ADMIN_API_KEY_FILE to a file that holds it";
    Failure::usage(message)
}

impl Reply {
    /// The code by which Arbiter names its reason to refuse.
    fn code(&self) -> Option<&str> {
        self.body.get("error").and_then(Value::as_str)
    }

    /// Arbiter's own words, or the status if whatever answered is not Arbiter.
    pub(super) fn complaint(&self) -> String {
        let text = |name: &str| self.body.get(name).and_then(Value::as_str);
        let mut complaint = match (text("error"), text("message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            _ => format!("answered {}; is that Arbiter's admin API?", self.status),
        };
        let mistakes = self.body.get("errors").and_then(Value::as_array);
        for mistake in mistakes.into_iter().flatten() {
            complaint.push('\n');
            complaint.push_str(&written(mistake));
        }
        complaint
    }
}

/// True if nothing listens where the request went.
fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with what caused it; the first alone often says nothing.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Puts a member into a body if there is something to put.
pub(super) fn put<T: Into<Value>>(body: &mut Value, name: &str, value: Option<T>) {
    if let (Some(value), Value::Object(members)) = (value, body) {
        members.insert(name.to_owned(), value.into());
    }
}

/// `file:line:column: message`, as editors read it.
pub(super) fn written(mistake: &Value) -> String {
    let text = |name: &str| mistake.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| mistake.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (source, message) = (text("source"), text("message"));
    match (number("line"), number("column")) {
        (0, _) => message.to_owned(),
        (line, column) => format!("{source}:{line}:{column}: {message}"),
    }
}
