//! Reloads while serving: policies and certificate when their files change, credentials when they have
//! outlived their time, all at SIGHUP. SIGHUP and SIGUSR1 open an audit log that was moved away anew.
//! A file that cannot be read leaves the old set in force.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{self, Config, CredentialProvider};
use crate::credentials::Vault;
use crate::firewall::rules::Rules;
use crate::gate::Gate;
use crate::metrics::{Metrics, Reload};
use crate::proxy::upstream::Headers;
use crate::rulebook::{ReloadError, Rulebook};
use crate::secrets::{Environment, Secrets, Source};

use super::Templates;
use super::tls::Certificate;

/// Interval between checks for expired credentials.
const LOOK: Duration = Duration::from_secs(1);

/// Interval between checks of the certificate's files.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(5);

/// Time limit of a credential command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Parts that can be reloaded.
#[derive(Clone)]
pub(super) struct Reloads {
    pub(super) clock: Clock,
    pub(super) rulebook: Arc<Rulebook>,
    pub(super) gate: Arc<Gate>,
    pub(super) templates: Arc<Templates>,
    pub(super) headers: Vec<Arc<ArcSwap<Headers>>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    /// The one that agents see, if they speak TLS to this process.
    pub(super) certificate: Option<Arc<Certificate>>,
}

impl Reloads {
    /// Starts the watches that the configuration asks for.
    pub(super) fn start(self, control: &tokio::runtime::Runtime, config: &Config) {
        if config.policy.watch {
            let period = Duration::from_millis(config.policy.watch_debounce_ms);
            let (rulebook, reloads) = (self.rulebook.clone(), self.clone());
            let tell = move |rules: &Rules, reloaded| reloads.told(rules, reloaded);
            control.spawn(rulebook.watch(period, tell));
        }
        control.spawn(self.clone().credentials_in_time());
        if let Some(certificate) = self.certificate.clone() {
            control.spawn(self.clone().certificate_in_time(certificate));
        }
        control.spawn(self.clone().at_user_signal());
        control.spawn(self.at_hangup());
    }

    async fn credentials_in_time(self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if self.gate.secrets.is_due(self.clock.mono()) {
                self.reload_credentials().await;
            }
        }
    }

    /// Opens an audit log that was moved away anew, and nothing else: for log rotation.
    async fn at_user_signal(self) {
        let Ok(mut user) = signal(SignalKind::user_defined1()) else {
            warn!("SIGUSR1 cannot be watched: it does not open the audit log anew");
            return;
        };
        while user.recv().await.is_some() {
            self.reopen_log().await;
        }
    }

    async fn reopen_log(&self) {
        match self.audit.reopen().await {
            Ok(()) => info!("audit log is the one in its place"),
            Err(error) => warn!(%error, "audit log could not be opened anew"),
        }
    }

    async fn at_hangup(self) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            warn!("SIGHUP cannot be watched: it reloads nothing");
            return;
        };
        while hangup.recv().await.is_some() {
            self.reopen_log().await;
            let rulebook = self.rulebook.clone();
            if let Ok(reloaded) = tokio::task::spawn_blocking(move || rulebook.reload()).await {
                self.told(&self.rulebook.rules(), reloaded);
            }
            self.reload_credentials().await;
            if let Some(certificate) = self.certificate.clone() {
                self.reload_certificate(certificate).await;
            }
        }
    }

    fn count(&self, what: Reload, good: bool) {
        let now = super::unix_seconds(self.clock.now().wall);
        self.metrics.operation.reloaded(what, good, now);
    }

    async fn certificate_in_time(self, certificate: Arc<Certificate>) {
        let mut ticks = tokio::time::interval(LOOK_AT_CERTIFICATE);
        loop {
            ticks.tick().await;
            if certificate.has_changed() {
                self.reload_certificate(certificate.clone()).await;
            }
        }
    }

    async fn reload_certificate(&self, certificate: Arc<Certificate>) {
        let read = tokio::task::spawn_blocking(move || certificate.reload()).await;
        self.count(Reload::Certificate, matches!(read, Ok(Ok(()))));
        match read {
            Ok(Ok(())) => info!("certificate reloaded"),
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                warn!(%error, "certificate not reloaded; the old one stays in force");
            }
            Err(error) => warn!(%error, "certificate not reloaded"),
        }
    }

    fn told(&self, rules: &Rules, reloaded: Result<usize, ReloadError>) {
        self.count(Reload::Policies, reloaded.is_ok());
        match reloaded {
            Ok(count) => {
                in_force(&self.metrics, rules);
                warn_of(rules);
                info!(count, version = rules.policies.version(), "policies reloaded");
            }
            Err(error) => warn!(%error, "policies not reloaded; the old ones stay in force"),
        }
    }

    async fn reload_credentials(&self) {
        let reloads = self.clone();
        match tokio::task::spawn_blocking(move || reloads.read_credentials()).await {
            Ok(Ok(count)) => {
                for warning in self.gate.secrets.warnings().iter() {
                    warn!("{warning}");
                }
                info!(count, "credentials reloaded");
                self.count(Reload::Credentials, true);
            }
            Ok(Err(error)) => {
                self.count(Reload::Credentials, false);
                let error = format!("{error:#}");
                warn!(%error, "credentials not reloaded; the old ones stay in force");
            }
            Err(error) => warn!(%error, "credentials not reloaded"),
        }
    }

    /// Reads credentials again and puts them into the upstream's headers, all or nothing.
    fn read_credentials(&self) -> Result<usize> {
        let now = self.clock.mono();
        let expand = |vault: &Vault| self.templates.expand(vault);
        let (count, (headers, in_headers)) = self.gate.secrets.reload(now, expand)?;
        // Looked for before it is sent.
        self.gate.injected.in_headers(&in_headers);
        for (in_force, headers) in self.headers.iter().zip(headers) {
            in_force.store(Arc::new(headers));
        }
        Ok(count)
    }
}

/// Logs the oddities of the policies in force.
pub(super) fn warn_of(rules: &Rules) {
    for warning in rules.policies.warnings() {
        warn!("policies: {warning}");
    }
}

/// Tells the metrics which policies are in force.
pub(super) fn in_force(metrics: &Metrics, rules: &Rules) {
    metrics.name_tools(rules.policies.named_tools());
    metrics.policy_version(rules.policies.version());
}

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
