//! The store that a fleet shares, under a name that is this run's alone.

use anyhow::{Context, Result};
use uuid::Uuid;

use super::node;
use crate::config::{self, Config};
use crate::store::Store;

/// Connects. Without a Redis that keeps what it is told there is nothing to serve: whoever started
/// this process starts it again.
pub(super) async fn store(config: &Config, redis: &config::Redis) -> Result<Store> {
    let node = match &config.audit.node_id {
        Some(given) => given.clone(),
        None => node::id(&config.audit.file_path)?,
    };
    // What a run held when it was killed is spent: the next one is another node.
    let run = Uuid::new_v4().simple().to_string();
    let name = format!("{node}.{}", run.get(..12).unwrap_or_default());
    let opened = Store::redis(redis, &name).await;
    opened.with_context(|| format!("opening `storage.redis_url` ({})", redis.servers))
}
