//! Refusals that come too fast for a record each: those of unauthenticated requests, and those of an
//! agent that goes on although it was refused. They are counted in one record a second for each agent
//! and cause, so that no sender fills the disk and yet the counts add up.
//!
//! The record that counts is in the journal while it grows: each refusal rewrites it with a
//! count one higher, before it is answered. So a crash does not lose a count, and whether the line
//! is in the log already is known by its request id, as with a call. After a second the writer puts
//! the record into the log and gives its slot back.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt;

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::ADMIN_UNAUTHORIZED;
use super::journal::{HeldSlots, RESERVED};
use super::record::{Decision, Detail, Draft, Entry, Event, HeadParts, Outcome, RequestHead};
use crate::firewall::agent::AgentId;
use crate::firewall::time::{Mono, Timestamp};

const SECOND_US: u64 = 1_000_000;

/// Counts that can grow at once, each in a slot of the journal; beyond it agents share one.
const MAX_FOLDS: usize = 256;

/// Way of a refusal into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// By itself up to the rate of unauthenticated requests; beyond it counted by its cause.
    Stranger,
    /// By itself: its sender is bounded otherwise.
    Single,
    /// Counted by its agent and cause.
    Folded,
}

impl Weight {
    /// The weight of a record of which no more is known than it says.
    pub(super) fn of(entry: &Entry) -> Self {
        let unproven = entry.principal.is_none() && entry.event.is_none();
        let refused = entry.decision == Decision::Deny;
        if unproven && refused { Self::Stranger } else { Self::Single }
    }
}

/// Counters of the current interval.
pub(super) struct Flood {
    max_per_sec: u32,
    state: Mutex<Interval>,
}

#[derive(Default)]
pub(super) struct Interval {
    second: Option<Mono>,
    recorded: u32,
    pub(super) folds: BTreeMap<Key, Fold>,
}

/// Key that refusals are counted by: their agent, if one is known, and their cause.
pub(super) type Key = (Option<AgentId>, &'static str);

impl Interval {
    /// The key to count under: without the agent where too many are counted already.
    pub(super) fn key(&self, agent: Option<AgentId>, cause: &'static str) -> Key {
        let own = (agent, cause);
        let room = self.folds.len() < MAX_FOLDS || self.folds.contains_key(&own);
        if room { own } else { (None, cause) }
    }
}

/// Addresses that a count names; those after them are counted together.
const MAX_SOURCES: usize = 4;

/// Refusals by the address that they came from.
#[derive(Clone, Copy, Default)]
struct Sources {
    known: [Option<(IpAddr, u64)>; MAX_SOURCES],
    others: u64,
}

impl Sources {
    /// Counts one more, and returns the sum.
    fn and(mut self, source: Option<IpAddr>) -> Self {
        let place = source.and_then(|source| {
            let is =
                |place: &&mut Option<(IpAddr, u64)>| place.is_none_or(|(known, _)| known == source);
            Some((self.known.iter_mut().find(is)?, source))
        });
        match place {
            Some((place, source)) => {
                let count = place.map_or(0, |(_, count)| count);
                *place = Some((source, count.saturating_add(1)));
            }
            None => self.others = self.others.saturating_add(1),
        }
        self
    }

    /// The one address that all came from.
    fn only(&self) -> Option<IpAddr> {
        match self.known {
            [Some((only, _)), None, ..] if self.others == 0 => Some(only),
            _ => None,
        }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (source, count)) in self.known.iter().flatten().enumerate() {
            let gap = if n == 0 { "" } else { " " };
            write!(f, "{gap}{source}={count}")?;
        }
        match (self.others, self.known.iter().flatten().next()) {
            (0, _) => Ok(()),
            (others, None) => write!(f, "others={others}"),
            (others, Some(_)) => write!(f, " others={others}"),
        }
    }
}

