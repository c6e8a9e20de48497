//! The store that the nodes of a fleet share: Redis from 6.2 on, or Valkey.
//!
//! Every write is one script that runs on the server, whole and alone (`redis/*.lua`); `ledger::account`
//! is what the scripts are held against. All keys begin with `{prefix}:`, whose braces keep them on one
//! node of a cluster. Permits and sessions are measured by the server's clock, so the nodes' clocks
//! need not agree. Numbers in scripts are doubles, so a budget ends at 2^53.
//!
//! | key, behind the prefix | what |
//! |---|---|
//! | `agents`, `trust`, `inactive` | hash by id, hash by id, set |
//! | `delegations` | hash by id |
//! | `s:<session>` | order, budget, booked calls, end; gone an hour after the session's end |
//! | `h:<session>`, `p:<session>` | who holds how many calls; permits of its rate limit |
//! | `a:<agent>`, `ends` | active sessions of an agent, all sessions: by their end |
//! | `admin_pairs` | admin keys that succeeded from a source, hashed, by time |
//! | `revoked` | revoked tokens by the time until which they matter |
//! | `changes`, `sequence` | what the nodes tell each other |
//! | `node:<node>`, `connection:<node>` | there while the node runs; the latest connection it wrote by |
//! | `wanted:<session>` | the others were asked just now to give back |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{FromRedisValue, Script, cmd};
use tracing::warn;

use super::{
    Booked, Booking, Change, Changes, Closing, NodeName, Opened, Position, RateBooked, RateUse,
    Settlement, StoreError,
};
use crate::config;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use feed::Feed;
use link::Link;
use scripts::Run;
use wire::{AgentText, DelegationText};

mod about;
mod dial;
mod feed;
mod link;
mod load;
mod scripts;
#[cfg(test)]
pub(super) mod tests;
mod trouble;
mod wire;

pub use about::RedisReport;
pub use trouble::RedisTrouble;

/// The largest whole number up to which a double has them all.
const LARGEST: u64 = 1 << 53;
/// Rows read at once, and sessions changed by one run of a script, so that the server is never long
/// busy with one of them.
const PAGE: usize = 500;

#[derive(Debug)]
pub struct Redis {
    node: NodeName,
    /// Prefix of every key.
    base: String,
    link: Link,
    feed: Feed,
    closed: AtomicBool,
    #[cfg(test)]
    test: tests::Switches,
}

impl Redis {
    /// Connects, and makes sure that the server keeps what it is told.
    pub(super) async fn open(config: &config::Redis, node: NodeName) -> Result<Self, StoreError> {
        let redis = Self::new(config, node);
        let report = redis.examine(true).await?;
        if report.durable == Some(false) {
            warn!("Redis keeps nothing over its own restart: set `appendonly yes` there");
        }
        if !report.evicts_nothing {
            warn!(
                "Redis does not say whether it evicts: its `maxmemory-policy` must be `noeviction`"
            );
        }
        Ok(redis)
    }

    fn new(config: &config::Redis, node: NodeName) -> Self {
        let config = Arc::new(config.clone());
        Self {
            node,
            base: format!("{{{}}}:", config.prefix),
            link: Link::new(Arc::clone(&config), config.timeout),
            feed: Feed::new(Link::new(Arc::clone(&config), config.timeout + feed::WAIT)),
            closed: AtomicBool::new(false),
            #[cfg(test)]
            test: tests::Switches::default(),
        }
    }

