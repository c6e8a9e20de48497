//! Reloading while serving: policies and certificates when their files change, credentials
//! when they have outlived their time, all of it and the operators' keys at SIGHUP. SIGHUP and SIGUSR1
//! reopen an audit log that was moved away. Each set is on record before it is in force; one that
//! cannot be read, or put on record, leaves the old set in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::admin::Keyring;
use crate::audit::{By, Change};
use crate::clock::Clock;
use crate::config::{self, Config, CredentialProvider};
use crate::credentials::Vault;
use crate::gate::ProcessState;
use crate::identity::key_id;
use crate::identity::mint::Minter;
use crate::metrics::Reload;
use crate::proxy::upstream::Headers;
use crate::proxy::upstreams::Upstreams;
use crate::reload::{Reloader, Trigger};
use crate::saturate::SaturatingFrom as _;
use crate::secrets::{Environment, Secrets, Source};
use crate::telemetry::Causes;

use super::headers::Templates;
use super::settings::mark_secrets;
use super::tls::Certificate;
use super::upstreams::seal_keys;

/// Interval between checks for expired credentials.
const LOOK: Duration = Duration::from_secs(1);

/// Interval between checks for changed certificate files.
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(5);

/// Time limit of a credential command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// The signals that have something read again, watched before anything says that Arbiter is there to take them.
pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
}

impl Signals {
    /// Starts to watch; within a runtime that lives as long as the process.
    pub(super) fn watch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }
}

/// Parts that can be reloaded.
#[derive(Clone)]
pub(super) struct Reloads {
    pub(super) reloader: Reloader,
    pub(super) state: ProcessState,
    pub(super) templates: Arc<Templates>,
    pub(super) headers: Vec<Arc<ArcSwap<Headers>>>,
    pub(super) keys: Arc<Keyring>,
    pub(super) minter: Arc<Minter>,
    pub(super) upstreams: Arc<Upstreams>,
    /// The file that the operators' keys are read from again.
    pub(super) config_file: Option<PathBuf>,
    /// Certificates that agents and operators see, where this process ends TLS.
    pub(super) certificates: Vec<Arc<Certificate>>,
}

impl Reloads {
    /// Starts the watches that the configuration asks for.
    pub(super) fn start(
        self,
        control: &tokio::runtime::Runtime,
        config: &Config,
        signals: Signals,
    ) {
        if config.policy.watch {
            let period = Duration::from_millis(config.policy.watch_debounce_ms);
            control.spawn(self.reloader.clone().watch(period));
        }
        control.spawn(self.clone().credentials_in_time());
        if !self.certificates.is_empty() {
            control.spawn(self.clone().certificates_in_time());
        }
        control.spawn(self.clone().at_user_signal(signals.user));
        control.spawn(self.at_hangup(signals.hangup));
    }

