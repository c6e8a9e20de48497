//! `arbiter check`: the doctor. Looks at everything that `serve` will need, changes nothing, and
//! reports the state of each thing.

mod host;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::client::causes;
use super::print::{Format, Out, Tone};
use super::{Env, Exit, Failure};
use crate::app::handover::{Running, who};
use crate::app::{Templates, drift_tools, load_secrets, out_of_time};
use crate::clock::Clock;
use crate::config::{self, Audit, Backend, Config, Skew, Storage};
use crate::firewall::call::{Entry, UpstreamRef};
use crate::holder::Holder;
use crate::identity::IssuerReport;
use crate::rulebook::policies_at;
use crate::store::{RedisFault, RedisReport, StoreError};

const UPSTREAM_DEADLINE: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub struct Check {
    /// The configuration file.
    #[arg(long, default_value = "conf/arbiter.toml", env = "ARBITER_CONFIG")]
    config: PathBuf,
    /// Leave the ports out: systemd holds both sockets for the service.
    #[arg(long)]
    socket_activated: bool,
    #[command(flatten)]
    pub(super) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ok,
    Warn,
    Fail,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Warn => Tone::Doubtful,
            Self::Fail => Tone::Bad,
        }
    }
}

/// Finding: its subject, its state, and the remedy.
struct Finding {
    health: Health,
    what: &'static str,
    text: String,
}

fn found(health: Health, what: &'static str, text: impl Into<String>) -> Finding {
    Finding { health, what, text: text.into() }
}

impl Check {
    pub(super) async fn run(&self, env: &Env, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let (findings, bad) = match Config::load(&self.config, env.0.iter().cloned()) {
            Ok(config) => (self.examine(&config, env).await, Exit::No),
            Err(errors) => {
                let findings =
                    errors.0.iter().map(|e| found(Health::Fail, "config", e.to_string()));
                (findings.collect(), Exit::Usage)
            }
        };
        if out.json {
            let list: Vec<_> = findings
                .iter()
                .map(|f| json!({ "result": f.health.as_str(), "what": f.what, "text": f.text }))
                .collect();
            out.thing(&json!(list))?;
        } else {
            for Finding { health, what, text } in &findings {
                out.toned(health.tone(), health.as_str(), 4, &format!("  {what:11}  {text}"))?;
            }
        }
        let failed = findings.iter().any(|finding| finding.health == Health::Fail);
        Ok(if failed { bad } else { Exit::Fine })
    }

    async fn examine(&self, config: &Config, env: &Env) -> Vec<Finding> {
        // A gateway that serves this configuration already has its ports and its files, and should.
        let running = config.control_socket().and_then(|path| who(&path));
        let in_use = running.is_some();
        let mut findings = vec![
            found(Health::Ok, "config", format!("{} is valid", self.config.display())),
            found(Health::Ok, "secrets", "admin key and signing secret are set and long enough"),
            policies(config),
            guessed(config),
            audit(&config.audit),
            credentials(config),
            storage(&config.storage, running.as_ref()).await,
        ];
        if !self.socket_activated {
            let (proxy, admin) = (config.proxy.listen, config.admin.listen);
            findings.push(port("proxy port", proxy, running.as_ref().map(|r| (r.pid, r.proxy))));
            findings.push(port("admin port", admin, running.as_ref().map(|r| (r.pid, r.admin))));
        }
        findings.extend(running.map(|Running { version, pid, .. }| {
            found(Health::Ok, "running", format!("version {version} serves this, as process {pid}"))
        }));
        findings.extend(host::certificates(config));
        findings.extend(host::checkpoint_key(&config.audit));
        findings.extend(host::storage_key(&config.storage, in_use));
        findings.extend(host::volume(&config.audit));
        findings.push(host::descriptors(config));
        let names: Vec<&str> = env.0.iter().map(|(name, _)| name.as_str()).collect();
        findings.extend(host::variables(&names, config));
        let upstream_ca = config.proxy.upstream_ca_file.as_deref();
        findings.extend(upstream_ca.map(|path| authorities("upstream CA", path)));
        findings.extend(join_all(config.oauth.issuers.iter().map(issuer)).await);
        for url in config.upstreams.iter().flat_map(|pool| &pool.urls) {
            findings.push(reached("upstream", url, &url.host, url.port).await);
        }
        if let Some(url) = &config.tracing.otlp_endpoint
            && let Ok(uri) = url.parse::<http::Uri>()
        {
            let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            findings.push(reached("collector", url, host, uri.port_u16().unwrap_or(usual)).await);
        }
        findings.extend(config.hints().into_iter().map(|hint| found(Health::Warn, "config", hint)));
        if !config.admin.listen.ip().is_loopback() {
            let text = "listens beyond this machine; keep agents off that network";
            findings.push(found(Health::Warn, "admin port", text));
            if config.admin.tls.is_none() {
                let text = "is plain HTTP beyond this machine, so keys travel in the clear: set `admin.tls`";
                findings.push(found(Health::Warn, "admin port", text));
            }
        }
        findings
    }
}

