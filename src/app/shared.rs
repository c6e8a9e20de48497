//! The store that a fleet shares, under a name that is this run's alone, and its clock.

use anyhow::{Context, Result, bail};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::node;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::store::{Bookmark, Freshness, Position, Store};

/// Connects. Without a Redis that keeps what is written there is nothing to serve, and the process does not
/// start.
pub(super) async fn store(config: &Config, redis: &config::Redis, home: &Handle) -> Result<Store> {
    let node = match &config.audit.node_id {
        Some(given) => given.clone(),
        None => node::id(&config.audit.file_path)?,
    };
    // What a run held when it was killed is spent: the next one is another node.
    let run = Uuid::new_v4().simple().to_string();
    let name = format!("{node}.{}", run.get(..12).unwrap_or_default());
    let opened = Store::redis(redis, &name, home).await;
    opened.with_context(|| format!("opening `storage.redis_url` ({})", redis.servers))
}

/// Refuses to start on a machine whose clock is not the ledger's: it would issue tokens and open sessions
/// that are over for others, or not over.
pub(super) async fn agree_on_time(
    store: &Store,
    freshness: &Freshness,
    clock: &Clock,
) -> Result<()> {
    let Some(shared) = store.shared() else { return Ok(()) };
    let asked = clock.now();
    let ledger = shared.time().await.context("asking the store for the time")?;
    if let Some(off_us) = freshness.compare_clocks(asked, ledger, clock.now()) {
        bail!(out_of_time(off_us));
    }
    Ok(())
}

/// Returns the reason not to start on a machine from whose clock the store's differs by this much.
pub(crate) fn out_of_time(off_us: i64) -> String {
    let side = if off_us > 0 { "behind" } else { "ahead of" };
    let secs = off_us.unsigned_abs() / 1_000_000;
    format!(
        "this machine's clock is {secs} s {side} the store's: set it right (is NTP running?), there or \
         here; `storage.max_clock_skew_secs` says how much may be"
    )
}

/// Returns the bookmark from which this node follows the changes, if there are other nodes.
pub(super) async fn follow_from_here(store: &Store) -> Result<Bookmark> {
    let Some(shared) = store.shared() else { return Ok(Position(0).into()) };
    shared.follow_from_here().await.context("asking the store")
}
