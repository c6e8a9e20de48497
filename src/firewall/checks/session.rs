//! The session: there is one where one is needed, it is known, and it has not ended.

use super::{Lack, budget, rate};
use crate::firewall::agent::AgentId;
use crate::firewall::delegation::Lapse;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::session::{Usage, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::{Mono, Now};

/// The header `x-agent-id` as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentHeader {
    Absent,
    Malformed,
    Is(AgentId),
}

impl AgentHeader {
    pub fn of(header: Option<&str>) -> Self {
        match header.map(AgentId::parse) {
            None => Self::Absent,
            Some(None) => Self::Malformed,
            Some(Some(agent)) => Self::Is(agent),
        }
    }
}

/// The header `x-arbiter-session`, and what was found under it.
#[derive(Clone, Copy, Debug)]
pub enum Claimed<'s> {
    /// No session is claimed.
    Nothing,
    /// The claimed one is not known, or its id is none.
    Unknown,
    Found(Found<'s>),
}

/// A session as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'s> {
    pub order: &'s WorkOrder,
    pub deadline: Mono,
    pub seen: Seen,
    /// True if the chain of delegations that the session was opened under holds now.
    pub chain: Result<(), Lapse>,
}

impl<'s> Claimed<'s> {
    pub fn found(&self) -> Option<&Found<'s>> {
        match self {
            Self::Found(found) => Some(found),
            Self::Nothing | Self::Unknown => None,
        }
    }

    pub(super) fn is_made(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// Result of a short look at a session's usage. Nothing is counted by looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub closed: bool,
    pub budget: Result<(), Lack<budget::Short>>,
    pub rate: Result<(), Lack<rate::Limited>>,
}

impl Seen {
    /// Looks for room for `price` more calls. Forgets calls that have left the rate's window.
    pub fn of(terms: &Terms, order: &WorkOrder, usage: &mut Usage, price: u64, now: Now) -> Self {
        let (budget, rate) = if price == 0 {
            (Ok(()), Ok(()))
        } else {
            let budget = budget::look(usage, order.call_budget, price, now.mono);
            (budget, rate::look(usage, order.rate_limit, terms.rate_window_secs, price, now.mono))
        };
        Self { closed: usage.closed, budget, rate }
    }
}

/// Refuses a request without the session or the agent's id that it needs, and a session that is
/// unknown or over.
pub fn check(
    terms: &Terms,
    header: AgentHeader,
    claimed: &Claimed<'_>,
    now: Now,
) -> Result<(), Denial> {
    if claimed.is_made() && header == AgentHeader::Absent {
        return Err(Denial::new(
            Code::AgentIdRequired,
            "send the header x-agent-id with your agent's id",
        ));
    }
    match claimed {
        Claimed::Nothing if terms.require_session => Err(Denial::new(
            Code::SessionRequired,
            "send the header x-arbiter-session with a session that was opened for you",
        )),
        Claimed::Nothing => Ok(()),
        Claimed::Unknown => Err(Denial::new(Code::SessionUnknown, "there is no such session")),
        Claimed::Found(found) => active(found.seen.closed, found.deadline, now),
    }
}

/// Refuses a session that was closed or has expired.
pub fn active(closed: bool, deadline: Mono, now: Now) -> Result<(), Denial> {
    if closed {
        return Err(Denial::new(
            Code::SessionClosed,
            "this session was closed: ask your operator for a new one",
        ));
    }
    if now.mono >= deadline {
        return Err(Denial::new(
            Code::SessionExpired,
            "this session's time limit has passed: ask your operator for a new one",
        ));
    }
    Ok(())
}
