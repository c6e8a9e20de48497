//! Every key, its default and its limits, section by section.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::admin;
use super::approvals;
use super::check::{Read, Section, address, unknown};
use super::file::{Places, Table};
use super::redis_url;
use super::tools;
use super::upstreams;
use super::values;
use super::{
    Agents, Audit, Backend, Config, ConfigError, CredentialProvider, Credentials,
    DEFAULT_CREDENTIAL_PREFIX, Durability, Introspection, Issuer, KnownKeys, MAX_CALL_BUDGET,
    MAX_TIME_LIMIT_SECS, Metrics, Network, Oauth, Policy, Pool, Proxy, Redis, Secret, Sessions,
    Skew, Storage, Tls, Tracing, UnknownIntent, Upstream,
};
use crate::firewall::session::RefusalStyle;

const MIB: usize = 1024 * 1024;
const GIB: usize = 1024 * MIB;
const DAY_SECS: u64 = 86_400;
/// Smaller files would be more names than records.
const MIN_ROTATE_BYTES: u64 = 65_536;

pub(super) const READ_KEYWORDS: &[&str] = &["read", "analyze", "query", "search", "list", "get"];
pub(super) const WRITE_KEYWORDS: &[&str] = &["write", "create", "update", "modify", "edit"];
pub(super) const ADMIN_KEYWORDS: &[&str] = &["admin", "manage", "configure", "deploy", "delete"];

type Problems = Vec<ConfigError>;

/// Reads every section. `None` only together with a problem.
pub(super) fn read(
    root: &mut Table,
    problems: &mut Problems,
    known: &mut KnownKeys,
) -> Option<Config> {
    let mut section = |name: &'static str, keys: Vec<&'static str>| {
        known.insert(name, keys);
    };
    let (proxy, keys) = proxy(Section::take(root, "proxy", problems));
    section("proxy", keys);
    let (mut upstreams, keys) = upstreams::read(root, problems);
    section("upstreams", keys);
    let names = upstreams.iter().filter_map(|pool| pool.name.as_deref().map(Box::from));
    let (tools, keys) = tools::read(root, &names.collect::<Vec<_>>(), problems);
    section("tools", keys);
    let (oauth, keys) = oauth(Section::take(root, "oauth", problems), &upstreams);
    section("oauth", keys);
    let (policy, keys) = policy(Section::take(root, "policy", problems));
    section("policy", keys);
    let (sessions, keys) = sessions(Section::take(root, "sessions", problems));
    section("sessions", keys);
    let (approvals, keys) = approvals::read(Section::take(root, "approvals", problems));
    section("approvals", keys);
    let (audit, keys) = audit(Section::take(root, "audit", problems));
    section("audit", keys);
    let (credentials, keys) = credentials(Section::take(root, "credentials", problems));
    section("credentials", keys);
    let (storage, keys) = storage(Section::take(root, "storage", problems));
    section("storage", keys);
    let (agents, keys) = agents(Section::take(root, "agents", problems));
    section("agents", keys);
    let (metrics, keys) = metrics(Section::take(root, "metrics", problems));
    section("metrics", keys);
    let (tracing, keys) = tracing(Section::take(root, "tracing", problems));
    section("tracing", keys);
    let (admin, keys) = admin::read(Section::take(root, "admin", problems), &oauth);
    section("admin", keys);
    let names: Vec<_> = known.keys().copied().collect();
    for (name, node) in std::mem::take(root) {
        problems.push(unknown("", &name, node.at, &names));
    }
    let (Front { proxy, default }, admin) = (proxy?, admin?);
    upstreams.extend(default.in_use(&upstreams, problems));
    if proxy.listen.port() != 0 && proxy.listen == admin.listen {
        let problem = "is the same address and port as the proxy's; choose another port";
        problems.push(ConfigError {
            key: "admin.listen_port".to_owned(),
            at: None,
            problem: problem.to_owned(),
        });
    }
    Some(Config {
        file: None,
        proxy,
        upstreams,
        tools,
        oauth,
        policy,
        sessions,
        approvals,
        audit,
        credentials,
        storage,
        agents,
        metrics,
        tracing,
        admin,
        places: Places::default(),
    })
}

/// `[proxy]`, and the upstream that is written there.
struct Front {
    proxy: Proxy,
    default: upstreams::Default,
}

