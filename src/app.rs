//! Wiring: what is built, in which order it starts, and in which it stops.
//!
//! Start: state first (store, agents, sessions, audit log, policies, credentials), then the sockets,
//! then the services on them, so that every mistake is reported before the first request. Stop:
//! readiness falls, calls in flight end or run out of time, leases go back, the log is drained.
//! The data plane has Pingora's threads; store, log, admin API, reload and upkeep have their
//! own.

mod descriptors;
mod follow;
pub(crate) mod handover;
mod headers;
mod listener;
mod node;
mod notify;
mod on_record;
mod reload;
mod shared;
mod standing;
mod stop;
mod tls;
mod traces;
mod upkeep;
mod upstreams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use serde::Serialize;
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use crate::admin::{self, Admin, Keyring, People, Searches, WrongKeys};
use crate::approvals::notices::{self, Notices};
use crate::approvals::page::Page;
use crate::approvals::{self, Approvals};
use crate::audit::checkpoint::SigningKey;
use crate::audit::redact::Redactor;
use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::config::{self, Backend, Config};
use crate::console::{self, Console};
use crate::continuations::Continuations;
use crate::firewall::checks::drift::{Tools, UnknownIntent};
use crate::firewall::checks::whitelist::Wildcard;
use crate::firewall::elicitation::Elicitation;
use crate::firewall::session::Status;
use crate::firewall::terms::Terms;
use crate::firewall::time::{Now, Timestamp};
use crate::freezer::Freezer;
use crate::gate::asking::Asking;
use crate::gate::enrol::Enrolment;
use crate::gate::injected::Injected;
use crate::gate::shares::Limits;
use crate::gate::ticket::InFlight;
use crate::gate::{self, Gate};
use crate::identity::Identity;
use crate::identity::mint::Minter;
use crate::metrics::{Levels, Metrics};
use crate::proxy::Gateway;
use crate::proxy::browser::Browsers;
use crate::proxy::forwarding::Forwarding;
use crate::proxy::guard::Guard;
use crate::proxy::intake::Intake;
use crate::proxy::leave::Leaving;
use crate::proxy::listen::{Door, PreBound};
use crate::proxy::local::{Local, Scrapes};
use crate::proxy::probe;
use crate::proxy::seats::Seats;
use crate::proxy::upstream::Headers;
use crate::proxy::upstreams::Upstreams;
use crate::proxy::wire;
use crate::registry::Registry;
use crate::reload::Reloader;
use crate::rulebook::Rulebook;
use crate::secrets::Secrets;
use crate::sessions::{self, Sessions};
use crate::store::{Followed, SealKey, Store};
use crate::telemetry::Causes;
use follow::Follower;
use listener::AdminService;
use reload::Reloads;
use tls::Certificate;

pub(crate) use headers::Templates;
pub(crate) use reload::secrets as load_secrets;
pub(crate) use shared::out_of_time;
use stop::{Draining, Signals};
pub use stop::{Stopped, Switch, stop_switch};

/// Time that tasks of the control runtime may take to end.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Addresses of a running gateway.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub pid: u32,
}

/// The way to the listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sockets that systemd holds, else new ones.
    Start,
    /// Sockets of the running process, which then ends.
    TakeOver,
}

/// Starts threads for one kind of work.
fn runtime(name: &str, threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(threads).thread_name(name).enable_all().build();
    built.with_context(|| format!("starting the threads for `{name}`"))
}