fn policies(config: &Config) -> Finding {
    const WHAT: &str = "policies";
    let Some(path) = &config.policy.file else {
        return found(Health::Warn, WHAT, "`policy.file` is not set: everything is refused");
    };
    match policies_at(path, Some(&config.upstream_names())) {
        Ok(set) if set.is_empty() => {
            let text = format!("{} holds none: everything is refused", path.display());
            found(Health::Warn, WHAT, text)
        }
        Ok(set) if !set.warnings().is_empty() => {
            let warnings: Vec<_> = set.warnings().iter().map(ToString::to_string).collect();
            found(Health::Warn, WHAT, warnings.join("; "))
        }
        Ok(set) => {
            let (count, version) = (set.len(), set.version());
            found(Health::Ok, WHAT, format!("{count} in {}, version {version}", path.display()))
        }
        Err(error) => {
            let text = error.to_string().replace('\n', "; ");
            found(Health::Fail, WHAT, format!("{}: {text}", config.at("policy.file")))
        }
    }
}

/// Names the tools of the policies of which drift can only guess what they do.
fn guessed(config: &Config) -> Finding {
    const WHAT: &str = "drift";
    const SHOWN: usize = 10;
    let path = config.policy.file.as_deref();
    let Some(Ok(set)) = path.map(|path| policies_at(path, None)) else {
        return found(Health::Ok, WHAT, "there is no policy whose tools could be looked at");
    };
    let tools = drift_tools(config);
    let is_guess = |name: &str| {
        let Entry { upstream, tool } = Entry::of(name);
        tools.does(UpstreamRef { name: upstream }, tool).is_guess
    };
    let guessed: Vec<_> = set.named_tools().filter(|name| is_guess(name)).collect();
    if guessed.is_empty() {
        return found(Health::Ok, WHAT, "the names of all tools in the policies say what they do");
    }
    let shown = guessed.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<&str>>().join("`, `");
    let more = guessed.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "taken for writes, as their names hold no known verb: `{shown}`{more}; say what they do in \
         `[[tools]]`"
    );
    found(Health::Warn, WHAT, text)
}

fn audit(audit: &Audit) -> Finding {
    const WHAT: &str = "audit log";
    if !audit.enabled {
        return found(Health::Warn, WHAT, "`audit.enabled` is false: nothing is recorded");
    }
    match writable(&audit.file_path) {
        Ok(()) => found(Health::Ok, WHAT, format!("{} can be written", audit.file_path.display())),
        Err(error) => {
            let text = format!("{} cannot be written: {error}", audit.file_path.display());
            found(Health::Fail, WHAT, text)
        }
    }
}

/// Reports whether a file could be written, without leaving a trace.
fn writable(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        if !path.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        return std::fs::OpenOptions::new().append(true).open(path).map(drop);
    }
    // The folder itself may still have to be made: the nearest one that exists decides.
    let parents = path.ancestors().skip(1);
    let folder = parents
        .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let probe = folder.join(format!(".arbiter-check-{}", uuid::Uuid::new_v4()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

/// Reads the credentials as `serve` would, and fills in the upstream's headers.
fn credentials(config: &Config) -> Finding {
    const WHAT: &str = "credentials";
    let secrets = match load_secrets(config, &Clock::system()) {
        Ok(secrets) => secrets,
        Err(error) => return found(Health::Fail, WHAT, format!("{error:#}")),
    };
    let templates = Templates::of(config);
    if let Err(error) = templates.and_then(|templates| templates.expand(&secrets.vault())) {
        return found(Health::Fail, WHAT, format!("{error:#}"));
    }
    let count = secrets.vault().len();
    match (&config.credentials.provider, secrets.warnings().first()) {
        (None, _) => found(Health::Ok, WHAT, "none: calls with `${CRED:…}` are refused"),
        (Some(_), Some(warning)) => found(Health::Warn, WHAT, warning),
        (Some(_), None) if count == 0 => found(Health::Warn, WHAT, "there are none"),
        (Some(_), None) => found(Health::Ok, WHAT, format!("{count} can be read")),
    }
}

async fn storage(storage: &Storage, running: Option<&Running>) -> Finding {
    const WHAT: &str = "storage";
    let path = match &storage.backend {
        Backend::Memory => {
            let text = "memory: agents and sessions are gone after a restart";
            return found(Health::Warn, WHAT, text);
        }
        Backend::Redis(redis) => return shared(redis, storage.clock_skew).await,
        Backend::Sqlite(path) => path,
    };
    let shown = path.display();
    if let Err(error) = writable(path) {
        return found(Health::Fail, WHAT, format!("{shown} cannot be written: {error}"));
    }
    if !path.exists() {
        return found(Health::Ok, WHAT, format!("{shown} will be made"));
    }
    let read = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|db| {
        db.busy_timeout(Duration::ZERO)?;
        db.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0))
    });
    match read {
        Ok(_tables) => found(Health::Ok, WHAT, format!("{shown} can be opened")),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            let (health, holder) = running.map_or_else(
                || (Health::Warn, Holder::of(path).to_string()),
                |running| (Health::Ok, format!("the running process {}", running.pid)),
            );
            found(health, WHAT, format!("{shown} is in use by {holder}"))
        }
        Err(error) => found(Health::Fail, WHAT, format!("{shown} cannot be opened: {error}")),
    }
}

