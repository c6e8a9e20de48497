//! Memory for request bodies: bounded for each upstream, and within that for each agent.
//!
//! Memory is charged before a byte is held, so that an agent that sends bodies and withholds their end
//! fills its own part and no more. A body that has come is charged with what its values take, too, before
//! it is parsed.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Code, Denial};
use crate::gate::shares::{part, too_many_in_flight};

/// Bytes that one permit covers.
const PERMIT_BYTES: usize = 1024;

/// The memory for bodies on their way to one upstream, in permits.
#[derive(Debug)]
pub struct BodyMemory {
    all: Arc<Semaphore>,
    max_per_agent: usize,
    by_agent: DashMap<AgentId, usize>,
}

/// The memory that one request holds; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<BodyMemory>,
    agent: AgentId,
    permits: Option<OwnedSemaphorePermit>,
}

impl BodyMemory {
    /// Divides the memory evenly among the upstreams: one that does not answer holds up no more than
    /// its own part. Each part, and each agent's part of it, lets the largest body through.
    pub fn for_each(settings: &config::Proxy, upstreams: usize) -> Arc<Self> {
        let largest = settings.max_request_body_bytes;
        let own = settings.max_in_flight_body_bytes.checked_div(upstreams).unwrap_or(0);
        let own = own.max(largest);
        Self::new(own, part(own, settings.max_share_per_agent_pct).max(largest))
    }

    /// Makes memory of which one agent may have a part.
    pub(super) fn new(bytes: usize, bytes_per_agent: usize) -> Arc<Self> {
        let permits = |bytes: usize| bytes.div_ceil(PERMIT_BYTES).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            all: Arc::new(Semaphore::new(permits(bytes))),
            max_per_agent: permits(bytes_per_agent),
            by_agent: DashMap::default(),
        })
    }

    /// Opens an agent's account for one request; nothing is held yet.
    pub(super) fn held_by(self: &Arc<Self>, agent: AgentId) -> Held {
        Held { memory: self.clone(), agent, permits: None }
    }

    /// Charges an agent; false if its part is used up.
    fn charge(&self, agent: AgentId, permits: usize) -> bool {
        let entry = self.by_agent.entry(agent);
        let used = if let Entry::Occupied(used) = &entry { *used.get() } else { 0 };
        let after = used.saturating_add(permits);
        let fits = after <= self.max_per_agent;
        if fits {
            entry.insert(after);
        }
        fits
    }

    fn give_back(&self, agent: AgentId, permits: usize) {
        if let Entry::Occupied(mut used) = self.by_agent.entry(agent) {
            *used.get_mut() = used.get().saturating_sub(permits);
            if *used.get() == 0 {
                used.remove();
            }
        }
    }
}

impl Held {
    /// Makes it cover `bytes` in all, or refuses: the agent if its own part is used up, anyone while
    /// there is none left.
    pub(super) fn cover(&mut self, bytes: usize) -> Result<(), Denial> {
        let held = self.permits();
        let wanted = bytes.div_ceil(PERMIT_BYTES);
        let Some(more) = wanted.checked_sub(held).filter(|more| *more > 0) else { return Ok(()) };
        if !self.memory.charge(self.agent, more) {
            return Err(too_many_in_flight());
        }
        let permit = u32::try_from(more)
            .ok()
            .and_then(|more| self.memory.all.clone().try_acquire_many_owned(more).ok());
        let Some(permit) = permit else {
            self.memory.give_back(self.agent, more);
            return Err(Denial::new(
                Code::Overloaded,
                "too many request bodies are in flight: try again",
            )
            .retry_after(1));
        };
        match &mut self.permits {
            Some(held) => held.merge(permit),
            None => self.permits = Some(permit),
        }
        Ok(())
    }

    /// Makes it cover a whole body and its values. No body is charged with more than its agent has, so that
    /// each is let through when nothing else is held.
    pub(super) fn cover_parsed(&mut self, bytes: usize) -> Result<(), Denial> {
        self.cover(bytes.min(self.memory.max_per_agent.saturating_mul(PERMIT_BYTES)))
    }

    fn permits(&self) -> usize {
        self.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = self.permits();
        if held > 0 {
            self.memory.give_back(self.agent, held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<BodyMemory> {
        BodyMemory::new(30 * PERMIT_BYTES, 10 * PERMIT_BYTES)
    }

    fn code(covered: Result<(), Denial>) -> Option<Code> {
        covered.err().map(|denial| denial.code)
    }

    #[test]
    fn an_agent_fills_its_own_part_and_no_more() {
        let memory = memory();
        let agent = AgentId::random();
        let mut first = memory.held_by(agent);
        first.cover(6 * PERMIT_BYTES).unwrap();
        let mut second = memory.held_by(agent);
        second.cover(4 * PERMIT_BYTES).unwrap();
        assert_eq!(code(second.cover(5 * PERMIT_BYTES)), Some(Code::TooManyInFlight));
        let mut other = memory.held_by(AgentId::random());
        other.cover(10 * PERMIT_BYTES).unwrap();
        drop(first);
        second.cover(10 * PERMIT_BYTES).unwrap();
        drop((second, other));
        assert!(memory.by_agent.is_empty());
        assert_eq!(memory.all.available_permits(), 30);
    }

    #[test]
    fn a_body_of_many_values_takes_its_agents_part_and_no_more() {
        let memory = memory();
        let agent = AgentId::random();
        let mut body = memory.held_by(agent);
        body.cover(2 * PERMIT_BYTES).unwrap();
        body.cover_parsed(11 * PERMIT_BYTES).unwrap();
        assert_eq!(memory.all.available_permits(), 20);
        assert_eq!(code(memory.held_by(agent).cover(1)), Some(Code::TooManyInFlight));
        memory.held_by(AgentId::random()).cover_parsed(usize::MAX).unwrap();
    }

    #[test]
    fn when_none_is_left_nobody_is_charged() {
        let memory = memory();
        let mut held: Vec<_> = (0..3).map(|_| memory.held_by(AgentId::random())).collect();
        for held in &mut held {
            held.cover(10 * PERMIT_BYTES).unwrap();
        }
        let mut late = memory.held_by(AgentId::random());
        assert_eq!(code(late.cover(1)), Some(Code::Overloaded));
        assert_eq!(memory.by_agent.len(), 3);
        drop(late);
        drop(held);
        assert_eq!(memory.all.available_permits(), 30);
    }
}
