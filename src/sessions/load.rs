//! State of the last run, loaded in batches while the store still reads.

use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;

use super::index::Index;
use super::intern::InternedGrants;
use super::table::Table;
use super::{Live, Settings};
use crate::firewall::agent::AgentId;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::store::{Store, StoreError, StoredSession};

/// Sessions with when they were closed, if they were.
type Loaded = Vec<(Arc<Live>, Option<Mono>)>;

/// Takes in batches, from several threads at once.
struct Loading {
    live: Table,
    interned: InternedGrants,
    /// One delegation chain of each agent: nearly always that of its other sessions too.
    chains: DashMap<AgentId, Arc<[AgentId]>>,
    loaded: Mutex<Loaded>,
}

/// All sessions that had not ended by `cutoff`.
pub(super) async fn all(
    store: &Store,
    settings: Settings,
    cutoff: Timestamp,
    now: Now,
) -> Result<(Table, Index, InternedGrants), StoreError> {
    let shared = store.is_shared();
    let loading = Arc::new(Loading {
        live: Table::default(),
        interned: InternedGrants::default(),
        chains: DashMap::new(),
        loaded: Mutex::default(),
    });
    let taking = Arc::clone(&loading);
    let take = move |batch| taking.take(batch, shared, settings.rate_window_secs, now);
    store.sessions_in_batches(cutoff, take).await?;
    // The store's reader is done, and holds nothing of the row any more.
    let Loading { live, interned, loaded, chains: _ } =
        Arc::into_inner(loading).ok_or(StoreError::Stopped)?;
    let loaded = loaded.into_inner();
    Ok((live, Index::load(&loaded), interned))
}

impl Loading {
    fn take(&self, batch: Vec<StoredSession>, shared: bool, window_secs: u64, now: Now) {
        let lives = batch.into_iter().map(|mut stored| {
            self.interned.share(&mut stored.order);
            self.share_chain(&mut stored);
            let closed_at = stored.closed_at.map(|at| now.mono_at(at));
            let live = Arc::new(Live::load(stored, shared, window_secs, now));
            self.live.insert(&live);
            (live, closed_at)
        });
        let lives: Loaded = lives.collect();
        self.loaded.lock().extend(lives);
    }

    fn share_chain(&self, stored: &mut StoredSession) {
        let Some(order) = Arc::get_mut(&mut stored.order) else { return };
        let chain =
            self.chains.entry(order.agent).or_insert_with(|| order.delegation_chain.clone());
        if *chain == order.delegation_chain {
            order.delegation_chain = Arc::clone(&chain);
        }
    }
}
