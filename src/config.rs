//! Everything an operator can set: one file, the environment over it, with every problem reported at once.
//!
//! Unknown keys are errors, because a misspelt limit that is ignored is a limit that is not there.
//! Messages name the key, the line or variable, what is wrong and what to do; they never quote a
//! secret. Only this module reads the environment.

mod admin;
mod approvals;
mod check;
mod env;
mod file;
mod hints;
mod network;
mod redis_url;
mod secret;
mod sections;
mod signing;
mod tools;
mod upstreams;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::firewall::checks::drift::Operation;
use crate::firewall::session::RefusalStyle;

pub use admin::{
    Admin, AdminKey, AdminOidc, AdminTls, ENVIRONMENT_KEY, KEY_HASH_MARK, OidcClient, Role, Roles,
    key_name,
};
pub use approvals::Approvals;
pub use env::{environment, names_a_secret};
pub use file::Origin;
use file::Places;
pub use network::Network;
pub use redis_url::{RedisLogin, RedisServers, RedisShape};
pub use secret::Secret;
pub use signing::{MAX_SIGNING_SECRETS, SigningSecrets};
pub use values::{Scheme, Upstream, provider_url};

/// Default prefix of environment variables that hold credentials.
pub const DEFAULT_CREDENTIAL_PREFIX: &str = "ARBITER_CRED_";

/// The largest number of calls that a budget can hold: every JSON reader keeps it exact.
pub const MAX_CALL_BUDGET: u64 = 1 << 53;

/// The longest a session can last.
pub const MAX_TIME_LIMIT_SECS: u64 = 31_536_000;

/// Longest time for which an Arbiter token can be valid.
pub const MAX_TOKEN_EXPIRY_SECS: u64 = 86_400;

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read, if it was one.
    pub file: Option<PathBuf>,
    pub proxy: Proxy,
    /// Upstreams by path; at least one. Contains `proxy.upstream_url` if it is in use.
    pub upstreams: Vec<Pool>,
    /// Operations of tools whose names do not show them.
    pub tools: Vec<Tool>,
    pub oauth: Oauth,
    pub policy: Policy,
    pub sessions: Sessions,
    pub approvals: Approvals,
    pub audit: Audit,
    pub credentials: Credentials,
    pub storage: Storage,
    pub agents: Agents,
    pub metrics: Metrics,
    pub tracing: Tracing,
    pub admin: Admin,
    places: Places,
}

impl Config {
    /// Names a key for a message, behind the place where it was given: `arbiter.toml:12:`.
    pub fn at(&self, key: &str) -> String {
        match (self.places.of_key(key), &self.file) {
            (Some(Origin::Line(line)), Some(file)) => format!("{}:{line}: `{key}`", file.display()),
            (Some(at), _) => format!("{at}: `{key}`"),
            (None, _) => format!("`{key}`"),
        }
    }

    /// The names of all upstreams that have one.
    pub fn upstream_names(&self) -> Vec<Box<str>> {
        self.upstreams.iter().filter_map(|pool| pool.name.as_deref().map(Box::from)).collect()
    }
}

/// Operation of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// An entry as in policies: `tool`, `upstream:tool`, or `*:tool`.
    pub name: String,
    pub operation: Operation,
}

/// The agents' side and what lies behind it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Proxy {
    pub listen: SocketAddr,
    /// Set where no other program ends TLS before this one.
    pub tls: Option<Tls>,
    pub upstream_ca_file: Option<PathBuf>,
    pub blocked_paths: Vec<String>,
    /// `loopback` stands for every port of this machine's own names.
    pub allowed_origins: Vec<String>,
    /// Names under which agents reach this port; empty: any.
    pub allowed_hosts: Vec<String>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// True if upstreams get a `Forwarded` header.
    pub send_forwarded: bool,
    pub require_session: bool,
    pub strict_mcp: bool,
    pub deny_non_post_methods: bool,
    pub legacy_streams: bool,
    pub refusal_style: RefusalStyle,
    pub max_request_body_bytes: usize,
    pub max_response_body_bytes: usize,
    pub max_in_flight_body_bytes: usize,
    pub max_calls_in_flight: u32,
    /// Percentage of the places and of the body memory that one agent may have.
    pub max_share_per_agent_pct: f64,
    pub max_refusals_per_agent_per_sec: u32,
    /// Bytes a second that a body must bring on average once it has taken five seconds.
    pub min_body_rate_bytes: u32,
    /// `None`: as many as the limit of open files allows.
    pub max_connections: Option<u32>,
    /// 0: no limit.
    pub max_connections_per_source: usize,
    pub first_byte_timeout_secs: u64,
    pub idle_connection_secs: u64,
    pub max_requests_per_connection: u32,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_uri_bytes: usize,
    pub upstream_timeout_secs: u64,
    pub stream_idle_timeout_secs: u64,
    /// Time for which a connection to an upstream is kept without a call.
    pub upstream_idle_secs: u64,
    /// Silence after which a stream gets a comment; 0: never.
    pub stream_keepalive_secs: u64,
    /// Hosts to which servers may send people; empty: any.
    pub allowed_elicitation_hosts: Vec<String>,
    /// True if servers may not ask for secrets in forms.
    pub refuse_secret_forms: bool,
    /// Longest time for which a list says that it may be kept.
    pub max_list_ttl_ms: u64,
    /// Time for which calls are still served after a signal to stop.
    pub drain_delay_secs: u64,
    /// Time for which calls in flight may go on after that.
    pub drain_timeout_secs: u64,
    /// Time for which calls in flight may go on when another process takes over.
    pub takeover_wait_secs: u64,
    /// Socket by which another process takes over; `None`: in the audit log's folder.
    pub control_socket: Option<PathBuf>,
    /// `None`: one for each core.
    pub threads: Option<usize>,
}