/// The record of one cause that is still growing.
pub(super) struct Fold {
    entry: Entry,
    since: Mono,
    last: Timestamp,
    count: u64,
    sources: Sources,
    pub(super) slots: HeldSlots,
}

impl Flood {
    pub(super) fn new(max_per_sec: u32) -> Self {
        Self { max_per_sec, state: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Interval> {
        self.state.lock()
    }

    /// Reports whether a refusal that comes now has its own record.
    pub(super) fn has_room(&self, now: Mono) -> bool {
        let mut state = self.lock();
        if state.second.is_none_or(|second| now.since(second) >= SECOND_US) {
            state.second = Some(now);
            state.recorded = 0;
        }
        let room = state.recorded < self.max_per_sec;
        state.recorded += u32::from(room);
        room
    }

    /// Takes the records that have grown for a second, or all.
    pub(super) fn ripe(&self, now: Mono, all: bool, node_id: &str) -> Vec<(Vec<u8>, HeldSlots)> {
        let mut state = self.lock();
        let ripe = state.folds.extract_if(.., |_, fold| all || now.since(fold.since) >= SECOND_US);
        ripe.map(|(_, fold)| {
            let mut line = fold.line(fold.count, fold.last, &fold.sources, node_id);
            line.drain(..RESERVED);
            (line, fold.slots)
        })
        .collect()
    }
}

impl Fold {
    /// Begins with a count of none.
    pub(super) fn new(
        refused: &Entry,
        agent: Option<AgentId>,
        since: Mono,
        slots: HeldSlots,
    ) -> Self {
        let mut entry = Entry::new(refused.timestamp, Uuid::new_v4(), Decision::Deny);
        entry.agent_id = agent;
        entry.denial_code = refused.denial_code;
        entry.failure_category = refused.failure_category;
        entry.stage = refused.stage;
        // Names the event that is counted; written as the record's own when it is.
        entry.event = refused
            .event
            .as_ref()
            .map(|event| Box::new(Event { name: event.name, detail: Vec::new() }));
        let (last, sources) = (refused.timestamp, Sources::default());
        Self { entry, since, last, count: 0, sources, slots }
    }

    pub(super) fn add(&mut self, refused: &Entry) {
        self.count = self.count.saturating_add(1);
        self.sources = self.sources.and(refused.head.client_addr());
        self.last = refused.timestamp;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The line as it will be after one more, behind room for the journal's head.
    pub(super) fn line_with_one_more(&self, refused: &Entry, node_id: &str) -> Vec<u8> {
        let sources = self.sources.and(refused.head.client_addr());
        self.line(self.count.saturating_add(1), refused.timestamp, &sources, node_id)
    }

    fn line(&self, count: u64, last: Timestamp, sources: &Sources, node_id: &str) -> Vec<u8> {
        let detail = vec![
            ("cause", Detail::Text(cause(&self.entry).to_owned())),
            ("count", Detail::Count(count)),
            ("until", Detail::Text(last.to_string())),
            ("sources", Detail::Text(sources.to_string())),
        ];
        let mut entry = self.entry.clone();
        let client_addr = sources.only();
        entry.head = RequestHead::of(&HeadParts { client_addr, ..HeadParts::default() });
        let name = self.entry.event.as_ref().map_or("refusals_folded", |event| event.name);
        entry.event = Some(Box::new(Event { name, detail }));
        let mut line = vec![0; RESERVED];
        Draft::new(&entry, node_id, 0).finish(&Outcome::refused(0), &mut line);
        line
    }
}

/// Returns the cause by which refusals are counted. Codes are defined by the program, so there are
/// few.
pub(super) fn cause(entry: &Entry) -> &'static str {
    // The admin port's codes are its own, though some share their names with others.
    match (&entry.event, entry.denial_code) {
        (Some(event), Some("RateLimited")) if event.name == ADMIN_UNAUTHORIZED => "admin.limited",
        (Some(event), _) => event.name,
        (None, code) => code.unwrap_or("broken_off"),
    }
}
