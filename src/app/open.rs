//! Rooms of state, opened as the configuration has them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use tokio::runtime::Handle;
use tracing::warn;

use super::settings::{mark_secrets, seal_key, terms};
use super::shared;
use crate::approvals::notices::{self, Notices};
use crate::approvals::page::Page;
use crate::approvals::{self, Approvals};
use crate::clock::Clock;
use crate::config::{Backend, Config};
use crate::continuations::Continuations;
use crate::metrics::Metrics;
use crate::rulebook::Rulebook;
use crate::saturate::SaturatingFrom as _;
use crate::store::Store;

pub(super) async fn store(config: &Config, store_io: &Handle) -> Result<Store> {
    match &config.storage.backend {
        Backend::Memory => Ok(Store::memory()),
        Backend::Sqlite(path) => {
            let key = seal_key(config)?;
            Store::sealed_sqlite(path, key).await.context("opening `storage.sqlite_path`")
        }
        Backend::Redis(redis) => shared::store(config, redis, store_io).await,
    }
}

/// Loads the approvals that the store keeps.
pub(super) async fn approvals(
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
            max_pending_per_agent: usize::saturating_from(terms.max_pending_per_agent),
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

pub(super) fn continuations(config: &Config, store: &Arc<Store>) -> Continuations {
    Continuations::new(Arc::clone(store), mark_secrets(&config.admin.signing_secrets))
}

/// Reads the policies, and warns where there are none.
pub(super) fn rulebook(config: &Config) -> Result<Rulebook> {
    let file = || config.at("policy.file");
    let rulebook = Rulebook::load(config.policy.file.as_deref(), terms(config));
    let rulebook = rulebook.with_context(file)?;
    if rulebook.rules().policies.is_empty() {
        warn!("{}: there is no policy, so every request is refused", file());
    }
    Ok(rulebook)
}
