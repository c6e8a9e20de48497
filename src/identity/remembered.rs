//! Verified tokens, remembered by their hash.
//!
//! Two generations bound the memory: new entries go into the young one; when that is full it
//! becomes the old one and what the old one held is forgotten. A token in use is found in either,
//! so a fleet of up to [`GENERATION`] agents never verifies twice. Only tokens that passed get in,
//! so nobody can push others out without holding valid tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use blake3::Hash;
use dashmap::DashMap;

use crate::firewall::agent::Principal;

/// Tokens per generation.
const GENERATION: usize = 65_536;

type Table = DashMap<[u8; 32], Arc<Principal>>;

pub struct Remembered {
    young: ArcSwap<Table>,
    old: ArcSwap<Table>,
    inserted: AtomicUsize,
}

impl Remembered {
    pub fn new() -> Self {
        Self {
            young: ArcSwap::from_pointee(Table::new()),
            old: ArcSwap::from_pointee(Table::new()),
            inserted: AtomicUsize::new(0),
        }
    }

    pub fn get(&self, token: &Hash) -> Option<Arc<Principal>> {
        let key = token.as_bytes();
        if let Some(found) = self.young.load().get(key) {
            return Some(found.clone());
        }
        let found = self.old.load().get(key).map(|found| found.clone())?;
        self.insert(*token, found.clone());
        Some(found)
    }

    pub fn insert(&self, token: Hash, principal: Arc<Principal>) {
        if self.inserted.fetch_add(1, Ordering::Relaxed) >= GENERATION {
            self.inserted.store(0, Ordering::Relaxed);
            let full = self.young.swap(Arc::new(Table::new()));
            self.old.store(full);
        }
        self.young.load().insert(*token.as_bytes(), principal);
    }

    /// Forgets everything: for when a key is withdrawn.
    pub fn clear(&self) {
        self.young.store(Arc::new(Table::new()));
        self.old.store(Arc::new(Table::new()));
    }
}

impl Default for Remembered {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::time::Timestamp;

    #[test]
    fn memory_is_bounded_and_tokens_in_use_stay() {
        let remembered = Remembered::new();
        let principal = Arc::new(Principal {
            subject: "u".into(),
            groups: Vec::new(),
            scopes: Vec::new(),
            issuer: "arbiter".into(),
            agent: None,
            token_id: None,
            expires_at: Timestamp(0),
        });
        let busy = blake3::hash(b"busy");
        remembered.insert(busy, principal.clone());
        for n in 0..GENERATION * 3 {
            remembered.insert(blake3::hash(&n.to_le_bytes()), principal.clone());
            if n % 1_000 == 0 {
                assert!(remembered.get(&busy).is_some());
            }
        }
        let held = remembered.young.load().len() + remembered.old.load().len();
        assert!(held <= 2 * GENERATION + 2, "{held}");
        assert!(remembered.get(&blake3::hash(&0_usize.to_le_bytes())).is_none());
    }
}