    /// Takes its leave: the others see that this node gives nothing back any more.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        if !self.closed.swap(true, Ordering::SeqCst) {
            let mut leave = cmd("DEL");
            let left = self.link.command::<()>(leave.arg(self.key("node:") + &self.node)).await;
            self.link.hang_up();
            self.feed.hang_up();
            left?;
        }
        Ok(())
    }

    pub(super) async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::INSERT_AGENT)?;
        script.arg(agent.id.to_string()).arg(wire::write("agent", &AgentText::from(&**agent))?);
        script.arg(agent.trust.as_str()).arg(u8::from(agent.active));
        script.arg(wire::change(&Change::Registered(Arc::clone(agent)))?);
        self.run(&script).await
    }

    pub(super) async fn set_trust(
        &self,
        levels: &[(AgentId, TrustLevel)],
    ) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::SET_TRUST)?;
        for &(id, level) in levels {
            script.arg(id.to_string()).arg(level.as_str());
            script.arg(wire::change(&Change::Trust(id, level))?);
        }
        self.run(&script).await
    }

    pub(super) async fn deactivate(&self, agents: &[AgentId]) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::DEACTIVATE)?;
        for &id in agents {
            script.arg(id.to_string()).arg(wire::change(&Change::Deactivated(id))?);
        }
        self.run(&script).await
    }

    pub(super) async fn insert_delegation(
        &self,
        delegation: &Delegation,
        known: usize,
    ) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::INSERT_DELEGATION)?;
        script.arg(delegation.id.to_string());
        script.arg(wire::write("delegation", &DelegationText::from(delegation))?).arg(known);
        script.arg(wire::change(&Change::Delegation(delegation.clone()))?);
        match self.run(&script).await? {
            0 => Ok(()),
            1 => Err(StoreError::Overtaken),
            _ => Err(RedisTrouble::Unexpected.into()),
        }
    }

    pub(super) async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        cap: usize,
    ) -> Result<Opened, StoreError> {
        if order.call_budget > LARGEST {
            return Err(StoreError::TooLarge { what: "the call budget" });
        }
        if order.expires_at.0.unsigned_abs() > LARGEST {
            return Err(StoreError::TooLarge { what: "the session's end" });
        }
        let mut script = self.write(&scripts::OPEN_SESSION)?;
        script.arg(order.id.to_string()).arg(order.agent.to_string()).arg(cap);
        script.arg(order.call_budget).arg(order.expires_at.0);
        script.arg(wire::write("session", order)?);
        script.arg(wire::change(&Change::SessionOpened(Arc::clone(order)))?);
        match self.run(&script).await? {
            0 => Ok(Opened::Yes),
            1 => Ok(Opened::TooMany),
            2 => Ok(Opened::NoAgent),
            _ => Err(RedisTrouble::Unexpected.into()),
        }
    }

    pub(super) async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        let mut script = self.write(&scripts::BOOK)?;
        script.arg(booking.id.to_string()).arg(wire::change(&Change::Wanted(booking.id))?);
        script.arg(booking.least.min(LARGEST)).arg(booking.most.min(LARGEST));
        script.arg(booking.unused.min(LARGEST));
        if let Some(rate) = booking.rate {
            script.arg(rate.limit).arg(rate.window_us.min(LARGEST)).arg(rate.least.min(LARGEST));
            rate_use(&mut script, rate.before);
        }
        let answer: Vec<i64> = self.run(&script).await?;
        if answer == [-1] {
            return Err(StoreError::Missing(booking.id.0));
        }
        let mut answer = answer.into_iter().map(u64::try_from);
        let mut next =
            || answer.next().and_then(Result::ok).ok_or(StoreError::from(RedisTrouble::Unexpected));
        let mut booked = Booked {
            granted: next()?,
            total: next()?,
            elsewhere: next()?,
            closed: next()? == 1,
            rate: None,
        };
        if next()? == 1 {
            let (lease, granted) = (next()?, next()?);
            let (good_for_us, wait_us) = (next()?, next()?);
            booked.rate = Some(RateBooked { lease, granted, good_for_us, wait_us });
        }
        Ok(booked)
    }

    pub(super) async fn close_sessions(
        &self,
        closings: &[Closing],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for closings in closings.chunks(PAGE) {
            let mut script = self.write(&scripts::CLOSE_SESSIONS)?;
            script.arg(at.0);
            for &Closing { id, unused } in closings {
                script.arg(id.to_string()).arg(unused.min(LARGEST));
                script.arg(wire::change(&Change::SessionClosed { id, at })?);
            }
            self.run::<()>(&script).await?;
        }
        Ok(())
    }

    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        for settlements in settlements.chunks(PAGE) {
            let mut script = self.write(&scripts::SETTLE)?;
            for settlement in settlements {
                script.arg(settlement.id.to_string()).arg(settlement.unused.min(LARGEST));
                rate_use(&mut script, settlement.rate);
            }
            self.run::<()>(&script).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_sessions(&self, ids: &[SessionId]) -> Result<(), StoreError> {
        for ids in ids.chunks(PAGE) {
            let mut script = self.write(&scripts::FORGET)?;
            for id in ids {
                script.arg(id.to_string());
            }
            self.run::<()>(&script).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_ended(
        &self,
        cutoff: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut forgotten = 0;
        while forgotten < limit {
            let part = PAGE.min(limit - forgotten);
            let mut script = self.write(&scripts::FORGET_ENDED)?;
            let done: usize = self.run(script.arg(cutoff.0).arg(part)).await?;
            forgotten += done;
            if done < part {
                break;
            }
        }
        Ok(forgotten)
    }

    pub(super) async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // Remembered until the year 2255 at most.
        let largest = i64::try_from(LARGEST).unwrap_or(i64::MAX);
        let mut script = self.write(&scripts::REVOKE_TOKEN)?;
        script.arg(token_id).arg(until.0.min(largest)).arg(now.0);
        let change = Change::TokenRevoked { token_id: token_id.to_owned(), until };
        self.run(script.arg(wire::change(&change)?)).await
    }

    pub(super) async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.open_for_asking()?;
        let mut all = cmd("ZRANGE");
        all.arg(self.key("admin_pairs")).arg(0).arg(-1);
        let kept: Vec<Vec<u8>> = self.link.command(&all).await?;
        // What is no pair was put there by somebody else.
        Ok(kept.into_iter().filter_map(|pair| pair.try_into().ok()).collect())
    }

    pub(super) async fn keep_admin_pair(
        &self,
        pair: [u8; 32],
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        self.open_for_asking()?;
        let key = self.key("admin_pairs");
        let mut add = cmd("ZADD");
        self.link.command::<()>(add.arg(&key).arg(at.0).arg(&pair[..])).await?;
        let mut trim = cmd("ZREMRANGEBYRANK");
        let last = i64::from(most).saturating_add(1);
        Ok(self.link.command::<()>(trim.arg(&key).arg(0).arg(-last)).await?)
    }

    pub(super) async fn tell_flags(&self, agent: AgentId, flags: u32) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::TELL)?;
        self.run(script.arg(wire::change(&Change::Flagged { agent, flags })?)).await
    }

    pub(super) async fn position(&self) -> Result<Position, StoreError> {
        self.open_for_asking()?;
        feed::position(self).await
    }

    pub(super) async fn follow_from_here(&self) -> Result<Position, StoreError> {
        self.open_for_asking()?;
        self.feed.start(self).await
    }

    pub(super) async fn changes(&self, after: Position) -> Result<Changes, StoreError> {
        self.open_for_asking()?;
        self.feed.changes(self, after).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    fn write<'a>(&'a self, script: &'a Script) -> Result<Run<'a>, StoreError> {
        self.open_for_asking()?;
        #[cfg(test)]
        self.test.may_write()?;
        #[cfg(not(test))]
        let now = String::new();
        #[cfg(test)]
        let now = self.test.now();
        Ok(Run { script, base: &self.base, node: &self.node, now, arguments: Vec::new() })
    }

    async fn run<T: FromRedisValue>(&self, run: &Run<'_>) -> Result<T, StoreError> {
        Ok(self.link.write(run).await?)
    }

    fn open_for_asking(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Stopped);
        }
        Ok(())
    }
}

/// Encodes the usage of permits: three empty arguments if there is none.
fn rate_use(script: &mut Run<'_>, before: Option<RateUse>) {
    match before {
        Some(RateUse { lease, used, ago_us }) => {
            script.arg(lease).arg(used.min(LARGEST)).arg(ago_us.min(LARGEST));
        }
        None => {
            script.arg("").arg("").arg("");
        }
    }
}
