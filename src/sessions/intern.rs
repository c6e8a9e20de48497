//! Lists that are equal become one in memory: most sessions are given what many others were given.
//!
//! A small table that holds nothing alive finds them. The table is a help and no promise: lists
//! that it does not know are kept twice. Only lists that are equal name by name are ever made one.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::firewall::names::{Names, WeakNames};
use crate::firewall::session::WorkOrder;

/// Lists that are remembered at most; beyond that the table starts empty again.
const MOST: usize = 8_192;

#[derive(Debug, Default)]
pub(super) struct InternedLists {
    hasher: RandomState,
    known: Mutex<HashMap<u64, WeakNames>>,
}

impl InternedLists {
    pub(super) fn share(&self, order: &mut Arc<WorkOrder>) {
        let lists = lists(order).map(|names| self.known(names));
        if lists.iter().zip(self::lists(order)).all(|(known, own)| known.same(own)) {
            return;
        }
        let [tools, resources, prompts, methods, credentials] = lists;
        let order = Arc::make_mut(order);
        order.authorized_tools = tools;
        order.authorized_resources = resources;
        order.authorized_prompts = prompts;
        order.authorized_methods = methods;
        order.authorized_credentials = credentials;
    }

    /// The list that is known and equal, or this one, known from now on.
    fn known(&self, names: &Names) -> Names {
        let Some(weak) = names.downgrade() else { return names.clone() };
        let hash = self.hasher.hash_one(&**names);
        let mut known = self.known.lock();
        let found = known.get(&hash).and_then(WeakNames::upgrade);
        if let Some(found) = found.filter(|found| found == names) {
            return found;
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(hash, weak);
        names.clone()
    }
}

fn lists(order: &WorkOrder) -> [&Names; 5] {
    [
        &order.authorized_tools,
        &order.authorized_resources,
        &order.authorized_prompts,
        &order.authorized_methods,
        &order.authorized_credentials,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::testkit::full_order as order;

    #[test]
    fn equal_lists_become_one_and_others_stay_apart() {
        let interned = InternedLists::default();
        let other = ["read_file".to_owned(), "write".to_owned()];
        let mut orders = [(); 3].map(|()| Arc::new(order(AgentId::random(), 1)));
        Arc::make_mut(&mut orders[2]).authorized_tools = other.into();
        let before = orders.clone();
        for order in &mut orders {
            interned.share(order);
        }
        assert_eq!(orders, before);
        let [a, b, c] = orders;
        assert!(a.authorized_tools.same(&b.authorized_tools));
        assert!(!a.authorized_tools.same(&c.authorized_tools));
        assert!(a.authorized_credentials.same(&c.authorized_credentials));
    }

    #[test]
    fn the_table_does_not_grow_for_ever() {
        let interned = InternedLists::default();
        for n in 0..=MOST {
            interned.known(&[n.to_string()].into());
        }
        assert_eq!(interned.known.lock().len(), 1);
    }
}
