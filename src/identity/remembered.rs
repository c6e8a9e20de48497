//! Cache of verified tokens, by their hash.
//!
//! Two generations bound the memory: new entries go into the young one; when that is full it
//! becomes the old one and what the old one held is forgotten. A token in use is found in either,
//! so a fleet of as many agents as a generation holds never verifies twice.

use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use blake3::Hash;
use dashmap::DashMap;
use std::sync::Arc;

type Table<V> = DashMap<[u8; 32], V>;

/// A bounded memory of tokens.
pub(crate) struct Remembered<V> {
    young: ArcSwap<Table<V>>,
    old: ArcSwap<Table<V>>,
    inserted: AtomicUsize,
    generation: usize,
}

impl<V: Clone> Remembered<V> {
    /// Remembers at least the last `generation` tokens and at most about twice as many.
    pub(crate) fn new(generation: usize) -> Self {
        Self {
            young: ArcSwap::from_pointee(Table::new()),
            old: ArcSwap::from_pointee(Table::new()),
            inserted: AtomicUsize::new(0),
            generation,
        }
    }

    pub(crate) fn get(&self, token: &Hash) -> Option<V> {
        let key = token.as_bytes();
        if let Some(found) = self.young.load().get(key) {
            return Some(found.clone());
        }
        let found = self.old.load().get(key).map(|found| found.clone())?;
        self.insert(*token, found.clone());
        Some(found)
    }

    pub(crate) fn insert(&self, token: Hash, value: V) {
        if self.inserted.fetch_add(1, Ordering::Relaxed) >= self.generation {
            self.inserted.store(0, Ordering::Relaxed);
            let full = self.young.swap(Arc::new(Table::new()));
            self.old.store(full);
        }
        self.young.load().insert(*token.as_bytes(), value);
    }

    /// Forgets one token.
    pub(crate) fn forget(&self, token: &Hash) {
        self.young.load().remove(token.as_bytes());
        self.old.load().remove(token.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: usize = 1_000;

    #[test]
    fn memory_is_bounded_and_tokens_in_use_stay() {
        let remembered = Remembered::new(GENERATION);
        let busy = blake3::hash(b"busy");
        remembered.insert(busy, usize::MAX);
        for n in 0..GENERATION * 3 {
            remembered.insert(blake3::hash(&n.to_le_bytes()), n);
            if n % 100 == 0 {
                assert_eq!(remembered.get(&busy), Some(usize::MAX));
            }
        }
        let held = remembered.young.load().len() + remembered.old.load().len();
        assert!(held <= 2 * GENERATION + 2, "{held}");
        assert_eq!(remembered.get(&blake3::hash(&0_usize.to_le_bytes())), None);
    }

    #[test]
    fn a_forgotten_token_is_in_neither_generation() {
        let remembered = Remembered::new(1);
        let token = blake3::hash(b"t");
        remembered.insert(token, 1);
        remembered.insert(blake3::hash(b"u"), 2);
        assert_eq!(remembered.get(&token), Some(1));
        remembered.forget(&token);
        assert_eq!(remembered.get(&token), None);
    }
}
