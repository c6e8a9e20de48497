//! Grants that are equal become one in memory: most sessions are given what many others were given.
//!
//! A small table that holds nothing alive finds them. The table is a help and no promise: grants that it does not know are
//! kept twice. Only grants that are equal name by name are ever made one.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::firewall::granted::Grants;
use crate::firewall::session::WorkOrder;

/// Grants that are remembered at most; beyond that the table starts empty again.
const MOST: usize = 8_192;

#[derive(Debug, Default)]
pub(super) struct InternedGrants {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Weak<Grants>>>,
}

impl InternedGrants {
    pub(super) fn share(&self, order: &mut Arc<WorkOrder>) {
        let grants = self.known(&order.grants);
        if !Arc::ptr_eq(&grants, &order.grants) {
            Arc::make_mut(order).grants = grants;
        }
    }

    /// The grants that are known and equal, or these, known from now on.
    fn known(&self, grants: &Arc<Grants>) -> Arc<Grants> {
        let hash = self.hasher.hash_one(grants);
        let mut known = self.known.lock();
        let found = known.get(&hash).and_then(Weak::upgrade);
        if let Some(found) = found.filter(|found| found == grants) {
            return found;
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(hash, Arc::downgrade(grants));
        Arc::clone(grants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::testkit::{full_order as order, granted};

    #[test]
    fn equal_grants_become_one_and_others_stay_apart() {
        let interned = InternedGrants::default();
        let mut orders = [(); 4].map(|()| Arc::new(order(AgentId::random(), 1)));
        Arc::make_mut(&mut orders[2]).grants = granted(&["read_file", "list"]);
        let other = Grants { opened_by: None, ..Grants::clone(&orders[3].grants) };
        Arc::make_mut(&mut orders[3]).grants = Arc::new(other);
        let before = orders.clone();
        for order in &mut orders {
            interned.share(order);
        }
        assert_eq!(orders, before);
        let [a, b, others @ ..] = orders;
        assert!(Arc::ptr_eq(&a.grants, &b.grants));
        for other in others {
            assert!(!Arc::ptr_eq(&a.grants, &other.grants));
        }
    }

    #[test]
    fn the_table_does_not_grow_for_ever() {
        let interned = InternedGrants::default();
        for n in 0..=MOST {
            interned.known(&granted(&[&n.to_string()]));
        }
        assert_eq!(interned.known.lock().len(), 1);
    }
}
