//! Freezes of this node: in force from the first poll on, and stored until the store has them.
//!
//! A freeze waits for nobody: it counts in memory at once, and a task brings it to the store until
//! that takes it. Lifting one gives something back, so the store comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tracing::warn;
use uuid::Uuid;

use crate::firewall::freeze::{Freeze, Freezes, Held, MAX_FREEZES, Scope};
use crate::firewall::time::{Now, Timestamp};
use crate::store::retries::{Retries, Unsaved};
use crate::store::{Store, StoreError, to_the_end};

/// Result of freezing.
#[derive(Debug)]
pub enum Set {
    /// The freeze that stops all that was asked for already.
    Already(Arc<Freeze>),
    /// A new one, in force on this node whatever the store says.
    New { freeze: Arc<Freeze>, stored: Result<(), StoreError> },
    /// There are as many as there may be.
    TooMany,
}

#[derive(Debug)]
pub struct Freezer {
    inner: Arc<Inner>,
    retries: Retries,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    in_force: ArcSwap<Freezes>,
    known: Mutex<Known>,
    unsaved: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// By their age, then id.
    held: BTreeMap<(Timestamp, Uuid), Held>,
    /// In force, and not yet in the store.
    unsaved: BTreeSet<Uuid>,
}

impl Freezer {
    /// Loads what the store keeps, and starts the task that stores what is new.
    pub async fn load(store: Arc<Store>, now: Now) -> Result<Self, StoreError> {
        let inner = Arc::new(Inner {
            store,
            in_force: ArcSwap::default(),
            known: Mutex::default(),
            unsaved: Notify::new(),
        });
        let kept = inner.store.freezes().await?;
        inner.change(|known| {
            for freeze in kept {
                known.take_in(freeze, now);
            }
        });
        let retries = Retries::start(Arc::clone(&inner));
        Ok(Self { inner, retries })
    }

    /// Stores what is still to be stored, and ends the task.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.retries.stop().await;
        self.inner.save().await
    }

    pub fn in_force(&self) -> Arc<Freezes> {
        self.inner.in_force.load_full()
    }

    /// Freezes that are in force now, oldest first.
    pub fn list(&self, now: Now) -> Vec<Arc<Freeze>> {
        let known = self.inner.known();
        let held = known.held.values().filter(|held| !held.is_over(now));
        held.map(|held| Arc::clone(&held.freeze)).collect()
    }

    /// Stops what `scope` names: on this node before the store is even asked.
    pub async fn freeze(
        &self,
        scope: Scope,
        (reason, by): (&str, &str),
        until: Option<Timestamp>,
        now: Now,
    ) -> Set {
        let freeze = Arc::new(Freeze {
            id: Uuid::new_v4(),
            scope,
            reason: reason.into(),
            by: by.into(),
            frozen_at: now.wall,
            until,
        });
        let set = self.inner.change(|known| known.add(&freeze, now));
        if let Some(instead) = set {
            return instead;
        }
        let inner = Arc::clone(&self.inner);
        let id = freeze.id;
        let stored = to_the_end(async move { inner.save_one(id).await }).await;
        if stored.is_err() {
            self.inner.unsaved.notify_one();
        }
        Set::New { freeze, stored }
    }

    pub fn get(&self, id: Uuid) -> Option<Arc<Freeze>> {
        let known = self.inner.known();
        known.held.values().find(|held| held.freeze.id == id).map(|held| Arc::clone(&held.freeze))
    }

    /// Lifts a freeze, once the store no longer keeps it; false if nobody knows it.
    pub async fn lift(&self, id: Uuid) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let kept = inner.store.unfreeze(id).await?;
            let known = inner.change(|known| known.forget(id));
            Ok::<_, StoreError>(kept || known)
        })
        .await
    }

    /// Another node has frozen something.
    pub fn frozen_elsewhere(&self, freeze: Arc<Freeze>, now: Now) {
        self.inner.change(|known| known.take_in(freeze, now));
    }

    /// Another node has lifted a freeze.
    pub fn lifted_elsewhere(&self, id: Uuid) {
        self.inner.change(|known| known.forget(id));
    }

    /// Takes in what the store keeps, because changes were missed. A freeze that the store does not
    /// have stays in force here until it is lifted: the store may have lost it.
    pub async fn reload(&self, now: Now) -> Result<(), StoreError> {
        let kept = self.inner.store.freezes().await?;
        let ids: BTreeSet<Uuid> = kept.iter().map(|freeze| freeze.id).collect();
        self.inner.change(|known| {
            for freeze in kept {
                known.take_in(freeze, now);
            }
            for held in known.held.values().filter(|held| !ids.contains(&held.freeze.id)) {
                let id = held.freeze.id;
                warn!(freeze = %id, "the store does not keep this freeze; it stays in force on this node until it is lifted here");
            }
        });
        Ok(())
    }

    /// Stores what the store has lost, because another server answers. Only for a node that has heard of
    /// every change: what it still knows nobody has lifted.
    pub async fn assert_kept(&self, now: Now) -> Result<(), StoreError> {
        let kept: BTreeSet<Uuid> =
            self.inner.store.freezes().await?.iter().map(|freeze| freeze.id).collect();
        for freeze in self.list(now).iter().filter(|freeze| !kept.contains(&freeze.id)) {
            self.inner.store.freeze(freeze).await?;
        }
        Ok(())
    }

    /// Forgets freezes whose time is over, here and in the store.
    pub async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        let over: Vec<Uuid> = {
            let known = self.inner.known();
            let over = known.held.values().filter(|held| held.is_over(now));
            over.map(|held| held.freeze.id).collect()
        };
        for id in over {
            self.lift(id).await?;
        }
        Ok(())
    }
}

