//! Keeping up with the nodes of a fleet: their changes in the store that all share, this node's own among
//! them, are taken in here, within the second that a revocation may take. After anything that can have
//! cost the store its last writes, what was taken away is asserted again.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::firewall::time::{Now, Timestamp};
use crate::gate::{Gate, ProcessState};
use crate::store::{Bookmark, Change, SharedStore, Store, StoreError};
use crate::telemetry::Causes;

/// Pause before a failed store is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// Interval between looks for leases that are not used.
const LOOK_FOR_IDLE: Duration = Duration::from_millis(250);
/// A difference of clocks that changes by less than this is the same one, measured less exactly.
const SAME_DIFFERENCE_US: u64 = 1_000_000;

/// Takes in the changes of all nodes.
pub(super) struct Follower {
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<Gate>,
    pub(super) state: ProcessState,
    /// Changes after it are not applied yet; a failed step is repeated from here.
    pub(super) bookmark: Bookmark,
    /// True if another server may answer that has not received again what was taken away.
    pub(super) unasserted: bool,
}

/// Reads the machine's own clocks, also where the node uses the ledger's time.
pub(super) fn machine(clock: &Clock) -> Now {
    let now = clock.now();
    Now { wall: Timestamp(now.wall.0.saturating_sub(clock.by_ledger_us())), ..now }
}

impl Follower {
    /// Follows the changes until the process ends.
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
                    self.state.metrics.operation.store_failed();
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
        let Some(shared) = self.store.shared() else { return Ok(()) };
        let there = shared.position().await?;
        while self.bookmark.position < there {
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        // A store that nobody shares has no changes.
        let Some(shared) = store.shared() else { return std::future::pending().await };
        // A later answer contains at least the changes made before this.
        let asked = machine(&self.state.clock);
        // Before anything else: what an earlier step could not read.
        self.state.approvals.refresh().await?;
        match shared.changes(&self.bookmark).await {
            Ok(changes) => {
                self.compare_clocks(asked, changes.time);
                self.unasserted |= changes.reconnected;
                for change in changes.changes {
                    self.take_in(change).await;
                }
                self.bookmark = changes.bookmark;
                self.state.approvals.refresh().await?;
                if self.unasserted {
                    self.state.registry.reload().await?;
                    self.state.sessions.assert_closed(self.state.clock.now()).await?;
                    self.state.freezer.assert_kept(self.state.clock.now()).await?;
                    self.state.approvals.reload(self.state.clock.now()).await?;
                    self.unasserted = false;
                }
            }
            Err(StoreError::Missed) => self.load_anew(shared).await?,
            Err(error) => return Err(error),
        }
        self.state.freshness.heard(asked.mono, self.bookmark.position);
        Ok(())
    }

    async fn load_anew(&mut self, shared: SharedStore<'_>) -> Result<(), StoreError> {
        warn!("changes of other nodes were missed; reloading everything");
        let bookmark = shared.follow_from_here().await?;
        let asked = machine(&self.state.clock);
        self.compare_clocks(asked, Some(shared.time().await?));
        self.state.registry.reload().await?;
        self.state.sessions.reload(self.state.clock.now()).await?;
        self.state.freezer.reload(self.state.clock.now()).await?;
        self.state.approvals.reload(self.state.clock.now()).await?;
        // Only now: from the old bookmark a failed load is found missing again.
        self.bookmark = bookmark;
        self.unasserted = false;
        Ok(())
    }

    /// Goes by the ledger's time where this machine's differs from it by more than it may.
    fn compare_clocks(&self, asked: Now, ledger: Option<Timestamp>) {
        let Some(ledger) = ledger else { return };
        let before_us = self.state.clock.by_ledger_us();
        let differs =
            self.state.freshness.compare_clocks(asked, ledger, machine(&self.state.clock));
        let off_us = differs.unwrap_or(0);
        if off_us != 0 && off_us.abs_diff(before_us) < SAME_DIFFERENCE_US || off_us == before_us {
            return;
        }
        self.state.clock.go_by_ledger(off_us);
        if off_us == 0 {
            info!("this machine's clock agrees with the store's again");
        } else {
            let store_is_ahead_secs = off_us / 1_000_000;
            warn!(
                store_is_ahead_secs,
                "this machine's clock differs from the store's: going by the store's time"
            );
        }
    }

    async fn take_in(&self, change: Change) {
        let ProcessState { registry, sessions, freezer, scrub_sets, secrets, .. } = &self.state;
        let now = self.state.clock.now();
        match change {
            Change::Registered(agent) => {
                if registry.registered(&agent) {
                    self.state.enrolment.enrolled_elsewhere(&agent);
                }
            }
            Change::Trust { id, level, number } => registry.trust_set(id, level, number),
            Change::TakenAway(taken) => {
                registry.taken_away(&taken);
                if taken.inactive {
                    let clerk = self.state.clerk();
                    clerk.note_ends(clerk.approvals.end_agents(&[taken.id]).await).await;
                }
            }
            Change::Purged { id, tombstone } => {
                if let Some(agent) = registry.purged(id, tombstone) {
                    self.state.enrolment.purged(&agent);
                }
            }
            Change::Delegation { delegation, version } => registry.delegated(delegation, version),
            Change::DelegationEnded { id, version } => registry.delegation_ended(id, version),
            Change::TokenRevoked { token_id, until } => registry.token_revoked(token_id, until),
            Change::Flagged { agent, flags } => {
                if let Some(demotion) = registry.flagged_elsewhere(agent, flags, now) {
                    self.gate.demote(&demotion).await;
                }
            }
            Change::SessionOpened(order) => {
                sessions.opened(&order, now);
                self.state.metrics.name_tools(order.grants.tools.iter());
                // What another node injects there may come back in an answer here.
                let _watch = scrub_sets.add(&order, &[], &secrets.vault());
            }
            Change::SessionClosed { id, at: _ } => {
                sessions.closed(id, now);
                let clerk = self.state.clerk();
                clerk.note_ends(clerk.approvals.end_session(id).await).await;
            }
            Change::Wanted(id) => sessions.wanted_elsewhere(id, &self.state.clock),
            Change::Frozen(freeze) => freezer.frozen_elsewhere(freeze, now),
            Change::Unfrozen(id) => freezer.lifted_elsewhere(id),
            Change::Approval { id, state } => self.state.approvals.changed(id, state),
        }
    }
}

/// Gives back the leases of idle sessions, for ever.
pub(super) async fn return_idle(state: ProcessState) {
    let mut ticks = tokio::time::interval(LOOK_FOR_IDLE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = state.sessions.return_idle(&state.clock).await {
            warn!(error = %Causes(&error), "leases were not given back; their calls count as made");
        }
    }
}