fn proxy(mut s: Section<'_>) -> Read<Option<Front>> {
    let ip = address(&mut s, IpAddr::from([0, 0, 0, 0]));
    let port = s.number("listen_port", 8080, 0..=65_535);
    let (url_at, headers_at) = (s.origin("upstream_url"), s.origin("upstream_headers"));
    let upstream = s.parsed("upstream_url", values::upstream).unwrap_or_else(|| Upstream {
        scheme: values::Scheme::Http,
        host: "127.0.0.1".to_owned(),
        port: 8081,
        path: None,
    });
    let upstream_ca_file = s.text("upstream_ca_file").map(PathBuf::from);
    let headers = upstreams::headers(&mut s, "upstream_headers");
    let default = upstreams::Default { url: upstream, url_at, headers, headers_at };
    let tls = tls(&mut s);
    let max_request_body_bytes = s.number("max_request_body_bytes", 10 * MIB, 1..=GIB);
    let max_in_flight_body_bytes = s.number("max_in_flight_body_bytes", 256 * MIB, 1..=64 * GIB);
    if max_in_flight_body_bytes < max_request_body_bytes {
        let problem = "is smaller than `proxy.max_request_body_bytes`, so the largest allowed \
                       body could never pass; raise it";
        s.problem("max_in_flight_body_bytes", None, problem);
    }
    let styles = RefusalStyle::ALL.map(|style| (style.as_str(), style));
    let upstream_timeout_secs = s.number("upstream_timeout_secs", 60, 1..=3_600);
    let proxy = Proxy {
        listen: SocketAddr::new(ip, port),
        tls,
        upstream_ca_file,
        blocked_paths: s.checked_list("blocked_paths", &[], values::path),
        allowed_origins: s.checked_list("allowed_origins", &[], values::origin),
        allowed_hosts: s.checked_list("allowed_hosts", &[], values::host),
        trusted_proxies: networks(&mut s, "trusted_proxies"),
        send_forwarded: s.flag("send_forwarded", false),
        require_session: s.flag("require_session", true),
        strict_mcp: s.flag("strict_mcp", true),
        deny_non_post_methods: s.flag("deny_non_post_methods", true),
        legacy_streams: s.flag("legacy_streams", false),
        refusal_style: s.one_of("refusal_style", RefusalStyle::Http, &styles),
        max_request_body_bytes,
        max_response_body_bytes: s.number("max_response_body_bytes", 10 * MIB, 1..=GIB),
        max_in_flight_body_bytes,
        max_calls_in_flight: s.number("max_calls_in_flight", 8_192, 1_024..=1_000_000),
        max_share_per_agent_pct: s.decimal("max_share_per_agent_pct", 12.5, 0.1..=100.0),
        max_refusals_per_agent_per_sec: s.number(
            "max_refusals_per_agent_per_sec",
            50,
            1..=1_000_000,
        ),
        min_body_rate_bytes: s.number("min_body_rate_bytes", 65_536, 1..=1_000_000_000),
        max_connections: s.optional_number("max_connections", 1..=10_000_000),
        max_connections_per_source: s.number("max_connections_per_source", 0, 0..=10_000_000),
        first_byte_timeout_secs: s.number("first_byte_timeout_secs", 10, 1..=3_600),
        idle_connection_secs: s.number("idle_connection_secs", 75, 1..=3_600),
        max_requests_per_connection: s.number("max_requests_per_connection", 100_000, 1..=u32::MAX),
        max_header_bytes: s.number("max_header_bytes", 65_536, 1_024..=MIB / 2),
        max_headers: s.number("max_headers", 100, 10..=250),
        max_uri_bytes: s.number("max_uri_bytes", 8_192, 64..=65_536),
        upstream_timeout_secs,
        stream_idle_timeout_secs: s.number("stream_idle_timeout_secs", 300, 1..=DAY_SECS),
        upstream_idle_secs: s.number("upstream_idle_secs", 4, 1..=3_600),
        stream_keepalive_secs: s.number("stream_keepalive_secs", 25, 0..=DAY_SECS),
        allowed_elicitation_hosts: s.checked_list(
            "allowed_elicitation_hosts",
            &[],
            values::elicitation_host,
        ),
        refuse_secret_forms: s.flag("refuse_secret_forms", false),
        max_list_ttl_ms: s.number("max_list_ttl_ms", 60_000, 0..=DAY_SECS * 1_000),
        drain_delay_secs: s.number("drain_delay_secs", 5, 0..=3_600),
        drain_timeout_secs: s.number("drain_timeout_secs", upstream_timeout_secs, 0..=DAY_SECS),
        takeover_wait_secs: s.number("takeover_wait_secs", 5, 0..=3_600),
        control_socket: s.text("control_socket").map(PathBuf::from),
        threads: s.optional_number("threads", 1..=1_024),
    };
    (Some(Front { proxy, default }), s.finish())
}

