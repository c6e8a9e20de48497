//! The overlay: everything taken away of an agent, as this node knows it, over what the store says.
//!
//! A store can lose its last writes (a failover to a replica that was behind, a backup that is put back).
//! Everything that was acknowledged as taken away is therefore kept here, counts here whatever the store
//! says, and is asserted again where the store does not have it. Each agent carries a change number that
//! only an operator's new trust level raises: a lower level that was kept counts until one with a higher
//! number is known, so that no raise is undone.

use crate::firewall::agent::{Agent, AgentId};
use crate::store::{Lowered, StoredAgent, TakenAway};

/// Everything that was taken away of one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    inactive: bool,
    lowered: Option<Lowered>,
}

impl Kept {
    pub(super) fn take(&mut self, taken: &TakenAway) {
        self.inactive |= taken.inactive;
        self.lowered = match (self.lowered, taken.lowered) {
            (kept, None) => kept,
            (None, new) => new,
            (Some(kept), Some(new)) if kept.number > new.number => Some(kept),
            (Some(kept), Some(new)) if kept.number < new.number => Some(new),
            (Some(kept), Some(new)) => Some(Lowered { level: kept.level.min(new.level), ..new }),
        };
    }

    /// Keeps what the store has taken away without this node's knowledge, since a store may lose it.
    pub(super) fn take_over(&mut self, stored: &StoredAgent) {
        let Agent { id, active, trust, .. } = *stored.agent;
        let lowered = Some(Lowered { level: trust, number: stored.number });
        self.take(&TakenAway { id, inactive: !active, lowered });
    }

    /// Returns the number of the latest change that is known here.
    pub(super) fn number(&self) -> u64 {
        self.lowered.map_or(0, |lowered| lowered.number)
    }

    pub(super) fn of(&self, id: AgentId) -> TakenAway {
        TakenAway { id, inactive: self.inactive, lowered: self.lowered }
    }

    /// Checks whether the store lacks anything that is kept here. A change number that it lacks counts,
    /// too: the next change would get a number that was given before.
    pub(super) fn is_missing_in(&self, stored: &StoredAgent) -> bool {
        self.number() > stored.number || effective(stored, self) != *stored.agent
    }
}

/// Merges an agent as the store has it with what is kept here: the one place where this is done.
pub(super) fn effective(stored: &StoredAgent, kept: &Kept) -> Agent {
    let mut agent = Agent::clone(&stored.agent);
    agent.active &= !kept.inactive;
    if let Some(lowered) = kept.lowered.filter(|lowered| stored.number <= lowered.number) {
        agent.trust = agent.trust.min(lowered.level);
    }
    agent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::firewall::agent::TrustLevel;
    use crate::firewall::time::Timestamp;
    use crate::testkit::full_agent as agent;

    #[derive(Clone, Debug)]
    enum Act {
        Set(TrustLevel),
        Lower(TrustLevel),
        Deactivate,
    }

    fn level() -> impl Strategy<Value = TrustLevel> {
        use TrustLevel::{Basic, Trusted, Untrusted, Verified};
        prop_oneof![Just(Untrusted), Just(Basic), Just(Verified), Just(Trusted)]
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => level().prop_map(Act::Set),
            3 => level().prop_map(Act::Lower),
            1 => Just(Act::Deactivate),
        ]
    }

    fn stored() -> StoredAgent {
        let agent = agent(TrustLevel::Trusted);
        StoredAgent { agent, number: 0, ended_at: None, flags: Vec::new() }
    }

    /// A store, and a node that hears each act.
    fn apply(acts: &[Act], stored: &mut StoredAgent, kept: &mut Kept) {
        for act in acts {
            let id = stored.agent.id;
            let taken = match act {
                Act::Set(level) => {
                    let number = stored.set_trust(*level, kept.number());
                    let lowered = Some(Lowered { level: *level, number });
                    TakenAway { id, inactive: false, lowered }
                }
                Act::Lower(level) if *level < stored.agent.trust => {
                    let lowered = Some(Lowered { level: *level, number: stored.number });
                    TakenAway { id, inactive: false, lowered }
                }
                Act::Lower(_) => continue,
                Act::Deactivate => TakenAway { id, inactive: true, lowered: None },
            };
            stored.take_away(&taken, Timestamp(1));
            kept.take(&taken);
        }
    }

    proptest! {
        /// The store goes back to any earlier state: the node gives the agent no more than what was
        /// acknowledged last, and after asserting it again the store agrees with the node.
        #[test]
        fn whatever_the_store_forgets_nothing_comes_back(
            acts in prop::collection::vec(act(), 0..12), lost in 0_usize..12,
        ) {
            let (mut now, mut kept) = (stored(), Kept::default());
            let survives = acts.len().saturating_sub(lost);
            apply(&acts[..survives], &mut now, &mut kept);
            let before = now.clone();
            apply(&acts[survives..], &mut now, &mut kept);
            let acknowledged = now.agent;

            let mut after = before;
            let seen = effective(&after, &kept);
            prop_assert!(acknowledged.active || !seen.active);
            prop_assert!(seen.trust <= acknowledged.trust);
            after.take_away(&kept.of(after.agent.id), Timestamp(2));
            prop_assert_eq!(&*after.agent, &seen);
            prop_assert!(!kept.is_missing_in(&after));
        }

        /// An operator's later level is not undone by what was kept before it.
        #[test]
        fn a_later_level_stays(
            acts in prop::collection::vec(act(), 0..8), level in level(), lost in 0_usize..8,
        ) {
            let (mut now, mut kept) = (stored(), Kept::default());
            let survives = acts.len().saturating_sub(lost);
            apply(&acts[..survives], &mut now, &mut kept);
            let mut after = now.clone();
            apply(&acts[survives..], &mut now, &mut kept);
            after.take_away(&kept.of(after.agent.id), Timestamp(2));
            apply(&[Act::Set(level)], &mut after, &mut kept);
            prop_assert_eq!(effective(&after, &kept).trust, level);
        }
    }
}
