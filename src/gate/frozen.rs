//! Freezes as one call meets them: with the agents that its caller acts for.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Destination, Gate};
use crate::firewall::agent::{Agent, Caller};
use crate::firewall::call::Call;
use crate::firewall::checks::freeze;
use crate::firewall::denial::Denial;
use crate::firewall::freeze::Frozen;

/// Agents that a caller acts for; most act for nobody.
pub(super) type Above = SmallVec<[Arc<Agent>; 1]>;

impl Gate {
    pub(super) fn above(&self, caller: &Caller) -> Above {
        let others = caller.chain.iter().filter(|&&id| id != caller.agent.id);
        others.filter_map(|&id| self.state.registry.agent(id)).collect()
    }

    /// Refuses what an operator has stopped, for calls that are not decided, or were some time ago.
    pub(super) fn still_free(
        &self,
        caller: &Caller,
        calls: &[Call<'_>],
        to: &Destination,
    ) -> Result<(), Denial> {
        let (freezes, above) = (self.state.freezer.in_force(), self.above(caller));
        let frozen = Frozen { freezes: &freezes, above: &above };
        let kinds = calls.iter().map(|call| &call.kind);
        freeze::check(frozen, &caller.agent, kinds, to.upstream(), self.state.clock.now())
    }
}
