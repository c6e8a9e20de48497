//! Report of a server about itself: durability, eviction and clock.

use redis::cmd;
use tokio::runtime::Handle;

use super::super::StoreError;
use super::super::backend::SharedBackend as _;
use super::super::freshness::off_us;
use super::fault::RedisFault;
use super::{Redis, scripts};
use crate::clock::Clock;
use crate::config::{self, RedisShape};

/// The layout of the keys. Another one takes another number.
const FORMAT: &str = "2";
/// The earlier layout, which this version reads, and makes its own: keys were added.
const EARLIER: &str = "1";

/// Properties of a usable Redis, for checks before serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisReport {
    /// Durability over the server's own restart; none if the server does not report it.
    pub durable: Option<bool>,
    /// Frequency of disk writes; none if the server does not report it.
    pub fsync: Option<String>,
    /// True if the server reported that it evicts nothing.
    pub evicts_nothing: bool,
    /// Microseconds by which the server's clock is ahead of this machine's, or behind if negative.
    pub off_us: i64,
}

impl RedisReport {
    /// Connects as `serve` would.
    pub async fn of(config: &config::Redis) -> Result<Self, StoreError> {
        let redis = Redis::new(config, "check".into(), &Handle::current());
        let mut report = redis.examine(false).await?;
        let clock = Clock::system();
        let asked = clock.now();
        let ledger = redis.time().await?;
        report.off_us = off_us(asked, ledger, clock.now());
        if config.servers.shape != RedisShape::Cluster {
            let mut ask = cmd("CONFIG");
            // Often not allowed, which is no fault.
            let fsync = redis.link.command::<Vec<String>>(ask.arg("GET").arg("appendfsync")).await;
            report.fsync = fsync.ok().and_then(|pair| pair.into_iter().nth(1));
        }
        Ok(report)
    }
}

impl Redis {
    /// Checks the version of the keys and the server's promises; an error if the server may forget
    /// what was spent. Without keys, `claim` writes this version.
    pub(super) async fn examine(&self, claim: bool) -> Result<RedisReport, StoreError> {
        let mut script = scripts::ABOUT.key(&self.base);
        let (format, memory, persistence): (String, String, String) =
            self.link.script(script.arg(FORMAT).arg(EARLIER).arg(u8::from(claim))).await?;
        if format != FORMAT {
            return Err(RedisFault::Format { found: format }.into());
        }
        let policy = value(&memory, "maxmemory_policy");
        if let Some(policy) = policy.filter(|&policy| policy != "noeviction") {
            return Err(RedisFault::Evicts { policy: policy.to_owned() }.into());
        }
        let durable = value(&persistence, "aof_enabled").map(|enabled| enabled == "1");
        Ok(RedisReport { durable, fsync: None, evicts_nothing: policy.is_some(), off_us: 0 })
    }
}

/// One line of what `INFO` prints.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
