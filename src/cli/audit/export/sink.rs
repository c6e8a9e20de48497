//! Receivers of exported records: standard output, a file, syslog over TCP or TLS, HTTP.
//!
//! Syslog frames count octets (RFC 5425 section 4.3, RFC 6587 section 3.4.1) around messages of
//! RFC 5424. Syslog acknowledges nothing: there a batch counts as taken once the connection has it.
//! HTTP answers each batch, and only 2xx counts.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::{Exit, Failure};
use super::Format;
use crate::config::Secret;

/// Time that a receiver may take to connect, and to take a batch.
const DEADLINE: Duration = Duration::from_secs(30);
/// Facility 13 (log audit), severity 5 (notice): RFC 5424 section 6.2.1.
const PRIORITY: u8 = 13 * 8 + 5;

/// A receiver of records.
pub(super) enum Sink<'o> {
    Stdout(&'o mut dyn Write),
    File { path: PathBuf, file: File },
    Syslog(Box<Syslog>),
    Http { client: Client, url: Url, token: Option<Secret> },
}

/// A syslog receiver, connected when there is something to send.
pub(super) struct Syslog {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    stream: Option<Box<dyn AsyncWrite + Unpin + Send>>,
}

impl<'o> Sink<'o> {
    pub(super) fn open(
        to: Option<&str>,
        ca_file: Option<&Path>,
        token: Option<&str>,
        out: &'o mut dyn Write,
    ) -> Result<Self, Failure> {
        let Some(to) = to else { return Ok(Self::Stdout(out)) };
        let Some((scheme, _)) = to.split_once("://") else {
            let path = PathBuf::from(to);
            let file = OpenOptions::new().append(true).create(true).open(&path);
            let file = file.map_err(|error| {
                Failure::usage(format!("cannot write {}: {error}", path.display()))
            })?;
            return Ok(Self::File { path, file });
        };
        let url: Url =
            to.parse().map_err(|error| Failure::usage(format!("--to `{to}`: {error}")))?;
        match scheme {
            "tcp" | "tls" => {
                let (Some(host), Some(port)) = (url.host_str(), url.port()) else {
                    return Err(Failure::usage(
                        "--to needs host and port: tls://logs.example:6514",
                    ));
                };
                let tls = match (scheme, ca_file) {
                    ("tls", Some(path)) => Some(Arc::new(client_config(path)?)),
                    ("tls", None) => {
                        let problem = "tls:// needs --ca-file, the authorities to trust";
                        return Err(Failure::usage(problem));
                    }
                    _ => None,
                };
                let host = host.trim_matches(['[', ']']).to_owned();
                Ok(Self::Syslog(Box::new(Syslog { host, port, tls, stream: None })))
            }
            "http" | "https" => {
                pingora_core::tls::install_default_crypto_provider();
                let builder = Client::builder()
                    .redirect(redirect::Policy::none())
                    .connect_timeout(DEADLINE)
                    .timeout(DEADLINE);
                let builder = match ca_file {
                    Some(path) => builder.tls_certs_only(authorities(path)?),
                    None if scheme == "http" => builder.tls_certs_only([]),
                    None => builder,
                };
                let client = builder.build();
                let client = client.map_err(|error| {
                    Failure::usage(format!("cannot set up the client: {error}"))
                })?;
                let token = token.map(|token| Secret::new(token.to_owned()));
                Ok(Self::Http { client, url, token })
            }
            _ => Err(Failure::usage("--to takes a path, tcp://, tls://, http:// or https://")),
        }
    }

