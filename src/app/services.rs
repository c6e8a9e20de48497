//! Services and tasks of a running gateway, made from its parts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pingora::server::Server;
use tokio::runtime::Handle;
use tracing::warn;

use super::parts::Parts;
use super::reload::{self, Reloads};
use super::tls::Certificate;
use super::{follow, upkeep};
use crate::admin::{self, Admin, People, Searches, WrongKeys};
use crate::config::Config;
use crate::console::{self, Console};
use crate::proxy::Gateway;
use crate::proxy::browser::Browsers;
use crate::proxy::forwarding::Forwarding;
use crate::proxy::guard::Guard;
use crate::proxy::intake::Intake;
use crate::proxy::listen::Door;
use crate::proxy::local::{Local, Scrapes};
use crate::proxy::seats::Seats;
use crate::proxy::upstreams::Upstreams;
use crate::proxy::wire;
use crate::reload::Reloader;
use crate::telemetry::Causes;

impl Parts {
    /// Makes the service that agents call.
    pub(super) fn gateway(
        &self,
        config: &Config,
        upstreams: Arc<Upstreams>,
        (bulk, answers): (&Handle, &Handle),
        admin: &axum::Router,
    ) -> Gateway {
        let proxy = &config.proxy;
        let timeout = Duration::from_secs(proxy.upstream_timeout_secs);
        let idle = Duration::from_secs(proxy.stream_idle_timeout_secs);
        let scheme = if proxy.tls.is_some() { "https" } else { "http" };
        let browsers = Arc::new(Browsers::new(&proxy.allowed_origins, &proxy.allowed_hosts));
        Gateway {
            gate: self.gate.clone(),
            intake: Intake::new(proxy, browsers.clone(), bulk.clone()),
            answers: answers.clone(),
            upstreams,
            local: Local {
                metrics: self.state.metrics.clone(),
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
    pub(super) async fn sources(&self, config: &Config) -> WrongKeys {
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
    pub(super) fn admin(
        &self,
        config: &Config,
        people: Option<People>,
        sources: WrongKeys,
        control: &Handle,
    ) -> axum::Router {
        let admin = Arc::new(Admin {
            store: self.store.clone(),
            registry: self.state.registry.clone(),
            sessions: self.state.sessions.clone(),
            freezer: self.state.freezer.clone(),
            freshness: self.state.freshness.clone(),
            drain: self.state.drain.clone(),
            approvals: self.state.approvals.clone(),
            continuations: self.state.continuations.clone(),
            rulebook: self.state.rulebook.clone(),
            reloader: self.reloader(),
            audit: self.state.audit.clone(),
            searches: Searches::default(),
            minter: self.minter.clone(),
            metrics: self.state.metrics.clone(),
            clock: self.state.clock.clone(),
            keys: self.keys.clone(),
            people,
            sources,
            settings: admin::Settings::of(config),
        });
        let settings = console::Settings::of(config);
        let console = Console::new(Arc::clone(&admin), self.state.recent.clone(), settings);
        let console = Arc::new(console);
        control.spawn(Arc::clone(&console).sample());
        admin::router(admin).merge(console::router(console))
    }

    /// Starts the background services.
    pub(super) fn start_tasks(
        &mut self,
        control: &tokio::runtime::Runtime,
        upkeep: &tokio::runtime::Runtime,
        config: &Config,
        certificates: Vec<Arc<Certificate>>,
        upstreams: Arc<Upstreams>,
        signals: reload::Signals,
    ) {
        let period = Duration::from_secs(config.sessions.cleanup_interval_secs);
        upkeep.spawn(upkeep::sessions(self.state.clone(), period));
        upkeep.spawn(upkeep::approvals(self.state.clone()));
        upkeep.spawn(upkeep::agents(self.state.clone(), config.agents.retention_secs));
        upkeep.spawn(upkeep::probe(self.store.clone(), self.state.clone()));
        if self.store.outlives_the_process() {
            control.spawn(follow::return_idle(self.state.clone()));
        }
        if let Some(sending) = self.sending.take() {
            control.spawn(sending.run());
        }
        if let Some(follower) = self.follower.take() {
            control.spawn(follower.run());
        }
        let reloads = Reloads {
            reloader: self.reloader(),
            state: self.state.clone(),
            templates: self.templates.clone(),
            headers: self.headers.clone(),
            keys: self.keys.clone(),
            minter: self.minter.clone(),
            upstreams,
            config_file: config.file.clone(),
            certificates,
        };
        reloads.start(control, config, signals);
    }

    pub(super) fn reloader(&self) -> Reloader {
        Reloader {
            rulebook: self.state.rulebook.clone(),
            audit: self.state.audit.clone(),
            metrics: self.state.metrics.clone(),
            clock: self.state.clock.clone(),
        }
    }

    /// Puts the gateway behind Pingora's proxy, and that behind its guard; `pool` connections are kept.
    pub(super) fn guard(
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
    pub(super) fn door(&self, config: &Config, connections: usize) -> Door {
        let per_source = config.proxy.max_connections_per_source;
        let (clock, metrics) = (self.state.clock.clone(), self.state.metrics.clone());
        Door { seats: Seats::new(connections, per_source, metrics.clone()), clock, metrics }
    }
}
