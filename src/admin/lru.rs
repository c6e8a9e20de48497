//! A bounded map that forgets what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most `max` entries; one more takes the place of the least recently used.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    max: usize,
    turn: u64,
    entries: HashMap<K, (u64, V)>,
    by_turn: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, turn: 0, entries: HashMap::new(), by_turn: BTreeMap::new() }
    }

    /// An entry, which counts as used from now on.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        let (turn, value) = self.entries.get_mut(key)?;
        self.by_turn.remove(turn);
        self.turn = self.turn.saturating_add(1);
        *turn = self.turn;
        self.by_turn.insert(self.turn, key.clone());
        Some(value)
    }

    /// Puts an entry in, and returns the one that had to go for it, if any.
    pub(super) fn put(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        self.turn = self.turn.saturating_add(1);
        self.by_turn.insert(self.turn, key.clone());
        self.entries.insert(key, (self.turn, value));
        if self.entries.len() > self.max { self.pop_oldest() } else { None }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((turn, _)) = self.entries.remove(key) {
            self.by_turn.remove(&turn);
        }
    }

    /// Removes the entry that was not used for longest.
    pub(super) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_turn.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.by_turn.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(2);
        assert_eq!(lru.put("a", 1), None);
        assert_eq!(lru.put("b", 2), None);
        assert_eq!(lru.get(&"a"), Some(&mut 1));
        assert_eq!(lru.put("c", 3), Some(("b", 2)));
        assert_eq!(lru.get(&"b"), None);
        assert_eq!(lru.put("a", 4), None, "an entry that is replaced takes no more room");
        assert_eq!(lru.put("d", 5), Some(("c", 3)));
        assert_eq!((lru.len(), lru.get(&"a")), (2, Some(&mut 4)));
    }
}
