//! Everything that lives as long as the process: how it is built, and how it ends.

use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tracing::{error, info};

use super::follow::Follower;
use super::headers::Templates;
use super::settings::{asking, audit_settings, limits_of_agents, session_limits};
use super::{open, reload, shared, traces};
use crate::admin::Keyring;
use crate::audit::Audit;
use crate::audit::redact::Redactor;
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::session::Status;
use crate::firewall::time::{Now, Timestamp};
use crate::freezer::Freezer;
use crate::gate::enrol::Enrolment;
use crate::gate::in_flight::InFlight;
use crate::gate::{self, Gate, ProcessState};
use crate::identity::Identity;
use crate::identity::mint::Minter;
use crate::metrics::{Levels, Metrics};
use crate::proxy::upstream::Headers;
use crate::registry::Registry;
use crate::saturate::SaturatingFrom as _;
use crate::secrets::ScrubSets;
use crate::sessions::{self, Sessions};
use crate::store::{Freshness, Store};
use crate::telemetry::Causes;

/// Everything that lives as long as the process.
pub(super) struct Parts {
    pub(super) state: ProcessState,
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<Gate>,
    pub(super) keys: Arc<Keyring>,
    pub(super) minter: Arc<Minter>,
    pub(super) templates: Arc<Templates>,
    /// Configured headers of each upstream.
    pub(super) headers: Vec<Arc<ArcSwap<Headers>>>,
    /// Follower of other nodes' changes, in a fleet.
    pub(super) follower: Option<Follower>,
    /// Sender of traces, if there is a collector.
    pub(super) sending: Option<traces::Sending>,
}

impl Parts {
    pub(super) async fn build(config: &Config, store_io: &Handle) -> Result<Self> {
        let clock = Clock::system();
        let now = clock.now();
        let metrics = Arc::new(Metrics::new());
        let store = Arc::new(open::store(config, store_io).await?);
        // From here on nothing that other nodes change is missed.
        let bookmark = shared::follow_from_here(&store).await?;
        let skew = config.storage.clock_skew;
        let freshness = Freshness::of(&store, config.storage.max_stale_secs, skew, now.mono);
        shared::agree_on_time(&store, &freshness, &clock).await?;
        let freshness = Arc::new(freshness);
        let registry = Registry::load(store.clone(), clock.clone()).await;
        let registry = Arc::new(registry.context("loading agents")?);
        let limits = session_limits(config)?;
        let sessions =
            Arc::new(Sessions::load(store.clone(), limits, now).await.context("loading sessions")?);
        let freezer = Freezer::load(store.clone(), now).await.context("loading freezes")?;
        let rulebook = open::rulebook(config)?;
        let audit = Arc::new(Audit::open(audit_settings(config)?, clock.clone())?);
        let secrets = Arc::new(reload::secrets(config, &clock).context("loading credentials")?);
        let templates = Arc::new(Templates::of(config)?);
        let (headers, in_headers) = templates.expand(&secrets.vault())?;
        let redactor =
            Redactor::new(&config.audit.redaction_patterns, config.audit.redaction_replace)?;
        let (traces, sending) = traces::prepare(config, &metrics, &clock)?.unzip();
        let identity = Identity::with_issuers(
            &config.admin.signing_secrets,
            &config.oauth,
            &clock,
            &Handle::current(),
        )
        .context("preparing to ask `oauth.issuers`")?;
        // In a fleet any node may have injected what a session is authorised for.
        let since = if store.is_shared() { Timestamp(i64::MAX) } else { now.wall };
        let asking = asking(&config.proxy, &secrets, &redactor)?;
        let state = ProcessState {
            identity: Arc::new(identity),
            enrolment: Arc::new(Enrolment::new(&config.oauth.issuers, &registry)),
            rulebook: Arc::new(rulebook),
            approvals: Arc::new(open::approvals(config, &store, &metrics, &clock).await?),
            continuations: Arc::new(open::continuations(config, &store)),
            registry,
            sessions,
            freezer: Arc::new(freezer),
            freshness,
            audit,
            recent: Arc::default(),
            scrub_sets: Arc::new(ScrubSets::new(in_headers, since)),
            secrets,
            metrics,
            in_flight: Arc::new(InFlight::new(limits_of_agents(config))),
            drain: Arc::default(),
            traces,
            clock,
        };
        let settings = gate::Settings {
            strict_mcp: config.proxy.strict_mcp,
            require_healthy_audit: config.audit.require_healthy,
            refusal_style: config.proxy.refusal_style,
            max_argument_bytes: config.audit.max_argument_bytes,
            max_request_body_bytes: config.proxy.max_request_body_bytes,
            max_list_ttl_ms: config.proxy.max_list_ttl_ms,
        };
        let gate = Arc::new(Gate::new(state.clone(), asking, redactor, settings));
        let headers: Vec<_> =
            headers.into_iter().map(|headers| Arc::new(ArcSwap::from_pointee(headers))).collect();
        let mut parts = Self {
            state,
            store,
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
                state: parts.state.clone(),
                bookmark,
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
        let vault = self.state.secrets.vault();
        let active = sessions::Filter { agent: None, status: Some(Status::Active) };
        let mut after = None;
        loop {
            let page = self.state.sessions.list(active, after, PAGE, now);
            let Some(last) = page.last() else { return };
            after = Some(last.order.id);
            for live in &page {
                // Nothing is under way yet that would have to be scrubbed.
                let _watch = self.state.scrub_sets.add(&live.order, &[], &vault);
            }
        }
    }

    /// Lets the metrics read what others count.
    fn connect_levels(&self) {
        let (sessions, registry) = (self.state.sessions.clone(), self.state.registry.clone());
        let (audit, clock) = (self.state.audit.clone(), self.state.clock.clone());
        let approvals = self.state.approvals.clone();
        let freezer = self.state.freezer.clone();
        let (in_flight, drain) = (self.state.in_flight.clone(), self.state.drain.clone());
        let count = u64::saturating_from::<usize>;
        self.state.metrics.read_levels_with(move || Levels {
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

    /// Gives back what is leased and writes what is pending.
    pub(super) fn end(&self, control: &tokio::runtime::Runtime) {
        if let Some(traces) = &self.state.traces {
            control.block_on(traces::flush(traces));
        }
        let now = self.state.clock.now();
        control.block_on(async {
            if let Err(error) = self.state.sessions.close_all_leases(now).await {
                error!(error = %Causes(&error), "leases were not given back; their calls count as made");
            }
            if let Err(error) = self.state.registry.close().await {
                error!(error = %Causes(&error), "agents' last changes were not stored");
            }
            if let Err(error) = self.state.freezer.close().await {
                error!(error = %Causes(&error), "freezes were not stored");
            }
            if let Err(error) = self.store.close().await {
                error!(error = %Causes(&error), "the store was not closed cleanly");
            }
        });
        control.block_on(self.stop_on_record());
        self.state.audit.close();
        info!("arbiter has stopped");
    }
}
