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
//! | `freezes` | hash by id |
//! | `approvals`, `approval_states`, `approval_ends` | calls that were asked about, and what became of them: by id, by id, by expiry |
//! | `approval_of` | the open approval of a call, by the call's digest |
//! | `waiting`, `waiting:agent:<agent>`, `waiting:owner:<owner>` | pending approvals by expiry: all, and those of one agent or owner |
//! | `c:<mark>`, `cs:<session>` | a continuation until its end; those of a session, by their end |
//! | `changes`, `sequence` | changes that the nodes publish |
//! | `node:<node>`, `connection:<node>` | there while the node runs; the latest connection it wrote by (one more, with a `w`, where it waits for replicas) |
//! | `wanted:<session>` | the others were asked just now to give back |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{FromRedisValue, Script, cmd};
use tokio::runtime::Handle;
use tracing::warn;
use uuid::Uuid;

use super::backend::{Backend, SharedBackend};
use super::{
    Booked, Booking, Bookmark, Change, Changes, Closing, NodeName, Opened, Position, Purge, Put,
    RateBooked, RateUse, Replicas, Room, Settlement, StoreError, StoredAgent, StoredDelegations,
    StoredSession, TakenAway, ledger,
};
use crate::config;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest};
use crate::firewall::continuation::Continuation;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;
use feed::Feed;
use link::Link;
use scripts::Run;
use wire::{AgentText, DelegationText};

mod about;
mod approvals;
mod continuations;
mod dial;
mod fault;
mod feed;
mod freezes;
mod link;
mod load;
mod scripts;
#[cfg(test)]
pub(super) mod tests;
mod wire;

pub use about::RedisReport;
pub use fault::RedisFault;

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
    /// The connection of what takes away, where that is to reach replicas before it is answered: to
    /// wait for them delays nothing else.
    careful: Option<(Link, Waiting)>,
    patience: Duration,
    feed: Feed,
    closed: AtomicBool,
    #[cfg(test)]
    test: tests::Switches,
}

impl Redis {
    /// Connects, and makes sure that the server keeps what is written.
    pub(super) async fn open(
        config: &config::Redis,
        node: NodeName,
        home: &Handle,
    ) -> Result<Self, StoreError> {
        let redis = Self::new(config, node, home);
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

    fn new(config: &config::Redis, node: NodeName, home: &Handle) -> Self {
        let config = Arc::new(config.clone());
        let link = |patience, lane| Link::new(Arc::clone(&config), patience, lane, home.clone());
        let waiting = config.wait_replicas.map(|wanted| Waiting { wanted, most: config.wait });
        Self {
            node,
            base: format!("{{{}}}:", config.prefix),
            careful: waiting.map(|waiting| (link(config.timeout + waiting.most, "w"), waiting)),
            link: link(config.timeout, ""),
            patience: config.timeout,
            feed: Feed::new(link(config.timeout + feed::WAIT, "")),
            closed: AtomicBool::new(false),
            #[cfg(test)]
            test: tests::Switches::default(),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
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

    /// Runs a write that takes something away, and waits for replicas if it should.
    async fn run_carefully<T: FromRedisValue>(
        &self,
        run: &Run<'_>,
    ) -> Result<(T, Replicas), StoreError> {
        let Some((link, waiting)) = &self.careful else {
            return Ok((self.run(run).await?, Replicas::default()));
        };
        let answer = link.write(run).await?;
        let mut wait = cmd("WAIT");
        wait.arg(waiting.wanted).arg(feed::millis(waiting.most));
        // The change is made: replicas that cannot be counted are not reached.
        let reached = link.command::<u32>(&wait).await.unwrap_or(0);
        Ok((answer, Replicas { wanted: waiting.wanted, reached }))
    }

    fn open_for_asking(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Stopped);
        }
        Ok(())
    }
}

/// The replicas that are to have what takes away, and the longest wait for them.
#[derive(Debug)]
struct Waiting {
    wanted: u32,
    most: Duration,
}

impl Backend for Redis {
    /// Takes its leave: the others see that this node gives nothing back any more.
    async fn close(&self) -> Result<(), StoreError> {
        if !self.closed.swap(true, Ordering::SeqCst) {
            let mut leave = cmd("DEL");
            let left = self.link.command::<()>(leave.arg(self.key("node:") + &self.node)).await;
            self.link.hang_up();
            self.feed.hang_up();
            if let Some((careful, _)) = &self.careful {
                careful.hang_up();
            }
            left?;
        }
        Ok(())
    }

    async fn newest(&self, _at: Timestamp) -> Result<Timestamp, StoreError> {
        self.time().await
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        self.load_agents().await
    }

    async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        self.load_tombstones().await
    }