/// Connects as `serve` would, and looks whether what is spent stays spent.
async fn shared(redis: &config::Redis, skew: Skew) -> Finding {
    const WHAT: &str = "storage";
    let off = |off_us: i64| off_us.unsigned_abs() > skew.most_secs.saturating_mul(1_000_000);
    let servers = &redis.servers;
    match RedisReport::of(redis).await {
        Err(error) => {
            let silent = matches!(error, StoreError::Redis(RedisFault::NoAnswer { .. }));
            let hint = if silent && servers.tls { "; does it speak TLS on this port?" } else { "" };
            found(Health::Fail, WHAT, format!("{servers}: {error}{hint}"))
        }
        Ok(RedisReport { off_us, .. }) if off(off_us) => {
            found(Health::Fail, "clock", out_of_time(off_us))
        }
        Ok(RedisReport { evicts_nothing: false, .. }) => {
            let text =
                "can be used, but does not say its `maxmemory-policy`; it must be `noeviction`";
            found(Health::Warn, WHAT, format!("{servers} {text}"))
        }
        Ok(RedisReport { durable: Some(false), .. }) => {
            let text =
                "can be used, but keeps nothing over its own restart: set `appendonly yes` there";
            found(Health::Warn, WHAT, format!("{servers} {text}"))
        }
        Ok(RedisReport { durable: None, .. }) => {
            let text = "can be used, but does not say whether it has `appendonly yes`";
            found(Health::Warn, WHAT, format!("{servers} {text}"))
        }
        Ok(RedisReport { durable: Some(true), fsync, .. }) => {
            let kept = fsync.map_or_else(
                || "it does not say how often (`appendfsync`)".to_owned(),
                |often| format!("`appendfsync {often}`"),
            );
            found(Health::Ok, WHAT, format!("{servers} can be used and writes to its disk: {kept}"))
        }
    }
}

fn port(what: &'static str, address: SocketAddr, running: Option<(u32, SocketAddr)>) -> Finding {
    match (TcpListener::bind(address), running) {
        (Ok(_free), _) => found(Health::Ok, what, format!("{address} is free")),
        (Err(_taken), Some((pid, at))) if at == address => {
            found(Health::Ok, what, format!("{address} is served by the running process {pid}"))
        }
        (Err(error), _) => found(Health::Fail, what, format!("{address} cannot be taken: {error}")),
    }
}

fn authorities(what: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => {
            found(Health::Ok, what, format!("{shown} holds certificates"))
        }
        Ok(_) => found(Health::Fail, what, format!("{shown} holds no PEM certificate")),
        Err(error) => found(Health::Fail, what, format!("cannot read {shown}: {error}")),
    }
}

/// Asks an identity provider as `serve` would; it may also start later.
async fn issuer(settings: &config::Issuer) -> Finding {
    const WHAT: &str = "issuer";
    let name = &settings.name;
    let report = match IssuerReport::of(settings).await {
        Ok(report) => report,
        Err(error) => return found(Health::Fail, WHAT, causes(&error)),
    };
    let keys = report.keys.map(|keys| match keys {
        Ok(0) => (Health::Warn, "publishes no key that can be used: its tokens are refused".into()),
        Ok(count) => (Health::Ok, format!("publishes {count} keys")),
        Err(error) => (Health::Warn, format!("{error}: its tokens cannot be checked")),
    });
    let introspection = report.introspection.map(|answer| match answer {
        Ok(()) => (Health::Ok, "answers questions about tokens".to_owned()),
        Err(error) => (Health::Warn, format!("its introspection failed: {error}")),
    });
    let parts: Vec<(Health, String)> = keys.into_iter().chain(introspection).collect();
    let is_well = parts.iter().all(|(health, _)| *health == Health::Ok);
    let health = if is_well { Health::Ok } else { Health::Warn };
    let texts: Vec<&str> = parts.iter().map(|(_, text)| text.as_str()).collect();
    found(health, WHAT, format!("`{name}`: {}", texts.join("; ")))
}

/// Looks whether something listens where calls or traces are sent; it may also start later.
async fn reached(what: &'static str, url: impl Display, host: &str, port: u16) -> Finding {
    let connect = tokio::net::TcpStream::connect((host, port));
    match tokio::time::timeout(UPSTREAM_DEADLINE, connect).await {
        Ok(Ok(_stream)) => found(Health::Ok, what, format!("{url} can be reached")),
        Ok(Err(error)) => found(Health::Warn, what, format!("{url} cannot be reached: {error}")),
        Err(_elapsed) => found(Health::Warn, what, format!("{url} does not answer")),
    }
}
