//! What a server says of itself: whether it would lose what Arbiter keeps there.

use redis::cmd;

use super::super::StoreError;
use super::trouble::RedisTrouble;
use super::{Redis, scripts};
use crate::config::{self, RedisShape};

/// The layout of the keys. Another one takes another number.
const FORMAT: &str = "1";

/// What a Redis that can be used is like, for whoever asks before serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisReport {
    /// Whether it keeps what it was told over its own restart; none if it does not say.
    pub durable: Option<bool>,
    /// How often it writes to its disk; none if it does not say.
    pub fsync: Option<String>,
    /// Whether it told that it evicts nothing.
    pub evicts_nothing: bool,
}

impl RedisReport {
    /// Connects as `serve` would.
    pub async fn of(config: &config::Redis) -> Result<Self, StoreError> {
        let redis = Redis::new(config, "check".into());
        let mut report = redis.examine(false).await?;
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
    /// Whether the keys are of this version, and what the server promises; an error if it may forget
    /// what was spent. Where there are no keys yet, `claim` says that they will be of this version.
    pub(super) async fn examine(&self, claim: bool) -> Result<RedisReport, StoreError> {
        let mut script = scripts::ABOUT.key(&self.base);
        let (format, memory, persistence): (String, String, String) =
            self.link.script(script.arg(FORMAT).arg(u8::from(claim))).await?;
        if format != FORMAT {
            return Err(RedisTrouble::Format { found: format }.into());
        }
        let policy = value(&memory, "maxmemory_policy");
        if let Some(policy) = policy.filter(|&policy| policy != "noeviction") {
            return Err(RedisTrouble::Evicts { policy: policy.to_owned() }.into());
        }
        let durable = value(&persistence, "aof_enabled").map(|enabled| enabled == "1");
        Ok(RedisReport { durable, fsync: None, evicts_nothing: policy.is_some() })
    }
}

/// One line of what `INFO` prints.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
