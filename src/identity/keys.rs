//! An issuer's keys, kept ready: no call with a known key ever waits for the issuer.
//!
//! Keys are fetched at the start, again whenever they have aged (by the configuration or by what
//! the issuer's `Cache-Control` says, whichever is sooner), and once for a key that is not
//! known, at most every [`UNKNOWN_KEY_PAUSE_SECS`]. One fetch runs at a time and others wait for
//! it. A fetch that fails leaves the keys as they are, for as long as it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::discovery::{self, DiscoveryError};
use super::fetch::{FetchError, Fetcher};
use super::jwks::{Found, JwksError, KeySet};
use crate::clock::Clock;
use crate::firewall::time::Mono;
use crate::metrics::IssuerKeys;
use jsonwebtoken::Algorithm;

/// Pause after an issuer was asked for an unknown key.
pub(crate) const UNKNOWN_KEY_PAUSE_SECS: u64 = 30;

/// The longest pause after a fetch that failed.
const RETRY_PAUSE_SECS: u64 = 30;

/// Keys whose issuer lets them age faster are not fetched more often than this.
const LEAST_FRESH_SECS: u64 = 30;

/// Time limit of one fetch, metadata included.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// Source of the keys.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Uri(String),
    /// From the issuer's metadata.
    Discovered {
        issuer_url: String,
        allow_http: bool,
    },
}

/// Reason why no keys were fetched.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("its keys could not be fetched: {0}")]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("its keys did not come within {} s", FETCH_DEADLINE.as_secs())]
    Late,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct Keys {
    name: String,
    source: Source,
    fetcher: Fetcher,
    ttl_secs: u64,
    clock: Clock,
    runtime: Handle,
    set: ArcSwap<KeySet>,
    /// Time at which the set expires, in microseconds of the monotonic clock.
    due_at_us: AtomicU64,
    failing: AtomicBool,
    state: Mutex<Fetches>,
    /// Time at which the set was fetched, in microseconds of the monotonic clock; 0 before the first.
    fetched_at_us: AtomicU64,
    /// Counts the fetches that ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Fetches {
    running: bool,
    /// Time at which the issuer was last asked for an unknown key.
    asked_at: Option<Mono>,
    failures: u32,
}

impl Keys {
    pub(crate) fn new(
        name: String,
        source: Source,
        ttl_secs: u64,
        fetcher: Fetcher,
        clock: Clock,
        runtime: Handle,
    ) -> Self {
        Self {
            name,
            source,
            fetcher,
            ttl_secs,
            clock,
            runtime,
            set: ArcSwap::default(),
            due_at_us: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            state: Mutex::default(),
            fetched_at_us: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        }
    }

