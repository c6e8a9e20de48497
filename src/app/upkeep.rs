//! Clean-up in the background, on a thread of its own, and attempts to write to a store that failed.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::gate::ProcessState;
use crate::registry::Retention;
use crate::store::Store;
use crate::telemetry::Causes;

/// Interval between looks for agents that ended long ago.
const PURGE_EVERY: Duration = Duration::from_hours(1);
/// Interval between looks for approvals whose time is over.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// Interval between returns of freed memory.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(2);
/// Interval between attempts to write to a store that failed.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Forgets ended sessions, as long as the process runs.
pub(super) async fn sessions(state: ProcessState, period: Duration) {
    let mut ticks = ticks(period);
    loop {
        ticks.tick().await;
        if let Err(error) = state.sessions.cleanup(state.clock.now()).await {
            warn!(error = %Causes(&error), "ended sessions were not forgotten; tried again later");
        }
        if let Err(error) = state.freezer.sweep(state.clock.now()).await {
            warn!(error = %Causes(&error), "freezes that are over were not forgotten; tried again later");
        }
        state.scrub_sets.retain(|id| state.sessions.get(id).is_some());
        state.in_flight.sweep(state.clock.mono());
    }
}

/// Ends approvals whose time is over and forgets those that ended long ago, as long as the process runs.
pub(super) async fn approvals(state: ProcessState) {
    let mut ticks = ticks(EXPIRE_EVERY);
    loop {
        ticks.tick().await;
        let clerk = state.clerk();
        let now = state.clock.now();
        clerk.note_ends(clerk.approvals.expire(now).await).await;
        if let Err(error) = clerk.approvals.sweep(now).await {
            warn!(error = %Causes(&error), "ended approvals are not stored as such; tried again later");
        }
    }
}

/// Forgets ended agents and delegations, as long as the process runs.
pub(super) async fn agents(state: ProcessState, retention_secs: u64) {
    let mut ticks = ticks(PURGE_EVERY);
    let retention = Retention { secs: retention_secs, tombstones: state.enrolment.is_allowed() };
    loop {
        ticks.tick().await;
        let at = state.sessions.deletes_by(state.clock.now());
        match state.registry.purge(retention, at).await {
            Ok(purged) if purged.is_empty() => {}
            Ok(purged) => {
                for agent in &purged {
                    state.enrolment.purged(agent);
                }
                info!(count = purged.len(), "agents that ended long ago were forgotten");
            }
            Err(error) => {
                warn!(error = %Causes(&error), "ended agents were not forgotten; tried again later");
            }
        }
    }
}

/// Number of times that memory was to be given back so far.
static DUE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Value of [`DUE`] when the thread gave memory back last.
    static GAVE_BACK: Cell<u64> = const { Cell::new(0) };
}

/// Has each thread that calls [`give_back`] do so now and then, and wakes one of them for it, as long as the process runs.
pub(super) async fn memory() {
    let mut ticks = ticks(GIVE_BACK_EVERY);
    loop {
        ticks.tick().await;
        DUE.fetch_add(1, Relaxed);
    }
}

/// Returns to the system what the process and the calling thread hold free, if it is due.
///
/// The allocator keeps pages of up to 4 MiB for each thread that freed them and looks at them again when that thread
/// allocates. After a burst of large bodies that may be never, so their threads call this before they sleep. To return
/// all each time would cost a fifth of the processor time of a body of 100 KB, whose pages the next body takes again.
#[expect(unsafe_code, reason = "the allocator's bindings declare each function so")]
pub(super) fn give_back() {
    let due = DUE.load(Relaxed);
    if GAVE_BACK.replace(due) != due {
        // SAFETY: takes a flag, may be called from any thread at any time, and touches no memory in use.
        unsafe { libmimalloc_sys::mi_collect(true) }
    }
}

/// Writes to a store that failed until a write succeeds, since no call comes to a node that is not ready.
pub(super) async fn probe(store: Arc<Store>, state: ProcessState) {
    let mut ticks = ticks(PROBE_EVERY);
    loop {
        ticks.tick().await;
        if store.is_failing() {
            match state.sessions.note_time(state.clock.now()).await {
                Ok(()) => info!("the store can be written to again"),
                Err(error) => warn!(error = %Causes(&error), "the store cannot be written to"),
            }
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