/// The certificate that agents see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// An upstream: one or more servers that do the same.
#[derive(Clone, Debug)]
pub struct Pool {
    /// None for the one of `proxy.upstream_url`.
    pub name: Option<String>,
    /// The paths that it serves begin with this; `/` alone stands for all others.
    pub path: String,
    pub urls: Vec<Upstream>,
    /// Lower-case names; values may hold `${CRED:ref}`.
    pub headers: Vec<(http::HeaderName, Secret)>,
    /// Its own canonical URI, for RFC 9728 metadata; `None`: derived from `oauth.resource`.
    pub resource: Option<String>,
}

impl Config {
    /// The control socket: the configured one, else the one in the audit log's folder.
    pub fn control_socket(&self) -> Option<PathBuf> {
        let beside_the_log = || {
            self.audit.enabled.then(|| {
                let mut path = self.audit.file_path.clone().into_os_string();
                path.push(".control");
                path.into()
            })
        };
        self.proxy.control_socket.clone().or_else(beside_the_log)
    }
}

impl Pool {
    /// The URLs of its servers, as they are displayed.
    pub fn url_texts(&self) -> Vec<String> {
        self.urls.iter().map(ToString::to_string).collect()
    }
}

/// Identity providers in addition to Arbiter's own tokens.
#[derive(Clone, Debug)]
pub struct Oauth {
    pub jwks_cache_ttl_secs: u64,
    /// The canonical URI of this resource, for RFC 9728 metadata.
    pub resource: Option<String>,
    pub issuers: Vec<Issuer>,
}

/// One identity provider.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub name: String,
    pub issuer_url: String,
    /// `None`: taken from the issuer's own metadata, or not needed for introspection alone.
    pub jwks_uri: Option<String>,
    /// Never empty: `oauth.resource` if none are listed.
    pub audiences: Vec<String>,
    /// True if plain http to another machine is allowed.
    pub allow_http: bool,
    /// PEM file of the authorities that vouch for it; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    pub agent_claim: String,
    pub groups_claim: String,
    pub introspection: Option<Introspection>,
    /// Time for which a yes counts longer while the issuer does not answer.
    pub introspection_grace_secs: u64,
    /// Number of agents that may be registered on first sight of a token; `None`: not at all.
    pub auto_register: Option<usize>,
}

/// RFC 7662 token introspection at an issuer.
#[derive(Clone, Debug)]
pub struct Introspection {
    pub url: String,
    pub client_id: String,
    pub client_secret: Secret,
}

/// Source of policies.
#[derive(Clone, Debug)]
pub struct Policy {
    /// One TOML file or a folder of them.
    pub file: Option<PathBuf>,
    pub watch: bool,
    pub watch_debounce_ms: u64,
}

/// Default terms of a session.
#[derive(Clone, Debug)]
pub struct Sessions {
    pub default_time_limit_secs: u64,
    pub default_call_budget: u64,
    pub escalate_anomalies: bool,
    pub unknown_intent: UnknownIntent,
    pub allow_wildcard_tools: bool,
    pub warning_threshold_pct: f64,
    pub max_concurrent_sessions_per_agent: u32,
    pub rate_limit_window_secs: u64,
    pub cleanup_interval_secs: u64,
    pub read_intent_keywords: Vec<String>,
    pub write_intent_keywords: Vec<String>,
    pub admin_intent_keywords: Vec<String>,
}

/// Treatment of a declared intent that names no tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownIntent {
    /// No check.
    Off,
    /// Flags calls that do not read for the record; such flags are never counted, and nothing is refused.
    #[default]
    Flag,
    /// Treated as an intent to read.
    Enforce,
}

/// The record of decisions.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Audit {
    pub enabled: bool,
    pub file_path: PathBuf,
    pub redaction_patterns: Vec<String>,
    /// True if `redaction_patterns` replaces the built-in ones rather than adding to them.
    pub redaction_replace: bool,
    pub require_healthy: bool,
    pub hash_chain: bool,
    pub durability: Durability,
    pub max_argument_bytes: usize,
    /// `None`: the checkpoint key's name, or the host's name and a random part that the start-up
    /// keeps.
    pub node_id: Option<String>,
    /// 0: the file is never put aside for its size.
    pub rotate_bytes: u64,
    /// 0: the file is never put aside for its age.
    pub rotate_secs: u64,
    pub compress_rotated: bool,
    /// 0: no closed file is ever deleted.
    pub keep_files: u64,
    /// `None`: no checkpoints are signed.
    pub checkpoint_key_file: Option<PathBuf>,
    pub checkpoint_records: u64,
    pub checkpoint_secs: u64,
    pub max_unauthenticated_records_per_sec: u32,
    /// 0: no limit.
    pub max_bytes_per_agent_per_sec: u64,
}