    /// Hands a batch over; when this returns, the receiver has it.
    pub(super) async fn send(&mut self, batch: &[Vec<u8>], format: Format) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => {
                for line in batch {
                    out.write_all(line)?;
                    out.write_all(b"\n")?;
                }
                Ok(out.flush()?)
            }
            Self::File { path, file } => {
                let mut lines = batch.join(&b'\n');
                lines.push(b'\n');
                file.write_all(&lines).and_then(|()| file.sync_data()).map_err(|error| {
                    Failure::new(Exit::No, format!("cannot write {}: {error}", path.display()))
                })
            }
            Self::Syslog(syslog) => syslog.send(batch).await,
            Self::Http { client, url, token } => {
                let mut lines = batch.join(&b'\n');
                lines.push(b'\n');
                let mut request = client.post(url.clone()).body(lines);
                request = request.header(CONTENT_TYPE, content_type(format));
                if let Some(token) = token {
                    request = request.bearer_auth(token.expose());
                }
                let answer = request.send().await.map_err(|error| {
                    Failure::new(Exit::Unreachable, format!("cannot reach the receiver: {error}"))
                })?;
                let status = answer.status();
                let passing = status.is_server_error() || status.as_u16() == 429;
                if status.is_success() {
                    return Ok(());
                }
                let exit = if passing { Exit::Unreachable } else { Exit::No };
                Err(Failure::new(exit, format!("the receiver says {status}")))
            }
        }
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Jsonl | Format::Ocsf | Format::Ecs => "application/x-ndjson",
        Format::Cef => "text/plain; charset=utf-8",
    }
}

impl Syslog {
    async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), Failure> {
        let sent = tokio::time::timeout(DEADLINE, self.try_send(batch)).await;
        let sent = sent.unwrap_or_else(|_late| Err(std::io::ErrorKind::TimedOut.into()));
        sent.map_err(|error| {
            // What went out is not known: the batch goes out again on another connection.
            self.stream = None;
            let place = format!("{}:{}", self.host, self.port);
            Failure::new(Exit::Unreachable, format!("cannot send to {place}: {error}"))
        })
    }

    async fn try_send(&mut self, batch: &[Vec<u8>]) -> std::io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.connect().await?);
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut frames = Vec::new();
        for line in batch {
            let message = message(line);
            frames.extend_from_slice(format!("{} ", message.len()).as_bytes());
            frames.extend_from_slice(&message);
        }
        stream.write_all(&frames).await?;
        stream.flush().await
    }

    async fn connect(&self) -> std::io::Result<Box<dyn AsyncWrite + Unpin + Send>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

/// A message of RFC 5424. Time and host are the record's where its form has them.
fn message(line: &[u8]) -> Vec<u8> {
    let record: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| record.pointer(name)?.as_str());
        let plain: String = found.unwrap_or("-").chars().filter(char::is_ascii_graphic).collect();
        if plain.is_empty() { "-".to_owned() } else { plain.chars().take(255).collect() }
    };
    let time = text(&["/timestamp", "/@timestamp", "/unmapped/arbiter/timestamp"]);
    let host = text(&["/node_id", "/observer/name", "/metadata/log_name"]);
    let mut message = format!("<{PRIORITY}>1 {time} {host} arbiter - audit - ").into_bytes();
    message.extend_from_slice(line);
    message
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let failed = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("holds no PEM certificate".to_owned()));
    }
    Ok(found)
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let read = |der: &CertificateDer<'_>| Certificate::from_der(der);
    let read: Result<Vec<_>, _> = certificates(path)?.iter().map(read).collect();
    read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn client_config(path: &Path) -> Result<ClientConfig, Failure> {
    pingora_core::tls::install_default_crypto_provider();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syslog_message_has_the_records_time_and_host() {
        let line = br#"{"timestamp":"2026-11-22T10:00:00.000007Z","node_id":"node 1","x":1}"#;
        let text = String::from_utf8(message(line)).unwrap();
        let head = "<109>1 2026-11-22T10:00:00.000007Z node1 arbiter - audit - {\"timestamp\"";
        assert!(text.starts_with(head), "{text}");
        let other = String::from_utf8(message(b"CEF:0|x")).unwrap();
        assert_eq!(other, "<109>1 - - arbiter - audit - CEF:0|x");
    }
}