/// Serves until a signal or the switch stops it, or another process takes over.
pub fn run(
    config: &Config,
    way: Way,
    stopped: Stopped,
    on_ready: impl FnOnce(&Started) -> Result<()>,
) -> Result<()> {
    let control = runtime("control", 1)?;
    // The connections to a shared store: nothing else keeps them waiting.
    let store_io = runtime("store-io", 1)?;
    let upkeep = runtime("upkeep", 1)?;
    let certificate = config.proxy.tls.as_ref().map(Certificate::open).transpose();
    let certificate = certificate.with_context(|| config.at("proxy.tls"))?;
    let admin_tls = config.admin.tls.as_ref().map(Certificate::for_admin).transpose();
    let admin_tls = admin_tls.with_context(|| config.at("admin.tls"))?;
    let tls = certificate.as_ref().map(Certificate::settings).transpose()?;
    let taken_over = match way {
        Way::Start => None,
        Way::TakeOver => {
            // The running process is asked to end only if nothing that can be tried is wrong.
            rehearse(config)?;
            Some(handover::take_over(config)?)
        }
    };
    let mut parts = control.block_on(Parts::build(config, store_io.handle()))?;
    let sockets = match taken_over {
        Some(sockets) => sockets,
        None => handover::open(config)?,
    };
    let started = Started {
        proxy: sockets.proxy.local_addr()?,
        admin: sockets.admin.local_addr()?,
        pid: std::process::id(),
    };
    let offer = handover::offer(config, &started, &sockets);

    for hint in config.hints() {
        warn!("{hint}");
    }
    let threads = config.proxy.threads.unwrap_or_else(cores);
    let descriptors = descriptors::divide(config)?;
    let conf = ServerConf {
        threads,
        // One thread has nobody to steal from, and a runtime that could would pay for it.
        work_stealing: threads > 1,
        // The wait is over when Pingora is told: see `stop`.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: descriptors.pool,
        max_retries: 3,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let upstreams = Arc::new(upstreams::connect(config, &parts.headers)?);
    control.spawn(probe::watch(upstreams.clone(), parts.clock.clone()));
    standing::connect(&parts, upstreams.clone(), certificate.clone());
    let bulk = runtime("bulk", threads.div_ceil(2))?;
    let people = People::new(config, &parts.clock, control.handle())
        .context("preparing to ask the issuer of `admin.oidc`")?;
    let sources = control.block_on(parts.sources(config));
    let admin = parts.admin(config, people, sources, control.handle());
    let sealing = upstreams.clone();
    let gateway = parts.gateway(config, upstreams, bulk.handle().clone(), &admin);
    let guard = parts.guard(config, gateway, &server, descriptors.pool, control.handle())?;
    let door = parts.door(config, descriptors.connections);
    let drain = &parts.gate.drain;
    let leaving = Leaving { inner: Arc::new(guard), leaving: drain.when_leaving() };
    let closed = drain.when_closed();
    let service = PreBound::new("proxy", leaving, sockets.proxy, tls, door, closed);
    server.add_service(service.with_threads(threads));
    let admin_settings = admin_tls.as_ref().map(|(_, tls)| tls.clone());
    let admin = AdminService::new(admin, sockets.admin, admin_settings, drain.when_closed());
    let admin_ended = admin.when_ended();
    server.add_service(admin);
    let signals = {
        let _within = control.enter();
        Signals::watch().context("watching for signals")?
    };
    let successor = offer.successor.clone();
    let taken = offer.taken.subscribe();
    control.spawn(offer.serve(drain.when_leaving()));
    control.block_on(parts.start_on_record(config, &started));
    let certificates = certificate.into_iter().chain(admin_tls.map(|(certificate, _)| certificate));
    parts.start_tasks(&control, &upkeep, config, certificates.collect(), sealing);
    on_ready(&started)?;
    notify::report(notify::READY);
    info!(proxy = %started.proxy, admin = %started.admin, "arbiter is up");

    let signal = Draining {
        stopped,
        signals: Some(signals).into(),
        gate: parts.gate.clone(),
        delay: Duration::from_secs(config.proxy.drain_delay_secs),
        patience: Duration::from_secs(config.proxy.drain_timeout_secs),
        taken,
        takeover_patience: Duration::from_secs(config.proxy.takeover_wait_secs),
        admin_ended,
    };
    server.run(RunArgs { shutdown_signal: Box::new(signal) });
    // Nothing is being judged any more.
    bulk.shutdown_background();
    upkeep.shutdown_timeout(LAST_TASKS);
    parts.end(&control);
    // Nothing holds log and store once these are gone.
    control.shutdown_timeout(LAST_TASKS);
    drop(parts);
    successor.release();
    // Its stream ends with the process.
    std::mem::forget(successor);
    Ok(())
}

/// Reads everything that can be read while another process holds log and store, so that a mistake
/// ends this process and not that one.
fn rehearse(config: &Config) -> Result<()> {
    let rulebook = Rulebook::load(config.policy.file.as_deref(), terms(config));
    rulebook.with_context(|| config.at("policy.file"))?;
    let secrets = reload::secrets(config, &Clock::system()).context("loading credentials")?;
    Templates::of(config)?.expand(&secrets.vault())?;
    Redactor::new(&config.audit.redaction_patterns, config.audit.redaction_replace)?;
    audit_settings(config)?;
    seal_key(config)?;
    if config.storage.backend == Backend::Memory {
        warn!("`storage.backend` is \"memory\": the running process's sessions end with it");
    }
    Ok(())
}

/// Writes where the gateway listens, for whoever started it.
pub fn write_ready_file(path: &Path, started: &Started) -> Result<()> {
    // Renamed into place, so that nobody reads half of it.
    let mut partial = path.to_owned().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::write(&partial, serde_json::to_string(started)?)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("writing the ready file {}", path.display()))
}

