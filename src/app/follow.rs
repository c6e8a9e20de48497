//! Keeping up with the other nodes of a fleet: what they change in the store that all share is taken
//! in here, within the second that a revocation may take.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::store::{Change, Position, Store, StoreError};
use crate::telemetry::Causes;

/// Pause before a failed store is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// Interval between checks for unused leases.
const LOOK_FOR_IDLE: Duration = Duration::from_millis(250);

/// Takes in what other nodes do.
pub(super) struct Follower {
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<Gate>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) position: Position,
}

impl Follower {
    /// For as long as the process lives.
    pub(super) async fn run(mut self) {
        let mut failing = false;
        loop {
            match self.step().await {
                Ok(()) if failing => {
                    info!("the store answers again");
                    failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    self.metrics.operation.store_failed();
                    if !failing {
                        warn!(error = %Causes(&error), "the store does not answer; going on with what is known");
                        failing = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Takes in what was changed while everything was loaded. Before the first call is served: what
    /// was loaded may be newer than some of the changes, and is as old as they are for a moment.
    pub(super) async fn catch_up(&mut self) -> Result<(), StoreError> {
        let there = self.store.position().await?;
        while self.position < there {
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        // What is answered later holds at least what was changed before this.
        let asked_at = self.clock.mono();
        match self.store.changes(self.position).await {
            Ok(changes) => {
                for change in changes.changes {
                    self.take_in(change);
                }
                self.position = changes.position;
            }
            Err(StoreError::Missed) => {
                warn!("changes of other nodes were missed; loading everything anew");
                let position = self.store.follow_from_here().await?;
                self.gate.registry.reload().await?;
                self.gate.sessions.reload(self.clock.now()).await?;
                self.gate.freezer.reload(self.clock.now()).await?;
                self.position = position;
            }
            Err(error) => return Err(error),
        }
        self.gate.followed.heard(asked_at, self.position);
        Ok(())
    }

    fn take_in(&self, change: Change) {
        let Gate { registry, sessions, freezer, injected, secrets, .. } = &*self.gate;
        let now = self.clock.now();
        match change {
            Change::Registered(agent) => {
                if registry.registered_elsewhere(&agent) {
                    self.gate.enrolment.enrolled_elsewhere(&agent);
                }
            }
            Change::Trust(id, level) => registry.trust_elsewhere(id, level),
            Change::Deactivated(id) => registry.deactivated_elsewhere(id),
            Change::Delegation(delegation) => registry.delegated_elsewhere(delegation),
            Change::TokenRevoked { token_id, until } => {
                registry.revoked_elsewhere(token_id, until);
            }
            Change::Flagged { agent, flags } => registry.flagged_elsewhere(agent, flags, now),
            Change::SessionOpened(order) => {
                sessions.opened_elsewhere(&order, now);
                self.metrics.name_tools(order.authorized_tools.iter());
                // What another node injects there may come back in an answer here.
                let _watch = injected.add(&order, &[], &secrets.vault());
            }
            Change::SessionClosed { id, at: _ } => sessions.closed_elsewhere(id, now),
            Change::Wanted(id) => sessions.wanted_elsewhere(id, &self.clock),
            Change::Frozen(freeze) => freezer.frozen_elsewhere(freeze, now),
            Change::Unfrozen(id) => freezer.lifted_elsewhere(id),
        }
    }
}

/// Gives back what sessions hold that are not used, for ever.
pub(super) async fn return_idle(gate: Arc<Gate>) {
    let mut ticks = tokio::time::interval(LOOK_FOR_IDLE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = gate.sessions.return_idle(&gate.clock).await {
            warn!(error = %Causes(&error), "leases were not given back; their calls count as made");
        }
    }
}