impl Known {
    /// Adds a new freeze; returns what there is instead, if it is not added.
    fn add(&mut self, freeze: &Arc<Freeze>, now: Now) -> Option<Set> {
        let in_force = || self.held.values().filter(|held| !held.is_over(now));
        let covers = |held: &&Held| {
            let there = &held.freeze;
            there.scope == freeze.scope
                && match (there.until, freeze.until) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(there), Some(asked)) => there >= asked,
                }
        };
        if let Some(held) = in_force().find(covers) {
            return Some(Set::Already(Arc::clone(&held.freeze)));
        }
        // Stopping everything is the way out when there are too many.
        let narrow = in_force().filter(|held| held.freeze.scope != Scope::All);
        if freeze.scope != Scope::All && narrow.count() >= MAX_FREEZES {
            return Some(Set::TooMany);
        }
        self.unsaved.insert(freeze.id);
        self.take_in(Arc::clone(freeze), now);
        None
    }

    fn take_in(&mut self, freeze: Arc<Freeze>, now: Now) {
        let key = (freeze.frozen_at, freeze.id);
        self.held.entry(key).or_insert_with(|| Held::new(freeze, now));
    }

    fn forget(&mut self, id: Uuid) -> bool {
        let before = self.held.len();
        self.held.retain(|&(_, held), _| held != id);
        self.unsaved.remove(&id);
        self.held.len() < before
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// Changes what is known, and puts it in force before anyone else changes it.
    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let done = change(&mut known);
        self.in_force.store(Arc::new(Freezes::of(known.held.values().cloned())));
        done
    }

    async fn save_one(&self, id: Uuid) -> Result<(), StoreError> {
        let freeze = {
            let known = self.known();
            let found = known.held.values().find(|held| held.freeze.id == id);
            found.map(|held| Arc::clone(&held.freeze))
        };
        let Some(freeze) = freeze else { return Ok(()) };
        self.store.freeze(&freeze).await?;
        let lifted = {
            let mut known = self.known();
            !known.unsaved.remove(&id)
        };
        // Lifted while it was being stored: what was lifted must not come back.
        if lifted && self.known().held.values().all(|held| held.freeze.id != id) {
            self.store.unfreeze(id).await?;
        }
        Ok(())
    }
}

impl Unsaved for Inner {
    const NOT_STORED: &'static str = "a freeze is in force here but not stored; trying again";

    fn unsaved(&self) -> &Notify {
        &self.unsaved
    }

    async fn save(&self) -> Result<(), StoreError> {
        let unsaved: Vec<Uuid> = self.known().unsaved.iter().copied().collect();
        for id in unsaved {
            self.save_one(id).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