/// Loads the approvals that the store keeps.
async fn approvals(
    config: &Config,
    store: &Arc<Store>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Approvals> {
    let now = clock.now();
    let terms = &config.approvals;
    let settings = approvals::Settings {
        limits: crate::firewall::approvals::Limits {
            ttl_secs: terms.ttl_secs,
            max_pending_per_agent: usize::try_from(terms.max_pending_per_agent)
                .unwrap_or(usize::MAX),
        },
        hold: Duration::from_secs(terms.hold_secs),
        four_eyes: terms.four_eyes,
    };
    let secret = config.admin.signing_secrets.signing().expose().as_bytes();
    let notices = notices(config, metrics, clock)?;
    let approvals = Approvals::new(settings, secret, Arc::clone(store), now).with_notices(notices);
    let page = terms.user_url.as_deref().map(|url| Page::new(url, secret));
    let approvals = approvals.with_page(page);
    approvals.load(now).await.context("loading approvals")?;
    Ok(approvals)
}

/// Secrets that key what is kept of tasks and states.
fn mark_secrets(secrets: &config::SigningSecrets) -> impl Iterator<Item = &[u8]> {
    secrets.all().map(|secret| secret.expose().as_bytes())
}

/// Starts to send notices of approvals, if anybody receives them.
fn notices(config: &Config, metrics: &Arc<Metrics>, clock: &Clock) -> Result<Option<Notices>> {
    let Some(notify) = &config.approvals.notify else { return Ok(None) };
    let receiver = notices::Receiver {
        url: notify.url.expose().parse().context("reading `approvals.notify_url`")?,
        key: hmac::Key::new(hmac::HMAC_SHA256, notify.secret.expose().as_bytes()),
    };
    let notices = Notices::start(receiver, metrics, clock, &Handle::current());
    Ok(Some(notices.context("preparing to notify `approvals.notify_url`")?))
}

fn continuations(config: &Config, store: &Arc<Store>) -> Continuations {
    Continuations::new(Arc::clone(store), mark_secrets(&config.admin.signing_secrets))
}

/// Reads the policies, and warns where there are none.
fn rulebook(config: &Config) -> Result<Rulebook> {
    let file = || config.at("policy.file");
    let rulebook = Rulebook::load(config.policy.file.as_deref(), terms(config));
    let rulebook = rulebook.with_context(file)?;
    if rulebook.rules().policies.is_empty() {
        warn!("{}: there is no policy, so every request is refused", file());
    }
    Ok(rulebook)
}

/// Reads the certificate that agents would see; the end of its validity, as Unix time.
pub(crate) fn certificate_expiry(files: &config::Tls) -> Result<Option<i64>> {
    let certificate = Certificate::open(files)?;
    certificate.settings()?;
    Ok(certificate.expires())
}

/// Reads what operators would see, client authorities included; the end of its validity.
pub(crate) fn admin_certificate_expiry(files: &config::AdminTls) -> Result<Option<i64>> {
    let (certificate, _) = Certificate::for_admin(files)?;
    Ok(certificate.expires())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Everything that lives as long as the process.
struct Parts {
    clock: Clock,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    registry: Arc<Registry>,
    sessions: Arc<Sessions>,
    rulebook: Arc<Rulebook>,
    audit: Arc<Audit>,
    gate: Arc<Gate>,
    keys: Arc<Keyring>,
    minter: Arc<Minter>,
    templates: Arc<Templates>,
    /// Configured headers of each upstream.
    headers: Vec<Arc<ArcSwap<Headers>>>,
    /// Follower of other nodes' changes, in a fleet.
    follower: Option<Follower>,
    /// Sender of traces, if there is a collector.
    sending: Option<traces::Sending>,
}

/// Rules for the questions of servers.
fn asking(proxy: &config::Proxy, secrets: &Arc<Secrets>, redactor: &Redactor) -> Result<Asking> {
    let hosts: Vec<&str> = proxy.allowed_elicitation_hosts.iter().map(String::as_str).collect();
    Ok(Asking {
        elicitation: Elicitation::parse(&hosts).map_err(anyhow::Error::msg)?,
        secrets: Arc::clone(secrets),
        secret_names: proxy.refuse_secret_forms.then(|| redactor.clone()),
    })
}

fn session_limits(config: &Config) -> Result<sessions::Settings> {
    Ok(sessions::Settings {
        max_per_agent: usize::try_from(config.sessions.max_concurrent_sessions_per_agent)?,
        rate_window_secs: config.sessions.rate_limit_window_secs,
    })
}

async fn open_store(config: &Config, store_io: &Handle) -> Result<Store> {
    match &config.storage.backend {
        Backend::Memory => Ok(Store::memory()),
        Backend::Sqlite(path) => {
            let key = seal_key(config)?;
            Store::sealed_sqlite(path, key).await.context("opening `storage.sqlite_path`")
        }
        Backend::Redis(redis) => shared::store(config, redis, store_io).await,
    }
}

impl Parts {
    async fn build(config: &Config, store_io: &Handle) -> Result<Self> {
        let clock = Clock::system();
        let now = clock.now();
        let metrics = Arc::new(Metrics::new());
        let store = Arc::new(open_store(config, store_io).await?);
        // From here on nothing that other nodes change is missed.
        let place = shared::follow_from_here(&store).await?;
        let skew = config.storage.clock_skew;
        let followed = Followed::of(&store, config.storage.max_stale_secs, skew, now.mono);
        shared::agree_on_time(&store, &followed, &clock).await?;
        let followed = Arc::new(followed);
        let registry = Registry::open(store.clone(), clock.clone()).await;
        let registry = Arc::new(registry.context("loading agents")?);
        let limits = session_limits(config)?;
        let sessions =
            Arc::new(Sessions::open(store.clone(), limits, now).await.context("loading sessions")?);
        let freezer = Freezer::open(store.clone(), now).await.context("loading freezes")?;
        let rulebook = rulebook(config)?;
        let audit = Arc::new(Audit::open(audit_settings(config)?, clock.clone())?);
        let secrets = Arc::new(reload::secrets(config, &clock).context("loading credentials")?);
        let templates = Arc::new(Templates::of(config)?);
        let (headers, in_headers) = templates.expand(&secrets.vault())?;
        let redactor =
            Redactor::new(&config.audit.redaction_patterns, config.audit.redaction_replace)?;
        let (traces, sending) = traces::prepare(config, &metrics, &clock)?.unzip();
        let gate = Arc::new(Gate {
            clock: clock.clone(),
            identity: Identity::with_issuers(
                &config.admin.signing_secrets,
                &config.oauth,
                &clock,
                &Handle::current(),
            )
            .context("preparing to ask `oauth.issuers`")?,
            enrolment: Enrolment::new(&config.oauth.issuers, &registry),
            rulebook: Arc::new(rulebook),
            approvals: Arc::new(approvals(config, &store, &metrics, &clock).await?),
            continuations: Arc::new(continuations(config, &store)),
            registry: registry.clone(),
            sessions: sessions.clone(),
            freezer: Arc::new(freezer),
            followed,
            audit: audit.clone(),
            recent: Arc::default(),
            // In a fleet any node may have injected what a session is authorised for.
            injected: Injected::new(
                in_headers,
                if store.is_shared() { Timestamp(i64::MAX) } else { now.wall },
            ),
            asking: Arc::new(asking(&config.proxy, &secrets, &redactor)?),
            secrets,
            redactor,
            metrics: metrics.clone(),
            settings: gate::Settings {
                strict_mcp: config.proxy.strict_mcp,
                require_healthy_audit: config.audit.require_healthy,
                refusal_style: config.proxy.refusal_style,
                max_argument_bytes: config.audit.max_argument_bytes,
                max_request_body_bytes: config.proxy.max_request_body_bytes,
                max_list_ttl_ms: config.proxy.max_list_ttl_ms,
            },
            in_flight: Arc::new(InFlight::new(limits_of_agents(config))),
            drain: Arc::default(),
            traces,
        });
        let headers: Vec<_> =
            headers.into_iter().map(|headers| Arc::new(ArcSwap::from_pointee(headers))).collect();
        let mut parts = Self {
            clock,
            metrics,
            store,
            registry,
            sessions,
            rulebook: gate.rulebook.clone(),
            audit,
            gate,
            keys: Arc::new(Keyring::new(&config.admin)),
            minter: Arc::new(Minter::new(config.admin.signing_secrets.signing())),
            templates,
            headers,
            follower: None,
            sending,
        };
        if parts.store.is_shared() {
            let mut follower = Follower {
                store: parts.store.clone(),
                gate: parts.gate.clone(),
                metrics: parts.metrics.clone(),
                clock: parts.clock.clone(),
                place,
                unasserted: false,
            };
            follower.catch_up().await.context("following the other nodes")?;
            parts.follower = Some(follower);
        }
        parts.remember_sessions(now);
        parts.connect_levels();
        Ok(parts)
    }

    /// Makes known what the sessions of the last run may have been given.
    fn remember_sessions(&self, now: Now) {
        /// Number of agents examined together.
        const PAGE: usize = 1_000;
        let vault = self.gate.secrets.vault();
        let active = sessions::Filter { agent: None, status: Some(Status::Active) };
        let mut after = None;
        loop {
            let page = self.sessions.list(active, after, PAGE, now);
            let Some(last) = page.last() else { return };
            after = Some(last.order.id);
            for live in &page {
                // Nothing is under way yet that would have to be scrubbed.
                let _watch = self.gate.injected.add(&live.order, &[], &vault);
            }
        }
    }

    /// Lets the metrics read what others count.
    fn connect_levels(&self) {
        let (sessions, registry) = (self.sessions.clone(), self.registry.clone());
        let (audit, clock) = (self.audit.clone(), self.clock.clone());
        let approvals = self.gate.approvals.clone();
        let freezer = self.gate.freezer.clone();
        let (in_flight, drain) = (self.gate.in_flight.clone(), self.gate.drain.clone());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.metrics.read_levels_with(move || Levels {
            calls_in_flight: count(in_flight.count()),
            draining: drain.is_leaving(),
            active_sessions: count(sessions.active_count(clock.now())),
            approvals_pending: count(approvals.pending()),
            freezes: count(freezer.list(clock.now()).len()),
            registered_agents: count(registry.active_count()),
            audit_records: audit.records_written(),
            audit_syncs: audit.syncs(),
            audit_tail_damage: audit.tail_damage(),
            audit_healthy: audit.healthy(),
        });
    }

    fn gateway(
        &self,
        config: &Config,
        upstreams: Arc<Upstreams>,
        bulk: Handle,
        admin: &axum::Router,
    ) -> Gateway {
        let proxy = &config.proxy;
        let timeout = Duration::from_secs(proxy.upstream_timeout_secs);
        let idle = Duration::from_secs(proxy.stream_idle_timeout_secs);
        let scheme = if proxy.tls.is_some() { "https" } else { "http" };
        let browsers = Arc::new(Browsers::new(&proxy.allowed_origins, &proxy.allowed_hosts));
        Gateway {
            gate: self.gate.clone(),
            intake: Intake::new(proxy, browsers.clone(), bulk),
            upstreams,
            local: Local {
                metrics: self.metrics.clone(),
                scrapes: match (config.metrics.enabled, config.metrics.require_auth) {
                    (false, _) => Scrapes::Nobody,
                    (true, false) => Scrapes::Anyone,
                    (true, true) => Scrapes::Keyholders(admin.clone()),
                },
                scheme,
                resource: config.oauth.resource.clone(),
                authorization_servers: config
                    .oauth
                    .issuers
                    .iter()
                    .map(|issuer| issuer.issuer_url.clone())
                    .collect(),
                browsers: browsers.clone(),
                methods: if proxy.legacy_streams { "GET, POST, DELETE" } else { "POST" },
            },
            browsers,
            forwarding: Forwarding {
                trusted: proxy.trusted_proxies.clone(),
                send: proxy.send_forwarded,
                scheme,
            },
            upstream_timeout: timeout,
            max_response_body_bytes: proxy.max_response_body_bytes,
            idle_timeout: idle,
            keep_alive_secs: proxy.idle_connection_secs,
            stream_keepalive: Some(Duration::from_secs(proxy.stream_keepalive_secs))
                .filter(|pause| !pause.is_zero()),
            legacy_streams: proxy.legacy_streams,
        }
    }

    /// Counts wrong admin keys, and knows which keys succeeded from where before this start.
    async fn sources(&self, config: &Config) -> WrongKeys {
        let sources = WrongKeys::new(config.admin.wrong_keys_per_minute);
        match self.store.admin_pairs().await {
            Ok(pairs) => sources.remember(pairs),
            Err(error) => {
                warn!(error = %Causes(&error), "sources of admin keys are not known from before");
            }
        }
        sources
    }

    /// Makes the admin port's service: API and console.
    fn admin(
        &self,
        config: &Config,
        people: Option<People>,
        sources: WrongKeys,
        control: &Handle,
    ) -> axum::Router {
        let admin = Arc::new(Admin {
            store: self.store.clone(),
            registry: self.registry.clone(),
            sessions: self.sessions.clone(),
            freezer: self.gate.freezer.clone(),
            followed: self.gate.followed.clone(),
            drain: self.gate.drain.clone(),
            approvals: self.gate.approvals.clone(),
            continuations: self.gate.continuations.clone(),
            rulebook: self.rulebook.clone(),
            reloader: self.reloader(),
            audit: self.audit.clone(),
            searches: Searches::default(),
            minter: self.minter.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            keys: self.keys.clone(),
            people,
            sources,
            settings: admin::Settings::of(config),
        });
        let settings = console::Settings::of(config);
        let console = Console::new(Arc::clone(&admin), self.gate.recent.clone(), settings);
        let console = Arc::new(console);
        control.spawn(Arc::clone(&console).sample());
        admin::router(admin).merge(console::router(console))
    }

    /// Starts what runs beside the requests.
    fn start_tasks(
        &mut self,
        control: &tokio::runtime::Runtime,
        upkeep: &tokio::runtime::Runtime,
        config: &Config,
        certificates: Vec<Arc<Certificate>>,
        upstreams: Arc<Upstreams>,
    ) {
        let period = Duration::from_secs(config.sessions.cleanup_interval_secs);
        upkeep.spawn(upkeep::sessions(self.gate.clone(), period));
        upkeep.spawn(upkeep::approvals(self.gate.clone()));
        upkeep.spawn(upkeep::agents(self.gate.clone(), config.agents.retention_secs));
        upkeep.spawn(upkeep::probe(self.store.clone(), self.gate.clone()));
        if self.store.outlives_the_process() {
            control.spawn(follow::return_idle(self.gate.clone()));
        }
        if let Some(sending) = self.sending.take() {
            control.spawn(sending.run());
        }
        if let Some(follower) = self.follower.take() {
            control.spawn(follower.run());
        }
        let reloads = Reloads {
            reloader: self.reloader(),
            gate: self.gate.clone(),
            templates: self.templates.clone(),
            headers: self.headers.clone(),
            keys: self.keys.clone(),
            minter: self.minter.clone(),
            upstreams,
            config_file: config.file.clone(),
            certificates,
        };
        reloads.start(control, config);
    }

    fn reloader(&self) -> Reloader {
        Reloader {
            rulebook: self.rulebook.clone(),
            audit: self.audit.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Puts the gateway behind Pingora's proxy, and that behind its guard; `pool` connections are kept.
    fn guard(
        &self,
        config: &Config,
        gateway: Gateway,
        server: &Server,
        pool: usize,
        runtime: &Handle,
    ) -> Result<Guard> {
        let proxy = wire::proxy(&server.configuration, gateway, pool, runtime);
        let proxy = proxy.context("making the proxy")?;
        Ok(Guard::new(proxy, self.gate.clone(), &config.proxy))
    }

    /// Makes the places for this many connections of agents.
    fn door(&self, config: &Config, connections: usize) -> Door {
        let per_source = config.proxy.max_connections_per_source;
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        Door { seats: Seats::new(connections, per_source, metrics.clone()), clock, metrics }
    }

    /// Gives back what is leased and writes what is pending.
    fn end(&self, control: &tokio::runtime::Runtime) {
        if let Some(traces) = &self.gate.traces {
            control.block_on(traces::flush(traces));
        }
        let now = self.clock.now();
        control.block_on(async {
            if let Err(error) = self.sessions.close_all_leases(now).await {
                error!(error = %Causes(&error), "leases were not given back; their calls count as made");
            }
            if let Err(error) = self.registry.close().await {
                error!(error = %Causes(&error), "agents' last changes were not stored");
            }
            if let Err(error) = self.gate.freezer.close().await {
                error!(error = %Causes(&error), "freezes were not stored");
            }
            if let Err(error) = self.store.close().await {
                error!(error = %Causes(&error), "the store was not closed cleanly");
            }
        });
        control.block_on(self.stop_on_record());
        self.audit.close();
        info!("arbiter has stopped");
    }
}

fn limits_of_agents(config: &Config) -> Limits {
    Limits {
        max_calls: config.proxy.max_calls_in_flight,
        share_pct: config.proxy.max_share_per_agent_pct,
        refusals_per_sec: config.proxy.max_refusals_per_agent_per_sec,
        log_bytes_per_sec: config.audit.max_bytes_per_agent_per_sec,
    }
}

fn terms(config: &Config) -> Terms {
    let sessions = &config.sessions;
    Terms {
        require_session: config.proxy.require_session,
        rate_window_secs: sessions.rate_limit_window_secs,
        wildcard: if sessions.allow_wildcard_tools {
            Wildcard::Honoured
        } else {
            Wildcard::Literal
        },
        escalate_anomalies: sessions.escalate_anomalies,
        unknown_intent: match sessions.unknown_intent {
            config::UnknownIntent::Off => UnknownIntent::Off,
            config::UnknownIntent::Flag => UnknownIntent::Flag,
            config::UnknownIntent::Enforce => UnknownIntent::Enforce,
        },
        warning_threshold_pct: sessions.warning_threshold_pct,
        upstreams: config.upstream_names().into(),
        tools: drift_tools(config),
    }
}

/// Operations of tools whose names do not show them.
pub(crate) fn drift_tools(config: &Config) -> Tools {
    Tools::of(config.tools.iter().map(|tool| (tool.name.clone(), tool.operation)))
}

pub(crate) fn audit_settings(config: &Config) -> Result<audit::Settings> {
    let audit = &config.audit;
    let node_id = match (&audit.node_id, &audit.checkpoint_key_file) {
        (Some(name), _) => name.clone(),
        (None, _) if !audit.enabled => String::new(),
        (None, Some(key)) => SigningKey::load(key)
            .with_context(|| format!("`audit.checkpoint_key_file` {}", key.display()))?
            .name()
            .to_owned(),
        (None, None) => node::id(&audit.file_path)?,
    };
    Ok(audit::Settings {
        enabled: audit.enabled,
        path: audit.file_path.clone(),
        require_healthy: audit.require_healthy,
        hash_chain: audit.hash_chain,
        durability: match audit.durability {
            config::Durability::Write => audit::Durability::Write,
            config::Durability::Sync => audit::Durability::Sync,
        },
        node_id,
        max_argument_bytes: audit.max_argument_bytes,
        max_calls_in_flight: config.proxy.max_calls_in_flight,
        rotation: audit::Rotation {
            bytes: audit.rotate_bytes,
            secs: audit.rotate_secs,
            compress: audit.compress_rotated,
            keep_files: audit.keep_files,
        },
        checkpoints: audit.checkpoint_key_file.clone().map(|key_file| audit::CheckpointSettings {
            key_file,
            every_records: audit.checkpoint_records,
            every_secs: audit.checkpoint_secs,
        }),
        max_unauthenticated_records_per_sec: audit.max_unauthenticated_records_per_sec,
    })
}

fn seal_key(config: &Config) -> Result<Option<SealKey>> {
    let Some(key) = &config.storage.encryption_key else { return Ok(None) };
    let key = SealKey::from_hex(key.expose());
    Ok(Some(key.context("ARBITER_STORAGE_ENCRYPTION_KEY must be 64 hexadecimal characters")?))
}