fn networks(s: &mut Section<'_>, key: &'static str) -> Vec<Network> {
    let check = |text: &str| text.parse::<Network>().map(|_network| ());
    let texts = s.checked_list(key, &[], check);
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn tls(s: &mut Section<'_>) -> Option<Tls> {
    let at = s.origin("tls")?;
    let (mut cert_file, mut key_file) = (None, None);
    for (name, value, at) in s.map("tls") {
        match name.as_str() {
            "cert_file" => cert_file = Some(PathBuf::from(value)),
            "key_file" => key_file = Some(PathBuf::from(value)),
            other => {
                let key = format!("tls.{}", super::check::clip(other));
                s.problem(&key, Some(at), "is not a known key; known are: cert_file, key_file");
            }
        }
    }
    let (Some(cert_file), Some(key_file)) = (cert_file, key_file) else {
        s.problem("tls", Some(at), "needs both `cert_file` and `key_file`, as PEM files");
        return None;
    };
    Some(Tls { cert_file, key_file })
}

fn oauth(mut s: Section<'_>, upstreams: &[Pool]) -> Read<Oauth> {
    let jwks_cache_ttl_secs = s.number("jwks_cache_ttl_secs", 3_600, 1..=DAY_SECS);
    let resource = s.parsed("resource", |text| values::url(text).map(|_| text.to_owned()));
    let resources = resources(resource.as_deref(), upstreams);
    let grace_secs = s.number("introspection_grace_secs", 0, 0..=DAY_SECS);
    let mut issuers: Vec<Issuer> = Vec::new();
    for (n, table) in s.tables("issuers").into_iter().enumerate() {
        let path = format!("oauth.issuers[{n}]");
        let section = Section::new(path, table, s.problems());
        let Some(issuer) = issuer(section, &resources, grace_secs) else { continue };
        let twin =
            |other: &Issuer| other.name == issuer.name || other.issuer_url == issuer.issuer_url;
        if issuers.iter().any(twin) {
            s.problem("issuers", None, "two issuers share a `name` or an `issuer_url`");
        }
        issuers.push(issuer);
    }
    (Oauth { jwks_cache_ttl_secs, resource, issuers }, s.finish())
}

/// Every resource that metadata names: the gateway's own and those of its upstreams.
fn resources(own: Option<&str>, upstreams: &[Pool]) -> Vec<String> {
    let origin = own.and_then(|own| {
        let authority = own.find("://")?.checked_add(3)?;
        Some(own.get(authority..)?.find('/').map_or(own, |at| own.split_at(authority + at).0))
    });
    let mut named: Vec<String> = own.map(str::to_owned).into_iter().collect();
    for pool in upstreams {
        let derived = || {
            let path = Some(pool.path.as_str()).filter(|path| *path != "/")?;
            Some(format!("{}{path}", origin?))
        };
        if let Some(resource) = pool.resource.clone().or_else(derived)
            && !named.contains(&resource)
        {
            named.push(resource);
        }
    }
    named
}

fn issuer(mut s: Section<'_>, resources: &[String], grace_secs: u64) -> Option<Issuer> {
    let name = s.text("name");
    let allow_http = s.flag("allow_http", false);
    let ca_file = s.text("ca_file").map(PathBuf::from);
    let fetched = |text: &str| values::provider_url(text, allow_http);
    let issuer_url = s.parsed("issuer_url", |text| values::url(text).map(|_| text.to_owned()));
    let jwks_uri = s.parsed("jwks_uri", fetched);
    let audiences = s.list("audiences").unwrap_or_else(|| resources.to_vec());
    let agent_claim = s.text_or("agent_claim", "agent_id");
    let groups_claim = s.text_or("groups_claim", "groups");
    let auto_register = s.flag("auto_register", false);
    let auto_register_max = s.number("auto_register_max", 1_000, 1..=100_000);
    let url = s.parsed("introspection_url", fetched);
    let client_id = s.text("client_id");
    let client_secret = s.secret("client_secret");
    let introspection_grace_secs = s.number("introspection_grace_secs", grace_secs, 0..=DAY_SECS);
    if name.is_none() {
        s.problem("name", None, "is missing; give each issuer a name of its own");
    }
    if issuer_url.is_none() {
        s.problem("issuer_url", None, "is missing; give the exact `iss` of its tokens");
    }
    if let (None, None, Some(issuer_url)) = (&jwks_uri, &url, &issuer_url)
        && let Err(problem) = values::discoverable(issuer_url, allow_http)
    {
        let advice = "give `jwks_uri` or `introspection_url`";
        s.problem(
            "issuer_url",
            None,
            format!("cannot tell where its keys are: {problem}; {advice}"),
        );
    }
    if audiences.is_empty() {
        let problem = "is empty; name at least one audience or set `oauth.resource`, or any token \
                       of this issuer would do";
        s.problem("audiences", None, problem);
    }
    let introspection = match (url, client_id, client_secret) {
        (Some(url), Some(client_id), Some(client_secret)) => {
            Some(Introspection { url, client_id, client_secret })
        }
        (None, None, None) => None,
        (Some(_), _, _) => {
            let problem = "needs `client_id` and `client_secret` as well";
            s.problem("introspection_url", None, problem);
            None
        }
        (None, _, _) => {
            s.problem("client_id", None, "is of no use without `introspection_url`");
            None
        }
    };
    s.finish();
    Some(Issuer {
        name: name?,
        issuer_url: issuer_url?,
        jwks_uri,
        audiences,
        allow_http,
        ca_file,
        agent_claim,
        groups_claim,
        introspection,
        introspection_grace_secs,
        auto_register: auto_register.then_some(auto_register_max),
    })
}

fn policy(mut s: Section<'_>) -> Read<Policy> {
    let policy = Policy {
        file: s.text("file").map(PathBuf::from),
        watch: s.flag("watch", false),
        watch_debounce_ms: s.number("watch_debounce_ms", 500, 50..=60_000),
    };
    if policy.watch && policy.file.is_none() {
        s.problem("watch", None, "has nothing to watch; set `policy.file`");
    }
    (policy, s.finish())
}

fn sessions(mut s: Section<'_>) -> Read<Sessions> {
    let unknown = [
        ("off", UnknownIntent::Off),
        ("flag", UnknownIntent::Flag),
        ("enforce", UnknownIntent::Enforce),
    ];
    let sessions = Sessions {
        default_time_limit_secs: s.number(
            "default_time_limit_secs",
            3_600,
            1..=MAX_TIME_LIMIT_SECS,
        ),
        default_call_budget: s.number("default_call_budget", 1_000, 1..=MAX_CALL_BUDGET),
        escalate_anomalies: s.flag("escalate_anomalies", false),
        unknown_intent: s.one_of("unknown_intent", UnknownIntent::Flag, &unknown),
        allow_wildcard_tools: s.flag("allow_wildcard_tools", false),
        warning_threshold_pct: s.decimal("warning_threshold_pct", 20.0, 0.0..=100.0),
        max_concurrent_sessions_per_agent: s.number(
            "max_concurrent_sessions_per_agent",
            10,
            1..=10_000,
        ),
        rate_limit_window_secs: s.number("rate_limit_window_secs", 60, 1..=3_600),
        cleanup_interval_secs: s.number("cleanup_interval_secs", 60, 1..=DAY_SECS),
        read_intent_keywords: keywords(&mut s, "read_intent_keywords", READ_KEYWORDS),
        write_intent_keywords: keywords(&mut s, "write_intent_keywords", WRITE_KEYWORDS),
        admin_intent_keywords: keywords(&mut s, "admin_intent_keywords", ADMIN_KEYWORDS),
    };
    (sessions, s.finish())
}

fn keywords(s: &mut Section<'_>, key: &'static str, default: &[&str]) -> Vec<String> {
    s.checked_list(key, default, values::keyword)
}

fn audit(mut s: Section<'_>) -> Read<Audit> {
    let durabilities = [("write", Durability::Write), ("sync", Durability::Sync)];
    let audit = Audit {
        enabled: s.flag("enabled", true),
        file_path: s.text_or("file_path", "arbiter-audit.jsonl").into(),
        redaction_patterns: s.list("redaction_patterns").unwrap_or_default(),
        redaction_replace: s.flag("redaction_replace", false),
        require_healthy: s.flag("require_healthy", true),
        hash_chain: s.flag("hash_chain", true),
        durability: s.one_of("durability", Durability::Write, &durabilities),
        max_argument_bytes: s.number("max_argument_bytes", 8_192, 256..=MIB),
        node_id: s.text("node_id"),
        rotate_bytes: s.number("rotate_bytes", 0, 0..=1 << 50),
        rotate_secs: s.number("rotate_secs", 0, 0..=366 * DAY_SECS),
        compress_rotated: s.flag("compress_rotated", false),
        keep_files: s.number("keep_files", 0, 0..=1_000_000),
        checkpoint_key_file: s.text("checkpoint_key_file").map(PathBuf::from),
        checkpoint_records: s.number("checkpoint_records", 1_000, 1..=1_000_000_000),
        checkpoint_secs: s.number("checkpoint_secs", 60, 1..=DAY_SECS),
        max_unauthenticated_records_per_sec: s.number(
            "max_unauthenticated_records_per_sec",
            100,
            0..=1_000_000,
        ),
        max_bytes_per_agent_per_sec: s.number("max_bytes_per_agent_per_sec", 0, 0..=100_000_000),
    };
    if audit.rotate_bytes > 0 && audit.rotate_bytes < MIN_ROTATE_BYTES {
        let problem = "is out of range; use 0 (never) or at least 65536";
        s.problem("rotate_bytes", None, problem);
    }
    if audit.checkpoint_key_file.is_some() && !audit.hash_chain {
        let problem = "signs the chain, so it needs `audit.hash_chain = true`";
        s.problem("checkpoint_key_file", None, problem);
    }
    if audit.redaction_replace && audit.redaction_patterns.is_empty() {
        let problem = "with no `audit.redaction_patterns` would redact nothing; list some";
        s.problem("redaction_replace", None, problem);
    }
    if audit.node_id.as_ref().is_some_and(|id| id.len() > 128) {
        s.problem("node_id", None, "is over 128 bytes; shorten it");
    }
    (audit, s.finish())
}

#[derive(Clone, Copy)]
enum Provider {
    File,
    Env,
    Command,
}

fn credentials(mut s: Section<'_>) -> Read<Credentials> {
    let providers = [
        ("file", Some(Provider::File)),
        ("env", Some(Provider::Env)),
        ("command", Some(Provider::Command)),
    ];
    let provider = s.one_of("provider", None, &providers);
    let file_path = s.text("file_path");
    let env_prefix = s.text_or("env_prefix", DEFAULT_CREDENTIAL_PREFIX);
    let command = s.list("command").unwrap_or_default();
    let provider = match provider {
        None => None,
        Some(Provider::File) => {
            if file_path.is_none() {
                s.problem("file_path", None, "is missing; `provider = \"file\"` needs it");
            }
            file_path.map(|path| CredentialProvider::File(path.into()))
        }
        Some(Provider::Env) => Some(CredentialProvider::Env(env_prefix)),
        Some(Provider::Command) => {
            if command.is_empty() {
                s.problem("command", None, "is missing; `provider = \"command\"` needs it");
            }
            Some(CredentialProvider::Command(command))
        }
    };
    let credentials = Credentials {
        provider,
        ttl_secs: s.number("ttl_secs", 300, 1..=DAY_SECS),
        strict_file_mode: s.flag("strict_file_mode", false),
    };
    (credentials, s.finish())
}

#[derive(Clone, Copy)]
enum StorageKind {
    Memory,
    Sqlite,
    Redis,
}

fn storage(mut s: Section<'_>) -> Read<Storage> {
    let kinds = [
        ("memory", StorageKind::Memory),
        ("sqlite", StorageKind::Sqlite),
        ("redis", StorageKind::Redis),
    ];
    let kind = s.one_of("backend", StorageKind::Memory, &kinds);
    let sqlite_path = s.text_or("sqlite_path", "arbiter.db");
    let max_stale_secs = s.number("max_stale_secs", 30, 1..=DAY_SECS);
    let url_at = s.origin("redis_url").or_else(|| s.origin("redis_url_file"));
    let given_url = url_at.is_some();
    let servers = s.secret_or_file("redis_url", "redis_url_file").and_then(|url| {
        let read = redis_url::read(url.expose());
        read.map_err(|problem| s.problem("redis_url", url_at, problem)).ok()
    });
    let prefix = s.parsed("redis_prefix", redis_url::prefix);
    let ca_file: Option<PathBuf> = s.text("redis_ca_file").map(PathBuf::from);
    let timeout_ms = s.number("redis_timeout_ms", 1_000, 50..=10_000);
    let wait_replicas: u32 = s.number("redis_wait_replicas", 0, 0..=16);
    let wait_ms = s.number("redis_wait_ms", 100, 1..=5_000);
    let clock_skew = Skew {
        most_secs: s.number("max_clock_skew_secs", 2, 1..=300),
        unready_secs: s.number("max_clock_skew_unready_secs", 30, 1..=3_600),
    };
    if clock_skew.unready_secs < clock_skew.most_secs {
        let problem = "is less than `storage.max_clock_skew_secs`, from which on a node goes by the \
                       store's time; raise it";
        s.problem("max_clock_skew_unready_secs", None, problem);
    }
    let key_at = s.origin("encryption_key").or_else(|| s.origin("encryption_key_file"));
    let encryption_key = s.secret_or_file("encryption_key", "encryption_key_file");
    let is_key = |key: &Secret| {
        let text = key.expose();
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if encryption_key.as_ref().is_some_and(|key| !is_key(key)) {
        let problem = "is not 64 hexadecimal characters; set ARBITER_STORAGE_ENCRYPTION_KEY to the \
                       output of `openssl rand -hex 32`";
        s.problem("encryption_key", key_at, problem);
    }
    let backend = match kind {
        StorageKind::Memory => Backend::Memory,
        StorageKind::Sqlite => Backend::Sqlite(sqlite_path.into()),
        StorageKind::Redis => {
            if let Some(servers) = servers {
                if ca_file.is_some() && !servers.tls {
                    let problem = "is given, but `storage.redis_url` does not use TLS: `rediss://`";
                    s.problem("redis_ca_file", None, problem);
                }
                let prefix = prefix.unwrap_or_else(|| "arbiter".to_owned());
                let timeout = Duration::from_millis(timeout_ms);
                Backend::Redis(Box::new(Redis {
                    servers,
                    prefix,
                    ca_file,
                    timeout,
                    wait_replicas: (wait_replicas > 0).then_some(wait_replicas),
                    wait: Duration::from_millis(wait_ms),
                }))
            } else {
                // A value that cannot be read has been reported already.
                if !given_url {
                    let problem = "is missing; set the environment variable \
                                   ARBITER_STORAGE__REDIS_URL to a URL such as `redis://host:6379`";
                    s.problem("redis_url", None, problem);
                }
                Backend::Memory
            }
        }
    };
    (Storage { backend, encryption_key, max_stale_secs, clock_skew }, s.finish())
}

fn agents(mut s: Section<'_>) -> Read<Agents> {
    // At least as long as any token of theirs may live.
    let retention_secs = s.number("retention_secs", 30 * DAY_SECS, DAY_SECS..=3_650 * DAY_SECS);
    (Agents { retention_secs }, s.finish())
}

fn metrics(mut s: Section<'_>) -> Read<Metrics> {
    let metrics =
        Metrics { enabled: s.flag("enabled", true), require_auth: s.flag("require_auth", false) };
    (metrics, s.finish())
}

fn tracing(mut s: Section<'_>) -> Read<Tracing> {
    let tracing = Tracing {
        otlp_endpoint: s.parsed("otlp_endpoint", values::otlp_endpoint),
        service_name: s.text_or("service_name", "arbiter"),
        sample_ratio: s.decimal("sample_ratio", 1.0, 0.0..=1.0),
        max_traces_per_sec: s.number("max_traces_per_sec", 100, 1..=100_000),
    };
    (tracing, s.finish())
}
