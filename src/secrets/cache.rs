//! Search patterns by the set of credentials they are for.
//!
//! Building them costs some tens of microseconds a credential; sessions use few different sets.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::credentials::{Patterns, Secret};

/// Sets that are kept; when more come, all are built again.
const MOST_SETS: usize = 256;

/// Patterns that have been built already.
///
/// A set is known by the very values in it, not by their names: after a reload the same name may
/// mean another value, and a session must have the one scrubbed that it was given.
#[derive(Debug, Default)]
pub struct PatternCache {
    sets: Mutex<HashMap<Vec<usize>, Known>>,
}

#[derive(Debug)]
struct Known {
    /// Keeps the values where they are, so that an address means one value only.
    _secrets: Vec<Arc<Secret>>,
    patterns: Arc<Patterns>,
}

impl PatternCache {
    /// The patterns for all of `secrets`, in any order.
    pub fn get(&self, secrets: &[Arc<Secret>]) -> Arc<Patterns> {
        let mut key: Vec<usize> = secrets.iter().map(|s| Arc::as_ptr(s).addr()).collect();
        key.sort_unstable();
        key.dedup();
        let mut sets = self.sets.lock();
        if let Some(known) = sets.get(&key) {
            return Arc::clone(&known.patterns);
        }
        let patterns = Arc::new(Patterns::new(secrets.iter().map(|s| s.value.expose().as_bytes())));
        if sets.len() >= MOST_SETS {
            sets.clear();
        }
        let known = Known { _secrets: secrets.to_vec(), patterns: Arc::clone(&patterns) };
        sets.insert(key, known);
        patterns
    }

    /// Wipes the sets that nobody holds any more.
    pub fn forget_unused(&self) {
        let mut sets = self.sets.lock();
        // Nobody can take one meanwhile: that needs the lock.
        sets.retain(|_, known| Arc::strong_count(&known.patterns) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(count: usize) -> Vec<Arc<Secret>> {
        (0..count).map(|n| Arc::new(Secret::plain(format!("n{n}"), format!("value-{n}")))).collect()
    }

    #[test]
    fn a_set_is_built_once_whatever_its_order() {
        let cache = PatternCache::default();
        let mut secrets = secrets(3);
        let first = cache.get(&secrets);
        secrets.reverse();
        assert!(Arc::ptr_eq(&first, &cache.get(&secrets)));
        secrets.pop();
        assert!(!Arc::ptr_eq(&first, &cache.get(&secrets)));
    }

    #[test]
    fn the_same_name_with_another_value_is_another_set() {
        let cache = PatternCache::default();
        let old = [Arc::new(Secret::plain("n", "old-value"))];
        let new = [Arc::new(Secret::plain("n", "new-value"))];
        assert!(!Arc::ptr_eq(&cache.get(&old), &cache.get(&new)));
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = PatternCache::default();
        let secrets = secrets(MOST_SETS + 10);
        for secret in &secrets {
            cache.get(std::slice::from_ref(secret));
        }
        assert!(cache.sets.lock().len() <= MOST_SETS);
    }

    #[test]
    fn a_set_that_nobody_holds_is_forgotten() {
        let cache = PatternCache::default();
        let (held, left) = (secrets(1), secrets(1));
        let patterns = cache.get(&held);
        cache.get(&left);
        cache.forget_unused();
        assert_eq!(Arc::strong_count(&left[0]), 1);
        assert!(Arc::ptr_eq(&patterns, &cache.get(&held)));
    }
}