/// Point at which a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The kernel has it: it survives the process.
    #[default]
    Write,
    /// The disk has it: it survives the machine.
    Sync,
}

/// Source of credential values.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `None`: no credentials are injected.
    pub provider: Option<CredentialProvider>,
    pub ttl_secs: u64,
    /// True if a credential file that others can read is refused.
    pub strict_file_mode: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialProvider {
    File(PathBuf),
    /// Variables whose names begin with this prefix.
    Env(String),
    /// A program and its arguments; it prints every credential as JSON.
    Command(Vec<String>),
}

/// Storage of agents and sessions.
#[derive(Clone, Debug)]
pub struct Storage {
    pub backend: Backend,
    /// 64 hexadecimal characters, checked.
    pub encryption_key: Option<Secret>,
    /// Time for which sessions may still be read when a shared store does not answer.
    pub max_stale_secs: u64,
    /// Accepted differences between this machine's clock and a shared store's.
    pub clock_skew: Skew,
}

/// Differences between this machine's clock and a shared store's that are accepted.
#[derive(Clone, Copy, Debug)]
pub struct Skew {
    /// Above this a node does not start; one that runs goes by the store's time.
    pub most_secs: u64,
    /// Above this a running node is not ready either.
    pub unready_secs: u64,
}

/// Agents that are registered.
#[derive(Clone, Debug)]
pub struct Agents {
    /// Seconds for which an agent that was deactivated or has expired is kept.
    pub retention_secs: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Sqlite(PathBuf),
    Redis(Box<Redis>),
}

/// Store that the nodes of a fleet share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    pub servers: RedisServers,
    /// Prefix of every key.
    pub prefix: String,
    /// File of the authorities trusted for TLS instead of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Time limit of an answer.
    pub timeout: Duration,
    /// Replicas that are to have what is taken away before that is answered.
    pub wait_replicas: Option<u32>,
    /// The longest wait for them.
    pub wait: Duration,
}

/// Prometheus metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub enabled: bool,
    pub require_auth: bool,
}

/// Traces for OpenTelemetry.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// URL to which traces are sent; none if requests are not traced.
    pub otlp_endpoint: Option<String>,
    pub service_name: String,
    /// Part of the requests without a parent span that are sampled, from 0 to 1.
    pub sample_ratio: f64,
    pub max_traces_per_sec: u32,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `section.key`; empty when the text as a whole is meant.
    pub key: String,
    pub at: Option<Origin>,
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}` ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// Everything that is wrong with the configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Names the file in every message that is about the file.
    fn of_file(mut self, path: &Path) -> Self {
        for error in &mut self.0 {
            let line = match error.at {
                Some(Origin::Line(line)) => Some(line),
                None => None,
                Some(Origin::File(..) | Origin::Variable(_)) => continue,
            };
            error.at = Some(Origin::File(path.to_owned(), line));
        }
        self
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads a file and lays the environment over it.
    pub fn load(
        path: &Path,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = format!("cannot read the file {}: {error}", path.display());
            ConfigErrors(vec![ConfigError { key: String::new(), at: None, problem }])
        })?;
        let config = Self::from_toml(&text, env).map_err(|errors| errors.of_file(path))?;
        Ok(Self { file: Some(path.to_owned()), ..config })
    }

    /// Returns a short hash over all settings but secrets.
    pub fn version(&self) -> String {
        let mut hash = blake3::hash(format!("{self:?}").as_bytes()).to_hex().to_string();
        hash.truncate(32);
        hash
    }

    /// Reads a text and lays the environment over it.
    pub fn from_toml(
        text: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::read(text, env).map(|(config, _)| config)
    }

    /// Reads a text; also returns which keys there are.
    fn read(
        text: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, KnownKeys), ConfigErrors> {
        let mut problems = Vec::new();
        let mut root = file::parse(text).unwrap_or_else(|error| {
            problems.push(error);
            file::Table::new()
        });
        if !problems.is_empty() {
            return Err(ConfigErrors(problems));
        }
        env::overlay(&mut root, env, &mut problems);
        let mut known = KnownKeys::new();
        let places = Places::of(&root);
        let config = sections::read(&mut root, &mut problems, &mut known);
        match config {
            Some(config) if problems.is_empty() => Ok((Self { places, ..config }, known)),
            _ => Err(ConfigErrors(problems)),
        }
    }
}

/// Section name to its keys.
type KnownKeys = BTreeMap<&'static str, Vec<&'static str>>;

#[cfg(test)]
mod tests;