    async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::INSERT_AGENT)?;
        script.arg(agent.id.to_string()).arg(wire::write("agent", &AgentText::from(&**agent))?);
        script.arg(agent.trust.as_str());
        script.arg(wire::change(&Change::Registered(Arc::clone(agent)))?);
        match self.run(&script).await? {
            0 => Ok(()),
            1 => Err(StoreError::Overtaken),
            _ => Err(RedisFault::Unexpected.into()),
        }
    }

    async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError> {
        let mut script = self.write(&scripts::SET_TRUST)?;
        script.arg(id.to_string()).arg(level.as_str()).arg(above.min(LARGEST));
        let (before, behind) = wire::trust_change(id, level)?;
        let (number, replicas) = self.run_carefully::<u64>(script.arg(before).arg(behind)).await?;
        Ok((number > 0).then_some((number, replicas)))
    }

    async fn take_away(
        &self,
        taken: Vec<TakenAway>,
        _at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let mut replicas = Replicas::default();
        for taken in taken.chunks(PAGE) {
            let mut script = self.write(&scripts::TAKE_AWAY)?;
            script.arg(LEVELS);
            for taken in taken {
                script.arg(taken.id.to_string()).arg(u8::from(taken.inactive));
                match taken.lowered {
                    Some(lowered) => {
                        script.arg(lowered.level.as_str()).arg(lowered.number.min(LARGEST))
                    }
                    None => script.arg("").arg(""),
                };
                let (before, behind) = wire::taken_change(taken)?;
                script.arg(before).arg(behind);
            }
            let (_done, reached) = self.run_carefully::<u64>(&script).await?;
            replicas = replicas.and(reached);
        }
        Ok(replicas)
    }

    async fn flag(&self, id: AgentId, count: u32, _at: Timestamp) -> Result<(), StoreError> {
        let mut script = self.write(&scripts::FLAG)?;
        script.arg(id.to_string()).arg(count);
        script.arg(super::kept::FLAGS_KEPT_US).arg(super::kept::FLAGS_KEPT);
        let change = Change::Flagged { agent: id, flags: count };
        self.run(script.arg(wire::change(&change)?)).await
    }

    async fn purge(&self, purge: Purge, _now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        let mut purged = Vec::new();
        for ids in purge.ids.chunks(PAGE) {
            let ends = self.ends_of(ids).await?;
            let mut script = self.write(&scripts::PURGE)?;
            script
                .arg(purge.retention_secs.min(LARGEST / 1_000_000))
                .arg(u8::from(purge.tombstones));
            for (id, expires_at) in ids.iter().zip(ends) {
                script.arg(id.to_string());
                script.arg(expires_at.map_or_else(String::new, |at| at.0.to_string()));
                for tombstone in [false, true] {
                    script.arg(wire::change(&Change::Purged { id: *id, tombstone })?);
                }
            }
            let done: Vec<String> = self.run(&script).await?;
            purged.extend(done.iter().filter_map(|id| AgentId::parse(id)));
        }
        Ok(purged)
    }

    async fn delegations(&self) -> Result<StoredDelegations, StoreError> {
        self.load_delegations().await
    }

    async fn put_delegation(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError> {
        let mut script = self.write(&scripts::PUT_DELEGATION)?;
        script.arg(delegation.id.to_string());
        script.arg(wire::write("delegation", &DelegationText::from(delegation))?);
        script.arg(version.min(LARGEST));
        let next = version.saturating_add(1);
        let change = Change::Delegation { delegation: delegation.clone(), version: next };
        match self.run::<u64>(script.arg(wire::change(&change)?)).await? {
            0 => Err(StoreError::Overtaken),
            version => Ok(version),
        }
    }

    async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError> {
        let (mut version, mut replicas) = (0, Replicas::default());
        for ids in ids.chunks(PAGE) {
            let mut script = self.write(&scripts::END_DELEGATIONS)?;
            for id in ids {
                let (before, behind) = wire::ended_change(*id)?;
                script.arg(id.to_string()).arg(before).arg(behind);
            }
            let (reached, these) = self.run_carefully(&script).await?;
            (version, replicas) = (reached, replicas.and(these));
        }
        Ok((version, replicas))
    }

    async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        self.load_sessions(cutoff).await
    }

    async fn insert_session(
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
            _ => Err(RedisFault::Unexpected.into()),
        }
    }

    async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        let mut script = self.write(&scripts::BOOK)?;
        script.arg(booking.id.to_string()).arg(wire::change(&Change::Wanted(booking.id))?);
        script.arg(ledger::SHARES).arg(ledger::RATE_BLOCKS);
        script.arg(ledger::PERMIT_US).arg(ledger::PERMITS_IN_A_WINDOW);
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
            || answer.next().and_then(Result::ok).ok_or(StoreError::from(RedisFault::Unexpected));
        let (granted, total, elsewhere, state) = (next()?, next()?, next()?, next()?);
        let (closed, ended) = (state == 1, state == 2);
        let mut booked = Booked { granted, total, elsewhere, closed, ended, rate: None };
        if next()? == 1 {
            let (lease, granted) = (next()?, next()?);
            let (good_for_us, wait_us) = (next()?, next()?);
            booked.rate = Some(RateBooked { lease, granted, good_for_us, wait_us });
        }
        Ok(booked)
    }

    async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let mut replicas = Replicas::default();
        for closings in closings.chunks(PAGE) {
            let mut script = self.write(&scripts::CLOSE_SESSIONS)?;
            script.arg(at.0);
            for &Closing { id, unused } in closings {
                script.arg(id.to_string()).arg(unused.min(LARGEST));
                script.arg(wire::change(&Change::SessionClosed { id, at })?);
            }
            let (_done, reached) = self.run_carefully::<u64>(&script).await?;
            replicas = replicas.and(reached);
        }
        Ok(replicas)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
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

    async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        _now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError> {
        for ids in ids.chunks(PAGE) {
            let mut script = self.write(&scripts::FORGET)?;
            script.arg(retention_secs.min(LARGEST / 1_000_000));
            for id in ids {
                script.arg(id.to_string());
            }
            self.run::<()>(&script).await?;
        }
        Ok(())
    }

    async fn forget_ended(
        &self,
        _now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let limit = usize::saturating_from(limit);
        let mut forgotten = 0;
        while forgotten < limit {
            let part = PAGE.min(limit - forgotten);
            let mut script = self.write(&scripts::FORGET_ENDED)?;
            script.arg(retention_secs.min(LARGEST / 1_000_000)).arg(part);
            let done: usize = self.run(&script).await?;
            forgotten += done;
            if done < part {
                break;
            }
        }
        Ok(forgotten)
    }

    async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.load_revoked_tokens().await
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        _now: Timestamp,
    ) -> Result<Replicas, StoreError> {
        // Remembered until the year 2255 at most.
        let largest = i64::saturating_from(LARGEST);
        let mut script = self.write(&scripts::REVOKE_TOKEN)?;
        script.arg(token_id).arg(until.0.min(largest));
        let change = Change::TokenRevoked { token_id: token_id.to_owned(), until };
        script.arg(wire::change(&change)?);
        let (_done, replicas) = self.run_carefully::<u64>(&script).await?;
        Ok(replicas)
    }

    async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        self.load_freezes().await
    }

    async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        self.put_freeze(freeze).await
    }

    async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        self.drop_freeze(id).await
    }

    async fn approvals(&self) -> Result<Vec<Approval>, StoreError> {
        self.load_approvals().await
    }

    async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError> {
        self.read_approvals(&ids).await
    }

    async fn put_approvals(&self, steps: Vec<ApprovalStep>, room: Room) -> Result<Put, StoreError> {
        self.store_steps(steps, room).await
    }

    async fn forget_approvals(&self, ids: Vec<Uuid>, _now: Timestamp) -> Result<(), StoreError> {
        self.drop_approvals(&ids).await
    }

    async fn keep_continuation(
        &self,
        one: &Continuation,
        _now: Timestamp,
    ) -> Result<(), StoreError> {
        self.put_continuation(one).await
    }

    async fn take_continuation(&self, mark: Digest) -> Result<(bool, Replicas), StoreError> {
        self.drop_continuation(mark).await
    }

    async fn continuation(
        &self,
        mark: Digest,
        now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        self.load_continuation(mark, now).await
    }

    async fn continuations_of(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        self.load_continuations(session, now).await
    }

    async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.open_for_asking()?;
        let mut all = cmd("ZRANGE");
        all.arg(self.key("admin_pairs")).arg(0).arg(-1);
        let kept: Vec<Vec<u8>> = self.link.command(&all).await?;
        // What is no pair was put there by somebody else.
        Ok(kept.into_iter().filter_map(|pair| pair.try_into().ok()).collect())
    }

    async fn keep_admin_pair(
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
}

impl SharedBackend for Redis {
    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.open_for_asking()?;
        #[cfg(test)]
        if let Ok(now) = self.test.now().parse() {
            return Ok(Timestamp(now));
        }
        feed::time(self.link.command(&cmd("TIME")).await?)
    }

    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        self.load_session(id).await
    }

    async fn follow_from_here(&self) -> Result<Bookmark, StoreError> {
        self.open_for_asking()?;
        self.feed.start(self).await
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.open_for_asking()?;
        feed::position(self).await
    }

    async fn changes(&self, after: &Bookmark) -> Result<Changes, StoreError> {
        self.open_for_asking()?;
        self.feed.changes(self, after).await
    }
}

/// The levels of trust, lowest first, as a script compares them.
const LEVELS: &str = "untrusted basic verified trusted";

/// Adds the use of permits to a script's arguments: three empty ones if there is none.
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