    /// The key for a token's header, among those known now.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found {
        self.set.load().find(id, algorithm)
    }

    /// Reports whether there is any key at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.load().is_empty()
    }

    /// Age of the keys, and how many fetches have failed since they came.
    pub(crate) fn snapshot(&self, now: Mono) -> IssuerKeys {
        let fetched_at = self.fetched_at_us.load(Ordering::Relaxed);
        let age = Duration::from_micros(now.since(Mono(fetched_at)));
        let errors = u64::from(self.state().failures);
        IssuerKeys { issuer: self.name.clone(), age, errors }
    }

    /// Reports whether the issuer has published keys of which none is usable.
    pub(crate) fn has_none_usable(&self) -> bool {
        let set = self.set.load();
        set.is_empty() && set.lists_any()
    }

    /// Reports whether the issuer did not answer when it was last asked.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Starts a fetch if the keys have aged; never waits.
    pub(crate) fn touch(self: &Arc<Self>, now: Mono) {
        if now.0 < self.due_at_us.load(Ordering::Relaxed) {
            return;
        }
        if !std::mem::replace(&mut self.state().running, true) {
            self.start();
        }
    }

    /// Returns the number of fetches that have ended; for [`Keys::refreshed`].
    pub(crate) fn fetches_ended(&self) -> u64 {
        *self.ended.borrow()
    }

    /// Waits for keys newer than those that `seen` fetches had brought, unless the issuer was asked
    /// just now.
    pub(crate) async fn refreshed(self: &Arc<Self>, seen: u64, now: Mono) -> bool {
        let (mut ended, first) = {
            let mut state = self.state();
            // One that ended since the caller looked may have brought the key.
            if self.fetches_ended() != seen {
                return true;
            }
            let first = !state.running;
            if first {
                let pause_us = UNKNOWN_KEY_PAUSE_SECS * 1_000_000;
                if state.asked_at.is_some_and(|asked| now.since(asked) < pause_us) {
                    return false;
                }
                state.asked_at = Some(now);
                state.running = true;
            }
            (self.ended.subscribe(), first)
        };
        if first {
            self.start();
        }
        ended.changed().await.is_ok()
    }

    /// Keeps the keys fresh without a call that asks for it, for ever.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let now = self.clock.mono();
            self.touch(now);
            let rest_us = self.due_at_us.load(Ordering::Relaxed).saturating_sub(now.0);
            // Looked at now and then at least: a clock that a test holds still wakes nobody.
            let rest_us = rest_us.clamp(1_000_000, RETRY_PAUSE_SECS * 1_000_000);
            tokio::time::sleep(Duration::from_micros(rest_us)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, Fetches> {
        self.state.lock()
    }

    /// Starts a fetch of its own: it goes on when the call that asked for it is broken off.
    ///
    /// The state must not be locked: a runtime that is shutting down ends the fetch right here.
    fn start(self: &Arc<Self>) {
        let running = Running(Arc::clone(self));
        self.runtime.spawn(async move {
            let running = running;
            running.0.fetch().await;
        });
    }

    /// Fetches the keys without putting them in use; returns the number of those that are usable.
    pub(crate) async fn count(&self) -> Result<usize, RefreshError> {
        self.load_in_time().await.map(|(set, _)| set.len())
    }

    async fn load_in_time(&self) -> Result<(KeySet, Option<u64>), RefreshError> {
        tokio::time::timeout(FETCH_DEADLINE, self.load()).await.unwrap_or(Err(RefreshError::Late))
    }

    async fn fetch(&self) {
        let loaded = self.load_in_time().await;
        let now = self.clock.mono();
        self.failing.store(loaded.is_err(), Ordering::Relaxed);
        let due_at = match loaded {
            Ok((set, fresh_secs)) => {
                self.replace(set);
                self.state().failures = 0;
                self.fetched_at_us.store(now.0.max(1), Ordering::Relaxed);
                now.plus_secs(self.lasting_secs(fresh_secs))
            }
            Err(error) => {
                match self.set.load().len() {
                    0 => {
                        warn!(issuer = self.name, %error, "no keys yet; its tokens cannot be checked");
                    }
                    keys => {
                        warn!(issuer = self.name, keys, %error, "keys not refreshed; cached keys remain valid");
                    }
                }
                self.due_after_failure(now)
            }
        };
        self.due_at_us.store(due_at.0, Ordering::Relaxed);
    }

    /// Time for which keys count as fresh: what the issuer says of its document, within bounds, so that
    /// a new key that it publishes ahead of time is known before it is used.
    fn lasting_secs(&self, said_secs: Option<u64>) -> u64 {
        let said_secs = said_secs.unwrap_or(u64::MAX).max(LEAST_FRESH_SECS);
        self.ttl_secs.min(said_secs)
    }

    /// While no key is known, one second, two, four, up to half a minute: an issuer that starts
    /// late is found soon. Keys that are known can wait.
    fn due_after_failure(&self, now: Mono) -> Mono {
        let mut state = self.state();
        let pause_secs = 1_u64.checked_shl(state.failures).unwrap_or(u64::MAX);
        state.failures = state.failures.saturating_add(1);
        if self.is_empty() {
            now.plus_secs(pause_secs.min(RETRY_PAUSE_SECS))
        } else {
            Mono(self.due_at_us.load(Ordering::Relaxed)).max(now.plus_secs(RETRY_PAUSE_SECS))
        }
    }

    async fn load(&self) -> Result<(KeySet, Option<u64>), RefreshError> {
        let discovered;
        let uri = match &self.source {
            Source::Uri(uri) => uri,
            Source::Discovered { issuer_url, allow_http } => {
                discovered = discovery::jwks_uri(&self.fetcher, issuer_url, *allow_http).await?;
                &discovered
            }
        };
        let document = self.fetcher.get(uri).await?;
        let set = KeySet::read(&document.bytes, &self.set.load())?;
        Ok((set, document.fresh_secs))
    }

    fn replace(&self, set: KeySet) {
        let (set, before) = (Arc::new(set), self.set.load_full());
        self.set.store(Arc::clone(&set));
        // INVARIANT: after the store, so that a key is never found again once it is withdrawn.
        let withdrawn = before.withdraw_all_but(&set);
        if set.is_empty() {
            warn!(issuer = self.name, "the issuer publishes no usable key; its tokens are refused");
        } else if withdrawn > 0 || set.len() != before.len() {
            info!(issuer = self.name, keys = set.len(), withdrawn, "keys replaced");
        }
    }
}

/// A fetch that is under way; wakes the waiting tasks when it ends, however it ends.
struct Running(Arc<Keys>);

impl Drop for Running {
    fn drop(&mut self) {
        // INVARIANT: published under the lock, so that no waiting task hears of an earlier fetch.
        let mut state = self.0.state();
        state.running = false;
        self.0.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::time::Timestamp;

    #[tokio::test]
    async fn what_came_between_looking_and_asking_is_looked_at_first() {
        let clock = Clock::manual(Timestamp::from_secs(0));
        let fetcher = Fetcher::new("test", None).unwrap();
        // Nobody listens there, so every fetch ends at once.
        let source = Source::Uri("http://127.0.0.1:1/".to_owned());
        let runtime = Handle::current();
        let keys = Keys::new("test".to_owned(), source, 60, fetcher, clock.clone(), runtime);
        let keys = Arc::new(keys);
        let before = keys.fetches_ended();
        assert!(keys.refreshed(before, clock.mono()).await, "asked");
        assert_ne!(keys.fetches_ended(), before);
        assert!(keys.refreshed(before, clock.mono()).await, "another call asked meanwhile");
        let now = keys.fetches_ended();
        assert!(!keys.refreshed(now, clock.mono()).await, "asked just now");
        assert_eq!(keys.fetches_ended(), now);
    }
}