    async fn credentials_in_time(self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if self.state.secrets.is_due(self.reloader.clock.mono()) {
                self.reload_credentials(Trigger::Age).await;
            }
        }
    }

    async fn certificates_in_time(self) {
        let mut ticks = tokio::time::interval(LOOK_AT_CERTIFICATES);
        loop {
            ticks.tick().await;
            for certificate in &self.certificates {
                if certificate.has_changed() {
                    self.reload_certificate(certificate, Trigger::Watch).await;
                }
            }
        }
    }

    /// Reopens an audit log that was moved away, and nothing else: for log rotation.
    async fn at_user_signal(self, mut user: Signal) {
        while user.recv().await.is_some() {
            self.reopen_log().await;
        }
    }

    async fn reopen_log(&self) {
        match self.reloader.audit.reopen().await {
            Ok(()) => info!("audit log is the one in its place"),
            Err(error) => warn!(error = %Causes(&error), "audit log could not be reopened"),
        }
    }

    async fn at_hangup(self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.reopen_log().await;
            match self.reloader.policies(Trigger::Sighup, By::default()).await {
                Ok(rules) => {
                    let (count, version) = (rules.policies.len(), rules.policies.version());
                    info!(count, version, "policies reloaded");
                }
                Err(error) => {
                    let error = Causes(&error);
                    warn!(%error, "policies not reloaded; the old ones stay in force");
                }
            }
            self.reload_credentials(Trigger::Sighup).await;
            for certificate in &self.certificates {
                self.reload_certificate(certificate, Trigger::Sighup).await;
            }
            self.reload_keys().await;
        }
    }

    /// Puts on record what was read again, good or bad. Only then may it be put in force.
    async fn record(
        &self,
        what: Reload,
        change: Change,
        failed: Option<&anyhow::Error>,
    ) -> Result<()> {
        let (outcome, code) = match failed {
            Some(_) => ("refused", Some("ReloadFailed")),
            None => ("completed", None),
        };
        let mut change = change.with("outcome", outcome);
        if let Some(error) = failed {
            change = change.with("error", format_args!("{error:#}"));
        }
        let (event, clock) = (change.event(), &self.reloader.clock);
        let recorded = self.reloader.audit.record_change(change, By::default(), clock, code).await;
        let good = failed.is_none() && recorded.is_ok();
        self.reloader.metrics.operation.reloaded(what, good, clock.now().wall);
        recorded.with_context(|| format!("{event} cannot be put on record"))
    }

    async fn reload_credentials(&self, trigger: Trigger) {
        let (reloads, runtime) = (self.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || reloads.read_credentials(trigger, &runtime));
        match read.await {
            Ok(Ok(count)) => {
                for warning in self.state.secrets.warnings().iter() {
                    warn!("{warning}");
                }
                info!(count, "credentials reloaded");
            }
            Ok(Err(error)) => {
                let change = Change::new(CREDENTIALS).with("trigger", trigger.as_str());
                // Whether or not that is on record, the old ones stay.
                let _unrecorded = self.record(Reload::Credentials, change, Some(&error)).await;
                let error = format!("{error:#}");
                warn!(%error, "credentials not reloaded; the old ones stay in force");
            }
            Err(error) => warn!(%error, "credentials not reloaded"),
        }
    }

    /// Reads credentials again and puts them into the upstream's headers, all or nothing.
    fn read_credentials(&self, trigger: Trigger, runtime: &Handle) -> Result<usize> {
        let now = self.reloader.clock.mono();
        let in_force = self.state.secrets.vault();
        let accept = |vault: &Vault| {
            let expanded = self.templates.expand(vault)?;
            // What a command prints every few minutes is mostly what it printed before.
            if trigger != Trigger::Age || *vault != *in_force {
                let change = Change::new(CREDENTIALS)
                    .with("trigger", trigger.as_str())
                    .with("names", vault.names().join(" "))
                    .count("credentials", u64::saturating_from(vault.len()));
                runtime.block_on(self.record(Reload::Credentials, change, None))?;
            }
            Ok::<_, anyhow::Error>(expanded)
        };
        let (count, (headers, in_headers)) = self.state.secrets.reload(now, accept)?;
        // Looked for before it is sent.
        self.state.scrub_sets.in_headers(&in_headers);
        for (in_force, headers) in self.headers.iter().zip(headers) {
            in_force.store(Arc::new(headers));
        }
        Ok(count)
    }

    async fn reload_certificate(&self, certificate: &Arc<Certificate>, trigger: Trigger) {
        let reading = Arc::clone(certificate);
        let read = tokio::task::spawn_blocking(move || reading.read()).await;
        let change = Change::new("certificate.reload")
            .with("trigger", trigger.as_str())
            .with("for", certificate.section())
            .with("from", certificate.fingerprint());
        let reloaded = match read {
            Ok(Ok(new)) => {
                let change = change.with("to", new.fingerprint());
                let recorded = self.record(Reload::Certificate, change, None).await;
                recorded.map(|()| certificate.put(new))
            }
            Ok(Err(error)) => {
                let _unrecorded = self.record(Reload::Certificate, change, Some(&error)).await;
                Err(error)
            }
            Err(panicked) => Err(panicked.into()),
        };
        let section = certificate.section();
        match reloaded {
            Ok(()) => info!(section, "certificate reloaded"),
            Err(error) => {
                // Read again at the next look: it may be the record that was missing.
                let error = format!("{error:#}");
                warn!(section, %error, "certificate not reloaded; the old one stays in force");
            }
        }
    }

    /// Reads the operators' keys and the signing secrets again. A mistake keeps the old ones.
    async fn reload_keys(&self) {
        let Some(file) = self.config_file.clone() else { return };
        let read = tokio::task::spawn_blocking(move || Config::load(&file, config::environment()));
        let change = Change::new("keys.reload").with("trigger", Trigger::Sighup.as_str());
        let reloaded = match read.await {
            Ok(Ok(config)) => {
                let new = self.keys.read(&config.admin);
                let secrets = config.admin.signing_secrets;
                let ids = secrets.all().map(|secret| key_id(secret.expose().as_bytes()));
                let mut change = change
                    .with("from", &new.from)
                    .with("to", &new.to)
                    .with("signing_keys", ids.collect::<Vec<_>>().join(" "));
                for (name, list) in [("added", &new.added), ("removed", &new.removed)] {
                    if !list.is_empty() {
                        change = change.with(name, list.join(" "));
                    }
                }
                self.record(Reload::Keys, change, None).await.map(|()| {
                    self.keys.put(new);
                    // What is signed from now on is verified already.
                    self.state.identity.own_keys().replace(&secrets);
                    self.upstreams.seal_with(&seal_keys(&secrets));
                    self.state.continuations.rekey(mark_secrets(&secrets));
                    self.minter.replace(secrets.signing());
                })
            }
            Ok(Err(errors)) => {
                let error = anyhow::Error::new(errors);
                let change = change.with("from", self.keys.version());
                let _unrecorded = self.record(Reload::Keys, change, Some(&error)).await;
                Err(error)
            }
            Err(panicked) => Err(panicked.into()),
        };
        match reloaded {
            Ok(()) => info!(version = self.keys.version(), "admin keys reloaded"),
            Err(error) => {
                let error = format!("{error:#}");
                warn!(%error, "admin keys not reloaded; the old ones stay in force");
            }
        }
    }
}

/// The event of credentials that were read again.
const CREDENTIALS: &str = "credentials.reload";

/// Reads the credentials that the configuration names.
pub(crate) fn secrets(config: &Config, clock: &Clock) -> Result<Secrets> {
    let credentials = &config.credentials;
    let source = match &credentials.provider {
        None => Source::None,
        Some(CredentialProvider::File(path)) => {
            Source::File { path: path.clone(), strict_file_mode: credentials.strict_file_mode }
        }
        Some(CredentialProvider::Env(prefix)) => {
            let variables = config::environment().map(|(name, value)| (name.into(), value.into()));
            let environment = Environment::starting_with(prefix, variables);
            Source::Env { prefix: prefix.clone(), environment }
        }
        Some(CredentialProvider::Command(words)) => {
            let (program, arguments) = words
                .split_first()
                .ok_or_else(|| anyhow::anyhow!("`credentials.command` names no program"))?;
            Source::Command {
                program: program.into(),
                arguments: arguments.to_vec(),
                ttl: Duration::from_secs(credentials.ttl_secs),
                timeout: COMMAND_TIMEOUT,
            }
        }
    };
    let secrets = Secrets::load(source, clock.mono())?;
    for warning in secrets.warnings().iter() {
        warn!("{warning}");
    }
    Ok(secrets)
}
